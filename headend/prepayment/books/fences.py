"""Fence tokens: proof that a balance knows of every payment that the command interface was told of.

A payment is told before it is booked, with a number that counts up. A balance carries the highest number, or where payments of its
account are told and not booked yet, one below theirs: so a balance that lacks a payment never has the fence of one that has it.

All accounts count together, because the command interface remembers fences by meter: a meter that comes to another account brings the
numbers of the account before, and an order with a lower one would be refused for ever. Every function works inside its caller's
transaction.
"""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, delete, func, select

from headend.prepayment.days import epoch_ms, from_epoch_ms
from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.tables import fenced_payments, fences

__all__ = ["ALL_ACCOUNTS", "FencedPayment", "booked", "fence_of", "fenced", "next_fence", "raise_fence"]

ALL_ACCOUNTS = ""  # the one row of `fences`; those of accounts are from versions in which each counted for itself


class FencedPayment(Struct, frozen=True, kw_only=True):
    """Told and not booked: money that a channel may have, and that nobody has told again since a crash."""

    channel: str
    receipt: str
    account: str
    fence: int
    since: datetime


def raise_fence(connection: Connection, account: str, channel: str, receipt: str, now: datetime) -> int:
    """The number to tell. The same payment told again, after a crash, has a new one."""
    number = next_fence(connection)
    put_rows(connection, fenced_payments, [(channel, receipt, account, number, epoch_ms(now))])
    return number


def next_fence(connection: Connection) -> int:
    """For a credit that is in the balance already, however it came there."""
    number = _highest(connection) + 1
    put_rows(connection, fences, [(ALL_ACCOUNTS, number)])
    return number


def booked(connection: Connection, channel: str, receipt: str) -> None:
    """In the transaction that books it."""
    own = fenced_payments.c
    connection.execute(delete(fenced_payments).where(own.channel == channel, own.receipt == receipt))


def fence_of(connection: Connection, account: str) -> int:
    """Of a balance that is read in the same transaction."""
    own = fenced_payments.c
    waiting = connection.execute(select(func.min(own.fence)).where(own.account == account)).scalar()
    return _highest(connection) if waiting is None else waiting - 1


def fenced(connection: Connection, account: str | None = None) -> list[FencedPayment]:
    """Oldest first. While an account has one, nothing of it may be disconnected; those that stay are a person's affair."""
    statement = select(fenced_payments).order_by(fenced_payments.c.since)
    if account is not None:
        statement = statement.where(fenced_payments.c.account == account)
    return [
        FencedPayment(
            channel=row.channel,
            receipt=row.receipt,
            account=row.account,
            fence=row.fence,
            since=from_epoch_ms(row.since),
        )
        for row in connection.execute(statement)
    ]


def _highest(connection: Connection) -> int:
    number = connection.execute(select(fences.c.number).where(fences.c.account == ALL_ACCOUNTS)).scalar()
    # A database of a version in which each account counted for itself has no such row yet: it goes on above all of them.
    return number if number is not None else connection.execute(select(func.max(fences.c.number))).scalar() or 0
