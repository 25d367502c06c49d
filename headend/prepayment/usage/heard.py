"""What the feed told of a meter's day: its registers' intervals, the newest revision of each. Pure.

Only registers that a tariff can charge by are kept: the total and the four bands. An amount is what flowed in the customer's line:
`primary` where the meter stands behind transformers.
"""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

import msgspec
from msgspec import Struct

from headend.prepayment.days import LocalDays
from headend.prepayment.usage.usage import BAND_REGISTERS, TOTAL_REGISTER

__all__ = [
    "REGISTERS",
    "IntervalEvent",
    "Told",
    "decode_day",
    "encode_day",
    "merged",
    "told_by",
    "told_of",
]

REGISTERS = (TOTAL_REGISTER, *BAND_REGISTERS)  # their place is their number in a row: never reordered
BY_PERSON = 0  # `period_s` of an amount that a person told
_NUMBER = {obis: number for number, obis in enumerate(REGISTERS)} | {
    f"{obis}*255": number for number, obis in enumerate(REGISTERS)
}


class IntervalSpan(Struct, frozen=True, kw_only=True):
    start: str
    end: str
    amount: str
    marks: list[str] = []
    primary: str | None = None


class IntervalEvent(Struct, frozen=True, kw_only=True):
    """`data` of headend.interval.v1, as far as it matters here."""

    meter: str
    obis: str
    start: str
    end: str
    period_s: int
    amount: str | None
    unit: str
    quality: list[str]
    revision: int
    reason: str = ""
    evidence: dict[str, str] = {}
    span: IntervalSpan | None = None
    side: str = ""
    ratio: str = ""
    primary: str | None = None


class Told(Struct, frozen=True, array_like=True):
    """One interval. start, end, span_start: epoch seconds. kwh: None where it is not known, and reason says why.

    span_kwh: what was counted in [span_start, span_end), None of none. period_s is 0 of an amount that a person told, for lack of a
    read; reason then says who. is_secondary: the register counts the secondary side of transformers; amounts here are primary.
    """

    register: int
    period_s: int
    start: int
    end: int
    revision: int
    kwh: Decimal | None
    reason: str = ""
    span_start: int | None = None
    span_end: int | None = None
    span_kwh: Decimal | None = None
    is_secondary: bool = False

    @property
    def begins(self) -> int:
        """Where the first thing begins that it says something of."""
        return self.start if self.span_start is None else min(self.start, self.span_start)


def told_of(event: IntervalEvent, days: LocalDays, *, behind_transformers: bool = False) -> Told | None:
    """None where no tariff charges by that register. Raises ValueError for an event that is not of its form.

    behind_transformers: earlier intervals of this register told so; then a span says it of itself, or is of no use.
    """
    register = _NUMBER.get(event.obis)
    if register is None:
        return None
    start, end = days.second(event.start), days.second(event.end)
    if end <= start:
        raise ValueError(
            f"an interval of {event.meter} from {event.start} to {event.end}; expected its start before its end"
        )
    kwh, reason = _amount(event)
    is_secondary = behind_transformers or event.side == "secondary"
    if kwh is not None or event.span is None:
        return Told(register, event.period_s, start, end, event.revision, kwh, reason, is_secondary=is_secondary)
    span_kwh, problem = _spanned(event, is_secondary=is_secondary)
    if span_kwh is None:
        return Told(register, event.period_s, start, end, event.revision, None, problem, is_secondary=is_secondary)
    since, until = days.second(event.span.start), days.second(event.span.end)
    return Told(
        register, event.period_s, start, end, event.revision, None, reason, since, until, span_kwh, is_secondary
    )


def told_by(register: str, day: int, days: LocalDays, kwh: Decimal, revision: int, who: str) -> Told:
    """An amount that a person tells for a whole day. Raises KeyError for a register that no tariff charges by."""
    return Told(
        _NUMBER[register], BY_PERSON, days.midnight(day), days.midnight(day + 1), revision, kwh, f"told by {who}"
    )


def merged(before: Iterable[Told], news: Iterable[Told]) -> tuple[list[Told], int | None]:
    """The newest revision of each, and the second from which on something else is known now; None when nothing is new."""
    held = {(one.register, one.period_s, one.end): one for one in before}
    changed: int | None = None
    for one in news:
        key = (one.register, one.period_s, one.end)
        old = held.get(key)
        if old is not None and old.revision >= one.revision:
            continue
        held[key] = one
        since = one.begins if old is None else min(one.begins, old.begins)
        changed = since if changed is None else min(changed, since)
    return list(held.values()), changed


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Told])


def encode_day(told: list[Told]) -> bytes:
    return _ENCODER.encode(told)


def decode_day(body: bytes) -> list[Told]:
    return _DECODER.decode(body)


def _amount(event: IntervalEvent) -> tuple[Decimal | None, str]:
    """What flowed in the customer's line, or why nobody knows."""
    if event.amount is None:
        return None, _reason(event)
    if "suspect" in event.quality:
        return None, "a suspect read"
    if "estimated-by-upstream" in event.quality:
        return None, "an estimate, and nothing is charged by one"
    if event.unit != "kWh":
        return None, f"it is in {event.unit or 'no unit'}; expected kWh"
    if event.side == "secondary" and event.primary is None:
        return None, "the ratio of the transformers changed inside, and the register was not read then"
    amount = _decimal(event.primary if event.primary is not None else event.amount, event)
    return (amount, "") if amount >= 0 else (None, f"{amount} kWh; expected an amount that is not negative")


def _spanned(event: IntervalEvent, *, is_secondary: bool) -> tuple[Decimal | None, str]:
    """A span lies between two good reads, whatever is the matter with those in between."""
    assert event.span is not None
    if event.unit != "kWh":
        return None, f"it is in {event.unit or 'no unit'}; expected kWh"
    if is_secondary and event.span.primary is None:
        return None, "what was counted since the last good read is not told for the primary side of the transformers"
    amount = _decimal(event.span.amount if event.span.primary is None else event.span.primary, event)
    return (amount, "") if amount >= 0 else (None, f"{amount} kWh; expected an amount that is not negative")


def _reason(event: IntervalEvent) -> str:
    what = "a suspect read" if "suspect" in event.reason or "suspect" in event.quality else "a missing read"
    told = ", ".join(f"{name} {text}" for name, text in sorted(event.evidence.items()))
    return f"{what} ({event.reason or 'no reason told'}{'; ' + told if told else ''})"


def _decimal(text: str, event: IntervalEvent) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise ValueError(f"{event.obis} of {event.meter}: {text!r}; expected a decimal number as text")
    return found
