"""The head-end without its HTTP interface: `HeadEnd` with real lines, driver, poller, writer and SQLite (synchronous=FULL).

Measured from the first line's connection until everything that was read is durable: reads wait for their commit in a queue, and
between two moments in the middle either too much or too little of it would be counted. So the start is measured with it,
to its disadvantage.
"""

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from headend.app import HeadEnd
from headend.clock import SystemClock
from headend.config import Config, LineConfig, PlanConfig
from headend.drivers.transport import LineUrl, connect
from headend.model import MeterRecord, Quality
from headend.store.store import Store, open_store
from headend.store.writer import own_thread
from protocols.exchange import Timing
from tests.bench.figures import Mark, Stretch
from tests.bench.prepared import CONTRACT, DIS, HOST, address_of, amount_of, contract

__all__ = ["measure"]


class _MidnightClock(SystemClock):
    """The machine's clock moved to a minute after local midnight: the daily round of this benchmark is due, and lasts four hours."""

    def __init__(self) -> None:
        self._moved = datetime(2025, 6, 16, 16, 1, tzinfo=UTC) - datetime.now(UTC)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._moved


def _configured(folder: Path, port: int, lines: int, meters: int) -> Config:
    """As `load_config` makes it for lines at tcp:// and a daily plan; the whole round is due at once."""
    url = LineUrl.parse(f"tcp://{HOST}:{port}")
    quantities = tuple(f"di:{di}" for di in DIS)
    return Config(
        path=folder / "headend.toml",
        name="bench",
        zone=ZoneInfo("Asia/Shanghai"),
        store=f"sqlite:///{folder}/headend.db",
        host=HOST,
        port=0,
        lines=tuple(
            LineConfig(name=f"line-{line}", url=url, protocol="dlt645", timing=Timing(reply_timeout_s=3.0), retries=1)
            for line in range(lines)
        ),
        plans=(PlanConfig(name="daily", period_s=86400, quantities=quantities),),
        meters=tuple(
            MeterRecord(
                id=f"M{number:06}",
                line=f"line-{(number - 1) % lines}",
                address=address_of(number),
                contract=CONTRACT,
                plan="daily",
                protocol="dlt645",
            )
            for number in range(1, lines * meters + 1)
        ),
        sinks=(),
        problems=(),
    )


async def measure(port: int, lines: int, meters: int, seconds: float) -> Stretch:
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as name, own_thread() as execute:
        config = _configured(Path(name), port, lines, meters)
        store = open_store(config.store, config.name)
        head_end = HeadEnd(config, store, clock=_MidnightClock(), connect=connect, execute=execute)
        for poller in head_end._pollers.values():
            poller._spare = None  # checks of clocks begin when a round ends early; they are not what is measured
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        await head_end.line_owners[0].wait_up()
        begin = Mark.now(0)
        await _until_read(head_end, lines * meters * len(DIS), seconds)
        waiting = sum(line.counters.replied for line in head_end.line_owners) - head_end.signal.sequence
        stop.set()
        await running
        end = Mark.now(store.last_sequence())
        _check(store, lines * meters, head_end)
        store.close()
        return Stretch(begin, end, waiting)


async def _until_read(head_end: HeadEnd, total: int, seconds: float) -> None:
    """For `seconds`, or until every meter is read, whatever is first."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    with head_end.signal.subscribe() as bell:
        while head_end.signal.sequence < total and (left_s := until - loop.time()) > 0:
            await bell.wait(head_end.signal.sequence, left_s)


def _check(store: Store, meters: int, head_end: HeadEnd) -> None:
    """Every request was answered at once, and what is stored is what the meters have."""
    assert all(line.counters.replied == line.counters.requests for line in head_end.line_owners)
    assert store.last_sequence() == sum(line.counters.replied for line in head_end.line_owners)
    obis_of = {str(spec.obis) if spec.obis else f"di:{di}": di for di in DIS for spec in [contract().find(di)]}
    for number in range(1, meters + 1, 37):
        for read in store.reads(f"M{number:06}"):
            assert read.amount == amount_of(number, obis_of[read.obis])
            assert read.quality == (Quality.MEASURED,)
