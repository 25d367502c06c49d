"""`headend relay`, `approvals`, `obligations` against a running head-end: what they print, and with which exit code they end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headend.cli.main import app
from headend.cli.relay import _exit_code
from tests.headend.api.relay_site import RelaySite, site_of


async def cli(site: RelaySite, *arguments: str, who: dict[str, str]) -> Result:
    token = who["Authorization"].removeprefix("Bearer ")
    full = [*arguments, "--url", site.url, "--token", token]
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, full, env={"COLUMNS": "200"}))


async def test_a_refusal_names_rule_version_and_what_is_needed(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann = site.token("disconnect", person="Ann")
        done = await cli(site, "relay", "open", "M000001", "--reason", "arrears", who=ann)
        assert done.exit_code == 2
        assert "proof (cn-residential@" in done.output
        assert "needed: account, balance, currency" in done.output
        shown = await cli(site, "relay", "open", "M000001", "--reason", "arrears", "--json", who=ann)
        assert shown.exit_code == 2
        assert [one["rule"] for one in json.loads(shown.stdout)["refusals"]] == ["proof", "notice"]


async def test_a_refused_order_says_the_same_when_it_is_looked_up_later(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann = site.token("disconnect", person="Ann")
        await cli(site, "relay", "open", "M000001", "--reason", "arrears", who=ann)
        listed = await cli(site, "relay", "list", who=ann)
        assert "the order has no balance proof" in listed.stdout
        identity = listed.stdout.splitlines()[1].split()[0]
        shown = " ".join((await cli(site, "relay", "show", identity, who=ann)).stdout.split())
        assert "proof (cn-residential@" in shown
        assert "needed: account, balance, currency" in shown
        assert "notice (cn-residential@" in shown


async def test_a_head_end_that_was_not_allowed_to_switch_says_so_and_what_would_allow_it(tmp_path: Path) -> None:
    async with site_of(tmp_path, enabled=False) as (site, _):
        order = site.order("open")
        proof = tmp_path / "proof.json"
        proof.write_text(json.dumps({"proof": order["proof"], "notices": order["notices"]}))
        words = ("relay", "open", "M000001", "--reason", "arrears", "--proof", str(proof))
        done = await cli(site, *words, who=site.token("disconnect", person="Ann"))
        assert done.exit_code == 2
        said = " ".join(done.output.split())
        assert "this head-end switches nothing: it has not been allowed to" in said
        assert "enabled = true under [control]" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("relay", "list", "--limit", "0"),
        ("relay", "list", "--state", "nope"),
        ("relay", "show", "nope"),
        ("relay", "cancel", "nope", "--reason", "x"),
        ("approvals", "show", "nope"),
        ("approvals", "refuse", "nope", "--reason", "x"),
    ],
)
async def test_with_json_a_problem_is_json_too(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        done = await cli(site, *arguments, "--json", who=site.token("operate", "approve", person="Bob"))
        assert done.exit_code == 2
        assert json.loads(done.stdout)["status"] in (400, 404)


@pytest.mark.parametrize(
    "arguments",
    [
        ("relay", "list"),
        ("relay", "limits", "show"),
        ("relay", "limits", "set", "--per-hour", "2"),
        ("approvals", "list"),
        ("approvals", "show", "nope"),
        ("obligations",),
    ],
)
async def test_with_json_a_token_without_the_right_is_told_in_json(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    async with site_of(tmp_path) as (site, _):
        done = await cli(site, *arguments, "--json", who={"Authorization": "Bearer hdt_" + "0" * 40})
        assert done.exit_code == 2, done.output
        problem = json.loads(done.stdout)
        assert (problem["status"], bool(problem["title"])) == (401, True)
        assert "refused: " in done.stderr


async def test_an_order_without_an_outcome_in_time_says_so_and_is_there_later(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        ann, operator = site.token("disconnect", person="Ann"), site.token("operate")
        order = site.order("open")
        proof = tmp_path / "proof.json"
        proof.write_text(json.dumps({"proof": order["proof"], "notices": order["notices"]}))
        # The clocks of this site are behind those of the command line, so the end is given as a time.
        end = ("--expires", order["expires_at"], "--proof", str(proof), "--reason", "arrears")
        done = await cli(site, "relay", "open", "M000001", *end, "--wait-s", "1", who=ann)
        assert done.exit_code == 3, done.output
        assert "no outcome within 1 s" in done.output
        taken = await cli(site, "relay", "open", "M000002", *end, "--no-wait", "--json", who=ann)
        assert taken.exit_code == 0, taken.output
        identity = json.loads(taken.stdout)["command"]["id"]
        listed = await cli(site, "relay", "list", who=operator)
        assert identity in listed.stdout
        shown = await cli(site, "relay", "show", identity, who=operator)
        assert [word in shown.stdout for word in ("requested", "checked", "scheduled")] == [True] * 3
        gone = await cli(site, "relay", "cancel", identity, "--reason", "wrong", who=operator)
        assert (gone.exit_code, "cancelled" in gone.stdout) == (0, True)
        stopped = await cli(site, "relay", "stop", "--reason", "storm", who=operator)
        assert (stopped.exit_code, "stopped" in stopped.stdout) == (0, True)
        denied = await cli(site, "relay", "resume", "--reason", "over", who=operator)
        assert (denied.exit_code, "needed: disconnect" in denied.output) == (2, True), denied.output
        owed = await cli(site, "obligations", who=operator)
        assert (owed.exit_code, owed.stdout.strip()) == (0, "nothing is owed")


async def test_two_people_release_what_is_in_quarantine(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client, per_hour=0)
        ann, carl = site.token("disconnect", person="Ann"), site.token("disconnect", person="Carl")
        bob = site.token("approve", person="Bob")
        held = (await client.post("/v1/commands", json=site.order("open"), headers=ann)).json()["command"]["id"]
        told = (await cli(site, "relay", "show", held, who=ann)).stdout
        assert [word in told for word in ("limit per_hour", "policy    governor@", "needed")] == [True] * 3, told
        asked = await cli(site, "approvals", "ask", "release", held, "--json", who=carl)
        approval = json.loads(asked.stdout)
        listed = await cli(site, "approvals", "list", who=bob)
        assert approval["id"] in listed.stdout
        seen = await cli(site, "approvals", "show", approval["id"], who=bob)
        assert approval["digest"] in seen.stdout
        other = await cli(site, "approvals", "approve", approval["id"], "--digest", "0" * 64, who=bob)
        assert (other.exit_code, "approval (roles@1): " in other.output, "needed: " in other.output) == (2, True, True)
        done = await cli(site, "approvals", "approve", approval["id"], "--digest", approval["digest"], who=bob)
        assert (done.exit_code, "1 command(s) went on" in done.stdout) == (0, True)


async def test_limits_are_shown_and_set_and_higher_ones_wait_for_another_person(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, _):
        ann, bob = site.token("disconnect", "operate", person="Ann"), site.token("approve", person="Bob")
        none = await cli(site, "relay", "limits", "show", who=ann)
        assert (none.exit_code, "nothing is opened" in none.stdout) == (0, True)
        unnamed = await cli(site, "relay", "limits", "set", "--batch-max", "5", who=ann)
        assert (unnamed.exit_code, "--per-hour" in unnamed.output) == (2, True)
        asked = await cli(site, "relay", "limits", "set", "--per-hour", "20", "--raise-delay-s", "0", "--json", who=ann)
        approval = json.loads(asked.stdout)["approval"]
        waiting = await cli(site, "relay", "limits", "show", who=ann)
        assert "wait for a second person" in waiting.stdout
        agree = ("approvals", "approve", approval["id"], "--digest", approval["digest"])
        assert (await cli(site, *agree, who=bob)).exit_code == 0
        lower = await cli(site, "relay", "limits", "set", "--per-hour", "7", "--kw-per-day", "12.5", who=ann)
        assert (lower.exit_code, "hold now" in lower.stdout) == (0, True)
        shown = await cli(site, "relay", "limits", "show", "--json", who=ann)
        limits = json.loads(shown.stdout)["limits"]
        assert (limits["per_hour"], limits["kw_per_day"], limits["of_fleet_per_day"]) == (7, "12.5", "0.005")
        table = await cli(site, "relay", "limits", "show", who=ann)
        assert any(line.split()[:3] == ["per_hour", "7", "0"] for line in table.stdout.splitlines()), table.stdout
        higher = await cli(site, "relay", "limits", "set", "--kw-per-day", "none", who=ann)
        assert "headend approvals approve" in higher.stdout
        refused = await cli(site, "relay", "limits", "set", "--per-hour", "50", who=site.token("operate", person="Ed"))
        assert (refused.exit_code, "needed: disconnect" in refused.output) == (2, True), refused.output


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("--per-hour", "none", "cannot be none"),
        ("--per-day", "1.5", "a whole number, or none"),
        ("--batch-max", "-1", "a whole number"),
        ("--of-fleet-per-day", "half", "such as 0.005"),
        ("--kw-per-hour", "NaN", "such as 250"),
    ],
)
def test_a_limit_that_is_none_says_what_was_expected(option: str, text: str, expected: str) -> None:
    where = ("--url", "http://127.0.0.1:1", "--token", "hdt_x")
    done = CliRunner().invoke(app, ["relay", "limits", "set", option, text, *where], env={"COLUMNS": "200"})
    assert (done.exit_code, expected in done.output) == (2, True), done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("limits", "set"),
        ("open", "M000001"),
        ("close", "M000001", "--reason", "x", "--expires", "soon"),
        ("close", "M000001", "--reason", "x", "--expires", "2026-01-01T00:00:00"),
        ("open", "M000001", "--reason", "x", "--proof", "/nowhere.json"),
        ("cut", "M000001"),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nobody(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["relay", *arguments, "--url", "http://127.0.0.1:1", "--token", "hdt_x"])
    assert done.exit_code == 2, done.output


def test_no_head_end_ends_with_3() -> None:
    done = CliRunner().invoke(app, ["relay", "status", "M000001", "--url", "http://127.0.0.1:1", "--token", "hdt_x"])
    assert done.exit_code == 3


@pytest.mark.parametrize(
    ("state", "detail", "code"),
    [
        ("verified", {}, 0),
        ("refused", {"refused": "error word 04H"}, 5),
        ("refused", {"rule": "window"}, 2),
        ("failed", {"kind_of_problem": "silent"}, 3),
        ("failed", {"kind_of_problem": "unsupported"}, 5),
        ("expired", {}, 3),
        ("unconfirmed", {}, 6),
        ("contradicted", {}, 6),
        ("quarantined", {}, 2),
        ("cancelled", {}, 2),
        ("scheduled", {}, 3),
    ],
)
def test_each_end_has_its_exit_code(state: str, detail: dict[str, Any], code: int) -> None:
    assert _exit_code({"state": state, "detail": detail}, {}, is_waited=True) == code
