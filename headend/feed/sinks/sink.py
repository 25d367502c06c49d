"""What a destination is to the pusher: it takes a batch, or says in one of three ways why not.

SinkError
├── DestinationAway   it cannot take anything now: wait, and offer the same again. Nothing is skipped
├── BatchRefused      it will never take this batch as it is: one of the events is to blame, and it does not say which
└── BatchTooLarge     less at once may be taken; a single event that is too large never will
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec
from msgspec import Struct

from headend.errors import HeadendError

__all__ = [
    "Bad",
    "Batch",
    "BatchRefused",
    "BatchTooLarge",
    "DestinationAway",
    "EventHead",
    "Sink",
    "SinkError",
    "head_of",
    "time_of",
]


class SinkError(HeadendError):
    """A destination did not take what it was offered. The message says why, and holds no secret."""


class DestinationAway(SinkError):
    """It takes nothing at the moment.

    retry_after_s: how long it asks us to wait; None when it does not say. taken: how many events at the beginning of the batch are
    settled all the same, acknowledged or, as `bad` names them, refused for good.
    """

    retryable = True

    def __init__(
        self, problem: str, retry_after_s: float | None = None, *, taken: int = 0, bad: "Sequence[Bad]" = ()
    ) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s
        self.taken = taken
        self.bad = bad


class BatchRefused(SinkError):
    """Offering the same again will not help."""


class BatchTooLarge(BatchRefused):
    """Offering less at once may help."""


class Batch(Struct, frozen=True):
    """Events as they are stored, one JSON object each, consecutive from number `first` on; never empty."""

    first: int
    events: Sequence[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.events) - 1

    def halves(self) -> tuple["Batch", "Batch"]:
        middle = len(self.events) // 2
        return Batch(self.first, self.events[:middle]), Batch(self.first + middle, self.events[middle:])


class Bad(Struct, frozen=True):
    """An event that the destination will never take. index: its place in the batch."""

    index: int
    reason: str


class Sink(Protocol):
    """One destination's far end. One call at a time."""

    async def push(self, batch: Batch, /) -> Sequence[Bad]:
        """Returns when the destination has acknowledged every event but those given back. Raises SinkError."""
        ...

    async def aclose(self) -> None: ...


class EventHead(Struct, gc=False):
    """What routes need of an event; the rest of it is not even looked at."""

    id: str
    type: str
    subject: str
    time: str
    sequence: str


head_of = msgspec.json.Decoder(EventHead).decode


class _Time(Struct, gc=False):
    time: datetime


_decode_time = msgspec.json.Decoder(_Time).decode


def time_of(event: bytes) -> datetime:
    """Of an encoded event."""
    return _decode_time(event).time
