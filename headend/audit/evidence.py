"""Exports: the whole log, or one meter's records with the proof that they are in it, and that none of them is left out.

That a meter's evidence was given to somebody is itself a record of the meter, the last of the file: so nobody can cut off what is
before it.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection

from headend.audit.checkpoint import parsed
from headend.audit.entries import (
    EVIDENCE_FORMAT,
    LOG_FORMAT,
    CheckpointEntry,
    Header,
    ProvenEntry,
    RecordEntry,
    entries_in_store,
    line_of,
)
from headend.audit.kinds import EXPORTED
from headend.audit.log import AuditLog
from headend.audit.record import NO_HASH, AuditRecord
from headend.audit.tree import proof_of
from headend.database.engine import reading
from headend.keys import PublicKey
from headend.model import Item
from headend.store.audit import AuditBook, Row
from headend.store.store import Store

__all__ = ["evidence_lines", "log_lines", "record_export"]


def record_export(store: Store, log: AuditLog, meter: str, *, actor: str, reason: str, now: datetime) -> int:
    """Write that the meter's records are given away, and sign for it; the record's number. Raises StoreError."""

    def work(connection: Connection) -> tuple[int, Sequence[Item]]:
        data: dict[str, object] = {"meter": meter, "reason": reason}
        record = AuditRecord(kind=EXPORTED, subject=meter, actor=actor, data=data, meter=meter)
        number = log.append(connection, record, now)
        log.checkpoint(connection, now)
        return number, ()

    return store.transact(work, "recording an export of the audit log")[0]


def evidence_lines(book: AuditBook, meter: str, *, through: int, key: PublicKey | None) -> Iterator[bytes]:
    """through: number of the record of the export."""
    yield line_of(Header(EVIDENCE_FORMAT, None if key is None else key.pem, meter))
    wanted = [row for row in book.records(meter=meter) if row.number <= through]
    while wanted:
        covering = book.checkpoint_over(wanted[0].number)
        if covering is None:
            return
        number, text = covering
        first = parsed(text).first
        before = book.record_before(first)
        window = book.records(after=first - 1, limit=number - first + 1)
        window = [row for row in window if row.number <= number]
        places = {row.number: place for place, row in enumerate(window)}
        hashes = [row.hash for row in window]
        mine = [row for row in wanted if row.number <= number]
        for row in mine:
            place = places.get(row.number)
            if place is None:  # the checkpoint does not cover it, which a verifier will say
                yield line_of(ProvenEntry(NO_HASH, number, [], row.body))
                continue
            previous = hashes[place - 1] if place else _hash_of(before)
            yield line_of(ProvenEntry(previous, number, proof_of(hashes, place), row.body))
        yield line_of(CheckpointEntry(text))
        wanted = wanted[len(mine) :]


def log_lines(store: Store, *, key: PublicKey | None) -> Iterator[bytes]:
    """All of it, in one consistent view. Raises StoreError."""
    yield line_of(Header(LOG_FORMAT, None if key is None else key.pem))
    with reading(store.engine, "exporting the audit log") as connection:
        for entry in entries_in_store(connection):
            if isinstance(entry, RecordEntry | CheckpointEntry):
                yield line_of(entry)


def _hash_of(row: Row | None) -> str:
    return NO_HASH if row is None else row.hash
