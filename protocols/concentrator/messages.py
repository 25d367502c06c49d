"""What concentrators say (`Uplink`) and what they are told (`Command`), whatever their topics and payloads look like.

All times are aware UTC. An `Outgoing` cannot be retained: the broker would repeat a retained command to a concentrator
at each reconnection. What a concentrator itself keeps at the broker (its status, its list of meters) is a `Retained`.
"""

import enum
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from protocols.values import Obis, Unit

__all__ = [
    "Command",
    "CommandAnswer",
    "ListedMeter",
    "MeterData",
    "MeterEvent",
    "MeterList",
    "Op",
    "Outgoing",
    "Presence",
    "PushedValue",
    "Retained",
    "Status",
    "Uplink",
]


class Op(enum.Enum):
    """What a concentrator can be told to do. open, permit-close and close are different commands with different proofs."""

    OPEN = "open"
    PERMIT_CLOSE = "permit-close"
    CLOSE = "close"
    READ = "read"
    SET_CLOCK = "set_clock"
    FORWARD = "forward"


class Status:
    """The words of `CommandAnswer.status`. Only ACCEPTED is not final."""

    ACCEPTED = "accepted"  # it works on it; another answer follows
    DONE = "done"  # see ConcentratorContract.confirms: whether a relay was read back first
    FAILED = "failed"  # nothing was changed
    UNCONFIRMED = "unconfirmed"  # it left for the meter, and what came of it is not known
    ALL = (ACCEPTED, DONE, FAILED, UNCONFIRMED)


class PushedValue(Struct, frozen=True, kw_only=True):
    """One value as a concentrator pushed it, in our unit.

    name: as in the payload. obis: None when neither the contract's names nor the name itself tells the quantity.
    amount: None when the payload has no number for it; `problem` then says why.
    problem: error or bad quality marks of the payload, with commas; "" when there are none.
    """

    name: str
    obis: Obis | None
    amount: Decimal | None
    unit: Unit
    problem: str = ""


class MeterData(Struct, frozen=True, kw_only=True):
    """Values of one meter at one time.

    meter: "" in an answer that does not name it: then it is the one that the command was for.
    at: by the concentrator's or the meter's clock; None: the payload has no time.
    """

    concentrator: str
    meter: str
    at: datetime | None
    sequence: int | None = None
    values: tuple[PushedValue, ...]


class Presence(Struct, frozen=True, kw_only=True):
    """at: None in a last will, which the broker sends for a concentrator that has gone. meters: how many it says it has."""

    concentrator: str
    online: bool
    at: datetime | None = None
    software: str = ""
    meters: int | None = None


class ListedMeter(Struct, frozen=True, kw_only=True):
    """reachable: as the concentrator says; None when it does not."""

    address: str
    protocol: str = ""
    contract: str = ""
    reachable: bool | None = None


class MeterList(Struct, frozen=True):
    concentrator: str
    meters: tuple[ListedMeter, ...]


class MeterEvent(Struct, frozen=True, kw_only=True):
    """Something that happened at a meter. at: None: the payload has no time."""

    concentrator: str
    meter: str
    at: datetime | None
    name: str
    detail: Mapping[str, Any]


class Command(Struct, frozen=True, kw_only=True):
    """params: by op, as JSON: read {"quantities": ["1-0:1.8.0"]}, set_clock {"ts": ms since 1970},
    forward {"frame": hex, "timeout_ms": 3000, "baud": 2400}. meter: "" where the wire does not name it.
    """

    id: str
    meter: str
    op: Op
    params: dict[str, Any]
    expires_at: datetime


class CommandAnswer(Struct, frozen=True, kw_only=True):
    """What a concentrator says of a command.

    id: as on the wire, `ConcentratorContract.answer_id` of the command; "" where the family has none.
    code: a word or number, "" when there is nothing to add. detail: what else the answer carries, as JSON; None: nothing,
    or only `values`.
    op, meter: what it answers, where the wire tells (op: None, meter: "" where not). at: when it was answered, likewise.
    """

    concentrator: str
    id: str
    status: str
    code: str = ""
    detail: Any = None
    values: tuple[MeterData, ...] = ()
    op: Op | None = None
    meter: str = ""
    at: datetime | None = None

    @classmethod
    def to(
        cls,
        concentrator: str,
        command: Command,
        status: str,
        *,
        code: str = "",
        detail: Any = None,
        values: tuple[MeterData, ...] = (),
        at: datetime | None = None,
    ) -> "CommandAnswer":
        """What the concentrator that received `command` answers."""
        return cls(
            concentrator=concentrator,
            id=command.id,
            status=status,
            code=code,
            detail=detail,
            values=values,
            op=command.op,
            meter=command.meter,
            at=at,
        )

    @property
    def is_final(self) -> bool:
        return self.status != Status.ACCEPTED


class Outgoing(Struct, frozen=True, kw_only=True):
    """A message to publish. expiry_s: MQTT 5 message expiry, None for no limit."""

    topic: str
    payload: bytes
    qos: int
    expiry_s: int | None = None

    @property
    def retain(self) -> bool:
        return False


class Retained(Outgoing, frozen=True, kw_only=True):
    """What a concentrator leaves at the broker for whoever subscribes later. Never a command."""

    @property
    def retain(self) -> bool:
        return True


Uplink = MeterData | Presence | MeterList | MeterEvent | CommandAnswer
