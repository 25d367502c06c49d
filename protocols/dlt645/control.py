"""The control byte C: function codes, direction and flags, and the words a meter refuses with.

    D7  1 from the meter          D6  1 error reply          D5  1 more frames follow          D4..D0  function

So a reply to function f is 80H+f, with more to come A0H+f, refused C0H+f (DL/T 645-2007 §5.2.4).
Functions marked * are not in the base text of 2007 but in the grid companies' addenda.
"""

import enum

from msgspec import Struct

__all__ = [
    "ERROR",
    "RATES",
    "Control",
    "Dialect",
    "Function1997",
    "Function2007",
    "RelayOrder",
    "error_phrases",
    "function_name",
]

FROM_METER = 0x80
ERROR = 0x40
FOLLOW = 0x20
FUNCTION = 0x1F


class Dialect(enum.Enum):
    """Which edition of DL/T 645 a frame is written in."""

    V2007 = "2007"
    V1997 = "1997"

    @property
    def protocol(self) -> str:
        return f"dlt645-{self.value}"


class Function2007(enum.IntEnum):
    SECURITY = 0x03  # *
    TIME_SYNC = 0x08
    READ = 0x11
    FOLLOW_UP = 0x12
    READ_ADDRESS = 0x13
    WRITE = 0x14
    WRITE_ADDRESS = 0x15
    FREEZE = 0x16
    CHANGE_RATE = 0x17
    CHANGE_PASSWORD = 0x18
    CLEAR_DEMAND = 0x19
    CLEAR_METER = 0x1A
    CLEAR_EVENTS = 0x1B
    RELAY = 0x1C  # *
    TERMINAL_OUTPUT = 0x1D  # *


class Function1997(enum.IntEnum):
    READ = 0x01
    FOLLOW_UP = 0x02
    REPEAT = 0x03
    WRITE = 0x04
    TIME_SYNC = 0x08
    WRITE_ADDRESS = 0x0A
    CHANGE_RATE = 0x0C
    CHANGE_PASSWORD = 0x0F
    CLEAR_DEMAND = 0x10


class RelayOrder(enum.IntEnum):
    """N1 of 1CH. TRIP_THEN_CLOSE and TRIP_THEN_PERMIT restore after N2 × 5 minutes; one source has the two swapped."""

    TRIP = 0x1A
    PERMIT_CLOSE = 0x1B
    CLOSE = 0x1C
    TRIP_THEN_CLOSE = 0x1D
    TRIP_THEN_PERMIT = 0x1E
    ALARM_ON = 0x2A
    ALARM_OFF = 0x2B
    PROTECT = 0x3A
    PROTECT_OFF = 0x3B


# The rate word Z of 17H and 0CH: one bit set, baud behind it. No code means the same in both editions.
RATES: dict[Dialect, dict[int, int]] = {
    Dialect.V2007: {0x02: 600, 0x04: 1200, 0x08: 2400, 0x10: 4800, 0x20: 9600, 0x40: 19200},
    Dialect.V1997: {0x00: 1200, 0x02: 300, 0x04: 600, 0x10: 2400, 0x20: 4800, 0x40: 9600},
}

_PHRASES: dict[Function2007 | Function1997, str] = {
    Function2007.SECURITY: "security",
    Function2007.TIME_SYNC: "time sync",
    Function2007.READ: "read data",
    Function2007.FOLLOW_UP: "read follow-up data",
    Function2007.READ_ADDRESS: "read address",
    Function2007.WRITE: "write data",
    Function2007.WRITE_ADDRESS: "write address",
    Function2007.FREEZE: "freeze",
    Function2007.CHANGE_RATE: "change rate",
    Function2007.CHANGE_PASSWORD: "change password",
    Function2007.CLEAR_DEMAND: "clear max demand",
    Function2007.CLEAR_METER: "clear meter",
    Function2007.CLEAR_EVENTS: "clear events",
    Function2007.RELAY: "relay control",
    Function2007.TERMINAL_OUTPUT: "multi-function terminal output",
}
_PHRASES_1997: dict[Function1997, str] = {
    Function1997.READ: "read data",
    Function1997.FOLLOW_UP: "read follow-up data",
    Function1997.REPEAT: "repeat last reply",
    Function1997.WRITE: "write data",
    Function1997.TIME_SYNC: "time sync",
    Function1997.WRITE_ADDRESS: "write address",
    Function1997.CHANGE_RATE: "change rate",
    Function1997.CHANGE_PASSWORD: "change password",
    Function1997.CLEAR_DEMAND: "clear max demand",
}


