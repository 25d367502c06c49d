"""The layout language: what an item looks like on the wire, as one line of text.

    layout       one or more fields with commas between; `|` separates alternatives, told apart by their length
    field        [labels:] [count*] format [[unit OBIS]]      or a group: [labels:] [count*] (layout) [[unit]]
    labels       names of the values; `/` repeats the field once per name: `phase A/phase B/phase C:XXX.X[V]`.
                 With a count the last name may hold #, a running number: `total/tariff #:1..64*XXXXXX.XX[kWh]`
    count        14 or 1..14; only one field of a layout may have a range, the length of the reply decides

    format             content of the value                              on the wire
    XXXXXX.XX NNN.N    amount, Decimal with the scale of the picture     BCD, low byte first; X measured, N set; an odd
                       (XXX is two bytes)                                number of digits is filled up to whole bytes
    ±XX.XXXX           the same, top bit of the highest byte = minus     sign and magnitude, never two's complement
    XX.XXXX@YYMMDDhhmm amount and the time of its occurrence             amount first, then the time
    digits12           12 digits, high first: numbers, addresses         BCD, low byte first
    YYMMDDhhmm …       digits, high first, as the picture prints them;   BCD, low byte first
                       parts YY MM DD WW hh mm ss NN (NN: a table number)
    BITS*2             status word: "0050", high byte first              binary, low byte first
    DI                 data identifier, 8 hex digits, high byte first    low byte first
    C0C1C2C3           operator code, hex in the order of sending        as sent
    BYTES*4            hex in the order of sending                       as sent
    ASCII*6            text without its padding                          last character first, NUL padded
    ASCII_PLAIN*6      the same from a meter that sends it in order      first character first, NUL padded
    ASCII_ANY*6        the same, order judged by plausibility            either; written last character first
    RAW                hex in the order of sending, all the rest         as sent

FFH in every byte is None, "not measured", in everything but BITS, DI, BYTES, C0C1C2C3 and RAW, where it may be meant.

Layouts become `construct` declarations here; nothing of construct leaves this module and `items`.
"""

import enum
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any

import construct
from msgspec import Struct

from protocols.bcd import decode_digits, decode_magnitude, encode_digits, is_all_ff
from protocols.errors import BadLayout, BadText, EncodeError
from protocols.values import Obis, Unit

__all__ = ["Alternative", "Field", "Kind", "Separators", "Wire", "codec", "lone_reader", "parse_layout", "time_of"]

SEPARATOR = b"\xaa"  # never a byte of a BCD field, so that it can be told from data
DIGITS_MAX = 24  # digits of one amount or number: the widest in use, a position, has 22


class Kind(enum.Enum):
    AMOUNT = "amount"
    DIGITS = "digits"
    TIME = "time"
    BITS = "bits"
    DI = "di"
    BYTES = "bytes"
    ASCII = "ascii"
    RAW = "raw"


class Separators(enum.Enum):
    """Where a meter puts AAH in a block: the standard has none, several makers one after every item, 1997 meters one
    at the end."""

    NONE = "none"
    EACH = "each"
    END = "end"


