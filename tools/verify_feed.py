#!/usr/bin/env python3
"""Proves a consumer's copy of the feed by signed daily manifests. Stands alone: Python 3.11 and nothing else.

COPY: NDJSON, whole events, or sequence, id, type and data of each. MANIFEST: as GET /v1/manifests/{day} gives it, or events as NDJSON;
without one, those that are in the copy. PUBLIC: Ed25519 key, PEM; without one, who can change the copy can change the manifests, too.

Exit code: 0 proven, 2 usage, 6 something is missing, extra, changed or out of order, or a manifest is not genuine. docs/ledger.md has
the definitions. This file shares no code with the head-end, so that one mistake cannot be in both.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Any

MANIFEST, PART = "headend.manifest.v1", "headend.manifest-part.v1"
NUMBERS = re.compile(rb'("\s*:|[,\[])\s*-?(\d+[.eE]|\d{16})')  # floats, and integers too large for one
QUICK = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
Json = dict[str, Any]
number_of = attrgetter("sequence")
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, SQRT_M1 = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # x = X/Z, y = Y/Z, x·y = T/Z


def canonical(value: Any) -> str:
    """RFC 8785."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) or (type(value) is int and abs(value) >= 2**53):
        return number(float(value))
    return QUICK(value)


def number(value: float) -> str:
    """As ECMAScript writes it. Raises ValueError for what JSON cannot say."""
    sign, parts, exponent = Decimal(repr(value or 0.0)).normalize().as_tuple()
    digits = "".join(map(str, parts))
    point = len(digits) + int(exponent)
    if 0 < point <= 21:
        text = digits.ljust(point, "0") if point >= len(digits) else f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = digits[0] + (f".{digits[1:]}" if digits[1:] else "") + f"e{point - 1:+d}"
    return "-" * sign + text


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def add(a: Point, b: Point) -> Point:
    """Of Ed25519, as in RFC 8032, 5.1.4."""
    m, n = (a[1] - a[0]) * (b[1] - b[0]), (a[1] + a[0]) * (b[1] + b[0])
    t, z = 2 * D * a[3] * b[3], 2 * a[2] * b[2]
    e, f, g, h = (n - m) % P, (z - t) % P, (z + t) % P, (n + m) % P
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar: int, point: Point) -> Point:
    total = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    return total


def decoded(text: bytes) -> Point | None:
    y = int.from_bytes(text, "little")
    sign, y = y >> 255, y % 2**255
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_M1 % P
    if x * x % P != square or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = decoded((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def is_signed(key: bytes, message: bytes, signature: bytes) -> bool:
    public, r, s = decoded(key), decoded(signature[:32]), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or len(key) != 32 or public is None or r is None or BASE is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    left, right = times(s, BASE), add(r, times(k, public))
    return all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))


def public_key(text: str) -> bytes:
    body = base64.b64decode("".join(line for line in text.splitlines() if not line.startswith("-----")))
    if len(body) != 44 or body[:12] != bytes.fromhex("302a300506032b6570032100"):
        raise ValueError("no Ed25519 public key in PEM")
    return body[12:]


def meters_of(event: Json, parts: dict[str, Json], keys: Sequence[bytes]) -> list[Json]:
    """Of a manifest's parts. Raises ValueError, LookupError, TypeError for a manifest that cannot be believed."""
    said = event["data"]
    unsigned = f"{MANIFEST}\n{canonical({name: said[name] for name in said if name != 'signature'})}".encode()
    key = next((key for key in keys if hashlib.sha256(key).hexdigest()[:16] == said["signed_by"]), b"")
    if keys and not is_signed(key, unsigned, base64.b64decode(said["signature"] or "", validate=True)):
        raise ValueError("it is not signed by a key that was given")
    fit = {"id": f"manifest:{said['day']}:{said['revision']}", "subject": said["day"], "time": said["closed_at"]}
    if any(event.get(name, fit[name]) != fit[name] for name in fit):
        raise ValueError("its envelope does not fit its data")
    feed = said["feed"]
    blocks = -(-(feed["through"] - feed["after"]) // max(feed["block"], 1))
    if feed["through"] != said["through"] or not blocks == len(feed["records"]) == len(feed["events"]):
        raise ValueError("it contradicts itself")
    if missing := [entry["id"] for entry in said["parts"] if entry["sha256"] not in parts]:
        raise ValueError(f"it has parts that are not there or were changed: {', '.join(missing)}")
    meters = [meter for entry in said["parts"] for meter in parts[entry["sha256"]]["meters"]]
    if len(meters) != said["meters"] or sum(meter["count"] for meter in meters) != said["count"]:
        raise ValueError("its parts do not add up")
    return meters


def load_manifests(events: Sequence[Json], keys: Sequence[bytes]) -> tuple[list[tuple[Json, list[Json]]], list[str]]:
    """Those that can be believed, each with its meters, and what is wrong with others."""
    parts = {
        sha256(canonical(event.get("data"))): event.get("data", {}) for event in events if event.get("type") == PART
    }
    found: list[tuple[Json, list[Json]]] = []
    problems: list[str] = []
    for event in (event for event in events if event.get("type") == MANIFEST):
        try:
            found.append((event["data"], meters_of(event, parts, keys)))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"manifest: {event.get('id')} cannot be believed: {error}")
    return found, problems


