"""The one writer: many tasks put items, one commit at a time makes them durable together.

While a commit runs, newcomers gather for the next (group commit): the disk is asked once for many reads. `linger_s`
trades delay for larger groups, which are also smaller on disk, since the events of a group are compressed together. Who holds up
somebody else by waiting, such as a broker that sends no more than a few messages ahead, asks for less.

What waits is lost if the process is killed, so little may wait: at two groups `room()` blocks, and lines stop reading until the
commits have caught up. Without it a loop that never rests can starve the thread that commits.

A `DiskWatch` says when there is room again after the disk was full: until then nothing is tried, and the reserve on the disk stays for
what is `urgent`.

When the store cannot commit (full disk, locked file), items stay queued in order and the same group is tried again
after 0.1, 0.2, … 5 s. Reading then goes on for the meters' sake: now `room()` blocks at `queue_max` items only. Nothing is
dropped: `put` itself still takes what lines already hold by then, up to twice `queue_max`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from math import inf
from types import TracebackType
from typing import Protocol, TypeVar

import structlog
from msgspec import Struct
from sqlalchemy import Connection

from headend.clock import Clock
from headend.errors import HeadendError, ItemRefused, StoreFull, StoreUnavailable, WriterFull
from headend.model import Item
from headend.store.reserve import DiskWatch
from headend.store.store import Store

__all__ = ["Execute", "Writer", "WriterHealth", "inline", "own_thread"]

GROUP_MAX = 1000  # one batch row of the feed; larger groups gain nothing more
GROUPS_WAITING_MAX = 2  # one that is being committed, one that gathers meanwhile
QUEUE_MAX = 20_000  # items; about 20 MB, and a minute of reads of 300,000 meters on a 15 minute plan
BACKOFF_S = (0.1, 5.0)  # first and longest pause after a commit that failed
FLUSH_S = 30.0  # how long aclose() goes on trying against a store that fails

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)
_log = structlog.get_logger(__name__)


class Execute(Protocol):
    """Runs synchronous work: in a single thread for real, inline under virtual time."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


async def inline(work: Callable[[], T], /) -> T:
    """Execute for virtual time: the loop stands still meanwhile."""
    return work()


