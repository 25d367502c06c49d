"""Fields of payloads: `{at:ms}` is the field "at", written as milliseconds since 1970. Both directions of each way of writing.

| Conversion   | On the wire                                              | In the row                                   |
|--------------|----------------------------------------------------------|----------------------------------------------|
| (none)       | text, 1 to 128 printable characters                      | the same text                                |
| text         | any text of at most 1000 characters                      | the same text                                |
| int          | whole number                                             | int                                          |
| digits       | whole number                                             | the number as text (ids)                     |
| flag         | true, false                                              | bool                                         |
| json         | anything                                                 | the same                                     |
| number       | number, decimal text, true, false, null; written: number | Decimal, bool, None, NotANumber for texts     |
| decimal      | the same; written: text                                  | the same                                     |
| ms, s        | milliseconds or seconds since 1970                       | aware UTC datetime, 2000 to 2100             |
| iso          | 2026-01-05T10:00:00.000+0800, with zone or without       | the same                                     |
| local        | the same; written: 2026-01-05T10:00:00                   | the same                                     |
| mark         | error number or quality word; see [marks]                | word of a problem, "" for a good one         |
| names        | list of names of values                                  | list of quantities, OBIS codes where known   |
| a [maps] name| what the map says                                        | what the map says                            |

A time without zone is that of the contract's zone. In the hour that clocks repeat in autumn it is the one nearer to now.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from msgspec import Struct

from protocols.concentrator.json_text import Mismatch, fits
from protocols.concentrator.quantities import Quantities
from protocols.concentrator.topics import identity, is_identity
from protocols.errors import BadLayout, EncodeError

__all__ = ["ABSENT", "Conversion", "MapRow", "Marks", "NotANumber", "Surroundings", "conversion"]

TEXT_LENGTH_MAX = 1000
QUANTITIES_MAX = 2000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
INT_MAX = 2**63
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,6})?(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?"
)


class Absent:
    """What a field is that the row does not have, or that the wire cannot say."""


ABSENT = Absent()


class NotANumber(Struct, frozen=True):
    """Text where a number was expected. It costs this value only, not the whole message."""

    text: str


class MapRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """wire: JSON on the wire. ours: what it means. others: whatever else comes means this, too."""

    wire: Any
    ours: Any
    others: bool = False


class Marks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the family marks a value. good: the marks of a good value, written: the first, where `always`.

    prefix: what makes a bare number a word. number: marks are numbers. other: what is written for a problem that is no
    mark of the family. several: a value may have more than one.
    """

    good: tuple[str, ...] = ()
    several: bool = False
    always: bool = False
    prefix: str = ""
    number: bool = False
    other: str = ""


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the conversions of one contract need to know. zone: None: a time without zone is refused."""

    zone: tzinfo | None
    marks: Marks
    maps: Mapping[str, Sequence[MapRow]]
    quantities: Quantities


class Conversion(Struct, frozen=True):
    """read: wire value and wall time to what is in the row, raises Mismatch. write: the other way, ABSENT if it cannot."""

    read: Callable[[Any, datetime], Any]
    write: Callable[[Any], Any]


def conversion(name: str, around: Surroundings) -> Conversion:
    """Raises BadLayout for a name that there is not."""
    if name in around.maps:
        rows = around.maps[name]
        return Conversion(lambda value, _now: _read_map(rows, value), lambda ours: _write_map(rows, ours))
    if name == "iso":
        return Conversion(lambda value, now: _read_time(value, around.zone, now), lambda at: _iso(at, around.zone))
    if name == "local":
        return Conversion(lambda value, now: _read_time(value, around.zone, now), lambda at: _local(at, around.zone))
    if name == "mark":
        return Conversion(lambda value, _now: _read_mark(around.marks, value), lambda word: _mark(around.marks, word))
    if name == "names":
        return Conversion(
            lambda value, _now: [around.quantities.quantity_of(identity(one)) for one in _list(value)],
            lambda wanted: [around.quantities.name_of(one) for one in wanted],
        )
    if name not in _PLAIN:
        known = ", ".join([*filter(None, _PLAIN), "iso", "local", "mark", "names", *around.maps])
        raise BadLayout(name, f"no such way to write a field: there are {known}")
    return _PLAIN[name]


# ---------------------------------------------------------------------------------------------------- plain values


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
        raise Mismatch(f"text of at most {TEXT_LENGTH_MAX} characters", value)
    return value


def _int(value: Any) -> int:
    if type(value) is not int or abs(value) >= INT_MAX:
        raise Mismatch("a whole number", value)
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Mismatch("true or false", value)
    return value


def _number(value: Any) -> Decimal | NotANumber | bool | None:
    if value is None or isinstance(value, Decimal | bool):
        return value
    if isinstance(value, int):
        return Decimal(value)
    if not isinstance(value, str):
        raise Mismatch("a number or decimal text", value)
    text = value.strip()
    if len(text) <= 80 and _DECIMAL.fullmatch(text):
        number = Decimal(text)
        if not fits(number):
            raise Mismatch("a number of at most 30 digits, 1E±30", text, fault="number")
        return number
    return NotANumber(text[:60])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > QUANTITIES_MAX:
        raise Mismatch(f"a list of at most {QUANTITIES_MAX}", value)
    return value


def _plain(number: Decimal) -> str:
    """Without exponent, with every digit."""
    return format(number, "f")


# ---------------------------------------------------------------------------------------------------- times


def _epoch(value: Any, per_second: int) -> datetime:
    if isinstance(value, Decimal) and value == value.to_integral_value() and fits(value):
        value = int(value)
    if type(value) is not int:
        raise Mismatch("a whole number of time since 1970", value, fault="time")
    if not 0 <= value < 5_000_000_000 * per_second:
        raise Mismatch("a time between 2000 and 2100", value, fault="time")
    return _in_range(EPOCH + timedelta(milliseconds=value * 1000 // per_second), value)


def _milliseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


def _read_time(value: Any, zone: tzinfo | None, now: datetime) -> datetime:
    found = _ISO.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Mismatch("a time such as 2026-01-05T10:00:00 or 2026-01-05T10:00:00.000+0800", value, fault="time")
    try:
        at = datetime.fromisoformat(value.replace(",", "."))
        if found["zone"]:
            return _in_range(at.astimezone(UTC), value)
        if zone is None:
            raise Mismatch("a time with its zone (the contract's timezone is not set)", value, fault="time")
        # Two candidates in the hour that autumn repeats; else both are the same instant.
        both = [at.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        best = min(both, key=lambda instant: abs(instant - now))
        if best.astimezone(zone).replace(tzinfo=None) != at:
            raise Mismatch("a time that the clocks of the zone show", value, fault="time")
    except (ValueError, OverflowError) as error:
        raise Mismatch("a day and a time that exist", value, fault="time") from error
    return _in_range(best, value)


def _in_range(at: datetime, came: Any) -> datetime:
    if not EARLIEST <= at < LATEST:
        raise Mismatch("a time between 2000 and 2100", came, fault="time")
    return at


def _iso(at: datetime, zone: tzinfo | None) -> str:
    return (
        at.astimezone(zone or UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}" + _offset(at, zone)
    )


def _offset(at: datetime, zone: tzinfo | None) -> str:
    return at.astimezone(zone or UTC).strftime("%z")


def _local(at: datetime, zone: tzinfo | None) -> str:
    if zone is None:
        raise EncodeError("local times need the contract's timezone, which is not set")
    return at.astimezone(zone).strftime("%Y-%m-%dT%H:%M:%S")


# ---------------------------------------------------------------------------------------------------- maps and marks


def _read_map(rows: Sequence[MapRow], value: Any) -> Any:
    for row in rows:
        if type(row.wire) is type(value) and row.wire == value:
            return row.ours
    for row in rows:
        if row.others and isinstance(value, str | int):
            return row.ours
    raise Mismatch("one of " + ", ".join(str(row.wire) for row in rows), value)


def _write_map(rows: Sequence[MapRow], ours: Any) -> Any:
    return next((row.wire for row in rows if row.ours == ours), ABSENT)


def _read_mark(marks: Marks, value: Any) -> str:
    if type(value) is int and abs(value) < INT_MAX:
        word = str(value)
    else:
        word = identity(value)
    if "," in word:
        raise Mismatch("a word without commas", value)
    return "" if word in marks.good else f"{marks.prefix}{word}"


def _mark(marks: Marks, word: str) -> Any:
    if not word:
        if not (marks.always and marks.good):
            return ABSENT
        text = marks.good[0]
    elif marks.prefix and not word.startswith(marks.prefix):
        text = marks.other
    else:
        text = word.removeprefix(marks.prefix)
    if marks.number and not re.fullmatch(r"[0-9]{1,10}", text):
        text = marks.other
    if not text:
        return ABSENT
    return int(text) if marks.number else text


def _digits(text: Any) -> Any:
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,18}", text) else ABSENT


def _as_decimal(amount: Any) -> Any:
    return amount if isinstance(amount, Decimal) and amount.is_finite() else ABSENT


_PLAIN = {
    "": Conversion(lambda value, _now: identity(value), lambda text: text if is_identity(str(text)) else ABSENT),
    "text": Conversion(lambda value, _now: _text(value), lambda text: text),
    "int": Conversion(lambda value, _now: _int(value), lambda number: number),
    "digits": Conversion(lambda value, _now: str(_int(value)), _digits),
    "flag": Conversion(lambda value, _now: _flag(value), lambda flag: flag),
    "json": Conversion(lambda value, _now: value, lambda value: value),
    "number": Conversion(lambda value, _now: _number(value), _as_decimal),
    "decimal": Conversion(
        lambda value, _now: _number(value),
        lambda amount: _plain(amount) if isinstance(amount, Decimal) and amount.is_finite() else ABSENT,
    ),
    "ms": Conversion(lambda value, _now: _epoch(value, 1000), _milliseconds),
    "s": Conversion(lambda value, _now: _epoch(value, 1), lambda at: _milliseconds(at) // 1000),
}
