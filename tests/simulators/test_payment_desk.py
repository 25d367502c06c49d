"""The simulated payment channels: what they tell, how often, and what they write down at the end of the day."""

import asyncio
import csv
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from typer.testing import CliRunner

from simulators.cli import app
from simulators.http_server import Answer, Request, answer_of, serve_http
from simulators.payment_desk import COLUMNS, PaidIn, PaymentDesk, Told, minor_of, write_reconciliation
from simulators.payment_traffic import CHANNELS, Habits, plan_traffic, play

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
CHINA = ZoneInfo("Asia/Shanghai")
FAST = (0.001, 0.002)


class Ledger:
    """A head-end as far as payments go: takes each receipt once. fails: answers of so many requests, before it takes anything."""

    def __init__(self, *fails: Answer | None) -> None:
        self.booked: dict[tuple[str, str], dict[str, Any]] = {}
        self.reversed_: set[tuple[str, str]] = set()
        self.requests = 0
        self.fails = list(fails)

    async def answer(self, request: Request) -> Answer | None:
        self.requests += 1
        if self.fails:
            return self.fails.pop(0)
        if request.headers.get("authorization") != "Bearer t":
            return answer_of(401, {"detail": "no token"})
        parts = request.path.strip("/").split("/")
        if parts[-1] == "reversal":
            key = (parts[2], parts[3])
            if key not in self.booked:
                return answer_of(404, {"detail": "no such payment"})
            self.reversed_.add(key)
            return answer_of(200, {"payment": self.booked[key] | {"state": "reversed"}})
        told = json.loads(request.body)
        if told["amount_minor"] <= 0:
            return answer_of(422, {"detail": "expected 1 or more"})
        known = self.booked.setdefault((told["channel"], told["receipt"]), told)
        return answer_of(200 if known is not told else 202, {"payment": told | {"state": "booked"}})


