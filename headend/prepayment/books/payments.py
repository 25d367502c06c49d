"""Taking money: each receipt of a channel once, however often and in whatever order it is told.

What cannot be booked for an account is kept as unmatched and never refused into nothing: the money is there, and somebody has paid it.
Only what cannot be money (nothing, less than nothing, an unknown currency, a time to come) is refused.

A payment's fence goes first: whoever orders disconnections is told of the payment before it is booked (`fence`). A fence that was
raised for a payment that is then not booked costs a disconnection that is looked at again the next day; a payment without its fence
could cost a customer who has paid the supply.
"""

import unicodedata
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from msgspec.structs import replace
from sqlalchemy import Connection, Row, insert, select, update

from headend.feed.envelope import iso_utc
from headend.prepayment.books.books import post
from headend.prepayment.days import epoch_ms, from_epoch_ms
from headend.prepayment.errors import BadPayment, KeyReused
from headend.prepayment.model import (
    AMOUNT_MAX,
    CHANNELS,
    AccountState,
    Cause,
    Entry,
    Payment,
    PaymentState,
    customer_book,
)
from headend.prepayment.money import MINOR_DIGITS
from headend.prepayment.storage.tables import accounts, payments

__all__ = [
    "assign",
    "check",
    "find",
    "of_account",
    "of_day",
    "problem_of",
    "receipt_of",
    "reverse",
    "take",
    "unmatched",
]

AHEAD_MAX = timedelta(minutes=10)  # of a channel's clock before ours


def receipt_of(text: str) -> str:
    """One spelling of what is the same to everybody who reads it: no spaces around, and Unicode's composed form. A channel that pads
    its numbers one day, and not when it tells them again, has told one payment. Whoever is told a receipt spells it so."""
    return unicodedata.normalize("NFC", text).strip()


def check(payment: Payment, now: datetime) -> None:
    """Whether it can be money at all. Raises BadPayment."""
    if payment.channel not in CHANNELS:
        raise BadPayment(f"channel {payment.channel!r}; expected one of {', '.join(CHANNELS)}")
    if not payment.receipt or len(payment.receipt) > 128 or not payment.receipt.isprintable():
        raise BadPayment(
            f"receipt {payment.receipt[:40]!r}; expected the channel's own number, 1 to 128 printable characters"
        )
    if payment.currency not in MINOR_DIGITS:
        raise BadPayment(f"currency {payment.currency!r}; expected one of {', '.join(MINOR_DIGITS)}")
    if not 0 < payment.amount_minor <= AMOUNT_MAX:
        raise BadPayment(
            f"amount_minor {payment.amount_minor}; expected 1 to {AMOUNT_MAX} minor units. A payment is taken back by a reversal"
        )
    if payment.paid_at > now + AHEAD_MAX:
        raise BadPayment(f"paid_at {iso_utc(payment.paid_at)} has not come yet; it is {iso_utc(now)}")


def find(connection: Connection, channel: str, receipt: str) -> Payment | None:
    statement = select(payments).where(payments.c.channel == channel, payments.c.receipt == receipt)
    row = connection.execute(statement).first()
    return None if row is None else _payment(row)


def take(connection: Connection, payment: Payment, zone: ZoneInfo) -> Payment:
    """Book it, or keep it as unmatched; the same receipt again gives what became of it. Call `check` first. Raises KeyReused."""
    known = find(connection, payment.channel, payment.receipt)
    if known is not None:
        _refuse_other(known, payment)
        return known
    problem = problem_of(connection, payment)
    if problem:
        taken = replace(payment, state=PaymentState.UNMATCHED, booked_for="", problem=problem)
    else:
        taken = replace(payment, state=PaymentState.BOOKED, booked_for=payment.account, problem="")
    entry = _entry(taken, zone)
    taken = replace(taken, entry=post(connection, [entry])[0].number)
    connection.execute(insert(payments), [_row(taken)])
    return taken


def assign(
    connection: Connection, payment: Payment, account: str, now: datetime, zone: ZoneInfo, *, by: str
) -> Payment:
    """An unmatched payment was this account's. Raises BadPayment where it is not unmatched or the account cannot take it."""
    if payment.state is not PaymentState.UNMATCHED:
        raise BadPayment(
            f"{payment.channel} receipt {payment.receipt} is {payment.state.value}; expected an unmatched one"
        )
    if problem := problem_of(connection, replace(payment, account=account)):
        raise BadPayment(f"{payment.channel} receipt {payment.receipt} cannot be given to {account!r}: {problem}")
    entry = Entry(
        from_book=_suspense(payment.currency),
        to_book=customer_book(account),
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        cause=Cause.PAYMENT,
        key=f"assign:{payment.channel}:{payment.receipt}",
        day=now.astimezone(zone).date(),
        at=now,
        reference=payment.receipt,
        note=f"assigned by {by}",
    )
    found = replace(
        payment, state=PaymentState.BOOKED, booked_for=account, problem="", entry=post(connection, [entry])[0].number
    )
    _store(connection, found)
    return found


