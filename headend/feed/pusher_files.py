"""The destination that is a folder: writes each day once it is over, and keeps its cursor like every other destination."""

import asyncio
from datetime import datetime, timedelta

import structlog
from msgspec.structs import asdict

from headend.clock import Clock
from headend.errors import StoreUnavailable
from headend.feed.live import FeedSignal, Subscription
from headend.feed.pusher_book import CursorBook
from headend.feed.pusher_pace import Backoff
from headend.feed.pusher_progress import Progress
from headend.feed.pusher_status import SinkCounters, SinkStatus
from headend.feed.sinks.day_files import DayFolder
from headend.feed.sinks.formats import MissingExtra
from headend.feed.sinks.settings import PushSettings
from headend.store.cursors import Saved
from headend.store.restores import over
from headend.store.writer import Execute

__all__ = ["FilePusher"]

LOOK_S = 600.0  # how often it looks at the clock while a day is not over: a wall clock may be set


class FilePusher:
    """One folder. Of the settings it uses name, kind, url, from_beginning and protect_s.

    execute: for reading the store and writing files; for seconds at a time, so not the thread of the store's writer.
    """

    def __init__(
        self,
        settings: PushSettings,
        folder: DayFolder,
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
        self._folder = folder
        self._book = book
        self._signal = signal
        self._clock = clock
        self._execute = execute
        self._backoff = Backoff(seed)
        self._low = 0
        self._oldest_at: datetime | None = None
        self._state, self._problem = "starting", ""
        self._since = clock.now()
        self._next_try_at: datetime | None = None
        self._last_delivered_at: datetime | None = None
        self._bell: Subscription | None = None
        self._stop = asyncio.Event()
        self._log = structlog.get_logger(__name__).bind(sink=settings.name)

    async def run(self) -> None:
        """Until `stop`; a day that is being written then is brought to its end."""
        await self._begin()
        with self._signal.subscribe() as bell:
            self._bell = bell
            while not (self._stop.is_set() or self._signal.closed):
                try:
                    due = await self._write_next()
                except (OSError, MissingExtra, StoreUnavailable) as error:
                    self.counters.failures += 1
                    await self._wait(_why(error), self._backoff.failed(), "waiting")
                    continue
                self._backoff.worked()
                self._set_state("up")
                if due is None:  # nothing there at all
                    self._oldest_at = None
                    if not self._stop.is_set():
                        await bell.wait(self._low, LOOK_S)
                elif (pause_s := (due - self._clock.now()).total_seconds()) > 0:
                    await self._wait("", min(pause_s, LOOK_S), "up")

    def stop(self) -> None:
        self._stop.set()
        if self._bell is not None:
            self._bell.bell.set()

    async def _begin(self) -> None:
        cursors = self._book.cursors
        known = await self._execute(lambda: cursors.progress(self.name))
        if known is None:
            first = await self._execute(cursors.first_sequence)
            known = Progress(max(0, first - 1) if self.settings.from_beginning else self._signal.sequence)
            await self._book.save(self.name, Saved(progress=known))
        self._low = known.low
        try:
            await self._execute(self._folder.tidy)
        except OSError as error:
            self._log.warning("the folder cannot be tidied", problem=_why(error))

    async def _write_next(self) -> datetime | None:
        """Write the next day if it is over. When the next one will be; None when there is no event of it yet."""
        cursors, end = self._book.cursors, self._signal.sequence
        self._low = over(await self._execute(cursors.voids), self._low)
        first = self._low + 1
        if end < first:
            return None
        kept = await self._execute(cursors.first_sequence)
        if kept > first:
            self._log.error("events are gone before they were delivered", first=first, last=kept - 1)
            await self._book.save(self.name, Saved(progress=Progress(kept - 1)))
            self.counters.lost += kept - first
            self._low, first = kept - 1, kept
        self._oldest_at = await self._execute(lambda: cursors.time_of(first))
        if self._oldest_at is None:
            return None
        day = self._folder.day_of(self._oldest_at)
        due = self._folder.due_at(day)
        if self._clock.now() < due:
            return due
        manifest = await self._execute(lambda: self._folder.write_day(day, first, end))
        await self._book.save(self.name, Saved(progress=Progress(manifest.last)))
        self._low = manifest.last
        self.counters.live += manifest.count
        self.counters.batches += 1
        self._last_delivered_at = self._clock.now()
        self._log.info("day written", day=manifest.day, events=manifest.count, left_out=manifest.left_out_count)
        return self._clock.now()

    async def _wait(self, problem: str, pause_s: float, state: str) -> None:
        if problem and (self._state != "waiting" or self._problem != problem):
            self._log.warning("destination away", problem=problem, pause_s=round(pause_s, 1))
        self._set_state(state, problem, pause_s if problem else None)
        try:
            async with asyncio.timeout(pause_s):
                await self._stop.wait()
        except TimeoutError:
            return

    def _set_state(self, state: str, problem: str = "", pause_s: float | None = None) -> None:
        now = self._clock.now()
        if state != self._state:
            self._since = now
        self._state, self._problem = state, problem
        self._next_try_at = None if pause_s is None else now + timedelta(seconds=pause_s)

    async def release(self, sequence: int | None = None) -> int:
        """Nothing is ever parked here."""
        return 0

    async def drop(self, sequence: int | None = None) -> int:
        return 0

    def status(self) -> SinkStatus:
        lag = max(0, self._signal.sequence - self._low)
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
            delivered_up_to=self._low,
            delivered_ahead=[],
            live_after=self._low,
            lag_events=lag,
            lag_s=round(age_s, 3),
            backlog_events=0,
            parked=0,
            last_delivered_at=self._last_delivered_at,
            counters=asdict(self.counters),
        )


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"the folder cannot be written: {error.strerror or error}{where}"
    return str(error)
