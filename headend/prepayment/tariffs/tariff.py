"""Tariffs: what a local day's energy costs. Pure, and exact: rounding is `money`'s.

    price of a kWh = price of its band + addition of its step + surcharges, and taxes on top

A band (sharp, peak, flat, valley; 尖峰平谷) is a time of day, by season and kind of day. A step (阶梯) begins when a customer has used
more than so much in the month or the year. The addition of a step is the same in all bands: so are the published stepped prices with
time of use, and it is what makes the charge of a day independent of the order in which its energy was used or counted.

Where a tariff changes inside a month or a year, what was used so far counts for the new one's steps as well, as long as both count by
the same period.
"""

import enum
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal, localcontext

from msgspec import Struct

from headend.prepayment.money import EXACT, Rounding, exact_minor

__all__ = [
    "Band",
    "Charge",
    "DayKind",
    "Household",
    "Line",
    "Position",
    "Season",
    "Step",
    "Steps",
    "Surcharge",
    "Tariff",
    "Tax",
    "Timetable",
    "Window",
    "charge_day",
    "closing_charge",
    "tariff_on",
]


class Band(enum.Enum):
    """ALL: where the time of day is of no matter. The numbers are those of the meter's tariff registers (费率1–4)."""

    ALL = 0
    SHARP = 1
    PEAK = 2
    FLAT = 3
    VALLEY = 4

    # There is one of each, so identity will do; the one that Enum brings took a tenth of a settlement.
    __hash__ = object.__hash__


_NAMES = {band: band.name.lower() for band in Band}
_NUMBERS = {band: band.value for band in Band}


class DayKind(enum.Enum):
    WORKDAY = "workday"
    WEEKEND = "weekend"
    HOLIDAY = "holiday"


class Window(Struct, frozen=True):
    """[start, end) of a local day; an end of 00:00 is the day's end."""

    start: time
    end: time
    band: Band


class Season(Struct, frozen=True, kw_only=True):
    """first, last: month and day, both belong to it; it may go over the new year."""

    name: str
    first: tuple[int, int]
    last: tuple[int, int]

    def has(self, day: date) -> bool:
        place = (day.month, day.day)
        if self.first <= self.last:
            return self.first <= place <= self.last
        return place >= self.first or place <= self.last


class Timetable(Struct, frozen=True, kw_only=True):
    """Windows that cover each day once. seasons: cover the year. windows: by season and kind of day.

    holidays, workdays: dates that are not what their weekday says.
    """

    seasons: tuple[Season, ...]
    windows: Mapping[tuple[str, DayKind], tuple[Window, ...]]
    holidays: frozenset[date] = frozenset()
    workdays: frozenset[date] = frozenset()

    def kind_of(self, day: date) -> DayKind:
        if day in self.holidays:
            return DayKind.HOLIDAY
        if day in self.workdays or day.weekday() < 5:
            return DayKind.WORKDAY
        return DayKind.WEEKEND

    def windows_of(self, day: date) -> tuple[Window, ...]:
        season = next(season for season in self.seasons if season.has(day))
        return self.windows[season.name, self.kind_of(day)]

    def band_at(self, day: date, at: time) -> Band:
        """Of the wall clock's time; an hour that comes twice has its band twice."""
        for window in self.windows_of(day):
            if window.start <= at and (at < window.end or window.end == time(0)):
                return window.band
        raise AssertionError(f"no band at {at} of {day}: the tariff was not checked")


class Step(Struct, frozen=True):
    """above_kwh: it begins beyond this much in the period; 0 for the first. addition: per kWh, main unit of the currency."""

    above_kwh: Decimal
    addition: Decimal


class Steps(Struct, frozen=True, kw_only=True):
    """by_year: the limits are a year's, else a month's. prorated: who begins inside a year has a twelfth of the limits for each month
    that is left, the first one included. extra_kwh: added to each limit for a large household, where it is registered as one."""

    steps: tuple[Step, ...]
    by_year: bool
    prorated: bool = True
    extra_kwh: Decimal = Decimal(0)

    def period_of(self, day: date) -> str:
        return f"{day.year:04}" if self.by_year else f"{day.year:04}-{day.month:02}"


class Surcharge(Struct, frozen=True):
    """per_kwh: main unit of the currency. Levies and funds that are shown apart."""

    name: str
    per_kwh: Decimal


class Tax(Struct, frozen=True):
    """rate: of everything before it, 0.13. Where prices are published with tax in them, there is none here."""

    name: str
    rate: Decimal


class Tariff(Struct, frozen=True, kw_only=True):
    """One version. applies_from: first local day. prices: per kWh by band, main unit. timetable: None where the meter's own tariff
    registers say which band it was, or there is but one.

    minimum_minor: of a calendar month, before nothing; what is lacking is charged with the month's last day.
    """

    name: str
    version: str
    currency: str
    applies_from: date
    prices: Mapping[Band, Decimal]
    timetable: Timetable | None = None
    steps: Steps | None = None
    surcharges: tuple[Surcharge, ...] = ()
    taxes: tuple[Tax, ...] = ()
    minimum_minor: int = 0
    rounding: Rounding = Rounding.HALF_UP


class Household(Struct, frozen=True, kw_only=True):
    """began_on: first day of supply under this account. is_large: registered for the larger allowance."""

    began_on: date
    is_large: bool = False


class Position(Struct, frozen=True, kw_only=True):
    """How far an account has come. period, used_kwh: of the steps. month, month_exact: charged in the calendar month, minor units.

    carried: what rounding left over, minor units.
    """

    period: str = ""
    used_kwh: Decimal = Decimal(0)
    month: str = ""
    month_exact: Decimal = Decimal(0)
    carried: Decimal = Decimal(0)


