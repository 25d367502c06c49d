"""What each happening does to an interval: one small story per test, amounts written out."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from headend.intervals.build import build_intervals, ratio_facts, revised
from headend.intervals.model import (
    Boundary,
    Channel,
    ClockCorrection,
    Exchange,
    Facts,
    Interval,
    Mark,
    RatioChange,
    boundary_of,
)
from headend.intervals.profile import ProfileRecord, intervals_from_profile
from headend.intervals.registers import (
    Connection,
    Kind,
    Register,
    kind_of,
    modulus_of_bits,
    modulus_of_layout,
    rolled_over,
)
from headend.model import MeterClock, Quality, Read
from headend.ratios import RatioFact
from protocols.values import Unit

D = Decimal
REGISTER = Register(kind=Kind.CUMULATIVE, unit=Unit.KWH, modulus=D("1000000.00"))
CHANNEL = Channel(meter="M1", obis="1-0:1.8.0", period_s=900, zone=ZoneInfo("Europe/Berlin"), register=REGISTER)
QUARTER = timedelta(minutes=15)
START = datetime(2026, 6, 1, 10, 0, tzinfo=UTC)
SUSPECT = (Quality.MEASURED, Quality.SUSPECT)


def at(quarters: float) -> datetime:
    return START + quarters * QUARTER


def boundary(quarters: float, amount: str | None, **given: object) -> Boundary:
    standard: dict[str, object] = {
        "instant": at(quarters),
        "amount": None if amount is None else D(amount),
        "unit": Unit.KWH,
        "quality": (Quality.MISSING,) if amount is None else (Quality.MEASURED,),
        "reason": "silent" if amount is None else "",
    }
    return Boundary(**(standard | given))  # type: ignore[arg-type]


def build(
    *boundaries: Boundary, facts: Facts | None = None, channel: Channel = CHANNEL, quarters: int = 0
) -> list[Interval]:
    last = at(quarters) if quarters else max(one.instant for one in boundaries)
    return build_intervals(channel, boundaries, since=START, until=last, facts=facts or Facts())


def test_an_interval_is_the_difference_of_its_two_reads() -> None:
    (one,) = build(boundary(0, "100.00"), boundary(1, "100.42"))
    assert (one.start, one.end, one.amount, one.quality) == (at(0), at(1), D("0.42"), (Quality.MEASURED,))
    assert (one.reason, one.span, one.covered, one.evidence, one.marks) == ("", None, None, {}, ())


def test_qualities_of_both_reads_are_the_intervals() -> None:
    late = boundary(1, "100.42", quality=(Quality.MEASURED, Quality.LATE), captured_at=at(1) + timedelta(minutes=6))
    first, second = build(boundary(0, "100.00"), late, boundary(2, "101.00"))
    assert first.quality == second.quality == (Quality.MEASURED, Quality.LATE)
    assert first.covered == (at(0), at(1) + timedelta(minutes=6))
    assert second.covered == (at(1) + timedelta(minutes=6), at(2))


def test_a_missing_read_leaves_two_intervals_without_amounts_and_one_span() -> None:
    first, second, third = build(boundary(0, "100.00"), boundary(1, None), boundary(2, "101.00"), boundary(3, "101.10"))
    assert [one.amount for one in (first, second, third)] == [None, None, D("0.10")]
    assert [one.reason for one in (first, second)] == ["missing-boundary"] * 2
    assert first.quality == second.quality == (Quality.MISSING,)
    assert first.evidence == {"start": "100.00", "end": "silent"}
    assert first.span is None
    assert second.span is not None
    assert (second.span.start, second.span.end, second.span.amount) == (at(0), at(2), D("1.00"))


def test_a_suspect_read_poisons_its_intervals_and_the_baseline_stays() -> None:
    zero = boundary(1, "0.00", quality=SUSPECT)
    first, second = build(boundary(0, "25567.54"), zero, boundary(2, "25567.60"))
    assert [one.amount for one in (first, second)] == [None, None]
    assert first.quality == second.quality == (Quality.SUSPECT,)
    assert first.evidence["end"] == "0.00 suspect"
    assert second.span is not None
    assert second.span.amount == D("0.06")


def test_the_first_and_last_interval_of_a_channel_are_partial_with_what_is_known_as_span() -> None:
    intervals = build(
        boundary(0.5, "100.00"), boundary(1, "100.10"), boundary(2, "100.30"), boundary(2.6, "100.35"), quarters=4
    )
    assert [one.reason for one in intervals] == ["partial", "", "partial", "missing-boundary"]
    assert [one.amount for one in intervals] == [None, D("0.20"), None, None]
    spans = [one.span for one in intervals]
    assert spans[0] is not None
    assert spans[2] is not None
    assert (spans[0].start, spans[0].end, spans[0].amount) == (at(0.5), at(1), D("0.10"))
    assert (spans[2].start, spans[2].end, spans[2].amount) == (at(2), at(2.6), D("0.05"))


def test_before_the_first_read_nothing_was_owed() -> None:
    intervals = build(boundary(2, "100.00"), boundary(3, "100.10"))
    assert [one.reason for one in intervals] == ["before-first-read", "before-first-read", ""]


def test_a_register_that_starts_again_goes_on_counting() -> None:
    (one,) = build(boundary(0, "999999.90"), boundary(1, "0.32"))
    assert (one.amount, one.marks) == (D("0.42"), (Mark.ROLLED_OVER,))


def test_a_step_back_that_is_no_rollover_is_no_amount() -> None:
    (one,) = build(boundary(0, "5000.00"), boundary(1, "4999.90"))
    assert (one.amount, one.reason, one.quality) == (None, "backward-step", (Quality.SUSPECT,))
    assert one.evidence["from"].startswith("5000.00 at ")
    limited = Register(
        kind=Kind.CUMULATIVE,
        unit=Unit.KWH,
        modulus=D("1000000"),
        power_max_w=Connection(current_max_a=D(60)).power_max_w,
    )
    assert rolled_over(D("990000"), D("50"), limited, D("9.9")) is None
    assert rolled_over(D("990000"), D("50"), limited, None) == D("10050")


def test_a_balance_may_go_back() -> None:
    channel = Channel(
        meter="M1",
        obis="1-0:16.8.0",
        period_s=900,
        zone=CHANNEL.zone,
        register=Register(kind=Kind.BALANCE, unit=Unit.KWH),
    )
    (one,) = build(boundary(0, "10.00"), boundary(1, "9.40"), channel=channel)
    assert one.amount == D("-0.60")


def test_a_meter_exchange_joins_the_final_and_the_first_reading() -> None:
    exchange = Exchange(at=at(0.5), final=D("5000.20"), first=D("3.00"))
    first, second = build(
        boundary(0, "5000.00"), boundary(1, "3.10"), boundary(2, "3.40"), facts=Facts(exchanges=(exchange,))
    )
    assert (first.amount, first.marks) == (D("0.30"), (Mark.METER_EXCHANGED,))
    assert "final 5000.20 first 3.00" in first.evidence["exchanged"]
    assert (second.amount, second.marks) == (D("0.30"), ())


def test_an_exchange_right_after_the_boundary_belongs_to_the_interval_whose_read_came_before_it() -> None:
    """The read for 10:15 was captured at 10:15:40, from the new meter that was connected at 10:15:20."""
    exchange = Exchange(at=at(1) + timedelta(seconds=20), final=D("5000.20"), first=D("3.00"))
    read = boundary(1, "3.00", captured_at=at(1) + timedelta(seconds=40))
    first, second = build(boundary(0, "5000.00"), read, boundary(2, "3.40"), facts=Facts(exchanges=(exchange,)))
    assert (first.amount, second.amount) == (D("0.20"), D("0.40"))


def test_an_exchange_without_its_readings_is_not_guessed() -> None:
    exchange = Exchange(at=at(0.5), final=None, first=D("0"))
    (one,) = build(boundary(0, "5000.00"), boundary(1, "0.10"), facts=Facts(exchanges=(exchange,)))
    assert (one.amount, one.reason, one.quality) == (None, "exchange-without-readings", (Quality.MISSING,))


def test_a_new_meter_may_have_another_modulus() -> None:
    small = Register(kind=Kind.CUMULATIVE, unit=Unit.KWH, modulus=D("10000"))
    exchange = Exchange(at=at(0.5), final=D("5000.20"), first=D("9999.50"), register=small)
    first, second = build(
        boundary(0, "5000.00"), boundary(1, "9999.90"), boundary(2, "0.10"), facts=Facts(exchanges=(exchange,))
    )
    assert (first.amount, second.amount) == (D("0.60"), D("0.20"))


def test_a_clock_correction_inside_shows_what_the_interval_really_spans() -> None:
    """Records of a clock that was 90 s fast until it was set: the first label came 90 s early, the second is right."""
    clock = MeterClock(measured_at=at(0.6), offset_s=0.0, uncertainty_s=0.5, corrected_at=at(0.5), offset_before_s=90.0)
    records = [
        boundary_of(
            Read(
                meter="M1",
                obis="1-0:1.8.0",
                amount=D(amount),
                unit=Unit.KWH,
                interval_end=moment,
                read_at=moment,
                received_at=at(9),
                quality=(Quality.MEASURED, Quality.BACK_FILLED),
                source="dlt645/base_2007:06100601",
            ),
            clock,
        )
        for moment, amount in ((at(0), "100.00"), (at(1), "100.55"))
    ]
    correction = ClockCorrection(at=at(0.5), before_s=90.0)
    (one,) = build(*records, facts=Facts(corrections=(correction,)))
    assert one.amount == D("0.55")
    assert one.marks == (Mark.CLOCK_CORRECTED,)
    assert one.covered == (at(0) - timedelta(seconds=90), at(1))
    # Reads at our own time have nothing to do with the meter's clock.
    (one,) = build(boundary(0, "100.00"), boundary(1, "100.55"), facts=Facts(corrections=(correction,)))
    assert (one.marks, one.covered) == ((), None)


def test_a_ratio_is_carried_beside_the_secondary_amount() -> None:
    ratio, changes = ratio_facts([RatioFact(meter="M1", start=at(-100), ct=D(40), pt=D(2))], "M1", Unit.KWH)
    (one,) = build(boundary(0, "10.00"), boundary(1, "10.30"), facts=Facts(ratio=ratio, ratio_changes=changes))
    assert (one.amount, one.ratio, one.primary) == (D("0.30"), D(80), D("24.00"))


def test_a_ratio_change_inside_splits_the_interval_only_where_the_register_was_read_then() -> None:
    facts = [
        RatioFact(meter="M1", start=at(-100), ct=D(40), pt=D(1)),
        RatioFact(meter="M1", start=at(0.4), ct=D(80), pt=D(1)),
    ]
    ends = (boundary(0, "10.00"), boundary(1, "10.30"), boundary(2, "10.40"))
    ratio, changes = ratio_facts(facts, "M1", Unit.KWH, {at(0.4): D("10.10")})
    first, second = build(*ends, facts=Facts(ratio=ratio, ratio_changes=changes))
    assert (first.amount, first.ratio, first.primary) == (D("0.30"), None, D("20.00"))
    assert [(part.amount, part.ratio) for part in first.parts] == [(D("0.10"), D(40)), (D("0.20"), D(80))]
    assert (second.ratio, second.primary) == (D(80), D("8.00"))

    ratio, changes = ratio_facts(facts, "M1", Unit.KWH)
    first, _ = build(*ends, facts=Facts(ratio=ratio, ratio_changes=changes))
    assert (first.amount, first.primary, first.parts) == (D("0.30"), None, ())
    assert first.marks == (Mark.RATIO_CHANGED,)
    assert "from 40 to 80 at unknown" in first.evidence["ratio_changed"]


def test_a_ratio_change_at_the_intervals_end_is_the_next_ones() -> None:
    change = RatioChange(at=at(1), before=D(40), after=D(80))
    first, second = build(
        boundary(0, "10.00"),
        boundary(1, "10.30"),
        boundary(2, "10.40"),
        facts=Facts(ratio=D(40), ratio_changes=(change,)),
    )
    assert [(one.ratio, one.marks) for one in (first, second)] == [(D(40), ()), (D(80), ())]


def test_units_that_differ_are_not_subtracted() -> None:
    (one,) = build(boundary(0, "10.00"), boundary(1, "10.30", unit=Unit.KVARH))
    assert (one.amount, one.reason) == (None, "unit-changed")


def test_the_same_interval_again_is_no_revision_and_another_amount_is_one() -> None:
    (first,) = build(boundary(0, "100.00"), boundary(1, "100.42"))
    assert revised(None, first) == first
    assert revised(first, first) is None
    (second,) = build(boundary(0, "100.00"), boundary(1, "100.42"), boundary(1, "100.50", revision=1))
    fresh = revised(first, second)
    assert fresh is not None
    assert (fresh.amount, fresh.revision) == (D("0.50"), 1)


def test_registers_are_known_from_contracts() -> None:
    assert modulus_of_layout("XXXXXX.XX") == (D("0.01"), D("1000000"))
    assert modulus_of_layout("NN.NNNN") is None
    assert modulus_of_bits(32, D("0.01")) == (D("0.01"), D("42949672.96"))
    kinds = {
        "1-0:1.8.0": Kind.CUMULATIVE,
        "1-0:1.8.4": Kind.CUMULATIVE,
        "1-0:16.8.0": Kind.BALANCE,
        "1-0:1.8.0*1": Kind.OTHER,
        "1-0:1.6.0": Kind.OTHER,
        "di:00900100": Kind.OTHER,
    }
    assert {obis: kind_of(obis, Unit.KWH) for obis in kinds} == kinds
    assert kind_of("1-0:32.7.0", Unit.V) is Kind.MOMENTARY
    assert kind_of("1-0:3.8.0", Unit.KVARH, signed=True) is Kind.BALANCE


# ------------------------------------------------------------------------------------------------ profiles


def profile(*records: tuple[float, str | None], labelled_by: str = "end", **facts: object) -> list[Interval]:
    return intervals_from_profile(
        CHANNEL,
        [
            ProfileRecord(label=at(quarters), amount=None if amount is None else D(amount))
            for quarters, amount in records
        ],
        since=START,
        until=at(3),
        labelled_by=labelled_by,  # type: ignore[arg-type]
        facts=Facts(**facts),  # type: ignore[arg-type]
    )


def test_profile_amounts_are_filed_by_the_edge_that_the_contract_names() -> None:
    by_end = profile((1, "0.10"), (2, "0.20"), (3, None))
    assert [one.amount for one in by_end] == [D("0.10"), D("0.20"), None]
    assert by_end[0].quality == (Quality.MEASURED, Quality.BACK_FILLED)
    assert (by_end[2].reason, by_end[2].quality) == ("no-record", (Quality.MISSING,))
    by_start = profile((0, "0.10"), (1, "0.20"), labelled_by="start")
    assert [one.amount for one in by_start] == [D("0.10"), D("0.20"), None]


def test_a_label_that_is_no_edge_is_filed_nowhere() -> None:
    assert {one.reason for one in profile((0.5, "0.10"))} == {"no-record"}


def test_two_amounts_under_one_label_are_both_doubted_and_a_repeat_is_one() -> None:
    first, second, _ = profile((1, "0.10"), (1, "0.15"), (2, "0.20"), (2, "0.20"))
    assert (first.amount, first.reason, first.quality) == (None, "repeated-label", (Quality.SUSPECT,))
    assert first.evidence == {"amounts": "0.10, 0.15"}
    assert second.amount == D("0.20")


def test_a_recorded_interval_in_which_the_clock_was_set_says_what_it_covers() -> None:
    one, *_ = profile((1, "0.10"), corrections=(ClockCorrection(at=at(0.5), before_s=-120.0, after_s=1.0),))
    assert one.marks == (Mark.CLOCK_CORRECTED,)
    assert one.covered == (at(0) + timedelta(seconds=120), at(1) - timedelta(seconds=1))


def test_a_profile_amount_that_the_connection_cannot_carry_is_suspect() -> None:
    register = Register(kind=Kind.CUMULATIVE, unit=Unit.KWH, power_max_w=10_000)
    channel = Channel(meter="M1", obis="1-0:1.8.0", period_s=900, zone=CHANNEL.zone, register=register)
    records = [ProfileRecord(label=at(1), amount=D("2.50")), ProfileRecord(label=at(2), amount=D("400.00"))]
    first, second = intervals_from_profile(channel, records, since=START, until=at(2), labelled_by="end")
    assert first.amount == D("2.50")
    assert (second.amount, second.quality) == (None, (Quality.SUSPECT,))
