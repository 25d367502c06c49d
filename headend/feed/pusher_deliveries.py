"""All destinations of a process: made from the configuration, asked and told together."""

import zlib
from collections.abc import Callable, Iterable, Sequence

import structlog

from headend.clock import Clock
from headend.errors import HeadendError
from headend.feed.live import FeedSignal
from headend.feed.pusher import Pusher
from headend.feed.pusher_book import CursorBook
from headend.feed.pusher_files import FilePusher
from headend.feed.pusher_status import SinkStatus
from headend.feed.sinks.day_files import DayFolder
from headend.feed.sinks.mqtt import MqttSink
from headend.feed.sinks.nats import NatsSink
from headend.feed.sinks.settings import FileSettings, MqttSettings, NatsSettings, SinkConfig, WebhookSettings
from headend.feed.sinks.sink import Sink
from headend.feed.sinks.webhook import WebhookSink
from headend.store.cursors import Cursors, Parked
from headend.store.writer import Execute

__all__ = ["Deliveries", "StillConfigured", "UnknownSink"]


class UnknownSink(HeadendError):
    """No destination of this name is configured, or ever was."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no destination is named {name!r}; GET /v1/sinks lists all of them")


class StillConfigured(HeadendError):
    """A destination that is configured cannot be forgotten."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"destination {name!r} is configured; take it out of the configuration and start anew before it is forgotten"
        )


class Deliveries:
    """name: of the head-end. secret: what is behind a reference.

    read: for reading the store. write: for cursors, in the thread of the store's writer. files: for writing a day's file, which may
    take seconds, so that nobody else waits for it.
    """

    def __init__(
        self,
        sinks: Iterable[SinkConfig],
        cursors: Cursors,
        *,
        name: str,
        signal: FeedSignal,
        clock: Clock,
        read: Execute,
        write: Execute,
        files: Execute,
        secret: Callable[[str], str],
    ) -> None:
        self._cursors = cursors
        self._clock = clock
        self._read = read
        self._files = files
        self._signal = signal
        self._name = name
        self._secret = secret
        self._book = CursorBook(cursors, write)
        self._since = clock.now()
        self._log = structlog.get_logger(__name__)
        self.pushers: dict[str, Pusher | FilePusher] = {one.name: self._pusher(one) for one in sinks}

    def _pusher(self, config: SinkConfig) -> Pusher | FilePusher:
        seed = zlib.crc32(f"{self._name}/{config.name}".encode())  # other pauses at every head-end and destination
        far, book, signal, clock, read = config.far_end, self._book, self._signal, self._clock, self._read
        if isinstance(far, FileSettings):
            folder = DayFolder(far, self._cursors)
            return FilePusher(
                config.push, folder, book=book, signal=signal, clock=clock, execute=self._files, seed=seed
            )
        return Pusher(config.push, self._sink(far), book=book, signal=signal, clock=clock, execute=read, seed=seed)

    def _sink(self, far: WebhookSettings | MqttSettings | NatsSettings) -> Sink:
        if isinstance(far, MqttSettings):
            return MqttSink(far, name=self._name, resolve=self._secret)
        if isinstance(far, NatsSettings):
            return NatsSink(far, name=self._name, resolve=self._secret)
        return WebhookSink(far, clock=self._clock, resolve=self._secret)

    def stop(self) -> None:
        for pusher in self.pushers.values():
            pusher.stop()

    # -------------------------------------------------------------------------------------------- for operators

    def statuses(self) -> list[SinkStatus]:
        """Of the configured ones; on the event loop, does not block."""
        return [pusher.status() for pusher in self.pushers.values()]

    async def left_over(self) -> list[SinkStatus]:
        """Destinations that are no longer configured; what they have not got is kept until they are forgotten. Raises
        StoreUnavailable."""
        known = await self._read(self._cursors.all_progress)
        end = self._signal.sequence
        found = []
        for name, progress in known.items():
            if name in self.pushers:
                continue
            lag = progress.open_up_to(end)
            oldest = await self._read(lambda low=progress.low: self._cursors.time_of(low + 1)) if lag else None  # type: ignore[misc]
            found.append(
                SinkStatus(
                    name=name,
                    kind="",
                    url="",
                    state="unconfigured",
                    problem="it is not configured; what it has not got is kept all the same. `headend sink forget` ends that",
                    since=self._since,
                    next_try_at=None,
                    delivered_up_to=progress.low,
                    delivered_ahead=list(progress.ranges),
                    live_after=progress.head,
                    lag_events=lag,
                    lag_s=0.0 if oldest is None else max(0.0, (self._clock.now() - oldest).total_seconds()),
                    backlog_events=lag,
                    parked=await self._read(lambda name=name: self._cursors.count_parked(name)),  # type: ignore[misc]
                    last_delivered_at=None,
                    counters={},
                )
            )
        return found

    async def parked(self, name: str, *, after: int, limit: int) -> Sequence[Parked]:
        """Raises UnknownSink, StoreUnavailable."""
        await self._make_sure_of(name)
        return await self._read(lambda: self._cursors.parked(name, after=after, limit=limit))

    async def release(self, name: str, sequence: int | None, *, by: str) -> int:
        """Offer parked events again. by: who asks, for the log. Raises UnknownSink, StoreUnavailable."""
        pusher = self.pushers.get(name)
        if pusher is None:
            raise UnknownSink(name)
        count = await pusher.release(sequence)
        self._log.info("parked events released", sink=name, sequence=sequence, count=count, by=by)
        return count

    async def drop(self, name: str, sequence: int | None, *, by: str) -> int:
        """Give parked events up for this destination. Raises UnknownSink, StoreUnavailable."""
        pusher = self.pushers.get(name)
        if pusher is None:
            raise UnknownSink(name)
        count = await pusher.drop(sequence)
        self._log.warning("parked events dropped", sink=name, sequence=sequence, count=count, by=by)
        return count

    async def forget(self, name: str, *, by: str) -> None:
        """Forget a destination that is no longer configured. Raises StillConfigured, UnknownSink, StoreUnavailable."""
        if name in self.pushers:
            raise StillConfigured(name)
        if not await self._book.forget(name):
            raise UnknownSink(name)
        self._log.warning("destination forgotten", sink=name, by=by)

    async def _make_sure_of(self, name: str) -> None:
        if name not in self.pushers and await self._read(lambda: self._cursors.progress(name)) is None:
            raise UnknownSink(name)
