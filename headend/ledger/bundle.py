"""A manifest as a consumer holds it: its event and those of its parts, and whether they can be believed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from headend.ledger.copy import sequence_of
from headend.ledger.digest import digest_of
from headend.ledger.entries import MeterEntry
from headend.ledger.manifest import MANIFEST_TYPE, PART_TYPE, Manifest, Part, manifest_id, signed_bytes
from headend.ledger.signing import PublicKey

__all__ = ["Bundle", "bundles_of", "events_in"]


class Bundle(Struct, frozen=True, kw_only=True):
    """A manifest that can be believed. sequence: of its event. meters: None when a part is not there or cannot be believed."""

    manifest: Manifest
    sequence: int
    sha256: str
    meters: Mapping[str, MeterEntry] | None

    @property
    def name(self) -> str:
        return f"manifest of {self.manifest.day}, revision {self.manifest.revision}"

    @property
    def key(self) -> tuple[str, int]:
        return self.manifest.day, self.manifest.revision


def events_in(text: bytes) -> list[dict[str, Any]]:
    """Events of a file: NDJSON, a JSON list, one event, or the answer of /v1/manifests/{day}. Raises ValueError."""
    try:
        try:
            documents: list[Any] = [json.loads(text)]
        except ValueError:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be one of ours") from error
    found: list[dict[str, Any]] = []
    for document in documents:
        if isinstance(document, dict) and isinstance(document.get("manifest"), dict):
            document = [document["manifest"], *document.get("parts", [])]
        found += document if isinstance(document, list) else [document]
    if not all(isinstance(event, dict) for event in found):
        raise ValueError("expected events, each a JSON object")
    return found


def bundles_of(events: Iterable[dict[str, Any]], keys: Sequence[PublicKey]) -> tuple[list[Bundle], list[str]]:
    """The manifests among these events that can be believed, in the order of the feed, and what is wrong with the others.

    keys: without one, signatures are not looked at.
    """
    wholes: list[dict[str, Any]] = []
    parts: dict[str, Any] = {}
    for event in events:
        if event.get("type") == PART_TYPE:
            with suppress(ValueError):
                parts[digest_of(event.get("data"))] = event.get("data")
        elif event.get("type") == MANIFEST_TYPE and event not in wholes:
            wholes.append(event)
    bundles: list[Bundle] = []
    problems: list[str] = []
    for event in wholes:
        named = str(event.get("id"))
        try:
            manifest = msgspec.convert(event.get("data"), Manifest)
            _check_whole(event, manifest, keys)
        except (ValueError, TypeError) as error:  # msgspec's are ValueErrors
            problems.append(f"{named} cannot be believed: {error}")
            continue
        meters = None
        try:
            meters = _meters(manifest, parts)
        except (ValueError, TypeError) as error:
            problems.append(f"{named}: {error}; single meters cannot be checked against it")
        sequence = sequence_of(event.get("sequence")) or 0
        bundles.append(Bundle(manifest=manifest, sequence=sequence, sha256=digest_of(event["data"]), meters=meters))
    bundles.sort(key=lambda bundle: (bundle.manifest.through, bundle.sequence))
    return bundles, problems


def _check_whole(event: dict[str, Any], manifest: Manifest, keys: Sequence[PublicKey]) -> None:
    """Raises ValueError."""
    if keys:
        if manifest.signed_by is None or not isinstance(manifest.signature, str):
            raise ValueError("it is not signed")
        key = next((key for key in keys if key.id == manifest.signed_by), None)
        if key is None:
            raise ValueError(f"it is signed by key {manifest.signed_by}, expected {', '.join(key.id for key in keys)}")
        if not key.is_right(manifest.signature, signed_bytes(event["data"])):
            raise ValueError("its signature is wrong: somebody has changed it")
    said = {
        "id": manifest_id(manifest.day, manifest.revision),
        "subject": manifest.day,
        "source": manifest.source,
        "time": manifest.closed_at,
    }
    for name, expected in said.items():
        if name in event and event[name] != expected:
            raise ValueError(f"{name} is {event[name]!r}, expected {expected!r}")
    feed = manifest.feed
    blocks = -(-(feed.through - feed.after) // feed.block) if feed.block > 0 else -1
    if feed.through != manifest.through or not len(feed.records) == len(feed.events) == blocks:
        raise ValueError("its stretch of the feed contradicts itself")
    if manifest.meters != sum(entry.meters for entry in manifest.parts):
        raise ValueError("its parts have not as many meters as it says")


def _meters(manifest: Manifest, parts: Mapping[str, Any]) -> dict[str, MeterEntry]:
    """Raises ValueError."""
    found: dict[str, MeterEntry] = {}
    for number, entry in enumerate(manifest.parts, start=1):
        if entry.sha256 not in parts:
            raise ValueError(f"part {number} of {len(manifest.parts)}, {entry.id}, is not there or was changed")
        part = msgspec.convert(parts[entry.sha256], Part)
        found |= {meter.meter: meter for meter in part.meters}
    if len(found) != manifest.meters or sum(meter.count for meter in found.values()) != manifest.count:
        raise ValueError("its parts do not add up to what it says")
    return found
