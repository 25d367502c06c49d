"""What was used on a local day, by band of the tariff: from the meter's own tariff registers, or from interval values. Pure."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.prepayment.tariffs.tariff import Band, Tariff

__all__ = [
    "BAND_REGISTERS",
    "TOTAL_REGISTER",
    "IntervalUse",
    "UsageUnclear",
    "usage_of_intervals",
    "usage_of_registers",
]

TOTAL_REGISTER = "1-0:1.8.0"
BAND_REGISTERS = {f"1-0:1.8.{band.value}": band for band in Band if band is not Band.ALL}


class UsageUnclear(ValueError):
    """The reads do not say what the tariff asks; the day stays unsettled, and the text says why."""


class IntervalUse(Struct, frozen=True, kw_only=True):
    """[start, end), UTC, kWh."""

    start: datetime
    end: datetime
    kwh: Decimal


def usage_of_registers(tariff: Tariff, used: Mapping[str, Decimal]) -> dict[Band, Decimal]:
    """used: by OBIS code, what each register counted on that day. Raises UsageUnclear."""
    if Band.ALL in tariff.prices:
        if TOTAL_REGISTER not in used:
            raise UsageUnclear(f"{TOTAL_REGISTER} is not there; tariff {tariff.name} charges by it")
        return {Band.ALL: used[TOTAL_REGISTER]}
    missing = [obis for obis, band in BAND_REGISTERS.items() if band in tariff.prices and obis not in used]
    if missing:
        raise UsageUnclear(
            f"{', '.join(missing)} not there; tariff {tariff.name} charges by the meter's tariff registers"
        )
    found = {band: used[obis] for obis, band in BAND_REGISTERS.items() if obis in used}
    stray = [band for band, kwh in found.items() if band not in tariff.prices and kwh]
    if stray:
        names = ", ".join(band.name.lower() for band in stray)
        raise UsageUnclear(
            f"the meter counted {names}, for which tariff {tariff.name} has no price: is its timetable set?"
        )
    return {band: kwh for band, kwh in found.items() if band in tariff.prices}


def usage_of_intervals(
    tariff: Tariff, day: date, zone: ZoneInfo, intervals: Iterable[IntervalUse]
) -> dict[Band, Decimal]:
    """intervals: of that day, in any order; each lies in one band. Raises UsageUnclear where one does not, or is of another day."""
    totals: dict[Band, Decimal] = {band: Decimal(0) for band in tariff.prices}
    for one in intervals:
        begin = one.start.astimezone(zone)
        last = (one.end - timedelta(microseconds=1)).astimezone(zone)
        if begin.date() != day or last.date() != day:
            raise UsageUnclear(f"the interval from {begin:%Y-%m-%d %H:%M} does not lie in {day}")
        band = Band.ALL
        if tariff.timetable is not None:
            band = tariff.timetable.band_at(day, begin.time())
            if tariff.timetable.band_at(day, last.time()) is not band or _crosses(tariff, day, one, zone):
                raise UsageUnclear(
                    f"the interval from {begin:%H:%M} to {last:%H:%M} crosses a change of price; "
                    f"tariff {tariff.name} needs shorter ones"
                )
        totals[band] = totals.get(band, Decimal(0)) + one.kwh
    return totals


def _crosses(tariff: Tariff, day: date, one: IntervalUse, zone: ZoneInfo) -> bool:
    """A band that lies wholly inside; only intervals of hours can have one."""
    assert tariff.timetable is not None
    begin, last = one.start.astimezone(zone).time(), (one.end - timedelta(microseconds=1)).astimezone(zone).time()
    own = tariff.timetable.band_at(day, begin)
    return any(begin < window.start <= last and window.band is not own for window in tariff.timetable.windows_of(day))
