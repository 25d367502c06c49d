"""Accounts, their meters and a feed for tests, and an oracle that recomputes from what was fed what every account has to pay.

The oracle shares no code with the engine but the tariffs' own figures: fractions, each step period in one formula, sums of what flowed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, insert, select

from headend.prepayment.books.books import entries_of
from headend.prepayment.days import day_number
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.tables import account_meters, accounts, customers, premises
from headend.prepayment.tariffs.tariff import Band, Tariff

__all__ = ["SHANGHAI", "ListFeed", "at", "booked", "enrol", "interval", "oracle"]

SHANGHAI = ZoneInfo("Asia/Shanghai")
DAY = timedelta(days=1)


class ListFeed:
    """A feed in memory. Its events can be told out of order, twice, and in any portions."""

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def tell(self, data: Mapping[str, object], kind: str = "headend.interval.v1") -> None:
        event = {
            "specversion": "1.0", "id": f"e{len(self.events)}", "source": "/headend/test", "type": kind,
            "subject": data.get("meter", ""), "time": "2026-01-01T00:00:00Z", "sequence": str(len(self.events) + 1),
            "data": data,
        }  # fmt: skip
        self.events.append(json.dumps(event).encode())

    def events_after(self, sequence: int, limit: int) -> Sequence[bytes]:
        return self.events[sequence : sequence + limit]


def at(day: date, hour: int = 12) -> datetime:
    """A moment of that local day."""
    return datetime.combine(day, time(hour), SHANGHAI).astimezone(UTC)


def iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def interval(
    meter: str,
    day: date,
    kwh: Decimal | str | None,
    *,
    register: int = 0,
    revision: int = 0,
    reason: str = "missing-boundary",
    span: tuple[date, Decimal] | None = None,
    start: datetime | None = None,
    length: timedelta = DAY,
    **more: object,
) -> dict[str, object]:
    """`data` of an interval. span: the first local day that it has, and what was counted since."""
    begins = at(day, 0) if start is None else start
    data: dict[str, object] = {
        "meter": meter, "obis": f"1-0:1.8.{register}", "start": iso(begins), "end": iso(begins + length),
        "period_s": int(length.total_seconds()), "amount": None if kwh is None else str(kwh), "unit": "kWh",
        "quality": ["measured"] if kwh is not None else ["suspect" if "suspect" in reason else "missing"],
        "source": "test", "revision": revision,
    }  # fmt: skip
    if kwh is None:
        data["reason"] = reason
        data["evidence"] = {"end": "silent"}
    if span is not None:
        data["span"] = {"start": iso(at(span[0], 0)), "end": iso(begins + length), "amount": str(span[1])}
    return data | more


def enrol(
    connection: Connection,
    account: str,
    meters: Sequence[str],
    tariff: str,
    opened: date,
    *,
    reminder_minor: int = 1000,
    topup_minor: int = 0,
    bank: str = "",
    is_large: bool = False,
) -> None:
    """Active at once."""
    if connection.execute(select(customers.c.id)).first() is None:
        customer = {"id": "C1", "name": "Wang", "identity_digest": "", "identity_tail": ""}
        connection.execute(insert(customers), [customer])
        connection.execute(insert(premises), [{"id": "P1", "address": "1", "is_submetered": 0}])
    number = len(connection.execute(select(accounts.c.number)).all())
    connection.execute(
        insert(accounts),
        [
            {
                "number": number, "id": account, "customer": "C1", "premises": "P1", "currency": "CNY", "tariff": tariff,
                "state": "active", "opened_on": day_number(opened), "closed_on": None,
                "reminder_minor": reminder_minor, "topup_minor": topup_minor, "bank": bank,
                "is_large_household": int(is_large),
            }
        ],
    )  # fmt: skip
    for meter in meters:
        row: dict[str, object] = {"account": account, "meter": meter, "since": day_number(opened), "until": None}
        connection.execute(insert(account_meters), [row])


def booked(database: Database, account: str) -> int:
    """All that was ever charged, by the entries alone."""
    with database.reading("looking") as connection:
        causes = ("daily-charge", "minimum-charge", "correction")
        return -sum(moved for _, entry, moved in entries_of(connection, account) if entry.cause.value in causes)


def oracle(
    tariff_of: Callable[[date], Tariff],
    used: Mapping[date, Mapping[Band, Decimal]],
    opened: date,
    *,
    closed: date | None = None,
) -> Fraction:
    """Minor units of all of it, not rounded. used: by the local day on which it is charged. Steps count all that was used before in
    their period, whatever version it was charged by."""
    money = Fraction(0)
    periods: dict[tuple[str, int, int], Fraction] = {}
    months: dict[tuple[int, int], Fraction] = {}
    for day in sorted(used):
        tariff = tariff_of(day)
        amount = sum((Fraction(kwh) * Fraction(tariff.prices[band]) for band, kwh in used[day].items()), Fraction(0))
        kwh = sum((Fraction(one) for one in used[day].values()), Fraction(0))
        if tariff.steps is not None:
            key = ("year", day.year, 0) if tariff.steps.by_year else ("month", day.year, day.month)
            before = periods.get(key, Fraction(0))
            periods[key] = before + kwh
            amount += _steps(tariff, before + kwh, day, opened) - _steps(tariff, before, day, opened)
        amount += sum((Fraction(levy.per_kwh) * kwh for levy in tariff.surcharges), Fraction(0))
        amount *= 1 + sum((Fraction(tax.rate) for tax in tariff.taxes), Fraction(0))
        months[day.year, day.month] = months.get((day.year, day.month), Fraction(0)) + amount * 100
        money += amount * 100
        if (day + DAY).month != day.month or day == closed:
            lacking = tariff.minimum_minor - months[day.year, day.month]
            if lacking > 0:
                money += lacking
                months[day.year, day.month] += lacking
    return money


def _steps(tariff: Tariff, total: Fraction, day: date, opened: date) -> Fraction:
    """What the steps add to that much in a period: each adds what it costs more than the one before."""
    assert tariff.steps is not None
    share = Fraction(1)
    if tariff.steps.by_year and tariff.steps.prorated and opened.year == day.year:
        share = Fraction(13 - opened.month, 12)
    money = before = Fraction(0)
    for step in tariff.steps.steps:
        money += max(total - Fraction(step.above_kwh) * share, Fraction(0)) * (Fraction(step.addition) - before)
        before = Fraction(step.addition)
    return money
