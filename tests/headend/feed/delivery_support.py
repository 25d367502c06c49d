"""What tests of deliveries share: a far end that does what it is told, and a pusher over a real store in virtual time."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from headend.clock import Clock
from headend.feed.live import FeedSignal
from headend.feed.pusher import Pusher
from headend.feed.pusher_book import CursorBook
from headend.feed.sinks.settings import PushSettings
from headend.feed.sinks.sink import Bad, Batch, BatchRefused, BatchTooLarge, DestinationAway
from headend.model import Quality, Read
from headend.store import Store
from headend.store.cursors import Cursors
from headend.store.writer import inline
from protocols.values import Unit


class FarEnd:
    """A destination in memory. is_away, poison, events_max, answer_s, breaks_after may be changed at any time.

    batches: sequences of every batch that it acknowledged. poison: sequences it refuses, by refusing the whole batch, or by
    naming them when `names_the_bad`.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.batches: list[list[int]] = []
        self.bodies: dict[int, bytes] = {}
        self.offers = 0
        self.offered_at: list[float] = []
        self.is_away = False
        self.retry_after_s: float | None = None
        self.poison: set[int] = set()
        self.names_the_bad = False
        self.events_max = 10**9
        self.breaks_after: int | None = None
        self.answer_s = 0.0
        self._clock = clock

    @property
    def received(self) -> list[int]:
        return [sequence for batch in self.batches for sequence in batch]

    async def push(self, batch: Batch) -> Sequence[Bad]:
        self.offers += 1
        if self._clock is not None:
            self.offered_at.append(self._clock.monotonic())
        if self.answer_s:
            await asyncio.sleep(self.answer_s)
        if self.is_away:
            raise DestinationAway("nobody is there", self.retry_after_s)
        if len(batch.events) > self.events_max:
            raise BatchTooLarge("too much at once")
        sequences = [int(json.loads(event)["sequence"]) for event in batch.events]
        assert sequences == list(range(batch.first, batch.last + 1))
        bad = [index for index, sequence in enumerate(sequences) if sequence in self.poison]
        if bad and not self.names_the_bad and self.breaks_after is None:
            raise BatchRefused("it does not like something")
        if self.breaks_after is not None and len(sequences) > self.breaks_after:
            kept = sequences[: self.breaks_after]
            self.batches.append([sequence for sequence in kept if sequence not in self.poison])
            named = [Bad(index, "bad") for index, sequence in enumerate(kept) if sequence in self.poison]
            raise DestinationAway("it broke off", taken=len(kept), bad=named)
        taken = [sequence for index, sequence in enumerate(sequences) if index not in bad]
        self.batches.append(taken)
        for sequence, event in zip(sequences, batch.events, strict=True):
            if sequence in taken:
                assert self.bodies.setdefault(sequence, event) == event
        return [Bad(index, "it does not like this one") for index in bad]

    async def aclose(self) -> None:
        return None


def settings(**changes: object) -> PushSettings:
    return PushSettings(**({"name": "billing", "kind": "test", "url": "test:"} | changes))  # type: ignore[arg-type]


class Site:
    """A store, its bell, and pushers to be made over them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.signal = FeedSignal()
        self.cursors = Cursors(store.engine)
        self.book = CursorBook(self.cursors, inline)
        self._reads = 0
        self.signal.advance(store.last_sequence())

    def store_reads(self, count: int, *, meters: int = 10) -> None:
        """More reads of the fleet, one commit."""
        self.store_items([self._next_read(meters) for _ in range(count)])

    def store_items(self, items: Iterable[Read]) -> None:
        self.store.commit(list(items))
        self.signal.advance(self.store.last_sequence())

    def _next_read(self, meters: int) -> Read:
        slot, meter = divmod(self._reads, meters)
        self._reads += 1
        end = datetime(2025, 6, 1, tzinfo=self.clock.now().tzinfo) + timedelta(minutes=15 * slot)
        return Read(
            meter=f"M{meter:06d}",
            obis="1-0:1.8.0",
            amount=Decimal(self._reads).scaleb(-2),
            unit=Unit.KWH,
            interval_end=end,
            read_at=None,
            received_at=self.clock.now(),
            quality=(Quality.MEASURED,),
            source="dlt645/base_2007:00010000",
        )

    def pusher(self, sink: FarEnd, **changes: object) -> Pusher:
        return Pusher(
            settings(**changes),
            sink,
            book=self.book,
            signal=self.signal,
            clock=self.clock,
            execute=inline,
            seed=1,
        )


async def until(condition: Callable[[], bool], *, within_s: float = 3600.0) -> None:
    """In virtual time: looks again and again; fails when the time is up."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (virtual time: looking costs nothing)
            await asyncio.sleep(0.05)
