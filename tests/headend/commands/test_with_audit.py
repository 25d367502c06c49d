"""The command room on the real, strict audit log: every record is of a known kind, without secrets, and the chain is whole."""

import asyncio
import random

from sqlalchemy import text

from headend.audit import AuditLog
from headend.commands.desk import Payment
from headend.commands.model import Kind
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.world import NOON, Room, World, an_order


class Committed(AuditLog):
    """The world asks its log to say when a transaction has ended; the real one hears it from the engine."""

    subjects: frozenset[tuple[str, str]] = frozenset()  # what the wire's checker would ask for; not here

    def committed(self) -> None:
        pass

    def rolled_back(self) -> None:
        pass


def test_open_payment_close_stop_and_quarantine_are_all_on_the_record() -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        world = World(clock, random_, meters=10)
        log = Committed(world.store.engine, source="/headend/test", clock=clock, strict=True)
        world.audit = log  # type: ignore[assignment]
        world.gate.limit = 2
        room = Room(world)
        await room.start()
        for number in range(3):
            await room.desk.request(an_order(world, Kind.OPEN, f"M{number:06d}"), "billing")
        await asyncio.sleep(60)
        payment = Payment(
            meters=("M000000",), reference="P1", paid_at=clock.now(), amount_minor=1, currency="CNY", fence=1
        )
        await room.desk.payment(payment)
        (held,) = await room.quarantined()
        await room.delete(held.id)
        await room.desk.set_stop(True, "chief", "storm")
        await room.desk.set_stop(False, "chief", "over")
        await asyncio.sleep(60)
        with world.store.engine.connect() as connection:
            rows = connection.execute(text("SELECT body FROM audit_records ORDER BY number")).scalars().all()
        found = " ".join(str(row) for row in rows)
        for kind in ("requested", "sending", "verified", "quarantined", "deleted", "payment", "stop-switch"):
            assert f'"{kind}"' in found, kind
        for kind in ("obligation-begun", "obligation-tried", "obligation-met"):
            assert f'"{kind}"' in found, kind
        assert log.ok
        await room.end()
        world.close()

    run(main, start=NOON)