class Line(Struct, frozen=True, kw_only=True):
    """One row of a charge. kwh: None of a tax or a minimum. price: per kWh, or a rate. exact: minor units."""

    what: str
    kwh: Decimal | None
    price: Decimal
    exact: Decimal


class Charge(Struct, frozen=True, kw_only=True):
    """Of one local day. exact: minor units, the sum of the lines. position: after it, its `carried` untouched."""

    day: date
    tariff: str
    version: str
    lines: tuple[Line, ...]
    exact: Decimal
    position: Position


def tariff_on(versions: Sequence[Tariff], day: date) -> Tariff | None:
    """The version that applies; None before the first."""
    held = [version for version in versions if version.applies_from <= day]
    return max(held, key=lambda version: version.applies_from) if held else None


def charge_day(tariff: Tariff, day: date, usage: Mapping[Band, Decimal], position: Position, home: Household) -> Charge:
    """usage: kWh of the day by band. Raises ValueError for a band that the tariff has no price for, and for less than nothing."""
    for band, kwh in usage.items():
        if kwh < 0:
            raise ValueError(f"{kwh} kWh of {band.name.lower()} on {day}: expected an amount that is not negative")
        if band not in tariff.prices:
            known = ", ".join(sorted(known.name.lower() for known in tariff.prices))
            raise ValueError(
                f"tariff {tariff.name} {tariff.version} has no price for {band.name.lower()}; it has {known}"
            )
    with localcontext() as context:
        context.prec = EXACT
        lines = [
            _line(_NAMES[band], usage[band], tariff.prices[band], tariff.currency)
            for band in sorted(usage, key=_NUMBERS.__getitem__)
        ]
        used = sum(usage.values(), Decimal(0))
        position = _begun(tariff, day, position)
        for number, kwh, addition in _stepped(tariff.steps, day, position.used_kwh, used, home):
            lines.append(_line(f"step {number}", kwh, addition, tariff.currency))
        lines += [_line(levy.name, used, levy.per_kwh, tariff.currency) for levy in tariff.surcharges]
        return _charge(tariff, day, lines, position, used)


def closing_charge(tariff: Tariff, day: date, position: Position) -> Charge | None:
    """What is lacking of the month's minimum on its last day (or an account's last); None when nothing is."""
    with localcontext() as context:
        context.prec = EXACT
        charged = position.month_exact if position.month == _month(day) else Decimal(0)
        lacking = tariff.minimum_minor - charged
        if lacking <= 0:
            return None
        line = Line(what="minimum", kwh=None, price=Decimal(tariff.minimum_minor), exact=lacking)
        after = Position(
            period=position.period,
            used_kwh=position.used_kwh,
            month=_month(day),
            month_exact=charged + lacking,
            carried=position.carried,
        )
        return Charge(day=day, tariff=tariff.name, version=tariff.version, lines=(line,), exact=lacking, position=after)


# ------------------------------------------------------------------------------------------------ inside


def _month(day: date) -> str:
    return f"{day.year:04}-{day.month:02}"


def _begun(tariff: Tariff, day: date, position: Position) -> Position:
    """With the counters of a new month or period at nothing."""
    period = "" if tariff.steps is None else tariff.steps.period_of(day)
    month = _month(day)
    return Position(
        period=period,
        used_kwh=position.used_kwh if period == position.period else Decimal(0),
        month=month,
        month_exact=position.month_exact if month == position.month else Decimal(0),
        carried=position.carried,
    )


def _stepped(
    steps: Steps | None, day: date, before: Decimal, used: Decimal, home: Household
) -> list[tuple[int, Decimal, Decimal]]:
    """Number of the step, kWh in it, addition; of the first step too, where it has one."""
    if steps is None or not used:
        return []
    limits = [_limit(steps, step, day, home) for step in steps.steps]
    found = []
    for number, step in enumerate(steps.steps):
        low = limits[number]
        high = limits[number + 1] if number + 1 < len(limits) else None
        top = before + used if high is None else min(before + used, high)
        kwh = top - max(before, low)
        if kwh > 0 and step.addition:
            found.append((number + 1, kwh, step.addition))
    return found


def _limit(steps: Steps, step: Step, day: date, home: Household) -> Decimal:
    if not step.above_kwh:
        return Decimal(0)
    months = 12 if steps.by_year else 1
    limit = step.above_kwh + (steps.extra_kwh * months if home.is_large else 0)
    if steps.by_year and steps.prorated and home.began_on.year == day.year:
        return limit * (13 - home.began_on.month) / 12
    return limit


def _line(what: str, kwh: Decimal, price: Decimal, currency: str) -> Line:
    return Line(what=what, kwh=kwh, price=price, exact=exact_minor(kwh * price, currency))


def _charge(tariff: Tariff, day: date, lines: list[Line], position: Position, used: Decimal) -> Charge:
    net = sum((line.exact for line in lines), Decimal(0))
    for tax in tariff.taxes:
        amount = net * tax.rate
        lines.append(Line(what=tax.name, kwh=None, price=tax.rate, exact=amount))
    exact = sum((line.exact for line in lines), Decimal(0))
    after = Position(
        period=position.period,
        used_kwh=position.used_kwh + used,
        month=position.month,
        month_exact=position.month_exact + exact,
        carried=position.carried,
    )
    return Charge(day=day, tariff=tariff.name, version=tariff.version, lines=tuple(lines), exact=exact, position=after)
