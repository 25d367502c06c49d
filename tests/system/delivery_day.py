"""A destination that is away for a day, in virtual time: 1,000 meters, a real store. Prints one JSON object; see test_delivery_day."""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import psutil

from headend.feed.live import FeedSignal
from headend.feed.pusher import Pusher
from headend.feed.pusher_book import CursorBook
from headend.feed.sinks.settings import PushSettings
from headend.feed.sinks.sink import Bad, Batch, DestinationAway, head_of
from headend.model import Quality, Read
from headend.store.cursors import Cursors
from headend.store.writer import inline
from protocols.values import Unit
from simulators.virtual_time import VirtualClock, run
from tests.headend.feed.delivery_support import until
from tests.headend.support import new_store

PERIOD_S = 900
SLOTS_AWAY = 96
BACK_FILL_PER_S = 2000.0


class Counting:
    """Remembers which sequences came, and per meter and lane the last of them; nothing that grows with their number but a bit each."""

    def __init__(self) -> None:
        self.is_away = False
        self.came = bytearray()
        self.repeats = 0
        self.out_of_order = 0
        self._last: dict[tuple[str, bool], int] = {}
        self.first_after_outage = 0  # the live lane begins here

    async def push(self, batch: Batch) -> Sequence[Bad]:
        await asyncio.sleep(0.02)
        if self.is_away:
            raise DestinationAway("upstream is down")
        for event in batch.events:
            head = head_of(event)
            sequence = int(head.sequence)
            if not self.first_after_outage:
                self.first_after_outage = sequence
            if sequence >= len(self.came):
                self.came.extend(bytes(sequence - len(self.came) + 10_000))
            self.repeats += self.came[sequence]
            self.came[sequence] = 1
            lane = (head.subject, sequence >= self.first_after_outage)
            self.out_of_order += sequence < self._last.get(lane, 0)
            self._last[lane] = sequence
        return ()

    def has(self, sequence: int) -> bool:
        return len(self.came) > sequence and self.came[sequence] == 1

    async def aclose(self) -> None:
        return None


async def day(clock: VirtualClock, _: random.Random, folder: Path, meters: int) -> dict[str, object]:
    store = new_store(folder)
    signal, sink, cursors = FeedSignal(), Counting(), Cursors(store.engine)
    settings = PushSettings(name="billing", kind="test", url="test:", back_fill_per_s=BACK_FILL_PER_S)
    pusher = Pusher(
        settings, sink, book=CursorBook(cursors, inline), signal=signal, clock=clock, execute=inline, seed=1
    )
    task = asyncio.ensure_future(pusher.run())
    process = psutil.Process()
    slot = 0

    async def round_() -> None:
        """A quarter hour: every meter is read once, over its first five minutes."""
        nonlocal slot
        end = clock.now().replace(microsecond=0)
        for tenth in range(10):
            of_tenth = range(tenth * meters // 10, (tenth + 1) * meters // 10)
            store.commit([a_read(meter, slot, end, clock.now()) for meter in of_tenth])
            signal.advance(store.last_sequence())
            await asyncio.sleep(30)
        slot += 1
        await asyncio.sleep(PERIOD_S - 300)

    await round_()
    before = peak = process.memory_info().rss
    sink.is_away = True
    outage_begins = store.last_sequence()
    for _round in range(SLOTS_AWAY):
        await round_()
        peak = max(peak, process.memory_info().rss)
    backlog = store.last_sequence() - outage_begins
    sink.is_away, sink.first_after_outage = False, 0
    returned_at = clock.monotonic()
    live_delays = []
    rounds = asyncio.ensure_future(after_the_outage(round_))
    await until(lambda: bool(sink.first_after_outage))
    back_s = clock.monotonic() - returned_at
    while pusher.status().lag_events:
        newest, at = signal.sequence, clock.monotonic()
        await until(lambda: sink.has(newest))  # noqa: B023  (awaited here)
        live_delays.append(clock.monotonic() - at)
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(5)
    drained_s = clock.monotonic() - returned_at
    await rounds
    await until(lambda: not pusher.status().lag_events)
    last = store.last_sequence()
    task.cancel()
    return {
        "backlog": backlog,
        "grown_mb": round((peak - before) / 1e6, 1),
        "back_s": round(back_s, 2),
        "drained_s": round(drained_s, 1),
        "live_delay_s_max": round(max(live_delays), 2),
        "missing": last - sum(sink.came[1 : last + 1]),
        "repeats": sink.repeats,
        "out_of_order": sink.out_of_order,
        "ranges": len(pusher.status().delivered_ahead),
    }


async def after_the_outage(round_: Callable[[], Awaitable[None]]) -> None:
    for _round in range(2):
        await round_()


def a_read(meter: int, slot: int, end: datetime, now: datetime) -> Read:
    return Read(
        meter=f"M{meter:06d}",
        obis="1-0:1.8.0",
        amount=Decimal(slot * 1000 + meter).scaleb(-2),
        unit=Unit.KWH,
        interval_end=end,
        read_at=None,
        received_at=now,
        quality=(Quality.MEASURED,),
        source="dlt645/base_2007:00010000",
    )


def main(meters: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(lambda clock, dice: day(clock, dice, Path(folder), meters), seed=1)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
