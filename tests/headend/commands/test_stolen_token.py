"""Somebody has a token that may ask for opens, and asks for all of the fleet: over the real desk, rules, journal, log and executor.

What was switched is counted on the wire. What he gets is the limit, whatever he tries, and whoever restarts or sets clocks for him.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from headend.audit.entries import entries_in_store
from headend.audit.record import AuditRecord
from headend.audit.verify import verify_log
from headend.commands.governor import Alarm, Limits
from headend.commands.governor_clock import GovernorClock
from headend.commands.governor_keeper import GovernorKeeper
from headend.commands.model import Kind, State
from headend.commands.policy import MeterFacts
from headend.commands.roles import Caller
from headend.commands.rulebook import Rulebook
from headend.database.engine import reading
from headend.keys import SigningKey
from headend.store import commands as rows
from headend.store import governor as ledger
from headend.store.tokens import Role
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.rules_support import a_meter, a_policy
from tests.headend.commands.test_with_audit import Committed
from tests.headend.commands.world import NOON, Room, World, an_order

METERS = 10_000
LIST = 10  # a longer one would wait for a second person
LIMIT = 50  # 0.5 % of the fleet a day, and so many an hour
LI, WANG = (
    Caller(token=f"token of {name}", person=name, roles=frozenset({Role.APPROVE, Role.OPERATE, Role.DISCONNECT}))
    for name in ("Li Wei", "Wang Fang")
)


class HeadEnd:
    """One life of the process: rules, governor and room over what is in the store."""

    def __init__(self, world: World, log: Committed, facts: dict[str, MeterFacts]) -> None:
        self.world = world
        self.transact: Callable[..., Any] = world.transact_of(world.generation)
        self.rulebook = Rulebook(
            a_policy(timezone="UTC"),
            facts,
            GovernorClock(0, world.clock.monotonic()),
            monotonic=world.clock.monotonic,
            wall=world.clock.now,
            control_enabled=True,
            has_signing_key=True,
        )

        def record(connection: Connection, alarm: Alarm, now: object) -> None:
            data: dict[str, object] = {"alarm": "quarantined", "limit": alarm.limit, "count": alarm.count}
            log.append(
                connection,
                AuditRecord(kind="alarm", subject=alarm.caller, actor="head-end", data=data),
                world.clock.now(),
            )

        self.governor = GovernorKeeper(self.rulebook, self, world.clock.now, audit=record)  # type: ignore[arg-type]
        world.gate = self.rulebook  # type: ignore[assignment]
        self.room = Room(world)
        self._governing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.governor.look()
        await self.room.start()
        self._governing = asyncio.create_task(self.governor.run())

    async def end(self) -> None:
        await self.room.end()
        if self._governing is not None:
            self._governing.cancel()

    async def set_limits(self) -> None:
        """By two people; they hold after the delay."""

        def set_(connection: Connection) -> tuple[None, Sequence[Any]]:
            asked = self.rulebook.ask_limits(connection, Limits(), LI, self.world.clock.now())
            assert asked is not None
            self.rulebook.approve_limits(connection, asked.id, WANG, self.world.clock.now())
            return None, ()

        await self.transact(set_, "setting limits")

    async def steal(self, meters: Sequence[str], name: str) -> None:
        """As many lists as there are, each too short to need a second person."""
        for start in range(0, len(meters), LIST):
            batch = f"{name}-{start}"
            orders = [
                an_order(self.world, Kind.OPEN, meter, key=f"{batch}-{meter}", batch=batch, requester="thief")
                for meter in meters[start : start + LIST]
            ]
            await self.room.desk.request_all(orders, "thief")

    async def states(self) -> Counter[str]:
        found = await self.room.journal.read(rows.count_by_state, "counting")
        return Counter({state: count for (_, state), count in found.items()})


def test_a_stolen_token_opens_no_more_than_the_limit_and_restarts_and_clocks_give_nothing_back() -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        world = World(clock, random_, meters=METERS, per_line=50)
        facts = {
            meter: a_meter(meter, feeder=f"F{number % 20}", line=f"L{number % 200}", estimated_kw=Decimal("0.4"))
            for number, meter in enumerate(world.meters)
        }
        log = Committed(world.store.engine, source="/headend/test", clock=clock, strict=True, key=SigningKey.new())
        world.audit = log  # type: ignore[assignment]
        head_end = HeadEnd(world, log, facts)
        await head_end.start()
        await head_end.set_limits()
        await asyncio.sleep(3700)
        meters = list(world.meters)
        random_.shuffle(meters)

        began = clock.now()
        first = asyncio.create_task(head_end.steal(meters, "night"))
        await asyncio.sleep(60)
        alarms = [event for event in world.events if event.data.get("about") == "alarm"]
        assert alarms, "a minute has passed, and nobody was told"
        assert all(event.time - began <= timedelta(seconds=60) for event in alarms)
        assert {event.data["detail"]["requester"] for event in alarms} == {"thief"}  # type: ignore[index]
        await first
        await asyncio.sleep(600)
        states = await head_end.states()
        assert states[State.QUARANTINED.value] == METERS - LIMIT
        assert 0 < len(world.wire) <= LIMIT
        assert states[State.VERIFIED.value] == len(world.wire)

        for step_s in (-86_400.0, 2 * 86_400.0, -86_400.0):
            await head_end.end()
            clock.step(step_s)
            head_end = HeadEnd(world, log, facts)
            await head_end.start()
            await asyncio.sleep(400)  # a clock that was set is trusted again
            await head_end.steal(random_.sample(meters, 200), f"again after {step_s}")
            await asyncio.sleep(300)
            assert len(world.wire) <= LIMIT
        assert (await head_end.room.journal.read(ledger.load_position, "looking")) < 3 * 3600 * 1000

        with reading(world.store.engine, "checking") as connection:
            recorded = set(connection.execute(text("SELECT body FROM audit_records")).scalars())
            sending = [body for body in recorded if '"kind":"sending"' in str(body)]
            assert len(sending) >= len(world.wire)
            assert verify_log(entries_in_store(connection), [], []).findings == []
        await head_end.end()
        world.close()

    run(main, start=NOON - timedelta(hours=2))
