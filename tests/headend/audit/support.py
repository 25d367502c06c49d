"""An audit log in a store of its own, and the stand-alone verifier as a module."""

import importlib.util
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

from sqlalchemy import Connection, text

from headend.audit.checkpoint import Checkpoint, parsed
from headend.audit.entries import entries_in_store
from headend.audit.log import AuditLog
from headend.audit.record import AuditRecord
from headend.audit.verify import Verdict, verify_log
from headend.database.engine import reading, writing
from headend.keys import SigningKey
from headend.model import Item
from headend.store.audit import AuditBook
from tests.headend.support import START, new_store

__all__ = ["PATH", "HandClock", "Rig", "a_record", "verify_audit"]

PATH = Path(__file__).parents[3] / "tools" / "verify_audit.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_audit", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verify_audit = _load()


class HandClock:
    """Both clocks, each moved by hand."""

    def __init__(self) -> None:
        self.wall = START
        self.passed_s = 100.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.passed_s

    def advance(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.passed_s += seconds


def a_record(kind: str = "requested", meter: str | None = "M000001", **data: object) -> AuditRecord:
    said = {"command": "c-1", **data} if meter is None else {"command": "c-1", "meter": meter, **data}
    return AuditRecord(kind=kind, subject="c-1", actor="billing", data=said)


class Rig:
    """A store with its log. `restart` is a new process on the same store."""

    def __init__(self, folder: Path, *, key: SigningKey | None = None, strict: bool = True) -> None:
        self.folder = folder
        self.store = new_store(folder)
        self.clock = HandClock()
        self.key = key
        self.strict = strict
        self.witnessed: Checkpoint | None = None
        self.log = self.new_log()
        self.book = AuditBook(self.store.engine)

    @property
    def path(self) -> Path:
        return self.folder / "headend.db"

    def new_log(self, **options: object) -> AuditLog:
        return AuditLog(
            self.store.engine,
            source="/headend/luoyang-west",
            clock=self.clock,
            key=self.key,
            witnessed=lambda: self.witnessed,
            strict=self.strict,
            **options,  # type: ignore[arg-type]
        )

    def restart(self) -> AuditLog:
        self.log = self.new_log()
        self.transact(self.log.start)
        return self.log

    def transact(self, work: object, *args: object) -> object:
        """work(connection, *args, now)."""

        def inside(connection: Connection) -> tuple[object, Sequence[Item]]:
            return work(connection, *args, self.clock.now()), ()  # type: ignore[operator]

        return self.store.transact(inside, "testing the audit log")[0]

    def append(self, *records: AuditRecord, at_once: bool = False) -> list[int]:
        """One transaction."""

        def inside(connection: Connection) -> tuple[list[int], Sequence[Item]]:
            now = self.clock.now()
            if at_once:
                return self.log.append_all(connection, records, now), ()
            return [self.log.append(connection, record, now) for record in records], ()

        return self.store.transact(inside, "testing the audit log")[0]

    def checkpoint(self) -> Checkpoint | None:
        return self.transact(self.log.checkpoint)  # type: ignore[return-value]

    def story(self, records: int, *, seed: int = 1, meters: int = 4, per_transaction: int = 7) -> None:
        """Commands of some meters, and what is about none, with checkpoints now and then and one at the end."""
        dice = random.Random(seed)
        kinds = ["requested", "checked", "sending", "acknowledged", "verified", "refused", "payment"]
        left = records
        while left:
            size = min(left, dice.randrange(1, per_transaction + 1))
            self.append(
                *(
                    a_record(
                        dice.choice(kinds),
                        None if dice.random() < 0.2 else f"M{dice.randrange(meters):06}",
                        note=dice.choice(["客户来电", "ok", "", "x" * dice.randrange(60)]),
                        amount=dice.randrange(10**6),
                        share=dice.random() if dice.random() < 0.1 else None,
                    )
                    for _ in range(size)
                )
            )
            left -= size
            self.clock.advance(dice.randrange(1, 20))
            if dice.random() < 0.3:
                self.checkpoint()
        self.checkpoint()

    def checkpoints(self) -> list[Checkpoint]:
        return [parsed(body) for _, body in self.book.checkpoints()]

    def meddle(self, statement: str, **values: object) -> None:
        """What a thief of the store does."""
        with writing(self.store.engine, "meddling") as connection:
            connection.execute(text(statement), values)

    def verify(self, *seen: Checkpoint, signed: bool = True) -> Verdict:
        """By both verifiers, which must agree; gives what ours says."""
        keys = [self.key.public] if self.key is not None and signed else []
        with reading(self.store.engine, "verifying") as connection:
            ours = verify_log(entries_in_store(connection), keys, seen)
        theirs, _ = verify_audit.verify(
            self.path,
            [verify_audit.public_key(key.pem) for key in keys],
            [one.to_data() for one in seen],
        )
        assert ours.is_good == (theirs == []), (ours.findings, theirs)
        return ours
