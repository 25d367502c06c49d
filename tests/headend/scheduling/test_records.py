"""Where a meter keeps a quantity, what is asked for, and that nothing is ever filed under a wrong interval."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_contracts.contract import load
from headend.scheduling.gaps import Gap
from headend.scheduling.records import (
    POINTS_MAX,
    Ask,
    Memory,
    Point,
    Record,
    Wanted,
    freeze_index,
    label_of,
    next_ask,
    records_of,
    settle,
)
from protocols.dlt645.items import Di
from protocols.values import Unit

BASE = load("dlt645/base_2007")
CHINA = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
MIDNIGHT = datetime(2026, 3, 2)
QUARTER = timedelta(minutes=15)


def records(di: str, period_s: int = 900) -> tuple[Record, ...]:
    return records_of(BASE, BASE.find(Di(di)), period_s)


def wanted(*quarters: int, di: str = "00010000", period_s: int = 900) -> list[Wanted]:
    """Newest first."""
    return [
        Wanted(
            Gap(datetime(2026, 3, 1, 16, tzinfo=UTC) + n * QUARTER, di, 1),
            MIDNIGHT + n * QUARTER,
            records(di, period_s),
        )
        for n in sorted(quarters, reverse=True)
    ]


def ask_for(gaps: list[Wanted], *, interval_s: int = 900, refused: tuple[str, ...] = ()) -> Ask | None:
    return next_ask(gaps, intervals_s=dict.fromkeys(range(1, 7), interval_s), reply_bytes_max=200, refused=refused)


# ------------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("di", "places"),
    [
        ("00010000", [("06100601", 0), ("06040001", 0), ("05040101", 0), ("05060101", 0)]),
        ("00020000", [("06100602", 0), ("06040001", 1), ("05040201", 0), ("05060201", 0)]),
        ("00080000", [("06100704", 0), ("06050001", 3), ("05060801", 0)]),
        ("00010400", [("05060101", 4)]),
        ("02010300", [("06100103", 0), ("06010001", 2)]),
        ("02020100", [("06100201", 0), ("06010001", 3)]),
        ("02800002", [("06010001", 6)]),
        ("02030000", [("06100300", 0), ("06020001", 0)]),
        ("02040200", [("06100402", 0), ("06020001", 6)]),
        ("02060000", [("06100500", 0), ("06030001", 0)]),
        ("02800005", [("06100802", 0), ("06060001", 1)]),
        ("01010000", []),
        ("00010001", []),  # of a settlement day: no register of now
    ],
)
def test_each_quantity_has_its_places_in_the_meters_memory(di: str, places: list[tuple[str, int]]) -> None:
    assert [(record.spec.di.text, record.place) for record in records(di)] == places


def test_a_daily_plan_asks_the_daily_freeze_first() -> None:
    assert records("00010000", 86400)[0].memory is Memory.DAILY


def test_places_of_load_record_classes_are_those_of_the_standards_blocks() -> None:
    """Name by name against the layouts of annex B."""
    from protocols.dlt645.items import fields_of
    from protocols.dlt645.load_record import CLASSES

    words = {"02010200": "voltage phase B", "02020300": "current phase C", "02800002": "frequency",
             "02030300": "active power phase C", "02040000": "reactive power total", "02060100": "power factor phase A",
             "00010000": "forward active energy", "00020000": "reverse active energy",
             "00040000": "combined reactive energy 2", "00060000": "quadrant II reactive energy",
             "02800004": "present active demand"}  # fmt: skip
    for di, label in words.items():
        (record,) = [record for record in records(di) if record.memory is Memory.BLOCKS]
        field = fields_of(CLASSES[record.record_class - 1])[record.place]
        assert field.label == f"Load record: {label}"
        assert field.unit is BASE.find(Di(di)).unit


def test_the_older_edition_keeps_nothing_that_could_be_asked_for() -> None:
    base = load("dlt645/base_1997")
    assert records_of(base, base.find(Di("9010")), 900) == ()


# ------------------------------------------------------------------------------------------------ labels and freezes


def test_labels_are_local_and_an_hour_passed_twice_has_none() -> None:
    assert label_of(datetime(2026, 3, 1, 16, tzinfo=UTC), CHINA) == MIDNIGHT
    twice = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert label_of(twice, BERLIN) is None
    assert label_of(twice + timedelta(hours=1), BERLIN) is None
    assert label_of(twice + timedelta(hours=2), BERLIN) == datetime(2026, 10, 25, 3, 30)


def test_the_age_of_a_freeze_is_counted_by_the_meters_clock() -> None:
    noon = MIDNIGHT + timedelta(hours=12)
    assert freeze_index(Memory.DAILY, MIDNIGHT, noon) == 1
    assert freeze_index(Memory.DAILY, MIDNIGHT - timedelta(days=61), noon) == 62
    assert freeze_index(Memory.DAILY, MIDNIGHT - timedelta(days=62), noon) is None
    assert freeze_index(Memory.DAILY, noon, noon) is None
    assert freeze_index(Memory.HOURLY, MIDNIGHT, MIDNIGHT + timedelta(hours=1, minutes=5)) == 2
    assert freeze_index(Memory.HOURLY, MIDNIGHT + QUARTER, noon) is None
    # Within seconds of its next freeze nobody can say how old the last one is.
    assert freeze_index(Memory.DAILY, MIDNIGHT, MIDNIGHT + timedelta(days=1, seconds=3)) is None
    assert freeze_index(Memory.HOURLY, MIDNIGHT, MIDNIGHT + timedelta(hours=2, seconds=-3)) is None


# ------------------------------------------------------------------------------------------------ asking


def test_the_newest_gap_is_asked_for_with_the_older_ones_in_reach() -> None:
    gaps = wanted(0, 1, 20, 22, 24)
    ask = ask_for(gaps)
    assert ask is not None
    assert (ask.record.spec.di.text, ask.start, ask.count) == ("06100601", MIDNIGHT + 20 * QUARTER, 5)


def test_one_ask_never_spans_more_points_than_any_firmware_counts_alike() -> None:
    """N is BCD in some firmware and plain in others; up to nine they agree."""
    ask = ask_for(wanted(*range(40)))
    assert ask is not None
    assert ask.count == POINTS_MAX == 9
    assert ask.start == MIDNIGHT + 31 * QUARTER


def test_without_the_recording_interval_one_point_is_asked_for_at_a_time() -> None:
    ask = ask_for(wanted(3, 4), interval_s=0)
    assert ask is not None
    assert (ask.start, ask.count) == (MIDNIGHT + 4 * QUARTER, 1)


def test_a_meter_that_records_hourly_is_not_asked_for_quarter_hours() -> None:
    gaps = wanted(5)
    assert ask_for(gaps, interval_s=3600) is None
    assert gaps[0].records == ()
    on_the_hour = ask_for(wanted(4, 5), interval_s=3600)
    assert on_the_hour is not None
    assert on_the_hour.start == MIDNIGHT + timedelta(hours=1)


def test_a_refused_place_is_passed_over() -> None:
    ask = ask_for(wanted(4), refused=("06100601",))
    assert ask is not None
    assert ask.record.memory is Memory.BLOCKS
    ask = ask_for(wanted(4), refused=("06100601", "06040001"))
    assert ask is not None
    assert ask.record.memory is Memory.HOURLY


# ------------------------------------------------------------------------------------------------ settling


def point(quarter: int, amount: str | None = "1.00") -> Point:
    return Point(MIDNIGHT + quarter * QUARTER, ((None if amount is None else Decimal(amount), Unit.KWH),))


def test_points_settle_the_gaps_with_their_label_and_no_other() -> None:
    gaps = wanted(3, 4, 5)
    ask = ask_for(gaps)
    assert ask is not None
    found = settle(gaps, ask, [point(3, "3.00"), point(4, None), point(5, "5.00"), point(6, "6.00")])
    assert [(one.label, amount) for one, amount, _ in found] == [
        (MIDNIGHT + 5 * QUARTER, Decimal("5.00")),
        (MIDNIGHT + 3 * QUARTER, Decimal("3.00")),
    ]
    # The point that was not recorded is looked for in the next place.
    (left,) = [one for one in gaps if one.records]
    assert left.label == MIDNIGHT + 4 * QUARTER
    assert left.records[0].memory is Memory.BLOCKS


def test_a_short_reply_leaves_the_rest_wanted_and_a_hole_in_it_does_not() -> None:
    gaps = wanted(3, 4, 5, 6)
    ask = ask_for(gaps)
    assert ask is not None
    settle(gaps, ask, [point(3), point(5)])
    by_quarter = {(one.label - MIDNIGHT) // QUARTER: len(one.records) for one in gaps}
    assert by_quarter == {3: 0, 4: 3, 5: 0, 6: 4}


def test_an_empty_reply_takes_the_place_from_the_whole_span() -> None:
    gaps = wanted(3, 4)
    ask = ask_for(gaps)
    assert ask is not None
    assert settle(gaps, ask, []) == []
    assert all(one.records[0].memory is Memory.BLOCKS for one in gaps)


@given(
    st.sets(st.integers(0, 95), min_size=1, max_size=40),
    st.sets(st.integers(0, 95)),
    st.sets(st.integers(0, 95)),
    st.sampled_from([0, 900]),
    st.randoms(),
)
def test_every_gap_ends_and_only_true_values_are_filed(quarters, in_curve, in_blocks, interval_s, random) -> None:  # type: ignore[no-untyped-def]
    """A meter with holes in both memories, that cuts replies short at will; each value tells its own quarter hour."""
    gaps = wanted(*quarters)
    filed: dict[int, Decimal] = {}
    asks = 0
    while (ask := ask_for(gaps, interval_s=interval_s)) is not None:
        asks += 1
        assert asks < 1000
        kept = {Memory.CURVE: in_curve, Memory.BLOCKS: in_blocks}.get(ask.record.memory, set())
        first = (ask.start - MIDNIGHT) // QUARTER
        points = [point(n, str(n)) for n in range(first, first + ask.count) if n in kept]
        points = points[: random.randint(1, len(points))] if points else []
        for one, amount, _ in settle(gaps, ask, points):
            quarter = (one.label - MIDNIGHT) // QUARTER
            assert quarter not in filed
            filed[quarter] = amount
    assert filed == {n: Decimal(n) for n in quarters & (in_curve | in_blocks)}
    assert all(not one.records for one in gaps)
