"""What CIM calls a quantity: the IEC 61968-9 ReadingType of an OBIS code with unit and period. Pure, but for its table.

A ReadingType is eighteen numbers with dots between them, "0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0": energy delivered, differences
over 15 minutes, kWh. `reading_type.toml` says where each number comes from. What is not in it has no ReadingType: a consumer can do
without one, but not with a wrong one.
"""

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from protocols.errors import BadObis
from protocols.values import Obis, Unit

__all__ = ["FIELDS", "Kind", "kind_of", "reading_type", "register_type"]

Kind: TypeAlias = Literal["register", "interval", "instantaneous", "demand"]

FIELDS = (
    "macroPeriod",
    "aggregate",
    "measuringPeriod",
    "accumulation",
    "flowDirection",
    "commodity",
    "measurementKind",
    "interharmonicNumerator",
    "interharmonicDenominator",
    "argumentNumerator",
    "argumentDenominator",
    "tou",
    "cpp",
    "consumptionTier",
    "phases",
    "multiplier",
    "unit",
    "currency",
)
_TABLE = Path(__file__).with_name("reading_type.toml")
_DAY_S = 86_400
_TARIFF_MAX = 63  # IEC 62056-6-1: E above is for other uses, 124 to 127 for harmonics
_ANGLES_C = 81
_REMEMBERED_MAX = 4096  # many times the quantities of a fleet


class _KindRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Kind
    d: tuple[int, ...]
    macro: int
    aggregate: int
    accumulation: int
    tariffs: bool
    period: Literal["needed", "taken", "unused"]
    measures: dict[str, int]
    source: str
    day_macro: int = 0


class _Quantity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    c: dict[int, int]
    flow: int
    of: tuple[str, ...]


class _Angle(Struct, frozen=True, forbid_unknown_fields=True):
    e: int
    measure: int
    phases: int


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    commodity: dict[Literal["secondary", "primary"], int]
    units: dict[str, tuple[int, int]]
    periods: dict[int, int]
    kinds: tuple[_KindRow, ...]
    quantities: tuple[_Quantity, ...]
    angles: tuple[_Angle, ...]


@lru_cache(_REMEMBERED_MAX)
def reading_type(obis: str, unit: Unit, period_s: int | None, kind: Kind, *, primary: bool = False) -> str | None:
    """The eighteen fields with dots, or None where the table has no row.

    period_s: of an interval its length; of a demand the demand period, of a register the period of the meter's own profile, None
    where it is not known or none applies. primary: the amount is the primary side of the transformers.
    """
    groups = _groups(obis)
    if groups is None:
        return None
    c, d, e = groups
    table = _table()
    if kind == "instantaneous" and c == _ANGLES_C:
        return _angle(table, d, e, unit, primary)
    row = next((row for row in table.kinds if row.kind == kind and d in row.d), None)
    quantity = next((one for one in table.quantities if c in one.c), None)
    if row is None or quantity is None or unit.value not in quantity.of or unit.value not in row.measures:
        return None
    if e > (_TARIFF_MAX if row.tariffs else 0):
        return None
    macro, measuring = row.macro, 0
    if period_s == _DAY_S and row.day_macro:
        macro = row.day_macro
    elif period_s is not None and row.period != "unused":
        if period_s not in table.periods:
            return None
        measuring = table.periods[period_s]
    elif row.period == "needed":
        return None
    return _written(
        table,
        (macro, row.aggregate, measuring, row.accumulation, quantity.flow),
        row.measures[unit.value],
        e,
        quantity.c[c],
        unit,
        primary,
    )


@lru_cache(_REMEMBERED_MAX)
def kind_of(obis: str) -> Kind | None:
    """What a read of this quantity is, by value group D: never "interval", which is no read."""
    groups = _groups(obis)
    if groups is None:
        return None
    return next((row.kind for row in _table().kinds if groups[1] in row.d and row.kind != "interval"), None)


@lru_cache(_REMEMBERED_MAX)
def register_type(obis: str, unit: Unit, *, primary: bool = False) -> str | None:
    """The ReadingType of a `headend.read.v1`: of the quantity itself, whatever period it is captured at."""
    kind = kind_of(obis)
    return None if kind is None else reading_type(obis, unit, None, kind, primary=primary)


def _groups(obis: str) -> tuple[int, int, int] | None:
    """C, D, E of electricity's own registers; None for other media, channels, historical values and what is no OBIS code."""
    try:
        text = Obis(obis).text
    except BadObis:
        return None
    if not text.startswith("1-0:") or "*" in text:
        return None
    c, d, e = text.removeprefix("1-0:").split(".")
    return int(c), int(d), int(e)


def _angle(table: _Table, d: int, e: int, unit: Unit, primary: bool) -> str | None:
    row = next((row for row in table.kinds if row.kind == "instantaneous" and d in row.d), None)
    angle = next((angle for angle in table.angles if angle.e == e), None)
    if row is None or angle is None or unit is not Unit.DEG:
        return None
    return _written(
        table, (row.macro, row.aggregate, 0, row.accumulation, 0), angle.measure, 0, angle.phases, unit, primary
    )


def _written(
    table: _Table, how: tuple[int, int, int, int, int], measure: int, tou: int, phases: int, unit: Unit, primary: bool
) -> str:
    """how: the first five fields. Harmonics, argument, critical peak, tier and currency are not for anything we publish."""
    commodity = table.commodity["primary" if primary else "secondary"]
    multiplier, symbol = table.units[unit.value]
    fields = (*how, commodity, measure, 0, 0, 0, 0, tou, 0, 0, phases, multiplier, symbol, 0)
    return ".".join(map(str, fields))


@lru_cache(1)
def _table() -> _Table:
    return msgspec.convert(tomllib.loads(_TABLE.read_text("utf-8")), _Table, strict=False)
