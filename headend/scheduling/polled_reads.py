"""Reads as they stand in the feed, made of what a meter answered, or of the reason why it did not. Pure."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from headend.drivers.reading import Question, Reading, Register, Value
from headend.model import Quality, Read

__all__ = ["feed_reason", "missing_read", "reads_of"]

_REASONS = {"line-busy": "overrun"}  # driver words that are no reasons of the feed


def feed_reason(kind: str) -> str:
    """The feed's word for a driver error's kind."""
    return _REASONS.get(kind, kind)


def reads_of(
    meter: str, question: Question, reading: Reading, *, slot: datetime, now: datetime, zone: ZoneInfo, late: bool
) -> list[Read]:
    """One read per register of the question. A value that the meter marks as not measured is missing, never a number."""
    return [
        _read_of(meter, register, value, reading.refused.get(place, ""), slot=slot, now=now, zone=zone, late=late)
        for place, (register, value) in enumerate(zip(question.registers, reading.values, strict=True))
    ]


def _read_of(
    meter: str,
    register: Register,
    value: Value,
    refused: str,
    *,
    slot: datetime,
    now: datetime,
    zone: ZoneInfo,
    late: bool,
) -> Read:
    amount = value.content if isinstance(value.content, Decimal) else None
    return Read(
        meter=meter,
        obis=register.name,
        amount=amount,
        unit=value.unit,
        interval_end=slot,
        read_at=None,
        received_at=now,
        quality=_QUALITIES[amount is not None, late],
        source=register.source,
        reason="" if amount is not None else refused or "not-measured",
        occurred_at=value.at.replace(tzinfo=zone).astimezone(UTC) if value.at is not None else None,
        is_primary=register.is_primary,
    )


def missing_read(meter: str, register: Register, *, slot: datetime, now: datetime, reason: str) -> Read:
    """What stands in the feed for a register that could not be had."""
    return Read(
        meter=meter,
        obis=register.name,
        amount=None,
        unit=register.unit,
        interval_end=slot,
        read_at=None,
        received_at=now,
        quality=(Quality.MISSING,),
        source=register.source,
        reason=reason,
    )


_QUALITIES = {
    (True, False): (Quality.MEASURED,),
    (True, True): (Quality.MEASURED, Quality.LATE),
    (False, False): (Quality.MISSING,),
    (False, True): (Quality.MISSING, Quality.LATE),
}
