"""Words that all families of simulated items share: values on their way to the wire, and the refusal to have any."""

from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from functools import lru_cache
from typing import Any

from protocols.dlt645.items import Encodable, ItemSpec, fields_of
from protocols.dlt645.layout import Field, Kind, parse_layout

__all__ = [
    "Err",
    "NoSuchItem",
    "Refusal",
    "Values",
    "blank",
    "blank_field",
    "fewest_fields",
    "fields",
    "fitting",
    "moment",
    "whole",
]

Values = list[Encodable]

fields = lru_cache(maxsize=4096)(fields_of)


class NoSuchItem(LookupError):
    """This meter has no such item, although its contract may know what it would mean."""


class Err:
    """Bits of the error word. OTHER and NO_DATA are "illegal data" and "DI error" in 1997."""

    OTHER = 0x01
    NO_DATA = 0x02
    PASSWORD = 0x04
    RATE = 0x08
    SERR_AUTHENTICATION = 0x0008  # of the two-byte word of 03H


class Refusal(Exception):
    """The meter says no, with this error word of `size` bytes."""

    def __init__(self, word: int, size: int = 1) -> None:
        super().__init__(word)
        self.word = word
        self.size = size


@lru_cache(maxsize=4096)
def fewest_fields(spec: ItemSpec) -> tuple[Field, ...]:
    """Of an item with an open number of repetitions as few as it may have."""
    layout = parse_layout(spec.layout)[0]
    every = fields_of(spec)
    if not layout.repeated or layout.is_open or layout.after:
        return every
    return every[: layout.fixed_count + layout.least * layout.step_count]


def blank(spec: ItemSpec) -> Values:
    """What a meter answers that has the item and nothing to say in it: zeros of the right shape."""
    return [blank_field(field) for field in fewest_fields(spec)]


def blank_field(field: Field) -> Any:
    wire = field.wire
    match wire.kind:
        case Kind.AMOUNT:
            return (0, None) if wire.picture else 0
        case Kind.ASCII | Kind.RAW:
            return ""
        case Kind.TIME:
            return "0" * len(wire.picture)
        case _:
            return "0" * (2 * wire.size)


def whole(at: datetime | None) -> Any:
    """To the second: going back and forth through the drifting clock leaves microseconds that would show as 23:59."""
    return None if at is None else (at + timedelta(milliseconds=500)).replace(microsecond=0)


def fitting(values: Values, spec: ItemSpec) -> Values:
    """Amounts cut to the decimals of the layout, and without sign where it has none, as a display would."""
    those = fields(spec)
    fitted: Values = []
    for index, value in enumerate(values):
        wire = those[min(index, len(those) - 1)].wire
        if wire.kind is Kind.AMOUNT and isinstance(value, Decimal):
            value = value.quantize(Decimal(1).scaleb(-wire.decimals), ROUND_DOWN)
            value = value if wire.signed else abs(value)
        fitted.append(value)
    return fitted


def moment(digits: str) -> datetime:
    """YYMMDDhhmmss, all years 20YY; refuses what is no date."""
    try:
        year, *rest = (int(digits[at : at + 2]) for at in range(0, 12, 2))
        return datetime(2000 + year, *rest)  # type: ignore[arg-type]  # noqa: DTZ001 - meter time has no zone
    except (TypeError, ValueError) as error:
        raise Refusal(Err.OTHER) from error
