"""Durable ingest, and what a read costs on disk: a day of reads through writer and store, with and without the truth checks.

The reads are there before the clock starts. It stops when all of them are durable (SQLite, write-ahead log, synchronous=FULL). Bytes
are those of the whole database file after a checkpoint: events, indices and what is remembered of each channel included.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from headend.clock import SystemClock
from headend.intervals.guard import Guard, GuardedMeter
from headend.model import Item, Read
from headend.ratios import Ratios
from headend.store.store import open_store
from headend.store.writer import Writer, own_thread
from tests.bench.figures import Figure, Goal, Mark, spread
from tests.headend.support import PERIOD, StillClock, day_of_reads

__all__ = ["measure_ingest"]

READS_PER_S = Goal(least=20_000)
BYTES_PER_READ = Goal(most=150)
LINGER_S = 0.2  # what `headend.app` gives its writer
CONTRACT = "dlt645/base_2007"
DAY_SLOTS = 96


class _Round(Struct, frozen=True):
    per_s: float
    per_cpu_s: float
    bytes_each: float


def measure_ingest(
    *, rounds: int, meters: int = 500, slots: int = DAY_SLOTS, note: Callable[[str], None] = lambda _: None
) -> list[Figure]:
    """meters: each with two quantities."""
    bare: list[_Round] = []
    guarded: list[_Round] = []
    reads = [_polled(read) for read in day_of_reads(meters=meters, slots=slots, seed=1)]
    turns = [list(turn) for _, turn in groupby(reads, key=lambda read: (read.interval_end, read.meter))]
    for number in range(rounds):
        note(f"ingest, round {number + 1} of {rounds}")
        bare.append(asyncio.run(_round(turns, is_guarded=False)))
        guarded.append(asyncio.run(_round(turns, is_guarded=True)))
    return [
        spread("ingest: durable reads per second", "/s", (one.per_s for one in bare)),
        spread("ingest: the same per CPU second", "/s", (one.per_cpu_s for one in bare)),
        spread("ingest: with truth checks", "/s", (one.per_s for one in guarded), READS_PER_S),
        spread("ingest: the same per CPU second", "/s", (one.per_cpu_s for one in guarded)),
        spread("ingest: bytes on disk per read", "B", (one.bytes_each for one in bare)),
        spread("ingest: with truth checks", "B", (one.bytes_each for one in guarded), BYTES_PER_READ),
    ]


def _polled(read: Read) -> Read:
    """As a DL/T 645 meter answers: its registers come without the time of its clock."""
    return replace(read, read_at=None)


async def _round(turns: Sequence[Sequence[Read]], *, is_guarded: bool) -> _Round:
    count = sum(map(len, turns))
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as name, own_thread() as execute:
        file = Path(name) / "headend.db"
        store = open_store(f"sqlite:///{file}", "bench")
        guard = _guard(turns) if is_guarded else None
        begin = Mark.now(0)
        async with Writer(store, execute, clock=SystemClock(), linger_s=LINGER_S) as writer:
            for turn in turns:
                await writer.room()
                for item in _items(guard, turn):
                    writer.put(item)
        end = Mark.now(count)
        assert store.last_sequence() == count, "every read is one event, and no check found anything in clean reads"
        store.close()
        with sqlite3.connect(file) as database:
            assert database.execute("SELECT count(*) FROM reads").fetchone() == (count,)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return _Round(
            count / (end.wall_s - begin.wall_s), count / (end.cpu_s - begin.cpu_s), file.stat().st_size / count
        )


def _guard(turns: Sequence[Sequence[Read]]) -> Guard:
    meters = dict.fromkeys(turn[0].meter for turn in turns)
    return Guard(
        (GuardedMeter(id=meter, contract=CONTRACT, period_s=int(PERIOD / timedelta(seconds=1))) for meter in meters),
        histories={meter: {} for meter in meters},
        clock=StillClock(turns[-1][0].interval_end + PERIOD),
        clocks={},
        ratios=Ratios(()),
    )


def _items(guard: Guard | None, turn: Sequence[Read]) -> Iterator[Item]:
    if guard is None:
        yield from turn
    else:
        yield from guard.examine(turn).items
