"""Amounts that an operator accepts: where they leave the baseline of the truth checks."""

from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace

from headend.intervals.fact_desk import FactDesk
from headend.intervals.guard import Guard, GuardedMeter
from headend.model import JudgedRead, PushedRead, Quality, Read
from headend.store import Store, Writer
from headend.store.intervals import IntervalBook
from headend.store.writer import inline
from tests.headend.intervals.told_support import register_of
from tests.headend.support import IMPORT, PERIOD, START, StillClock, a_guard, a_read, new_store

METER = "M000001"


def examined(guard: Guard, store: Store, read: Read) -> Read:
    """As it is published."""
    items = guard.examine([read]).items
    store.commit(items)
    (judged,) = [one for one in items if isinstance(one, JudgedRead | Read | PushedRead)]
    found = judged.read if isinstance(judged, JudgedRead) else judged
    assert isinstance(found, Read)
    return found


async def accept(store: Store, guard: Guard, slot: int) -> None:
    clock = StillClock()
    async with Writer(store, inline, clock=clock) as writer:
        desk = FactDesk(
            IntervalBook(store.engine),
            writer,
            register_of=register_of,
            period_of=lambda meter: 900,
            clock=clock,
            execute=inline,
            baselines=guard,
        )
        end = START + slot * PERIOD
        await desk.accept(METER, obis=IMPORT, interval_end=end, key=f"{slot}", told_by="call 5", recorded_by="desk")


async def test_accepting_an_older_read_does_not_hold_the_true_ones_that_follow(tmp_path: Path) -> None:
    """A record of an hour ago, fetched now and doubted, says nothing of where the register stands now."""
    store = new_store(tmp_path)
    guard = a_guard(StillClock(), GuardedMeter(id=METER, contract="dlt645/base_2007", period_s=900))
    for slot in (0, 4):
        assert not examined(guard, store, a_read(METER, slot, f"{100 + slot}.00")).findings
    record = a_read(METER, 2, "105.00")
    fetched_at = START + 4 * PERIOD + timedelta(minutes=5)
    filled = (Quality.MEASURED, Quality.BACK_FILLED)
    record = replace(record, read_at=record.interval_end, received_at=fetched_at, quality=filled)
    assert Quality.SUSPECT in examined(guard, store, record).quality
    before = guard.history(METER, IMPORT)
    await accept(store, guard, 2)
    assert guard.history(METER, IMPORT) == before
    assert [one.quality for one in store.reads(METER, IMPORT) if one.revision == 1] == [filled]
    assert not examined(guard, store, a_read(METER, 5, "104.20")).findings
    store.close()


async def test_accepting_what_is_over_does_not_lift_a_suspicion_of_today(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    guard = a_guard(StillClock(), GuardedMeter(id=METER, contract="dlt645/base_2007", period_s=900))
    for slot, amount in enumerate(("100.00", "0.00", "100.20", "57.00")):
        found = examined(guard, store, a_read(METER, slot, amount))
        assert (Quality.SUSPECT in found.quality) is (slot in (1, 3))
    await accept(store, guard, 1)
    history = guard.history(METER, IMPORT)
    assert history is not None
    assert history.last == 100_200_000
    assert history.suspicion is not None
    await accept(store, guard, 3)
    history = guard.history(METER, IMPORT)
    assert history is not None
    assert (history.last, history.suspicion) == (57_000_000, None)
    store.close()
