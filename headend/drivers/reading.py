"""What lines of every protocol have in common for those who want reads: questions, and what came of them.

A question is what one exchange asks of a meter: a DL/T 645 item, or a block of Modbus registers that holds several quantities. Who
plans and files reads knows registers by name, and leaves to the protocol's driver how they are asked for.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from msgspec import Struct

from headend.drivers.line import Priority
from protocols.values import Obis, Unit

__all__ = ["Question", "Reader", "Reading", "Register", "Value"]


class Register(Struct, frozen=True, cache_hash=True):
    """One quantity of a meter. name: its one spelling, "1-0:1.8.0", "di:0280000A" or "reg:4:0x0048:float32".

    source: the contract row that gives layout and scale, "dlt645/base_2007:00010000". is_primary: where the meter stands behind
    transformers, it has multiplied by their ratio itself.
    """

    name: str
    unit: Unit
    source: str
    is_primary: bool = False


class Question(Protocol):
    """registers: what the answer holds, in its order. wire_bytes: of request and reply, without wake-up bytes of the request.

    Hashable and shared by all meters of one contract and plan.
    """

    @property
    def registers(self) -> tuple[Register, ...]: ...
    @property
    def wire_bytes(self) -> int: ...


class Value(Protocol):
    """One value as a meter gave it. content: None when the meter marks it as not measured; at: the meter's wall time."""

    @property
    def name(self) -> str: ...
    @property
    def obis(self) -> Obis | None: ...
    @property
    def content(self) -> Decimal | str | None: ...
    @property
    def unit(self) -> Unit: ...
    @property
    def at(self) -> datetime | None: ...


class Reading(Struct, frozen=True, kw_only=True):
    """What one meter answered to one question.

    address: the meter's own, also when a wildcard was asked. values: of a plan's question, in the order of its registers.
    refused: place of a value that the meter did not give, and why, where it gave others. wire_sent, wire_received: every frame of
    the last attempt, in order; more than one when the reply came in parts.
    """

    address: str
    values: Sequence[Value]
    wire_sent: tuple[bytes, ...]
    wire_received: tuple[bytes, ...]
    elapsed_s: float
    refused: Mapping[int, str] = {}


class Reader(Protocol):
    """A driver as the poller and on-demand reads see it."""

    async def ask(self, address: str, question: Any, priority: Priority, *, began_at: float | None = None) -> Reading:
        """question: one that was made for this driver's protocol.

        began_at: when the read that this call repeats began, monotonic seconds: an answer to any asking since then will do. A
        new read waits until no late answer to an older one can come.

        Raises NoAnswer, BadReply, RefusedByMeter, LineDown, LineQueueFull.
        """
        ...
