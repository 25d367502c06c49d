"""Prepaid accounts over HTTP: from enrolment to move-out, what is refused, and what a customer sees."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.headend.api.account_site import TODAY, enrolled, site_of

DAY = timedelta(days=1)


def assert_problem(answer: httpx.Response, status: int, kind: str, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:headend:problem:{kind}"
    assert body["next_step"]
    for word in words:
        assert word in body["detail"], body["detail"]


async def test_an_account_lives_from_enrolment_to_move_out(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        cashier, admin, reader = site.token("cashier"), site.token("admin"), site.token("read")
        made = await client.post("/v1/accounts", json=enrolled(), headers=cashier)
        assert made.status_code == 201, made.text
        card = made.json()
        assert (card["state"], card["holder"]["name"], card["contact"]["phone"]) == (
            "enrolled",
            "Wang Fang",
            "+8613812345678",
        )
        assert "410303" not in made.text
        told = (await client.get("/v1/accounts/A1/notices", headers=reader)).json()["notices"]
        assert [one["kind"] for one in told] == ["agreement"]
        confirmed = await client.post("/v1/accounts/A1/confirm", headers=cashier)
        assert (confirmed.json()["state"], confirmed.json()["opened_on"]) == ("active", "2026-03-02")
        paid = await client.post("/v1/payments", json=site.payment(amount_minor=10000), headers=cashier)
        assert paid.status_code == 202, paid.text
        for number in range(3):
            site.pass_time(DAY, step=DAY)
            site.use("M1", TODAY + number * DAY, "10.5")
        site.pass_time(timedelta(hours=1))
        card = (await client.get("/v1/accounts/A1", headers=reader)).json()
        # 10.5 kWh at 0.5283 yuan, three times: 5.54715 yuan a day, rounded once over all days.
        assert card["standing"]["available_minor"] == 10000 - 1664
        assert card["standing"]["month_kwh"] == "31.5"
        assert card["standing"]["settled_through"] == "2026-03-04"
        daily = (await client.get("/v1/accounts/A1/daily?from=2026-03-01", headers=reader)).json()
        assert [(one["day"], one["kwh"], one["used"]) for one in daily["days"]] == [
            (f"2026-03-0{number}", "10.5", {"all": "10.5"}) for number in (2, 3, 4)
        ]
        assert daily["comparison"]["this"]["kwh"] == "31.5"
        entries = (await client.get("/v1/accounts/A1/entries", headers=reader)).json()["entries"]
        assert sum(one["moved_minor"] for one in entries) == 10000 - 1664
        never = await client.post("/v1/accounts/A1/move-out", json={"last_day": "9999-12-31"}, headers=admin)
        assert_problem(never, 422, "unprocessable", "$.last_day")
        left = await client.post("/v1/accounts/A1/move-out", json={"last_day": "2026-03-04"}, headers=admin)
        assert left.status_code == 202, left.text
        site.pass_time(DAY)
        gone = (await client.get("/v1/accounts/A1", headers=reader)).json()
        assert (gone["state"], gone["closed_on"]) == ("closed", "2026-03-04")
        assert gone["move_out"]["remainder_minor"] == 10000 - 1664
        again = await client.post("/v1/accounts/A1/move-out", json={"last_day": "2026-03-09"}, headers=admin)
        assert_problem(again, 409, "account-closed", "2026-03-04")
        back = await client.post(
            "/v1/accounts/A1/refunds",
            json={"amount_minor": 8336, "key": "refund-1", "note": "by bank transfer"},
            headers=admin,
        )
        assert (back.status_code, back.json()["is_repeat"]) == (201, False)


async def test_what_is_changed_is_there_at_once(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        admin = site.token("admin")
        await site.enrol(client)

        async def change(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
            answer = await client.request(method, f"/v1/accounts/A1/{path}", json=body, headers=admin)
            assert answer.status_code == 200, answer.text
            shown = answer.json()
            assert shown == (await client.get("/v1/accounts/A1", headers=admin)).json()
            return dict(shown)

        card = await change("PUT", "contact", {"phone": "139 0000 0000", "language": "en"})
        assert [one["phone"] for one in card["contacts"]] == ["+8613812345678", "+8613900000000"]
        assert (card["contact"]["language"], card["contact"]["by"]) == ("en", "token 0")
        card = await change("PUT", "contact", {"phone": "+44 20 7946 0000"})
        assert (card["contact"]["phone"], card["contact"]["language"]) == ("+442079460000", "en")
        card = await change("PUT", "holder", {"customer": "C9", "name": "Li Hua", "identity": "11010519491231002X"})
        assert card["holder"] == {"customer": "C9", "name": "Li Hua", "identity_tail": "002X"}
        card = await change("PUT", "amounts", {"reminder_minor": 3000, "topup_minor": 10000, "bank": "B-17"})
        assert (card["reminder_minor"], card["topup_minor"], card["bank"]) == (3000, 10000, "B-17")
        assert (await change("PUT", "tariff", {"tariff": "year"}))["tariff"] == "year"
        site.pass_time(DAY)
        card = await change("POST", "meter-exchange", {"old": "M1", "new": "M2", "day": "2026-03-03"})
        assert [(one["meter"], one["until"]) for one in card["meters"]] == [("M1", "2026-03-02"), ("M2", None)]
        card = await change("POST", "hold", {"reason": "a court looks at it"})
        assert "a court looks at it" in card["flags"]["hold"]
        assert any(
            "a person has to look first" in one
            for one in (await client.get("/v1/accounts/A1/obstacles", headers=admin)).json()["obstacles"]
        )
        card = await change("DELETE", "flags/hold")
        assert "hold" not in card["flags"]
        listed = (await client.get("/v1/accounts/A1/changes", headers=admin)).json()["changes"]
        assert listed == card["changes"]
        assert [(one["by"], one["what"]) for one in listed[::-1]] == [
            ("token 0", what)
            for what in (
                *("enrolled", "confirmed", "contact", "contact", "holder", "amounts", "tariff", "meter"),
                *("hold", "flag"),
            )
        ]
        newest = (await client.get("/v1/accounts/A1/changes?limit=1", headers=admin)).json()["changes"]
        assert [(one["before"], one["after"]) for one in newest] == [("hold: a court looks at it (token 0)", "")]
        far = {"old": "M2", "new": "M3", "day": "2062-03-03"}
        refused = await client.post("/v1/accounts/A1/meter-exchange", json=far, headers=admin)
        assert_problem(refused, 422, "bad-input", "2062-03-03", "a year ahead")
        refused = await client.post("/v1/accounts/A1/move-out", json={"last_day": "2062-03-03"}, headers=admin)
        assert_problem(refused, 422, "bad-input", "2062-03-03", "a year ahead")


async def test_books_are_corrected_once_a_key(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        admin = site.token("admin")
        await site.enrol(client)
        wanted = {"amount_minor": -250, "key": "K1", "note": "a fee was forgotten"}
        first = await client.post("/v1/accounts/A1/adjustments", json=wanted, headers=admin)
        again = await client.post("/v1/accounts/A1/adjustments", json=wanted, headers=admin)
        assert (first.status_code, again.status_code) == (201, 200)
        assert (first.json()["number"], again.json()["is_repeat"]) == (again.json()["number"], True)
        other = await client.post("/v1/accounts/A1/adjustments", json=wanted | {"amount_minor": -251}, headers=admin)
        assert_problem(other, 409, "key-reused", "K1")
        nothing = await client.post("/v1/accounts/A1/adjustments", json=wanted | {"amount_minor": 0}, headers=admin)
        assert_problem(nothing, 422, "bad-input", "amount_minor")
        card = (await client.get("/v1/accounts/A1", headers=admin)).json()
        assert card["standing"]["available_minor"] == -250
        more = await client.post(
            "/v1/accounts/A1/refunds", json={"amount_minor": 1, "key": "K2", "note": "none is left"}, headers=admin
        )
        assert_problem(more, 422, "bad-input")


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"phone": "12345"}, "bad-contact", "12345"),
    ({"meters": ["M77"]}, "not-eligible", "M77"),
    ({"tariff": "gold"}, "not-eligible", "gold"),
    ({"is_submetered": True}, "not-eligible", "landlord"),
    ({"landlord": "C77"}, "not-eligible", "C77"),
    ({"topup_minor": 500}, "not-eligible", "topup_minor"),
    ({"language": "fr"}, "bad-input", "fr"),
    ({"meters": []}, "unprocessable", "$.meters"),
    ({"reminder_minor": "20"}, "unprocessable", "$.reminder_minor"),
    ({"reminder_minor": 20.5}, "unprocessable", "$.reminder_minor"),
    ({"colour": "red"}, "unprocessable", "colour"),
    ({"name": "Wang\x00"}, "unprocessable", "$.name"),
    ({"address": "1\n2"}, "unprocessable", "$.address"),
)


async def test_an_enrolment_that_cannot_be_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        cashier = site.token("cashier")
        for changes, kind, word in REFUSED:
            answer = await client.post("/v1/accounts", json=enrolled(**changes), headers=cashier)
            assert_problem(answer, 422, kind, word)
        assert_problem(await client.get("/v1/accounts/A1", headers=cashier), 404, "unknown-account", "A1")
        assert (await client.get("/v1/accounts", headers=cashier)).json() == {"accounts": [], "next": ""}


async def test_accounts_are_found_by_what_people_know_of_them_page_by_page(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        reader = site.token("read")
        for number in range(1, 6):
            await site.enrol(client, f"A{number}", f"M{number}", name=f"Name {number}", phone=f"1381234567{number}")

        async def found(**asked: Any) -> list[str]:
            answer = await client.get("/v1/accounts", params=asked, headers=reader)
            assert answer.status_code == 200, answer.text
            return [one["id"] for one in answer.json()["accounts"]]

        assert await found() == ["A1", "A2", "A3", "A4", "A5"]
        assert [await found(search=text) for text in ("A2", "name\u30003", "138 1234 5674", "M5", "P-A1", "%")] == [
            ["A2"],
            ["A3"],
            ["A4"],
            ["A5"],
            ["A1"],
            [],
        ]
        page = (await client.get("/v1/accounts?limit=2", headers=reader)).json()
        pages = []
        while True:
            pages.append([one["id"] for one in page["accounts"]])
            if not page["next"]:
                break
            page = (await client.get(f"/v1/accounts?limit=2&after={page['next']}", headers=reader)).json()
        assert pages == [["A1", "A2"], ["A3", "A4"], ["A5"]]


UNREADABLE = (
    "accounts?limit=0",
    "accounts?limit=201",
    "accounts?seach=A1",
    "accounts/A1/daily?from=yesterday",
    "accounts/A1/daily?from=0001-01-01",
    "accounts/A1/daily?from=2026-03-02&until=2026-03-01",
    "accounts/A1/daily?until=9999-12-31",
    "accounts/A1/statement?month=2026-13",
    "accounts/A1/statement?month=March",
    "accounts/A1/notices?limit=1001",
    "accounts/A1/entries?limit=many",
    "accounts/A1%00/entries",
    "accounts?search=%0A",
)


async def test_a_parameter_that_cannot_be_is_named(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        for path in UNREADABLE:
            assert_problem(await client.get(f"/v1/{path}", headers=site.token("read")), 400, "bad-request")


async def test_a_month_has_its_statement_when_it_is_over(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        own = site.token("customer", account="A1")
        none = await client.get("/v1/accounts/A1/statement", headers=own)
        assert_problem(none, 404, "not-found", "no month")
        await client.post("/v1/payments", json=site.payment(amount_minor=50000), headers=site.token("cashier"))
        for number in range(30):
            site.pass_time(DAY, step=DAY)
            site.use("M1", TODAY + number * DAY, "4")
        site.pass_time(DAY, step=timedelta(hours=6))
        found = (await client.get("/v1/accounts/A1/statement", headers=own)).json()
        assert (found["month"], found["is_final"], found["months"]) == ("2026-03", True, ["2026-03"])
        assert found["closing_minor"] == found["opening_minor"] - found["charged_minor"] + found["paid_minor"]
        assert (found["use"]["kwh"], found["paid_minor"], len(found["days"])) == ("120", 50000, 30)
        assert found["charged_minor"] == 6340  # 120 kWh at 0.5283 yuan are 63.396
        same = (await client.get("/v1/accounts/A1/statement?month=2026-03", headers=own)).json()
        assert same == found
        early = await client.get("/v1/accounts/A1/statement?month=2026-02", headers=own)
        assert_problem(early, 404, "not-found", "2026-03")


async def test_a_landlord_learns_totals_and_no_names(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client, "A1", "M1", name="Zhao the landlord")
        await site.enrol(client, "A2", "M2", landlord="C-A1", name="Qian the tenant")
        answer = await client.get("/v1/landlords/C-A1/accounts", headers=site.token("read"))
        assert [one["account"] for one in answer.json()["accounts"]] == ["A2"]
        assert "Qian" not in answer.text
        nobody = await client.get("/v1/landlords/C9/accounts", headers=site.token("read"))
        assert nobody.json() == {"customer": "C9", "accounts": []}


async def test_a_customers_token_is_shown_once_and_replaces_the_one_before(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        cashier = site.token("cashier")
        first = (await client.post("/v1/accounts/A1/tokens", headers=cashier)).json()
        site.town.now += timedelta(seconds=1)
        second = (await client.post("/v1/accounts/A1/tokens", headers=cashier)).json()
        assert second["revoked"] == [first["name"]]
        answers = [
            (await client.get("/v1/accounts/A1", headers={"Authorization": f"Bearer {one['token']}"})).status_code
            for one in (first, second)
        ]
        assert answers == [401, 200]
        other = {"customer": "C9", "name": "Li Hua", "identity": "11010519491231002X"}
        await client.put("/v1/accounts/A1/holder", json=other, headers=site.token("admin"))
        gone = await client.get("/v1/accounts/A1", headers={"Authorization": f"Bearer {second['token']}"})
        assert gone.status_code == 401
        nobody = await client.post("/v1/accounts/A9/tokens", headers=cashier)
        assert_problem(nobody, 404, "unknown-account", "A9")


async def test_a_customer_is_not_told_what_is_only_for_those_who_work_here(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        admin, own = site.token("admin"), site.token("customer", account="A1")
        await client.post("/v1/accounts/A1/hold", json={"reason": "suspected fraud"}, headers=admin)
        await client.put("/v1/accounts/A1/contact", json={"phone": "13900000000"}, headers=admin)
        await client.post("/v1/payments", json=site.payment(account="A777"), headers=admin)
        given = await client.post("/v1/payments/app/R1/assignment", json={"account": "A1"}, headers=admin)
        assert given.status_code == 200, given.text
        seen = [
            (await client.get(f"/v1/accounts/A1{path}", headers=own)).text
            for path in ("", "/payments", "/notices", "/daily", "/debits")
        ]
        card = (await client.get("/v1/accounts/A1", headers=own)).json()
        assert (card["flags"], card["changes"], len(card["contacts"]), card["contact"]["by"]) == ({}, [], 1, "")
        assert card["standing"]["available_minor"] == 1000
        for text in seen:
            assert not any(word in text for word in ("fraud", "token 0", "A777"))


async def test_an_agreement_that_reaches_nobody_is_not_confirmed_and_a_new_number_is_sent_it(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        cashier = site.token("cashier")
        site.mail.unreachable.add("+8613812345678")
        assert (await client.post("/v1/accounts", json=enrolled(), headers=cashier)).status_code == 201
        site.pass_time(3 * DAY)
        refused = await client.post("/v1/accounts/A1/confirm", headers=cashier)
        assert_problem(refused, 422, "not-eligible", "+8613812345678")
        new = {"phone": "13900000000"}
        assert (await client.put("/v1/accounts/A1/contact", json=new, headers=cashier)).status_code == 200
        assert (await client.post("/v1/accounts/A1/confirm", headers=cashier)).json()["state"] == "active"
        site.pass_time(DAY)
        told = (await client.get("/v1/accounts/A1/notices", headers=cashier)).json()["notices"]
        arrived = [one["phone"] for one in told if (one["kind"], one["state"]) == ("agreement", "delivered")]
        assert arrived == ["+8613900000000"]


async def test_a_number_that_is_corrected_before_the_agreement_is_sent_it_once(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        cashier = site.token("cashier")
        await client.post("/v1/accounts", json=enrolled(), headers=cashier)
        await client.put("/v1/accounts/A1/contact", json={"phone": "13900000000"}, headers=cashier)
        await client.post("/v1/accounts/A1/confirm", headers=cashier)
        site.pass_time(DAY)
        told = (await client.get("/v1/accounts/A1/notices", headers=cashier)).json()["notices"]
        assert sorted(one["phone"] for one in told if one["kind"] == "agreement") == [
            "+8613812345678",
            "+8613900000000",
        ]