@contextmanager
def own_thread(name: str = "store-writer") -> Iterator[Execute]:
    """Execute for the real service: the loop goes on reading meters while the disk works.

    The thread does nothing else and ends with the `with` block, after the work it is at: asyncio's default threads are shared
    with every HTTP request, and a few slow ones would hold up the commits.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) as thread:

        async def execute(work: Callable[[], T], /) -> T:
            return await asyncio.get_running_loop().run_in_executor(thread, work)

        yield execute


class WriterHealth(Struct, frozen=True, kw_only=True):
    """last_error: why the store fails, with no meter in it; "" while healthy. failing_since: None while healthy.

    queued: items not yet durable. All counts are since the start.
    """

    healthy: bool
    last_error: str
    failing_since: datetime | None
    queued: int
    stored_total: int
    duplicates_total: int
    refused_total: int
    groups_total: int
    failures_total: int


class _Waiting(Struct):
    """Somebody who waits for `left` more of its items; they settle in the order in which they were put."""

    done: asyncio.Future[list[int | None]]
    left: int
    results: list[int | None] = []
    refused: ItemRefused | None = None

    def settle(self, result: int | None, refused: ItemRefused | None = None) -> None:
        self.results.append(result)
        self.refused = self.refused or refused
        self.left -= 1
        if self.left == 0 and not self.done.done():
            if self.refused is not None:
                self.done.set_exception(self.refused)
            else:
                self.done.set_result(self.results)


class _Queued(Struct, gc=False):
    item: Item
    arrived: float  # loop time
    waiting: _Waiting | None


class Writer:
    """Group commit over a Store. Belongs to one event loop; `aclose` (or `async with`) flushes what is queued.

    on_commit: called on the loop with the last feed number after each commit that made events. prepare: what becomes of an item
    when it is put, such as a read that gets the ratio of its transformers.
    """

    def __init__(
        self,
        store: Store,
        execute: Execute,
        *,
        clock: Clock,
        linger_s: float = 0.0,
        on_commit: Callable[[int], None] | None = None,
        prepare: Callable[[Item], Item] | None = None,
        disk: DiskWatch | None = None,
        group_max: int = GROUP_MAX,
        queue_max: int = QUEUE_MAX,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self._store = store
        self._execute = execute
        self._clock = clock
        self._linger_s = linger_s
        self._on_commit = on_commit
        self._prepare = prepare
        self._disk = disk
        self._group_max = group_max
        self._queue_max = queue_max
        self._waiting_max = min(GROUPS_WAITING_MAX * group_max, queue_max)  # while the store works
        self._backoff_s = backoff_s
        self._queue: deque[_Queued] = deque()
        self._stirred = asyncio.Event()  # first item, a full group, or closing
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._flush_until: float | None = None  # loop time
        self._hurry_until = inf  # loop time; what is queued now is to be committed by then
        self._last_error = ""
        self._failing_since: datetime | None = None
        self._stored = self._duplicates = self._refused = self._groups = self._failures = 0

    async def __aenter__(self) -> "Writer":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def healthy(self) -> bool:
        """False from a commit that failed until one succeeds."""
        return self._failing_since is None

    def health(self) -> WriterHealth:
        return WriterHealth(
            healthy=self.healthy,
            last_error=self._last_error,
            failing_since=self._failing_since,
            queued=len(self._queue),
            stored_total=self._stored,
            duplicates_total=self._duplicates,
            refused_total=self._refused,
            groups_total=self._groups,
            failures_total=self._failures,
        )

    def put(self, item: Item) -> None:
        """Queue the item without waiting; it becomes durable soon, in the order of putting. Raises WriterFull."""
        self._enqueue(item, None)

    async def transact(
        self, work: Callable[[Connection], tuple[T, Sequence[Item]]], doing: str, *, urgent: bool = False
    ) -> T:
        """`Store.transact` on the writer's thread, between two commits: durable at return. It does not wait for company.

        Tried once: whoever needs the outcome decides about the next try. Cancelling stops the waiting, not the storing.
        urgent: on a full disk it is written into the room of the reserve, and `work` may be called twice for that; only for
        what makes somebody safer or leaves a trace of it. Everything else is refused there at once.
        Raises what `work` raises, StoreUnavailable, StoreFull, ItemRefused.
        """
        result, numbers = await self._execute(
            lambda: self._guarded(lambda: self._store.transact(work, doing), urgent=urgent)
        )
        if (
            last := max((number for number in numbers if number is not None), default=0)
        ) and self._on_commit is not None:
            self._on_commit(last)
        return result

    async def submit(self, item: Item) -> int | None:
        """Wait until the item is durable; gives its feed number, None for a read stored already.

        Waits for room first. Cancelling stops the waiting, not the storing. Raises ItemRefused, WriterFull.
        """
        return (await self.submit_all((item,)))[0]

    async def submit_all(self, items: Sequence[Item], *, linger_s: float | None = None) -> list[int | None]:
        """As `submit`, for many items that one future stands for: they share commits with each other and with everybody's.

        linger_s: wait no longer than this for company; None: as long as the writer does anyway. Raises ItemRefused when the
        store can never take one of them; the others are durable by then.
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), len(items))
        try:
            for item in items:
                await self.room()
                self._enqueue(item, waiting)
            if linger_s is not None and (until := loop.time() + linger_s) < self._hurry_until:
                self._hurry_until = until
                self._stirred.set()
            return await waiting.done
        finally:
            waiting.done.cancel()  # nobody looks at it any more, whatever becomes of the rest

    async def room(self) -> None:
        """Returns once there is room: to be awaited before asking a meter for more."""
        await self._roomy.wait()

    async def aclose(self, flush_s: float = FLUSH_S) -> None:
        """Flush and stop. Raises StoreUnavailable with the number of items lost when the store fails for `flush_s`."""
        self._closing = True
        if self._task is None:
            return
        if self._flush_until is None:
            self._flush_until = asyncio.get_running_loop().time() + flush_s
        self._stirred.set()
        await self._task

    def _guarded(self, write: Callable[[], T], *, urgent: bool = False) -> T:
        """What writes, in the store's thread, with an eye on the disk."""
        if self._disk is None:
            return write()
        if not urgent:
            self._disk.check()
        try:
            return write()
        except StoreFull:
            self._disk.note_full()
            if not urgent or not self._disk.use_reserve():
                raise
            return write()

    def _enqueue(self, item: Item, waiting: _Waiting | None) -> None:
        if self._closing:
            raise WriterFull("the writer is closed and takes nothing more: stop what produces items before closing it")
        if len(self._queue) >= 2 * self._queue_max:
            raise WriterFull(
                f"{len(self._queue)} items wait for the store, twice what is expected at most; await "
                f"room() before asking meters for more. Last error: {self._last_error or 'none'}"
            )
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run(), name="store-writer")
        if self._prepare is not None:
            item = self._prepare(item)
        self._queue.append(_Queued(item, loop.time(), waiting))
        if len(self._queue) >= self._room_max:
            self._roomy.clear()
        if len(self._queue) == 1 or len(self._queue) >= self._group_max:
            self._stirred.set()

    async def _run(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._stirred.clear()
                await self._stirred.wait()
                continue
            await self._linger()
            self._hurry_until = inf
            await self._store_group(min(len(self._queue), self._group_max))
            self._look_for_room()

    @property
    def _room_max(self) -> int:
        return self._waiting_max if self.healthy else self._queue_max

    def _look_for_room(self) -> None:
        if len(self._queue) < self._room_max:
            self._roomy.set()
        else:
            self._roomy.clear()

    async def _linger(self) -> None:
        """Wait for more company for the first item, but no longer than it may wait."""
        until = self._queue[0].arrived + self._linger_s
        while len(self._queue) < self._group_max and not self._closing:
            if not await self._pause(min(until, self._hurry_until)):
                return

    async def _pause(self, until: float) -> bool:
        """Wait for a stir or the loop time `until`; False when that time has come."""
        self._stirred.clear()
        loop = asyncio.get_running_loop()
        if loop.time() >= until:
            return False
        timer = loop.call_at(until, self._stirred.set)
        try:
            await self._stirred.wait()
        finally:
            timer.cancel()
        return True

    async def _store_group(self, size: int) -> None:
        """Commit the first `size` of the queue, trying until the store takes them; they stay queued until then."""
        items = [queued.item for queued in islice(self._queue, size)]
        pause_s, pause_s_max = self._backoff_s
        while True:
            try:
                results = await self._execute(lambda: self._guarded(lambda: self._store.commit(items)))
            except ItemRefused as error:
                if size == 1:
                    self._refuse(error)
                    return
                # One of them spoils the group: alone, the others are stored and the one is named.
                for _ in range(size):
                    await self._store_group(1)
                return
            except Exception as error:
                # Whatever it is, a read in memory is worth more than a writer that has ended.
                self._note_failure(error)
                if not await self._back_off(pause_s):
                    self._give_up(error)
                pause_s = min(2 * pause_s, pause_s_max)
            else:
                self._settle(results)
                return

    async def _back_off(self, pause_s: float) -> bool:
        """False when closing and out of time. Newcomers do not cut the pause short."""
        loop = asyncio.get_running_loop()
        until = loop.time() + pause_s
        while True:
            if self._flush_until is not None and loop.time() >= self._flush_until:
                return False
            if not await self._pause(until if self._flush_until is None else min(until, self._flush_until)):
                return self._flush_until is None or loop.time() < self._flush_until

    def _settle(self, results: Sequence[int | None]) -> None:
        if not self.healthy:
            _log.info("store works again", failing_since=self._failing_since, queued=len(self._queue))
            self._last_error, self._failing_since = "", None
        self._groups += 1
        last = 0
        for result in results:
            waiting = self._queue.popleft().waiting
            if waiting is not None:
                waiting.settle(result)
            if result is None:
                self._duplicates += 1
            else:
                self._stored += 1
                last = result
        if last and self._on_commit is not None:
            self._on_commit(last)

    def _refuse(self, error: ItemRefused) -> None:
        queued = self._queue.popleft()
        self._refused += 1
        _log.error("item refused by the store", item=repr(queued.item), problem=str(error))
        if queued.waiting is not None:
            queued.waiting.settle(None, error)

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        # Of an error that is not ours only the kind is shown: its text may quote a read.
        self._last_error = str(error) if isinstance(error, HeadendError) else type(error).__name__
        if self._failing_since is None:
            self._failing_since = self._clock.now()
            _log.error("store fails, reads are kept and tried again", problem=str(error), queued=len(self._queue))
            self._look_for_room()

    def _give_up(self, error: Exception) -> None:
        lost = StoreUnavailable(f"{len(self._queue)} items could not be stored before the end: {error}")
        _log.error("items lost at the end", count=len(self._queue), problem=str(error))
        for queued in self._queue:
            if queued.waiting is not None and not queued.waiting.done.done():
                queued.waiting.done.set_exception(lost)
        self._queue.clear()
        self._roomy.set()
        raise lost from error
