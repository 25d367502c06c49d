"""What stands in the audit log beside the steps of commands."""

import asyncio
import random

from headend.commands.model import Kind, State
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.test_story import METER, accepted, play, state_of
from tests.headend.commands.world import NOON, Room, World


def records(world: World, kind: str) -> list[tuple[str, object]]:
    return [(record.subject, record.data) for record in world.audit.durable if record.kind == kind]


def test_a_step_of_the_wall_clock_is_on_the_record_once() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room, Kind.STATUS)
        await asyncio.sleep(90)
        assert records(world, "clock-stepped") == []
        world.clock.step(3600.0)
        await asyncio.sleep(200)
        [(subject, data)] = records(world, "clock-stepped")
        assert subject == "clock"
        assert isinstance(data, dict)
        assert (data["steps"], abs(float(data["last_step_s"]) - 3600) < 1) == (1, True)

    play(scene)


def test_a_step_of_the_clock_that_cannot_be_recorded_keeps_no_close_waiting() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        closed = await accepted(room, Kind.CLOSE)
        world.clock.step(30.0)
        world.is_store_broken = True
        await world.sent(2)
        world.is_store_broken = False
        await asyncio.sleep(30)
        assert (await state_of(room, closed.id)).state is State.VERIFIED
        assert world.meters[METER].contact == "closed"

    play(scene)


def test_what_is_found_in_flight_is_on_the_record_before_it_is_looked_at() -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        world = World(clock, random_)
        room = Room(world)
        await room.start()
        opened = await accepted(room)
        await world.sent(1)
        world.generation += 1
        await room.end()
        again = Room(world)
        await again.start()
        await asyncio.sleep(30)
        assert [subject for subject, _ in records(world, "recovered")] == [opened.id]
        ended = await state_of(again, opened.id)
        assert (ended.state, len(world.wire)) == (State.VERIFIED, 1)
        assert ended.detail["reply"] == "not known: found in flight"
        await again.end()
        world.close()

    run(main, start=NOON, seed=1)
