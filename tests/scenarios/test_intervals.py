"""A street for two days: intervals in the feed are what the registers counted, gaps and an exchange included."""

import asyncio
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from headend.assembly.interval_keeping import Intervals
from headend.intervals.fact_desk import Readings
from headend.store import Writer
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)
IMPORT, VOLTAGE = "1-0:1.8.0", "1-0:32.7.0"
AWAY = "000000000003"


def newest_of(street: Street) -> dict[str, list[dict[str, Any]]]:
    """By meter, of the import register, by end."""
    events = [event for event in street.events() if event["type"] == "headend.interval.v1"]
    assert len({event["id"] for event in events}) == len(events)
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for event in events:
        data = event["data"]
        if data["obis"] == IMPORT:
            before = found[data["meter"]].get(data["end"])
            assert data["revision"] == (0 if before is None else before["revision"] + 1)
            found[data["meter"]][data["end"]] = data
    return {meter: [ends[end] for end in sorted(ends)] for meter, ends in sorted(found.items())}


def test_intervals_of_a_street_are_what_its_registers_counted(tmp_path: Path) -> None:
    async def meanwhile(street: Street, clock: VirtualClock) -> None:
        bus: Any = street.lines["line-0"].bus
        all_meters = list(bus.meters)

        await asyncio.sleep(6 * 3600)
        bus.meters = [meter for meter in all_meters if meter.address != AWAY]
        await asyncio.sleep(4.5 * 3600)
        bus.meters = all_meters

    async def street(clock: VirtualClock, _: random.Random) -> Street:
        return await run_street(
            tmp_path,
            clock,
            hours=44,
            seed=5,
            quantities=[IMPORT, VOLTAGE],
            period="1h",
            meanwhile=meanwhile,
            edit=lambda text: text.replace('period = "1h"', 'period = "1h"\nback_fill = "1d"'),
        )

    found = run(street, start=MIDNIGHT - timedelta(minutes=1), seed=5)
    newest = newest_of(found)
    assert sorted(newest) == sorted(found.meters)
    for meter, intervals in newest.items():
        assert len(intervals) == len({read.interval_end for read in found.store.reads(meter, IMPORT)}) == 45
        assert [one["start"] for one in intervals[1:]] == [one["end"] for one in intervals[:-1]]
        reads = [read for read in found.store.reads(meter, IMPORT) if read.amount is not None]
        first, last = reads[0].amount, reads[-1].amount
        assert first is not None
        assert last is not None
        assert (
            sum(Decimal(one["amount"] or 0) + Decimal(one.get("span", {"amount": 0})["amount"]) for one in intervals)
            == last - first
        )
        assert [one["reason"] for one in intervals if one["amount"] is None] == ["before-first-read"]
    filled = [one for one in newest["M000003"] if "back-filled" in one["quality"]]
    assert len(filled) >= 4
    assert sum(one["revision"] for one in filled) >= 3  # told as missing first
    asyncio.run(an_exchange(found))
    found.store.close()


async def an_exchange(street: Street) -> None:
    """Told days later: the interval it lies in is told anew, and only that one."""
    clock = VirtualNow(MIDNIGHT + timedelta(days=3))
    before = newest_of(street)["M000001"]
    async with Writer(street.store, inline, clock=clock) as writer:
        intervals = Intervals(street.config, street.store, writer, signal=None, clock=clock, execute=inline)
        end = datetime.fromisoformat(before[20]["end"])
        at_start = next(
            one.amount for one in street.store.reads("M000001", IMPORT) if one.interval_end == end - timedelta(hours=1)
        )
        assert at_start is not None
        _, is_new = await intervals.desk.exchange(
            "M000001",
            at=end - timedelta(minutes=20),
            registers={IMPORT: Readings(at_start + 5, at_start)},
            key="order-1",
            told_by="fitter",
            recorded_by="test",
        )
        assert is_new
        await intervals.keeper.catch_up()
    changed = [
        (place, new["amount"], new["revision"])
        for place, (old, new) in enumerate(zip(before, newest_of(street)["M000001"], strict=True))
        if old != new
    ]
    assert changed == [(20, str(Decimal(before[20]["amount"]) + 5), before[20]["revision"] + 1)]


class VirtualNow:
    """A clock that stands."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return 0.0
