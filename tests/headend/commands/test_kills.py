"""The process is killed at one await or commit point of the command path after the other, and started again.

Whatever the point: at most one frame per command, nothing forgotten, debts intact.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest

from headend.commands.desk import Payment
from headend.commands.model import ACTIVE, Kind, State
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.world import NOON, Killed, Room, World, an_order

T = TypeVar("T")
EVERY = 7  # each seventh point, another one in each part: together with the seeds all kinds of points are met
PARTS = 4


class Machine:
    """Starts the room again whenever it was killed, as a service manager does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.room = Room(world)
        self._generation = world.generation
        self.restarts = 0

    async def keep(self) -> None:
        await self._start()
        while True:
            await asyncio.sleep(0.05)
            if self._generation != self.world.generation:
                await self.room.end()
                await asyncio.sleep(2.0)
                self.restarts += 1
                await self._start()

    async def _start(self) -> None:
        self._generation = self.world.generation
        self.room = Room(self.world)
        with suppress(Killed):  # it may die while it starts, too
            await self.room.start()

    async def ask(self, question: Callable[[Room], Awaitable[T]]) -> T:
        """As a client: the same question again until there is an answer."""
        while True:
            try:
                return await question(self.room)
            except Killed:
                await asyncio.sleep(3.0)


async def story(world: World, machine: Machine) -> None:
    """Three opens, one of them paid while it waits, one in flight, one long after; and one that nobody pays."""
    world.meters["M000003"].fault = "reply-lost"
    orders = [an_order(world, Kind.OPEN, f"M{number:06d}", key=f"K{number}") for number in range(4)]
    for order in orders:
        await machine.ask(lambda room, order=order: room.desk.request(order, "billing"))  # type: ignore[misc]
    for number, wait_s in ((0, 0.3), (1, 1.0), (2, 60.0)):
        await asyncio.sleep(wait_s)
        payment = Payment(
            meters=(f"M{number:06d}",),
            reference=f"P{number}",
            paid_at=world.clock.now(),
            amount_minor=1,
            currency="CNY",
            fence=1,
        )
        await machine.ask(lambda room, payment=payment: room.desk.payment(payment))  # type: ignore[misc]
    await asyncio.sleep(1800)


def tell(seed: int, kill_at: int | None) -> int:
    """The story with a kill at one point; gives how many points there were."""

    async def main(clock: VirtualClock, random_: random.Random) -> int:
        world = World(clock, random_, meters=4, per_line=2)
        world.kill_at = kill_at
        machine = Machine(world)
        keeping = asyncio.create_task(machine.keep())
        await asyncio.sleep(0.5)
        await story(world, machine)
        check(world, seed, kill_at)
        commands = await machine.ask(lambda room: room.commands())
        debts = await machine.ask(lambda room: room.obligations())
        keeping.cancel()
        await machine.room.end()
        points = world.points
        world.close()
        where = f"seed {seed}, kill at point {kill_at}"
        assert machine.restarts == (kill_at is not None), where
        assert [one for one in commands if one.state in ACTIVE] == [], where
        assert debts == [], where
        opens = [one for one in commands if one.kind is Kind.OPEN]
        assert sorted(one.meter for one in opens) == list(world.meters), where
        for one in opens:
            assert one.state in (State.VERIFIED, State.CANCELLED, State.UNCONFIRMED, State.CONTRADICTED), where
        return points

    return run(main, start=NOON, seed=seed)


def check(world: World, seed: int, kill_at: int | None) -> None:
    where = f"seed {seed}, kill at point {kill_at}"
    times = Counter(frame.command for frame in world.wire)
    assert all(count == 1 for count in times.values()), f"{where}: sent twice: {times}"
    assert all(frame.audited for frame in world.wire), where
    for meter in ("M000000", "M000001", "M000002"):
        assert world.meters[meter].contact == "closed", f"{where}: {meter} is paid and dark"
    opens = Counter(frame.meter for frame in world.wire if frame.kind is Kind.OPEN)
    assert all(count <= 1 for count in opens.values()), f"{where}: {opens}"


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_any_point_nothing_is_sent_twice_or_forgotten(part: int, request: pytest.FixtureRequest) -> None:
    full = request.config.getoption("--commands") >= 100_000
    points = tell(part, None)
    assert points > 60
    for kill_at in range(1 + part, points, PARTS if full else EVERY * PARTS):
        tell(part, kill_at)
