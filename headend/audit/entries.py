"""What a log or a meter's evidence consists of, in the store or in a file: records and checkpoints, one after the other.

A file has a JSON object per line. Records are hashed as they stand, byte for byte, so a line keeps a record's text in its last
member, and whoever verifies takes it out as it is:

    {"format":"headend.audit-log.v1","key":PEM}                              the first line; evidence has its meter, too
    {"hash":HEX,"record":{…}}                                               a log's record
    {"previous":HEX,"checkpoint":NUMBER,"proof":["L…","R…"],"record":{…}}    a record of evidence
    {"checkpoint":{…}}                                                      behind the last record that it covers
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from headend.store.audit import checkpoints_behind, records_behind

__all__ = [
    "EVIDENCE_FORMAT",
    "LOG_FORMAT",
    "CheckpointEntry",
    "Entry",
    "Header",
    "ProvenEntry",
    "RecordEntry",
    "Unreadable",
    "entries_in_file",
    "entries_in_store",
    "header_in_file",
    "line_of",
]

LOG_FORMAT = "headend.audit-log.v1"
EVIDENCE_FORMAT = "headend.audit-evidence.v1"
_RECORD = re.compile(rb'\{"hash":"([0-9a-f]{64})","record":(\{.*\})\}', re.DOTALL)
_PROVEN = re.compile(rb'(\{"previous":"[0-9a-f]{64}",[^{}]*),"record":(\{.*\})\}', re.DOTALL)
_CHECKPOINT = re.compile(rb'\{"checkpoint":(\{.*\})\}', re.DOTALL)

_encode = msgspec.json.Encoder().encode


class Header(Struct, frozen=True):
    """key: PEM of who made the file, None without one: it proves nothing that the reader has not got elsewhere. meter: of evidence."""

    format: str
    key: str | None = None
    meter: str | None = None


class RecordEntry(Struct, frozen=True, gc=False):
    """number: of the row, None in a file. columns: meter and meter_number as the store files it by; None in a file."""

    hash: str
    body: str
    number: int | None = None
    columns: tuple[str | None, int | None] | None = None


class CheckpointEntry(Struct, frozen=True, gc=False):
    """number: of the row, None in a file."""

    body: str
    number: int | None = None


class ProvenEntry(Struct, frozen=True):
    """A record of evidence. previous: hash of the record before it in the log. checkpoint: number of the one it is under."""

    previous: str
    checkpoint: int
    proof: list[str]
    body: str


class Unreadable(Struct, frozen=True):
    what: str


Entry = RecordEntry | CheckpointEntry | ProvenEntry | Unreadable


class _Proof(Struct, frozen=True, forbid_unknown_fields=True):
    previous: str
    checkpoint: int
    proof: list[str]


def entries_in_store(connection: Connection) -> Iterator[Entry]:
    """All of the log, each checkpoint behind its last record."""
    checkpoints = checkpoints_behind(connection, 0)
    checkpoint = next(checkpoints, None)
    for row in records_behind(connection, 0):
        while checkpoint is not None and checkpoint[0] < row.number:
            yield CheckpointEntry(checkpoint[1], checkpoint[0])
            checkpoint = next(checkpoints, None)
        yield RecordEntry(row.hash, row.body, row.number, (row.meter, row.meter_number))
    while checkpoint is not None:
        yield CheckpointEntry(checkpoint[1], checkpoint[0])
        checkpoint = next(checkpoints, None)


def line_of(entry: Header | RecordEntry | CheckpointEntry | ProvenEntry) -> bytes:
    """Without its newline."""
    if isinstance(entry, RecordEntry):
        return f'{{"hash":"{entry.hash}","record":{entry.body}}}'.encode()
    if isinstance(entry, CheckpointEntry):
        return f'{{"checkpoint":{entry.body}}}'.encode()
    if isinstance(entry, ProvenEntry):
        head = _encode(_Proof(entry.previous, entry.checkpoint, entry.proof)).decode()
        return f'{head[:-1]},"record":{entry.body}}}'.encode()
    return _encode(entry)


def header_in_file(line: bytes) -> Header:
    """Raises ValueError."""
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError(f"it does not begin as an exported audit log: {error}") from error
    if header.format not in (LOG_FORMAT, EVIDENCE_FORMAT):
        raise ValueError(f"expected the format {LOG_FORMAT} or {EVIDENCE_FORMAT}, found {header.format[:60]!r}")
    return header


def entries_in_file(lines: Iterable[bytes]) -> Iterator[Entry]:
    """lines: behind the header."""
    for place, line in enumerate(lines, start=2):
        wire = line.strip()
        if not wire:
            continue
        try:
            yield _entry(wire)
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
            yield Unreadable(f"line {place} is neither a record nor a checkpoint")


def _entry(line: bytes) -> Entry:
    found: Any
    if found := _RECORD.fullmatch(line):
        return RecordEntry(found[1].decode(), found[2].decode())
    if found := _PROVEN.fullmatch(line):
        head = msgspec.json.decode(found[1] + b"}", type=_Proof)
        return ProvenEntry(head.previous, head.checkpoint, head.proof, found[2].decode())
    if found := _CHECKPOINT.fullmatch(line):
        return CheckpointEntry(found[1].decode())
    raise ValueError("neither")