def function_name(dialect: Dialect, function: int) -> str:
    """The phrase for a function code; private codes are named as such, never an error."""
    if dialect is Dialect.V1997 and function in Function1997.__members__.values():
        return _PHRASES_1997[Function1997(function)]
    if dialect is Dialect.V2007 and function in Function2007.__members__.values():
        return _PHRASES[Function2007(function)]
    return f"vendor extension {function:02X}H"


class Control(Struct, frozen=True, kw_only=True):
    """The control byte taken apart; `function` is D4..D0."""

    function: int
    from_meter: bool = False
    error: bool = False
    follow: bool = False

    @classmethod
    def from_byte(cls, byte: int) -> "Control":
        return _CONTROLS[byte]

    def to_byte(self) -> int:
        return self.function | self.from_meter * FROM_METER | self.error * ERROR | self.follow * FOLLOW


# All there are, made once: a control byte is looked at several times for every frame.
_CONTROLS = tuple(
    Control(
        function=byte & FUNCTION,
        from_meter=bool(byte & FROM_METER),
        error=bool(byte & ERROR),
        follow=bool(byte & FOLLOW),
    )
    for byte in range(256)
)

# DL/T 645-2007 appendix on error words; several bits may be set.
_ERROR_BITS_2007 = (
    "other error",
    "no such data",
    "password wrong / not authorised",
    "rate cannot be changed",
    "too many year zones",
    "too many day slots",
    "too many tariffs",
    "reserved bit 7",
)
# 1997: password sits at bit 2 as in 2007, but bits 0 and 1 mean other things.
_ERROR_BITS_1997 = (
    "illegal data",
    "DI error",
    "password wrong",
    "reserved bit 3",
    "too many year zones",
    "too many day slots",
    "too many tariffs",
    "reserved bit 7",
)
# SERR, the two-byte word of security function 03H (grid-company addenda).
_ERROR_BITS_SECURITY = (
    "other error",
    "repeated recharge",
    "ESAM verification failed",
    "identity authentication failed or timed out",
    "customer number mismatch",
    "purchase-count error",
    "over hoarding limit",
    "address error",
    "meter suspended",
)
# The two-byte state word that secure-class meters append to DCH.
_ERROR_BITS_RELAY = (
    "meter suspended",
    "MAC error",
    "password wrong / not authorised",
    "identity authentication timed out",
    "expiry invalid",
    "trip refused: supply protected",
    "auto-restore refused: supply protected",
    "restore duration invalid",
    "auto-restore refused: already tripped",
)


def error_phrases(dialect: Dialect, function: int, word: int, size: int) -> list[str]:
    """What the error word of a refusal says, lowest bit first; `size` is the word's length in bytes (1 or 2)."""
    if dialect is Dialect.V1997:
        bits: tuple[str, ...] = _ERROR_BITS_1997
    elif size == 1:
        bits = _ERROR_BITS_2007
    elif function == Function2007.RELAY:
        bits = _ERROR_BITS_RELAY
    else:
        bits = _ERROR_BITS_SECURITY
    named = [phrase for position, phrase in enumerate(bits) if word >> position & 1]
    unnamed = [f"bit {position}" for position in range(len(bits), 8 * size) if word >> position & 1]
    return named + unnamed or ["no reason given"]
