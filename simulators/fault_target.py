"""What faults must know of a protocol and of its meters, so that one injector serves all of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, Self, TypeVar

from simulators.faults import FaultPlan, Strike
from simulators.meter import MeterModel

__all__ = ["FaultyMeter", "ReplyAdapter"]

F = TypeVar("F")


class FaultyMeter(Protocol[F]):
    """A meter whose frames are of the kind F. pretends: the next relay order is acknowledged and not done."""

    pretends: bool
    reply_delay_s: float

    @property
    def model(self) -> MeterModel: ...
    @property
    def address(self) -> str: ...
    def receive(self, frame: F, now: datetime) -> F | None: ...
    def to_wire(self, reply: F) -> bytes: ...
    def replacement(self, seed: int, now: datetime) -> Self: ...


class ReplyAdapter(Protocol[F]):
    """What a reply is in one protocol, and how it is made wrong."""

    def check(self, plan: FaultPlan) -> None:
        """Raises BadFaults for what cannot happen in this protocol."""

    def is_relay_order(self, request: F) -> bool: ...
    def is_accepted(self, reply: F) -> bool: ...

    def with_address(self, reply: F, address: str, others: Sequence[str], strike: Strike) -> F:
        """From another meter: `address`; when that is empty one of `others`, or one that differs a little."""

    def with_other_item(self, reply: F, strike: Strike) -> F | None:
        """Naming another item than was asked for; None where this reply names none."""

    def bad_checksum(self, wire: bytes, strike: Strike) -> bytes: ...

    def lead(self, wire: bytes) -> int:
        """How many bytes at the head nobody would miss."""
