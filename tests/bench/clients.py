"""The measured clients, each run as a process of its own so that CPU time is its own.

    python -m tests.bench.clients ours|raw|foreign PORT LINES METERS SECONDS CORE

All of them run under uvloop, keep one request in flight per connection, and are measured while at work, without their start-up.
CORE keeps the process on one core; -1 leaves it to the system.
"""

import asyncio
import importlib
import json
import logging
import os
import sys

import structlog
import uvloop

from tests.bench.figures import Stretch

__all__ = ["CLIENTS"]

CLIENTS = {  # imported by the process that runs it: none carries what only the others need
    "raw": "tests.bench.client_raw",
    "ours": "tests.bench.client_ours",
    "foreign": "tests.bench.client_foreign",
}


def main(kind: str, port: int, lines: int, meters: int, seconds: float, core: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if core >= 0:
        os.sched_setaffinity(0, {core})
    measure = importlib.import_module(CLIENTS[kind]).measure

    async def measured() -> Stretch:
        found: Stretch = await measure(port, lines, meters, seconds)
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measured()).figures))


if __name__ == "__main__":
    client, where, lines_of, meters_of, duration, on = sys.argv[1:]
    main(client, int(where), int(lines_of), int(meters_of), float(duration), int(on))
