"""Whatever happens to the reads, amounts and spans together are what the register counted: exactly, always, everywhere.

The register is a simulated counter that rolls over; the meter behind it may be exchanged; boundaries go missing or are suspect. What it
counted in truth is known, because the counter never forgets.
"""

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headend.intervals.build import build_intervals, revised
from headend.intervals.days import day_starts, local_day
from headend.intervals.model import Boundary, Channel, Exchange, Facts, Interval
from headend.intervals.registers import Kind, Register
from headend.model import Quality
from protocols.values import Unit
from tests.headend.intervals.test_days import ORDINARY, change_days, zones

CENT = Decimal("0.01")
MODULUS = Decimal("1000000.00")
REGISTER = Register(kind=Kind.CUMULATIVE, unit=Unit.KWH, modulus=MODULUS)
PERIODS = (300, 900, 1800, 3600, 21_600, 86_400)


class Counter:
    """Counts in hundredths, shows eight digits, and is exchanged now and then. counted: in truth, since the first read."""

    def __init__(self, start: int) -> None:
        self.shown = start
        self.counted = 0
        self.exchanges: list[Exchange] = []

    def run(self, hundredths: int) -> None:
        self.shown = (self.shown + hundredths) % 100_000_000
        self.counted += hundredths

    def exchange(self, at: datetime, first: int) -> None:
        self.exchanges.append(Exchange(at=at, final=self.shown * CENT, first=first * CENT))
        self.shown = first


def channel(zone: ZoneInfo, period_s: int = 900) -> Channel:
    return Channel(meter="M1", obis="1-0:1.8.0", period_s=period_s, zone=zone, register=REGISTER)


def together(intervals: Sequence[Interval]) -> Decimal:
    return sum((one.amount or Decimal(0)) + (one.span.amount if one.span else 0) for one in intervals) + Decimal(0)


def check(intervals: Sequence[Interval], slots: Sequence[datetime], counted: int) -> None:
    assert [one.start for one in intervals] == list(slots[:-1])
    assert [one.end for one in intervals] == list(slots[1:])
    assert together(intervals) == counted * CENT
    assert all((one.amount is None) == bool(one.reason) for one in intervals)
    assert all(one.amount is None or one.span is None for one in intervals)


def read_day(
    slots: Sequence[datetime], chance: random.Random, *, trouble: float
) -> tuple[list[Boundary], Counter, int]:
    """Reads at the slots, 0..2 exchanges and perhaps a rollover between them; the truth between the first and last good read."""
    counter = Counter(chance.randrange(99_999_000, 100_000_000))
    exchanges = {chance.randrange(1, len(slots)) for _ in range(chance.randrange(3))}
    boundaries, before, first = [], 0, None
    for place, slot in enumerate(slots):
        if place in exchanges:
            counter.run(chance.randrange(50))
            counter.exchange(slot - timedelta(seconds=chance.randrange(1, 100)), chance.randrange(100_000))
        counter.run(chance.randrange(50))
        fate = chance.random() / trouble if trouble else 9.0
        quality = (Quality.MISSING,) if fate < 0.5 else (Quality.SUSPECT,) if fate < 1 else (Quality.MEASURED,)
        amount = None if fate < 0.5 else Decimal("4294967.29") if fate < 1 else counter.shown * CENT
        boundaries.append(
            Boundary(instant=slot, amount=amount, unit=Unit.KWH, quality=quality, reason="silent" if fate < 0.5 else "")
        )
        if fate >= 1:
            first = counter.counted if first is None else first
            before = counter.counted
    return boundaries, counter, before - (first or 0)


@pytest.mark.timeout(1800)
def test_sums_are_exact_at_every_clock_change_of_every_zone(is_full: bool) -> None:
    for (_, changes), names in zones().items():
        zone = ZoneInfo(names[0])
        for day in [ORDINARY, *change_days(changes, zone)]:
            chance = random.Random(f"{names[0]} {day}")
            for period_s in PERIODS if is_full else (chance.choice(PERIODS[2:]),):
                start, end = local_day(day, zone)
                slots = [*day_starts(day, period_s, zone), end]
                boundaries, counter, counted = read_day(slots, chance, trouble=0.0)
                facts = Facts(exchanges=tuple(counter.exchanges))
                intervals = build_intervals(channel(zone, period_s), boundaries, since=start, until=end, facts=facts)
                check(intervals, slots, counted)
                assert all(one.amount is not None for one in intervals)


