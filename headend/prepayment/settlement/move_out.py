"""Moving out: an account is settled to its last day, what remains is given back or stays owed, and it is closed for ever.

It waits until every day up to the last one is charged; `finish` is called after each settlement. Every function works inside its
caller's transaction.
"""

from datetime import date, datetime, timedelta
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, select, update

from headend.prepayment.accounts import accounts
from headend.prepayment.accounts.agenda import touch_account
from headend.prepayment.books.books import balance_of, post
from headend.prepayment.days import day_number, day_of, epoch_ms, from_epoch_ms
from headend.prepayment.errors import BadInput, NotSettled
from headend.prepayment.model import AccountState, Cause, Entry, customer_book
from headend.prepayment.settlement.settlement import Settlement, unsettled_days
from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.tables import accounts as account_rows
from headend.prepayment.storage.tables import move_outs

__all__ = ["MoveOut", "ask", "asked", "finish", "waiting"]

_DAY = timedelta(days=1)


class MoveOut(Struct, frozen=True, kw_only=True):
    """last_day: the last local day that is charged. done_at: None while it waits. remainder_minor: given back; below 0, owed."""

    account: str
    last_day: date
    asked_at: datetime
    by: str
    done_at: datetime | None = None
    remainder_minor: int | None = None


def ask(connection: Connection, account: str, last_day: date, now: datetime, *, by: str) -> MoveOut:
    """From now on no day behind the last one is charged.

    Raises UnknownAccount, AccountClosed, BadInput for a day before the first.
    """
    found = accounts.not_closed(connection, account)
    if last_day < found.opened_on:
        raise BadInput(
            f"account {account!r} began on {found.opened_on}; expected a last day from then on, found {last_day}"
        )
    before = asked(connection, account)
    put_rows(connection, move_outs, [(account, day_number(last_day), epoch_ms(now), by, None, None)])
    connection.execute(update(account_rows).where(account_rows.c.id == account).values(closed_on=day_number(last_day)))
    touch_account(connection, account, last_day if before is None else min(before.last_day, last_day))
    return MoveOut(account=account, last_day=last_day, asked_at=now, by=by)


def finish(connection: Connection, account: str, settlement: Settlement, now: datetime) -> None:
    """Raises NotSettled while a day is not charged: it names them. The same account again gives AccountClosed."""
    found = accounts.not_closed(connection, account)
    wanted = asked(connection, account)
    if wanted is None:
        raise NotSettled(f"nobody asked to close account {account!r}; expected its last day to be told first")
    if settlement.days.today(now) <= wanted.last_day:
        raise NotSettled(f"{wanted.last_day}, the last day of account {account!r}, is not over")
    if found.state is AccountState.ACTIVE:
        settlement.settle_account(connection, account, now)
        missing = unsettled_days(connection, wanted.last_day + _DAY, account=account)
        if missing:
            named = "; ".join(f"{one.day}: {one.reason}" for one in missing[:5])
            raise NotSettled(f"{len(missing)} days of account {account!r} are not charged ({named})")
    remainder = balance_of(connection, account, found.currency)
    if remainder:
        # What is given back waits in a book of its own until it is paid out; what is owed stays a claim against this customer.
        other = f"refund:{account}" if remainder > 0 else f"claim:{account}"
        post(
            connection,
            [
                Entry(
                    from_book=customer_book(account) if remainder > 0 else other,
                    to_book=other if remainder > 0 else customer_book(account),
                    amount_minor=abs(remainder),
                    currency=found.currency,
                    cause=Cause.SETTLEMENT,
                    key=f"settle:{account}",
                    day=settlement.days.today(now),
                    at=now,
                    note=f"final settlement to {wanted.last_day}",
                )
            ],
        )
    accounts.close(connection, account, wanted.last_day)
    own = move_outs.c
    connection.execute(
        update(move_outs).where(own.account == account).values(done_at=epoch_ms(now), remainder_minor=remainder)
    )


def asked(connection: Connection, account: str) -> MoveOut | None:
    row = connection.execute(select(move_outs).where(move_outs.c.account == account)).first()
    return None if row is None else _move_out(row)


def waiting(connection: Connection, before: date) -> list[MoveOut]:
    """Whose last day is over, and who are not settled yet; oldest first."""
    own = move_outs.c
    statement = select(move_outs).where(own.done_at.is_(None), own.last_day < day_number(before)).order_by(own.last_day)
    return [_move_out(row) for row in connection.execute(statement)]


def _move_out(row: Row[Any]) -> MoveOut:
    found = dict(row._mapping)
    return MoveOut(
        **found
        | {
            "last_day": day_of(found["last_day"]),
            "asked_at": from_epoch_ms(found["asked_at"]),
            "done_at": None if found["done_at"] is None else from_epoch_ms(found["done_at"]),
        }
    )
