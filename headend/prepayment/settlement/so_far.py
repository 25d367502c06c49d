"""What was heard of an account and is not settled yet: today so far, and days before that wait for their reads.

It is shown as such, and nothing of it is booked: settlement charges whole days, exactly. Its cost is what the tariff asks for so much
on those days, rounded once; a monthly minimum is left out. Every function works inside its caller's transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, select

from headend.prepayment.days import LocalDays, day_number, day_of
from headend.prepayment.model import Account, AccountState
from headend.prepayment.money import Rounding, rounded
from headend.prepayment.settlement.chain import decode_position
from headend.prepayment.storage.database import AT_ONCE
from headend.prepayment.storage.tables import account_meters, positions
from headend.prepayment.storage.tables import accounts as account_rows
from headend.prepayment.tariffs.tariff import Band, Household, Position, Tariff, charge_day, tariff_on
from headend.prepayment.usage.heard import REGISTERS, Told
from headend.prepayment.usage.meter_days import told_of_days
from headend.prepayment.usage.pieces import Measuring
from headend.prepayment.usage.usage import (
    TOTAL_REGISTER,
    IntervalUse,
    UsageUnclear,
    usage_of_intervals,
    usage_of_registers,
)

__all__ = ["SoFar", "so_far_of"]

BACK_DAYS = 7  # older days that are not settled are somebody's affair, and of no near future

Tariffs = Mapping[str, Sequence[Tariff]]
_Heard = Mapping[tuple[str, int], list[Told]]


class SoFar(Struct, frozen=True, kw_only=True):
    """today_kwh: of the local day so far, None where nothing shorter than a day was heard. today_until: of the meter heard of least.

    today_minor: what that costs, None where the tariff cannot say. minor: of all days that are not settled, today included.
    known_through: the last day of which, with all days before it, everything was heard (of today: something); None of no such day.
    """

    today_kwh: Decimal | None = None
    today_until: datetime | None = None
    today_minor: int | None = None
    minor: int = 0
    known_through: date | None = None


class _Account(Struct):
    account: Account
    last: int | None
    position: Position
    meters: list[Measuring]


class _Day(Struct):
    """usage: by band; None where the tariff asks for what was not heard. until: epoch second; None where nothing was heard."""

    kwh: Decimal | None
    usage: dict[Band, Decimal] | None
    until: int | None


def so_far_of(
    connection: Connection, some: Sequence[Account], now: datetime, days: LocalDays, tariffs: Tariffs
) -> dict[str, SoFar]:
    """By account; those that are not active are absent."""
    today = day_number(days.today(now))
    found: dict[str, SoFar] = {}
    active = [one for one in some if one.state is AccountState.ACTIVE]
    for start in range(0, len(active), AT_ONCE):
        loaded = _load(connection, active[start : start + AT_ONCE])
        heard = _heard(connection, loaded, today)
        for one in loaded:
            found[one.account.id] = _so_far(one, heard, today, days, tariffs)
    return found


def _so_far(one: _Account, heard: _Heard, today: int, days: LocalDays, tariffs: Tariffs) -> SoFar:
    opened = day_number(one.account.opened_on)
    first = opened if one.last is None else max(one.last + 1, opened)
    last = today if one.account.closed_on is None else min(today, day_number(one.account.closed_on))
    home = Household(began_on=one.account.opened_on, is_large=one.account.is_large_household)
    known_through = None if one.last is None else one.last
    is_whole = first >= today - BACK_DAYS
    position, total, rounding = one.position, Decimal(0), Rounding.HALF_UP
    shown = SoFar()
    for day in range(max(first, today - BACK_DAYS), last + 1):
        tariff = tariff_on(tariffs.get(one.account.tariff, ()), day_of(day))
        here = _day_of(one, heard, day, tariff, days)
        exact: Decimal | None = None
        if tariff is not None and here.usage is not None:
            charge = charge_day(tariff, day_of(day), here.usage, position, home)
            exact, position, rounding = charge.exact, charge.position, tariff.rounding
            total += exact
        is_known = exact is not None and (day == today or here.until == days.midnight(day + 1))
        if is_whole and is_known:
            known_through = day
        is_whole = is_whole and is_known
        if day == today and here.until is not None:
            shown = SoFar(
                today_kwh=here.kwh,
                today_until=datetime.fromtimestamp(here.until, UTC),
                today_minor=None if exact is None else rounded(exact, Decimal(0), rounding).minor,
            )
    return SoFar(
        today_kwh=shown.today_kwh,
        today_until=shown.today_until,
        today_minor=shown.today_minor,
        minor=rounded(total, position.carried, rounding).minor if total else 0,
        known_through=None if known_through is None else day_of(known_through),
    )


def _day_of(one: _Account, heard: _Heard, day: int, tariff: Tariff | None, days: LocalDays) -> _Day:
    measuring = [own.meter for own in one.meters if own.measures(day)]
    kwh, until = Decimal(0), days.midnight(day + 1)
    usage: dict[Band, Decimal] | None = {}
    is_heard = bool(measuring)
    for meter in measuring:
        told = heard.get((meter, day), [])
        chosen = {register: some for number, register in enumerate(REGISTERS) if (some := _chosen(told, number))}
        own = chosen.get(TOTAL_REGISTER) or [interval for some in chosen.values() for interval in some]
        if not own:
            is_heard, usage = False, None
            continue
        kwh += sum((interval.kwh for interval in own if interval.kwh is not None), Decimal(0))
        until = min(until, max(interval.end for interval in own))
        try:
            mine = None if tariff is None else _usage(tariff, day, chosen, days)
        except UsageUnclear:
            mine = None
        if usage is None or mine is None:
            usage = None
            continue
        for band, amount in mine.items():
            usage[band] = usage.get(band, Decimal(0)) + amount
    return _Day(kwh if is_heard else None, usage if is_heard else None, until if is_heard else None)


def _usage(
    tariff: Tariff, day: int, chosen: Mapping[str, Sequence[Told]], days: LocalDays
) -> dict[Band, Decimal] | None:
    """As `usage` has it of whole days. chosen: by OBIS code. None where nothing that is needed was heard. Raises UsageUnclear."""
    if tariff.timetable is None:
        used = {
            obis: sum((one.kwh for one in some if one.kwh is not None), Decimal(0)) for obis, some in chosen.items()
        }
        return usage_of_registers(tariff, used)
    intervals = [
        IntervalUse(start=datetime.fromtimestamp(one.start, UTC), end=datetime.fromtimestamp(one.end, UTC), kwh=one.kwh)
        for one in chosen.get(TOTAL_REGISTER, ())
        if one.kwh is not None
    ]
    return usage_of_intervals(tariff, day_of(day), days.zone, intervals) if intervals else None


def _chosen(told: Sequence[Told], register: int) -> list[Told]:
    """A register may be told in intervals of several lengths: those that reach furthest, and then those with the fewest gaps."""
    by_period: dict[int, list[Told]] = {}
    for one in told:
        if one.register == register and one.kwh is not None:
            by_period.setdefault(one.period_s, []).append(one)
    if not by_period:
        return []
    return max(by_period.values(), key=lambda some: (max(one.end for one in some), sum(o.end - o.start for o in some)))


def _load(connection: Connection, some: Sequence[Account]) -> list[_Account]:
    ids = [one.id for one in some]
    statement = (
        select(account_rows.c.id, positions.c.day, positions.c.carried, positions.c.position)
        .join(positions, positions.c.account == account_rows.c.number)
        .where(account_rows.c.id.in_(ids))
    )
    come: dict[str, Any] = {row.id: row for row in connection.execute(statement)}
    own = account_meters.c
    measuring: dict[str, list[Measuring]] = {}
    for row in connection.execute(select(own.account, own.meter, own.since, own.until).where(own.account.in_(ids))):
        measuring.setdefault(row.account, []).append(Measuring(row.meter, row.since, row.until))
    found = []
    for one in some:
        charged = come.get(one.id)
        position = Position()
        if charged is not None:
            position = replace(decode_position(charged.position), carried=Decimal(charged.carried))
        found.append(_Account(one, None if charged is None else charged.day, position, measuring.get(one.id, [])))
    return found


def _heard(connection: Connection, some: Sequence[_Account], today: int) -> _Heard:
    """Of the days behind each one's last charged day; nearly always today's alone."""
    wanted: set[tuple[str, int]] = set()
    for one in some:
        first = day_number(one.account.opened_on) if one.last is None else one.last + 1
        for day in range(max(first, today - BACK_DAYS), today + 1):
            wanted.update((meter.meter, day) for meter in one.meters)
    return told_of_days(connection, sorted(wanted))
