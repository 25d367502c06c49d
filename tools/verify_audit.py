#!/usr/bin/env python3
"""Proves an audit log, or one meter's evidence. Stands alone: Python 3.11, and for signatures the package `cryptography`.

FILE: what `headend audit export` wrote, or the head-end's SQLite store itself. PUBLIC: Ed25519 key, PEM; without one, who can write the
log can write checkpoints, too. SEEN: checkpoints that were seen elsewhere, one a line: the witness file, or a copy of the feed.

Exit code: 0 proven, 2 usage, 6 something was changed, taken out, put in, moved, cut off or rolled back. docs/audit.md has the
definitions. This file shares no code with the head-end, so that one mistake cannot be in both.
"""

import argparse
import base64
import hashlib
import json
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    Ed25519PublicKey = None  # type: ignore[assignment, misc]

TYPE, LOG, EVIDENCE = "headend.audit-checkpoint.v1", "headend.audit-log.v1", "headend.audit-evidence.v1"
TEXT, NUMBER, MAYBE = (str, str), (int, int), (str, type(None))
MEMBERS: dict[str, tuple[type, type]] = {
    "source": TEXT,
    "first": NUMBER,
    "number": NUMBER,
    "hash": TEXT,
    "root": TEXT,
    "at": TEXT,
}
MEMBERS |= {"previous": MAYBE, "signed_by": MAYBE, "signature": MAYBE}
RECORD = re.compile(rb'\{"hash":"([0-9a-f]{64})","record":(\{.*\})\}', re.DOTALL)
PROVEN = re.compile(rb'(\{"previous":"[0-9a-f]{64}",[^{}]*),"record":(\{.*\})\}', re.DOTALL)
WRONG = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)  # by damaged JSON
Json = dict[str, Any]
# What a log consists of: record (number of its row, hash, body, columns), checkpoint (number of its row, itself), or a complaint.
Entry = tuple[str, int | None, Any, Any, Any]
Verdict = tuple[list[str], list[str]]  # what is wrong, and what to know


def public_key(text: str) -> bytes:
    body = base64.b64decode("".join(line for line in text.splitlines() if not line.startswith("-----")))
    if len(body) != 44 or body[:12] != bytes.fromhex("302a300506032b6570032100"):
        raise ValueError("no Ed25519 public key in PEM")
    return body[12:]


def signed_bytes(checkpoint: Json) -> bytes:
    """RFC 8785 needs no more here: names are ASCII, and there are no numbers but small integers."""
    unsigned = {name: checkpoint[name] for name in checkpoint if name != "signature"}
    return f"{TYPE}\n{json.dumps(unsigned, ensure_ascii=False, sort_keys=True, separators=(',', ':'))}".encode()


def digest(checkpoint: Json) -> str:
    return hashlib.sha256(signed_bytes(checkpoint)).hexdigest()


def as_checkpoint(found: Any) -> Json:
    """Raises one of WRONG."""
    if found.keys() != MEMBERS.keys() or any(type(found[name]) not in MEMBERS[name] for name in found):
        raise ValueError("no checkpoint")
    return dict(found)


def distrust(checkpoint: Json, keys: Sequence[bytes]) -> str:
    """Why it is not to be believed; "" when it is, or without keys nobody can tell."""
    if not keys:
        return ""
    try:
        key = next(key for key in keys if hashlib.sha256(key).hexdigest()[:16] == checkpoint["signed_by"])
        signature = base64.b64decode(checkpoint["signature"] or "", validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_bytes(checkpoint))
    except (*WRONG, StopIteration, InvalidSignature):
        return f"checkpoint {checkpoint['number']} is not signed by a key that was given"
    return ""


