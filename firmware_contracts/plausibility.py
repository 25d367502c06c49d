"""Whether values that fit their layout can be what the contract says they are.

A layout with a wrong scale, a wrong unit or two items mistaken for each other fits the bytes all the same; what shows is
a voltage of 22 V or a frequency of 500 Hz. Bounds are those of low-voltage grids and electricity meters, wide enough
that a meter on a bad day stays inside.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from protocols.dlt645.items import ItemSpec, ItemValue, fields_of
from protocols.dlt645.layout import Field, Kind
from protocols.values import Unit

__all__ = ["implausible"]

FUTURE_MAX = timedelta(days=1)  # a meter's clock may be wrong; the check of the clock says so, not every record

# By beginning of the DI, then by unit. Zero is always allowed unless the item is in _NEVER_ZERO: nothing connected.
_BY_DI: dict[str, tuple[str, str]] = {
    "0201": ("40", "500"),  # phase voltages, also at a 57.7 V transformer
    "B61": ("40", "500"),
    "02800002": ("45", "65"),  # grid frequency
    "02800008": ("1", "15"),  # batteries
    "02800009": ("1", "15"),
    "0207": ("0", "360"),
    "0206": ("-1", "1"),
    "B65": ("-1", "1"),
    "04000103": ("1", "60"),  # demand period and step, minutes
    "04000104": ("1", "60"),
    "04000201": ("0", "14"),  # zones, day tables, slots, tariffs of DL/T 645-2007, annex A
    "04000202": ("0", "8"),
    "04000203": ("0", "14"),
    "04000204": ("0", "63"),
    "C310": ("0", "14"),
    "C311": ("0", "10"),
    "C312": ("0", "14"),
    "C313": ("0", "14"),
}
_NEVER_ZERO = ("02800002",)
_BY_UNIT: dict[Unit, tuple[str, str]] = {
    Unit.DEGC: ("-50", "100"),
    Unit.DEG: ("-360", "360"),
    Unit.HZ: ("45", "65"),
}


def implausible(spec: ItemSpec, values: Sequence[ItemValue], local: datetime) -> Iterator[str]:
    """What is wrong with the values, in words. local: the present wall time at the meter, without zone."""
    pictures = _pictures(spec, values)
    leaves = spec.members or (spec,)
    for index, value in enumerate(values):
        leaf = leaves[index] if len(values) <= len(leaves) else spec  # a block may be cut short
        if isinstance(value.content, Decimal):
            yield from _amount(leaf, value, value.content)
        elif isinstance(value.content, str):
            yield from _text(spec, value, value.content, pictures[index])
        if value.at is not None and "w" not in spec.access and value.at - local > FUTURE_MAX:
            yield f"{value.name}: {value.at:%Y-%m-%d %H:%M} is in the future"


def _amount(spec: ItemSpec, value: ItemValue, amount: Decimal) -> Iterator[str]:
    if not amount and spec.di.text not in _NEVER_ZERO:
        return
    di = spec.di.text
    bounds = next((_BY_DI[di[:size]] for size in (8, 4, 3) if di[:size] in _BY_DI), _BY_UNIT.get(value.unit))
    if bounds and not Decimal(bounds[0]) <= amount <= Decimal(bounds[1]):
        yield f"{value.name}: {amount} {value.unit.value}".rstrip() + f", expected {bounds[0]} to {bounds[1]}"


def _text(spec: ItemSpec, value: ItemValue, text: str, field: Field | None) -> Iterator[str]:
    if field is None:
        return
    if field.wire.kind is Kind.ASCII and not text.isprintable():
        yield f"{value.name}: {text!r} is no printable text"
    picture = field.wire.picture
    if field.wire.kind is Kind.TIME and value.at is None and picture.startswith("YY") and text.strip("0"):
        # 9s stand for "any" or "unused" in settings; in what the meter writes itself they are no date.
        if "w" not in spec.access and text.strip("9"):
            yield f"{value.name}: {text} is no date ({picture})"
    elif field.wire.kind is Kind.TIME and text.strip("9F"):
        yield from _clock_parts(value, text, picture)


_PART_MAX = {"MM": 12, "DD": 31, "WW": 7, "hh": 24, "mm": 59, "ss": 59}


def _clock_parts(value: ItemValue, digits: str, picture: str) -> Iterator[str]:
    for at in range(0, len(picture), 2):
        part, number = picture[at : at + 2], digits[at : at + 2]
        if part in _PART_MAX and number != "99" and number.isdecimal() and int(number) > _PART_MAX[part]:
            yield f"{value.name}: {part} is {number} in {digits} ({picture})"


def _pictures(spec: ItemSpec, values: Sequence[ItemValue]) -> list[Field | None]:
    """The field behind each value; None where the item is open or several arrangements are possible."""
    if spec.series or spec.terminated:
        return [None] * len(values)
    fields = fields_of(spec)
    return list(fields[: len(values)]) if len(fields) >= len(values) else [None] * len(values)
