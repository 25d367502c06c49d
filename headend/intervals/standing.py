"""One interval, from where a register stood: at its start, at its end, and at the last good read before. Nothing else decides it.

So a read that comes later, or is corrected, changes the interval that ends with it, the one that begins with it, and the one that
ends with the next good read; and whoever knows the reads up to an event of the feed knows what was told up to there.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.intervals.build import (
    NO_FACTS,
    build_intervals,
    covered_unless_aligned,
    ratio_up_to,
    with_ratio,
)
from headend.intervals.model import Boundary, Channel, Facts, Interval
from headend.intervals.registers import Register
from headend.model import Quality
from headend.scheduling.plan import next_slot, slot_at
from protocols.values import Unit

__all__ = ["Series", "Standing", "boundary_slot", "interval_of", "slot_after", "slot_before", "standing_of"]

TOLERANCE_S = 60.0  # a pushed read so near to a boundary stands for it; beyond it `covered` would have to say so
TOLERANCE_SHARE = 15
LABELS_FOLLOW = timedelta(days=1)  # how long before it was set a clock is taken to have been off by as much
_MOMENT = timedelta(microseconds=1)


class Series(Struct, frozen=True, kw_only=True):
    """A channel as long as its period does not change. since: up to here another period was told; None: it is the first."""

    meter: str
    obis: str
    period_s: int
    zone: ZoneInfo
    register: Register
    since: datetime | None = None


class Standing(Struct, frozen=True, gc=False):
    """A read as a boundary. slot: which one; None where the read lies between two. good: amount known and not doubted.

    source, is_primary: of the read.
    """

    boundary: Boundary
    slot: datetime | None
    good: bool
    source: str
    is_primary: bool


@lru_cache(maxsize=8192)
def boundary_slot(instant: datetime, period_s: int, zone: ZoneInfo) -> datetime | None:
    """The boundary that a read of this moment stands for; None when it is near to none."""
    earlier = slot_at(instant, period_s, zone)
    if earlier == instant:
        return earlier
    tolerance = timedelta(seconds=min(TOLERANCE_S, period_s / TOLERANCE_SHARE))
    if instant - earlier <= tolerance:
        return earlier
    later = slot_after(earlier, period_s, zone)
    return later if later - instant <= tolerance else None


@lru_cache(maxsize=8192)
def slot_after(slot: datetime, period_s: int, zone: ZoneInfo) -> datetime:
    return next_slot(slot, period_s, zone)


@lru_cache(maxsize=8192)
def slot_before(slot: datetime, period_s: int, zone: ZoneInfo) -> datetime:
    return slot_at(slot - timedelta(seconds=1), period_s, zone)


def standing_of(
    instant: datetime,
    series: Series,
    *,
    amount: Decimal | None,
    unit: Unit,
    quality: tuple[Quality, ...],
    revision: int,
    reason: str,
    read_at: datetime | None,
    received_at: datetime,
    source: str,
    is_primary: bool,
    facts: Facts = NO_FACTS,
) -> Standing:
    slot = boundary_slot(instant, series.period_s, series.zone)
    captured_at: datetime | None = None
    if amount is not None:
        captured_at = received_at if read_at is None else _by_our_clock(read_at, facts)
    boundary = Boundary(
        instant=instant if slot is None else slot,
        amount=amount,
        unit=unit,
        quality=quality,
        revision=revision,
        reason=reason,
        captured_at=captured_at,
        by_meter_clock=read_at is not None,
    )
    return Standing(boundary, slot, amount is not None and Quality.SUSPECT not in quality, source, is_primary)


def _by_our_clock(label: datetime, facts: Facts) -> datetime:
    for correction in facts.corrections:
        if label < correction.at <= label + LABELS_FOLLOW:
            return label - timedelta(seconds=correction.before_s)
    return label


def interval_of(
    series: Series, first: Standing | None, last: Standing, good: Standing | None, facts: Facts = NO_FACTS
) -> Interval:
    """The interval that ends with `last`, in revision 0.

    first: what stands at its start; None where another period was told beyond that. good: the last good read before `last`, which may
    be `first`, up to which nothing was told that this interval would tell again; of a channel that has none at a boundary, its first
    good read.
    """
    end = last.boundary.instant
    start = slot_before(end, series.period_s, series.zone)
    if first is not None and first.good and last.good:
        plain = _plain(series, start, end, first.boundary, last, facts)
        if plain is not None:
            return plain
    boundaries = [one.boundary for one in (first, last) if one is not None]
    if good is not None and good is not first:
        boundaries.append(good.boundary)
    channel = Channel(
        meter=series.meter,
        obis=series.obis,
        period_s=series.period_s,
        zone=series.zone,
        register=series.register,
        is_primary=last.is_primary,
        source=last.source,
    )
    return build_intervals(channel, boundaries, since=start, until=end, facts=facts)[0]


def _plain(
    series: Series, start: datetime, end: datetime, first: Boundary, last: Standing, facts: Facts
) -> Interval | None:
    """What `build_intervals` says where nothing happened inside, a hundred times as fast; None where something did. A test compares."""
    edge = last.boundary
    unit = series.register.unit
    assert first.amount is not None
    assert edge.amount is not None
    amount = edge.amount - first.amount
    if amount < 0 or first.unit is not unit or edge.unit is not unit or abs(amount.adjusted()) > 20:
        return None
    ratio = primary = None
    if facts is not NO_FACTS:
        if (
            any(first.moment < one.at <= edge.moment for one in facts.exchanges)
            or any(start < one.at <= end for one in facts.corrections)
            or any(start < one.at < end for one in facts.ratio_changes)
        ):
            return None
        ratio = ratio_up_to(start + _MOMENT, facts)
        primary = with_ratio(amount, ratio, is_primary=last.is_primary)
    elif last.is_primary:
        primary = amount
    return Interval(
        meter=series.meter,
        obis=series.obis,
        start=start,
        end=end,
        period_s=series.period_s,
        amount=amount,
        unit=unit,
        quality=first.quality if first.quality == edge.quality else _both(first.quality, edge.quality),
        source=last.source,
        covered=covered_unless_aligned(first.moment, edge.moment, start, end, ()),
        ratio=ratio,
        primary=primary,
    )


def _both(one: tuple[Quality, ...], other: tuple[Quality, ...]) -> tuple[Quality, ...]:
    return tuple(quality for quality in Quality if quality in one or quality in other)
