"""Interval boundaries in every zone, through every clock change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.scheduling.plan import next_slot, slot_at

SHANGHAI = ZoneInfo("Asia/Shanghai")
ZONES = [
    ZoneInfo(name)
    for name in (
        "Asia/Shanghai",
        "Europe/Berlin",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Antarctica/Troll",
        "Africa/Casablanca",
        "Pacific/Apia",
        "UTC",
    )
]
PERIODS_S = [60, 300, 900, 1800, 3600, 2 * 3600, 3 * 3600, 4 * 3600, 8 * 3600, 6 * 3600, 12 * 3600, 86400]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "period_s", "zone", "slot"),
    [
        ("2026-11-21T10:14:59", 900, SHANGHAI, "2026-11-21T10:00:00"),
        ("2026-11-21T10:15:00", 900, SHANGHAI, "2026-11-21T10:15:00"),
        ("2026-11-21T15:59:59", 86400, SHANGHAI, "2026-11-20T16:00:00"),  # local midnight is 16:00 UTC the day before
        ("2026-11-21T16:00:00", 86400, SHANGHAI, "2026-11-21T16:00:00"),
        ("2026-11-21T10:20:00", 3600, ZoneInfo("Asia/Kathmandu"), "2026-11-21T10:15:00"),  # +05:45
        ("2026-10-25T00:30:00", 900, ZoneInfo("Europe/Berlin"), "2026-10-25T00:30:00"),  # 02:30, first pass
        ("2026-10-25T01:30:00", 900, ZoneInfo("Europe/Berlin"), "2026-10-25T01:30:00"),  # 02:30, second pass
        ("2026-10-25T22:59:00", 86400, ZoneInfo("Europe/Berlin"), "2026-10-24T22:00:00"),  # a day of 25 hours
    ],
)
def test_the_latest_boundary(now: str, period_s: int, zone: ZoneInfo, slot: str) -> None:
    assert slot_at(utc(now), period_s, zone) == utc(slot)


@pytest.mark.parametrize(("day", "quarters"), [("2026-03-29", 92), ("2026-06-01", 96), ("2026-10-25", 100)])
def test_quarter_hours_of_a_day_with_a_clock_change(day: str, quarters: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    slot = datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(UTC)
    end = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=zone).astimezone(UTC)
    count = 0
    while slot < end:
        slot = next_slot(slot, 900, zone)
        count += 1
    assert (slot, count) == (end, quarters)


@given(st.datetimes(datetime(2025, 1, 1), datetime(2036, 1, 1)), st.sampled_from(PERIODS_S), st.sampled_from(ZONES))
def test_slots_are_ordered_and_cover_all_time(moment: datetime, period_s: int, zone: ZoneInfo) -> None:
    now = moment.replace(tzinfo=UTC)
    slot = slot_at(now, period_s, zone)
    after = next_slot(slot, period_s, zone)
    assert slot <= now < after
    assert slot_at(slot, period_s, zone) == slot
    assert slot_at(after, period_s, zone) == after
    assert slot_at(after - timedelta(seconds=1), period_s, zone) == slot
    assert after - slot <= timedelta(seconds=period_s + 7200)


@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2036, 1, 1)),
    st.integers(0, 4 * 3600),
    st.sampled_from(PERIODS_S),
    st.sampled_from([*ZONES, ZoneInfo("America/Havana")]),
)
def test_slots_never_run_backwards(moment: datetime, later_s: int, period_s: int, zone: ZoneInfo) -> None:
    now = moment.replace(tzinfo=UTC)
    assert (
        slot_at(now, period_s, zone)
        <= slot_at(now + timedelta(seconds=later_s), period_s, zone)
        <= now + timedelta(seconds=later_s)
    )


@pytest.mark.parametrize("zone", [*ZONES, ZoneInfo("America/Havana")], ids=str)
def test_slots_never_run_backwards_through_every_clock_change_of_eleven_years(zone: ZoneInfo) -> None:
    for period_s in (900, 3600, 2 * 3600, 3 * 3600, 6 * 3600, 86400):
        moment, last, offset = utc("2025-01-01T00:00:00"), slot_at(utc("2024-12-29T00:00:00"), period_s, zone), None
        while moment < utc("2036-01-01T00:00:00"):
            changed = moment.astimezone(zone).utcoffset() != offset
            offset = moment.astimezone(zone).utcoffset()
            # Quarter by quarter around a change, day by day elsewhere.
            around = (
                [moment - timedelta(hours=26) + timedelta(minutes=15 * step) for step in range(210)]
                if changed
                else [moment]
            )
            for instant in around:
                if instant < last:
                    continue
                slot = slot_at(instant, period_s, zone)
                assert last <= slot <= instant, (zone, period_s, instant)
                last = slot
            moment += timedelta(days=1)
