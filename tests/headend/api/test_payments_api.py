"""Payments over HTTP: each receipt once, money kept whatever happens, and refusals that name the field."""

import asyncio
import csv
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headend.api.problems import EXCEPTION_HANDLERS
from headend.errors import HeadendError
from headend.prepayment.books.books import check_books
from headend.prepayment.errors import SwitchedOff
from tests.headend.api.account_site import SPRING, TODAY, AccountSite, site_of
from tests.headend.api.test_accounts_api import DAY, assert_problem


async def available(site: AccountSite, client: httpx.AsyncClient, account: str = "A1") -> int:
    card = (await client.get(f"/v1/accounts/{account}", headers=site.token("read"))).json()
    return int(card["standing"]["available_minor"])


def books_balance(site: AccountSite) -> None:
    with site.database.reading("checking the books") as connection:
        assert check_books(connection) == []


async def test_the_same_receipt_is_booked_once_however_often_and_however_many_tell_it(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        cashier = site.token("cashier")
        told = site.payment(paid_at="2026-03-02T07:59:59.123456+08:00")
        answers = await asyncio.gather(
            *(client.post("/v1/payments", json=told, headers=cashier) for _ in range(8)),
            client.post("/v1/payments", json=told | {"paid_at": "2026-03-01T23:59:59.123456Z"}, headers=cashier),
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 8 + [202]
        shown = [answer.json()["payment"] for answer in answers]
        assert all(one["receipt"] == "R1" and one["state"] == "booked" for one in shown)
        assert len({one["entry"] for one in shown}) == 1
        assert await available(site, client) == 1000
        later = await client.post("/v1/payments", json=told, headers=cashier)
        assert (later.status_code, later.json()["is_repeat"]) == (200, True)
        other = await client.post("/v1/payments", json=told | {"amount_minor": 1001}, headers=cashier)
        assert_problem(other, 409, "key-reused", "R1", "amount_minor")
        assert site.switch.fence["M1"] >= 1
        books_balance(site)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"account": "A9"}, "no account 'A9'"), ({"account": "A2"}, "closed"), ({"currency": "EUR"}, "kept in CNY")],
)
async def test_money_for_nobody_is_kept_until_a_person_says_whose_it_is(
    tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        await site.enrol(client, "A2", "M2")
        cashier, admin = site.token("cashier"), site.token("admin")
        await client.post("/v1/accounts/A2/move-out", json={"last_day": "2026-03-02"}, headers=admin)
        site.pass_time(DAY, step=DAY)
        site.use("M2", TODAY, "0")
        site.pass_time(timedelta(hours=3))
        before = await available(site, client)
        kept = await client.post("/v1/payments", json=site.payment(**changes), headers=cashier)
        assert kept.status_code == 202, kept.text
        body = kept.json()
        assert (body["payment"]["state"], body["payment"]["booked_for"]) == ("unmatched", "")
        assert word in body["payment"]["problem"]
        assert "assignment" in body["next_step"]
        assert await available(site, client) == before
        waiting = (await client.get("/v1/payments/unmatched", headers=cashier)).json()
        assert ([one["receipt"] for one in waiting["payments"]], waiting["told"]) == (["R1"], [])
        given_ = await client.post("/v1/payments/app/R1/assignment", json={"account": "A1"}, headers=admin)
        if "currency" in changes:
            assert_problem(given_, 422, "bad-payment", "CNY")
        else:
            assert given_.json()["payment"]["booked_for"] == "A1"
            assert await available(site, client) == before + 1000
            again = await client.post("/v1/payments/app/R1/assignment", json={"account": "A1"}, headers=admin)
            assert again.status_code == 200, again.text
        books_balance(site)


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"amount_minor": 0}, "$.amount_minor"),
    ({"amount_minor": -1000}, "$.amount_minor"),
    ({"amount_minor": 10**12 + 1}, "$.amount_minor"),
    ({"amount_minor": "1000"}, "$.amount_minor"),
    ({"amount_minor": 10.5}, "$.amount_minor"),
    ({"amount_minor": True}, "$.amount_minor"),
    ({"amount_minor": None}, "$.amount_minor"),
    ({"paid_at": "2026-03-02T08:00:00"}, "$.paid_at"),
    ({"paid_at": "02.03.2026 08:00"}, "$.paid_at"),
    ({"paid_at": 1772409600}, "$.paid_at"),
    ({"channel": "mail"}, "$.channel"),
    ({"receipt": ""}, "$.receipt"),
    ({"receipt": "R" * 129}, "$.receipt"),
    ({"currency": "yuan"}, "$.currency"),
    ({"tip_minor": 5}, "tip_minor"),
    ({"paid_at": "0001-01-01T00:00:00+14:00"}, "paid_at"),
    ({"paid_at": "2026-03-02T09:00:00Z"}, "paid_at"),
    ({"currency": "XXX"}, "currency"),
    ({"receipt": "R\n1"}, "Expected printable characters - at `$.receipt`"),
    ({"account": "A1\n"}, "Expected printable characters - at `$.account`"),
    ({"account": "\x00"}, "$.account"),
)


