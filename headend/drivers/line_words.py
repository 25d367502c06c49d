"""What a line counts, who goes first on it, and what it needs of a protocol's session."""

import enum
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from protocols.exchange import Event, NoReply, Request, Timing

__all__ = ["LineCounters", "LineSession", "Priority"]


class Priority(enum.IntEnum):
    """Who goes first on a line; equal ones go in the order in which they came.

    READ_BACK: of a reconnection, before the next one: otherwise all of a line would be proven when the last of them was sent.
    """

    READ_BACK = -1
    RECONNECT = 0
    DISCONNECT = 1
    ON_DEMAND = 2
    LIVE = 3
    BACK_FILL = 4


class LineCounters(Struct):
    """Since start. Every request ends in exactly one of replied, silent, corrupt, unmatched_only, lost."""

    requests: int = 0
    replied: int = 0
    silent: int = 0
    corrupt: int = 0
    unmatched_only: int = 0
    lost: int = 0
    unmatched_frames: int = 0
    late_frames: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    connects: int = 0
    failed_connects: int = 0
    parity_errors: int = 0


class LineSession(Protocol):
    """What a line needs of a protocol's session, see `protocols.exchange`. is `idle`: one more request may be sent."""

    @property
    def idle(self) -> bool: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def noise_bytes(self) -> int: ...
    @property
    def echoes(self) -> int: ...
    @property
    def broken(self) -> str: ...
    def request(self, request: Request, now: float, *, reply_timeout_s: float | None = None) -> None: ...
    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> None: ...
    def tick(self, now: float) -> None: ...
    def interrupted_all(self, now: float) -> list[NoReply]: ...
    def owed_s(self, request: Request, now: float) -> float: ...
    def retime(self, timing: Timing) -> None: ...
    def reset(self) -> None: ...
    def take_output(self) -> list[bytes]: ...
    def take_events(self) -> list[Event]: ...
