"""Measured clocks, and when they may be set: never near a boundary, never twice a day, never further than allowed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.model import MeterClock
from headend.scheduling.clock_check import ClockPolicy, corrected, decide, is_check_due, measure, why_not_now

CHINA = ZoneInfo("Asia/Shanghai")
NOON = datetime(2026, 3, 2, 4, 7, 30, tzinfo=UTC)  # 12:07:30 in Shanghai, the middle of a quarter hour
BROADCAST = ClockPolicy(correct="broadcast")
WRITE = ClockPolicy(correct="write")


def clock(offset_s: float, *, measured_at: datetime = NOON - timedelta(hours=1)) -> MeterClock:
    return MeterClock(measured_at=measured_at, offset_s=offset_s, uncertainty_s=0.7)


def decided(policy: ClockPolicy, *offsets: float, now: datetime = NOON, last: datetime | None = None, periods=(900,)):  # type: ignore[no-untyped-def]
    clocks = {f"M{number}": clock(offset_s) for number, offset_s in enumerate(offsets)}
    return decide(policy, clocks, now=now, zone=CHINA, periods_s=periods, broadcast_at=last)


# ------------------------------------------------------------------------------------------------ measuring


def test_an_offset_is_reckoned_at_the_middle_of_the_exchange() -> None:
    """The reply was complete at 12:00:10.0 after 4 s; the meter showed 12:00:09, which stands for 9.5 s on average."""
    received_at = datetime(2026, 3, 2, 4, 0, 10, tzinfo=UTC)
    shown = datetime(2026, 3, 2, 12, 0, 9)
    found = measure(shown, received_at=received_at, elapsed_s=4.0, zone=CHINA, previous=None)
    assert found.offset_s == 1.5
    assert found.uncertainty_s == 2.5
    assert found.drift_ppm is None


def test_drift_is_known_from_two_measurements_without_a_correction_between() -> None:
    first = clock(1.0, measured_at=NOON - timedelta(days=1))
    shown = NOON.astimezone(CHINA).replace(tzinfo=None) + timedelta(seconds=4.82)
    found = measure(shown, received_at=NOON, elapsed_s=0.0, zone=CHINA, previous=first)
    assert found.drift_ppm == 50.0
    moved = corrected(first, NOON - timedelta(hours=12))
    assert measure(shown, received_at=NOON, elapsed_s=0.0, zone=CHINA, previous=moved).drift_ppm is None


def test_labels_from_before_a_correction_keep_the_offset_they_were_written_with() -> None:
    before = clock(120.0)
    after = corrected(before, NOON)
    assert after.offset_at(NOON - timedelta(seconds=1)) == 120.0
    assert after.offset_at(NOON) == 0.0
    shown = NOON.astimezone(CHINA).replace(tzinfo=None) + timedelta(seconds=61)
    again = measure(shown, received_at=NOON + timedelta(minutes=1), elapsed_s=0.0, zone=CHINA, previous=after)
    assert again.offset_at(NOON - timedelta(hours=1)) == 120.0
    assert again.offset_at(NOON + timedelta(hours=1)) == 1.5


def test_a_check_is_due_once_per_local_day_and_after_every_correction() -> None:
    assert is_check_due(None, NOON, CHINA)
    assert not is_check_due(clock(0), NOON, CHINA)
    assert is_check_due(clock(0), datetime(2026, 3, 2, 16, 0, tzinfo=UTC), CHINA)  # midnight in Shanghai
    assert is_check_due(corrected(clock(120), NOON), NOON + timedelta(seconds=5), CHINA)


# ------------------------------------------------------------------------------------------------ deciding


def test_nothing_is_corrected_unless_the_policy_says_so_or_a_clock_is_beyond_the_limit() -> None:
    assert decided(ClockPolicy(), 120.0) is None
    assert decided(BROADCAST, 59.0, -59.0) is None


def test_a_broadcast_goes_out_once_per_local_day() -> None:
    found = decided(BROADCAST, 0.0, 120.0, -70.0)
    assert (found.method, found.meters) == ("broadcast", ("M1", "M2"))
    assert decided(BROADCAST, 120.0, last=NOON - timedelta(hours=5)) is None
    assert decided(BROADCAST, 120.0, last=NOON - timedelta(hours=13)) is not None


def test_beyond_five_minutes_only_a_write_helps_and_only_where_it_is_wanted() -> None:
    assert decided(BROADCAST, 301.0) is None
    assert decided(BROADCAST, 299.8) is None  # the uncertainty may carry it over the meter's own limit
    found = decided(WRITE, 301.0)
    assert (found.method, found.meters) == ("write", ("M0",))
    assert decided(WRITE, 301.0, 120.0).method == "broadcast"
    written = {"M0": MeterClock(measured_at=NOON, offset_s=900.0, uncertainty_s=1.0, written_at=NOON)}
    assert decide(WRITE, written, now=NOON, zone=CHINA, periods_s=(900,), broadcast_at=None) is None


@pytest.mark.parametrize(
    ("local", "step_s", "why"),
    [
        ("2026-03-02 00:07:30", 100.0, ""),
        ("2026-03-02 00:06:00", 100.0, "midnight"),  # the meter's own clock may be at 00:04:20
        ("2026-03-02 23:54:00", 100.0, "midnight"),
        ("2026-03-01 00:03:00", 0.0, "midnight"),
        ("2026-03-02 12:07:30", 290.0, ""),
        ("2026-03-02 12:04:59", 60.0, "interval end"),
        ("2026-03-02 12:10:01", 60.0, "interval end"),
        ("2026-03-02 12:05:01", 60.0, ""),
    ],
)
def test_boundaries_keep_their_distance(local: str, step_s: float, why: str) -> None:
    now = datetime.fromisoformat(local).replace(tzinfo=CHINA)
    assert why_not_now(BROADCAST, now, zone=CHINA, periods_s=(900,), step_s=step_s) == why


def test_settlement_moments_are_kept_clear_of() -> None:
    policy = ClockPolicy(correct="broadcast", settlements=("0100", "1512"))
    for local, why in (
        ("2026-03-15 12:07:30", ""),
        ("2026-03-15 12:06:00", "settlement"),
        ("2026-03-15 11:54:00", "settlement"),
        ("2026-03-16 12:06:00", ""),
    ):
        now = datetime.fromisoformat(local).replace(tzinfo=CHINA)
        assert why_not_now(policy, now, zone=CHINA, periods_s=(900,), step_s=100.0) == why


def test_short_periods_leave_room_for_small_steps_only() -> None:
    middle = datetime(2026, 3, 2, 12, 7, 30, tzinfo=CHINA)
    assert why_not_now(BROADCAST, middle, zone=CHINA, periods_s=(300,), step_s=100.0) == ""
    assert why_not_now(BROADCAST, middle, zone=CHINA, periods_s=(300,), step_s=130.0) == "interval end"
    assert why_not_now(BROADCAST, middle, zone=CHINA, periods_s=(60,), step_s=61.0) == "interval end"


@given(st.integers(0, 86399), st.floats(-299.0, 299.0), st.sampled_from([300, 600, 900, 3600]))
def test_no_allowed_step_crosses_a_boundary_or_comes_near_midnight(second: int, offset_s: float, period_s: int) -> None:
    """Whatever the moment: between what the meter shows and what it is set to lies no interval end, no midnight."""
    local = datetime(2026, 3, 2) + timedelta(seconds=second)
    found = decided(BROADCAST, offset_s, now=local.replace(tzinfo=CHINA), periods=(period_s,))
    if found is None:
        return
    shown = local + timedelta(seconds=offset_s)
    low, high = sorted((shown, local))
    for size_s in (period_s, 900, 86400):
        midnight = datetime(2026, 3, 1)
        assert (low - midnight) // timedelta(seconds=size_s) == (high - midnight) // timedelta(seconds=size_s)
    for moment in (shown, local):
        since_s = (moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        assert 300 <= since_s <= 86400 - 300
