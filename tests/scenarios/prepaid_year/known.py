"""What is known of an account's use, by the day on which it is charged, from what its meters' reads say at the moment.

By registers: from one midnight at which every meter was read well to the next. By the time of day: each day on its own, where no gap
between its reads goes over a change of band.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal

from msgspec import Struct

from tests.scenarios.prepaid_year.meters import DAY, ZONE, Meter, midnight
from tests.scenarios.prepaid_year.oracle import REGISTERS, PriceBook

__all__ = ["Measure", "Told", "known_use", "sure_before"]

BANDS = {number: band for band, number in REGISTERS.items()}
Told = Mapping[tuple[str, date], Mapping[int, Decimal]]  # by a person, of a meter's day


class Measure(Struct):
    """One meter of an account; days since and until belong to it."""

    meter: Meter
    since: date
    until: date | None = None

    def has(self, day: date) -> bool:
        return self.since <= day and (self.until is None or day <= self.until)


def known_use(
    book: PriceBook, tariff: str, measures: Sequence[Measure], told: Told, since: date, last: date
) -> dict[date, dict[str, Decimal]]:
    """since: a day that begins with good reads, or the account's first."""
    if book.is_by_time(tariff):
        return _by_time(book, tariff, measures, told, since, last)
    found = {}
    registers = book.registers(tariff)
    day = since
    while day <= last:
        end = _end_of(measures, day, last)
        used = None if end is None else _between(measures, told, day, end, registers)
        if end is None or used is None:
            day += DAY
            continue
        found[end] = used
        day = end + DAY
    return found


def _end_of(measures: Sequence[Measure], first: date, last: date) -> date | None:
    """The first day from that one on with which all is known that was counted since its begin."""
    if not any(one.has(first) for one in measures) or not all(
        _read_at(one, first) for one in measures if one.has(first)
    ):
        return None
    end = first
    while end <= min(last, first + 61 * DAY):
        own = [one for one in measures if one.since <= end and (one.until is None or one.until >= first)]
        if all(_read_at(one, min(end, one.until or end) + DAY) for one in own):
            return end
        end += DAY
    return None


def sure_before(measures: Sequence[Measure], day: date, opened: date) -> date:
    """The newest day up to that one that begins with good reads of all meters; the account's first when there is none."""
    while day > opened and not _is_read(measures, day):
        day -= DAY
    return max(day, opened)


def _is_read(measures: Sequence[Measure], day: date) -> bool:
    """Whether all that was counted before the day's begin, and all that is counted from it on, is known at it."""
    own = [one for one in measures if one.has(day) or one.has(day - DAY)]
    return bool(own) and all(_read_at(one, day) for one in own)


def _read_at(one: Measure, day: date) -> bool:
    place = one.meter.place_of(day)
    if place <= 0 and one.meter.first == one.since:
        return True
    return 0 <= place < len(one.meter.good) and one.meter.good[place]


def _between(
    measures: Sequence[Measure], told: Told, first: date, last: date, registers: Sequence[int]
) -> dict[str, Decimal] | None:
    amounts = dict.fromkeys(registers, Decimal(0))
    for one in measures:
        meter = one.meter
        low, high = max(first, one.since), last if one.until is None else min(last, one.until)
        for place in range(meter.place_of(low), meter.place_of(high) + 1):
            used: Mapping[int, Decimal] | None = meter.used[place]
            if place in meter.lost:
                used = told.get((meter.name, meter.day_of(place)))
            if used is None:
                return None
            for register in registers:
                amounts[register] += used[register]
        _add_told(amounts, one, told, first, last)
    return {BANDS[register]: kwh for register, kwh in amounts.items()}


def _add_told(amounts: dict[int, Decimal], one: Measure, told: Told, first: date, last: date) -> None:
    """What a meter that was taken away had counted on the day itself."""
    if one.until is not None and first <= one.until + DAY <= last:
        for register, kwh in told.get((one.meter.name, one.until + DAY), {}).items():
            if register in amounts:
                amounts[register] += kwh


def _by_time(
    book: PriceBook, tariff: str, measures: Sequence[Measure], told: Told, since: date, last: date
) -> dict[date, dict[str, Decimal]]:
    found = {}
    day = since
    while day <= last:
        own = [one for one in measures if one.has(day)]
        amounts: dict[str, Decimal] | None = {} if own else None
        for one in own:
            used = _day_by_time(book, tariff, one.meter, day)
            if used is None or amounts is None:
                amounts = None
                break
            for band, kwh in used.items():
                amounts[band] = amounts.get(band, Decimal(0)) + kwh
        if amounts is not None:
            by_register = {REGISTERS[band]: Decimal(0) for band in book.version(tariff, day)["prices"]}
            for one in measures:
                _add_told(by_register, one, told, day, day)
            for register, kwh in by_register.items():
                amounts[BANDS[register]] = amounts.get(BANDS[register], Decimal(0)) + kwh
            found[day] = amounts
        day += DAY
    return found


def _day_by_time(book: PriceBook, tariff: str, meter: Meter, day: date) -> dict[str, Decimal] | None:
    low = max(meter.place_of(day), meter.start)
    high = meter.place_of(day + DAY)
    if high >= len(meter.good) or not (meter.good[low] and meter.good[high]):
        return None
    found: dict[str, Decimal] = {}
    gap: str | None = None  # the band of a stretch whose first read was good and whose last was not
    for place in range(low, high):
        if place in meter.lost:
            return None
        begin = (midnight(meter.first) + place * (DAY / meter.slots)).astimezone(ZONE)
        band = book.band_at(tariff, day, begin.time())
        if not meter.good[place] and gap != band:
            return None
        gap = band
        found[band] = found.get(band, Decimal(0)) + meter.used[place][0]
    return found
