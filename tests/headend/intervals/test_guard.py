"""The guard: what becomes of reads of one meter, what is remembered of them in the same commit, and what moves a baseline."""

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from headend.intervals.guard import Guard, GuardedMeter, rebase_rows
from headend.intervals.promises import pushed_register, register_of
from headend.intervals.registers import Connection, Kind
from headend.model import Event, Item, JudgedRead, MeterClock, PushedRead, Quality, Read
from headend.ratios import RatioFact, Ratios
from headend.store.store import Store
from protocols.modbus.points import Point, PointType
from protocols.values import Unit
from tests.headend.support import PERIOD, START, StillClock, a_read, new_store

pytestmark = pytest.mark.both_databases

METER = GuardedMeter(id="M000001", contract="dlt645/base_2007", period_s=900)
TOTAL = "1-0:1.8.0"


def a_guard(
    store: Store | None = None,
    *,
    meter: GuardedMeter = METER,
    clocks: dict[str, MeterClock] | None = None,
    ratios: Sequence[RatioFact] = (),
) -> Guard:
    histories = {} if store is None else store.histories([meter.id])
    return Guard([meter], histories=histories, clock=StillClock(), clocks=clocks or {}, ratios=Ratios(ratios))


def reads_in(items: Sequence[Item]) -> list[Read]:
    found = []
    for item in items:
        inner = item.read if isinstance(item, JudgedRead) else item
        if isinstance(inner, PushedRead):
            inner = inner.read
        if isinstance(inner, Read):
            found.append(inner)
    return found


def told_in(items: Sequence[Item]) -> list[tuple[object, object, object]]:
    return [(item.data["state"], item.data["rule"], item.data["by"]) for item in items if isinstance(item, Event)]


def after_a_good_one(store: Store | None = None) -> Guard:
    guard = a_guard(store)
    items = guard.examine([a_read(slot=0, amount="1000.00")]).items
    if store is not None:
        store.commit(items)
    return guard


def test_a_clean_read_passes_as_it_is_with_its_history() -> None:
    read = a_read(slot=0, amount="1000.00")
    (item,) = a_guard().examine([read]).items
    assert isinstance(item, JudgedRead)
    assert item.read is read
    assert item.history


def test_missing_reads_and_meters_that_nobody_knows_pass_without_a_look() -> None:
    missing, foreign = a_read(amount=None), a_read("M000002", amount="1.00")
    assert a_guard().examine([missing]).items == [missing]
    assert a_guard().examine([foreign]).items == [foreign]
    assert a_guard().examine([foreign], is_pushed=True).items == [PushedRead(foreign)]


def test_a_doubtful_read_asks_for_a_second_one_and_without_it_is_published_as_suspect() -> None:
    judgement = after_a_good_one().examine([a_read(slot=1, amount="0.00")])
    assert judgement.again == [TOTAL]
    (read,) = reads_in(judgement.items)
    assert Quality.SUSPECT in read.quality
    assert [finding.rule for finding in read.findings] == ["zero-glitch"]
    assert told_in(judgement.items) == [("opened", "zero-glitch", "read")]
    assert isinstance(judgement.items[0], Event)  # before the read: a crash in between repeats it and never loses it


def test_a_good_second_read_follows_the_first_as_its_correction() -> None:
    guard = after_a_good_one()
    judgement = guard.examine([a_read(slot=1, amount="0.00")])
    second = replace(a_read(slot=1, amount="1000.25"), received_at=START + PERIOD + timedelta(seconds=3))
    items = guard.judge(judgement, [second])
    first, corrected = reads_in(items)
    assert (first.revision, first.amount, Quality.SUSPECT in first.quality) == (0, Decimal("0.00"), True)
    assert (corrected.revision, corrected.amount, corrected.findings) == (1, Decimal("1000.25"), ())
    assert corrected.quality == (Quality.MEASURED,)
    assert told_in(items) == [("opened", "zero-glitch", "read"), ("lifted", "zero-glitch", "second-read")]
    history = guard.history("M000001", TOTAL)
    assert history is not None
    assert (history.last, history.suspicion) == (1_000_250_000, None)


