"""What an account used: its meters' intervals put together into pieces of whole local days, each known in full. Pure.

A piece is the shortest stretch of days for which every register that the tariff asks for is known, of every meter: one day as a rule,
several where reads in between are missing and a span bridges them. Energy is never cut up, so a stretch is charged whole, on its last
day. A day in no piece is unsettled, and the reason names what is missing. Nothing is estimated.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from msgspec import Struct

from headend.prepayment.days import LocalDays, day_of
from headend.prepayment.tariffs.tariff import Band, Tariff
from headend.prepayment.usage.heard import BY_PERSON, REGISTERS, Told
from headend.prepayment.usage.usage import (
    BAND_REGISTERS,
    TOTAL_REGISTER,
    IntervalUse,
    UsageUnclear,
    usage_of_intervals,
    usage_of_registers,
)

__all__ = ["STRETCH_DAYS_MAX", "Measuring", "Piece", "Unsettled", "pieces_of"]

STRETCH_DAYS_MAX = (
    62  # a longer one waits for a person: two months of energy on one day of a stepped price are no routine
)
_TOTAL = REGISTERS.index(TOTAL_REGISTER)
_BANDS = {REGISTERS.index(obis): band for obis, band in BAND_REGISTERS.items()}
_REGISTER_OF = {band: register for register, band in _BANDS.items()} | {Band.ALL: _TOTAL}
_DAY_S = 86_400

Heard = Mapping[tuple[str, int], Sequence[Told]]
TariffOn = Callable[[int], Tariff | None]


class Measuring(Struct, frozen=True):
    """One meter of an account. since, until: numbers of local days, both belong to it; None while it counts."""

    meter: str
    since: int
    until: int | None

    def measures(self, day: int) -> bool:
        return self.since <= day and (self.until is None or day <= self.until)


class Piece(Struct, frozen=True, kw_only=True):
    """first, last: numbers of local days, both belong to it."""

    first: int
    last: int
    tariff: Tariff
    usage: dict[Band, Decimal]


class Unsettled(Struct, frozen=True, kw_only=True):
    """A local day whose energy is not known in full."""

    day: int
    reason: str


def pieces_of(
    first: int, last: int, meters: Sequence[Measuring], heard: Heard, tariff_on: TariffOn, days: LocalDays
) -> tuple[list[Piece], list[Unsettled]]:
    """Of the days from first to last, both included. heard: of those days, by meter and the day in which the intervals end."""
    pieces, unsettled = [], []
    day = first
    while day <= last:
        try:
            piece = _piece(day, last, meters, heard, tariff_on, days)
        except UsageUnclear as unclear:
            unsettled.append(Unsettled(day=day, reason=str(unclear)))
            day += 1
            continue
        pieces.append(piece)
        day = piece.last + 1
    return pieces, unsettled


def _piece(
    day: int, last: int, meters: Sequence[Measuring], heard: Heard, tariff_on: TariffOn, days: LocalDays
) -> Piece:
    """The one that begins with that day. Raises UsageUnclear."""
    tariff = tariff_on(day)
    if tariff is None:
        raise UsageUnclear(f"the account's tariff has no version for {day_of(day)}")
    active = [one for one in meters if one.measures(day)]
    if not active:
        raise UsageUnclear("no meter measured the account on that day")
    if tariff.timetable is not None:
        return Piece(first=day, last=day, tariff=tariff, usage=_by_time(tariff, day, active, meters, heard, days))
    plain = _plain_day(tariff, day, active, heard, days)
    if plain is not None:
        _add_told(plain, day, day, meters, heard)
        return Piece(first=day, last=day, tariff=tariff, usage=usage_of_registers(tariff, _named(plain)))
    return _stretch(tariff, day, last, meters, heard, tariff_on, days)


def _plain_day(
    tariff: Tariff, day: int, active: Sequence[Measuring], heard: Heard, days: LocalDays
) -> dict[int, Decimal] | None:
    """Nearly all days: each register has one interval that is the day. None where one has not."""
    start, end = days.midnight(day), days.midnight(day + 1)
    used: dict[int, Decimal] = {}
    needed = _needed(tariff)
    for one in active:
        found = set()
        for told in heard.get((one.meter, day), ()):
            if told.start == start and told.end == end and told.kwh is not None and told.period_s:
                found.add(told.register)
                used[told.register] = used.get(told.register, Decimal(0)) + told.kwh
        if not needed <= found:
            return None
    return used


def _stretch(
    tariff: Tariff,
    day: int,
    last: int,
    meters: Sequence[Measuring],
    heard: Heard,
    tariff_on: TariffOn,
    days: LocalDays,
) -> Piece:
    """Tried from one day to many: the first end that every register reaches."""
    missing = ""
    needed = _needed(tariff)
    top = min(last, day + STRETCH_DAYS_MAX - 1)
    tilings: dict[tuple[str, int], dict[int, Decimal]] = {}
    for end in range(day, top + 1):
        used: dict[int, Decimal] = {}
        problem = ""
        for one in meters:
            low, high = max(day, one.since), end if one.until is None else min(end, one.until)
            if low > high:
                continue
            for register in range(len(REGISTERS)):
                key = (one.meter, register)
                if key not in tilings:
                    tilings[key] = _reached(register, one, low, top, heard, days)
                amount = tilings[key].get(days.midnight(high + 1))
                if amount is not None:
                    used[register] = used.get(register, Decimal(0)) + amount
                elif register in needed and not problem:
                    problem = _why(one, register, high, heard, days)
        if not problem:
            at_end = tariff_on(end)
            if at_end is None or at_end.timetable is not None:
                raise UsageUnclear(
                    f"the reads since {day_of(day)} were missing, and the tariff's bands need each day's own"
                )
            _add_told(used, day, end, meters, heard)
            return Piece(first=day, last=end, tariff=at_end, usage=usage_of_registers(at_end, _named(used)))
        missing = missing or problem
    raise UsageUnclear(missing)


def _reached(register: int, one: Measuring, low: int, top: int, heard: Heard, days: LocalDays) -> dict[int, Decimal]:
    """By the second up to which the register is known without a gap from the first day on: what it counted until then."""
    spans: dict[int, dict[int, tuple[int, Decimal]]] = {}
    for day in range(low, min(top, one.until if one.until is not None else top) + 1):
        for told in heard.get((one.meter, day), ()):
            if told.register == register:
                _note(spans, told)
    start = days.midnight(low)
    if start not in spans and low == one.since:
        # A meter's first day under this account: it counts from its first read on, where that lies inside the day.
        inside = [second for second in spans if start < second < days.midnight(low + 1)]
        start = min(inside, default=start)
    reached = {start: Decimal(0)}
    waiting = [start]
    while waiting:
        at = waiting.pop()
        for end, (_, kwh) in spans.get(at, {}).items():
            if end not in reached:
                reached[end] = reached[at] + kwh
                waiting.append(end)
    return reached


def _note(spans: dict[int, dict[int, tuple[int, Decimal]]], told: Told) -> None:
    """What the meter says itself goes before what a person told of it."""
    start, end, kwh = told.start, told.end, told.kwh
    if kwh is None:
        if told.span_kwh is None or told.span_start is None or told.span_end is None:
            return
        start, end, kwh = told.span_start, told.span_end, told.span_kwh
    held = spans.setdefault(start, {})
    if end not in held or held[end][0] < told.period_s:
        held[end] = (told.period_s, kwh)


def _by_time(
    tariff: Tariff,
    day: int,
    active: Sequence[Measuring],
    meters: Sequence[Measuring],
    heard: Heard,
    days: LocalDays,
) -> dict[Band, Decimal]:
    """From intervals shorter than a day, each in one band; or from what a person told of it by band. Raises UsageUnclear."""
    usage: dict[Band, Decimal] = dict.fromkeys(tariff.prices, Decimal(0))
    told_bands: dict[int, Decimal] = {}
    for one in active:
        told_of_day = heard.get((one.meter, day), ())
        try:
            own = usage_of_intervals(tariff, day_of(day), days.zone, _parts(one, day, told_of_day, days))
        except UsageUnclear:
            by_person = {told.register: told.kwh for told in told_of_day if told.period_s == BY_PERSON}
            if not {_REGISTER_OF[band] for band in tariff.prices} <= by_person.keys():
                raise
            for band in tariff.prices:
                usage[band] += by_person[_REGISTER_OF[band]] or 0
            continue
        for band, kwh in own.items():
            usage[band] += kwh
    _add_told(told_bands, day, day, meters, heard)
    for register, told_kwh in told_bands.items():
        told_band = _BANDS.get(register)
        if told_band is None or told_band not in tariff.prices:
            raise UsageUnclear(f"a person told {REGISTERS[register]}; tariff {tariff.name} needs it by band")
        usage[told_band] += told_kwh
    return usage


def _parts(one: Measuring, day: int, told_of_day: Sequence[Told], days: LocalDays) -> list[IntervalUse]:
    """The meter's intervals of that day, without a gap. Raises UsageUnclear."""
    start, end = days.midnight(day), days.midnight(day + 1)
    parts: list[IntervalUse] = []
    spans: dict[int, dict[int, tuple[int, Decimal]]] = {}
    for told in told_of_day:
        if told.register == _TOTAL and BY_PERSON < told.period_s < _DAY_S:
            _note(spans, told)
    at = start
    if at not in spans and day == one.since:
        at = min((second for second in spans if start < second < end), default=start)
    while at < end:
        if at not in spans:
            problem = _gap(at, told_of_day)
            raise UsageUnclear(f"meter {one.meter}, {TOTAL_REGISTER}, from {_clock(at, days)}: {problem}")
        stop = min(spans[at])
        parts.append(_use(at, stop, spans[at][stop][1]))
        at = stop
    return parts