async def test_what_cannot_be_money_is_refused_with_the_path_of_the_field(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        for changes, path in REFUSED:
            told = site.payment() | changes
            refused = await client.post("/v1/payments", json=told, headers=site.token("cashier"))
            assert refused.status_code == 422, (changes, refused.text)
            assert path in refused.json()["detail"], changes
        told = site.payment() | {"channel": "post"}
        refused = await client.post("/v1/payments", json=told, headers=site.token("cashier"))
        assert "app|bank|counter|collection-point|agent|bank-debit" in refused.json()["detail"]
        assert (await client.get("/v1/accounts/A1/payments", headers=site.token("read"))).json() == {"payments": []}
        unmatched = (await client.get("/v1/payments/unmatched", headers=site.token("cashier"))).json()
        assert unmatched == {"payments": [], "told": []}


async def test_a_body_that_is_no_payment_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        headers = site.token("cashier") | {"Content-Type": "application/json"}
        for body in (
            b"",
            b"[]",
            b"{",
            b"null",
            b'{"amount_minor":1}',
            b"\xff",
            b"1e400",
            b"[" * 100_000,
            b'{"a":' * 50_000,
        ):
            answer = await client.post("/v1/payments", content=body, headers=headers)
            assert answer.status_code in (400, 422), (body, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_payment_while_the_switch_cannot_be_asked_is_told_again(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        cashier, admin = site.token("cashier"), site.token("admin")
        site.switch.away = 1.0
        refused = await client.post("/v1/payments", json=site.payment(), headers=cashier)
        assert_problem(refused, 503, "switchboard-unavailable")
        assert refused.headers["retry-after"] == "5"
        assert "same receipt" in refused.json()["next_step"]
        assert await available(site, client) == 0
        told = (await client.get("/v1/payments/unmatched", headers=cashier)).json()["told"]
        assert [(one["receipt"], one["account"]) for one in told] == [("R1", "A1")]
        early = await client.delete("/v1/payments/app/R1/telling", headers=admin)
        assert_problem(early, 422, "bad-input", "R1")
        site.switch.away = 0.0
        taken = await client.post("/v1/payments", json=site.payment(), headers=cashier)
        assert (taken.status_code, await available(site, client)) == (202, 1000)
        assert (await client.get("/v1/payments/unmatched", headers=cashier)).json()["told"] == []
        gone = await client.delete("/v1/payments/app/R1/telling", headers=admin)
        assert_problem(gone, 404, "unknown-payment", "R1")


async def test_what_was_told_and_never_came_is_dropped_by_a_person(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        site.switch.away = 1.0
        await client.post("/v1/payments", json=site.payment(), headers=site.token("cashier"))
        site.switch.away = 0.0
        site.town.now += timedelta(hours=1)
        dropped = await client.delete("/v1/payments/app/R1/telling", headers=site.token("admin"))
        assert (dropped.status_code, dropped.json()["account"]) == (200, "A1")
        assert (await client.get("/v1/payments/unmatched", headers=site.token("cashier"))).json()["told"] == []


async def test_a_payment_is_taken_back_once_also_with_a_slash_in_its_receipt(tmp_path: Path) -> None:
    async with site_of(tmp_path, listens=True) as (site, client):
        await site.enrol(client)
        cashier, admin = site.token("cashier"), site.token("admin")
        await client.post("/v1/payments", json=site.payment("2026/03 #1?"), headers=cashier)
        path = "/v1/payments/app/2026%252F03%20%231%3F/reversal"
        for _ in range(2):
            done = await client.post(path, json={"reason": "the debit bounced"}, headers=admin)
            assert (done.status_code, done.json()["payment"]["state"]) == (200, "reversed"), done.text
        assert await available(site, client) == 0
        nobody = await client.post("/v1/payments/app/R9/reversal", json={"reason": "it bounced"}, headers=admin)
        assert_problem(nobody, 404, "unknown-payment", "R9")
        empty = await client.post(path, json={"reason": ""}, headers=admin)
        assert_problem(empty, 422, "unprocessable", "$.reason")
        books_balance(site)


async def test_a_channels_day_is_reconciled_as_json_and_as_a_file(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        cashier, admin = site.token("cashier"), site.token("admin")
        for receipt, more in (
            ("R1", {}),
            ("R2", {"amount_minor": 250}),
            ("R3", {"account": '=HYPERLINK("x")'}),
            ("R4", {"channel": "bank"}),
            ("R5", {"paid_at": "2026-03-01T15:59:59.999Z"}),  # before midnight in Shanghai
        ):
            taken = await client.post("/v1/payments", json=site.payment(receipt, **more), headers=cashier)
            assert taken.status_code == 202, taken.text
        await client.post("/v1/payments/app/R2/reversal", json={"reason": "it bounced"}, headers=admin)
        asked = {"channel": "app", "day": "2026-03-02"}
        found = (await client.get("/v1/payments/reconciliation", params=asked, headers=cashier)).json()
        assert [one["receipt"] for one in found["payments"]] == ["R1", "R2", "R3"]
        assert {(one["state"], one["count"], one["amount_minor"]) for one in found["sums"]} == {
            ("booked", 1, 1000),
            ("reversed", 1, 250),
            ("unmatched", 1, 1000),
        }
        file = await client.get("/v1/payments/reconciliation", params=asked, headers=cashier | {"Accept": "text/csv"})
        assert file.headers["content-type"].startswith("text/csv")
        assert "app-2026-03-02.csv" in file.headers["content-disposition"]
        rows = list(csv.DictReader(io.StringIO(file.text)))
        assert [(row["receipt"], row["state"], row["amount_minor"]) for row in rows] == [
            ("R1", "booked", "1000"),
            ("R2", "reversed", "250"),
            ("R3", "unmatched", "1000"),
        ]
        assert rows[2]["account"].startswith("'=")
        assert rows[0]["paid_at"] == "2026-03-02T00:00:00Z"
        for wrong, status in (
            ({"channel": "mail", "day": "2026-03-02"}, 422),
            ({"channel": "app", "day": "today"}, 400),
        ):
            answer = await client.get("/v1/payments/reconciliation", params=wrong, headers=cashier)
            assert answer.status_code == status, answer.text


async def test_what_a_person_tells_of_a_meter_is_charged(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        admin = site.token("admin")
        site.pass_time(DAY, step=DAY)
        told: dict[str, Any] = {
            "meter": "M1",
            "day": "2026-03-02",
            "used": {"1-0:1.8.0": "10"},
            "note": "read by the fitter",
        }
        done = await client.post("/v1/meter-use", json=told, headers=admin)
        assert (done.status_code, done.json()["used"]) == (200, {"1-0:1.8.0": "10"}), done.text
        site.pass_time(timedelta(hours=1))
        assert await available(site, client) == -528
        for changes, word in (
            ({"used": {"1-0:1.8.0": "-1"}}, "$.used"),
            ({"used": {"1-0:1.8.0": 10}}, "$.used"),
            ({"used": {}}, "$.used"),
            ({"used": {"1-0:9.9.9": "1"}}, "1-0:9.9.9"),
            ({"day": "2026-03-09"}, "2026-03-09"),
            ({"day": "0001-01-01"}, "$.day"),
            ({"meter": "M77"}, "M77"),
            ({"note": ""}, "$.note"),
        ):
            refused = await client.post("/v1/meter-use", json=told | changes, headers=admin)
            assert refused.status_code == 422, refused.text
            assert word in refused.json()["detail"]


async def test_a_messengers_later_word_is_noted(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        teller = site.token("disconnect")
        site.pass_time(timedelta(hours=2))
        *_, letter = (await client.get("/v1/accounts/A1/notices", headers=site.token("read"))).json()["notices"]
        assert (letter["kind"], letter["state"]) == ("agreement", "delivered")
        told = {"reference": letter["reference"], "delivered": True}
        assert (await client.post("/v1/notice-receipts", json=told, headers=teller)).status_code == 200
        nobody = await client.post("/v1/notice-receipts", json=told | {"reference": "sms-99"}, headers=teller)
        assert_problem(nobody, 404, "not-found", "sms-99")


WORDS = (
    st.text(max_size=20) | st.integers() | st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
)


async def test_no_body_makes_a_payment_half_done(tmp_path: Path) -> None:
    """Whatever comes: a problem and no money, or a payment that is booked or kept; the books balance with it."""
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        cashier = site.token("cashier")
        loop = asyncio.get_running_loop()
        told: dict[str, int] = {}

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(
            changes=st.dictionaries(st.sampled_from(sorted(site.payment())), WORDS, max_size=3),
            receipt=st.sampled_from(["R1", "R2", "R3"]),
        )
        def tell(changes: dict[str, Any], receipt: str) -> None:
            body = site.payment(receipt) | changes
            asked = client.post("/v1/payments", json=body, headers=cashier)
            answer = asyncio.run_coroutine_threadsafe(asked, loop).result(20)
            assert answer.status_code in (200, 202, 400, 409, 422), answer.text
            if answer.status_code == 202:
                payment = answer.json()["payment"]
                told[f"{payment['channel']} {payment['receipt']}"] = payment["amount_minor"]

        await asyncio.to_thread(tell)
        kept = (await client.get("/v1/payments/unmatched", headers=cashier)).json()["payments"]
        booked = (await client.get("/v1/accounts/A1/payments", headers=cashier)).json()["payments"]
        assert {f"{one['channel']} {one['receipt']}": one["amount_minor"] for one in [*kept, *booked]} == told
        assert await available(site, client) == sum(one["amount_minor"] for one in booked)
        books_balance(site)


async def test_a_receipt_that_is_padded_or_composed_otherwise_is_the_same_receipt(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        cashier, admin = site.token("cashier"), site.token("admin")
        codes = [
            (await client.post("/v1/payments", json=site.payment(receipt), headers=cashier)).status_code
            for receipt in ("Ré1", "Ré1 ", " Re\u03011", "RÉ1")
        ]
        assert codes == [202, 200, 200, 202]  # another case may be another number
        assert await available(site, client) == 2000
        account = await client.post("/v1/payments", json=site.payment("R2", account=" A1 "), headers=cashier)
        assert account.json()["payment"]["state"] == "booked"
        back = await client.post("/v1/payments/app/Re\u03011 /reversal", json={"reason": "x"}, headers=admin)
        assert (back.status_code, back.json()["payment"]["receipt"]) == (200, "Ré1")
        nothing = await client.post("/v1/payments", json=site.payment("   "), headers=cashier)
        assert nothing.status_code == 422, nothing.text


async def test_nobody_takes_a_receipt_that_our_own_debits_will_have(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        told = site.payment("debit:A1:2026-03-03:1", channel="bank-debit", amount_minor=1)
        answer = await client.post("/v1/payments", json=told, headers=site.token("cashier"))
        assert_problem(answer, 422, "bad-payment", "debit:")
        assert await available(site, client) == 0


async def test_what_people_write_is_no_formula_in_the_file_either(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client, "-A2", "M2")
        cashier, admin = site.token("cashier"), site.token("admin")
        for receipt, reason in (("R1", "=cmd|' /C calc'!A0"), ("\uff1dR2", "\uff1d1+1"), ("R3", "bounced")):
            taken = await client.post("/v1/payments", json=site.payment(receipt, account="-A2"), headers=cashier)
            assert taken.status_code == 202, taken.text
            gone = await client.post(f"/v1/payments/app/{receipt}/reversal", json={"reason": reason}, headers=admin)
            assert gone.status_code == 200, gone.text
        asked = {"channel": "app", "day": "2026-03-02"}
        file = await client.get("/v1/payments/reconciliation", params=asked, headers=cashier | {"Accept": "text/csv"})
        cells = [cell for row in csv.DictReader(io.StringIO(file.text)) for cell in row.values()]
        assert cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\uff1d"))]
        assert "bounced" in cells


async def test_what_a_top_up_earned_stands_with_the_accounts_payments(tmp_path: Path) -> None:
    async with site_of(tmp_path, rule=SPRING) as (site, client):
        await site.enrol(client)
        cashier, admin, own = site.token("cashier"), site.token("admin"), site.token("customer", account="A1")
        for receipt, amount in (("R1", 10000), ("R2", 10000), ("R3", 500)):
            told = site.payment(receipt, amount_minor=amount)
            taken = await client.post("/v1/payments", json=told, headers=cashier)
            assert "earned" not in taken.json()["payment"]
        earned = {"points": 20, "bonus_minor": 50, "rule": "spring", "is_taken_back": False}
        for headers in (cashier, own):
            found = (await client.get("/v1/accounts/A1/payments", headers=headers)).json()["payments"]
            assert [one.get("earned") for one in found] == [earned, None, None]
            assert ["earned" in one for one in found] == [True, False, False]
        await client.post("/v1/payments/app/R1/reversal", json={"reason": "it bounced"}, headers=admin)
        found = (await client.get("/v1/accounts/A1/payments", headers=own)).json()["payments"]
        assert [one.get("earned") for one in found] == [earned | {"is_taken_back": True}, None, None]


def test_a_kind_of_a_known_error_is_answered_as_that_one() -> None:
    answer = EXCEPTION_HANDLERS[HeadendError](None, SwitchedOff("nothing is switched here"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert b"switchboard-unavailable" in answer.content