@given(seed=st.integers(), trouble=st.sampled_from((0.0, 0.1, 0.5, 0.95)), split=st.integers(1, 94))
@settings(max_examples=60, deadline=None)
def test_sums_are_exact_whatever_is_missing_suspect_exchanged_or_rolled_over(
    seed: int, trouble: float, split: int
) -> None:
    zone = ZoneInfo("Europe/Berlin")
    day = date(2026, 6, 1)
    slots = [*day_starts(day, 900, zone), local_day(day, zone)[1]]
    boundaries, counter, counted = read_day(slots, random.Random(seed), trouble=trouble)
    facts = Facts(exchanges=tuple(counter.exchanges))
    intervals = build_intervals(channel(zone), boundaries, since=slots[0], until=slots[-1], facts=facts)
    check(intervals, slots, counted)

    # The order of the reads is of no matter, and neither is whether the day is built at once or in two windows.
    random.Random(seed).shuffle(boundaries)
    assert intervals == build_intervals(channel(zone), boundaries, since=slots[0], until=slots[-1], facts=facts)
    early = build_intervals(channel(zone), boundaries, since=slots[0], until=slots[split], facts=facts)
    earlier = [one for one in boundaries if one.instant < slots[split]]
    last_good = max((one for one in earlier if one.is_good), key=lambda one: one.instant, default=None)
    given_late = [one for one in boundaries if one.instant >= slots[split]] + ([last_good] if last_good else [])
    late = build_intervals(channel(zone), given_late, since=slots[split], until=slots[-1], facts=facts)
    assert together(early) + together(late) == counted * CENT
    assert [one.end for one in early + late] == slots[1:]


@given(seed=st.integers())
@settings(max_examples=30, deadline=None)
def test_a_boundary_that_is_filled_in_later_changes_its_two_intervals_and_no_sum(seed: int) -> None:
    zone, chance = ZoneInfo("Asia/Shanghai"), random.Random(seed)
    slots = [datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(20)]
    whole, counter, counted = read_day(slots, chance, trouble=0.0)
    facts = Facts(exchanges=tuple(counter.exchanges))
    hole = chance.randrange(1, 19)
    lacking = Boundary(instant=slots[hole], amount=None, unit=Unit.KWH, quality=(Quality.MISSING,), reason="silent")
    before = build_intervals(
        channel(zone), [*whole[:hole], lacking, *whole[hole + 1 :]], since=slots[0], until=slots[-1], facts=facts
    )
    filled = Boundary(
        instant=slots[hole],
        amount=whole[hole].amount,
        unit=Unit.KWH,
        quality=(Quality.MEASURED, Quality.BACK_FILLED),
        revision=1,
    )
    after = build_intervals(channel(zone), [*whole, lacking, filled], since=slots[0], until=slots[-1], facts=facts)
    assert together(before) == together(after) == counted * CENT
    changed = [fresh for old, new in zip(before, after, strict=True) if (fresh := revised(old, new)) is not None]
    assert [one.end for one in changed] == [slots[hole], slots[hole + 1]]
    assert [one.revision for one in changed] == [1, 1]
    assert all(Quality.BACK_FILLED in one.quality for one in changed)


def test_slots_of_a_window_are_contiguous_and_unique() -> None:
    zone = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 3, 1, tzinfo=UTC)
    intervals = build_intervals(channel(zone), [], since=start, until=start + timedelta(days=60))
    assert len({one.end for one in intervals}) == len(intervals)
    assert all(one.end == other.start for one, other in pairwise(intervals))
    assert (
        len(intervals) == 60 * 96
    )  # UTC days: a change moves local labels, not the number of quarter hours between two instants
