"""One destination's deliveries: two lanes, a durable cursor, and patience.

The live lane follows the head of the feed. What gathered while the destination was away is left behind, but for the newest of it,
for the second lane, which drains it from its oldest end whenever the live lane has nothing to say, and now and then even if it
has. Only one batch is under way at a time, and the next one leaves only after the cursor of the one before is durable: a crash
repeats at most one batch, with the same ids, and skips nothing.

In each lane a meter's events keep their order. Between the lanes they do not: a live event may overtake the backlog. Consumers
that care compare `interval_end` and `revision`, not the order of arrival.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum

import structlog
from msgspec import Struct
from msgspec.structs import asdict

from headend.clock import Clock
from headend.errors import StoreUnavailable
from headend.feed.live import FeedSignal, Subscription
from headend.feed.pusher_book import CursorBook
from headend.feed.pusher_pace import Backoff, Pace
from headend.feed.pusher_progress import Progress
from headend.feed.pusher_status import SinkCounters, SinkStatus
from headend.feed.sinks.settings import PushSettings
from headend.feed.sinks.sink import Bad, Batch, BatchRefused, DestinationAway, Sink, time_of
from headend.store.cursors import Parked, Saved
from headend.store.writer import Execute

__all__ = ["Pusher"]

RANGES_MAX = 64  # stretches kept per destination; with so many, the live lane does not leave anything behind any more
LIVE_IN_A_ROW_MAX = (
    8  # then the backlog gets a turn, or it would stand still behind a destination that is only just fast enough
)
REFUSED_IN_A_ROW_MAX = 20  # nobody makes so many bad events in a row: it is the destination that is wrong
IDLE_S = 60.0  # how often a lane without news looks up


class Lane(Enum):
    LIVE = "live"
    BACK_FILL = "back-fill"
    RELEASED = "released"  # parked events that somebody lets go again


class _Work(Struct, frozen=True):
    lane: Lane
    batch: Batch


class Pusher:
    """Delivers the feed to one destination. `run` in a supervised task; it may be run again after it failed.

    execute: for reading the store. seed: of the jitter in its pauses.
    """

    def __init__(
        self,
        settings: PushSettings,
        sink: Sink,
        *,
        book: CursorBook,
        signal: FeedSignal,
        clock: Clock,
        execute: Execute,
        seed: int,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self.counters = SinkCounters()
        self._sink = sink
        self._book = book
        self._cursors = book.cursors
        self._signal = signal
        self._clock = clock
        self._execute = execute
        self._backoff = Backoff(seed)
        self._paces = {Lane.LIVE: Pace(settings.live_per_s), Lane.BACK_FILL: Pace(settings.back_fill_per_s)}
        self._progress = Progress()
        self._live = 0  # the live lane goes on behind this number
        self._live_in_a_row = 0
        self._refused_in_a_row = 0
        self._released: list[Parked] = []
        self._parked = 0
        self._oldest_at: datetime | None = None  # of what is not delivered, as far as it was looked at
        self._state = "starting"
        self._problem = ""
        self._since = clock.now()
        self._next_try_at: datetime | None = None
        self._last_delivered_at: datetime | None = None
        self._bell: Subscription | None = None
        self._stop = asyncio.Event()
        self._log = structlog.get_logger(__name__).bind(sink=settings.name)

    async def run(self) -> None:
        """Until `stop`; the batch under way then is brought to its end."""
        try:
            while not await self._has_begun():
                pass
            with self._signal.subscribe() as self._bell:
                while not self._is_over():
                    try:
                        await self._turn(self._bell)
                    except DestinationAway as away:
                        self.counters.failures += 1
                        await self._wait(str(away), away.retry_after_s)
                    except StoreUnavailable as error:
                        await self._wait(f"the store: {error}")
        finally:
            self._bell = None
            await self._sink.aclose()

    def stop(self) -> None:
        self._stop.set()
        self._ring()

    def _is_over(self) -> bool:
        return self._stop.is_set() or self._signal.closed

    # -------------------------------------------------------------------------------------------- what to do next

    async def _has_begun(self) -> bool:
        """Whether it has; otherwise it has waited for the store."""
        try:
            await self._begin()
        except StoreUnavailable as error:
            await self._wait(f"the store: {error}")
            return self._is_over()
        return True

    async def _begin(self) -> None:
        """Raises StoreUnavailable."""
        known = await self._execute(lambda: self._cursors.progress(self.name))
        if known is None:
            first = await self._execute(self._cursors.first_sequence)
            known = Progress(max(0, first - 1) if self.settings.from_beginning else self._signal.sequence)
            for void in await self._execute(self._cursors.voids):
                known = known.settled(void.first, void.last)
            await self._book.save(self.name, Saved(progress=known))
        self._progress, self._live = known, known.head
        self._parked = await self._execute(lambda: self._cursors.count_parked(self.name))
        await self._look_for_released()
        await self._choose_live()

    async def _turn(self, bell: Subscription) -> None:
        """Push one batch, or wait for something to push. Raises DestinationAway, StoreUnavailable."""
        if self._backoff.failures:
            await self._choose_live()
        work, pause_s = await self._next()
        if work is not None:
            await self._push(work)
            return
        if not self._backoff.failures:
            self._set_state("up")
        if not (self._released or self._is_over()):  # both may have come about while the store was read
            await bell.wait(self._signal.sequence if pause_s < IDLE_S else self._live, pause_s)

    async def _next(self) -> tuple[_Work | None, float]:
        """The next batch; or none, and how long to wait for one unless the feed grows before."""
        if self._released:
            parked = self._released[0]
            return _Work(Lane.RELEASED, Batch(parked.sequence, (parked.body,))), 0.0
        lanes: list[tuple[Lane, tuple[int, int] | None]] = [
            (Lane.LIVE, (self._live + 1, self._signal.sequence)),
            (Lane.BACK_FILL, self._progress.gap(self._live)),
        ]
        if self._live_in_a_row >= LIVE_IN_A_ROW_MAX:
            lanes.reverse()
        now, pause_s = self._clock.monotonic(), IDLE_S
        for lane, open_ in lanes:
            if open_ is None or open_[1] < open_[0]:
                continue
            wait_s = self._paces[lane].ready_in(now)
            if wait_s > 0:
                pause_s = min(pause_s, wait_s)
                continue
            batch = await self._read(lane, *open_)
            if batch is not None:
                return _Work(lane, batch), 0.0
        return None, pause_s

    async def _read(self, lane: Lane, first: int, last: int) -> Batch | None:
        """None when these events are not kept any more, which is written down then."""
        limit = int(min(last - first + 1, self.settings.batch_max, self._paces[lane].batch_max))
        stretch = await self._execute(lambda: self._cursors.events_from(first, limit, self.settings.bytes_max))
        if stretch.first == first:
            if first == self._progress.low + 1:
                self._oldest_at = time_of(stretch.events[0])
            return Batch(first, stretch.events)
        if not stretch.events:
            raise StoreUnavailable(f"the feed has no event {first}, and none after it")
        kept = min(stretch.first, last + 1)
        self._log.error("events are gone before they were delivered", first=first, last=kept - 1)
        await self._settle(lane, first, kept - 1)
        self.counters.lost += kept - first
        return None

    async def _choose_live(self) -> None:
        """After an absence: the live lane begins with no more and no older news than it may, and leaves the rest behind."""
        end = self._signal.sequence
        if end <= self._live or len(self._progress.ranges) >= RANGES_MAX:
            return
        since = self._clock.now() - timedelta(seconds=self.settings.live_age_s)
        young = await self._execute(lambda: self._cursors.first_since(since))
        begin = min(end, max(self._live, end - self.settings.live_within, young - 1))
        if begin > self._live:
            self._log.info("the live lane begins with the newest", left_behind=begin - self._live, sequence=begin)
            self._live = begin
            self._live_in_a_row = 0

    # -------------------------------------------------------------------------------------------- pushing

    async def _push(self, work: _Work) -> None:
        """Offer the batch, and parts of it when it is refused, until each event is acknowledged or parked. Raises DestinationAway.

        What comes before a part that could not be offered is settled all the same.
        """
        parts = [work.batch]
        settled = work.batch.first - 1  # everything in the batch up to this one is acknowledged or parked
        parked: list[Parked] = []
        try:
            while parts:
                part = parts.pop()
                try:
                    bad = await self._offer(part)
                except DestinationAway as away:
                    settled = part.first + away.taken - 1
                    parked += [self._parked_event(work.lane, part, one) for one in away.bad]
                    raise
                if bad is None:
                    parts += reversed(part.halves())
                    continue
                if work.lane is not Lane.RELEASED:
                    self._make_sure_it_is_the_event(len(parked), part, bad)
                parked += [self._parked_event(work.lane, part, one) for one in bad]
                settled = part.last
        finally:
            if settled >= work.batch.first:
                await self._acknowledged(work, settled, parked)

    async def _offer(self, part: Batch) -> Sequence[Bad] | None:
        """The events that it refused; None when it refused something in the part and did not say what. Raises DestinationAway."""
        self.counters.batches += 1
        try:
            bad = await self._sink.push(part)
        except BatchRefused as refused:
            if len(part.events) > 1:
                return None
            bad = (Bad(0, str(refused)),)
        if len(bad) < len(part.events):
            self._refused_in_a_row = 0
            self._backoff.worked()
        return bad

    def _make_sure_it_is_the_event(self, parked: int, part: Batch, bad: Sequence[Bad]) -> None:
        """A destination that refuses everything is not given everything to park. Raises DestinationAway."""
        if not bad:
            return
        if self._parked + parked + len(bad) > self.settings.park_max:
            raise DestinationAway(
                f"it refuses event {part.first + bad[0].index} ({bad[0].reason}), and {self._parked + parked} are parked already, as "
                f"many as may be: look at `headend sink parked {self.name}`, then release or drop them"
            )
        if self._refused_in_a_row + len(bad) > REFUSED_IN_A_ROW_MAX:
            raise DestinationAway(
                f"it refused {self._refused_in_a_row} events in a row ({bad[0].reason}), so the events are not to blame; is this the "
                f"right address, and does it take this kind of events?"
            )
        self._refused_in_a_row += len(bad)

    def _parked_event(self, lane: Lane, part: Batch, bad: Bad) -> Parked:
        before = self._released[0] if lane is Lane.RELEASED else None
        sequence = part.first + bad.index
        self._log.warning("event parked", sequence=sequence, reason=bad.reason)
        return Parked(
            sequence=sequence,
            reason=bad.reason[:1000],
            since=self._clock.now() if before is None else before.since,
            tries=1 if before is None else before.tries + 1,
            body=part.events[bad.index],
        )

    async def _acknowledged(self, work: _Work, last: int, parked: list[Parked]) -> None:
        """Up to `last` all of the batch is acknowledged or parked; durable at return."""
        count = last - work.batch.first + 1
        if work.lane is Lane.RELEASED:
            sequence = work.batch.first
            await self._save(Saved(progress=self._progress, park=tuple(parked), unpark=(sequence,)))
            self._released = [one for one in self._released if one.sequence != sequence]
            self._parked = await self._execute(lambda: self._cursors.count_parked(self.name))
        else:
            await self._settle(work.lane, work.batch.first, last, parked)
            self._paces[work.lane].took(count, self._clock.monotonic())
            self._parked += len(parked)
            self.counters.parked += len(parked)
            if work.lane is Lane.LIVE:
                self.counters.live += count - len(parked)
                self._live_in_a_row = self._live_in_a_row + 1 if self._backlog() else 0
            else:
                self.counters.back_filled += count - len(parked)
                self._live_in_a_row = 0
        if count > len(parked):
            self._last_delivered_at = self._clock.now()
        self._set_state("up")

    async def _settle(self, lane: Lane, first: int, last: int, parked: Sequence[Parked] = ()) -> None:
        progress = self._progress.settled(first, last)
        await self._save(Saved(progress=progress, park=tuple(parked)))
        self._progress = progress
        if lane is Lane.LIVE:
            self._live = max(self._live, last)
        if not progress.open_up_to(self._signal.sequence):
            self._oldest_at = None

    async def _save(self, change: Saved) -> None:
        """What is acknowledged is written down before anything else is pushed, however long the store takes."""
        while True:
            try:
                return await self._book.save(self.name, change)
            except StoreUnavailable as error:
                if self._stop.is_set():
                    raise
                await self._wait(f"the store does not keep the cursor: {error}")

    # -------------------------------------------------------------------------------------------- waiting

    async def _wait(self, problem: str, retry_after_s: float | None = None) -> None:
        pause_s = self._backoff.failed(retry_after_s)
        if self._state != "waiting" or self._problem != problem:
            self._log.warning("destination away", problem=problem, pause_s=round(pause_s, 1))
        self._set_state("waiting", problem, pause_s)
        try:
            async with asyncio.timeout(pause_s):
                await self._stop.wait()
        except TimeoutError:
            return

    def _set_state(self, state: str, problem: str = "", pause_s: float | None = None) -> None:
        now = self._clock.now()
        if state != self._state:
            self._since = now
            if state == "up":
                self._log.info("destination up", after=self._progress.low, backlog=self._backlog())
        self._state, self._problem = state, problem
        self._next_try_at = None if pause_s is None else now + timedelta(seconds=pause_s)

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.bell.set()

    # -------------------------------------------------------------------------------------------- for operators

    async def release(self, sequence: int | None = None) -> int:
        """Offer one parked event again, or all; how many there are. Raises StoreUnavailable."""
        count = await self._execute(lambda: self._cursors.release(self.name, sequence))
        self._refused_in_a_row = 0
        await self._look_for_released()
        return count

    async def drop(self, sequence: int | None = None) -> int:
        """Give one parked event up, or all; how many there were. Raises StoreUnavailable."""
        count = await self._execute(lambda: self._cursors.drop(self.name, sequence))
        self._parked = await self._execute(lambda: self._cursors.count_parked(self.name))
        self._refused_in_a_row = 0
        await self._look_for_released()
        return count

    async def _look_for_released(self) -> None:
        self._released = await self._execute(lambda: self._cursors.parked(self.name, released=True))
        self._ring()

    def status(self) -> SinkStatus:
        end = self._signal.sequence
        lag = self._progress.open_up_to(end)
        age_s = 0.0
        if lag and self._oldest_at is not None:
            age_s = max(0.0, (self._clock.now() - self._oldest_at).total_seconds())
        return SinkStatus(
            name=self.name,
            kind=self.settings.kind,
            url=self.settings.url,
            state=self._state,
            problem=self._problem,
            since=self._since,
            next_try_at=self._next_try_at,
            delivered_up_to=self._progress.low,
            delivered_ahead=list(self._progress.ranges),
            live_after=self._live,
            lag_events=lag,
            lag_s=round(age_s, 3),
            backlog_events=self._backlog(),
            parked=self._parked,
            last_delivered_at=self._last_delivered_at,
            counters=asdict(self.counters),
        )

    def _backlog(self) -> int:
        return self._progress.open_up_to(self._live)
