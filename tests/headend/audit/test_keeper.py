"""Checkpoints in time, told to the feed and handed to a witness."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Connection

from headend.audit.keeper import AuditKeeper
from headend.audit.log import AuditLog
from headend.audit.record import AuditRecord
from headend.audit.witness import WitnessFile, checkpoints_in
from headend.keys import SigningKey
from headend.model import Item
from headend.store.audit import AuditBook
from headend.store.writer import Writer, inline
from simulators.virtual_time import VirtualClock, run
from tests.headend.audit.support import a_record
from tests.headend.support import new_store


class House:
    """A head-end's audit log under virtual time."""

    def __init__(self, folder: Path, clock: VirtualClock, *, key: SigningKey, witness: Path | None = None) -> None:
        self.store = new_store(folder)
        self.clock = clock
        self.book = AuditBook(self.store.engine)
        self.witness = None if witness is None else WitnessFile(witness)
        newest = (lambda: None) if self.witness is None else self.witness.newest
        self.log = AuditLog(self.store.engine, source="/headend/x", clock=clock, key=key, witnessed=newest, strict=True)
        self.writer = Writer(self.store, inline, clock=clock)
        self.keeper = AuditKeeper(self.log, self.writer, self.book, clock=clock, execute=inline, witness=self.witness)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["House"]:
        async with self.writer:
            task = asyncio.create_task(self.keeper.run())
            try:
                yield self
            finally:
                self.keeper.stop()
                await task
        self.store.close()

    async def append(self, record: AuditRecord) -> int:
        def work(connection: Connection) -> tuple[int, list[Item]]:
            return self.log.append(connection, record, self.clock.now()), []

        return await self.writer.transact(work, "testing")


def test_a_record_lies_without_a_signature_no_longer_than_a_minute(tmp_path: Path) -> None:
    """An hour of records at odd moments; the wall clock is set back in between."""

    async def main(clock: VirtualClock, _: random.Random) -> None:
        async with House(tmp_path, clock, key=SigningKey.new()).running() as house:
            appended: dict[int, float] = {}
            for pause_s in (0.5, 3, 59, 61, 200, 7, 7, 7, 31, 900, 1, 59.9, 60.1, 300) * 2:
                await asyncio.sleep(pause_s)
                appended[await house.append(a_record())] = clock.monotonic()
                if pause_s == 31:
                    clock.step(-86400)
                last = house.keeper.last
                for number, at in appended.items():
                    is_covered = last is not None and last.number >= number
                    assert is_covered or clock.monotonic() - at < 60, number
            quiet = len(house.book.checkpoints())
            await asyncio.sleep(3600)
            assert len(house.book.checkpoints()) == quiet + 1, "where nothing happens there is nothing to sign"

    run(main)


def test_every_checkpoint_is_in_the_feed_and_with_the_witness(tmp_path: Path) -> None:
    key = SigningKey.new()
    witness = tmp_path / "elsewhere" / "audit.ndjson"

    async def main(clock: VirtualClock, _: random.Random) -> None:
        house = House(tmp_path, clock, key=key, witness=witness)
        async with house.running():
            for _number in range(5):
                await house.append(a_record())
                await asyncio.sleep(61)
            await house.append(a_record())
            texts = house.store.events_after(0, 100)
        kept = list(checkpoints_in(witness.read_bytes().split(b"\n")))
        assert [one.number for one in kept] == [1, 2, 3, 4, 5, 6], "the last when it was stopped"
        assert all(one.is_signed_by(key.public) for one in kept)
        assert list(checkpoints_in(texts)) == kept[:5]
        event = json.loads(texts[0])
        assert (event["type"], event["subject"]) == ("headend.audit-checkpoint.v1", "audit")
        assert event["id"] == f"audit-checkpoint:1:{kept[0].hash[:16]}"

    run(main)


def test_what_the_witness_missed_it_gets_later_and_a_torn_line_costs_nothing(tmp_path: Path) -> None:
    key = SigningKey.new()
    witness = tmp_path / "elsewhere" / "audit.ndjson"
    witness.parent.write_text("a file where a folder should be")

    async def main(clock: VirtualClock, _: random.Random) -> None:
        async with House(tmp_path, clock, key=key, witness=witness).running() as house:
            await house.append(a_record())
            await asyncio.sleep(61)
            assert any("witness cannot be written" in problem for problem in house.keeper.problems)
            await house.append(a_record())
            await asyncio.sleep(61)
            os.unlink(witness.parent)
            await asyncio.sleep(10)
            assert not house.keeper.problems
        assert [one.number for one in checkpoints_in(witness.read_bytes().split(b"\n"))] == [1, 2]
        with witness.open("ab") as file:
            file.write(b'{"source":"/headend/x","first":3,"num')
        async with House(tmp_path, clock, key=key, witness=witness).running() as house:
            assert house.log.ok
            await house.append(a_record())
        assert [one.number for one in checkpoints_in(witness.read_bytes().split(b"\n"))] == [1, 2, 3]

    run(main)


def test_a_break_is_told_to_health_until_somebody_acknowledges(tmp_path: Path) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        async with House(tmp_path, clock, key=SigningKey.new()).running() as house:
            await house.append(a_record())
            await house.append(a_record())
            with house.store.engine.begin() as connection:
                connection.exec_driver_sql("DELETE FROM audit_records WHERE number = 2")
            await house.append(a_record("sending"))
            assert [*house.keeper.problems] == [house.log.problem]
            assert await house.keeper.acknowledge("Li Wei", "a drill") == 5
            assert house.log.ok
            assert not house.keeper.problems
            assert await house.keeper.acknowledge("Li Wei", "a drill") is None

    run(main)
