"""Points: what a Modbus address names, and the way from its registers to an amount and back.

A register is two bytes, high byte first. Where a number takes several registers, WordOrder says which comes first; the bytes inside
a register keep their order. An amount is what the registers say, times the scale, as an exact decimal. A float32 stands for the
shortest decimal that is this very float32: 43 66 33 33 is 230.2, not 230.1999969482421875 (and its neighbour 43 66 33 34 is 230.20001).
"""

import enum
from decimal import ROUND_HALF_EVEN, ROUND_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from math import isfinite
from struct import Struct as Packing

from msgspec import Struct
from msgspec.structs import force_setattr

from protocols.errors import BadDigit, BadLayout, BadSize, EncodeError
from protocols.values import Obis, Unit

__all__ = ["Point", "PointType", "WordOrder", "decode_point", "encode_point", "nearest"]

REGISTER_SIZE = 2
DIGITS_SURE = 6  # every decimal of so many digits survives the way into a float32 and back
DIGITS_MAX = 9  # so many tell a float32 from its neighbours
SMALLEST_WHOLE = 2.0**-126  # numbers below have lost bits, and are tried from one digit on
MANTISSA = (1 << 23) - 1
POWER_OF_TWO = b"\0\0"  # ends the content of one, and of 127 others; those are searched like them
LARGEST_EASY = 1e38  # above, a decimal may round beyond the largest float32
# float32 reaches 3.4e38 and uint64 twenty digits: with 400 even a float64 loses none by its scale.
_EXACT = Context(prec=400, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])


class PointType(enum.Enum):
    """How the registers of a point hold its number. width: in registers."""

    UINT16 = "uint16", 1
    INT16 = "int16", 1
    UINT32 = "uint32", 2
    INT32 = "int32", 2
    UINT64 = "uint64", 4
    INT64 = "int64", 4
    FLOAT32 = "float32", 2
    FLOAT64 = "float64", 4
    BCD16 = "bcd16", 1
    BCD32 = "bcd32", 2

    def __new__(cls, text: str, width: int) -> "PointType":
        member = object.__new__(cls)
        member._value_ = text
        # Plain attributes: a table keyed by members would hash in Python, twice for every point of every block.
        member.width = width
        member.is_signed = text.startswith("int")
        member.is_float = text.startswith("float")
        member.is_bcd = text.startswith("bcd")
        return member

    width: int
    is_signed: bool
    is_float: bool
    is_bcd: bool


class WordOrder(enum.Enum):
    """Which register of a number comes first: the high one ("ABCD") or the low one ("CDAB")."""

    BIG = "big"
    LITTLE = "little"


class Point(Struct, frozen=True, kw_only=True):
    """One row of a contract.

    function: to read it with, 3 or 4. address: on the wire, counted from 0.
    invalid: register contents, as one unsigned number in the order of word_order, that mean "not measured".
    ratio: "" when the amount is the customer's; "ct", "pt" or "ct*pt" when it is behind transformers and must be multiplied.
    access: "r", "w" or "rw". source: where the row is from. origin: how sure that is. note: what a reader should know.

    Raises BadLayout for a scale that makes no amount.
    """

    name: str
    name_zh: str = ""
    obis: Obis | None = None
    function: int
    address: int
    type: PointType
    word_order: WordOrder = WordOrder.BIG
    scale: Decimal = Decimal(1)
    unit: Unit
    invalid: tuple[int, ...] = ()
    ratio: str = ""
    access: str = "r"
    source: str = ""
    origin: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.scale.is_finite() or not self.scale:
            raise BadLayout(self.name, f"a scale of {self.scale} makes no amount")
        if self.scale != 1 and int(self.scale.as_tuple().exponent) > 0:
            force_setattr(self, "scale", self.scale.quantize(_UNIT, context=_EXACT))  # amounts print as 1000, not 1E+3

    @property
    def width(self) -> int:
        """In registers."""
        return self.type.width

    @property
    def end(self) -> int:
        """The address behind the last register."""
        return self.address + self.type.width


def decode_point(point: Point, content: bytes) -> Decimal | None:
    """The amount in these registers, two bytes each as on the wire; None when the device marks it as not measured.

    NaN and infinity are None, too. Raises BadSize when there are not exactly `width` registers, BadDigit when BCD is none.
    """
    kind = point.type
    if len(content) != REGISTER_SIZE * kind.width:
        raise BadSize(
            f"{len(content)} bytes for {point.name}, expected {REGISTER_SIZE * kind.width} ({kind.value})", content
        )
    if point.word_order is WordOrder.LITTLE:
        content = _reversed_words(content)
    if point.invalid and int.from_bytes(content, "big") in point.invalid:
        return None
    if kind.is_float:
        number = _shortest(content)
        if number is None:
            return None
    elif kind.is_bcd:
        digits = content.hex()
        if not digits.isdecimal():
            raise BadDigit(f"{content.hex(' ').upper()} is not BCD", content)
        number = Decimal(digits)
    else:
        number = Decimal(int.from_bytes(content, "big", signed=kind.is_signed))
    return _EXACT.multiply(number, point.scale)


