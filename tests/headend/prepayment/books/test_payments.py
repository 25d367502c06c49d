"""Money is taken once, never lost, and never for nobody without a word."""

import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, insert

from headend.database.engine import reading, writing
from headend.prepayment.books import payments
from headend.prepayment.books.books import balance_of, check_books
from headend.prepayment.days import day_number
from headend.prepayment.errors import BadPayment, KeyReused
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.storage.tables import accounts, customers, premises
from tests.headend.prepayment.support import NOON, database

pytestmark = pytest.mark.both_databases

SHANGHAI = ZoneInfo("Asia/Shanghai")
PAID = Payment(
    channel="app", receipt="R1", account="A1", amount_minor=5000, currency="CNY", paid_at=NOON, received_at=NOON
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with database(tmp_path) as engine:
        with writing(engine, "enrolling") as connection:
            connection.execute(
                insert(customers), [{"id": "C1", "name": "Wang", "identity_digest": "", "identity_tail": ""}]
            )
            connection.execute(insert(premises), [{"id": "P1", "address": "1", "is_submetered": 0}])
            for number, (name, state) in enumerate((("A1", "active"), ("A2", "active"), ("A9", "closed"))):
                connection.execute(insert(accounts), [account_row(number, name, state)])
        yield engine


def account_row(number: int, name: str, state: str) -> dict[str, Any]:
    return {
        "number": number, "id": name, "customer": "C1", "premises": "P1", "currency": "CNY", "tariff": "flat", "state": state,
        "opened_on": day_number(date(2026, 1, 1)), "closed_on": None, "reminder_minor": 0, "topup_minor": 0, "bank": "",
        "is_large_household": 0,
    }  # fmt: skip


def took(engine: Engine, payment: Payment) -> Payment:
    with writing(engine, "taking a payment") as connection:
        return payments.take(connection, payment, SHANGHAI)


def credit(engine: Engine, account: str = "A1") -> int:
    with reading(engine, "looking") as connection:
        assert check_books(connection) == []
        return balance_of(connection, account, "CNY")


class Crash(Exception):
    """The process died."""


def test_told_twenty_times_out_of_order_by_two_channels_with_crashes_it_is_booked_once(engine: Engine) -> None:
    """Two payments by two channels whose receipts have the same number are two payments."""
    other = replace(PAID, channel="bank", amount_minor=700)
    told = [PAID, other] * 20
    chance = random.Random(5)
    chance.shuffle(told)
    for payment in told:
        late = replace(payment, received_at=NOON + timedelta(minutes=chance.randrange(600)))
        try:
            with writing(engine, "taking a payment") as connection:
                payments.take(connection, late, SHANGHAI)
                if chance.random() < 0.4:
                    raise Crash
        except Crash:
            continue
    for payment in (PAID, other):
        assert took(engine, payment).state is PaymentState.BOOKED
    assert credit(engine) == 5700


@pytest.mark.parametrize(
    ("payment", "why"),
    [
        (replace(PAID, account="A7"), "no account 'A7' is known"),
        (replace(PAID, account="A9"), "'A9' is closed"),
        (replace(PAID, currency="EUR"), "kept in CNY, the payment is in EUR"),
    ],
    ids=["unknown", "closed", "currency"],
)
def test_money_for_nobody_is_kept_until_somebody_says_whose_it_is(engine: Engine, payment: Payment, why: str) -> None:
    taken = took(engine, payment)
    assert taken.state is PaymentState.UNMATCHED
    assert why in taken.problem
    with reading(engine, "looking") as connection:
        assert [one.receipt for one in payments.unmatched(connection)] == ["R1"]
    assert credit(engine) == 0
    if payment.currency != "CNY":
        with pytest.raises(BadPayment, match="cannot be given"):
            assigned(engine, taken, "A1")
        return
    assert assigned(engine, taken, "A1").booked_for == "A1"
    assert credit(engine) == 5000
    # The channel tells it again, for the account that it knows.
    assert took(engine, payment).state is PaymentState.BOOKED
    assert credit(engine) == 5000
    with pytest.raises(BadPayment, match="expected an unmatched one"):
        assigned(engine, took(engine, payment), "A2")


def assigned(engine: Engine, payment: Payment, account: str) -> Payment:
    with writing(engine, "assigning") as connection:
        return payments.assign(connection, payment, account, NOON, SHANGHAI, by="clerk")


def test_a_receipt_with_other_content_is_another_payment_under_a_used_number(engine: Engine) -> None:
    took(engine, PAID)
    for other in (
        replace(PAID, amount_minor=5001),
        replace(PAID, account="A2"),
        replace(PAID, paid_at=NOON - timedelta(days=1)),
    ):
        with pytest.raises(KeyReused, match="receipt R1 of app"):
            took(engine, other)
    assert credit(engine) == 5000


@pytest.mark.parametrize("account", ["A1", "A7"])
def test_a_reversal_takes_back_once_what_was_booked(engine: Engine, account: str) -> None:
    taken = took(engine, replace(PAID, account=account))
    for _ in range(3):
        with writing(engine, "reversing") as connection:
            current = payments.find(connection, "app", "R1")
            assert current is not None
            back = payments.reverse(connection, current, NOON, SHANGHAI, reason="card refused later")
    assert (taken.state, back.state) != (back.state, back.state)
    assert credit(engine) == 0
    with reading(engine, "looking") as connection:
        assert payments.unmatched(connection) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"amount_minor": 0}, "expected 1 to"),
        ({"amount_minor": -100}, "taken back by a reversal"),
        ({"amount_minor": 10**13}, "expected 1 to"),
        ({"currency": "RMB"}, "expected one of CNY"),
        ({"channel": "pigeon"}, "expected one of app, bank"),
        ({"receipt": ""}, "1 to 128 printable"),
        ({"receipt": "a\nb"}, "1 to 128 printable"),
        ({"paid_at": NOON + timedelta(hours=1)}, "has not come yet"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_can_be_no_money_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadPayment, match=told):
        payments.check(replace(PAID, **change), NOON)
    payments.check(PAID, NOON)


def test_a_channels_day_lists_what_it_dates_there(engine: Engine) -> None:
    for place, hours in enumerate((-24, -1, 0, 5, 24)):
        took(engine, replace(PAID, receipt=f"R{place}", paid_at=NOON + timedelta(hours=hours)))
    with reading(engine, "looking") as connection:
        found = list(payments.of_day(connection, "app", NOON - timedelta(hours=2), NOON + timedelta(hours=6)))
        assert [payment.receipt for payment in found] == ["R1", "R2", "R3"]
        assert [payment.receipt for payment in payments.of_account(connection, "A1")] == ["R0", "R1", "R2", "R3", "R4"]


def test_nothing_is_half_done_when_it_fails_in_between(engine: Engine) -> None:
    def fails(connection: Connection) -> None:
        payments.take(connection, PAID, SHANGHAI)
        raise Crash

    with pytest.raises(Crash), writing(engine, "taking a payment") as connection:
        fails(connection)
    with reading(engine, "looking") as connection:
        assert payments.find(connection, "app", "R1") is None
    assert credit(engine) == 0
