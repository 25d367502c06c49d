"""One writer, group commit: durable before the answer, nothing dropped when the disk is full, bounded in memory."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
from sqlalchemy import event

from headend.errors import ItemRefused, StoreUnavailable, WriterFull
from headend.store import Store, Writer
from headend.store.writer import GROUP_MAX, Execute, inline, own_thread
from simulators.virtual_time import VirtualClock, run
from tests.headend.support import StillClock, a_read, an_event, new_store, store_url

T = TypeVar("T")
QUICK = (0.001, 0.01)


class Gate:
    """Execute that holds commits back while it is shut and counts them."""

    def __init__(self, execute: Execute = inline) -> None:
        self._execute = execute
        self.open = asyncio.Event()
        self.open.set()
        self.started = asyncio.Event()
        self.commits = 0

    async def __call__(self, work: Callable[[], T], /) -> T:
        self.commits += 1
        self.started.set()
        await self.open.wait()
        return await self._execute(work)


@pytest.fixture
def thread() -> Iterator[Execute]:
    with own_thread() as execute:
        yield execute


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


async def test_submit_answers_when_the_item_is_durable(store: Store, thread: Execute, tmp_path: Path) -> None:
    rung: list[int] = []
    async with Writer(store, thread, clock=StillClock(), on_commit=rung.append) as writer:
        assert await writer.submit(a_read(slot=0)) == 1
        assert Store(store_url(tmp_path), "x").last_sequence() == 1
        assert await writer.submit(a_read(slot=0)) is None
        assert await writer.submit(an_event()) == 2
    assert rung == [1, 2]
    health = writer.health()
    assert (health.stored_total, health.duplicates_total, health.groups_total, health.queued) == (2, 1, 3, 0)


async def test_newcomers_gather_while_a_commit_runs(store: Store, thread: Execute) -> None:
    gate = Gate(thread)
    gate.open.clear()
    async with Writer(store, gate, clock=StillClock()) as writer:
        first = asyncio.ensure_future(writer.submit(a_read(slot=0)))
        await gate.started.wait()
        others = [asyncio.ensure_future(writer.submit(a_read(slot=slot))) for slot in range(1, 101)]
        await asyncio.sleep(0)
        gate.open.set()
        assert await asyncio.gather(first, *others) == list(range(1, 102))
        assert gate.commits == 2


async def test_groups_are_limited(store: Store) -> None:
    gate = Gate()
    async with Writer(store, gate, clock=StillClock(), group_max=10, linger_s=30.0) as writer:
        for slot in range(25):
            writer.put(a_read(slot=slot))
    assert gate.commits == 3
    assert store.last_sequence() == 25


def test_the_first_item_lingers_for_company_but_no_longer(store: Store) -> None:
    async def main(clock: VirtualClock, random: Random) -> list[float]:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        commits: list[float] = []

        async def execute(work: Callable[[], T], /) -> T:
            commits.append(loop.time() - begin)
            return work()

        async with Writer(store, execute, clock=clock, linger_s=0.5, group_max=5) as writer:
            for slot in range(3):  # together, though they come one by one
                writer.put(a_read(slot=slot))
                await asyncio.sleep(0.1)
            await writer.submit(a_read(slot=3))
            await asyncio.sleep(1.0)
            for slot in range(4, 9):  # a full group does not wait
                writer.put(a_read(slot=slot))
            await asyncio.sleep(0.0)
            await asyncio.sleep(2.0)
            writer.put(a_read(slot=9))  # nor does the last one at the end
        return commits

    assert run(main) == pytest.approx([0.5, 1.5, 3.5])
    assert store.last_sequence() == 10


def test_a_failing_store_is_retried_with_growing_pauses_and_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    async def main(clock: VirtualClock, random: Random) -> None:
        loop = asyncio.get_running_loop()
        tries: list[float] = []

        async def execute(work: Callable[[], T], /) -> T:
            tries.append(loop.time())
            if len(tries) == 9:
                with sqlite3.connect(tmp_path / "headend.db") as other:
                    other.execute("DROP TRIGGER full")
            return work()

        with sqlite3.connect(tmp_path / "headend.db") as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON reads BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        async with Writer(store, execute, clock=clock) as writer:
            waiting = [asyncio.ensure_future(writer.submit(a_read(slot=slot))) for slot in range(3)]
            await asyncio.sleep(1.0)
            assert not writer.healthy
            assert "disk full" in writer.health().last_error
            assert "M000001" not in writer.health().last_error
            late = asyncio.ensure_future(writer.submit(a_read(slot=3)))
            assert await asyncio.gather(*waiting, late) == [1, 2, 3, 4]
            assert writer.healthy
            assert writer.health().failures_total == 8
        pauses = [round(after - before, 3) for before, after in pairwise(tries[:9])]
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]

    run(main)


async def test_a_really_full_database_recovers(store: Store, thread: Execute) -> None:
    """SQLite's own page limit, lifted later, as a full disk that is cleaned up."""
    pages = [1]

    @event.listens_for(store.engine, "checkout")
    def limit_pages(connection: sqlite3.Connection, record: object, proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")  # never below the present size

    failed = asyncio.Event()

    async def execute(work: Callable[[], T], /) -> T:
        try:
            return await thread(work)
        except StoreUnavailable:
            asyncio.get_running_loop().call_soon(failed.set)  # after the writer has heard of it
            raise

    async with Writer(store, execute, clock=StillClock(), backoff_s=QUICK) as writer:
        waiting = [asyncio.ensure_future(writer.submit(a_read(f"M{number:06d}"))) for number in range(2000)]
        await failed.wait()
        assert "full" in writer.health().last_error
        pages[0] = 1_000_000
        assert await asyncio.gather(*waiting) == list(range(1, 2001))
    assert [int(json.loads(one)["sequence"]) for one in store.events_after(0, 5000)] == list(range(1, 2001))


async def test_a_full_queue_blocks_room_and_takes_what_lines_still_hold(store: Store) -> None:
    gate = Gate()
    gate.open.clear()
    async with Writer(store, gate, clock=StillClock(), queue_max=10) as writer:
        for slot in range(10):
            await writer.room()
            writer.put(a_read(slot=slot))
        blocked = asyncio.ensure_future(writer.room())
        await asyncio.sleep(0)
        assert not blocked.done()
        for slot in range(10, 20):
            writer.put(a_read(slot=slot))
        with pytest.raises(WriterFull, match="room"):
            writer.put(a_read(slot=20))
        gate.open.set()
        await blocked
    assert store.last_sequence() == 20


async def test_one_item_that_cannot_be_stored_does_not_hold_back_the_others(store: Store) -> None:
    async with Writer(store, inline, clock=StillClock()) as writer:
        items = [a_read(slot=0), a_read(slot=1, revision=2**70), a_read(slot=2)]
        results = await asyncio.gather(*(writer.submit(item) for item in items), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], ItemRefused)
    assert results[2] == 2
    assert writer.health().refused_total == 1