def encode_point(point: Point, amount: Decimal | None) -> bytes:
    """The registers that hold this amount, as on the wire; None becomes the point's first mark, or NaN in a float.

    A float takes the number next to the amount. Raises EncodeError when the amount does not fit: out of range, more decimals than the
    scale has (see `nearest`), equal to a mark, or None where the point has no mark.
    """
    kind = point.type
    size = REGISTER_SIZE * kind.width
    if amount is None:
        content = _unmeasured(point, size)
    elif not amount.is_finite():
        raise EncodeError(f"{point.name}: {amount} is no amount")
    else:
        content = _number_content(point, _EXACT.divide(amount, point.scale), amount, size)
        if point.invalid and int.from_bytes(content, "big") in point.invalid:
            raise EncodeError(f"{point.name}: {amount} {point.unit.value} would read as not measured")
    return _reversed_words(content) if point.word_order is WordOrder.LITTLE else content


def nearest(point: Point, amount: Decimal) -> Decimal:
    """The amount next to this one that the point's registers can hold as to its decimals; ties go to the even digit."""
    if point.type.is_float:
        return amount
    steps = _EXACT.divide(amount, point.scale).to_integral_value(ROUND_HALF_EVEN, _EXACT)
    amount = _EXACT.multiply(steps, point.scale)
    return amount if amount else abs(amount)


def _number_content(point: Point, number: Decimal, amount: Decimal, size: int) -> bytes:
    kind = point.type
    shown = f"{point.name}: {amount} {point.unit.value}"
    if kind.is_float:
        try:
            return _packing(size).pack(float(number))
        except OverflowError as error:
            raise EncodeError(f"{shown} does not fit {kind.value}") from error
    if number != number.to_integral_value():
        raise EncodeError(f"{shown} has more decimals than the scale {point.scale} can carry")
    try:
        if kind.is_bcd:
            return bytes.fromhex(f"{int(number):0{2 * size}d}") if 0 <= number < 100**size else _too_large(shown, kind)
        return int(number).to_bytes(size, "big", signed=kind.is_signed)
    except OverflowError as error:
        raise EncodeError(f"{shown} does not fit {kind.value} with scale {point.scale}") from error


def _too_large(shown: str, kind: PointType) -> bytes:
    raise EncodeError(f"{shown} does not fit {kind.value}")


def _unmeasured(point: Point, size: int) -> bytes:
    if point.invalid:
        return point.invalid[0].to_bytes(size, "big")
    if point.type.is_float:
        return _packing(size).pack(float("nan"))
    raise EncodeError(f"{point.name} has no mark for a number that was not measured")


def _reversed_words(content: bytes) -> bytes:
    return b"".join(content[at : at + REGISTER_SIZE] for at in range(len(content) - REGISTER_SIZE, -1, -REGISTER_SIZE))


def _shortest(content: bytes) -> Decimal | None:
    """The shortest decimal that becomes these very bytes, without an exponent above 0; None for NaN and infinity."""
    packing = _packing(len(content))
    value: float = packing.unpack(content)[0]
    if not isfinite(value):
        return None
    if not value:
        return _ZERO  # also -0.0: no minus before nothing
    text = _shortest_float32(value, content) if packing is _FLOAT32 else repr(value)
    number = Decimal(text)
    return number.quantize(_UNIT, context=_EXACT) if "e+" in text.lower() else number


def _shortest_float32(value: float, content: bytes) -> str:
    if content.endswith(POWER_OF_TWO) or not SMALLEST_WHOLE <= abs(value) < LARGEST_EASY:
        return _searched(value, content)
    # The nearest decimal of n digits becomes these bytes if any of n digits does, and then the nearest of n + 1 does, too. Most numbers
    # that were measured need 8. (%: an f-string takes twice as long, and this is where the time of a large block goes.)
    pack = _FLOAT32.pack
    eight = "%.8g" % value  # noqa: UP031
    if pack(float(eight)) != content:
        return "%.9g" % value  # noqa: UP031
    seven = "%.7g" % value  # noqa: UP031
    if pack(float(seven)) != content:
        return eight
    six = "%.6g" % value  # noqa: UP031
    return six if pack(float(six)) == content else seven


def _searched(value: float, content: bytes) -> str:
    """The same for all numbers, digit by digit."""
    digits = DIGITS_SURE if abs(value) >= SMALLEST_WHOLE else 1
    while digits < DIGITS_MAX:
        if _becomes(text := f"{value:.{digits}g}", content):
            return text
        # Below a power of two floats lie twice as dense as above it, so the nearest decimal may be none, and the next one up is.
        if not int.from_bytes(content, "big") & MANTISSA:
            away = Context(prec=digits, rounding=ROUND_UP).create_decimal(Decimal(value))
            if _becomes(text := str(away), content):
                return text
        digits += 1
    return f"{value:.{DIGITS_MAX}g}"


def _becomes(text: str, content: bytes) -> bool:
    try:
        return _FLOAT32.pack(float(text)) == content
    except OverflowError:  # rounded up beyond the largest
        return False


def _packing(size: int) -> Packing:
    return _FLOAT32 if size == _FLOAT32.size else _FLOAT64


_UNIT = Decimal(1)
_ZERO = Decimal(0)
_FLOAT32, _FLOAT64 = Packing(">f"), Packing(">d")
