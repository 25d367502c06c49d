"""The sections of a contract besides its rows: limits, serial settings, passwords, relay, what is offered, quirks.

A quirk is a named row: what one meter does where the standard is silent, sources disagree or the meter is wrong. The
names are closed (`QuirkName`), each has its meaning written down here, and a row says where its value comes from:

    [[quirks]]
    name = "separators"
    value = "each"
    source = "C;Y;F"
    note = "AAH behind every item of a freeze block"

A contract inherits the rows of the one it extends; a row of the same name replaces the inherited one. What no file
says has the default of `Quirks`.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from firmware_contracts.errors import BadContract

__all__ = [
    "QUIRK_MEANINGS",
    "Limits",
    "Offers",
    "Passwords",
    "QuirkName",
    "QuirkRow",
    "Quirks",
    "Relay",
    "Serial",
    "quirks_from_rows",
]

_PATTERN = re.compile(r"[0-9A-Fx]{1,8}")
_Level = Annotated[int, Meta(ge=0, le=9)]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """read_data_max, write_data_max: bytes of DATA in one frame (DL/T 645-2007 §5.2.5: 200 and 50).

    follow_up: longer replies come in several frames. tariffs: as configured in the factory, without the total.
    phases: how many the meter measures. load_record_days: what its memory holds at the factory's interval; 0: not told.
    """

    read_data_max: int = 200
    write_data_max: int = 50
    follow_up: bool = True
    tariffs: int = 4
    phases: Literal[1, 3] = 3
    load_record_days: int = 0


class Serial(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the port is set to when it leaves the factory."""

    baud: int = 2400
    parity: Literal["E", "N", "O"] = "E"
    stop_bits: Literal[1, 2] = 1

    @property
    def text(self) -> str:
        """As people write it: 2400 8E1."""
        return f"{self.baud} 8{self.parity}{self.stop_bits}"


