"""Rows of a Modbus contract: points with address, type, word order, scale, unit, access and source.

Rows that share keys are written together; each line is a point, and what it says itself goes before what is shared:

    [[rows]]
    function = 4
    type = "float32"
    word_order = "big"
    scale = "1"
    access = "r"
    source = "map"

    [rows.points]
    voltage_l1 = { address = 0x0000, unit = "V", obis = "1-0:32.7.0", zh = "A相电压" }

Addresses are those on the wire, counted from zero. `source` names keys of `[sources]`, several with semicolons. A row
that lacks function, address, type, word_order, scale, unit, access or source is refused: nothing of it can be guessed.
`width` may be given where a map prints the number of registers; it must then be the type's. `ratio` says with what a
value of the secondary side is multiplied to get that of the primary side: ct, pt or ct*pt.

Files keep the units of the maker's document. `normalised` makes one unit of each: power comes out in kW, kvar and kVA
(DL/T 645 has no others, so a plan or a bill need not ask which protocol a meter speaks), exactly, by the scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import Struct

from firmware_contracts.errors import BadContract
from firmware_contracts.files import Layer
from protocols.errors import BadText
from protocols.modbus.points import Point, PointType, WordOrder
from protocols.values import Obis, Unit

__all__ = [
    "ADDRESS_MAX",
    "FUNCTIONS",
    "NORMAL_UNITS",
    "RATIOS",
    "TYPES",
    "normalised",
    "point_from_row",
    "read_marks",
    "rows_of",
]

ADDRESS_MAX = 0xFFFF
FUNCTIONS = (3, 4)
ACCESS = ("r", "rw", "w")
RATIOS = ("", "ct", "pt", "ct*pt")
NEEDED = ("function", "address", "type", "word_order", "scale", "unit", "access", "source")
KEYS = (*NEEDED, "zh", "obis", "ratio", "invalid", "width", "note")
NORMAL_UNITS = {Unit.W: Unit.KW, Unit.VAR: Unit.KVAR, Unit.VA: Unit.KVA}
SCALE_DIGITS_MAX = 18  # before or behind the point; no meter counts in smaller or larger steps
_THOUSANDTH = Decimal("0.001")
TYPES: dict[str, PointType] = {kind.value: kind for kind in PointType}
_ORDERS = {order.value: order for order in WordOrder}

Marks = Mapping[PointType, tuple[int, ...]]


class Row(Struct, frozen=True, kw_only=True):
    """A line of a file, not yet read. keys: its own over the shared ones. file: where it stands, for messages."""

    file: str
    name: str
    keys: Mapping[str, Any]

    def fail(self, problem: str) -> BadContract:
        return BadContract(self.file, f"point {self.name}", problem)


def rows_of(files: Sequence[Layer], left_out: Sequence[str]) -> tuple[list[Row], list[BadContract]]:
    """The rows in force, and what cannot be read at all.

    files: the most particular first; a row replaces that of the same name below it. left_out: names of inherited points.
    """
    rows: dict[str, Row] = {}
    problems: list[BadContract] = []
    for index, (file, content) in reversed(list(enumerate(files))):
        own: dict[str, Row] = {}
        for row in _written(file, content.get("rows", []), problems):
            if row.name in own:
                problems.append(row.fail("stands twice"))
            own[row.name] = row
        rows |= own
        if index == 0:
            for name in left_out:
                if name in own:
                    problems.append(BadContract(file, "offers", f"left_out: {name!r} has a row of its own here"))
                elif rows.pop(name, None) is None:
                    problems.append(BadContract(file, "offers", f"left_out: {name!r} is no point of the contract"))
    return list(rows.values()), problems


def _written(file: str, given: Any, problems: list[BadContract]) -> Iterator[Row]:
    if not isinstance(given, list) or not all(isinstance(group, dict) for group in given):
        problems.append(BadContract(file, "rows", "expected [[rows]] with [rows.points]"))
        return
    for group in given:
        points = group.get("points")
        if not isinstance(points, dict) or not all(isinstance(keys, dict) for keys in points.values()):
            problems.append(BadContract(file, "rows", "points: expected [rows.points] with a line for each point"))
            continue
        shared = {key: value for key, value in group.items() if key != "points"}
        for name, keys in points.items():
            yield Row(file=file, name=name, keys=shared | keys)


def point_from_row(row: Row, contract: str, sources: Mapping[str, Sequence[str]], marks: Marks) -> Point:
    """The point as it is written, before `normalised`. sources, marks: the sections of the contract. Raises BadContract."""
    keys = row.keys
    if unknown := set(keys) - set(KEYS):
        raise row.fail(f"unknown key {', '.join(sorted(unknown))}: expected {', '.join(KEYS)}")
    if missing := [key for key in NEEDED if key not in keys]:
        raise row.fail(f"{', '.join(missing)} missing")
    kind = _choice(row, "type", TYPES)
    obis = keys.get("obis", "")
    try:
        unit = Unit.from_text(_text(row, "unit"))
        known_as = Obis(_text(row, "obis")) if obis else None
    except BadText as error:
        raise row.fail(str(error)) from error
    point = Point(
        name=row.name,
        name_zh=_text(row, "zh"),
        obis=known_as,
        function=_choice(row, "function", {function: function for function in FUNCTIONS}),
        address=_address(row),
        type=kind,
        word_order=_choice(row, "word_order", _ORDERS),
        scale=_scale(row),
        unit=unit,
        invalid=read_marks(row.file, f"point {row.name}", keys["invalid"], kind)
        if "invalid" in keys
        else marks.get(kind, ()),
        ratio=_choice(row, "ratio", {ratio: ratio for ratio in RATIOS}, ""),
        access=_choice(row, "access", {access: access for access in ACCESS}),
        source=f"{contract}:{row.name}",
        origin="; ".join(_documents(row, sources)),
        note=_text(row, "note"),
    )
    if "width" in keys and keys["width"] != point.width:
        raise row.fail(f"width {keys['width']!r}: {kind.value} has {point.width} of 16 bits")
    if point.end > ADDRESS_MAX + 1:
        raise row.fail(f"{point.width} registers from {point.address:04X}H end beyond FFFFH")
    return point


def normalised(point: Point) -> Point:
    """The same point with its power in kW, kvar or kVA instead of W, var or VA, by a scale a thousand times smaller."""
    if point.unit not in NORMAL_UNITS:
        return point
    return msgspec.structs.replace(point, unit=NORMAL_UNITS[point.unit], scale=point.scale * _THOUSANDTH)


def read_marks(file: str, where: str, given: Any, kind: PointType) -> tuple[int, ...]:
    """Contents that mean "not measured", as they are written: hex digits, four for each register. Raises BadContract."""
    digits = 4 * kind.width
    if not isinstance(given, list) or not all(isinstance(mark, str) for mark in given):
        raise BadContract(file, where, f"invalid: expected a list of hex texts, {digits} digits each for {kind.value}")
    marks = []
    for mark in given:
        if len(mark) != digits or set(mark) - set("0123456789ABCDEF"):
            raise BadContract(file, where, f"invalid: {mark!r}, expected {digits} hex digits for {kind.value}")
        marks.append(int(mark, 16))
    return tuple(marks)


def _choice(row: Row, key: str, known: Mapping[Any, Any], default: Any = None) -> Any:
    given = row.keys.get(key, default)
    if isinstance(given, bool) or not isinstance(given, str | int) or given not in known:
        shown = ", ".join(str(option) for option in known if option != "")
        raise row.fail(f"{key}: {given!r}, expected one of {shown}")
    return known[given]


def _text(row: Row, key: str) -> str:
    given = row.keys.get(key, "")
    if not isinstance(given, str):
        raise row.fail(f"{key}: {given!r}, expected text")
    return given


def _address(row: Row) -> int:
    given = row.keys["address"]
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= ADDRESS_MAX:
        raise row.fail(f"address: {given!r}, expected a number from 0x0000 to 0xFFFF, as on the wire")
    return given


def _scale(row: Row) -> Decimal:
    given = row.keys["scale"]
    try:
        scale = Decimal(given) if isinstance(given, str | int | Decimal) and not isinstance(given, bool) else None
    except InvalidOperation:
        scale = None
    if scale is None or not scale.is_finite() or scale == 0 or abs(scale.adjusted()) > SCALE_DIGITS_MAX:
        raise row.fail(f'scale: {given!r}, expected a number other than zero, such as "0.01"')
    return scale


def _documents(row: Row, sources: Mapping[str, Sequence[str]]) -> list[str]:
    found: list[str] = []
    for key in _text(row, "source").split(";"):
        if key.strip() not in sources:
            raise row.fail(f"source: {key.strip()!r} is not in [sources], which has {', '.join(sources) or 'nothing'}")
        found += sources[key.strip()]
    return found
