"""Reads from rows, and the numbers that stand for times and qualities. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from headend.model import Finding, Quality, Read
from protocols.values import Unit

__all__ = ["epoch_ms", "from_epoch_ms", "quality_bits", "ratio_to_row", "read_from_row"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

# Stored for ever: a bit is never given another meaning.
QUALITY_BITS = {
    Quality.MEASURED: 1,
    Quality.MISSING: 2,
    Quality.LATE: 4,
    Quality.ESTIMATED_BY_UPSTREAM: 8,
    Quality.SUSPECT: 16,
    Quality.BACK_FILLED: 32,
}
_findings = msgspec.json.Decoder(tuple[Finding, ...])
_bits_of: dict[tuple[Quality, ...], int] = {}  # one entry per combination in use: a handful


def epoch_ms(moment: datetime) -> int:
    """Anything finer is cut off."""
    return (moment - _EPOCH) // _MS


def from_epoch_ms(stored: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=stored)


def quality_bits(quality: tuple[Quality, ...]) -> int:
    bits = _bits_of.get(quality)
    if bits is None:
        bits = _bits_of[quality] = sum(QUALITY_BITS[one] for one in set(quality))
    return bits


def read_from_row(row: Sequence[Any]) -> Read:
    """Columns in the order of `_READS` in store.py."""
    meter, obis, amount, unit, slot, read_at, received_at, quality, source, *rest = row
    revision, reason, occurred_at, ratio, findings = rest
    return Read(
        meter=meter,
        obis=obis,
        amount=None if amount is None else Decimal(amount),
        unit=Unit(unit),
        interval_end=from_epoch_ms(slot),
        read_at=None if read_at is None else from_epoch_ms(read_at),
        received_at=from_epoch_ms(received_at),
        quality=tuple(one for one, bit in QUALITY_BITS.items() if quality & bit),
        source=source,
        revision=revision,
        reason=reason or "",
        occurred_at=None if occurred_at is None else from_epoch_ms(occurred_at),
        ratio=None if ratio is None else Decimal(ratio.lstrip("/")),
        is_primary=ratio is not None and ratio.startswith("/"),
        findings=() if findings is None else _findings.decode(findings),
    )


def ratio_to_row(ratio: Decimal, is_primary: bool) -> str:
    """The other way round stands in `read_from_row`."""
    return f"/{ratio}" if is_primary else str(ratio)