def _add_told(used: dict[int, Decimal], first: int, last: int, meters: Sequence[Measuring], heard: Heard) -> None:
    """What a person read on a meter that was taken away: it counted on its last day, until it was."""
    for one in meters:
        if one.until is None or not first <= one.until + 1 <= last:
            continue
        for told in heard.get((one.meter, one.until + 1), ()):
            if told.period_s == BY_PERSON and told.kwh is not None:
                used[told.register] = used.get(told.register, Decimal(0)) + told.kwh


def _needed(tariff: Tariff) -> frozenset[int]:
    if Band.ALL in tariff.prices:
        return frozenset((_TOTAL,))
    return frozenset(register for register, band in _BANDS.items() if band in tariff.prices)


def _why(one: Measuring, register: int, day: int, heard: Heard, days: LocalDays) -> str:
    """What is the matter with the day at which the register's knowledge ends."""
    told = heard.get((one.meter, day), ())
    own = [interval for interval in told if interval.register == register]
    where = f"meter {one.meter}, {REGISTERS[register]}"
    if not own:
        return f"{where}: no interval was told of {day_of(day)}"
    reasons = [f"{_clock(interval.start, days)} {interval.reason}" for interval in own if interval.kwh is None]
    if reasons and len(own) == 1:
        return f"{where}: {own[0].reason}"
    return f"{where}: {'; '.join(reasons[:3])}" if reasons else f"{where}: there is a gap between its intervals"


def _gap(at: int, told: Sequence[Told]) -> str:
    for one in told:
        if one.register == _TOTAL and one.start == at and one.kwh is None:
            return one.reason
    if any(one.register == _TOTAL and one.period_s >= _DAY_S for one in told):
        return "the tariff charges by the time of day, and there are only values of whole days"
    return "no interval was told"


def _named(used: Mapping[int, Decimal]) -> dict[str, Decimal]:
    return {REGISTERS[register]: kwh for register, kwh in used.items()}


def _use(start: int, end: int, kwh: Decimal) -> IntervalUse:
    return IntervalUse(start=datetime.fromtimestamp(start, UTC), end=datetime.fromtimestamp(end, UTC), kwh=kwh)


def _clock(second: int, days: LocalDays) -> str:
    return f"{datetime.fromtimestamp(second, UTC).astimezone(days.zone):%H:%M}"
