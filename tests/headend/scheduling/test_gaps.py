"""Which intervals are missing: against a plain model, and the cases that are easily got wrong."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from headend.model import SlotState
from headend.scheduling.gaps import SETTLED, Gap, find_gaps, newest, slots_between

CHINA = ZoneInfo("Asia/Shanghai")
START = datetime(2026, 3, 1, 16, tzinfo=UTC)
SLOTS = [START + timedelta(minutes=15 * number) for number in range(12)]
REASONS = ["", "silent", "line-down", "stopped", *sorted(SETTLED)]

histories = st.dictionaries(st.integers(0, 11), st.lists(st.sampled_from(REASONS), min_size=1, max_size=3))


@given(histories, st.integers(0, 11), st.integers(0, 12), st.randoms())
def test_gaps_are_the_slots_whose_last_word_is_no_amount_and_can_change(history, first, attended, random) -> None:  # type: ignore[no-untyped-def]
    """A slot's last word is its highest revision; slots without any are gaps only where nobody was there to make one."""
    history = {slot: reasons for slot, reasons in history.items() if slot >= first}
    states = [
        SlotState(SLOTS[slot], revision, reason)
        for slot, reasons in history.items()
        for revision, reason in enumerate(reasons)
    ]
    random.shuffle(states)
    unattended_before = START + timedelta(minutes=15 * attended)
    expected = []
    for slot in range(12):
        if slot not in history:
            if first <= slot < attended:
                expected.append(Gap(SLOTS[slot], "x", 0))
        elif history[slot][-1] and history[slot][-1] not in SETTLED:
            expected.append(Gap(SLOTS[slot], "x", len(history[slot])))
    found = find_gaps("x", states, SLOTS, first=SLOTS[first], unattended_before=unattended_before)
    assert found == expected


def test_a_channel_that_never_had_a_read_owes_nothing() -> None:
    assert find_gaps("x", [], SLOTS, first=None, unattended_before=SLOTS[-1]) == []


def test_the_newest_slots_come_first_and_whole() -> None:
    gaps = {obis: [Gap(slot, obis, 1) for slot in SLOTS[:6]] for obis in ("a", "b")}
    found = newest(gaps, 2)
    assert [(gap.slot, gap.obis) for gap in found] == [
        (SLOTS[5], "b"),
        (SLOTS[5], "a"),
        (SLOTS[4], "b"),
        (SLOTS[4], "a"),
    ]
    assert newest({"a": []}, 5) == []


def test_slots_of_a_stretch_begin_at_the_first_boundary_inside_and_end_before_its_end() -> None:
    found = list(slots_between(START + timedelta(minutes=1), START + timedelta(hours=1), 900, CHINA))
    assert found == SLOTS[1:4]
    assert list(slots_between(START, START, 900, CHINA)) == []


def test_daily_slots_are_local_midnights_over_a_clock_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    found = list(
        slots_between(datetime(2026, 3, 27, 12, tzinfo=UTC), datetime(2026, 3, 31, 12, tzinfo=UTC), 86400, berlin)
    )
    assert [slot.astimezone(berlin).strftime("%d %H:%M") for slot in found] == [
        "28 00:00",
        "29 00:00",
        "30 00:00",
        "31 00:00",
    ]