class Wire(Struct, frozen=True, kw_only=True, cache_hash=True):
    """The bytes of one field, without its meaning: what a construct declaration is made from.

    picture: the time's picture; for an amount that of the time behind it, or "".
    order: of ASCII, "reversed", "plain" or "any".
    """

    kind: Kind
    size: int
    decimals: int = 0
    signed: bool = False
    picture: str = ""
    order: str = ""

    @property
    def is_bcd(self) -> bool:
        return self.kind in (Kind.AMOUNT, Kind.DIGITS, Kind.TIME)

    @property
    def text(self) -> str:
        """The format as a layout writes it."""
        match self.kind:
            case Kind.AMOUNT:
                digits = "X" * (2 * self.size - self.decimals) + ("." + "X" * self.decimals if self.decimals else "")
                return ("±" if self.signed else "") + digits + (f"@{self.picture}" if self.picture else "")
            case Kind.TIME:
                return self.picture
            case Kind.DIGITS:
                return f"digits{2 * self.size}"
            case Kind.ASCII:
                return {order: name for name, order in _ORDERS.items()}[self.order] + f"*{self.size}"
            case Kind.BITS | Kind.BYTES:
                return f"{self.kind.name}*{self.size}"
            case Kind.DI | Kind.RAW:
                return self.kind.name

    @property
    def whole_size(self) -> int:
        """With the time behind an amount."""
        return self.size + (len(self.picture) // 2 if self.kind is Kind.AMOUNT else 0)


class Field(Struct, frozen=True, kw_only=True):
    """One value of an item. unit: None when the layout does not say, then the row's unit holds for amounts."""

    wire: Wire
    label: str = ""
    unit: Unit | None = None
    obis: Obis | None = None


class Alternative(Struct, frozen=True, kw_only=True):
    """One way an item can be laid out: fields, then `repeated` any number of times from `least` to `most`, then fields.

    RAW is a repetition in which the number is that of the bytes.
    """

    before: tuple[Field, ...]
    repeated: tuple[Field, ...] = ()
    labels: tuple[str, ...] = ()
    least: int = 0
    most: int = 0
    after: tuple[Field, ...] = ()

    @property
    def is_open(self) -> bool:
        return bool(self.repeated) and self.repeated[0].wire.kind is Kind.RAW

    @property
    def fixed_size(self) -> int:
        return sum(field.wire.whole_size for field in self.before + self.after)

    @property
    def step_size(self) -> int:
        return 1 if self.is_open else sum(field.wire.whole_size for field in self.repeated)

    @property
    def fixed_count(self) -> int:
        return len(self.before) + len(self.after) + (1 if self.is_open else 0)

    @property
    def step_count(self) -> int:
        return 0 if self.is_open else len(self.repeated)

    def expand(self, repetitions: int) -> tuple[Field, ...]:
        middle: tuple[Field, ...]
        if self.is_open:
            field = self.repeated[0]
            middle = (Field(wire=Wire(kind=Kind.RAW, size=repetitions), label=field.label, unit=field.unit),)
        else:
            middle = _repeat(self.repeated, self.labels, repetitions) if self.repeated else ()
        return self.before + middle + self.after


@lru_cache(maxsize=1024)
def parse_layout(text: str) -> tuple[Alternative, ...]:
    """Read a layout. Raises BadLayout, naming the field."""
    return tuple(_alternative(part, text) for part in _split(text, "|"))


_FIELD = re.compile(
    r"(?:(?P<labels>[^:()\[\]]+):)?(?:(?P<least>\d+)(?:\.\.(?P<most>\d+))?\*)?(?P<body>.+?)"
    r"(?:\[(?P<unit>[^\]\s]*)(?:\s+(?P<obis>[^\]]+))?\])?"
)
_AMOUNT = re.compile(r"(±?)([XN]+)(?:\.([XN]+))?(?:@((?:YY|MM|DD|hh|mm|ss)+))?")
_TIME = re.compile(r"(?:YY|MM|DD|WW|hh|mm|ss|NN)+")
_SIZED = re.compile(r"(BITS|BYTES|ASCII|ASCII_PLAIN|ASCII_ANY)\*(\d+)")
_ORDERS = {"ASCII": "reversed", "ASCII_PLAIN": "plain", "ASCII_ANY": "any"}


def _alternative(text: str, whole: str) -> Alternative:
    before: list[Field] = []
    after: list[Field] = []
    variable: tuple[tuple[Field, ...], tuple[str, ...], int, int] | None = None
    for part in _split(text, ","):
        fields, labels, least, most = _parse_field(part, whole)
        if least != most:
            if variable is not None:
                raise BadLayout(whole, "only one field may have an open number of repetitions")
            variable = fields, labels, least, most
        elif variable is not None and variable[0][0].wire.kind is Kind.RAW:
            raise BadLayout(whole, "RAW takes all the rest and must be the last field")
        else:
            (before if variable is None else after).extend(_repeat(fields, labels, least))
    if variable is None:
        return Alternative(before=tuple(before))
    fields, labels, least, most = variable
    return Alternative(before=tuple(before), repeated=fields, labels=labels, least=least, most=most, after=tuple(after))


def _parse_field(text: str, whole: str) -> tuple[tuple[Field, ...], tuple[str, ...], int, int]:
    match = _FIELD.fullmatch(text.strip())
    if match is None:
        raise BadLayout(whole, f"cannot read the field {text!r}")
    labels = tuple(label.strip() for label in match["labels"].split("/")) if match["labels"] else ("",)
    least = int(match["least"]) if match["least"] else len(labels)
    most = int(match["most"]) if match["most"] else least
    if not 0 < least <= most:
        raise BadLayout(whole, f"{text!r} repeats nothing")
    try:
        unit = Unit.from_text(match["unit"]) if match["unit"] is not None else None
        obis = Obis(match["obis"].strip()) if match["obis"] else None
    except BadText as error:
        raise BadLayout(whole, str(error)) from error
    body = match["body"].strip()
    if body == "RAW":
        return (Field(wire=Wire(kind=Kind.RAW, size=0), label=labels[0], unit=unit),), (labels[0],), 0, 1 << 16
    fields: tuple[Field, ...]
    if body.startswith("(") and body.endswith(")"):
        inner = _alternative(body[1:-1], whole)
        if inner.repeated:
            raise BadLayout(whole, "an open number of repetitions cannot stand in a group")
        fields = tuple(
            Field(wire=field.wire, label=field.label, unit=unit if field.unit is None else field.unit, obis=field.obis)
            for field in inner.before
        )
    else:
        fields = (Field(wire=_wire(body, whole), unit=unit, obis=obis),)
    return fields, labels, least, most


def _wire(body: str, whole: str) -> Wire:
    if body == "DI":
        return Wire(kind=Kind.DI, size=4)
    if body == "C0C1C2C3":
        return Wire(kind=Kind.BYTES, size=4)
    if match := _AMOUNT.fullmatch(body):
        sign, digits, decimals, picture = match[1], match[2], match[3] or "", match[4] or ""
        if len(digits) + len(decimals) > DIGITS_MAX:
            raise BadLayout(whole, f"{body!r} has more than {DIGITS_MAX} digits")
        return Wire(
            kind=Kind.AMOUNT,
            size=(len(digits) + len(decimals) + 1) // 2,
            decimals=len(decimals),
            signed=bool(sign),
            picture=picture,
        )
    if _TIME.fullmatch(body):
        return Wire(kind=Kind.TIME, size=len(body) // 2, picture=body)
    if match := re.fullmatch(r"digits(\d+)", body):
        count = int(match[1])
        if count == 0 or count % 2 or count > DIGITS_MAX:
            raise BadLayout(whole, f"{body!r}: the number of digits must be even, from 2 to {DIGITS_MAX}")
        return Wire(kind=Kind.DIGITS, size=count // 2)
    if match := _SIZED.fullmatch(body):
        if not 0 < int(match[2]) <= 200:
            raise BadLayout(whole, f"{body!r}: the size must be 1 to 200 bytes")
        kind = Kind.ASCII if match[1] in _ORDERS else Kind[match[1]]
        return Wire(kind=kind, size=int(match[2]), order=_ORDERS.get(match[1], ""))
    raise BadLayout(whole, f"unknown format {body!r}")


def _repeat(fields: tuple[Field, ...], labels: tuple[str, ...], count: int) -> tuple[Field, ...]:
    repeated = []
    for index in range(count):
        if labels == ("",):
            label = str(index + 1) if count > 1 else ""
        elif index < len(labels) - 1:
            label = labels[index]
        else:
            number = str(index - len(labels) + 2)
            label = labels[-1].replace("#", number)
            if index >= len(labels) and "#" not in labels[-1]:
                label = f"{label} {number}"
        for field in fields:
            repeated.append(
                Field(wire=field.wire, label=f"{label} {field.label}".strip(), unit=field.unit, obis=field.obis)
            )
    return tuple(repeated)


def _split(text: str, separator: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    if depth or any(not part.strip() for part in parts):
        raise BadLayout(text, "brackets do not match or a field is empty")
    return parts


# construct: one declaration per sequence of fields, compiled once


@lru_cache(maxsize=1024)
def codec(groups: tuple[tuple[Wire, ...], ...], separators: Separators) -> Any:
    """A compiled construct for the groups in turn: parse gives a list per group, with AAH itself between or behind.

    A parse raises BadDigit from an adapter or a ConstructError; a build raises EncodeError.
    """
    parts: list[Any] = []
    for group in groups:
        parts.append(construct.Sequence(*[part for wire in group for part in _declare(wire)]))
        if separators is Separators.EACH:
            parts.append(construct.Const(SEPARATOR))
    if separators is Separators.END:
        parts.append(construct.Const(SEPARATOR))
    return construct.Sequence(*parts).compile()


@lru_cache(maxsize=512)
def lone_reader(wire: Wire) -> Callable[[bytes], Any]:
    """Reads one field that is an item by itself, from exactly its bytes; an amount must have no time behind it.

    An amount is read without construct's stream around it: most items of most polls are that.
    """
    if wire.kind is Kind.AMOUNT:
        return partial(_decode_amount, wire=wire)
    (declared,) = _declare(wire)
    parse: Callable[[bytes], Any] = declared.compile().parse
    return parse


@lru_cache(maxsize=512)
def _declare(wire: Wire) -> tuple[Any, ...]:
    size = wire.size
    match wire.kind:
        case Kind.AMOUNT:
            amount = _adapter(size, lambda data: _decode_amount(data, wire), lambda value: _encode_amount(value, wire))
            return (
                amount,
                *(
                    _declare(Wire(kind=Kind.TIME, size=len(wire.picture) // 2, picture=wire.picture))
                    if wire.picture
                    else ()
                ),
            )
        case Kind.TIME:
            return (_adapter(size, _decode_number, lambda value: _encode_time(value, wire)),)
        case Kind.DIGITS:
            return (_adapter(size, _decode_number, lambda value: _encode_number(value, size)),)
        case Kind.BITS | Kind.DI:
            return (
                _adapter(size, lambda data: data[::-1].hex().upper(), lambda value: _encode_hex(value, size)[::-1]),
            )
        case Kind.BYTES | Kind.RAW:
            return (_adapter(size, lambda data: data.hex().upper(), lambda value: _encode_hex(value, size)),)
        case Kind.ASCII:
            return (
                _adapter(size, lambda data: _decode_text(data, wire.order), lambda value: _encode_text(value, wire)),
            )


def _adapter(size: int, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Any:
    return construct.ExprAdapter(construct.Bytes(size), lambda data, _: decode(data), lambda value, _: encode(value))


def _decode_amount(data: bytes, wire: Wire) -> Decimal | None:
    if is_all_ff(data):
        return None
    digits = str(decode_magnitude(data, signed=wire.signed)) if wire.signed else decode_digits(data)
    return Decimal(f"{digits}E-{wire.decimals}") if wire.decimals else Decimal(digits)


def _encode_amount(value: object, wire: Wire) -> bytes:
    if value is None:
        return b"\xff" * wire.size
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise EncodeError(f"{value!r} is not an amount: expected Decimal, int, a decimal string or None")
    try:
        scaled = Decimal(value).scaleb(wire.decimals)
        whole = scaled == scaled.to_integral_value()
    except InvalidOperation as error:
        raise EncodeError(f"{value!r} is not a decimal number") from error
    if not scaled.is_finite() or not whole:
        raise EncodeError(f"{value} does not fit: at most {wire.decimals} decimals")
    limit = 10 ** (2 * wire.size) if not wire.signed else 8 * 10 ** (2 * wire.size - 1)
    if not (-limit if wire.signed else -1) < scaled < limit:
        raise EncodeError(f"{value} does not fit {wire.size} bytes{'' if wire.signed else ' without a sign'}")
    data = encode_digits(str(int(abs(scaled))), wire.size)
    return data if scaled >= 0 else data[:-1] + bytes([data[-1] | 0x80])


def _decode_number(data: bytes) -> str | None:
    return None if is_all_ff(data) else decode_digits(data)


def _encode_number(value: object, size: int) -> bytes:
    if value is None:
        return b"\xff" * size
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    if not isinstance(value, str):
        raise EncodeError(f"{value!r} is not a number of {2 * size} digits")
    return encode_digits(value, size)


def _encode_time(value: object, wire: Wire) -> bytes:
    if isinstance(value, datetime):
        return encode_digits(_print_time(value, wire.picture), wire.size)
    if isinstance(value, str) and len(value) != 2 * wire.size:
        raise EncodeError(f"{value!r} is not {wire.picture}")
    return _encode_number(value, wire.size)


def _print_time(value: datetime, picture: str) -> str:
    if value.tzinfo is not None or not 2000 <= value.year <= 2099:
        raise EncodeError(f"{value} does not fit {picture}: expected the meter's wall time without zone, 2000 to 2099")
    parts = {
        "YY": value.year % 100,
        "MM": value.month,
        "DD": value.day,
        "WW": value.isoweekday() % 7,
        "hh": value.hour,
        "mm": value.minute,
        "ss": value.second,
    }
    try:
        return "".join(f"{parts[part]:02}" for part in _parts(picture))
    except KeyError as error:
        raise EncodeError(f"{picture} holds more than a time: give its digits") from error


def time_of(picture: str, digits: str | None) -> datetime | None:
    """Wall time of the meter; None without a full date, for zeros ("still open") and for what is no real date."""
    if digits is None:
        return None
    where = _positions(picture)
    if where is None:
        return None
    year, month, day, hour, minute, second = (int(digits[at : at + 2]) if at >= 0 else 0 for at in where)
    try:
        return datetime(2000 + year, month, day, hour, minute, second)  # noqa: DTZ001 - the meter's wall time has no zone
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _positions(picture: str) -> tuple[int, ...] | None:
    places = {part: 2 * index for index, part in enumerate(_parts(picture))}
    if not {"YY", "MM", "DD"} <= places.keys():
        return None
    return tuple(places.get(part, -1) for part in ("YY", "MM", "DD", "hh", "mm", "ss"))


def _parts(picture: str) -> list[str]:
    return [picture[index : index + 2] for index in range(0, len(picture), 2)]


def _encode_hex(value: object, size: int) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        data = None
    if data is None or len(data) != size:
        raise EncodeError(f"{value!r} is not {size} bytes in hex")
    return data


# What texts of meters read like, the surest first: a number with its unit, a date, a model.
_PLAUSIBLE = (
    re.compile(rb"\d+(?:\.\d+)?[A-Za-z%]{0,3}"),
    re.compile(rb"20\d\d[-./]?\d\d[-./]?\d\d"),
    re.compile(rb"[A-Za-z]+[-\w.]*\d+"),
)


def _decode_text(data: bytes, order: str) -> str | None:
    # Latin-1 keeps bytes above 7FH one to one: makers put GBK text here, and what the meter sent must not be lost.
    if is_all_ff(data):
        return None
    plain = order == "plain" or (order == "any" and _looks_plain(data))
    return (data if plain else data[::-1]).rstrip(b"\0").decode("latin-1")


def _looks_plain(data: bytes) -> bool:
    """Padding tells; without any, a text that reads like something known one way round only."""
    if data[0] == 0 or data[-1] == 0:
        return data[0] != 0
    for pattern in _PLAUSIBLE:
        plain, reverse = pattern.fullmatch(data), pattern.fullmatch(data[::-1])
        if bool(plain) != bool(reverse):
            return bool(plain)
    return False


def _encode_text(value: object, wire: Wire) -> bytes:
    if value is None:
        return b"\xff" * wire.size
    try:
        data = value.encode("latin-1") if isinstance(value, str) else None
    except UnicodeEncodeError:
        data = None
    if data is None or len(data) > wire.size or data.endswith(b"\0"):
        raise EncodeError(f"{value!r} does not fit {wire.size} ASCII characters")
    padded = data.ljust(wire.size, b"\0")
    return padded if wire.order == "plain" else padded[::-1]
