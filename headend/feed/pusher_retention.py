"""Keeps the feed from growing for ever, and says in time when the disk will not last.

Events and reads older than the retention go, but nothing that a destination has not got: each is protected by its cursor, without
limit or for as long as its `protect` says. A destination that was taken out of the configuration is protected all the same until
somebody forgets it: a slip of the pen in a file must not cost a bill its reads.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.errors import StoreUnavailable
from headend.feed.pusher_capacity import Growth, hours_left, level_of
from headend.feed.pusher_progress import Progress
from headend.feed.pusher_status import CapacityStatus
from headend.model import Event
from headend.store.cursors import Cursors
from headend.store.cursors_retention import Retention
from headend.store.writer import Execute

__all__ = ["STATUS_TYPE", "RetentionKeeper", "RetentionPolicy", "keep_from"]

STATUS_TYPE = "headend.service-status.v1"
LOOK_S = 600.0
PRUNE_EVERY = 6  # looks: once an hour
DAY = timedelta(days=1)


class RetentionPolicy(Struct, frozen=True, kw_only=True):
    """keep_s: how long events and reads are kept at least; None for ever. protect_s: by destination, None without limit."""

    keep_s: float | None = None
    protect_s: Mapping[str, float | None] = {}


def keep_from(cutoff: int, progress: Mapping[str, Progress], protected_from: Mapping[str, int]) -> int:
    """The first sequence that stays. cutoff: by the retention alone. protected_from: where a limit of protection ends, by
    destination; without one, all that a destination has not got is protected."""
    needed = [max(one.low + 1, protected_from.get(name, 0)) for name, one in progress.items()]
    return min([cutoff, *needed])


class RetentionKeeper:
    """Run `run()` in a task. tell: puts an event into the feed; None keeps alarms to logs, metrics and `problems`.

    execute: for reading. write: for deleting, in the thread of the store's writer, so that the two do not wait for each other's lock.
    needed: the first event that somebody here has yet to look at, such as the ledger; it stays, whatever its age.
    """

    def __init__(
        self,
        policy: RetentionPolicy,
        *,
        name: str,
        cursors: Cursors,
        retention: Retention,
        clock: Clock,
        execute: Execute,
        write: Execute,
        tell: Callable[[Event], None] | None = None,
        needed: Callable[[], int] | None = None,
    ) -> None:
        self.capacity: CapacityStatus | None = None
        self._policy = policy
        self._name = name
        self._cursors = cursors
        self._retention = retention
        self._clock = clock
        self._execute = execute
        self._write = write
        self._tell = tell
        self._needed = needed
        self._level = "ok"
        self._protection: dict[str, tuple[str, float]] = {}  # level and hours left, by destination
        self._log = structlog.get_logger(__name__)

    async def run(self) -> None:
        look = 0
        while True:
            try:
                await self.look()
                if look % PRUNE_EVERY == 0:
                    await self.prune()
            except StoreUnavailable as error:
                self._log.warning("the store cannot be looked after at the moment", problem=str(error))
            look += 1
            await asyncio.sleep(LOOK_S)

    def problems(self) -> tuple[str, ...]:
        """What will cost events if nobody does anything, one sentence each."""
        found = []
        capacity = self.capacity
        if capacity is not None and capacity.level != "ok":
            found.append(
                f"The disk lasts {capacity.hours_left or 0:.0f} h more at the present rate: make room, or shorten feed_retention."
            )
        for name, (level, hours) in self._protection.items():
            if level != "ok":
                found.append(
                    f"Destination {name} has not got what will be deleted in {hours:.0f} h, because its `protect` ends: bring it back, "
                    f"or raise `protect`."
                )
        return tuple(found)

    # -------------------------------------------------------------------------------------------- looking

    async def look(self) -> None:
        """Measure, and raise or end alarms. Raises StoreUnavailable."""
        await self._look_at_disk()
        await self._look_at_protection()

    async def _look_at_disk(self) -> None:
        now = self._clock.now()
        usage = await self._execute(self._retention.usage)
        if usage.events:
            day_ago = await self._execute(lambda: self._cursors.first_since(now - DAY))
            begin = await self._execute(lambda: self._cursors.time_of(day_ago))
            window_h = 0.0 if begin is None else min(24.0, (now - begin).total_seconds() / 3600)
            growth = Growth(
                bytes_per_event=usage.used_bytes / usage.events, events=usage.last - day_ago + 1, window_h=window_h
            )
        else:
            growth = Growth(bytes_per_event=0.0, events=0, window_h=0.0)
        hours = hours_left(usage.free_bytes, growth)
        level = level_of(hours, self._level)
        self.capacity = CapacityStatus(
            hours_left=None if hours is None else round(hours, 1),
            level=level,
            used_bytes=usage.used_bytes,
            free_bytes=usage.free_bytes,
            bytes_per_event=round(growth.bytes_per_event, 1),
            events_per_hour=round(growth.events_per_h, 1),
            measured_at=now,
        )
        if level != self._level:
            self._alarm("capacity", self._level, level, self.capacity.hours_left, self._name)
            self._level = level

    async def _look_at_protection(self) -> None:
        """How long until something goes that a destination has not got."""
        keep_s = self._policy.keep_s
        now = self._clock.now()
        progress = await self._execute(self._cursors.all_progress)
        for name in self._protection.keys() - progress.keys():
            del self._protection[name]
        for name, one in progress.items():
            protect_s = self._policy.protect_s.get(name)
            if keep_s is None or protect_s is None:
                self._protection.pop(name, None)
                continue
            oldest = await self._execute(lambda low=one.low: self._cursors.time_of(low + 1))  # type: ignore[misc]
            before = self._protection.get(name, ("ok", 0.0))[0]
            hours = None
            if oldest is not None:
                hours = max(0.0, (max(protect_s, keep_s) - (now - oldest).total_seconds()) / 3600)
            level = level_of(hours, before)
            self._protection[name] = (level, hours or 0.0)
            if level != before:
                self._alarm("protection", before, level, None if hours is None else round(hours, 1), name)

    def _alarm(self, kind: str, before: str, level: str, hours: float | None, subject: str) -> None:
        log = self._log.info if level == "ok" else self._log.error
        log("capacity alarm", kind=kind, subject=subject, level=level, before=before, hours_left=hours)
        if self._tell is not None:
            data: dict[str, object] = {"kind": kind, "state": level, "hours_left": hours, "destination": ""}
            if kind == "protection":
                data["destination"] = subject
            self._tell(Event(type=STATUS_TYPE, subject=self._name, data=data, time=self._clock.now()))

    # -------------------------------------------------------------------------------------------- pruning

    async def prune(self) -> int:
        """Delete what is old and delivered; gives the first sequence that stays. Raises StoreUnavailable."""
        keep_s = self._policy.keep_s
        if keep_s is None:
            return 0
        until = self._clock.now() - timedelta(seconds=keep_s)
        cutoff = await self._execute(lambda: self._cursors.first_since(until))
        progress = await self._execute(self._cursors.all_progress)
        protected_from = {}
        for name, protect_s in self._policy.protect_s.items():
            if protect_s is not None:
                limit = self._clock.now() - timedelta(seconds=protect_s)
                protected_from[name] = await self._execute(
                    lambda limit=limit: self._cursors.first_since(limit)  # type: ignore[misc]
                )
        first = keep_from(cutoff, progress, protected_from)
        if self._needed is not None:
            first = min(first, await self._execute(self._needed))
        batches = 0
        while pruned := await self._write(lambda: self._retention.prune_feed(first)):
            batches += pruned
        if batches:
            self._log.info("feed pruned", before=first, batches=batches)
            await self._prune_reads(first, until)
        return first

    async def _prune_reads(self, first: int, until: datetime) -> None:
        channels = await self._execute(self._retention.channels)
        channel = 1
        while channel <= channels:
            at = channel
            channel = await self._write(lambda at=at: self._retention.prune_reads(at, first, until))  # type: ignore[misc]
