"""Drawn when it must be, within limits, and never twice; every payment's fence goes before its booking; points once a month."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from headend.errors import ConfigError
from headend.prepayment.books import fences
from headend.prepayment.books.autopay import Autopay, Drawn, Limits, debits_of
from headend.prepayment.books.books import balance_of, check_books, entries_of
from headend.prepayment.books.points import awards_of
from headend.prepayment.books.points_file import RULES, check_points_rule, load_points_rule
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import BadPayment, SwitchboardUnavailable, UnknownPayment
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.office.till import Till
from headend.prepayment.ports import Debited, DebitOutcome, OrderState, Supply
from headend.prepayment.storage.database import Database, open_database
from tests.databases import database_url
from tests.headend.prepayment.fleet import SHANGHAI, at, enrol
from tests.headend.support import with_account_tables

DAY = date(2026, 3, 2)
HOUR = timedelta(hours=1)


class SetClock:
    def __init__(self, now: datetime) -> None:
        self.at = now

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


class BankBook:
    """A bank that keeps its word: what it answered under a key, and what it drew."""

    def __init__(self) -> None:
        self.drawn: dict[str, int] = {}
        self.refusals: list[str] = []  # the next answers
        self.loses_answers = 0
        self.asked: list[str] = []

    def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
        self.asked.append(key)
        if key not in self.drawn and self.refusals:
            return Debited(DebitOutcome.REFUSED, self.refusals.pop(0))
        self.drawn[key] = amount_minor
        if self.loses_answers:
            self.loses_answers -= 1
            return Debited(DebitOutcome.UNKNOWN)
        return Debited(DebitOutcome.ACCEPTED)


class FenceKeeper:
    """A command interface that only keeps fences."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []
        self.is_away = False

    def payment(
        self, meter: str, *, reference: str, paid_at: datetime, amount_minor: int, currency: str, fence: int
    ) -> None:
        if self.is_away:
            raise SwitchboardUnavailable("no connection")
        self.told.append((meter, reference, fence))

    def order_open(self, meter: str, **_: object) -> OrderState:
        raise AssertionError("nothing is opened here")

    def state(self, command: str) -> OrderState:
        raise AssertionError("nothing is opened here")

    def supply(self, meter: str) -> Supply:
        return "on"


class Shop:
    def __init__(self, folder: Path) -> None:
        self.database: Database = open_database(with_account_tables(database_url(folder, "prepayment")))
        self.clock, self.days = SetClock(at(DAY, 1)), LocalDays(SHANGHAI)
        self.bank, self.board = BankBook(), FenceKeeper()
        self.till = Till(
            self.database, self.board, self.days, self.clock, rule=load_points_rule(RULES / "top-up-bonus.toml")
        )
        self.limits = Limits(per_month=3)
        with self.database.writing("enrolling") as connection:
            enrol(connection, "A1", ["M1", "M2"], "flat", DAY, reminder_minor=2000, topup_minor=5000, bank="DE-1")
            enrol(connection, "A2", ["M3"], "flat", DAY, reminder_minor=2000)

    def run(self) -> Drawn:
        desk = Autopay(self.database, self.bank, self.till.take, self.days, self.clock, limits=self.limits)
        after = ""
        while after := desk.note(after):
            pass
        return desk.draw()

    def credit(self, account: str = "A1") -> int:
        with self.database.reading("looking") as connection:
            assert check_books(connection) == []
            return balance_of(connection, account, "CNY")

    def paid(self, receipt: str, amount_minor: int, account: str = "A2", channel: str = "app") -> Payment:
        return Payment(
            channel=channel, receipt=receipt, account=account, amount_minor=amount_minor, currency="CNY",
            paid_at=self.clock.at, received_at=self.clock.at,
        )  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.database.dispose()


def spend(shop: Shop, amount_minor: int) -> None:
    with shop.database.writing("spending") as connection:
        from headend.prepayment.books.books import post
        from headend.prepayment.model import Cause, Entry, customer_book

        key = f"test:{len(entries_of(connection, 'A1'))}"
        entry = Entry(
            from_book=customer_book("A1"), to_book="revenue:energy", amount_minor=amount_minor, currency="CNY",
            cause=Cause.DAILY_CHARGE, key=key, day=DAY, at=shop.clock.at,
        )  # fmt: skip
        post(connection, [entry])


def test_below_the_reminder_amount_it_is_drawn_once_a_settlement(shop: Shop) -> None:
    assert shop.run() == Drawn(accepted=1)
    assert shop.credit() == 5000
    assert shop.credit("A2") == 0  # no agreement, no debit
    spend(shop, 4000)
    assert shop.run() == Drawn()  # once a day, however low it is: the top-up amount is too small, not the bank
    shop.clock.at += timedelta(days=1)
    assert shop.run() == Drawn(accepted=1)
    assert shop.credit() == 6000
    assert [fence for meter, _, fence in shop.board.told if meter == "M1"] == [1, 2]


def test_what_a_month_may_draw_is_limited(shop: Shop) -> None:
    for _ in range(5):
        shop.run()
        spend(shop, 5000)
        shop.clock.at += timedelta(days=1)
    assert len(shop.bank.drawn) == 3
    shop.clock.at = at(date(2026, 4, 1), 1)
    shop.limits = Limits(per_day_minor=4999)
    assert shop.run() == Drawn()
    shop.limits = Limits()
    assert shop.run() == Drawn(accepted=1)


