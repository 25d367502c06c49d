"""Frames with provenance; `origin` says whether the whole frame was published, or its PDU with a CRC that was computed for it."""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from protocols.modbus import pdu

__all__ = ["Vector", "vectors"]

PATH = Path(__file__).parents[2] / "vectors" / "modbus_vectors.jsonl"


class Vector(Struct, frozen=True, kw_only=True):
    id: str
    framing: str
    wire: bytes
    is_request: bool
    unit: int | None
    message: Any  # a Request or a Reply, as is_request says


def vectors(framing: str | None = None) -> list[Vector]:
    rows = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
    return [_vector(row) for row in rows if framing in (None, row["framing"])]


def _vector(row: dict[str, Any]) -> Vector:
    fields = dict(row["message"])
    kind = getattr(pdu, fields.pop("type"))
    if "content" in fields:
        fields["content"] = bytes.fromhex(fields["content"])
    if "bits" in fields:
        fields["bits"] = tuple(bit == "1" for bit in fields["bits"])
    if "words" in fields:
        fields["words"] = tuple(fields["words"])
    return Vector(
        id=row["id"],
        framing=row["framing"],
        wire=bytes.fromhex(row["hex"]),
        is_request=row["dir"] == "request",
        unit=row["unit"],
        message=kind(**fields),
    )
