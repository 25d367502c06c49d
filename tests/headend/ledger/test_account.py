"""What is owed of a day, and what became of it: slots, duties that change, pushed meters, stretches of what is missing."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from headend.ledger.account import RUNS_MAX, ChannelRow, MeterAccount, Window, count_channel, count_unseen
from headend.ledger.closing import day_of
from headend.ledger.duty import CONCENTRATOR, Duty
from headend.ledger.states import State
from headend.model import Quality
from headend.store.rows import epoch_ms, quality_bits
from tests.headend.ledger.support import DAY, MIDNIGHT, ZONE, duty, slots
from tests.headend.support import IMPORT

MEASURED = quality_bits((Quality.MEASURED,))
SUSPECT = quality_bits((Quality.MEASURED, Quality.SUSPECT))
MISSING = quality_bits((Quality.MISSING,))
FIRST = date(2026, 2, 1)


def row(at: datetime, quality: int = MEASURED, reason: str = "", revision: int = 0) -> ChannelRow:
    return epoch_ms(at), revision, quality, reason, 1


def account(
    rows: list[ChannelRow], *duties: Duty, now: datetime = MIDNIGHT + 30 * DAY, day: date = FIRST
) -> MeterAccount:
    window = Window(day, ZONE, now)
    found = MeterAccount("M1", "line-1", duties[0].route if duties else "line")
    if rows:
        count_channel(found, IMPORT, rows, duties, window)
    count_unseen(found, duties, window)
    return found


def test_the_day_has_the_interval_that_ends_at_its_end_and_not_the_one_that_ends_at_its_beginning() -> None:
    found = account([row(at) for at in [MIDNIGHT + timedelta(hours=2), MIDNIGHT + DAY]], duty())
    assert found.states == {State.MEASURED: 2, State.IRRECOVERABLE: 10}
    assert day_of(MIDNIGHT + DAY, ZONE) == FIRST
    assert day_of(MIDNIGHT, ZONE) == date(2026, 1, 31)


def test_an_absent_interval_is_open_until_back_filling_no_longer_looks_at_it() -> None:
    last = slots()[-1]
    assert account([], duty(), now=last + timedelta(hours=1)).states == {State.OPEN: 12}
    halfway = slots()[5] + timedelta(days=2, hours=2)
    assert account([], duty(), now=halfway + timedelta(seconds=1)).states == {State.OPEN: 6, State.IRRECOVERABLE: 6}
    assert account([], duty(back_fill_s=0), now=last + timedelta(hours=1)).states == {State.IRRECOVERABLE: 12}


def test_the_newest_revision_counts() -> None:
    at = slots()[0]
    rows = [row(at, MISSING, "silent"), row(at, SUSPECT, revision=1), row(at, MEASURED, revision=2)]
    found = account(rows, duty(since=epoch_ms(at) - 1, until=epoch_ms(at)))
    assert (found.states, found.events, found.reasons) == ({State.MEASURED: 1}, 3, {})


def test_what_was_read_counts_though_nobody_owed_it() -> None:
    assert account([row(slots()[0]), row(slots()[1], MISSING, "silent")]).states == {
        State.MEASURED: 1,
        State.METER_UNREACHABLE: 1,
    }


def test_a_plan_that_changes_at_noon_owes_its_own_intervals_before_and_after() -> None:
    noon = epoch_ms(MIDNIGHT) + 12 * 3_600_000
    before, after = duty(until=noon), duty(period_s=900, since=noon)
    found = account([], before, after)
    assert found.expected == 6 + 48
    # What the old plan left open at noon ends by the old plan's look-back.
    assert account([], duty(until=noon, back_fill_s=0), after, now=MIDNIGHT + DAY).states == {
        State.IRRECOVERABLE: 6,
        State.OPEN: 48,
    }


def test_a_meter_that_moves_to_another_line_owes_every_interval_once() -> None:
    noon = epoch_ms(MIDNIGHT) + 12 * 3_600_000
    rows = [row(at) for at in slots()]
    assert account(rows, duty(until=noon), duty(line="line-2", since=noon)).states == {State.MEASURED: 12}


def test_missing_intervals_are_told_in_stretches_with_their_reason() -> None:
    there = slots()
    rows = [row(at) for at in there[:3]] + [row(at, MISSING, "silent") for at in there[3:6]]
    rows += [row(there[6], MISSING, "line-down"), row(there[7]), row(there[8], SUSPECT)]
    found = account(rows, duty())
    assert [(run.state, run.reason, run.count) for run in found.runs] == [
        (State.METER_UNREACHABLE, "silent", 3),
        (State.LINE_DOWN, "line-down", 1),
        (State.SUSPECT, "suspect", 1),
        (State.IRRECOVERABLE, "unrecorded", 3),
    ]
    assert (found.runs[0].first, found.runs[0].last) == (epoch_ms(there[3]), epoch_ms(there[5]))


def test_a_meter_of_every_other_interval_does_not_fill_the_feed() -> None:
    ends = slots(period_s=60)
    found = account([row(at) for at in ends[::2]], duty(period_s=60))
    assert len(found.runs) == RUNS_MAX
    assert sum(run.count for run in found.runs) + found.left_off == 720


def test_of_a_pushed_meter_an_interval_has_the_best_of_what_was_taken_in_it() -> None:
    pushed = duty(route=CONCENTRATOR)
    minute = timedelta(minutes=1)
    first, second = slots()[:2]
    rows = [
        row(first - 50 * minute, MISSING, "not-measured"),
        row(first - 20 * minute, SUSPECT),
        row(first),  # exactly at its end
        row(first + minute, MISSING, "not-measured"),
        row(second + timedelta(milliseconds=250), SUSPECT),
    ]
    found = account(rows, pushed)
    assert found.states == {
        State.MEASURED: 1,
        State.METER_HAS_NO_DATA: 1,
        State.SUSPECT: 1,
        State.METER_UNREACHABLE: 9,
    }
    assert found.reasons == {"not-measured": 1, "suspect": 1, "not-sent": 9}
    assert account([], pushed, now=MIDNIGHT + DAY).states == {State.OPEN: 12}


def test_of_a_day_that_is_not_over_only_intervals_whose_round_has_ended_are_expected() -> None:
    now = MIDNIGHT + timedelta(hours=5)
    rows = [row(slots()[0]), row(slots()[1])]  # the second round is under way: others of it may not have been read yet
    assert account(rows, duty(), now=now).states == {State.MEASURED: 1}
    assert account(rows, duty(), now=MIDNIGHT + timedelta(hours=6)).states == {State.MEASURED: 2}


def test_quarter_hours_of_every_zone_fit_their_days_without_gap_or_overlap() -> None:
    """Every zone, the days of 2026 in which its clocks change, and their neighbours."""
    noon = timedelta(hours=12)
    changes = 0
    seen: set[object] = set()
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        start = datetime(2026, 1, 1, tzinfo=UTC)
        days = [start + DAY * number + noon for number in range(365)]
        offsets = tuple(at.astimezone(zone).utcoffset() for at in days)
        if offsets in seen:  # another name of a zone
            continue
        seen.add(offsets)
        for place in (place for place in range(1, 364) if offsets[place] != offsets[place - 1]):
            changes += 1
            changed = days[place].astimezone(zone).date()
            windows = [Window(changed + near * DAY, zone, days[364]) for near in (-2, -1, 0, 1)]
            for one, next_one in pairwise(windows):
                assert one.high == next_one.low, name
            for window in windows:
                quarters = window.slots(900)
                assert len(quarters) == (window.high - window.low) // 900_000, (name, window.day)
                assert quarters[-1] == window.high, (name, window.day)
                assert {day_of(datetime.fromtimestamp(at / 1000, UTC), zone) for at in quarters} == {window.day}, name
    assert changes > 20


@pytest.mark.parametrize(
    ("day", "quarters"), [(date(2026, 3, 29), 92), (date(2026, 10, 25), 100), (date(2026, 7, 1), 96)]
)
def test_clock_change_days_have_92_and_100_quarters(day: date, quarters: int) -> None:
    window = Window(day, ZoneInfo("Europe/Berlin"), datetime(2027, 1, 1, tzinfo=UTC))
    assert len(window.owed(duty(period_s=900))) == quarters
