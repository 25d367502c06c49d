"""How one record follows another. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from headend.audit.kinds import BROKEN
from headend.audit.record import NO_HASH, hash_of

__all__ = ["START", "Body", "Tail", "break_data", "read_body", "trouble_after"]


class Tail(Struct, frozen=True):
    """Where the log ends: number and hash of its last record."""

    number: int
    hash: str


START = Tail(0, NO_HASH)


class Body(Struct, frozen=True, gc=False):
    """What of a record's body matters for the chain."""

    number: int
    kind: str
    data: msgspec.Raw
    meter: str | None = None
    meter_number: int | None = None


_decode = msgspec.json.Decoder(Body).decode
_Numbers = tuple[str | None, int | None]


def read_body(body: str) -> Body:
    """Raises ValueError."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError) as error:
        raise ValueError(f"is no record: {error}") from error


def break_data(problem: str, *, expected: Tail, found: Tail) -> dict[str, Any]:
    """`data` of a record that begins a new segment. expected: where the log should have ended. found: where it does."""
    return {"problem": problem, "expected": msgspec.to_builtins(expected), "found": msgspec.to_builtins(found)}


def trouble_after(
    before: Tail, number: int, hash_: str, body_text: str, body: Body, columns: _Numbers | None
) -> Iterator[str]:
    """What is wrong with a record, `before` being the one before it as it is kept. columns: as the store finds it by."""
    if body.number != number:
        yield f"record {number} says that it is {body.number}"
    if number != before.number + 1 and not (number > before.number and _names_the_gap(body, before)):
        if number <= before.number:
            yield f"record {number} stands behind record {before.number}"
        else:
            gone = f"{before.number + 1} to {number - 1} are" if number > before.number + 2 else f"{number - 1} is"
            yield f"record {gone} missing"
    if hash_ != hash_of(before.hash, body_text):
        yield f"record {number} or the one before it was changed: its hash is not that of what it says"
    if columns is not None and columns != (body.meter, body.meter_number):
        yield f"record {number} is filed under meter {columns[0]!r}, and says {body.meter!r}"


def _names_the_gap(body: Body, before: Tail) -> bool:
    if body.kind != BROKEN:
        return False
    try:
        return bool(msgspec.json.decode(body.data)["found"] == msgspec.to_builtins(before))
    except (msgspec.MsgspecError, LookupError, TypeError, RecursionError):
        return False