@asynccontextmanager
async def served(ledger: Ledger) -> AsyncIterator[str]:
    """Its URL."""
    server = await serve_http(ledger.answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def desk_at(ledger: Ledger, *, tries_max: int = 20) -> AsyncIterator[PaymentDesk]:
    async with (
        served(ledger) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer t"}, timeout=5) as client,
    ):
        yield PaymentDesk(client, tries_max=tries_max, pause_s=FAST)


def a_payment(receipt: str = "R1", *, amount_minor: int = 5000, paid_at: datetime = NOW) -> PaidIn:
    return PaidIn(
        channel="counter", receipt=receipt, account="A1", amount_minor=amount_minor, currency="CNY", paid_at=paid_at
    )


async def test_a_payment_is_told_until_somebody_answers() -> None:
    unavailable = answer_of(503, {"detail": "not now"})
    ledger = Ledger(None, unavailable, answer_of(429, {}), answer_of(408, {}))
    async with desk_at(ledger) as desk:
        told = await desk.pay(a_payment())
    assert (told.state, told.tries, told.problem) == ("taken", 5, "")
    assert told.answer["state"] == "booked"
    assert ledger.booked["counter", "R1"]["paid_at"] == "2026-03-02T08:00:00Z"


async def test_a_desk_that_nobody_answers_gives_up_and_keeps_the_payment_as_unanswered() -> None:
    ledger = Ledger(*[None] * 20)
    async with desk_at(ledger) as desk:
        told = await desk.pay(a_payment())
        assert (told.state, told.tries) == ("unanswered", 20)
        assert told.problem.startswith("no answer: ")
        assert (await desk.pay(a_payment())).state == "taken"  # told again the next day
    assert ledger.requests == 21


async def test_a_refusal_is_an_answer_and_its_reason_is_kept() -> None:
    ledger = Ledger()
    async with desk_at(ledger) as desk:
        told = await desk.pay(a_payment(amount_minor=-1))
    assert (told.state, told.tries, told.problem) == ("refused", 1, "422: expected 1 or more")


async def test_what_is_taken_back_stays_taken_back_however_late_the_payment_is_told_again() -> None:
    ledger = Ledger()
    async with desk_at(ledger) as desk:
        await desk.pay(a_payment())
        assert (await desk.reverse("counter", "R1", "a mistake")).state == "reversed"
        assert (await desk.pay(a_payment())).state == "reversed"
        with pytest.raises(KeyError):
            await desk.reverse("counter", "R2", "never given")
    assert ledger.reversed_ == {("counter", "R1")}


def test_a_day_of_traffic_comes_from_its_seed_alone() -> None:
    def planned(seed: int) -> object:
        return plan_traffic(["A1", "A2", "A3"], 200, seed=seed, start=NOW, span_s=60, habits=Habits(repeats_max=5))

    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_traffic_has_all_the_habits_of_channels() -> None:
    habits = Habits(repeats_max=20, late_max_s=30, reversed_=100, mistyped=100)
    traffic = plan_traffic(["A1", "A2"], 500, seed=3, start=NOW, span_s=60, habits=habits)
    assert len({(one.channel, one.receipt) for one in traffic.paid}) == 500
    assert {one.channel for one in traffic.paid} == set(CHANNELS)
    assert all(one.amount_minor > 0 for one in traffic.paid)
    times = Counter(telling.paid.receipt for telling in traffic.tellings if not telling.is_reversal)
    assert (min(times.values()), max(times.values())) == (1, 20)
    first = list(dict.fromkeys(telling.paid.receipt for telling in traffic.tellings))
    assert first != sorted(first)  # a later payment overtakes
    assert {telling.line for telling in traffic.tellings} == {0, 1}
    assert sum(one.account not in ("A1", "A2") for one in traffic.paid) > 20
    reversals = [telling for telling in traffic.tellings if telling.is_reversal]
    assert len(reversals) > 20
    last = {telling.paid.receipt: telling.at_s for telling in traffic.tellings if not telling.is_reversal}
    assert all(telling.at_s > last[telling.paid.receipt] for telling in reversals)
    with pytest.raises(ValueError, match="expected one at least"):
        plan_traffic([], 1, seed=1, start=NOW, span_s=1)


async def test_traffic_on_two_lines_over_a_bad_connection_is_once_in_the_ledger_and_the_days_agree(
    tmp_path: Path,
) -> None:
    ledger = Ledger(*[None, answer_of(503, {})] * 40)
    habits = Habits(repeats_max=6, late_max_s=0.2, reversed_=150, mistyped=0)
    traffic = plan_traffic(["A1", "A2", "A3"], 60, seed=5, start=NOW, span_s=0.2, habits=habits)
    async with desk_at(ledger) as desk:
        second = PaymentDesk(desk._client, pause_s=FAST, told=desk.told)
        await asyncio.wait_for(play(traffic, [desk, second]), 30)
        files = write_reconciliation(tmp_path, desk.told.values(), CHINA)
    assert not ledger.fails
    assert {key: one["amount_minor"] for key, one in ledger.booked.items()} == {
        (one.channel, one.receipt): one.amount_minor for one in traffic.paid
    }
    rows = [row for path in files for row in csv.DictReader(path.open(encoding="utf-8"))]
    assert {(row["channel"], row["receipt"]) for row in rows if row["state"] == "reversed"} == ledger.reversed_
    assert ledger.reversed_
    assert Counter(row["state"] for row in rows) == {
        "taken": 60 - len(ledger.reversed_),
        "reversed": len(ledger.reversed_),
    }


def test_a_reconciliation_file_is_of_a_channel_and_its_local_day(tmp_path: Path) -> None:
    evening = datetime(2026, 3, 2, 15, 59, 59, tzinfo=UTC)  # a second to midnight in China
    told = [
        Told(a_payment("R2", paid_at=evening), state="taken", tries=1),
        Told(a_payment("R1", paid_at=evening), state="refused", tries=2, problem="422: no"),
        Told(
            a_payment("R3", paid_at=evening + timedelta(seconds=1)), state="unanswered", tries=20, problem="no answer"
        ),
    ]
    first, second = write_reconciliation(tmp_path / "days", told, CHINA)
    assert [first.name, second.name] == ["counter-2026-03-02.csv", "counter-2026-03-03.csv"]
    assert first.read_text(encoding="utf-8").splitlines() == [
        ",".join(COLUMNS),
        "counter,R1,A1,5000,CNY,2026-03-02T15:59:59Z,refused,2,422: no",
        "counter,R2,A1,5000,CNY,2026-03-02T15:59:59Z,taken,1,",
    ]


def test_amounts_are_read_as_people_write_them() -> None:
    assert [minor_of(text, "CNY") for text in ("50", "49.9", "49.90", "0.01")] == [5000, 4990, 4990, 1]
    for text in ("", "-5", "7.", "1.234", "1,50", "5 yuan", ".5"):
        with pytest.raises(ValueError, match=r"expected an amount such as 50 or 49\.90 of CNY"):
            minor_of(text, "CNY")


def test_each_currency_has_its_own_digits() -> None:
    assert (minor_of("50", "JPY"), minor_of("1.5", "KWD"), minor_of("1.5", "USD")) == (50, 1500, 150)
    for text, currency, example in (("50.0", "JPY", "50 of JPY"), ("1.2345", "KWD", r"4\.990 of KWD")):
        with pytest.raises(ValueError, match=example):
            minor_of(text, currency)


async def test_the_command_tells_a_payment_and_its_exit_code_says_whether_it_was_taken(tmp_path: Path) -> None:
    ledger = Ledger()
    async with served(ledger) as url:

        async def run(*arguments: str) -> Any:
            given = ["payment-desk", *arguments, "--url", url, "--reconcile", str(tmp_path), "--json"]
            return await asyncio.to_thread(CliRunner().invoke, app, given)

        done = await run("pay", "A1", "49.90", "--token", "t", "--channel", "app", "--receipt", "R1", "--times", "3")
        assert done.exit_code == 0, done.output
        shown = json.loads(done.stdout)
        assert (shown["state"], shown["told"], shown["amount_minor"]) == ("taken", 3, 4990)
        assert shown["payment"]["state"] == "booked"
        assert list(ledger.booked) == [("app", "R1")]
        done = await run("pay", "A1", "49.90", "--token", "wrong")
        assert done.exit_code == 1
        assert json.loads(done.stdout)["problem"] == "401: no token"
        traffic = ("--account", "A1", "--account", "A2", "--count", "20", "--span-s", "0.1", "--late-s", "0.1")
        done = await run("traffic", "--token", "t", *traffic)
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == 20
        assert len(ledger.booked) == 21


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pay", "A1", "1.234", "--url", "http://h", "--token", "t"), "expected an amount such as 50 or 49.90"),
        (("pay", "A1", "5", "--url", "h:80", "--token", "t"), "expected such as http://127.0.0.1:8645"),
        (("pay", "A1", "5", "--url", "http://h", "--token", "t", "--times", "0"), "expected 1 to 1000"),
        (("traffic", "--account", "A", "--url", "http://h", "--token", "t", "--count", "0"), "expected 1 to 100000"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused_with_what_was_expected(
    arguments: tuple[str, ...], expected: str
) -> None:
    done = CliRunner().invoke(app, ["payment-desk", *arguments])
    assert done.exit_code == 2, done.output
    assert expected in " ".join(done.stderr.replace("│", " ").split())
