"""Finding what is wrong with a contract before a meter does.

The loaders refuse a file at the first thing that makes it no contract; the linter goes on and names everything. For
Modbus it also finds what only shows when rows are held against each other or against the limits; for DL/T 645, units
that do not fit their OBIS codes. A finding is a line for people: contract, where, what.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from firmware_contracts.contract import Contract
from firmware_contracts.errors import BadContract, ContractError, OutOfReach
from firmware_contracts.library import load_any, protocol_of
from firmware_contracts.lint_units import dimension_of_obis, dimension_of_unit, ratios_of
from firmware_contracts.modbus_contract import ModbusContract, read_modbus
from protocols.modbus.points import Point

__all__ = ["LintFinding", "lint", "lint_modbus"]


class LintFinding(Struct, frozen=True, kw_only=True):
    """where: point, row or section, "" for the file as a whole."""

    contract: str
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.contract}: {self.where + ': ' if self.where else ''}{self.problem}"


def lint(name: str) -> list[LintFinding]:
    """What is wrong with a contract, by name or path; nothing is good. Never raises for what a file holds."""
    try:
        if protocol_of(name) == "modbus":
            return lint_modbus(read_modbus(name))
        loaded = load_any(name)
        return list(_units_of_items(loaded)) if isinstance(loaded, Contract) else []
    except BadContract as error:
        return [LintFinding(contract=name, where=error.where, problem=_elsewhere(name, error))]
    except (ContractError, ValueError, TypeError, LookupError, AttributeError) as error:
        return [LintFinding(contract=name, where="", problem=str(error))]


def _elsewhere(name: str, error: BadContract) -> str:
    """The problem, with the file it is in where that is one which the contract extends."""
    return error.problem if error.file == name else f"in {error.file}: {error.problem}"


def lint_modbus(contract: ModbusContract) -> list[LintFinding]:
    """As `lint`, for a contract that was read already: rows that cannot be read first, then what the others say together."""
    found = [
        LintFinding(contract=contract.name, where=problem.where, problem=_elsewhere(contract.name, problem))
        for problem in contract.problems
    ]
    checks: Sequence[Callable[[ModbusContract], Iterator[tuple[str, str]]]] = (
        _empty,
        _overlaps,
        _obis_twice,
        _units,
        _ratios,
        _scales,
        _marks,
        _reach,
        _relay,
    )
    for check in checks:
        found += [LintFinding(contract=contract.name, where=where, problem=said) for where, said in check(contract)]
    return found


def _empty(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    if not contract.points and not contract.problems:
        yield "rows", "no points"
    if not contract.provenance:
        yield "contract", "no provenance: say where all this is from"


def _overlaps(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    """Two points that share a register: one of them has the wrong place or the wrong type."""
    spaces: dict[int, list[Point]] = {}
    for point in contract.points:
        function = 3 if contract.limits.either_function else point.function
        spaces.setdefault(function, []).append(point)
    for points in spaces.values():
        widest: Point | None = None  # of those seen, the one that reaches furthest
        for point in sorted(points, key=lambda point: (point.address, point.end)):
            if widest is not None and point.address < widest.end:
                yield (
                    f"point {widest.name}",
                    f"{_place(widest)} overlaps point {point.name} at {_place(point)}",
                )
            widest = point if widest is None or point.end > widest.end else widest


def _obis_twice(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    with_code = sorted(
        (point for point in contract.points if point.obis), key=lambda point: point.obis.text if point.obis else ""
    )
    for obis, same in groupby(with_code, key=lambda point: point.obis):
        points = list(same)
        for point in points[1:]:
            yield f"point {point.name}", f"OBIS {obis} is that of point {points[0].name} as well"


def _units(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    for point in contract.written:
        wanted = dimension_of_obis(point.obis) if point.obis else None
        if wanted is not None and dimension_of_unit(point.unit) is not wanted:
            yield f"point {point.name}", f"unit {point.unit.value!r}, but OBIS {point.obis} is {wanted.value}"


def _ratios(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    for point in contract.points:
        if point.ratio not in ratios_of(point.unit):
            yield (
                f"point {point.name}",
                f"ratio {point.ratio!r} has no meaning for {point.unit.value or 'a number without unit'}",
            )


def _scales(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    for point in contract.written:
        if point.scale < 0:
            yield (
                f"point {point.name}",
                f"scale {point.scale} turns import into export: is the OBIS code the right one?",
            )


def _marks(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    for point in contract.points:
        if 0 in point.invalid:
            yield (
                f"point {point.name}",
                "zero as the mark of what is not measured: no voltage and no energy cannot be told",
            )


def _reach(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    """Points that no request within the limits reads by itself, and so none at all."""
    limits = contract.limits
    for point in contract.points:
        if limits.even_only and (point.address % 2 or point.width % 2):
            yield f"point {point.name}", f"{_place(point)}, but the meter wants even start and even count (even_only)"
            continue
        try:
            contract.plan([point])
        except OutOfReach as error:
            yield f"point {point.name}", error.problem


def _relay(contract: ModbusContract) -> Iterator[tuple[str, str]]:
    if contract.relay is None:
        return
    relay, functions = contract.relay, contract.limits.functions
    for function, part in ((relay.write_function, "relay"), (relay.status.request().function, "relay.status")):
        if functions and function not in functions:
            yield part, f"function {function}, but limits has the functions {', '.join(map(str, functions))} only"


def _place(point: Point) -> str:
    return f"{point.address:04X}H to {point.end - 1:04X}H" if point.width > 1 else f"{point.address:04X}H"


def _units_of_items(contract: Contract) -> Iterator[LintFinding]:
    for spec in contract.samples():
        wanted = dimension_of_obis(spec.obis) if spec.obis else None
        if wanted is not None and not spec.members and dimension_of_unit(spec.unit) is not wanted:
            yield LintFinding(
                contract=contract.name,
                where=f"DI {spec.di}",
                problem=f"unit {spec.unit.value!r}, but OBIS {spec.obis} is {wanted.value}",
            )
