"""What a Modbus contract or one of its points says, for people and for programs."""

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from firmware_contracts.modbus_contract import CONFIDENCE, ModbusContract
from firmware_contracts.modbus_relay import ModbusRelay
from protocols.modbus.points import Point
from protocols.values import Obis

__all__ = ["find_point", "modbus_json", "point_json", "show_modbus", "show_point"]


def find_point(contract: ModbusContract, text: str) -> Point:
    """By name, OBIS code or reg:…. Raises UnknownItem, BadText."""
    if text.startswith("reg:"):
        return contract.find_register(text)
    return contract.find_obis(Obis(text)) if ":" in text else contract.find(text)


def modbus_json(contract: ModbusContract, *, points: bool = False) -> dict[str, Any]:
    about: dict[str, Any] = {
        "contract": contract.name,
        "protocol": contract.protocol,
        "maker": contract.maker,
        "model": contract.model,
        "firmware": contract.firmware,
        "description": contract.description,
        "provenance": contract.provenance,
        "confidence": contract.confidence,
        "extends": contract.extends,
        "port": contract.port,
        "notes": contract.notes,
        "limits": contract.limits,
        "serial": contract.serial,
        "relay": contract.relay,
        "ratios": {name: point_json(point) for name, point in contract.ratios.items()},
        "sources": contract.sources,
    }
    return about | ({"points": [point_json(point) for point in contract.points]} if points else {})


def point_json(point: Point) -> dict[str, Any]:
    """scale: what the number in the registers is multiplied with to get `unit`. invalid: contents that mean not measured."""
    return {
        "name": point.name,
        "name_zh": point.name_zh,
        "obis": str(point.obis) if point.obis else None,
        "function": point.function,
        "address": point.address,
        "width": point.width,
        "type": point.type.value,
        "word_order": point.word_order.value,
        "scale": f"{point.scale:f}",
        "unit": point.unit.value,
        "ratio": point.ratio,
        "invalid": [_mark(point, mark) for mark in point.invalid],
        "access": point.access,
        "source": point.source,
        "origin": point.origin,
        "note": point.note,
    }


def show_modbus(contract: ModbusContract) -> Iterator[RenderableType]:
    yield Text.from_markup(f"[bold]{escape(contract.name)}[/]  {escape(contract.description)}")
    if contract.provenance:
        yield Text(contract.provenance, style="bright_black")
    yield Text()
    yield _facts(contract)
    for note in contract.notes:
        yield Text(f"- {note}")
    yield Text("\nPoints (as they come out: power in kW)", style="bold")
    yield _points(contract)


def show_point(point: Point) -> Iterator[RenderableType]:
    yield Text.from_markup(f"[bold]{escape(point.name)}[/]  {escape(point.name_zh)}")
    table = Table(box=None, pad_edge=False, show_header=False)
    facts = point_json(point) | {"address": _place(point), "invalid": ", ".join(_marks(point))}
    for key, fact in facts.items():
        if key not in ("name", "name_zh", "width") and fact:
            table.add_row(Text(key.replace("_", " "), style="bright_black"), Text(str(fact)))
    yield table


def _facts(contract: ModbusContract) -> Table:
    limits = contract.limits
    window = "" if limits.window == (0, 0xFFFF) else f", {limits.window[0]:04X}H to {limits.window[1]:04X}H only"
    facts = {
        "meter": f"{contract.maker} {contract.model}, firmware {contract.firmware}",
        "extends": contract.extends or "nothing",
        "confidence": f"{contract.confidence}: {CONFIDENCE[contract.confidence]}",
        "serial": contract.serial.text if contract.port == "rs485" else "none: Ethernet, Modbus TCP",
        "phases": str(limits.phases),
        "one request": f"{limits.registers_max} registers at most"
        + (", even start and count" if limits.even_only else "")
        + f", holes {limits.holes}{window}",
        "limits from": limits.source,
        "functions": ", ".join(str(function) for function in limits.functions) or "not told",
        "all points": f"{len(contract.plan(contract.points))} requests for {len(contract.points)} points",
        "ratios": ", ".join(f"{name.upper()} at {_place(point)}" for name, point in contract.ratios.items()),
        "relay": _relay(contract.relay),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, fact in facts.items():
        if fact:
            table.add_row(Text(name, style="bright_black"), Text(fact))
    return table


def _relay(relay: ModbusRelay | None) -> str:
    if relay is None:
        return "none"
    status = relay.status
    mask = f" masked {status.mask:04X}H" if status.kind in ("holding", "input") else ""
    return (
        f"{relay.kind} {relay.address:04X}H (function {relay.write_function}): {relay.on:04X}H closes, {relay.off:04X}H opens; "
        f"closed when {status.kind} {status.address:04X}H{mask} is {status.on:04X}H"
    )


def _points(contract: ModbusContract) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("point", "function", "address", "type", "scale", "unit", "OBIS", "ratio", "note"):
        table.add_column(column)
    for point in contract.points:
        order = " low word first" if point.width > 1 and point.word_order.value == "little" else ""
        table.add_row(
            escape(point.name),
            str(point.function),
            f"{point.address:04X}H",
            f"{point.type.value}{order}",
            f"{point.scale:f}",
            point.unit.value,
            str(point.obis) if point.obis else "",
            point.ratio,
            escape(point.note),
        )
    return table


def _place(point: Point) -> str:
    count = f"{point.width} registers" if point.width > 1 else "1 register"
    return f"{point.address:04X}H ({point.address}), {count}"


def _marks(point: Point) -> list[str]:
    return [f"{_mark(point, mark)}H" for mark in point.invalid]


def _mark(point: Point, mark: int) -> str:
    return f"{mark:0{4 * point.width}X}"
