"""How prepaid supply stands, in numbers; no account and no customer in them."""

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Column, ColumnElement, Connection, Table, case, func, select

from headend.prepayment.heard import LocalDays
from headend.prepayment.model import AccountState
from headend.prepayment.rows import day_number
from headend.prepayment.supply_tables import episodes, messages, supply_cursors
from headend.prepayment.tables import (
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

# Rows of supply_cursors:
HANDED = 1  # our newest event that the feed has
HEARD = 2  # how far the feed was looked through for relay events


class Figures(Struct, frozen=True, kw_only=True):
    """accounts, episodes, messages: by state; an account that was never in an episode counts in none. payments: by channel and state.

    flags: by kind. told_not_booked: payments. days_behind: whole days of active accounts, up to yesterday, of which nothing was
    charged yet; unsettled_days: those of them, and of days before, that have a reason. events_waiting: for the feed. heard_through: the
    feed's event up to which all was taken in.
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


def figures_of(connection: Connection, now: datetime, days: LocalDays) -> Figures:
    """Goes through whole tables: for now and then."""
    handed = connection.execute(select(supply_cursors.c.number).where(supply_cursors.c.id == HANDED)).scalar() or 0
    yesterday = day_number(days.today(now)) - 1
    charged = func.coalesce(positions.c.day, accounts.c.opened_on - 1)
    behind = (
        select(func.sum(case((charged < yesterday, yesterday - charged), else_=0)))
        .select_from(accounts.outerjoin(positions, positions.c.account == accounts.c.number))
        .where(accounts.c.state == AccountState.ACTIVE.value)
    )
    by_channel = select(payments.c.channel, payments.c.state, func.count()).group_by(
        payments.c.channel, payments.c.state
    )

    def counts(column: Column[str]) -> dict[str, int]:
        return {name: int(found) for name, found in connection.execute(select(column, func.count()).group_by(column))}

    def count(table: Table, *where: ColumnElement[bool]) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())

    heard = (
        connection.execute(select(feed_cursor.c.sequence)).scalar(),
        connection.execute(select(supply_cursors.c.number).where(supply_cursors.c.id == HEARD)).scalar(),
    )
    return Figures(
        accounts=counts(accounts.c.state),
        episodes=counts(episodes.c.state),
        payments={(row[0], row[1]): int(row[2]) for row in connection.execute(by_channel)},
        messages=counts(messages.c.state),
        flags=counts(flags.c.kind),
        told_not_booked=count(fenced_payments),
        days_behind=int(connection.execute(behind).scalar() or 0),
        unsettled_days=count(unsettled),
        events_waiting=count(outbox, outbox.c.number > handed),
        heard_through=min(one or 0 for one in heard),
    )
