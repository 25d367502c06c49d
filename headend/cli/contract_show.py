"""What a contract or one of its items says, for people and for programs."""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from firmware_contracts.contract import Contract
from firmware_contracts.families import family_of
from firmware_contracts.sections import QUIRK_MEANINGS, QuirkName
from protocols.dlt645.items import ItemSpec, fields_of, size_range

__all__ = ["contract_json", "item_json", "show_contract", "show_item"]

ALIKE_SHOWN_MAX = 4
_NUMBER_AT_END = re.compile(r"\d+$")


def contract_json(contract: Contract, *, items: bool = False) -> dict[str, Any]:
    """items: with its families of items, tariffs and numbers as placeholders."""
    about: dict[str, Any] = {
        "contract": contract.name,
        "protocol": contract.protocol,
        "maker": contract.maker,
        "model": contract.model,
        "firmware": contract.firmware,
        "description": contract.description,
        "provenance": contract.provenance,
        "extends": contract.extends,
        "promises": contract.offers is not None,
        "limits": contract.limits,
        "serial": contract.serial,
        "passwords": contract.passwords,
        "relay": contract.relay,
        "quirks": [
            {"name": row.name.value, "value": row.value, "source": row.source, "note": row.note}
            for row in contract.quirk_rows
        ],
    }
    return about | ({"items": list(contract.items())} if items else {})


def show_contract(contract: Contract) -> Iterator[RenderableType]:
    yield Text.from_markup(f"[bold]{escape(contract.name)}[/]  {escape(contract.description)}")
    if contract.provenance:
        yield Text(contract.provenance, style="bright_black")
    yield Text()
    yield _facts(contract)
    yield Text("\nQuirks", style="bold")
    yield _quirks(contract)
    yield Text("\nItems", style="bold")
    yield _items(contract)


def _facts(contract: Contract) -> Table:
    limits, relay = contract.limits, contract.relay
    ways = [name for name, is_taken in (("plain", relay.plain), ("secure", relay.secure)) if is_taken]
    promise = (
        "promises what is listed" if contract.offers is not None else "says what items mean, promises none of them"
    )
    facts = {
        "protocol": contract.protocol,
        "extends": contract.extends or "nothing",
        "offers": promise,
        "serial": contract.serial.text,
        "phases, tariffs": f"{limits.phases}, {limits.tariffs}",
        "frames": f"read {limits.read_data_max}, write {limits.write_data_max} bytes of DATA; "
        + ("longer replies in several frames" if limits.follow_up else "no reply in several frames"),
        "relay": ", ".join(ways) or "none",
        "password levels": f"write {contract.passwords.write:02X}, clear {contract.passwords.clear:02X}",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, fact in facts.items():
        table.add_row(Text(name, style="bright_black"), Text(fact))
    return table


def _quirks(contract: Contract) -> Table:
    rows = {row.name: row for row in contract.quirk_rows}
    table = Table(box=None, pad_edge=False)
    for column in ("quirk", "value", "source", "meaning"):
        table.add_column(column)
    for name in QuirkName:
        row = rows.get(name)
        value = str(getattr(contract.quirks, name.value))
        style = "" if row else "bright_black"
        note = f" ({row.note})" if row and row.note else ""
        source = row.source if row else "default"
        table.add_row(name.value, value, escape(source), escape(QUIRK_MEANINGS[name] + note), style=style)
    return table


def _items(contract: Contract) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("DI", "name", "layout", "unit", "access", "OBIS", "source"):
        table.add_column(column)
    for family in contract.items():
        cells = (family.di, family.name, family.layout, family.unit, family.access, family.obis, family.source)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def item_json(spec: ItemSpec) -> dict[str, Any]:
    least, most = size_range(spec)
    return {
        "di": spec.di.text,
        "name": spec.name,
        "name_zh": spec.name_zh,
        "family": family_of(spec.di.text),
        "layout": spec.layout,
        "unit": spec.unit.value,
        "signed": spec.signed,
        "access": spec.access,
        "obis": str(spec.obis) if spec.obis else None,
        "bytes_min": least,
        "bytes_max": most,
        "members": [member.di.text for member in spec.members],
        "source": spec.source,
        "origin": spec.origin,
        "note": spec.note,
    }


def show_item(spec: ItemSpec) -> Iterator[RenderableType]:
    yield Text.from_markup(f"[bold]{spec.di}[/]  {escape(spec.name)}  {escape(spec.name_zh)}")
    facts = item_json(spec)
    least, most = facts["bytes_min"], facts["bytes_max"]
    facts["bytes"] = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
    table = Table(box=None, pad_edge=False, show_header=False)
    for key in ("family", "layout", "unit", "bytes", "access", "obis", "source", "origin", "note"):
        if facts[key]:
            table.add_row(Text(key, style="bright_black"), Text(str(facts[key])))
    if facts["members"]:
        table.add_row(Text("members", style="bright_black"), Text(", ".join(facts["members"])))
    yield table
    fields = fields_of(spec)
    if len(fields) > 1:
        yield Text("\nValues, in the order of the reply", style="bold")
        yield _fields(spec)


def _fields(spec: ItemSpec) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("value", "format", "unit", "OBIS"):
        table.add_column(column)
    # A field for each of 63 tariffs is one line to read: the first, dots, the last.
    for _, same in groupby(fields_of(spec), key=lambda field: (_NUMBER_AT_END.sub("", field.label), field.wire)):
        alike = list(same)
        shown = alike if len(alike) <= ALIKE_SHOWN_MAX else [alike[0], None, alike[-1]]
        for field in shown:
            if field is None:
                table.add_row("…")
                continue
            unit = field.unit.value if field.unit else ""
            table.add_row(escape(field.label), field.wire.text, unit, str(field.obis) if field.obis else "")
    return table