@pytest.mark.parametrize("again", ["0.00", "12345.67"])
def test_a_second_read_that_is_no_better_confirms_the_first_one_which_alone_is_published(again: str) -> None:
    guard = after_a_good_one()
    judgement = guard.examine([a_read(slot=1, amount="0.00")])
    second = replace(a_read(slot=1, amount=again), received_at=START + PERIOD + timedelta(seconds=3))
    items = guard.judge(judgement, [second])
    (read,) = reads_in(items)
    assert read.amount == Decimal("0.00")
    assert read.findings[0].rule == "zero-glitch"
    assert read.findings[0].evidence["confirmed"] == "true"
    assert read.findings[0].evidence["second"] == again
    states = [state for state, _, _ in told_in(items)]
    assert states[0] == "opened"
    assert "confirmed" in states


def test_a_second_read_that_is_missing_leaves_the_first_one_in_doubt() -> None:
    guard = after_a_good_one()
    judgement = guard.examine([a_read(slot=1, amount="0.00")])
    items = guard.judge(judgement, [a_read(slot=1, amount=None)])
    assert items == judgement.items


def test_the_history_is_stored_with_the_read_and_a_suspicion_outlives_a_restart(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    guard = after_a_good_one(store)
    store.commit(guard.examine([a_read(slot=1, amount="5.00")]).items)
    restarted = a_guard(store)
    history = restarted.history("M000001", TOTAL)
    assert history == guard.history("M000001", TOTAL)
    assert history is not None
    assert history.suspicion is not None
    going_on = restarted.examine([a_read(slot=2, amount="5.10")])
    (read,) = reads_in(going_on.items)
    assert read.findings[0].evidence["since"] == "2026-01-31T16:15:02Z"
    assert told_in(going_on.items) == []  # it is no news
    lifted = restarted.examine([a_read(slot=3, amount="1000.50")]).items
    assert told_in(lifted) == [("lifted", "backward-step", "read")]
    assert reads_in(lifted)[0].findings == ()
    store.close()


def test_a_group_that_is_not_committed_leaves_no_history(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    items = a_guard().examine([a_read(slot=0, amount="1000.00")]).items
    broken = a_read("M000001", slot=1, obis="1-0:2.8.0", revision=2**70)
    with pytest.raises(Exception, match="cannot"):
        store.commit([*items, broken])
    assert store.histories(["M000001"]) == {"M000001": {}}
    store.close()


def test_findings_are_stored_and_read_back(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    guard = after_a_good_one(store)
    store.commit(guard.examine([a_read(slot=1, amount="0.00")]).items)
    clean, suspect = store.reads("M000001", TOTAL)
    assert clean.findings == ()
    assert [finding.rule for finding in suspect.findings] == ["zero-glitch"]
    event: dict[str, Any] = json.loads(store.events_after(0, 10)[-1])
    assert event["data"]["findings"][0]["rule"] == "zero-glitch"
    store.close()


def test_an_accepted_amount_moves_the_baseline_and_reads_judged_before_do_not_move_it_back(tmp_path: Path) -> None:
    """What was judged before the fact and is committed after it must not overwrite what the fact has written."""
    store = new_store(tmp_path)
    guard = after_a_good_one(store)
    store.commit(guard.examine([a_read(slot=1, amount="12.00")]).items)
    in_flight = guard.examine([a_read(slot=2, amount="12.10")]).items
    change = guard.rebasing("M000001", TOTAL, Decimal("12.10"), START + 2 * PERIOD, by="accepted")
    assert change is not None
    store.transact(lambda connection: (None, rebase_rows(connection, [change])), "accepting an amount")
    guard.apply([change])
    store.commit(in_flight)
    for known in (guard, a_guard(store)):
        history = known.history("M000001", TOTAL)
        assert history is not None
        assert (history.last, history.suspicion, history.generation) == (12_100_000, None, 1)
        assert reads_in(known.examine([a_read(slot=3, amount="12.20")]).items)[0].findings == ()
    told = [json.loads(event)["data"] for event in store.events_after(0, 20)]
    assert [data["by"] for data in told if data.get("state") == "lifted"] == ["accepted"]
    store.close()


def test_an_exchange_without_a_first_reading_lets_the_next_read_begin_anew(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    guard = after_a_good_one(store)
    change = guard.rebasing("M000001", TOTAL, None, START + PERIOD, by="meter-exchange")
    assert change is not None
    assert change.items == ()
    store.transact(lambda connection: (None, rebase_rows(connection, [change])), "exchanging a meter")
    guard.apply([change])
    assert reads_in(guard.examine([a_read(slot=2, amount="0.30")]).items)[0].findings == ()
    assert guard.channels("M000001") == [TOTAL]
    assert guard.rebasing("M000001", "1-0:2.8.0", None, START, by="accepted") is None
    store.close()


def test_pushed_reads_are_judged_alike_and_a_repeat_changes_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    guard = a_guard()
    first = replace(a_read(slot=0, amount="1000.0"), read_at=START)
    spoilt = replace(a_read(slot=1, amount="0.0"), read_at=START + PERIOD)
    store.commit(guard.examine([first], is_pushed=True).items)
    before = guard.history("M000001", TOTAL)
    assert store.commit(guard.examine([first], is_pushed=True).items) == [None]
    assert guard.history("M000001", TOTAL) == before
    store.commit(guard.examine([spoilt], is_pushed=True).items)
    (read,) = store.reads("M000001", TOTAL, since=START + PERIOD)
    assert [finding.rule for finding in read.findings] == ["zero-glitch"]
    store.close()


def test_another_amount_pushed_for_the_same_moment_is_no_baseline() -> None:
    guard = a_guard()
    first = replace(a_read(slot=0, amount="1000.0"), read_at=START)
    guard.examine([first], is_pushed=True)
    before = guard.history("M000001", TOTAL)
    guard.examine([replace(first, amount=Decimal("1000.1"))], is_pushed=True)
    assert guard.history("M000001", TOTAL) == before


def test_an_older_read_that_is_fetched_later_is_held_against_the_newer_one() -> None:
    guard = a_guard()
    guard.examine([a_read(slot=4, amount="1000.00")])
    before = guard.history("M000001", TOTAL)

    def filled(slot: int, amount: str) -> Read:
        end = START + slot * PERIOD
        return replace(
            a_read(slot=slot, amount=amount, revision=1),
            read_at=end,
            received_at=START + 5 * PERIOD,
            quality=(Quality.MEASURED, Quality.BACK_FILLED),
        )

    (good,) = reads_in(guard.examine([filled(2, "999.40")]).items)
    (higher,) = reads_in(guard.examine([filled(3, "1000.90")]).items)
    assert good.findings == ()
    assert [finding.rule for finding in higher.findings] == ["backward-step"]
    assert guard.history("M000001", TOTAL) == before


@pytest.mark.parametrize(
    ("offset_s", "sure_s", "outcome"), [(70, 1, "flagged"), (70, 15, "clean"), (-15_000, 1, "held")]
)
def test_a_clock_is_off_by_as_much_as_is_sure(offset_s: float, sure_s: float, outcome: str) -> None:
    clock = MeterClock(measured_at=START, offset_s=offset_s, uncertainty_s=sure_s)
    (read,) = reads_in(a_guard(clocks={"M000001": clock}).examine([a_read(slot=0, amount="5.00")]).items)
    found = [(finding.rule, finding.is_held) for finding in read.findings]
    assert found == {"flagged": [("clock-off", False)], "clean": [], "held": [("clock-off", True)]}[outcome]


def test_more_than_the_connection_carries_is_held_and_behind_transformers_it_carries_more() -> None:
    connection = Connection(current_max_a=Decimal(60))
    meter = GuardedMeter(id="M000001", contract="dlt645/base_2007", period_s=900, connection=connection)
    for ratios, rules in (
        ((), ["spike-physical"]),
        ((RatioFact(meter="M000001", start=START - PERIOD, ct=Decimal(40), pt=Decimal(1)),), []),
    ):
        guard = a_guard(meter=meter, ratios=ratios)
        guard.examine([replace(a_read(slot=0, amount="1000.00"), is_primary=True)])
        (read,) = reads_in(guard.examine([replace(a_read(slot=1, amount="1070.00"), is_primary=True)]).items)
        assert [finding.rule for finding in read.findings] == rules


def test_what_cannot_be_examined_is_published_as_suspect_and_not_lost() -> None:
    guard = after_a_good_one()
    broken = replace(a_read(slot=1, amount="1000.10"), unit="no unit")
    (read,) = reads_in(guard.examine([broken]).items)
    assert Quality.SUSPECT in read.quality


def test_findings_and_changes_are_counted_by_rule() -> None:
    guard = after_a_good_one()
    guard.examine([a_read(slot=1, amount="0.00")])
    guard.examine([a_read(slot=2, amount="1000.10")])
    assert guard.findings == {("zero-glitch", True): 1}
    assert guard.changes == {("zero-glitch", "opened"): 1, ("zero-glitch", "lifted"): 1}


# ------------------------------------------------------------------------------------------------ promises


def a_point(type_: PointType, unit: Unit = Unit.KWH, scale: str = "0.01") -> Point:
    return Point(name="x", function=4, address=0, type=type_, unit=unit, scale=Decimal(scale))


def test_registers_of_modbus_roll_over_with_their_type_and_their_ends_are_marks_of_what_is_measured() -> None:
    counter = register_of(a_point(PointType.UINT32), TOTAL, Unit.KWH, tariffs=0, connection=None)
    assert (counter.kind, counter.modulus, counter.step) == (Kind.CUMULATIVE, Decimal("42949672.96"), Decimal("0.01"))
    assert counter.marks == ()
    voltage = register_of(a_point(PointType.UINT16, Unit.V, "0.1"), "1-0:32.7.0", Unit.V, tariffs=0, connection=None)
    assert (voltage.marks, voltage.modulus) == ((Decimal("6553.5"),), None)
    power = register_of(a_point(PointType.INT16, Unit.KW, "0.001"), "1-0:1.7.0", Unit.KW, tariffs=0, connection=None)
    assert power.marks == (Decimal("32.767"), Decimal("-32.768"))
    signed = register_of(a_point(PointType.INT32), TOTAL, Unit.KWH, tariffs=0, connection=None)
    assert (signed.kind, signed.modulus) == (Kind.CUMULATIVE, None)
    packed = register_of(a_point(PointType.BCD32), TOTAL, Unit.KWH, tariffs=0, connection=None)
    assert packed.modulus == Decimal("1000000.00")
    floating = register_of(a_point(PointType.FLOAT32, scale="1"), TOTAL, Unit.KWH, tariffs=0, connection=None)
    assert (floating.modulus, floating.step) == (None, Decimal("0.25"))


def test_of_a_pushed_register_only_its_digits_are_known() -> None:
    assert pushed_register(TOTAL, Unit.KWH, Decimal("25567.546"), None).step == Decimal("0.001")
    assert pushed_register(TOTAL, Unit.KWH, Decimal("1E+3"), None).step == Decimal(1)
    amps = pushed_register("1-0:31.7.0", Unit.A, Decimal("5.1"), Connection(current_max_a=Decimal(60)))
    assert amps.most == 120