def moment(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else None


class Record:
    """What is kept of an event: enough to add it up. text: the event as JSON. end: of a read's interval."""

    __slots__ = ("digest", "end", "event", "id", "meter", "sequence")

    def __init__(self, event: Json, text: bytes) -> None:
        sequence, data = event["sequence"], event["data"]
        self.sequence = int(sequence)
        if str(self.sequence) != str(sequence) or self.sequence < 1:
            raise ValueError("no sequence")
        # Most events have only what Python writes as RFC 8785 does, some ten times as fast.
        write = QUICK if text.isascii() and b"\\u" not in text and not NUMBERS.search(text) else canonical
        self.id, self.digest = str(event["id"]), sha256(write(data))
        self.event = sha256(write({**event, "data": self.digest}))
        is_read = isinstance(data, dict) and self.id.startswith("read:")
        self.meter, self.end = (str(data.get("meter")), moment(data.get("interval_end"))) if is_read else ("", None)

    @property
    def line(self) -> str:
        return f"{self.digest}  {self.id}\n"


def read_copy(lines: Iterable[bytes]) -> tuple[list[Record], list[Json], bool, list[range], list[str]]:
    """Records by sequence, manifest events, whether there are whole events, void numbers, and what is wrong with single lines."""
    records: dict[int, Record] = {}
    manifests: list[Json] = []
    problems: list[str] = []
    voids: list[range] = []
    highest, has_envelopes = 0, False
    for place, line in ((place, line) for place, line in enumerate(lines, start=1) if line.strip()):
        try:
            event = json.loads(line)
            record = Record(event, line)
            voids += void_before(record.sequence, event["data"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            problems.append(f"changed: line {place} is no event")
            continue
        has_envelopes = has_envelopes or "specversion" in event
        if event.get("type") in (MANIFEST, PART):
            manifests.append(event)
        if record.sequence in records:
            problems.append(f"extra: line {place} has a sequence that was there: {record.sequence}")
        elif record.sequence < highest:
            problems.append(f"reordered: line {place} has a lower sequence than a line before it: {record.sequence}")
        highest = max(highest, record.sequence)
        records.setdefault(record.sequence, record)
    return [records[sequence] for sequence in sorted(records)], manifests, has_envelopes, voids, problems


def void_before(sequence: int, data: Json) -> list[range]:
    """Numbers that the head-end skipped when its store was restored from a backup; the event behind them says so."""
    is_restore = isinstance(data, dict) and data.get("kind") == "restored" and data["void_through"] == sequence - 1
    return [range(int(data["last_before"]) + 1, sequence)] if is_restore else []


def is_same(records: Sequence[Record], said: Json) -> bool:
    first, last = (records[0].sequence, records[-1].sequence) if records else (None, None)
    found = {
        "count": len(records),
        "first": first,
        "last": last,
        "sha256": sha256("".join(one.line for one in records)),
    }
    return all(said[name] == found[name] for name in found)


def check_blocks(records: Sequence[Record], said: Json, *, after: int, has_envelopes: bool) -> Iterable[str]:
    """Of one manifest's stretch of the feed; what is not all there is named by its numbers already."""
    feed = said["feed"]
    for place, expected in enumerate(zip(feed["records"], feed["events"], strict=True)):
        first = feed["after"] + 1 + place * feed["block"]
        last = min(first + feed["block"] - 1, feed["through"])
        block = records[bisect_left(records, first, key=number_of) : bisect_left(records, last + 1, key=number_of)]
        found = [sha256("".join(one.line for one in block)), sha256("".join(f"{one.event}\n" for one in block))]
        is_right = found[: 1 + has_envelopes] == list(expected)[: 1 + has_envelopes]
        if not is_right and first > after and len(block) == last - first + 1:
            yield f"changed: among events {first} to {last}"


def check_day(records: Sequence[Record], said: Json, meters: Sequence[Json], *, after: int, only: str) -> Iterable[str]:
    """Of one manifest's day, meter by meter. records: without those that were void when it was issued."""
    start, end, through = moment(said["start"]), moment(said["end"]), said["through"]
    day = [one for one in records if one.end and start and end and start < one.end <= end and one.sequence <= through]
    if not only and is_same(day, said):
        return
    there: dict[str, list[Record]] = defaultdict(list)
    for record in day:
        there[record.meter].append(record)
    expected = {meter["meter"]: meter for meter in meters}
    for name in [only] if only else sorted({*there, *expected}):
        meter = expected.get(name, {"count": 0, "first": None, "last": None, "sha256": sha256("")})
        if (meter["first"] is None or meter["first"] > after) and not is_same(there[name], meter):
            yield f"changed: {name} on {said['day']} has {len(there[name])} records, expected {meter['count']}"


def verify(
    lines: Iterable[bytes], given: Sequence[Json], keys: Sequence[bytes], *, after: int | None = None, meter: str = ""
) -> tuple[list[str], int]:
    """What is wrong, and through which event the manifests can tell. Raises ValueError without a manifest."""
    records, inside, has_envelopes, voids, problems = read_copy(lines)
    manifests, forged = load_manifests(given or inside, keys)
    problems += forged
    if not manifests and not forged:
        raise ValueError("there is no manifest, neither in the copy nor given")
    begins = min((said["feed"]["after"] for said, _ in manifests), default=0)
    through = max((said["through"] for said, _ in manifests), default=0)
    after = min(begins, records[0].sequence - 1 if records else begins) if after is None else after
    records = [record for record in records if record.sequence > after]
    if not meter:
        expected = after + 1
        for sequence in [*(record.sequence for record in records), max(through, expected - 1) + 1]:
            end = min([sequence, *(max(void[0], expected) for void in voids if sequence - 1 in void)])
            if end > expected:
                problems.append(f"missing: events {expected} to {end - 1}")
            expected = max(expected, sequence + 1)
    for said, meters in manifests:
        if not meter:
            problems += check_blocks(records, said, after=after, has_envelopes=has_envelopes)
        void = [one for one in voids if one[-1] < said["through"]]
        valid = [record for record in records if not any(record.sequence in one for one in void)] if void else records
        problems += check_day(valid, said, meters, after=after, only=meter)
    return problems, through


def main() -> int:
    parser = argparse.ArgumentParser(description="Proves a copy of the feed by signed manifests.")
    parser.add_argument("copy", type=Path)
    parser.add_argument("manifest", type=Path, nargs="*")
    parser.add_argument("--key", type=Path, action="append", default=[], help="Ed25519 public key, PEM")
    parser.add_argument("--after", type=int, help="the copy begins behind this sequence")
    parser.add_argument("--meter", default="", help="the copy has only this meter's records")
    asked = parser.parse_args()
    try:
        keys = [public_key(path.read_text(encoding="ascii")) for path in asked.key]
        found = [json.loads(text) for path in asked.manifest for text in path.read_bytes().splitlines() if text.strip()]
        given = [event for one in found for event in [one.get("manifest", one), *one.get("parts", [])]]
        with asked.copy.open("rb") as lines:
            problems, through = verify(lines, given, keys, after=asked.after, meter=asked.meter)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    signed = "signed manifests" if keys else "manifests whose signatures were not checked (give --key)"
    problems.append(f"{len(problems)} problems" if problems else f"proven through event {through} by {signed}")
    sys.stdout.write("\n".join(problems) + "\n")
    return 6 if len(problems) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
