"""Orders to supply switches over HTTP: what is taken, what is refused and why, and who may do what."""

import itertools
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from headend.store.tokens import Role
from tests.headend.api.relay_site import RelaySite, site_of

SHOWN = {"rule", "version", "text", "needed"}


def rules_in(answer: httpx.Response) -> list[str]:
    """Of a refusal, which must say all that a refusal says."""
    body = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    for one in body["refusals"]:
        assert one.keys() == SHOWN
        assert all(one[name] for name in SHOWN), one
    return [one["rule"] for one in body["refusals"]]


async def test_a_head_end_without_control_switches_nothing_and_says_what_would_be_needed(tmp_path: Path) -> None:
    async with site_of(tmp_path, enabled=False) as (site, client):
        both = site.token("operate", "disconnect", person="Ann")
        for kind in ("open", "close", "permit-close", "protect", "unprotect", "status"):
            answer = await client.post("/v1/commands", json=site.order(kind), headers=both)
            assert answer.status_code == 422
            assert rules_in(answer) == ["control"]
            assert "enabled = true" in answer.json()["next_step"]
        paid = await client.post("/v1/obligations", json=site.payment("M000001"), headers=site.token("cashier"))
        assert rules_in(paid) == ["control"]
        assert (await client.get("/v1/commands", headers=both)).json() == {"commands": [], "next": ""}
        gear = site.head_end.switchgear
        assert gear.executor is None
        assert not gear.switches._switches  # the ability is not there, rather than not used


async def test_an_open_does_not_outlive_a_time_in_which_control_was_off(tmp_path: Path) -> None:
    """Nobody could tell this head-end of a payment meanwhile."""
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        order = site.order("open", not_before=(site.clock.now() + timedelta(minutes=5)).isoformat())
        asked = await client.post("/v1/commands", json=order, headers=site.token("disconnect", person="Ann"))
        assert asked.status_code == 202, asked.text
        path = f"/v1/commands/{asked.json()['command']['id']}"
    async with site_of(tmp_path, enabled=False) as (site, client):
        pass
    async with site_of(tmp_path) as (site, client):
        found = (await client.get(path, headers=site.token("read"))).json()["command"]
        assert (found["state"], found["detail"]["problem"]) == ("cancelled", "[control] was switched off")


async def test_a_fresh_head_end_opens_nothing_and_closes(tmp_path: Path) -> None:
    async with site_of(tmp_path, has_key=False) as (site, client):
        ann, operator = site.token("disconnect", person="Ann"), site.token("operate")
        order = site.order("open")
        refused = await client.post("/v1/commands", json=order, headers=ann)
        assert refused.status_code == 422
        assert {"limits", "signing-key", "audit", "forecast"} <= set(rules_in(refused))
        again = await client.post("/v1/commands", json=order, headers=ann)
        assert (again.status_code, again.json()["command"]) == (422, refused.json()["command"])
        closed = await client.post("/v1/commands", json=site.order("permit-close"), headers=operator)
        assert closed.status_code == 202, closed.text
        assert closed.json()["command"]["obligation"]
        direct = await client.post("/v1/commands", json=site.order("close", "M000002"), headers=operator)
        assert rules_in(direct) == ["reconnect"]


async def test_a_key_stands_for_one_order_for_ever(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann = site.token("disconnect", person="Ann")
        order = site.order("open")
        first = await client.post("/v1/commands", json=order, headers=ann)
        assert first.status_code == 202, first.text
        again = await client.post("/v1/commands", json=order, headers=ann)
        assert (again.status_code, again.json()["is_repeat"]) == (200, True)
        assert again.json()["command"]["id"] == first.json()["command"]["id"]
        other = await client.post("/v1/commands", json=order | {"meter": "M000002"}, headers=ann)
        assert (other.status_code, rules_in(other)) == (409, ["idempotency-key"])
        second = await client.post("/v1/commands", json=site.order("open"), headers=ann)
        assert (second.status_code, rules_in(second)) == (409, ["one-active-command"])
        identity = first.json()["command"]["id"]
        view = (await client.get(f"/v1/commands/{identity}", headers=ann)).json()
        assert [step["state"] for step in view["steps"]] == ["requested", "checked", "approved", "scheduled"]
        cancelled = await client.post(
            f"/v1/commands/{identity}/cancel", json={"reason": "wrong customer"}, headers=site.token("operate")
        )
        assert cancelled.json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"proof": None}, "proof"),
        ({"notices": []}, "notice"),
        ({"meter": "M999999"}, "meter"),
    ],
)
async def test_every_refusal_names_its_rule_its_version_and_what_is_needed(
    tmp_path: Path, change: dict[str, Any], rule: str
) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann = site.token("disconnect", person="Ann")
        answer = await client.post("/v1/commands", json=site.order("open") | change, headers=ann)
        assert rules_in(answer) == [rule]
        assert "cn-residential@" in answer.json()["refusals"][0]["version"]
        assert answer.status_code == (404 if rule == "meter" else 422)