class Passwords(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lowest level (the greatest PA) that may write data or clear the demand, and clear meter or events."""

    write: _Level = 4
    clear: _Level = 2


class Relay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the meter does with 1CH. plain: password and N1..N8 in clear. secure: ciphertext and MAC after authentication.

    Neither: the meter has no relay, or none that can be reached from outside.
    """

    plain: bool = False
    secure: bool = False


class Offers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which items of its rows the meter has. A contract with this section promises them; without it, any may be absent.

    items, left_out: beginnings of DIs, x for any digit: "0001", "02xx01". An item is offered when one of `items` fits
    and none of `left_out`. Tariffs above the limit are never offered.
    """

    items: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.items + self.left_out:
            if _PATTERN.fullmatch(pattern) is None:
                raise ValueError(f"{pattern!r}: expected the beginning of a DI, x for any digit, such as 02xx01")

    def has(self, di: str) -> bool:
        return any(_fits(di, pattern) for pattern in self.items) and not any(
            _fits(di, pattern) for pattern in self.left_out
        )


def _fits(di: str, pattern: str) -> bool:
    return len(pattern) <= len(di) and all(wanted in ("x", digit) for wanted, digit in zip(pattern, di, strict=False))


class QuirkName(enum.Enum):
    ASCII_ORDER = "ascii_order"
    SEPARATORS = "separators"
    ABSENT_PHASE = "absent_phase"
    MISSING_POINT = "missing_point"
    PREAMBLE = "preamble"
    REPEATED_FOLLOW_UP = "repeated_follow_up"
    UNICAST_TIME_SYNC = "unicast_time_sync"
    BLOCK_COUNT = "block_count"
    COVER_BIT = "cover_bit"
    TIMED_TRIP = "timed_trip"
    RELAY_LEVEL = "relay_level"


QUIRK_MEANINGS: dict[QuirkName, str] = {
    QuirkName.ASCII_ORDER: "How texts are sent: last character first as the standard has it, plain, or judged by "
    "plausibility (detect).",
    QuirkName.SEPARATORS: "AAH in blocks: none as in the standard's text, behind each item, or once at the end. For "
    "writing them; reading accepts all three.",
    QuirkName.ABSENT_PHASE: "What a block of phases says of B and C in a single-phase meter: FFH in every byte, zero, "
    "which is then no measurement, or nothing (omitted).",
    QuirkName.MISSING_POINT: "What a load curve holds for a moment that was not recorded: FFH, or the energy of the point "
    "before it again (repeat); other quantities are FFH either way.",
    QuirkName.PREAMBLE: "How many FEH stand before a reply, 0 to 4.",
    QuirkName.REPEATED_FOLLOW_UP: "What the same SEQ asked for twice brings the second time: a refusal, the same data, or a "
    "reply without data (empty).",
    QuirkName.UNICAST_TIME_SYNC: "Whether 08H sent to the meter's own address is answered or silent; the standard shows it "
    "as broadcast only.",
    QuirkName.BLOCK_COUNT: "How the number of blocks N of a load record request is read: bcd or binary; the same below ten.",
    QuirkName.COVER_BIT: "Which bit of status word 7 says that the meter's cover is open, 9 or 10; the terminal cover is the "
    "other one.",
    QuirkName.TIMED_TRIP: "What restores the supply after 1DH: closes (and 1EH permits to close), or the two swapped "
    "(permits).",
    QuirkName.RELAY_LEVEL: "The lowest password level (the greatest PA) that may send 1CH.",
}


class Quirks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One field for each QuirkName, with the value of a meter that no row describes. See QUIRK_MEANINGS."""

    ascii_order: Literal["reversed", "plain", "detect"] = "reversed"
    separators: Literal["none", "each", "end"] = "none"
    absent_phase: Literal["ff", "zero", "omitted"] = "ff"
    missing_point: Literal["ff", "repeat"] = "ff"
    preamble: Annotated[int, Meta(ge=0, le=4)] = 4
    repeated_follow_up: Literal["refused", "same", "empty"] = "refused"
    unicast_time_sync: Literal["answered", "silent"] = "answered"
    block_count: Literal["bcd", "binary"] = "bcd"
    cover_bit: Literal[9, 10] = 9
    timed_trip: Literal["closes", "permits"] = "closes"
    relay_level: _Level = 4


class QuirkRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """source: keys of documents as in rows of items, or in words where the value was met."""

    name: QuirkName
    value: str | int
    source: Annotated[str, Meta(min_length=1)]
    note: str = ""


def quirks_from_rows(layers: Sequence[tuple[str, Any]]) -> tuple[Quirks, tuple[QuirkRow, ...]]:
    """layers: file and its `quirks`, the most particular first. Gives the values in force and the rows behind them."""
    rows: dict[QuirkName, QuirkRow] = {}
    for file, given in reversed(layers):
        if not isinstance(given, list) or not all(isinstance(row, Mapping) for row in given):
            raise BadContract(file, "quirks", "expected rows: [[quirks]] with name, value and source")
        own: dict[QuirkName, QuirkRow] = {}
        for row in given:
            quirk = _row(file, row)
            if quirk.name in own:
                raise BadContract(file, f"quirk {quirk.name.value}", "stands twice")
            own[quirk.name] = quirk
        rows |= own
    values = {name.value: row.value for name, row in rows.items()}
    return msgspec.convert(values, Quirks), tuple(rows.values())


def _row(file: str, given: Mapping[str, Any]) -> QuirkRow:
    where = f"quirk {given.get('name', '')}"
    names = [name.value for name in QuirkName]
    if given.get("name") not in names:
        raise BadContract(file, where, f"no such quirk: there are {', '.join(names)}")
    try:
        row = msgspec.convert(given, QuirkRow)
        msgspec.convert({row.name.value: row.value}, Quirks)
    except msgspec.ValidationError as error:
        raise BadContract(file, where, str(error)) from error
    return row
