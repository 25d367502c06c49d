"""Reads and events as CloudEvents 1.0, one JSON object each.

The same item and sequence always give the same bytes. Times have one spelling: ISO 8601, UTC, `Z`; three decimals
when the milliseconds are not zero, none otherwise; anything finer is cut off. Amounts are plain decimal strings with
the digits the meter gave: 1.50 stays "1.50", and an exponent is written out.
"""

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from msgspec import Struct

from headend.model import Event, Finding, Quality, Read
from headend.ratios import other_side

__all__ = [
    "READ_TYPE",
    "encode_event",
    "encode_read",
    "encode_read_data",
    "iso_utc",
    "plain",
    "quality_words",
    "read_id",
]

READ_TYPE = "headend.read.v1"


class _ReadData(Struct, frozen=True, omit_defaults=True):
    meter: str
    obis: str
    value: str | None
    unit: str
    interval_end: str
    read_at: str | None
    received_at: str
    quality: list[str]
    source: str
    revision: int
    reason: str = ""
    occurred_at: str | None = None
    side: str = ""
    ratio: str = ""
    primary: str = ""
    secondary: str = ""
    findings: tuple[Finding, ...] = ()


class _Envelope(Struct, frozen=True):
    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    sequence: str
    data: _ReadData | dict[str, object]


_encode = msgspec.json.Encoder(decimal_format="string").encode
_ORDER = {quality: rank for rank, quality in enumerate(Quality)}
_quality_lists: dict[tuple[Quality, ...], list[str]] = {}  # as many as there are combinations in use: a handful


def iso_utc(moment: datetime) -> str:
    """The feed's spelling of an aware time: 2026-01-31T16:00:00Z, or 2026-01-31T16:00:00.250Z."""
    precision = "milliseconds" if moment.microsecond >= 1000 else "seconds"
    return moment.astimezone(UTC).isoformat(timespec=precision)[:-6] + "Z"


def plain(amount: Decimal) -> str:
    """The amount's own digits without an exponent: 1.50 is "1.50", 1E+3 is "1000"."""
    text = str(amount)
    return format(amount, "f") if "E" in text else text


def read_id(read: Read) -> str:
    """Same for a repeat of the read, different for a correction."""
    return f"read:{read.meter}:{read.obis}:{iso_utc(read.interval_end)}:{read.revision}"


def encode_read(read: Read, *, source: str, sequence: int) -> bytes:
    """The read as headend.read.v1. source: "/headend/NAME".

    The definition; the store writes the same bytes by a faster way (`headend.store.packing`).
    """
    data = _read_data(read)
    return _encode(
        _Envelope(
            "1.0",
            f"read:{read.meter}:{read.obis}:{data.interval_end}:{read.revision}",
            source,
            READ_TYPE,
            read.meter,
            data.received_at,
            str(sequence),
            data,
        )
    )


def encode_event(event: Event, *, source: str, sequence: int) -> bytes:
    """The event under its own type. Without an id of its own it gets "TYPE:SUBJECT:SEQUENCE"."""
    identity = event.id or f"{event.type}:{event.subject}:{sequence}"
    return _encode(
        _Envelope(
            "1.0",
            identity,
            source,
            event.type,
            event.subject,
            iso_utc(event.time),
            str(sequence),
            event.data,
        )
    )


def encode_read_data(read: Read) -> bytes:
    """Only the `data` object, for answers that are no feed: stored reads, on-demand reads."""
    return _encode(_read_data(read))


def quality_words(quality: tuple[Quality, ...]) -> list[str]:
    """Each once, in the order of `Quality`."""
    words = _quality_lists.get(quality)
    if words is None:
        words = _quality_lists[quality] = [one.value for one in sorted(set(quality), key=_ORDER.__getitem__)]
    return words


def _read_data(read: Read) -> _ReadData:
    return _ReadData(
        read.meter,
        read.obis,
        None if read.amount is None else plain(read.amount),
        read.unit.value,
        iso_utc(read.interval_end),
        None if read.read_at is None else iso_utc(read.read_at),
        iso_utc(read.received_at),
        quality_words(read.quality),
        read.source,
        read.revision,
        read.reason,
        None if read.occurred_at is None else iso_utc(read.occurred_at),
        findings=read.findings,
        **_sides(read),
    )


def _sides(read: Read) -> dict[str, str]:
    """Both sides of the transformers, where a ratio is known."""
    if read.ratio is None or read.amount is None:
        return {}
    side, other = ("primary", "secondary") if read.is_primary else ("secondary", "primary")
    told = plain(other_side(read.amount, read.ratio, is_primary=read.is_primary))
    return {"side": side, "ratio": plain(read.ratio), other: told}