def joined(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1."""
    if len(leaves) <= 1:
        return b"".join(leaves)
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + joined(leaves[:half]) + joined(leaves[half:])).digest()


def root_of(hashes: Sequence[str]) -> str:
    try:
        return joined([hashlib.sha256(b"\0" + bytes.fromhex(one)).digest() for one in hashes]).hex()
    except ValueError:
        return ""


def root_from(record: str, proof: Sequence[str]) -> str:
    node = hashlib.sha256(b"\0" + bytes.fromhex(record)).digest()
    for step in proof:
        side, other = step[0], bytes.fromhex(step[1:])
        if side not in "LR" or len(other) != 32:
            raise ValueError("no proof")
        node = hashlib.sha256(b"\1" + (other + node if side == "L" else node + other)).digest()
    return node.hex()


def chained(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + b"\n" + body).hexdigest()


def in_store(path: Path) -> Iterator[Entry]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as store:
        store.execute("BEGIN")  # one view for both questions
        checkpoints = store.execute("SELECT number, body FROM audit_checkpoints ORDER BY number")
        row = checkpoints.fetchone()
        records = "SELECT number, hash, body, meter, meter_number FROM audit_records ORDER BY number"
        for number, said, body, meter, meter_number in store.execute(records):
            while row is not None and row[0] < number:
                yield as_entry(row[1], row[0])
                row = checkpoints.fetchone()
            yield "record", number, str(said), str(body).encode(), (meter, meter_number)
        while row is not None:
            yield as_entry(row[1], row[0])
            row = checkpoints.fetchone()


def as_entry(text: Any, number: int | None) -> Entry:
    try:
        return "checkpoint", number, as_checkpoint(json.loads(text)), None, None
    except WRONG:
        return "complaint", None, "a checkpoint cannot be read", None, None


def in_file(lines: Iterable[bytes]) -> Iterator[Entry]:
    for place, line in ((place, line.strip()) for place, line in enumerate(lines, start=2) if line.strip()):
        if found := RECORD.fullmatch(line):
            yield "record", None, found[1].decode(), found[2], None
        elif found := PROVEN.fullmatch(line):
            yield "proven", None, found[1] + b"}", found[2], None
        elif line.startswith(b'{"checkpoint":') and line.endswith(b"}"):
            yield as_entry(line[14:-1], None)
        else:
            yield "complaint", None, f"line {place} is neither a record nor a checkpoint", None, None


def look_into(body: bytes) -> tuple[int, str, Any, Any, Any]:
    """Number, kind, meter, meter_number, data. Raises one of WRONG."""
    said = json.loads(body)
    if not isinstance(said.get("meter"), str | None) or not isinstance(said.get("meter_number"), int | None):
        raise ValueError("no record")
    return int(said["number"]), said["kind"], said.get("meter"), said.get("meter_number"), said["data"]


def verify_log(entries: Iterable[Entry], keys: Sequence[bytes], seen: Sequence[Json]) -> Verdict:
    problems = [f"witness: {problem}" for one in seen if (problem := distrust(one, keys))]
    pending = {one["number"]: digest(one) for one in seen}
    if any(pending[one["number"]] != digest(one) for one in seen):
        problems.append("witness: two checkpoints of one number differ")
    number, before, last, records = 0, "0" * 64, None, 0
    hashes: list[str] = []
    meters: dict[str, int] = {}
    breaks: dict[int, Json] = {}
    acknowledged: set[int] = set()
    for what, row, first, body, columns in entries:
        if what == "record":
            records, follows = records + 1, False
            try:
                own, kind, meter, count, data = look_into(body)
                follows = own == number + 1
                if kind == "chain-broken":
                    breaks[own] = {"problem": data["problem"], "after": int(data["found"]["number"])}
                    follows |= own > number and data["found"] == {"number": number, "hash": before}
                elif kind == "break-acknowledged":
                    acknowledged.update(one for one in data["breaks"] if breaks[one])
            except WRONG:
                own, meter, count = row or number + 1, None, None
                breaks |= {own: {"problem": "it cannot be read", "after": own}} if follows else {}
            if not follows or row not in (None, own):
                problems.append(f"record {own} does not follow record {number}: some are missing, put in or moved")
            if first != chained(before, body):
                problems.append(f"record {own} or the one before it was changed")
            if columns not in (None, (meter, count)):
                problems.append(f"record {own} is filed under meter {columns[0]!r}, and says {meter!r}")
            if meter is not None:
                if count != (expected := meters.get(meter, 0) + 1):
                    problems.append(f"record {own} is number {count} of {meter}, expected {expected}")
                meters[meter] = count or 0
            number, before = row or own, first
            hashes.append(first)
        elif what == "checkpoint":
            name, follows_on = first["number"], (digest(last), last["number"] + 1) if last else (None, 1)
            problems += [problem] if (problem := distrust(first, keys)) else []
            if row not in (None, name) or (name, first["hash"]) != (number, before) or first["root"] != root_of(hashes):
                problems.append(f"checkpoint {name} does not vouch for the records as they are")
            if (first["previous"], first["first"]) != follows_on:
                problems.append(f"checkpoint {name} does not follow the one before it")
            if pending.pop(name, digest(first)) != digest(first):
                problems.append(f"checkpoint {name} is another than the one that was witnessed")
            last, hashes = first, []
        else:
            problems.append(first if what == "complaint" else "a record of evidence stands in a log")
    notes = [f"{records} records, the last under a checkpoint is {last['number'] if last else 0}"]
    for own, told in breaks.items():
        (notes if own in acknowledged else problems).append(f"record {own} begins a new segment: {told['problem']}")
    for gone in pending:
        is_told = any(one in acknowledged and breaks[one]["after"] < gone < one for one in breaks)
        (notes if is_told else problems).append(f"checkpoint {gone} was witnessed, and is gone")
    return problems, notes


def verify_evidence(meter: Any, entries: Sequence[Entry], keys: Sequence[bytes], seen: Sequence[Json]) -> Verdict:
    given = [first for what, _, first, _, _ in entries if what == "checkpoint"]
    checkpoints = {one["number"]: one for one in given}
    problems = [str(first) for what, _, first, _, _ in entries if what in ("complaint", "record")]
    problems += [problem for one in given if (problem := distrust(one, keys))]
    for one in seen:
        if digest(checkpoints.get(one["number"], one)) != digest(one):
            problems.append(f"checkpoint {one['number']} is another than the one that was witnessed")
    number, count, kind = 0, 0, ""
    used: set[int] = set()
    for _, _, head, body, _ in (entry for entry in entries if entry[0] == "proven"):
        try:
            proof = json.loads(head)
            own, kind, its_meter, its_count, _ = look_into(body)
            used.add(proof["checkpoint"])
            checkpoint = checkpoints[proof["checkpoint"]]
            is_there = checkpoint["root"] == root_from(chained(proof["previous"], body), proof["proof"])
            if len(proof) != 3 or not is_there or not checkpoint["first"] <= own <= checkpoint["number"]:
                problems.append(f"record {own} was changed: its checkpoint does not vouch for it")
            if its_meter != meter or own <= number or its_count != count + 1:
                problems.append(f"record {own} is not number {count + 1} of {meter}: some are missing, put in or moved")
            number, count = own, its_count
        except WRONG:
            problems.append(f"what stands behind record {number} is no record with a proof")
    if kind != "evidence-exported":
        problems.append("it does not end with the record of its own export")
    if len(given) != len(checkpoints) or used != checkpoints.keys():
        problems.append("checkpoints stand there that are those of no record")
    return problems, [f"{count} records of {meter}, the last is {number}"]


def witnessed(lines: Iterable[bytes]) -> Iterator[Json]:
    for line in lines:
        try:
            found = json.loads(line)
            yield as_checkpoint(found["data"] if found.get("type") == TYPE else found)
        except WRONG:
            continue  # a feed has other events, and a crash cuts a line


def verify(path: Path, keys: Sequence[bytes], seen: Sequence[Json]) -> Verdict:
    """Raises OSError, ValueError, sqlite3.Error."""
    with path.open("rb") as file:
        head = file.readline(1_000_000)
        if head.startswith(b"SQLite format 3"):
            return verify_log(in_store(path), keys, seen)
        try:
            header = json.loads(head)
            known = header["format"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError("it is neither an exported audit log nor evidence") from error
        if known == EVIDENCE:
            return verify_evidence(header.get("meter"), list(in_file(file)), keys, seen)
        if known != LOG:
            raise ValueError(f"expected the format {LOG} or {EVIDENCE}, found {known!r}")
        return verify_log(in_file(file), keys, seen)


def main() -> int:
    parser = argparse.ArgumentParser(description="Proves an audit log, or one meter's evidence.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[], help="Ed25519 public key, PEM")
    parser.add_argument("--witness", type=Path, action="append", default=[], help="checkpoints seen elsewhere")
    asked = parser.parse_args()
    if asked.key and Ed25519PublicKey is None:
        sys.stderr.write(
            "error: signatures need a package: `pip install cryptography`; without --key all but them is checked\n"
        )
        return 2
    try:
        keys = [public_key(path.read_text(encoding="ascii")) for path in asked.key]
        seen = [one for path in asked.witness for one in witnessed(path.read_bytes().splitlines())]
        problems, notes = verify(asked.file, keys, seen)
    except (OSError, ValueError, sqlite3.Error) as error:
        sys.stderr.write(f"error: {asked.file}: {error}\n")
        return 2
    notes += [] if keys else ["signatures were not checked: give --key, or who writes the log can write checkpoints"]
    notes += [] if seen else ["no --witness: records cut off the end, or an older state of the whole, cannot be told"]
    verdict = f"{len(problems)} problems" if problems else "proven"
    sys.stdout.write("\n".join([*problems, *(f"note: {note}" for note in notes), verdict]) + "\n")
    return 6 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
