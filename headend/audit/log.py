"""The log as others write to it: inside a transaction of the store, so that a record is durable with what it tells of, and before
its effect.

What we remember of the log's end is only believed once its transaction has been committed, and is held against what is there at
every append: another process may have written, and somebody may have meddled. A log that is not as it was left goes on, since
the record of closes must: a record `chain-broken` names what was expected and what was found, and a number behind both. From then on
`ok` is False, also after a restart, until an operator acknowledges.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, ExceptionContext, event

from headend.audit.chain import START, Tail, break_data, read_body, trouble_after
from headend.audit.checkpoint import Checkpoint, made, parsed, signature_problem
from headend.audit.kinds import ACKNOWLEDGED_BREAK, BROKEN
from headend.audit.record import NO_HASH, AuditRecord, body_of, cleaned, hash_of
from headend.clock import Clock
from headend.keys import PublicKey, SigningKey
from headend.store import audit as rows

__all__ = ["RECORDS_MAX", "AuditLog"]

RECORDS_MAX = 1000  # under one checkpoint: what a thief of the store could rewrite without a trace
OURSELVES = "head-end"

log = structlog.get_logger(__name__)


class AuditLog:
    """One per store and process. Its methods run inside `Store.transact`, one at a time; `ok` and `problem` may be asked anywhere.

    source: "/headend/NAME". key: None makes checkpoints without a signature. known_keys: that signed before `key` did.
    witnessed: the newest checkpoint that is known from elsewhere. strict: a record with a secret, or of a kind that is not listed, is
    refused, as tests want it; without, the secret is masked and the record written, because no supply stays off for a name.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        source: str,
        clock: Clock,
        key: SigningKey | None = None,
        known_keys: Iterable[PublicKey] = (),
        witnessed: Callable[[], Checkpoint | None] = lambda: None,
        strict: bool = False,
    ) -> None:
        self.is_signed = key is not None
        self._source = source
        self._clock = clock
        self._key = key
        self._keys = [*known_keys] if key is None else [key.public, *known_keys]
        self._witnessed = witnessed
        self._strict = strict
        self._problem = ""
        self._cleared: str | None = None  # what the problem was, while an acknowledgement is not yet durable
        self._trusted: Tail | None = None  # None until the log has been looked at
        self._written: Tail | None = None  # by the transaction of `_connection`
        self._connection: Connection | None = None
        self._committed = False
        self._covered: int | None = None  # last record under a checkpoint; None: to be looked up
        self._uncovered_since: float | None = None
        event.listen(engine, "commit", self._on_commit)
        event.listen(engine, "rollback", self._on_rollback)
        event.listen(engine, "handle_error", self._on_error)

    @property
    def ok(self) -> bool:
        """Whether opens may be asked for. False from the moment in which something is found to be wrong."""
        return not self._problem

    @property
    def problem(self) -> str:
        """What is wrong, for people; "" while nothing is."""
        return self._problem

    @property
    def uncovered_since(self) -> float | None:
        """Monotonic time of the first append that no checkpoint covers yet; None when there is none we know of."""
        return self._uncovered_since

    def start(self, connection: Connection, now: datetime) -> None:
        """Look at the log's end: from the last checkpoint on, and that one itself. The first append does it, too."""
        self._tail(connection, now)

    def append(self, connection: Connection, record: AuditRecord, now: datetime) -> int:
        """The record's number. Raises AuditError for one that cannot be written, StoreUnavailable at the transaction's end."""
        return self.append_all(connection, (record,), now)[0]

    def append_all(self, connection: Connection, records: Sequence[AuditRecord], now: datetime) -> list[int]:
        """Their numbers. Faster than one by one."""
        before = self._tail(connection, now)
        numbers: list[int] = []
        while len(numbers) < len(records):
            if self._covered is None:
                self._covered = _covered(connection)
            room = max(1, self._covered + RECORDS_MAX - before.number)
            before = self._write(connection, records[len(numbers) : len(numbers) + room], before, now, numbers)
            if before.number - self._covered >= RECORDS_MAX:
                self.checkpoint(connection, now)
                before = self._tail(connection, now)
        return numbers

    def checkpoint(self, connection: Connection, now: datetime) -> Checkpoint | None:
        """Sign for all that is there; None when the last one does already.

        What is signed for is read again, not remembered: a record that was changed meanwhile is found, and not vouched for.
        """
        end = self._tail(connection, now)
        covered = _covered(connection)
        if end.number > covered:
            behind = self._segment(connection, covered)
            if problem := self._walk(connection, behind, end):
                end = self._break(connection, problem, behind, end, now)
        self._uncovered_since, self._covered = None, max(covered, end.number)
        if end.number <= covered:
            return None
        hashes = [row.hash for row in rows.records_behind(connection, covered, end.number)]
        try:
            previous = _last_checkpoint(connection)
        except ValueError:
            previous = None  # it cannot be read, and a break tells of it
        checkpoint = made(
            hashes,
            source=self._source,
            first=covered + 1,
            number=end.number,
            now=now,
            previous=None if previous is None else previous[1],
            key=self._key,
        )
        rows.add_checkpoint(connection, end.number, checkpoint.body)
        return checkpoint

    def acknowledge(self, connection: Connection, actor: str, reason: str, now: datetime) -> int | None:
        """An operator has looked at what broke the log: the alarm ends. None when there is nothing to acknowledge."""
        before = self._tail(connection, now)
        breaks = rows.open_breaks(connection)
        if not breaks:
            return None
        record = AuditRecord(
            kind=ACKNOWLEDGED_BREAK,
            subject="audit",
            actor=actor,
            data={"breaks": [number for number, _ in breaks], "reason": reason},
        )
        number = self._write(connection, (record,), before, now, []).number
        rows.acknowledge_breaks(connection, number)
        self._cleared = self._problem
        return number

    # -------------------------------------------------------------------------------------------- writing

    def _write(
        self, connection: Connection, records: Sequence[AuditRecord], before: Tail, now: datetime, numbers: list[int]
    ) -> Tail:
        values: list[Any] = []
        counts: dict[str, int] = {}
        for record in records:
            data, troubles = cleaned(record, strict=self._strict)
            if troubles:
                log.error("audit record had to be changed", kind=record.kind, subject=record.subject, troubles=troubles)
            meter = record.about
            if meter is not None:
                counts[meter] = counts[meter] + 1 if meter in counts else rows.meter_count(connection, meter) + 1
            number, count = before.number + 1, None if meter is None else counts[meter]
            body = body_of(record, data, number=number, at=now, meter_number=count)
            before = Tail(number, hash_of(before.hash, body))
            values += (number, meter, count, before.hash, body)
            numbers.append(number)
        rows.add_records(connection, values)
        self._note(connection, before)
        return before

    def _note(self, connection: Connection, written: Tail) -> None:
        self._written, self._connection, self._committed = written, connection, False
        if self._uncovered_since is None:
            self._uncovered_since = self._clock.monotonic()

    def _on_commit(self, connection: Connection) -> None:
        # Before the commit itself. One that fails is no rollback to SQLAlchemy, but an error.
        if connection is self._connection:
            self._committed = True
            if self._cleared is not None:
                self._problem = ""

    def _on_rollback(self, connection: Connection) -> None:
        if connection is self._connection:
            self._committed = False
            self._connection, self._covered = None, None
            if self._cleared is not None:
                self._problem, self._cleared = self._cleared, None

    def _on_error(self, context: ExceptionContext) -> None:
        if self._committed and context.connection is not None:
            self._on_rollback(context.connection)

    # -------------------------------------------------------------------------------------------- what is there

    def _tail(self, connection: Connection, now: datetime) -> Tail:
        """Where the log ends, held against what we know; a new segment when the two do not agree."""
        row = rows.tail(connection)
        found = START if row is None else Tail(*row)
        if self._written is not None and found == self._written and not self._committed:
            if connection is not self._connection:
                self._trusted = found  # a commit whose outcome we have not learnt: it is there
            return found
        if self._committed:
            self._trusted, self._written, self._connection = self._written, None, None
            self._committed, self._cleared = False, None
        if found == self._trusted:
            return found
        if self._trusted is None:
            problem, expected = self._look(connection, found)
        else:
            problem, expected = self._walk(connection, self._trusted, found), self._trusted
        if problem:
            return self._break(connection, problem, expected, found, now)
        if connection is self._connection:
            self._written = found  # a part of this transaction was undone; whether the rest will be is not known yet
        else:
            self._trusted = found
        # What another process, or we before the start, have left without a checkpoint.
        self._covered = _covered(connection)
        if found.number > self._covered and self._uncovered_since is None:
            self._uncovered_since = self._clock.monotonic()
        return found

    def _look(self, connection: Connection, found: Tail) -> tuple[str, Tail]:
        """At the start: what is wrong, and where the log should have ended."""
        if breaks := rows.open_breaks(connection):
            self._problem = f"{breaks[-1][1]} (record {breaks[-1][0]}, not acknowledged)"
        try:
            last = _last_checkpoint(connection)
        except ValueError as error:
            return f"the last checkpoint cannot be read: {error}", found
        anchors = [] if last is None else [("the last checkpoint", last[1])]
        if last is not None:
            if last[1].number != last[0]:
                return f"the checkpoint filed under {last[0]} says that it is {last[1].number}", found
            if self._key is not None and (problem := signature_problem(last[1], self._keys)):
                return f"checkpoint {last[0]} {problem}", found
        try:
            witnessed = self._witnessed()
        except OSError as error:  # its keeper raises the alarm; opens need not stop for a share that is away
            log.warning("audit witness cannot be read", problem=str(error))
            witnessed = None
        if witnessed is not None:
            anchors.append(("a checkpoint that was witnessed", witnessed))
        for what, anchor in anchors:
            expected = Tail(anchor.number, anchor.hash)
            if anchor.number > found.number:
                return f"records {found.number + 1} to {anchor.number} are gone, which {what} vouches for", expected
            row = rows.record_at(connection, anchor.number)
            if row is None or row.hash != anchor.hash:
                return f"record {anchor.number} is not the one that {what} vouches for", expected
        behind = self._segment(connection, 0 if last is None else last[0])
        return self._walk(connection, behind, found), behind

    @staticmethod
    def _walk(connection: Connection, behind: Tail, end: Tail) -> str:
        """What is wrong with the records after `behind`; "" when they lead to `end`."""
        if end.number < behind.number:
            return f"records {end.number + 1} to {behind.number} are gone"
        if end.number == behind.number:
            return "" if end == behind else f"record {end.number} was changed"
        before = behind
        for row in rows.records_behind(connection, behind.number, end.number):
            try:
                body = read_body(row.body)
            except ValueError as error:
                return f"record {row.number} {error}"
            trouble = trouble_after(before, row.number, row.hash, row.body, body, (row.meter, row.meter_number))
            if problem := next(trouble, ""):
                return problem
            before = Tail(row.number, row.hash)
        return ""

    @staticmethod
    def _segment(connection: Connection, covered: int) -> Tail:
        """Behind which record nothing is vouched for: the last checkpoint's, or a later break, which is told once."""
        number = max(covered, rows.last_break(connection))
        row = rows.record_at(connection, number)
        return Tail(number, NO_HASH if row is None else row.hash)

    def _break(self, connection: Connection, problem: str, expected: Tail, found: Tail, now: datetime) -> Tail:
        """Begin a new segment."""
        self._problem = f"the audit log is broken: {problem}"
        log.error("audit log is broken", problem=problem, expected=expected.number, found=found.number)
        number = max(expected.number, found.number, _covered(connection))
        record = AuditRecord(
            kind=BROKEN,
            subject="audit",
            actor=OURSELVES,
            data=break_data(problem, expected=expected, found=found),
        )
        end = self._write(connection, (record,), Tail(number, found.hash), now, [])
        rows.add_break(connection, end.number, self._problem)
        return end


def _covered(connection: Connection) -> int:
    found = rows.last_checkpoint(connection)
    return 0 if found is None else found[0]


def _last_checkpoint(connection: Connection) -> tuple[int, Checkpoint] | None:
    """Raises ValueError."""
    found = rows.last_checkpoint(connection)
    return None if found is None else (found[0], parsed(found[1]))
