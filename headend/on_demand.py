"""One quantity of one meter, read now because somebody asked: what the command line and the HTTP interface answer alike.

It is no interval read and never enters the feed. It carries what a person at a cabinet needs to judge it: the item's name, texts and
status words as well as amounts, and the bytes that went and came.
"""

from datetime import datetime
from decimal import Decimal
from typing import Protocol

import msgspec
from msgspec import Struct

from headend.drivers.errors import DriverError
from headend.drivers.reading import Reading
from headend.feed.envelope import iso_utc, plain
from protocols.dlt645.masking import mask
from protocols.values import Obis

__all__ = ["OnDemandRead", "answered", "unanswered"]


class OnDemandRead(Struct, frozen=True, kw_only=True):
    """One value as a meter gave it, or why there is none. Named as in design 5.2.

    meter: address on the command line, asset number over HTTP. quantity: as asked. obis: null where the value has no code.
    value: decimal string, or text as the standard prints it; null when the meter marks it as not measured, or `problem` says more.
    at: the meter's wall time without zone, of a demand's occurrence or of a record; null where the value has none.
    read_at: meter clock, UTC; null, because a DL/T 645 reply carries no time.
    received_at: our wall clock, UTC.
    quality: "measured" or "missing".
    wire_sent, wire_received: spaced hex of the last try; what could be a password is hidden.
    problem, kind: only where there is no answer: a sentence, and its word (silent, corrupt, unmatched, refused, line-down, …).
    """

    meter: str
    quantity: str
    obis: str | None
    name: str
    value: str | None
    unit: str | None
    at: str | None = None
    read_at: str | None = None
    received_at: str
    quality: list[str]
    wire_sent: str
    wire_received: str
    elapsed_ms: float
    problem: str | msgspec.UnsetType = msgspec.UNSET
    kind: str | msgspec.UnsetType = msgspec.UNSET


class Asked(Protocol):
    """The item or point that was asked for."""

    @property
    def name(self) -> str: ...
    @property
    def obis(self) -> Obis | None: ...


def answered(meter: str, quantity: str, reading: Reading, now: datetime) -> list[OnDemandRead]:
    """One per value of the item; several for a block or a record."""
    return [
        OnDemandRead(
            meter=meter,
            quantity=quantity,
            obis=str(value.obis) if value.obis else None,
            name=value.name,
            value=plain(value.content) if isinstance(value.content, Decimal) else value.content,
            unit=value.unit.value,
            at=value.at.isoformat() if value.at else None,
            received_at=iso_utc(now),
            quality=["missing"] if value.content is None else ["measured"],
            wire_sent=_hex(reading.wire_sent),
            wire_received=_hex(reading.wire_received),
            elapsed_ms=round(reading.elapsed_s * 1000, 1),
        )
        for value in reading.values
    ]


def unanswered(
    meter: str, quantity: str, asked: Asked, error: DriverError, now: datetime, took_s: float
) -> OnDemandRead:
    """took_s: how long it took to fail, all tries; told where the error itself does not say how long the last one took."""
    return OnDemandRead(
        meter=meter,
        quantity=quantity,
        obis=str(asked.obis) if asked.obis else None,
        name=asked.name,
        value=None,
        unit=None,
        received_at=iso_utc(now),
        quality=["missing"],
        wire_sent=_hex((error.wire_sent,)),
        wire_received=_hex((error.wire_received,)),
        elapsed_ms=round((error.elapsed_s or took_s) * 1000, 1),
        problem=str(error),
        kind=error.kind,
    )


def _hex(wires: tuple[bytes, ...]) -> str:
    return " ".join(mask(wire) for wire in wires if wire)
