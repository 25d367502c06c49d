"""What an account used and what it cost, day by day and month by month. Every function works inside its caller's transaction."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from msgspec import Struct
from sqlalchemy import Connection, select

from headend.prepayment.days import day_number, day_of
from headend.prepayment.errors import UnknownAccount
from headend.prepayment.settlement.forecast import DayCost
from headend.prepayment.settlement.settlement import charges_of
from headend.prepayment.storage.tables import accounts
from headend.prepayment.tariffs.tariff import Band, Line

__all__ = ["Comparison", "DayUse", "MonthUse", "comparison", "costs_of", "daily_use", "month_of"]


class DayUse(Struct, frozen=True, kw_only=True):
    """A charged day. since: the first of a stretch that could only be charged as one. exact_minor: as it is known now.

    booked_minor: as booked with the day; a correction is an entry of its own.
    """

    since: date
    day: date
    used: dict[Band, Decimal]
    exact_minor: Decimal
    booked_minor: int
    revision: int
    tariff: str
    version: str
    lines: tuple[Line, ...]

    @property
    def kwh(self) -> Decimal:
        return sum(self.used.values(), Decimal(0))


class MonthUse(Struct, frozen=True, kw_only=True):
    """days: so many were charged."""

    month: str
    days: int
    kwh: Decimal
    exact_minor: Decimal


class Comparison(Struct, frozen=True, kw_only=True):
    """This month so far, the same days of last month, and all of last month."""

    this: MonthUse
    last_so_far: MonthUse
    last: MonthUse


def daily_use(connection: Connection, account: str, since: date, until: date) -> list[DayUse]:
    """Charged days in [since, until), oldest first. Raises UnknownAccount."""
    number = _number(connection, account)
    return [
        DayUse(
            since=day_of(one.since),
            day=day_of(one.day),
            used={Band(band): kwh for band, kwh in one.body.used.items()},
            exact_minor=one.exact,
            booked_minor=one.minor,
            revision=one.revision,
            tariff=one.body.tariff,
            version=one.body.version,
            lines=tuple(
                Line(what=what, kwh=kwh, price=price, exact=exact) for what, kwh, price, exact in one.body.lines
            ),
        )
        for one in charges_of(connection, number, day_number(since), day_number(until) - 1)
        if not one.is_withdrawn
    ]


def costs_of(uses: Sequence[DayUse]) -> list[DayCost]:
    return [DayCost(since=use.since, day=use.day, minor=use.exact_minor) for use in uses]


def month_of(uses: Sequence[DayUse], month: date, *, days: int = 31) -> MonthUse:
    """month: any day of it. days: of its first so many."""
    own = [use for use in uses if (use.day.year, use.day.month) == (month.year, month.month) and use.day.day <= days]
    return MonthUse(
        month=f"{month:%Y-%m}",
        days=len(own),
        kwh=sum((use.kwh for use in own), Decimal(0)),
        exact_minor=sum((use.exact_minor for use in own), Decimal(0)),
    )


def comparison(connection: Connection, account: str, today: date) -> Comparison:
    """With last month. Raises UnknownAccount."""
    first = today.replace(day=1)
    before = (first - timedelta(days=1)).replace(day=1)
    uses = daily_use(connection, account, before, today + timedelta(days=1))
    so_far = max((use.day.day for use in uses if use.day >= first), default=0)
    return Comparison(
        this=month_of(uses, first), last_so_far=month_of(uses, before, days=so_far), last=month_of(uses, before)
    )


def _number(connection: Connection, account: str) -> int:
    number: int | None = connection.execute(select(accounts.c.number).where(accounts.c.id == account)).scalar()
    if number is None:
        raise UnknownAccount(account)
    return number