def reverse(
    connection: Connection, payment: Payment, now: datetime, zone: ZoneInfo, *, reason: str, by: str = ""
) -> Payment:
    """The channel took it back; once, however often it is told. What the customer owes by it is owed: no supply is opened for it
    before the usual notices."""
    if payment.state is PaymentState.REVERSED:
        return payment
    taken_from = customer_book(payment.booked_for) if payment.booked_for else _suspense(payment.currency)
    entry = Entry(
        from_book=taken_from,
        to_book=_channel_book(payment.channel),
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        cause=Cause.REVERSAL,
        key=f"reverse:{payment.channel}:{payment.receipt}",
        day=now.astimezone(zone).date(),
        at=now,
        reference=payment.receipt,
        note=f"{reason} ({by})" if by else reason,
        reverses=payment.entry,
    )
    post(connection, [entry])
    reversed_ = replace(payment, state=PaymentState.REVERSED, problem=reason)
    _store(connection, reversed_)
    return reversed_


def of_account(connection: Connection, account: str) -> list[Payment]:
    """Oldest first."""
    statement = select(payments).where(payments.c.booked_for == account)
    return [_payment(row) for row in connection.execute(statement.order_by(payments.c.paid_at))]


def unmatched(connection: Connection) -> list[Payment]:
    """Money that waits for somebody to say whose it is; oldest first."""
    statement = select(payments).where(payments.c.state == PaymentState.UNMATCHED.value)
    return [_payment(row) for row in connection.execute(statement.order_by(payments.c.received_at))]


def of_day(connection: Connection, channel: str, start: datetime, end: datetime) -> Iterator[Payment]:
    """Those that a channel dates in [start, end), for its reconciliation file."""
    statement = select(payments).where(
        payments.c.channel == channel, payments.c.paid_at >= epoch_ms(start), payments.c.paid_at < epoch_ms(end)
    )
    for row in connection.execute(statement.order_by(payments.c.paid_at, payments.c.receipt)):
        yield _payment(row)


# ------------------------------------------------------------------------------------------------ inside


def problem_of(connection: Connection, payment: Payment) -> str:
    """Why it cannot be booked for its account; "" when it can."""
    account = connection.execute(select(accounts).where(accounts.c.id == payment.account)).first()
    if account is None:
        return f"no account {payment.account!r} is known"
    if account.state == AccountState.CLOSED.value:
        return f"account {payment.account!r} is closed"
    if account.currency != payment.currency:
        return f"account {payment.account!r} is kept in {account.currency}, the payment is in {payment.currency}"
    return ""


def _entry(payment: Payment, zone: ZoneInfo) -> Entry:
    return Entry(
        from_book=_channel_book(payment.channel),
        to_book=customer_book(payment.booked_for) if payment.booked_for else _suspense(payment.currency),
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        cause=Cause.PAYMENT,
        key=f"payment:{payment.channel}:{payment.receipt}",
        day=_day(payment.paid_at, zone),
        at=payment.received_at,
        reference=payment.receipt,
        note=payment.problem,
    )


def _day(paid_at: datetime, zone: ZoneInfo) -> date:
    return paid_at.astimezone(zone).date()


def _channel_book(channel: str) -> str:
    return f"channel:{channel}"


def _suspense(currency: str) -> str:
    return f"unmatched:{currency}"


def _refuse_other(known: Payment, told: Payment) -> None:
    """A channel tells a payment again after a crash of its own, with the same content; when we received it differs."""
    told = replace(told, paid_at=from_epoch_ms(epoch_ms(told.paid_at)))  # as it was kept
    for name in ("account", "amount_minor", "currency", "paid_at"):
        if getattr(known, name) != getattr(told, name):
            raise KeyReused(
                f"receipt {told.receipt} of {told.channel}", f"{name} {getattr(known, name)}, now {getattr(told, name)}"
            )


def _store(connection: Connection, payment: Payment) -> None:
    row = _row(payment)
    connection.execute(
        update(payments)
        .where(payments.c.channel == row.pop("channel"), payments.c.receipt == row.pop("receipt"))
        .values(row)
    )


def _row(payment: Payment) -> dict[str, object]:
    return {
        "channel": payment.channel,
        "receipt": payment.receipt,
        "account": payment.account,
        "booked_for": payment.booked_for,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "paid_at": epoch_ms(payment.paid_at),
        "received_at": epoch_ms(payment.received_at),
        "state": payment.state.value,
        "entry": payment.entry,
        "problem": payment.problem,
    }


def _payment(row: Row[Any]) -> Payment:
    found = dict(row._mapping)
    return Payment(
        **found
        | {
            "paid_at": from_epoch_ms(found["paid_at"]),
            "received_at": from_epoch_ms(found["received_at"]),
            "state": PaymentState(found["state"]),
        }
    )
