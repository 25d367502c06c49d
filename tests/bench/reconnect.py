"""Reconnections after a thousand payments at once, on 200 lines with 10,000 meters; in virtual time, so one round is enough."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from simulators.virtual_time import VirtualClock, run
from tests.bench.figures import Figure, Goal, spread
from tests.scenarios.reconnect import Fleet, Reconnections, reconnect_fleet
from tests.scenarios.test_reconnect import START, WHOLE

__all__ = ["measure_reconnect"]


def measure_reconnect(*, note: Callable[[str], None], fleet: Fleet = WHOLE) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:

        async def main(clock: VirtualClock, random_: random.Random) -> Reconnections:
            return await reconnect_fleet(Path(folder), clock, random_, fleet, note)

        found = run(main, start=START, seed=7)
    of = f"{fleet.paid:,} of {fleet.meters:,} meters"
    return [
        spread(f"{of} reconnected: median", "s", [found.took_at(0.5)], Goal(most=30)),
        spread(f"{of} reconnected: 95 %", "s", [found.took_at(0.95)], Goal(most=180)),
        spread(f"{of} reconnected: slowest", "s", [max(found.took_s)], Goal(most=900)),
        spread("after the return of a line: slowest", "s", [max(found.after_return_s)], Goal(most=60)),
        spread("not reconnected", "", [float(len(found.missing))], Goal(most=0)),
    ]