async def test_an_error_nobody_foresaw_is_retried_too(store: Store) -> None:
    tries = 0

    async def execute(work: Callable[[], T], /) -> T:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("executor gone")
        return work()

    async with Writer(store, execute, clock=StillClock(), backoff_s=QUICK) as writer:
        assert await writer.submit(a_read()) == 1
    assert writer.health().failures_total == 2


async def test_a_cancelled_waiter_does_not_cancel_the_storing(store: Store) -> None:
    gate = Gate()
    gate.open.clear()
    async with Writer(store, gate, clock=StillClock()) as writer:
        waiter = asyncio.ensure_future(writer.submit(a_read()))
        await gate.started.wait()
        waiter.cancel()
        await asyncio.sleep(0)
        gate.open.set()
    assert store.last_sequence() == 1


def test_closing_over_a_dead_store_ends_and_says_what_is_lost(store: Store) -> None:
    async def main(clock: VirtualClock, random: Random) -> None:
        async def execute(work: Callable[[], T], /) -> T:
            raise StoreUnavailable("disk gone")

        writer = Writer(store, execute, clock=clock)
        waiter = asyncio.ensure_future(writer.submit(a_read()))
        writer.put(a_read(slot=1))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="2 items could not be stored"):
            await writer.aclose(flush_s=12.0)
        with pytest.raises(StoreUnavailable):
            await waiter
        with pytest.raises(WriterFull, match="closed"):
            writer.put(a_read())

    run(main)


async def test_closing_a_writer_that_never_wrote_is_fine(store: Store) -> None:
    await Writer(store, inline, clock=StillClock()).aclose()


