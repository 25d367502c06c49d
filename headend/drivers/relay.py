"""One capability over all protocols: bring a supply switch into another state, and look what became of it.

A switch sends, and decides nothing: whether a supply may be switched is the business of `headend.commands`, which alone calls
`order`. Under one hold of the line an order goes through these steps, and leaves nothing behind when one of them raises:

1. who answers: numbers are read back and compared with the record. Another meter: MeterSwapped.
2. what is: status, event counter, load, the energy register.
3. `on_sending`: the caller makes "sending" durable, with all that is known so far.
4. `look`: the last look, called in the same step of the event loop that hands the frame to the transport.
5. the frame, once, and its reply. What was not answered raises SwitchUnconfirmed: it is looked back at, never sent again.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

import msgspec
import structlog
from msgspec import Struct

from headend.commands.model import CLOSES, CapturedRegister, Kind
from headend.drivers.errors import (
    BadReply,
    DriverError,
    MeterSwapped,
    NoFinalReading,
    RefusedByMeter,
    SendingTooOld,
    Unconfirmed,
)
from headend.drivers.line import Priority
from headend.model import MeterRecord

__all__ = [
    "CURRENTS",
    "ENERGY",
    "SENDING_AGE_S_MAX",
    "VOLTAGES",
    "BadSwitchAddress",
    "Contact",
    "Expected",
    "Identity",
    "Look",
    "OnSending",
    "OperatorCodes",
    "Ready",
    "Sent",
    "Switch",
    "SwitchAddress",
    "SwitchUnconfirmed",
    "Told",
    "UnknownOperator",
    "Witness",
    "check_age",
    "check_identity",
    "lane_of",
    "nobody_expected",
    "register_before",
]

SENDING_AGE_S_MAX = 1.0  # between the durable "sending" and the first byte
UNITS_MAX = 247  # Modbus over Serial Line V1.02, 2.2; 0 is broadcast
_METER = re.compile(r"[0-9]{12}")
_BROADCAST = "9" * 12
_OTHERS = re.compile(
    r"[aA]{2}[0-9aA]{10}|9{12}"
)  # DL/T 645's wildcards and broadcast, should a concentrator pass them on
NAME_MAX = 64
ENERGY = "1-0:1.8.0"  # what a switch captures with every order
# Per phase, else the only or total one. In 62056-6-1 C = 31, 51, 71 are the phases' currents and 32, 52, 72 their voltages.
CURRENTS = ("1-0:31.7.0", "1-0:51.7.0", "1-0:71.7.0", "1-0:11.7.0")
VOLTAGES = ("1-0:32.7.0", "1-0:52.7.0", "1-0:72.7.0", "1-0:12.7.0")

Contact = Literal["open", "closed", "permitted", "unknown"]

log = structlog.get_logger(__name__)


class BadSwitchAddress(DriverError):
    kind = "unsupported"

    def __init__(self, address: str, expected: str) -> None:
        super().__init__(
            f"a switching order cannot be sent to {address!r}: expected {expected}; wildcards and broadcasts reach others"
        )


class SwitchAddress(Struct, frozen=True):
    """Where one supply switch is, and only one: no wildcard and no broadcast can be written as it. Raises BadSwitchAddress.

    text: 12 decimal digits, or of Modbus a unit, 1 to 247, or what a concentrator calls its meter.
    """

    text: str
    is_unit: bool = False
    is_name: bool = False

    def __post_init__(self) -> None:
        if self.is_name:
            is_plain = self.text.isprintable() and not any(sign in self.text for sign in "/+#*? ")
            if not 0 < len(self.text) <= NAME_MAX or not is_plain or _OTHERS.fullmatch(self.text):
                raise BadSwitchAddress(self.text, "one meter's name")
        elif self.is_unit:
            if not self.text.isascii() or not self.text.isdecimal() or self.text != str(int(self.text)):
                raise BadSwitchAddress(self.text, f"a unit, 1 to {UNITS_MAX}")
            if not 1 <= int(self.text) <= UNITS_MAX:
                raise BadSwitchAddress(self.text, f"a unit, 1 to {UNITS_MAX}")
        elif _METER.fullmatch(self.text) is None or self.text == _BROADCAST:
            raise BadSwitchAddress(self.text, "one meter's 12 decimal digits")


class Told(Struct, frozen=True, kw_only=True):
    """What a meter says of itself; "" where it did not say. number: 表号; asset: asset management code."""

    address: str = ""
    number: str = ""
    asset: str = ""


class Expected(Struct, frozen=True, kw_only=True):
    """What the records say that this meter must answer; "" where they do not. Compared letter by letter, blanks aside.

    is_address_shared: another meter of the installation has the same address, on another line. Lines can be mixed up, and then a
    number that is no more than the address proves nothing.
    """

    number: str = ""
    asset: str = ""
    is_address_shared: bool = False


def nobody_expected(meter: MeterRecord) -> Expected:
    """For an installation whose records hold no numbers beyond asset number and address."""
    return Expected()


class Identity(Struct, frozen=True, kw_only=True):
    """Who answered. missing: what could not be had, and why. A meter that was not the one meant raises MeterSwapped instead.

    is_proven: a number other than the address was read and fits.
    """

    told: Told
    is_proven: bool
    missing: Mapping[str, str] = {}

    @property
    def evidence(self) -> dict[str, str]:
        found = {f"identity_{name}": text for name, text in msgspec.structs.asdict(self.told).items() if text}
        found |= {f"identity_{name}": f"not known: {why}" for name, why in self.missing.items()}
        return found | {"identity": "read back" if self.is_proven else "by address only"}


class Witness(Struct, frozen=True, kw_only=True):
    """What a meter shows at one moment.

    contact: permitted is an open contact that the customer may close. trips, closes: event counters; None where not offered or
    not read. current_a: the greatest of the phases, without sign; voltage_v: the greatest, on the supply's side of the contact.
    protected, alarm (a trip is announced), faulty (the meter itself says that its relay does not follow): None where not told.
    status: as it came, hex. problems: what could not be read, and why. at: our wall clock.
    """

    contact: Contact
    at: datetime
    trips: int | None = None
    closes: int | None = None
    current_a: Decimal | None = None
    voltage_v: Decimal | None = None
    protected: bool | None = None
    alarm: bool | None = None
    faulty: bool | None = None
    status: str = ""
    problems: Mapping[str, str] = {}

    @property
    def events(self) -> int | None:
        """Trips and closes together; None when neither was read."""
        counts = [count for count in (self.trips, self.closes) if count is not None]
        return sum(counts) if counts else None


class Ready(Struct, frozen=True, kw_only=True):
    """All that is known when an order is about to leave. wire: the frame (or message), secrets masked."""

    wire: str
    identity: Identity
    before: Witness | None = None
    register: CapturedRegister | None = None


class Sent(Struct, frozen=True, kw_only=True):
    """An order whose bytes have left.

    acknowledged: the meter's normal reply, which proves no more than that it understood. refused: its words; "" when it did not.
    said: what the reply claims, in words; "" where it claims nothing.
    silence: why there is no reply: silent | corrupt | unmatched | line-down; "" where there is one.
    at: wall clock, when the frame was handed over. look_to_wire_s, sending_to_wire_s: from the last look, and from the durable
    "sending", to that moment; the first includes the look itself.
    """

    acknowledged: bool
    at: datetime
    refused: str = ""
    said: str = ""
    silence: str = ""
    wire_sent: str = ""
    wire_received: str = ""
    look_to_wire_s: float = 0.0
    sending_to_wire_s: float = 0.0
    elapsed_s: float = 0.0
    identity: Identity | None = None
    before: Witness | None = None
    register: CapturedRegister | None = None


class SwitchUnconfirmed(Unconfirmed):
    """Bytes have left, and no reply says what they did. sent: the same as evidence. Look back; never send again by yourself."""

    def __init__(self, address: str, order: str, advice: str, sent: Sent) -> None:
        super().__init__(address, order, advice)
        self.sent = sent


class Look(Protocol):
    """The last look: while the line is held, in the same step in which the first byte leaves."""

    def __call__(self) -> None:
        """Raises StopOrder: then nothing leaves."""


OnSending = Callable[[Ready], Awaitable[None]]  # returns when "sending" is durable; what it raises stops the order


class Switch(Protocol):
    """A driver of supply switches. Every method raises DriverError; only SwitchUnconfirmed means that an order has left."""

    async def prepare(self, meter: MeterRecord) -> Identity:
        """Read back who answers. `order` does it again by itself, under the same hold. Raises MeterSwapped."""
        ...

    async def order(
        self,
        meter: MeterRecord,
        kind: Kind,
        *,
        expires_at: datetime,
        operator: bytes | str,
        look: Look,
        command_id: str,
        on_sending: OnSending,
        hurry: asyncio.Event | None = None,
    ) -> Sent:
        """The five steps of this module, once. A refusal is a Sent with the meter's words.

        operator: four bytes as sent, or the name of a person. hurry: set when something more urgent waits for the end of this order;
        whoever might wait longer for its answer than a line waits for a reply gives up waiting then, and raises SwitchUnconfirmed.
        Raises MeterSwapped, NotOffered, NoFinalReading, StopOrder, SwitchUnconfirmed.
        """
        ...

    async def look_back(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        """What the meter shows now. kind: what is being looked into; it chooses the lane and the event counter."""
        ...

    async def register(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> CapturedRegister | None:
        """The energy register now; None where the contract has none, or the meter marks it as not measured."""
        ...


_LANES = {Kind.OPEN: Priority.DISCONNECT, Kind.STATUS: Priority.ON_DEMAND}


def lane_of(kind: Kind) -> Priority:
    """Whatever brings or keeps a supply on goes first; an open goes before reads, and behind every close."""
    return _LANES.get(kind, Priority.RECONNECT)


# -------------------------------------------------------------------------------------------- who answers


def check_identity(meter: MeterRecord, told: Told, expected: Expected, missing: Mapping[str, str]) -> Identity:
    """Whether who answered is who was meant. Raises MeterSwapped.

    Where the records expect nothing, a meter number must be the record's asset number or its address of 12 digits, and an asset code
    must be the asset number or hold the address, as grid companies' bar codes do. Blank, or all zeros: never set, and no evidence.
    """
    proofs = []
    missing = dict(missing)
    if _is_set(told.address) and told.address.strip() != meter.address:
        raise MeterSwapped(meter.id, "communication address", meter.address, told.address)
    known = (meter.id, meter.address) if _METER.fullmatch(meter.address) else (meter.id,)
    if _is_set(told.number):
        number = told.number.strip()
        if number not in ((expected.number.strip(),) if expected.number else known):
            raise MeterSwapped(meter.id, "meter number", expected.number or " or ".join(known), number)
        if expected.is_address_shared and not expected.number and number != meter.id:
            missing["number"] = f"{number} is the address, which another meter here has, too"
        else:
            proofs.append("number")
    if _is_set(told.asset):
        asset = told.asset.strip()
        holds_address = not expected.asset and len(known) > 1 and meter.address in asset
        fits = asset == (expected.asset.strip() or meter.id) or holds_address
        if not fits:
            wanted = expected.asset or f"{meter.id}, or one with {meter.address} in it"
            raise MeterSwapped(meter.id, "asset code", wanted, asset)
        if expected.is_address_shared and not expected.asset and asset != meter.id:
            missing["asset"] = f"{asset} holds no more than the address, which another meter here has, too"
        else:
            proofs.append("asset")
    for name in ("number", "asset"):
        if getattr(expected, name) and name not in proofs and name not in missing:
            raise MeterSwapped(meter.id, f"{name} of its records", getattr(expected, name), "nothing set")
    return Identity(told=told, is_proven=bool(proofs), missing=missing)


def _is_set(text: str) -> bool:
    return bool(text.strip(" 0\x00"))


async def register_before(
    meter: MeterRecord, kind: Kind, reading: Awaitable[CapturedRegister | None]
) -> CapturedRegister | None:
    """The register just before an order. An open needs it, whatever the reason why there is none: what was used up to the cut could
    not be billed. A supply is given back without it. Raises NoFinalReading, and what `reading` raises of a meter that is silent.
    """
    cause: DriverError | None = None
    problem = "its contract has none, or the meter marks it as not measured"
    try:
        if (register := await reading) is not None:
            return register
    except (RefusedByMeter, BadReply) as error:
        cause, problem = error, str(error)
    if kind is Kind.OPEN:
        raise NoFinalReading(meter.id, problem) from cause
    log.warning("no register was captured", line=meter.line, meter=meter.id, problem=problem)
    return None


def check_age(line: str, age_s: float) -> None:
    """Raises SendingTooOld: what was made durable so long ago may not be true any more."""
    if age_s > SENDING_AGE_S_MAX:
        raise SendingTooOld(line, age_s, SENDING_AGE_S_MAX)


# -------------------------------------------------------------------------------------------- who orders


class UnknownOperator(DriverError):
    kind = "unsupported"

    def __init__(self, person: str) -> None:
        super().__init__(
            f"{person!r} has no operator code, and a meter records one with every order; give this person a code of their own"
        )


class OperatorCodes:
    """Which person stands behind an operator code C0..C3, both ways. Raises ValueError where two people share one."""

    def __init__(self, codes: Mapping[str, bytes], *, other: bytes | None = None) -> None:
        """codes: by person. other: for orders of nobody in particular, such as reconnections after a payment."""
        self._codes = dict(codes)
        self._people = {code: person for person, code in codes.items()}
        self._other = other
        if any(len(code) != 4 for code in (*codes.values(), *([] if other is None else [other]))):
            raise ValueError("an operator code has 4 bytes")
        if len(self._people) != len(self._codes) or other in self._people:
            raise ValueError("two people share an operator code: a meter's record could not tell who it was")

    def __repr__(self) -> str:
        return f"OperatorCodes({len(self._codes)} people)"

    def code_of(self, operator: bytes | str, kind: Kind) -> bytes:
        """Four bytes are taken as they are. Raises UnknownOperator; never for what brings a supply back, where there is `other`.

        Whatever else a person orders goes out under the code of that person, or not at all: the meter's record is evidence.
        """
        if isinstance(operator, bytes):
            if len(operator) != 4:
                raise UnknownOperator(f"a code of {len(operator)} bytes")
            return operator
        code = self._codes.get(operator)
        if code is None and kind in CLOSES:
            code = self._other
        if code is None:
            raise UnknownOperator(operator)
        return code

    def person_of(self, code: bytes) -> str:
        """ "" when the code is nobody's here: then somebody else has been at the meter."""
        return self._people.get(code, "" if code != self._other else "headend")
