"""The task that signs checkpoints in time, tells the feed of them and hands them to a witness."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog
from sqlalchemy import Connection

from headend.audit.checkpoint import CHECKPOINT_TYPE, Checkpoint
from headend.audit.log import AuditLog
from headend.audit.witness import WitnessFile
from headend.clock import Clock
from headend.errors import StoreError
from headend.model import Event
from headend.store.audit import AuditBook, checkpoints_to_tell
from headend.store.writer import Execute, Writer

__all__ = ["CHECKPOINT_S", "AuditKeeper", "checkpoint_event"]

CHECKPOINT_S = 60.0  # a record lies without a signature no longer than this
LOOK_S = 5.0
DUE_S = CHECKPOINT_S - 2 * LOOK_S  # a look late, and the commit, are still in time
TOLD_AT_ONCE = 500

log = structlog.get_logger(__name__)


class AuditKeeper:
    """One per head-end. execute: where the witness's file is written; better not the writer's thread."""

    def __init__(
        self,
        log: AuditLog,
        writer: Writer,
        book: AuditBook,
        *,
        clock: Clock,
        execute: Execute,
        witness: WitnessFile | None = None,
    ) -> None:
        self._log = log
        self._writer = writer
        self._book = book
        self._clock = clock
        self._execute = execute
        self._witness = witness
        self._stopping = asyncio.Event()
        self._witness_problem = ""
        self.last: Checkpoint | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """For /healthz."""
        return tuple(problem for problem in (self._log.problem, self._witness_problem) if problem)

    def stop(self) -> None:
        """Sign what is there, and end."""
        self._stopping.set()

    async def run(self) -> None:
        await self.begin()
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
            since = self._log.uncovered_since
            is_due = since is not None and self._clock.monotonic() - since >= DUE_S
            if is_due or self._witness_problem or self._stopping.is_set():
                try:
                    await self.checkpoint()
                except StoreError as error:
                    if not error.retryable:
                        raise
                    # Nothing new can be written meanwhile either.
                    log.warning("no checkpoint could be written", problem=str(error))

    async def begin(self) -> None:
        """Look at the log's end, sign what the last run left, and give the witness what it has missed."""

        def look(connection: Connection) -> tuple[None, Sequence[Event]]:
            self._log.start(connection, self._clock.now())
            return None, ()

        await self._writer.transact(look, "looking at the audit log")
        await self.checkpoint()

    async def checkpoint(self) -> Checkpoint | None:
        """Sign for all that is there; None when nothing is new. Raises StoreError."""

        def sign(connection: Connection) -> tuple[Checkpoint | None, Sequence[Event]]:
            now = self._clock.now()
            made = self._log.checkpoint(connection, now)
            bodies = checkpoints_to_tell(connection, TOLD_AT_ONCE)
            return made, [checkpoint_event(body, now) for body in bodies]

        made = await self._writer.transact(sign, "signing a checkpoint of the audit log")
        self.last = made or self.last
        if self._witness is not None:
            await self._hand_on(self._witness)
        return made

    async def acknowledge(self, actor: str, reason: str) -> int | None:
        """End the alarm; the record's number, None when there was none. Raises StoreError."""

        def work(connection: Connection) -> tuple[int | None, Sequence[Event]]:
            return self._log.acknowledge(connection, actor, reason, self._clock.now()), ()

        return await self._writer.transact(work, "acknowledging a break of the audit log")

    async def _hand_on(self, witness: WitnessFile) -> None:
        def hand_on() -> None:
            newest = witness.newest()
            after = 0 if newest is None else newest.number
            witness.append([body for _, body in self._book.checkpoints(after=after)])

        try:
            await self._execute(hand_on)
        except OSError as error:
            if not self._witness_problem:
                log.error("audit witness cannot be written", path=str(witness.path), problem=str(error))
            self._witness_problem = f"The audit log's witness cannot be written: {error.strerror}."
        else:
            self._witness_problem = ""


def checkpoint_event(body: str, now: datetime) -> Event:
    data = msgspec.json.decode(body)
    return Event(
        type=CHECKPOINT_TYPE,
        subject="audit",
        data=data,
        time=now,
        id=f"audit-checkpoint:{data['number']}:{data['hash'][:16]}",
    )
