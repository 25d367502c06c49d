"""Thirty-two meters on a line at 2400 baud, eight of them dead, wherever they stand: the others are read in time.

A checker on the simulated wire, not our own counters, measures what the dead ones cost: from each request to a dead address until
the next request leaves, at most a time-out and its drain. `--dead-seeds N` sets how many streets (full run: 50).
"""

import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from protocols.dlt645.frame import Frame
from protocols.errors import FrameError
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import Street, run_street

MIDNIGHT = datetime(2026, 3, 1, 16, tzinfo=UTC)
HOURS = 1.0
SHARE_MAX = 0.10
ASKING_S_MAX = 3.5  # the tunnel's time-out of 3 s, the request's own time on the wire, and the drain


class Wire:
    """Who was asked when, as seen on the wire."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.requests: list[tuple[float, str]] = []

    def tap(self, street: Street) -> None:
        line = street.lines["line-0"]
        send = line.send

        def tapped(chunk: bytes) -> None:
            try:
                self.requests.append((self.clock.monotonic(), Frame.from_bytes(bytes(chunk)).address))
            except FrameError:
                raise AssertionError(f"half a request on the wire: {chunk.hex()}") from None
            send(chunk)

        line.send = tapped  # type: ignore[method-assign]

    def spent_on(self, dead: set[str]) -> float:
        ends = [at for at, _ in self.requests[1:]] + [self.requests[-1][0] + ASKING_S_MAX]
        return sum(
            min(end - at, ASKING_S_MAX)
            for (at, address), end in zip(self.requests, ends, strict=True)
            if address in dead
        )


def a_street(folder: Path, seed: int) -> tuple[Street, Wire, set[str]]:
    dead = {f"{number:012}" for number in random.Random(seed).sample(range(1, 33), 8)}
    wires: list[Wire] = []

    async def bury(street: Street, clock: VirtualClock) -> None:
        bus: Any = street.lines["line-0"].bus
        bus.meters = [meter for meter in bus.meters if meter.address not in dead]
        wires.append(Wire(clock))
        wires[0].tap(street)

    street = run(
        lambda clock, _: run_street(
            folder, clock, hours=HOURS - 1 / 3600, seed=seed, meters_per_line=32, quantities=["1-0:1.8.0", "1-0:32.7.0"],
            meanwhile=bury,
        ),
        start=MIDNIGHT,
        seed=seed,
    )  # fmt: skip
    return street, wires[0], dead


@pytest.mark.timeout(1800)
def test_the_live_are_read_in_time_and_the_dead_take_at_most_a_tenth(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    worst = 0.0
    for seed in range(request.config.getoption("--dead-seeds")):
        folder = tmp_path / str(seed)
        folder.mkdir()
        street, wire, dead = a_street(folder, seed)
        outcomes: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        for data in street.reads(revision=0):
            is_dead = f"{int(data['meter'][1:]):012}" in dead
            outcomes[is_dead][data.get("reason") or ", ".join(data["quality"])] += 1
        assert outcomes[False] == Counter({"measured": 24 * 4 * 2}), f"seed {seed}: {outcomes[False]}"
        # The last of the four rounds was still open: its dead meters had not been given up.
        assert outcomes[True] == Counter({"silent": 8 * 3 * 2}), f"seed {seed}: {outcomes[True]}"
        share = wire.spent_on(dead) / (HOURS * 3600)
        assert share <= SHARE_MAX, f"seed {seed}: dead meters took {share:.1%} of the line's time"
        worst = max(worst, share)
        street.store.close()
    print(f"dead meters took at most {worst:.1%} of the line's time")
