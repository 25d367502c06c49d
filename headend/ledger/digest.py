"""Digests that a consumer can compute from its own copy, whatever it keeps the events in.

Canonical JSON is RFC 8785: members sorted by name, no blanks, shortest strings, numbers as ECMAScript writes them. It depends on
what a document says, not on how it was spelled, so a copy may be parsed, stored and written again.

    digest of a record     SHA-256 of the canonical JSON of its `data`, 64 hex digits
    hash of some records   SHA-256 of one line per record, in the order of their sequences: digest, two blanks, `id`, newline
    hash of some events    the same, but each line is the SHA-256 of the event's canonical JSON with the digest in the place of `data`
"""

import hashlib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

__all__ = ["RecordsHash", "canonical", "digest_of", "event_text", "read_digest", "record_text"]

_INTEGER_MAX = 2**53 - 1  # beyond, RFC 8785 has only doubles
_SIMPLE = {str, bool, type(None)}
_sorted = msgspec.json.Encoder(order="sorted").encode


def canonical(value: object) -> bytes:
    """RFC 8785. value: as a JSON parser gives it. Raises ValueError for what JSON cannot say."""
    return _sorted(value) if _is_plain(value) else _written(value).encode()


def digest_of(data: object) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()


def read_digest(data: object) -> str:
    """As `digest_of`, for the data of a read from our own feed, which needs no second look: text, lists of text, small integers."""
    return hashlib.sha256(_sorted(data)).hexdigest()


def event_text(event: dict[str, Any], digest: str) -> bytes:
    """The line of an event. digest: of its data. The envelope of an event of ours has nothing but text."""
    return f"{hashlib.sha256(_sorted({**event, 'data': digest})).hexdigest()}\n".encode()


def record_text(identity: str, digest: str) -> bytes:
    """The line of a record."""
    return f"{digest}  {identity}\n".encode()


class RecordsHash:
    """Count, first and last sequence, and hash of records that are added in the order of their sequences."""

    __slots__ = ("_hash", "count", "first", "last")

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None
        self._hash = hashlib.sha256()

    def add(self, sequence: int, record: bytes) -> None:
        """record: its line."""
        self.count += 1
        if self.first is None:
            self.first = sequence
        self.last = sequence
        self._hash.update(record)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _is_plain(value: object) -> bool:
    """Whether msgspec writes it as RFC 8785 does: it does but for floats, huge integers, and names outside ASCII."""
    if isinstance(value, dict):
        return "".join(value).isascii() and all(map(_is_plain, _not_simple(value.values())))
    if isinstance(value, list):
        return all(map(_is_plain, _not_simple(value)))
    return type(value) in _SIMPLE or (type(value) is int and -_INTEGER_MAX <= value <= _INTEGER_MAX)


def _not_simple(values: Iterable[object]) -> list[object]:
    return [one for one in values if type(one) not in _SIMPLE]


def _written(value: object) -> str:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{_text(name)}:{_written(value[name])}" for name in names) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and -_INTEGER_MAX <= value <= _INTEGER_MAX:
        return str(value)
    if isinstance(value, int | float):
        return _number(float(value))
    raise ValueError(f"{type(value).__name__} is nothing that JSON can say")


def _text(value: str | bool | None) -> str:
    return _sorted(value).decode()


def _number(value: float) -> str:
    """As ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20): the shortest digits that mean this double."""
    if value == 0:
        return "0"
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{value} is nothing that JSON can say")
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    shown = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(shown)
    point = len(shown) + exponent  # where the decimal point stands, counted from the first digit
    if exponent >= 0 and point <= 21:
        text = shown + "0" * exponent
    elif 0 < point <= 21:
        text = f"{shown[:point]}.{shown[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{shown}"
    else:
        fraction = f".{shown[1:]}" if len(shown) > 1 else ""
        text = f"{shown[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text
