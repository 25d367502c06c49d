"""Everything that can leave `protocols`.

ProtocolError
├── BadText                  a person's or a file's text, not a wire: BadObis · BadAddress · BadDi · UnknownUnit · BadLayout
├── WireError                bytes that are not what the protocol says; carries `wire`
│   ├── FrameError           no whole, right frame: TooShort · BadStart · BadLength · BadChecksum · BadEnd · BadParity
│   ├── MessageError         a right frame whose DATA does not fit its function: BadMessage · UnknownFunction
│   ├── ItemError            DATA that does not fit the item's layout: BadDigit · BadSize
│   └── EnvelopeError        an MQTT message that is not what its contract says: BadEnvelope · Expired
├── EncodeError              a value that the wire cannot carry
│   └── NotOffered           an operation that this family of concentrators has no message for
└── SessionError             the session was used out of turn: LineBusy
"""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "BadAddress",
    "BadChecksum",
    "BadDi",
    "BadDigit",
    "BadEnd",
    "BadEnvelope",
    "BadLayout",
    "BadLength",
    "BadMessage",
    "BadObis",
    "BadParity",
    "BadSize",
    "BadStart",
    "BadText",
    "EncodeError",
    "EnvelopeError",
    "Expired",
    "FrameError",
    "ItemError",
    "LineBusy",
    "MessageError",
    "NotOffered",
    "ProtocolError",
    "SessionError",
    "TooShort",
    "UnknownFunction",
    "UnknownUnit",
    "WireError",
    "shown",
]


class ProtocolError(Exception):
    """Root of the tree."""


class BadText(ProtocolError, ValueError):
    """Text given by a person or a file; the message says what was expected."""


class BadObis(BadText):
    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not an OBIS code: expected A-B:C.D.E or A-B:C.D.E*F with numbers 0..255, "
            f"for example 1-0:1.8.0"
        )


class BadAddress(BadText):
    def __init__(self, text: str, expected: str = "") -> None:
        """expected: of addresses that are not DL/T 645's."""
        expected = expected or (
            "the 12 digits printed on the meter (pad with zeros on the left); 999999999999 is broadcast and no meter"
        )
        super().__init__(f"{text!r} is not a meter address: expected {expected}")


class BadDi(BadText):
    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a data identifier: expected 8 hex digits (DL/T 645-2007, for example 00010000) "
            f"or 4 (1997, for example 9010), high byte first"
        )


class UnknownUnit(BadText):
    def __init__(self, text: str, known: Sequence[str]) -> None:
        super().__init__(f"{text!r} is not a unit: expected one of {', '.join(known)}")


class BadLayout(BadText):
    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"layout {text!r}: {problem}")


class WireError(ProtocolError):
    """Bytes that are not what the protocol says.

    wire: the bytes that were looked at, as they came.
    """

    def __init__(self, message: str, wire: bytes) -> None:
        super().__init__(message)
        self.wire = wire


class FrameError(WireError):
    """No whole, right frame at the start of `wire`."""


class TooShort(FrameError):
    """More bytes are needed."""


class BadStart(FrameError):
    """No 68H where one must be; with Modbus TCP a protocol id other than 0."""


class BadLength(FrameError):
    """The length byte and the number of bytes disagree."""


class BadChecksum(FrameError):
    """expected: the checksum of the bytes as they came; found: the checksum byte that came."""

    def __init__(self, wire: bytes, *, expected: int, found: int) -> None:
        super().__init__(f"checksum is {found:02X}H, expected {expected:02X}H", wire)
        self.expected = expected
        self.found = found


class BadEnd(FrameError):
    """No 16H at the end."""


class BadParity(FrameError):
    """The serial port saw a wrong parity bit, or no stop bit, in one of the bytes."""


class MessageError(WireError):
    """A right frame whose DATA does not fit its function."""


class BadMessage(MessageError):
    """wire: the DATA field after −33H; with Modbus the PDU."""


class UnknownFunction(MessageError):
    """A Modbus function that we do not speak; a device answers it with exception 01. wire: the PDU."""


class ItemError(WireError):
    """DATA that does not fit the item's layout. wire: the item's bytes after −33H."""


class BadDigit(ItemError):
    """A nibble above 9 in a BCD field: damaged, or a meter's private mark for "not measured"."""


class BadSize(ItemError):
    """Too many or too few bytes for the layout."""


class EnvelopeError(WireError):
    """An MQTT message that is not what its contract says. wire: the first bytes of the payload, at most 512.

    fault: one word of a short list, for counting: topic, size, json, shape, number, time, unit, identity, expired.
    """

    def __init__(self, topic: str, fault: str, reason: str, payload: bytes) -> None:
        super().__init__(f"{shown(topic)}: {reason}", payload[:512])
        self.topic = topic
        self.fault = fault
        self.reason = reason


class BadEnvelope(EnvelopeError):
    """reason: what was expected and what came, printable, short whatever came."""


class Expired(EnvelopeError):
    """A right command that came too late. command: as decoded; it must not be carried out."""

    def __init__(self, topic: str, reason: str, payload: bytes, command: Any) -> None:
        super().__init__(topic, "expired", reason, payload)
        self.command = command


class EncodeError(ProtocolError, ValueError):
    """A value that the wire cannot carry: too large, negative where unsigned, not enough decimals."""


class NotOffered(EncodeError):
    """An operation that this family of concentrators has no message for."""

    def __init__(self, contract: str, asked: str, offered: Sequence[str]) -> None:
        super().__init__(f"{contract} has no message for {asked}: it has {', '.join(offered) or 'none'}")
        self.asked = asked


class SessionError(ProtocolError):
    """The session was used out of turn."""


class LineBusy(SessionError):
    """A request is in flight, or the line is still being drained."""


def shown(text: str, length_max: int = 80) -> str:
    """Somebody else's text for a message: quoted, printable, cut short."""
    return repr(text if len(text) <= length_max else text[: length_max - 1] + "…")[: 2 * length_max]