async def test_commits_go_on_while_every_shared_thread_is_busy(store: Store, thread: Execute) -> None:
    """HTTP requests use asyncio's default threads; slow ones must not hold up what makes reads durable."""
    release = threading.Event()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1) as shared:
        loop.set_default_executor(shared)
        slow = asyncio.ensure_future(asyncio.to_thread(release.wait))
        try:
            async with Writer(store, thread, clock=StillClock()) as writer, asyncio.timeout(20):
                assert await writer.submit(a_read()) == 1
        finally:
            release.set()
        assert await slow


async def test_under_full_load_at_most_two_groups_wait(store: Store, thread: Execute) -> None:
    """The loop never rests while it has room, as with many lines at work: 60 us of it per read, each line asking for room."""
    lines = 64
    waiting: list[int] = []

    async with Writer(store, thread, clock=StillClock()) as writer:

        async def line(number: int) -> None:
            for slot in range(300):
                await writer.room()
                await asyncio.sleep(0)  # as long as its meter takes to answer, the line does not ask again
                busy_until = time.thread_time() + 60e-6
                while time.thread_time() < busy_until:
                    pass
                writer.put(a_read(f"M{number:06d}", slot=slot))
                waiting.append(writer.health().queued)

        await asyncio.gather(*(line(number) for number in range(lines)))
    print(f"\nwaiting: {max(waiting)} at most, {sum(waiting) / len(waiting):.0f} on average")
    assert store.last_sequence() == lines * 300
    assert max(waiting) <= 2 * GROUP_MAX + lines


async def test_a_store_that_fails_makes_room_for_what_meters_still_have_to_say(store: Store) -> None:
    gate = Gate()
    gate.open.clear()
    fails = True

    async def execute(work: Callable[[], T], /) -> T:
        await gate(lambda: None)
        if fails:
            raise StoreUnavailable("disk full")
        return work()

    async with Writer(store, execute, clock=StillClock(), group_max=5, queue_max=15, backoff_s=QUICK) as writer:
        for slot in range(10):
            await writer.room()
            writer.put(a_read(slot=slot))
        blocked = asyncio.ensure_future(writer.room())
        await asyncio.sleep(0)
        assert not blocked.done()  # two groups wait for a store that is only slow
        gate.open.set()
        await blocked
        assert not writer.healthy
        for slot in range(10, 15):
            await writer.room()
            writer.put(a_read(slot=slot))
        blocked = asyncio.ensure_future(writer.room())
        await asyncio.sleep(0)
        assert not blocked.done()
        fails = False
        await blocked
        assert writer.healthy
    assert store.last_sequence() == 15


async def test_many_items_share_a_future_and_a_commit(store: Store, thread: Execute) -> None:
    async with Writer(store, thread, clock=StillClock(), linger_s=0.05) as writer:
        several = [writer.submit_all([a_read(f"M{number}", slot=slot) for slot in range(3)]) for number in range(20)]
        results = await asyncio.gather(*several, writer.submit_all([]))
        assert [len(result) for result in results] == [3] * 20 + [0]
        assert sorted(number for result in results for number in result if number) == list(range(1, 61))
        assert writer.health().groups_total == 1
        assert await writer.submit_all([a_read("M0", slot=0), an_event()]) == [None, 61]


async def test_who_is_in_a_hurry_does_not_linger(store: Store, thread: Execute) -> None:
    async with Writer(store, thread, clock=StillClock(), linger_s=60.0) as writer, asyncio.timeout(20):
        writer.put(a_read(slot=0))
        patient = asyncio.ensure_future(writer.submit(a_read(slot=1)))
        await asyncio.sleep(0)
        assert await writer.submit_all([a_read(slot=2)], linger_s=0.01) == [3]
        assert await patient == 2  # it came along
        assert writer.health().queued == 0


async def test_a_refused_item_costs_only_itself_and_is_told_when_the_others_are_durable(
    store: Store, thread: Execute
) -> None:
    async with Writer(store, thread, clock=StillClock()) as writer:
        with pytest.raises(ItemRefused):
            await writer.submit_all([a_read(slot=0), a_read(slot=1, revision=2**70), a_read(slot=2)])
        assert store.last_sequence() == 2
        assert writer.health().refused_total == 1


async def test_who_stops_waiting_for_many_items_disturbs_nobody(store: Store) -> None:
    gate = Gate()
    gate.open.clear()
    async with Writer(store, gate, clock=StillClock()) as writer:
        waiting = asyncio.ensure_future(writer.submit_all([a_read(slot=slot) for slot in range(3)]))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.open.set()
        assert await writer.submit(a_read(slot=9)) == 4