async def test_a_person_without_an_operator_code_opens_nothing(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        answer = await client.post(
            "/v1/commands", json=site.order("open"), headers=site.token("disconnect", person="Carl")
        )
        assert rules_in(answer) == ["operator"]
        assert "[control.operators]" in answer.json()["next_step"]


async def test_a_protection_that_a_meter_records_takes_a_person_with_a_code_and_a_close_does_not(
    tmp_path: Path,
) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        carl = site.token("disconnect", "operate", person="Carl")
        for kind in ("protect", "unprotect"):
            order = site.order(kind)
            tried = await client.post("/v1/policy/check", json={"orders": [order]}, headers=carl)
            assert [one["rule"] for one in tried.json()["trials"][0]["refusals"]] == ["operator"]
            answer = await client.post("/v1/commands", json=order, headers=carl)
            assert (answer.status_code, rules_in(answer)) == (422, ["operator"])
            assert '"Carl" under [control.operators]' in answer.json()["next_step"]
            assert ("POST /v1/protections" in answer.json()["next_step"]) is (kind == "protect")
        nobody = await client.post("/v1/commands", json=site.order("protect"), headers=site.token("operate"))
        assert "a token of a known person" in nobody.json()["next_step"]
        closed = await client.post("/v1/commands", json=site.order("permit-close"), headers=carl)
        assert closed.status_code == 202, closed.text
        ann = site.token("disconnect", "operate", person="Ann")
        protected = await client.post("/v1/commands", json=site.order("protect", "M000002"), headers=ann)
        assert protected.status_code == 202, protected.text


async def test_a_name_of_a_list_is_one_persons_while_it_is_under_way(tmp_path: Path) -> None:
    async with site_of(tmp_path, more='Carl = "file:carl.txt"') as (site, client):
        (tmp_path / "carl.txt").write_text("00000018")
        await site.make_ready(client, batch_max=1)
        ann, bob = site.token("disconnect", person="Ann"), site.token("approve", person="Bob")
        first = [site.order("open", f"M{number:06}") | {"batch": "daily"} for number in (1, 2)]
        asked = (await client.post("/v1/commands", json=first, headers=ann)).json()["approval"]
        carl = site.token("disconnect", person="Carl")
        other = site.order("status", "M000003") | {"batch": "daily"}
        both = site.token("operate", "disconnect", person="Dora")
        taken = await client.post("/v1/commands", json=other, headers=both)
        assert rules_in(taken) == ["batch"]
        assert "Ann" in taken.json()["detail"]
        agreed = await client.post(
            f"/v1/approvals/{asked['id']}/approve", json={"digest": asked["digest"]}, headers=bob
        )
        assert agreed.status_code == 200, agreed.text
        for answer in (await client.get("/v1/commands?batch=daily", headers=carl)).json()["commands"]:
            body = {"reason": "the whole list was wrong"}
            await client.post(f"/v1/commands/{answer['id']}/cancel", json=body, headers=both)
        second = [site.order("open", f"M{number:06}") | {"batch": "daily"} for number in (4, 5)]
        again = (await client.post("/v1/commands", json=second, headers=ann)).json()
        assert len(again["approval"]["commands"]) == 2, "what came under this name before is none of it"
        assert again["approval"]["digest"] != asked["digest"]


async def test_bad_input_is_told_with_what_was_expected(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        ann = site.token("disconnect", "operate", person="Ann")
        good = site.order("open")
        naive = {**site.proof("M000001"), "as_of": "2025-06-04T01:30:00"}
        for bad, word in (
            (good | {"kind": "cut"}, "kind"),
            (good | {"extra": 1}, "extra"),
            (good | {"expires_at": "tomorrow"}, "expires_at"),
            (good | {"expires_at": "2025-06-04T09:00:00"}, "zone"),
            (good | {"proof": naive}, "proof.as_of"),
            (good | {"proof": {**site.proof("M000001"), "currency": "yuan"}}, "currency"),
            (good | {"reason": " "}, "reason"),
            (good | {"reason": "a\nb"}, "reason"),
            (good | {"idempotency_key": ""}, "idempotency_key"),
            ({name: value for name, value in good.items() if name != "meter"}, "meter"),
            ([], "1 to 1000"),
            ([good] * 1001, "1 to 1000"),
        ):
            answer = await client.post("/v1/commands", json=bad, headers=ann)
            assert answer.status_code == 400, answer.text
            assert word in answer.json()["detail"], (word, answer.json())
        for path in (
            "/v1/commands?limit=0",
            "/v1/commands?state=gone",
            "/v1/commands?metre=M1",
            "/v1/approvals?limit=x",
        ):
            assert (await client.get(path, headers=ann)).status_code == 400, path
        for path in ("/v1/commands/none", "/v1/obligations/none", "/v1/approvals/none", "/v1/commands?after=none"):
            assert (await client.get(path, headers=ann)).status_code == 404, path


async def test_a_list_of_many_opens_waits_for_another_person_who_sees_exactly_what_it_is(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann, bob = site.token("disconnect", person="Ann"), site.token("approve", person="Bob")
        orders = [site.order("open", f"M{number:06}", batch="june") for number in range(1, 13)]
        taken = (await client.post("/v1/commands", json=orders, headers=ann)).json()
        assert {one["command"]["state"] for one in taken["answers"]} == {"checked"}
        asked = taken["approval"]
        url = f"/v1/approvals/{asked['id']}"
        seen = (await client.get(url, headers=bob)).json()
        assert sorted(one["meter"] for one in seen["commands"]) == [order["meter"] for order in orders]
        both = site.token("approve", "operate", person=" ann ")
        assert rules_in(await client.post(f"{url}/approve", json={"digest": asked["digest"]}, headers=both)) == [
            "two-people"
        ]
        wrong = await client.post(f"{url}/approve", json={"digest": "0" * 64}, headers=bob)
        assert wrong.status_code == 409
        # The list is edited: one more open under its name.
        more = [site.order("open", f"M{number:06}", batch="june") for number in range(13, 25)]
        edited = (await client.post("/v1/commands", json=more, headers=ann)).json()
        void = await client.post(f"{url}/approve", json={"digest": asked["digest"]}, headers=bob)
        assert (void.status_code, "void" in void.json()["detail"]) == (409, True)
        anew = edited["approval"]
        done = await client.post(f"/v1/approvals/{anew['id']}/approve", json={"digest": anew["digest"]}, headers=bob)
        states = {one["state"] for one in done.json()["commands"]}
        assert states == {"scheduled"}
        assert {one["approver"] for one in done.json()["commands"]} == {"Bob"}


async def test_what_is_over_a_limit_is_quarantined_and_leaves_only_by_two_people(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client, per_hour=2)
        ann, bob = site.token("disconnect", person="Ann"), site.token("approve", person="Bob")
        carl = site.token("disconnect", person="Carl")
        answers = [
            (await client.post("/v1/commands", json=site.order("open", f"M{number:06}"), headers=ann)).json()
            for number in range(1, 5)
        ]
        assert [one["command"]["state"] for one in answers] == ["scheduled", "scheduled", "quarantined", "quarantined"]
        assert answers[2]["refusals"][0]["rule"] == "limit per_hour"
        kept = [one["command"]["id"] for one in answers[2:]]
        body = {"purpose": "release", "commands": kept[:1]}
        own = (await client.post("/v1/approvals", json=body, headers=ann)).json()
        assert own["state"] == "waiting"
        asked = (await client.post("/v1/approvals", json=body, headers=carl)).json()
        for who in (ann, site.token("approve", person="Carl"), site.token("approve", person="Ann")):
            refused = await client.post(
                f"/v1/approvals/{asked['id']}/approve", json={"digest": asked["digest"]}, headers=who
            )
            assert refused.status_code == 403
        done = await client.post(f"/v1/approvals/{asked['id']}/approve", json={"digest": asked["digest"]}, headers=bob)
        assert [one["state"] for one in done.json()["commands"]] == ["scheduled"]
        body = {"purpose": "delete", "commands": kept[1:]}
        asked = (await client.post("/v1/approvals", json=body, headers=carl)).json()
        done = await client.post(f"/v1/approvals/{asked['id']}/approve", json={"digest": asked["digest"]}, headers=bob)
        assert [one["state"] for one in done.json()["commands"]] == ["cancelled"]
        metrics = (await client.get("/metrics", headers=site.token("read"))).text
        assert "headend_relay_quarantined 0.0" in metrics


async def test_limits_rise_by_two_people_fall_at_once_and_never_pass_the_ceiling(tmp_path: Path) -> None:
    async with site_of(tmp_path, more="[control.limits]\nper_hour = 30") as (site, client):
        await site.make_ready(client)
        ann, operator = site.token("disconnect", person="Ann"), site.token("operate")
        base = (await client.get("/v1/limits", headers=ann)).json()["limits"]
        beyond = await client.put("/v1/limits", json=base | {"per_hour": 31}, headers=ann)
        assert rules_in(beyond) == ["ceiling"]
        higher = await client.put("/v1/limits", json=base | {"per_hour": 30}, headers=operator)
        assert rules_in(higher) == ["role", "person"]
        waits = await client.put("/v1/limits", json=base | {"per_hour": 30}, headers=ann)
        assert (waits.status_code, waits.json()["limits"]["per_hour"]) == (202, 20)
        lower = await client.put("/v1/limits", json=base | {"per_hour": 3}, headers=operator)
        assert (lower.status_code, lower.json()["limits"]["per_hour"]) == (200, 3)
        void = waits.json()["approval"]
        gone = await client.post(
            f"/v1/approvals/{void['id']}/approve",
            json={"digest": void["digest"]},
            headers=site.token("approve", person="Bob"),
        )
        assert gone.status_code == 409


async def test_a_payment_ends_the_open_that_waits_and_is_taken_once(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann, cashier = site.token("disconnect", person="Ann"), site.token("cashier")
        opened = (await client.post("/v1/commands", json=site.order("open"), headers=ann)).json()["command"]["id"]
        payment = site.payment("M000001")
        taken = await client.post("/v1/obligations", json=payment, headers=cashier)
        assert (taken.status_code, taken.json()["cancelled"]) == (202, [opened])
        assert (await client.post("/v1/obligations", json=payment, headers=cashier)).status_code == 200
        other = await client.post("/v1/obligations", json=payment | {"amount_minor": 1}, headers=cashier)
        assert (other.status_code, rules_in(other)) == (409, ["reference"])
        old = await client.post("/v1/commands", json=site.order("open"), headers=ann)
        # Nobody knows whether this supply is on: it is owed until somebody has looked.
        assert rules_in(old) == ["fence", "owed"]
        unknown = await client.post("/v1/obligations", json=site.payment("M999999", reference="P2"), headers=cashier)
        assert (unknown.status_code, rules_in(unknown)) == (404, ["meter"])


async def test_an_order_to_reconnect_is_a_debt_that_only_a_person_forgives(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        operator = site.token("operate")
        told = {
            "cause": "order",
            "meter": "M000003",
            "reason": "moved in",
            "idempotency_key": "move-in",
            "expires_at": site.order("close")["expires_at"],
        }
        taken = await client.post("/v1/obligations", json=told, headers=operator)
        assert taken.status_code == 202, taken.text
        assert taken.json()["command"]["kind"] == "permit-close"
        debt = taken.json()["obligation"]
        listed = (await client.get("/v1/obligations", headers=operator)).json()["obligations"]
        assert [(one["id"], one["meter"], one["state"]) for one in listed] == [(debt, "M000003", "open")]
        command = taken.json()["command"]["id"]
        kept = await client.post(f"/v1/commands/{command}/cancel", json={"reason": "no"}, headers=operator)
        assert rules_in(kept) == ["owed"]
        url = f"/v1/obligations/{debt}/forgive"
        assert (await client.post(url, json={"reason": "gone"}, headers=operator)).status_code == 403
        gone = await client.post(url, json={"reason": "moved out"}, headers=site.token("disconnect", person="Ann"))
        assert gone.json()["ended"] == "forgiven"
        assert (await client.get("/v1/obligations", headers=operator)).json()["obligations"] == []


async def test_protection_stop_switch_and_trial_say_who_would_be_cut(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann, operator = site.token("disconnect", person="Ann"), site.token("operate")
        asked = {"scope": "meter", "target": "M000005", "category": "medical", "reason": "ventilator", "until": "never"}
        made = await client.post("/v1/protections", json=asked, headers=operator)
        assert made.status_code == 201, made.text
        for bad, status in (({"target": "M9"}, 404), ({"until": "soon"}, 400), ({"scope": "all"}, 422)):
            assert (await client.post("/v1/protections", json=asked | bad, headers=operator)).status_code == status, bad
        orders = [site.order("open", f"M{number:06}", batch="try") for number in (4, 5)]
        tried = (await client.post("/v1/policy/check", json={"orders": orders}, headers=ann)).json()
        free, kept = tried["trials"]
        assert (free["refusals"], free["would_be"]) == ([], "checked")
        assert free["allowed_at"]
        assert [one["rule"] for one in kept["refusals"]] == ["protection"]
        assert kept["protections"] == ["medical: ventilator"]
        assert (await client.get("/v1/commands", headers=ann)).json()["commands"] == []
        refused = await client.post("/v1/commands", json=orders[1], headers=ann)
        assert rules_in(refused) == ["protection"]
        gone = await client.delete(f"/v1/protections/{made.json()['id']}", headers=ann)
        assert (gone.status_code, gone.json()["purpose"]) == (202, "unprotect")
        await client.put("/v1/stop-switch", json={"reason": "storm"}, headers=operator)
        stopped = await client.post("/v1/commands", json=orders[0], headers=ann)
        assert rules_in(stopped) == ["stop-switch"]
        assert (await client.delete("/v1/stop-switch", params={"reason": "over"}, headers=operator)).status_code == 403
        assert not (await client.delete("/v1/stop-switch", params={"reason": "over"}, headers=ann)).json()["is_on"]


async def test_what_is_not_allowed_is_on_the_record(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await client.post("/v1/commands", json=site.order("open"), headers=site.token("operate", person="Olga"))
        records = (await client.get("/v1/audit", headers=site.token("admin"))).json()["records"]
        kinds = {one["record"]["kind"] for one in records}
        assert {"service-started", "policy-loaded", "access-refused"} <= kinds
        assert "hdt_" not in str(records)


@pytest.mark.parametrize("action", ["open", "stop", "resume", "add protection", "end protection", "forgive", "approve"])
async def test_who_may_only_look_is_told_the_rule_and_stands_on_the_record(tmp_path: Path, action: str) -> None:
    async with site_of(tmp_path) as (site, client):
        asked = await client.put("/v1/limits", json={"per_hour": 1}, headers=site.token("disconnect", person="Ann"))
        headers = site.token("read", person="Eve")
        assert await _ask(action, site, client, headers, asked.json()["approval"]["id"]) == 403
        records = (await client.get("/v1/audit", headers=site.token("admin"))).json()["records"]
        [refused] = [one["record"] for one in records if one["record"]["kind"] == "access-refused"]
        assert refused["actor"] == "Eve"
        denied = await client.put("/v1/stop-switch", json={"reason": "a test"}, headers=headers)
        assert [(one["rule"], one["version"], one["needed"]) for one in denied.json()["refusals"]] == [
            ("role", "roles@1", "operate")
        ]


async def test_a_customer_reaches_no_switch_and_no_record_of_one(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        plain = site.tokens.create_token("a customer", ("customer",), account="A1")
        headers = {"Authorization": f"Bearer {plain}"}
        for action in MATRIX:
            assert await _ask(action, site, client, headers, "none") == 403, action
        for path in (*_LOOKS, "/v1/audit"):
            assert (await client.get(path, headers=headers)).status_code == 403, path
        tried = await client.post("/v1/policy/check", json={"orders": [site.order("open")]}, headers=headers)
        assert tried.status_code == 403


async def test_the_interface_is_described(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        schema = (await client.get("/schema/openapi.json", headers=site.token("read"))).json()
        assert {
            "/v1/commands",
            "/v1/commands/{command_id}",
            "/v1/commands/{command_id}/cancel",
            "/v1/approvals",
            "/v1/approvals/{approval_id}/approve",
            "/v1/obligations",
            "/v1/limits",
            "/v1/policy",
            "/v1/policy/check",
            "/v1/protections",
            "/v1/stop-switch",
            "/v1/forecast",
        } <= schema["paths"].keys()
        assert {"200", "202", "409", "422"} <= schema["paths"]["/v1/commands"]["post"]["responses"].keys()


# ------------------------------------------------------------------------------------------------ roles

OPERATE, ASK, AGREE, PAY = (Role.OPERATE,), (Role.DISCONNECT,), (Role.APPROVE,), (Role.CASHIER, Role.OPERATE)
# What a request needs: one of these roles, and whether a known person must stand behind it. Written down from the rule, not from
# the code: whoever operates may only make supplies safer, whoever asks for less safety is somebody, and nobody approves alone.
MATRIX: dict[str, tuple[tuple[Role, ...], bool]] = {
    "close": (OPERATE, False),
    "permit-close": (OPERATE, False),
    "protect": (OPERATE, False),
    "status": (OPERATE, False),
    "open": (ASK, True),
    "unprotect": (ASK, True),
    "cancel": (OPERATE, False),
    "stop": (OPERATE, False),
    "resume": (ASK, True),
    "add protection": (OPERATE, False),
    "end protection": (ASK, True),
    "raise limits": (ASK, True),
    "release": (ASK, True),
    "delete": (ASK, True),
    "approve": (AGREE, True),
    "refuse": (AGREE, True),
    "payment": (PAY, False),
    "forgive": (ASK, True),
    "forecast": (OPERATE, False),
}


_LOOKS = (
    *("/v1/commands", "/v1/commands/none", "/v1/obligations", "/v1/obligations/none", "/v1/approvals"),
    *("/v1/approvals/none", "/v1/stop-switch", "/v1/protections", "/v1/limits", "/v1/policy", "/v1/forecast"),
)


async def _ask(action: str, site: RelaySite, client: httpx.AsyncClient, headers: dict[str, str], waiting: str) -> int:
    """The status. What is asked for cannot be done, or does no harm: only whether it may be asked for is looked at."""
    nothing = {"reason": "a test"}
    if action in ("close", "permit-close", "protect", "status", "open", "unprotect"):
        answer = await client.post("/v1/commands", json=site.order(action, "M999999"), headers=headers)
    elif action == "cancel":
        answer = await client.post("/v1/commands/none/cancel", json=nothing, headers=headers)
    elif action == "stop":
        answer = await client.put("/v1/stop-switch", json=nothing, headers=headers)
    elif action == "resume":
        answer = await client.delete("/v1/stop-switch", params=nothing, headers=headers)
    elif action == "add protection":
        told = {"scope": "meter", "target": "M999999", "category": "x", "reason": "x", "until": "never"}
        answer = await client.post("/v1/protections", json=told, headers=headers)
    elif action == "end protection":
        answer = await client.delete("/v1/protections/none", headers=headers)
    elif action == "raise limits":
        answer = await client.put("/v1/limits", json={"per_hour": 10_000}, headers=headers)
    elif action in ("release", "delete"):
        answer = await client.post("/v1/approvals", json={"purpose": action, "commands": ["none"]}, headers=headers)
    elif action in ("approve", "refuse"):
        body = {"digest": "none"} if action == "approve" else nothing
        answer = await client.post(f"/v1/approvals/{waiting}/{action}", json=body, headers=headers)
        if action == "refuse" and answer.status_code == 200:
            return 200
    elif action == "payment":
        answer = await client.post("/v1/obligations", json=site.payment("M999999"), headers=headers)
    elif action == "forgive":
        answer = await client.post("/v1/obligations/none/forgive", json=nothing, headers=headers)
    else:
        answer = await client.post("/v1/forecast", json=site.forecast(), headers=headers)
    assert answer.status_code < 500, (action, answer.text)
    return answer.status_code


async def test_no_set_of_roles_passes_by_the_matrix(tmp_path: Path) -> None:
    """Every action under many sets of roles, with and without a person: 403 exactly where the matrix says so."""
    async with site_of(tmp_path) as (site, client):
        ann = site.token("disconnect", person="Ann")
        asked = await client.put("/v1/limits", json={"per_hour": 1}, headers=ann)
        waiting = asked.json()["approval"]["id"]
        # Whoever else has a token (a customer, an account's own feed) has that role alone, and reaches none of this.
        staff = [Role.READ, Role.OPERATE, Role.DISCONNECT, Role.APPROVE, Role.CASHIER, Role.ADMIN]
        sets = [roles for size in (1, 2, 3, 4) for roles in itertools.combinations(staff, size)]
        cases = [(action, roles, person) for action in MATRIX for roles in sets for person in ("", "Eve")]
        random.Random(1).shuffle(cases)
        for action, roles, person in cases[:600]:
            one_of, needs_person = MATRIX[action]
            may = bool({*one_of, Role.ADMIN} & set(roles)) and (bool(person) or not needs_person)
            headers = site.token(*(role.value for role in roles), person=person)
            status = await _ask(action, site, client, headers, waiting)
            assert (status != 403) is may, (action, [role.value for role in roles], person, status)
