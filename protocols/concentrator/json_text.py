"""JSON from strangers: bounded in size, depth, number of things and digits, and exact in its numbers.

Numbers with a point or an exponent become Decimal with the digits they came with (123.40 stays 123.40), the others int.
NaN and Infinity are no JSON and are refused. Whatever the bytes, nothing but Mismatch leaves this module.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from protocols.errors import shown

__all__ = ["BODY_BYTES_MAX", "Mismatch", "dump", "fits", "parse", "parse_text"]

BODY_BYTES_MAX = 256 * 1024  # a read of every register of 100 meters is below 100 KiB
DEPTH_MAX = 16
NODES_MAX = 20_000  # 2,000 values with ten fields each
DIGITS_MAX = 30
EXPONENT_MAX = 30
NUMBER_TEXT_MAX = 80  # longer ones are beyond the limits anyway; Decimal would take seconds for a long one


class Mismatch(Exception):
    """Something is not as expected. fault: one word, as in EnvelopeError. path: where in the payload, outermost first."""

    def __init__(self, expected: str, came: Any, *, fault: str = "shape") -> None:
        super().__init__(expected)
        self.expected = expected
        self.came = came
        self.fault = fault
        self.path: list[str] = []

    def under(self, key: str) -> "Mismatch":
        self.path.insert(0, key)
        return self

    @property
    def reason(self) -> str:
        path = ".".join(self.path)
        if len(path) > 80:
            path = "…" + path[-79:]
        where = f"at {shown(path)}: " if path else ""
        return f"{where}expected {self.expected}, got {_described(self.came)}"


def parse(payload: bytes) -> Any:
    """Raises Mismatch."""
    if len(payload) > BODY_BYTES_MAX:
        raise Mismatch(f"at most {BODY_BYTES_MAX} bytes", f"{len(payload)} bytes", fault="size")
    try:
        value = _DECODER.decode(payload)
    except RecursionError:
        raise Mismatch(f"at most {DEPTH_MAX} levels", "more", fault="size") from None
    except UnicodeDecodeError as error:
        raise Mismatch("UTF-8", payload[error.start : error.start + 8], fault="json") from None
    except msgspec.ValidationError as error:
        raise Mismatch(
            f"numbers of at most {DIGITS_MAX} digits, 1E±{EXPONENT_MAX}", str(error), fault="number"
        ) from None
    except msgspec.DecodeError as error:
        raise Mismatch(f"JSON ({shown(str(error))})", payload[:40], fault="json") from None
    _check(value)
    return value


def parse_text(payload: bytes) -> str:
    """A payload that is plain text. Raises Mismatch."""
    if len(payload) > BODY_BYTES_MAX:
        raise Mismatch(f"at most {BODY_BYTES_MAX} bytes", f"{len(payload)} bytes", fault="size")
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Mismatch("UTF-8", payload[error.start : error.start + 8], fault="json") from None


def dump(value: Any) -> bytes:
    """Compact JSON; Decimals as numbers with all their digits."""
    return _ENCODER.encode(value)


def _number(text: str) -> Decimal:
    """Raises ValueError, which msgspec turns into its ValidationError."""
    if len(text) > NUMBER_TEXT_MAX:
        raise ValueError("too long")
    try:
        number = Decimal(text)
    except ArithmeticError as error:  # an exponent that Decimal itself cannot hold
        raise ValueError("too large") from error
    if not fits(number):
        raise ValueError("too many digits")
    return number


def fits(number: Decimal) -> bool:
    """Whether a number is within the limits of digits and exponent."""
    _, digits, exponent = number.as_tuple()
    return isinstance(exponent, int) and len(digits) <= DIGITS_MAX and abs(exponent) <= EXPONENT_MAX


def _check(value: Any) -> None:
    """Breadth first, without recursion, and given up as soon as a limit is passed."""
    nodes = 0
    level: Sequence[Any] = (value,)
    for depth in range(DEPTH_MAX + 1):
        inner: list[Any] = []
        for thing in level:
            if isinstance(thing, dict | list):
                if depth == DEPTH_MAX:
                    raise Mismatch(f"at most {DEPTH_MAX} levels", "more", fault="size")
                inner += thing.values() if isinstance(thing, dict) else thing
            elif type(thing) is int and abs(thing) >= 10**DIGITS_MAX:
                raise Mismatch(f"numbers of at most {DIGITS_MAX} digits", "a longer one", fault="number")
        nodes += len(inner)
        if nodes > NODES_MAX:
            raise Mismatch(f"at most {NODES_MAX} values and fields", "more", fault="size")
        level = inner


def _described(came: Any) -> str:
    if isinstance(came, bytes):
        return repr(came[:40])
    if isinstance(came, str):
        return shown(came, 60)
    if isinstance(came, dict):
        return f"an object of {len(came)}"
    if isinstance(came, list):
        return f"a list of {len(came)}"
    if came is None or isinstance(came, bool):  # 0 and 1 are equal to false and true, and are none
        return {None: "null", True: "true", False: "false"}[came]
    return shown(str(came), 40)


_DECODER = msgspec.json.Decoder(float_hook=_number)
_ENCODER = msgspec.json.Encoder(decimal_format="number")
