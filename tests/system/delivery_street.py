"""The whole head-end without upstream, in virtual time: simulated meters on lines, poller, checks, store, pusher.

    python -m tests.system.delivery_street METERS SLOTS

Prints one JSON object; see test_delivery_day. Only the far end of the webhook is replaced: there are no sockets in virtual time.
"""

import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

import psutil

from headend.app import HeadEnd
from headend.feed import pusher_deliveries
from headend.store.writer import inline
from simulators.virtual_time import VirtualClock, run
from tests.headend.feed.delivery_support import until
from tests.scenarios.street import build, transport_to
from tests.system.delivery_day import Counting

METERS_PER_LINE = 50
PERIOD_S = 900
BACK_FILL_PER_S = 2000
LIVE_WITHIN = 300  # little is "far", so that a short outage has both lanes at work
SINK = f"""
[[sinks]]
name = "billing"
kind = "webhook"
url = "http://127.0.0.1:1/reads"
back_fill_rate = {BACK_FILL_PER_S}
live_within = {LIVE_WITHIN}
"""


async def day(clock: VirtualClock, _: random.Random, folder: Path, meters: int, slots: int) -> dict[str, object]:
    street = build(
        folder,
        clock,
        seed=1,
        lines=meters // METERS_PER_LINE,
        meters_per_line=METERS_PER_LINE,
        quantities=["1-0:1.8.0"],
        period="15m",
        baud=None,
        edit=lambda text: text + SINK,
    )
    store, sink = street.store, Counting()
    vars(pusher_deliveries)["WebhookSink"] = lambda *_, **__: sink
    head_end = HeadEnd(
        street.config, store, clock=clock, connect=transport_to(street.lines), execute=inline, linger_s=2.0
    )
    (pusher,) = head_end.upstream.deliveries.pushers.values()
    stop = asyncio.Event()
    running = asyncio.create_task(head_end.run(stop))
    process = psutil.Process()
    await asyncio.sleep(2 * PERIOD_S)  # all meters have been read, what is remembered of them is there
    await until(lambda: not pusher.status().lag_events)
    before = peak = process.memory_info().rss
    sink.is_away = True
    outage_begins = store.last_sequence()
    for _slot in range(slots):
        await asyncio.sleep(PERIOD_S)
        peak = max(peak, process.memory_info().rss)
    backlog = store.last_sequence() - outage_begins
    sink.is_away, sink.first_after_outage = False, 0
    returned_at = clock.monotonic()
    await until(lambda: bool(sink.first_after_outage))
    back_s = clock.monotonic() - returned_at
    first_back = sink.first_after_outage
    await until(lambda: sink.has(store.last_sequence()))
    newest_s = clock.monotonic() - returned_at - back_s
    oldest_waits = not sink.has(outage_begins + 1 + backlog // 2)
    await until(lambda: not pusher.status().lag_events)
    drained_s = clock.monotonic() - returned_at
    last = store.last_sequence()
    peak = max(peak, process.memory_info().rss)
    stop.set()
    await running
    return {
        "meters": len(street.meters),
        "backlog": backlog,
        "grown_mb": round((peak - before) / 1e6, 1),
        "back_s": round(back_s, 2),
        "newest_s": round(newest_s, 2),
        "begins_with_the_newest": first_back > outage_begins + backlog // 2 and oldest_waits,
        "drained_s": round(drained_s, 1),
        "undelivered": last - sum(sink.came[1 : last + 1]),
        "repeats": sink.repeats,
        "out_of_order": sink.out_of_order,
    }


def main(meters: int, slots: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(lambda clock, dice: day(clock, dice, Path(folder), meters, slots), seed=1)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
