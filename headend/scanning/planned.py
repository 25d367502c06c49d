"""Which meters should be on a line, from a CSV of meters, and how that compares with what was found."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from msgspec import Struct

from headend.errors import HeadendError
from protocols.errors import BadAddress
from protocols.values import MeterAddress

__all__ = ["BadPlan", "Comparison", "PlannedMeter", "compare", "load_planned"]

COLUMNS = ("id", "line", "address")


class BadPlan(HeadendError):
    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        super().__init__(f"plan {path}: " + "; ".join(problems))


class PlannedMeter(Struct, frozen=True):
    """id: asset number."""

    id: str
    address: str


class Comparison(Struct, frozen=True, kw_only=True):
    """missing: planned, and silent also when asked by their own address. unexpected: addresses found and not planned."""

    matched: list[PlannedMeter]
    missing: list[PlannedMeter]
    unexpected: list[str]


def load_planned(path: Path, line: str | None) -> list[PlannedMeter]:
    """The rows of one line; `line` is the name in column `line`, needed when there is more than one. Raises BadPlan."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(path, [f"cannot be read: {error}"]) from error
    rows = csv.DictReader(text.splitlines())
    if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
        raise BadPlan(path, [f"missing column {', '.join(missing)}; expected {','.join(COLUMNS)},…"])
    meters: dict[str, dict[str, PlannedMeter]] = {}
    problems = []
    for row in rows:
        name, address = row["line"] or "", (row["address"] or "").strip()
        try:
            meter = PlannedMeter(row["id"] or "", MeterAddress(address).digits)
        except BadAddress as error:
            problems.append(f"row {rows.line_num}: {error}")
            continue
        if (twin := meters.setdefault(name, {}).setdefault(address, meter)) is not meter:
            problems.append(f"row {rows.line_num}: address {address} stands on this line already, as {twin.id}")
    if problems:
        raise BadPlan(path, problems)
    if line is None and len(meters) > 1:
        raise BadPlan(path, [f"has {len(meters)} lines ({', '.join(meters)}); say which one with --plan-line"])
    if line is not None and line not in meters:
        raise BadPlan(path, [f"has no line {line!r}; expected one of {', '.join(meters)}"])
    return list((meters[line] if line is not None else next(iter(meters.values()), {})).values())


def compare(planned: Sequence[PlannedMeter], found: Collection[str]) -> Comparison:
    known = {meter.address for meter in planned}
    return Comparison(
        matched=[meter for meter in planned if meter.address in found],
        missing=[meter for meter in planned if meter.address not in found],
        unexpected=sorted(address for address in found if address not in known),
    )