def test_without_an_answer_the_same_key_is_asked_again_and_draws_once(shop: Shop) -> None:
    shop.bank.loses_answers = 2
    assert shop.run() == Drawn(unknown=1)
    assert shop.credit() == 0
    assert shop.run() == Drawn()  # not yet
    for _ in range(2):
        shop.clock.at += HOUR
        shop.run()
    assert shop.credit() == 5000
    assert set(shop.bank.asked) == {"debit:A1:2026-03-02:1"}
    assert shop.bank.drawn == {"debit:A1:2026-03-02:1": 5000}


def test_a_refusal_is_tried_again_under_a_new_key_and_given_up_in_the_end(shop: Shop) -> None:
    shop.bank.refusals = ["no funds"] * 3
    shop.run()
    for hours in (1, 4, 25, 30):
        shop.clock.at = at(DAY, 1) + hours * HOUR
        shop.run()
    with shop.database.reading("looking") as connection:
        first = debits_of(connection, "A1")[0]
    assert (first.state, first.tries, first.next_try_at, first.problem) == ("refused", 3, None, "no funds")
    assert shop.bank.asked[:3] == [f"debit:A1:2026-03-02:{number}" for number in (1, 2, 3)]


class Crash(Exception):
    """The process died."""


@pytest.mark.parametrize("after", range(1, 40, 2))
def test_a_crash_at_any_statement_draws_and_books_once(shop: Shop, after: int) -> None:
    left = [after]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash

    event.listen(shop.database.engine, "before_cursor_execute", count)
    died = False
    try:
        shop.run()
    except Crash:
        died = True
    event.remove(shop.database.engine, "before_cursor_execute", count)
    assert died is (left[0] <= 0)
    shop.clock.at += HOUR
    shop.run()
    assert shop.bank.drawn == {"debit:A1:2026-03-02:1": 5000}
    assert shop.credit() == 5000


def test_no_payment_is_booked_before_its_fence_and_a_balance_without_it_has_no_fence_of_it(shop: Shop) -> None:
    shop.till.take(shop.paid("R0", 100))
    shop.board.is_away = True
    with pytest.raises(SwitchboardUnavailable):
        shop.till.take(shop.paid("R1", 700))
    assert shop.credit("A2") == 100
    with shop.database.reading("looking") as connection:
        assert [one.receipt for one in fences.fenced(connection, "A2")] == ["R1"]
        assert fences.fence_of(connection, "A2") == 1
    shop.board.is_away = False
    for _ in range(3):
        assert shop.till.take(shop.paid("R1", 700)).state is PaymentState.BOOKED
    with shop.database.reading("looking") as connection:
        assert fences.fenced(connection) == []
        assert fences.fence_of(connection, "A2") == shop.board.told[-1][2] == 3
    assert shop.credit("A2") == 800
    with pytest.raises(BadPayment):
        shop.till.take(shop.paid("R2", 0))


def test_money_for_nobody_raises_no_fence_and_is_kept(shop: Shop) -> None:
    assert shop.till.take(shop.paid("R1", 700, account="A9")).state is PaymentState.UNMATCHED
    assert shop.board.told == []


def test_points_are_given_once_a_month_and_go_with_the_payment_that_earned_them(shop: Shop) -> None:
    for number, amount in enumerate((9_999, 50_000, 50_000)):
        shop.till.take(shop.paid(f"R{number}", amount))
    with shop.database.reading("looking") as connection:
        (award,) = awards_of(connection, "A2")
    assert (award.month, award.points, award.bonus_minor, award.receipt) == ("2026-03", 600, 200, "R1")
    assert shop.credit("A2") == 9_999 + 100_000 + 200
    for _ in range(2):
        shop.till.reverse("app", "R1", reason="card refused")
    assert shop.credit("A2") == 9_999 + 50_000
    shop.till.take(shop.paid("R3", 50_000))  # paying, taking back and paying again earns nothing
    assert shop.credit("A2") == 9_999 + 100_000
    shop.clock.at = at(date(2026, 4, 1))
    shop.till.take(shop.paid("R4", 50_000))
    assert shop.credit("A2") == 9_999 + 150_000 + 200
    with pytest.raises(UnknownPayment):
        shop.till.reverse("app", "R9", reason="unknown")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('currency = "CNY"', 'currency = "RMB"'), "'RMB'; expected one of CNY"),
        (('from = "500.00"', 'from = "50.00"'), "tiers[1].from: 50.00 is not above the tier before"),
        (('bonus = "2.00"', 'bonus = "2.001"'), "whole minor units"),
        (('bonus = "2.00"', 'bonus = "2000.00"'), "more than the top-up that earns it"),
        (('"app", ', '"pigeon", '), "'pigeon'; expected of app"),
        (('name = "top-up-bonus"', ""), "rule.name: missing"),
        (("[[tiers]]", "[[tier]]"), "no tier"),
        (("[rule]", "[rule"), "not TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1][:16],
)
def test_a_mistake_in_a_points_rule_is_told(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    text = (RULES / "top-up-bonus.toml").read_text(encoding="utf-8")
    assert change[0] in text
    path = tmp_path / "rule.toml"
    path.write_text(text.replace(*change), encoding="utf-8")
    assert told in "\n".join(str(problem) for problem in check_points_rule(path)[1])
    with pytest.raises(ConfigError):
        load_points_rule(path)
