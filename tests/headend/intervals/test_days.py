"""Local days in every zone, at every clock change from 2025 to 2035.

Every zone is looked at. Zones that are one another's names (same offset at every change) have the same days, so one of them does
the counting for all; which zones changed when is found for each by itself.
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from headend.intervals.days import day_starts, local_day

FIRST, LAST = date(2025, 1, 1), date(2035, 12, 31)
ORDINARY = date(2026, 6, 15)  # no zone changes then; those that never change have only this one
HOUR = timedelta(hours=1)
Change = tuple[datetime, int, int]  # when, and the offsets before and after in seconds


def offset_s(instant: datetime, zone: ZoneInfo) -> int:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def changes_of(zone: ZoneInfo) -> tuple[Change, ...]:
    """Found without the zone's tables: by asking for the offset every five days, then halving."""
    found = []
    at, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
    while at < end:
        after = at + timedelta(days=5)
        if offset_s(at, zone) != offset_s(after, zone):
            low, high = at, after
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) // 2
                middle = middle.replace(microsecond=0)
                low, high = (middle, high) if offset_s(middle, zone) == offset_s(low, zone) else (low, middle)
            found.append((high, offset_s(low, zone), offset_s(high, zone)))
        at = after
    return tuple(found)


@lru_cache(maxsize=1)
def zones() -> dict[tuple[int, tuple[Change, ...]], list[str]]:
    """All zones, by offset and changes."""
    alike: dict[tuple[int, tuple[Change, ...]], list[str]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        alike.setdefault((offset_s(datetime(2025, 1, 1, tzinfo=UTC), zone), changes_of(zone)), []).append(name)
    return alike


def change_days(changes: tuple[Change, ...], zone: ZoneInfo, beside: int = 0) -> list[date]:
    """The local days on which a change falls, and so many on either side."""
    days = set()
    for at, _, _ in changes:
        day = at.astimezone(zone).date()
        days |= {day + timedelta(days=shift) for shift in range(-beside, beside + 1)}
    return sorted(day for day in days if FIRST <= day <= LAST)


def test_every_zone_is_looked_at() -> None:
    assert sum(len(names) for names in zones().values()) == len(available_timezones()) > 500
    assert sum(len(changes) for _, changes in zones()) > 500


def test_days_join_without_gap_or_overlap_and_begin_in_themselves() -> None:
    for (_, changes), names in zones().items():
        zone = ZoneInfo(names[0])
        for day in change_days(changes, zone, beside=1):
            start, end = local_day(day, zone)
            assert end == local_day(day + timedelta(days=1), zone)[0]
            assert (start - timedelta(seconds=1)).astimezone(zone).date() < day <= start.astimezone(zone).date()


def test_days_at_every_clock_change_have_the_right_number_of_quarter_hours(is_full: bool) -> None:
    lengths: dict[int, int] = {}
    for (_, changes), names in zones().items():
        zone = ZoneInfo(names[0])
        for day in [ORDINARY, *change_days(changes, zone, beside=1 if is_full else 0)]:
            start, end = local_day(day, zone)
            starts = day_starts(day, 900, zone)
            assert len(starts) == (end - start) / timedelta(seconds=900), (names[0], day)
            assert starts[0] == start
            assert all(later - one == timedelta(seconds=900) for one, later in pairwise([*starts, end]))
            lengths[len(starts)] = lengths.get(len(starts), 0) + len(names)
    assert {92, 100} <= set(lengths)
    assert set(lengths) <= {88, 92, 94, 96, 98, 100, 104}  # Troll changes by two hours, Lord Howe by half of one


@pytest.mark.parametrize(
    ("name", "day", "quarters"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 92),
        ("Europe/Berlin", date(2026, 3, 30), 96),
        ("Europe/Berlin", date(2026, 10, 25), 100),
        ("Asia/Shanghai", date(2026, 3, 29), 96),
        ("America/Havana", date(2026, 3, 8), 92),  # midnight itself is skipped
        ("America/Havana", date(2026, 11, 1), 100),  # midnight comes twice
        ("Australia/Lord_Howe", date(2026, 4, 5), 98),
        ("Antarctica/Troll", date(2026, 3, 29), 88),
        ("Asia/Kathmandu", date(2026, 6, 1), 96),
    ],
)
def test_known_days_have_their_known_number_of_quarter_hours(name: str, day: date, quarters: int) -> None:
    assert len(day_starts(day, 900, ZoneInfo(name))) == quarters


def test_a_daily_interval_is_the_whole_day_however_long() -> None:
    zone = ZoneInfo("Europe/Berlin")
    assert [len(day_starts(day, 86_400, zone)) for day in (date(2026, 3, 29), date(2026, 10, 25))] == [1, 1]
    start, end = local_day(date(2026, 10, 25), zone)
    assert end - start == 25 * HOUR
