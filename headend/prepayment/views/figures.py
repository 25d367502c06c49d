"""How prepaid supply stands, in numbers; no account and no customer in them."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Column, ColumnElement, Connection, Table, case, func, select

from headend.prepayment.days import LocalDays, day_number
from headend.prepayment.model import AccountState
from headend.prepayment.storage.supply_tables import HANDED, HEARD, cursor_of, episodes, messages
from headend.prepayment.storage.tables import (
    accounts,
    feed_cursor,
    fenced_payments,
    flags,
    outbox,
    payments,
    positions,
    unsettled,
)

__all__ = ["Figures", "figures_of"]

# Messages and payments are kept for ever: after some years it takes seconds to go through them, and the duties wait meanwhile.
COUNT_EVERY = timedelta(minutes=15)


class Figures(Struct, frozen=True, kw_only=True):
    """accounts, episodes, messages: by state; an account that was never in an episode counts in none. payments: by channel and state.

    flags: by kind. told_not_booked: payments. days_behind: whole days of active accounts, up to yesterday, of which nothing was
    charged yet; unsettled_days: those of them, and of days before, that have a reason. events_waiting: for the feed. heard_through: the
    feed's event up to which all was taken in. counted_at: accounts, payments, messages and days behind; None: never.
    """

    accounts: Mapping[str, int] = {}
    episodes: Mapping[str, int] = {}
    payments: Mapping[tuple[str, str], int] = {}
    messages: Mapping[str, int] = {}
    flags: Mapping[str, int] = {}
    told_not_booked: int = 0
    days_behind: int = 0
    unsettled_days: int = 0
    events_waiting: int = 0
    heard_through: int = 0
    counted_at: datetime | None = None


def figures_of(connection: Connection, now: datetime, days: LocalDays, before: Figures | None = None) -> Figures:
    """before: what was found the last time. What takes long to count is counted anew every COUNT_EVERY, the rest each time."""
    if before is None or before.counted_at is None or abs(now - before.counted_at) >= COUNT_EVERY:
        before = _counted(connection, now, days)
    handed = cursor_of(connection, HANDED) or 0
    heard = (connection.execute(select(feed_cursor.c.sequence)).scalar(), cursor_of(connection, HEARD))
    return replace(
        before,
        episodes=_counts(connection, episodes.c.state),
        flags=_counts(connection, flags.c.kind),
        told_not_booked=_count(connection, fenced_payments),
        unsettled_days=_count(connection, unsettled),
        events_waiting=_count(connection, outbox, outbox.c.number > handed),
        heard_through=min(one or 0 for one in heard),
    )


def _counted(connection: Connection, now: datetime, days: LocalDays) -> Figures:
    """What goes through whole tables that grow."""
    yesterday = day_number(days.today(now)) - 1
    charged = func.coalesce(positions.c.day, accounts.c.opened_on - 1)
    behind = (
        select(func.sum(case((charged < yesterday, yesterday - charged), else_=0)))
        .select_from(accounts.outerjoin(positions, positions.c.account == accounts.c.number))
        .where(accounts.c.state == AccountState.ACTIVE.value)
    )
    own = payments.c
    by_channel = select(own.channel, own.state, func.count()).group_by(own.channel, own.state)
    return Figures(
        accounts=_counts(connection, accounts.c.state),
        payments={(row[0], row[1]): int(row[2]) for row in connection.execute(by_channel)},
        messages=_counts(connection, messages.c.state),
        days_behind=int(connection.execute(behind).scalar() or 0),
        counted_at=now,
    )


def _counts(connection: Connection, column: Column[str]) -> dict[str, int]:
    return {name: int(found) for name, found in connection.execute(select(column, func.count()).group_by(column))}


def _count(connection: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())
