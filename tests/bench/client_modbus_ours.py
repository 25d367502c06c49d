"""The head-end's way of a Modbus block: line, driver, the poller's reads, writer and SQLite (synchronous=FULL).

Measured from a moment at which nothing waits for the store until all that was read since is durable. Several blocks are asked for at
once, as many as the line may have in flight.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from headend.clock import SystemClock
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import ModbusDriver
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl, connect
from headend.model import Quality
from headend.scheduling.polled_reads import reads_of
from headend.store.store import Store, open_store
from headend.store.writer import Writer, own_thread
from tests.bench.figures import WARM_UP_S, Mark, Stretch
from tests.bench.prepared import HOST
from tests.bench.prepared_modbus import UNITS, is_of, question

__all__ = ["measure"]

ZONE = ZoneInfo("Asia/Shanghai")
FIRST_SLOT = datetime(2025, 6, 16, tzinfo=UTC)
PERIOD = timedelta(minutes=15)
PROTOCOL = "modbus-tcp"
LINGER_S = 0.2  # what `headend.app` gives its writer


class _Poll:
    """Reads every unit of a line, slot after slot, for as long as it is told to."""

    def __init__(self, line: Line, prefix: str, quantities: tuple[str, ...], writer: Writer) -> None:
        self.line = line
        self.prefix = prefix
        self.reads = 0
        self._driver = ModbusDriver(line)
        self._question = question(quantities)
        self._writer = writer
        self._clock = SystemClock()
        self._turns = self._all_turns()
        self._until = 0.0

    @staticmethod
    def _all_turns() -> Iterator[tuple[datetime, int]]:
        slot = FIRST_SLOT
        while True:
            for unit in UNITS:
                yield slot, unit
            slot += PERIOD

    async def work(self, until: float) -> None:
        """until: loop time."""
        loop, turns, writer = asyncio.get_running_loop(), self._turns, self._writer
        while loop.time() < until:
            slot, unit = next(turns)
            await writer.room()
            reading = await self._driver.ask(str(unit), self._question, Priority.LIVE)
            now, meter = self._clock.now(), f"{self.prefix}{unit:03}"
            for read in reads_of(meter, self._question, reading, slot=slot, now=now, zone=ZONE, late=False):
                writer.put(read)
            self.reads += 1


async def measure(port: int, lines: int, in_flight: int, quantities: tuple[str, ...], seconds: float) -> Stretch:
    url = LineUrl.parse(f"tcp://{HOST}:{port}")
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as name, own_thread() as execute:
        store = open_store(f"sqlite:///{Path(name)}/headend.db", "bench")
        async with Writer(store, execute, clock=clock, linger_s=LINGER_S) as writer:
            polls = []
            for number in range(lines):
                timing, session = timing_of(url, PROTOCOL), session_of(PROTOCOL, in_flight=in_flight)
                line = Line(f"line-{number}", url, timing, connect=connect, clock=clock, session=session)
                await line.connect()
                polls.append(_Poll(line, f"M{number:03}", quantities, writer))
            await _for(polls, in_flight, WARM_UP_S)
            while writer.health().queued:  # noqa: ASYNC110 -- the writer tells nobody when it has nothing left
                await asyncio.sleep(0.01)
            begin = Mark.now(sum(poll.reads for poll in polls))
            await _for(polls, in_flight, seconds)
            waiting = writer.health().queued
        end = Mark.now(sum(poll.reads for poll in polls))
        _check(store, polls, end.reads * len(quantities))
        store.close()
        for poll in polls:
            poll.line.close()
        return Stretch(begin, end, waiting)


async def _for(polls: list[_Poll], in_flight: int, seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(*(poll.work(until) for poll in polls for _ in range(in_flight)))


def _check(store: Store, polls: list[_Poll], total: int) -> None:
    """Every request was answered at once, all is there, and what is stored is what the registers held."""
    assert all(poll.line.counters.replied == poll.line.counters.requests == poll.reads for poll in polls)
    assert store.last_sequence() == total
    by_name = {
        register.name: point
        for register, point in zip(polls[0]._question.registers, polls[0]._question.block.points, strict=True)
    }
    for poll in polls:
        for unit in UNITS[::60]:
            for read in store.reads(f"{poll.prefix}{unit:03}")[:200]:
                assert read.quality == (Quality.MEASURED,)
                assert is_of(read.amount, unit, by_name[read.obis])
