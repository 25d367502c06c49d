"""A day's manifest: what the feed holds of it, so that a consumer can prove its copy. Shapes, and how they are made. Pure.

It comes in parts with up to 250 meters each, so that no event becomes too large for a broker, and one whole that names the parts by
their digests. The whole is what is signed: it vouches for the parts, and those for each meter, which so can be checked alone.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from headend.ledger.digest import canonical, digest_of
from headend.ledger.entries import MeterEntry, Stretch
from headend.model import Event

__all__ = [
    "MANIFEST_TYPE",
    "PART_TYPE",
    "Manifest",
    "Part",
    "PartEntry",
    "Previous",
    "manifest_id",
    "parts_of",
    "signed_bytes",
    "whole_event",
]

MANIFEST_TYPE = "headend.manifest.v1"
PART_TYPE = "headend.manifest-part.v1"
METERS_PER_PART = 250
PART_BYTES_MAX = 100_000  # brokers take 256 KB at least; one meter alone has 12 KB at most


class Part(Struct, frozen=True, kw_only=True):
    """`data` of a part. through: as in the whole."""

    day: str
    revision: int
    part: int
    through: int
    meters: list[MeterEntry]


class PartEntry(Struct, frozen=True, kw_only=True):
    """A part as the whole names it. id: of its event. sha256: digest of its `data`."""

    id: str
    meters: int
    first_meter: str
    last_meter: str
    sha256: str


class Previous(Struct, frozen=True, kw_only=True):
    """The manifest before this one. sha256: digest of its `data`."""

    day: str
    revision: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """`data` of the whole. start, end: the local day; an interval belongs to it when start < interval end <= end.

    through: only events up to this sequence are counted. is_final: no interval is open. signed_by: id of the key; null when the
    head-end has none. signature: Ed25519, base64, over `signed_bytes`; absent only while it is computed.
    """

    source: str
    day: str
    revision: int
    timezone: str
    start: str
    end: str
    closed_at: str
    through: int
    is_final: bool
    meters: int
    count: int
    first: int | None
    last: int | None
    sha256: str
    states: dict[str, int]
    parts: list[PartEntry]
    feed: Stretch
    previous: Previous | None
    signed_by: str | None
    signature: str | UnsetType | None = UNSET

    def to_data(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def manifest_id(day: str, revision: int) -> str:
    return f"manifest:{day}:{revision}"


def signed_bytes(data: dict[str, Any]) -> bytes:
    """What is signed of a manifest's `data`: the type, a newline, and the canonical JSON of all but the signature."""
    return f"{MANIFEST_TYPE}\n".encode() + canonical({name: data[name] for name in data if name != "signature"})


def parts_of(
    day: str, revision: int, through: int, entries: Sequence[MeterEntry], time: datetime
) -> list[tuple[PartEntry, Event]]:
    """The parts' events, and how the whole names them. A part's id is derived from its content: two that differ never share one."""
    made = []
    for number, meters in enumerate(_portions(entries), start=1):
        part = Part(day=day, revision=revision, part=number, through=through, meters=meters)
        data = msgspec.to_builtins(part)
        digest = digest_of(data)
        identity = f"manifest-part:{day}:{revision}:{number}:{digest[:16]}"
        entry = PartEntry(
            id=identity,
            meters=len(meters),
            first_meter=meters[0].meter,
            last_meter=meters[-1].meter,
            sha256=digest,
        )
        made.append((entry, Event(type=PART_TYPE, subject=day, data=data, time=time, id=identity)))
    return made


def _portions(entries: Sequence[MeterEntry]) -> list[list[MeterEntry]]:
    portions: list[list[MeterEntry]] = []
    room = 0
    for entry in entries:
        size = len(msgspec.json.encode(entry))
        if not portions or len(portions[-1]) >= METERS_PER_PART or size > room:
            portions.append([])
            room = PART_BYTES_MAX
        portions[-1].append(entry)
        room -= size
    return portions


def whole_event(manifest: Manifest, time: datetime) -> Event:
    return Event(
        type=MANIFEST_TYPE,
        subject=manifest.day,
        data=manifest.to_data(),
        time=time,
        id=manifest_id(manifest.day, manifest.revision),
    )
