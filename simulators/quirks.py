"""What one meter does its own way: the quirks of its contract, and some that no contract would promise."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from firmware_contracts.contract import Contract
from firmware_contracts.sections import QuirkName, Quirks
from protocols.dlt645.items import Separators

__all__ = ["BadQuirk", "MeterQuirks", "parse_quirks", "quirks_of"]


class BadQuirk(ValueError):
    """No such quirk, or not with that value."""


class MeterQuirks(Struct, frozen=True, kw_only=True):
    """contract: those that `[[quirks]]` rows name, see `firmware_contracts.sections`.

    reply_delay_s: Td of every reply; None leaves it to the meter's seed.
    dropped_byte: the byte, counted from the first 68H, that every reply lacks; None: none.
    offset: DATA carries the +33H of the standard; False: it does not, and requests are read the same.
    parity: E is the standard's 8E1; N is 8N1, which a line of 8E1 cannot understand.
    """

    contract: Quirks
    reply_delay_s: float | None = None
    dropped_byte: int | None = None
    offset: bool = True
    parity: Literal["E", "N"] = "E"

    @property
    def separators(self) -> Separators:
        return Separators(self.contract.separators)


def quirks_of(contract: Contract, **own: Any) -> MeterQuirks:
    """Of the contract, with changes by name, of either kind. Raises BadQuirk.

    Without a word about it, B and C of a single-phase meter are FFH, as nearly all meters send them.
    """
    return _changed(contract, own)


def parse_quirks(contract: Contract, given: Sequence[str]) -> MeterQuirks:
    """The same from texts such as "preamble=0". Raises BadQuirk."""
    changes: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise BadQuirk(f"{text!r}, expected NAME=VALUE, for example preamble=0")
        changes[name.strip()] = value.strip()
    return _changed(contract, changes, strict=False)


def _changed(contract: Contract, changes: Mapping[str, Any], *, strict: bool = True) -> MeterQuirks:
    of_contract = {field for field in Quirks.__struct_fields__}
    own = {field for field in MeterQuirks.__struct_fields__} - {"contract"}
    if unknown := set(changes) - of_contract - own:
        raise BadQuirk(f"no quirk {', '.join(sorted(unknown))}: there are {', '.join(sorted(of_contract | own))}")
    parity = "N" if contract.serial.parity == "N" else "E"
    base = msgspec.to_builtins(contract.quirks)
    if all(row.name is not QuirkName.ABSENT_PHASE for row in contract.quirk_rows):
        base["absent_phase"] = "ff"
    base |= {key: changes[key] for key in changes if key in of_contract}
    mine = {"parity": parity} | {key: changes[key] for key in changes if key in own}
    try:
        return msgspec.convert({"contract": base, **mine}, MeterQuirks, strict=strict)
    except msgspec.ValidationError as error:
        raise BadQuirk(str(error)) from error
