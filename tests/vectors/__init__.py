"""Frames with provenance. Read as JSON lines; `origin` says whether a frame was captured or stands in public code or documents."""

import json
from pathlib import Path
from typing import Any

__all__ = ["constructed_vectors", "dlt645_vectors"]

HERE = Path(__file__).parent


def dlt645_vectors() -> list[dict[str, Any]]:
    """174 frames, 5 of them flagged wrong (`valid` false, `expected_cs`)."""
    return [json.loads(line) for line in (HERE / "dlt645_vectors.jsonl").read_text(encoding="utf-8").splitlines()]


def constructed_vectors() -> list[dict[str, Any]]:
    """Frames built from the text of the standard for functions of which no public capture exists; no proof by themselves."""
    return [json.loads(line) for line in (HERE / "dlt645_constructed.jsonl").read_text(encoding="utf-8").splitlines()]
