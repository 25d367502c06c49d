"""Lists of opens under a name: whose they are, where one ends and the next begins, and what their first open says of the others."""

import asyncio
import random
from datetime import timedelta
from pathlib import Path

import pytest

from headend.commands.batches import Batch
from headend.commands.model import Command, Kind, Order, State
from headend.store.commands_lists import commands_of_list
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.test_story import a_payment, accepted, play, state_of
from tests.headend.commands.world import NOON, Room, World, an_order


def a_list(world: World, numbers: range, *, requester: str = "billing", **more: object) -> list[Order]:
    return [
        an_order(world, Kind.OPEN, f"M{number:06d}", batch="daily", requester=requester, **more)  # type: ignore[arg-type]
        for number in numbers
    ]


def test_a_name_is_one_requesters_while_a_list_of_it_is_under_way_and_anybodys_afterwards() -> None:
    async def scene(world: World, room: Room) -> None:
        await room.desk.request_all(a_list(world, range(2), after_s=60), "billing")
        theirs = a_list(world, range(2, 4), requester="ann")
        for answer in await room.desk.request_all(theirs, "ann"):
            assert answer.command is None
            assert [(one.rule, one.needed) for one in answer.refusals] == [
                ("batch", "another name in `batch`, or the end of that list")
            ]
            assert "a list of billing is under way" in answer.refusals[0].text
        more = await room.desk.request_all(a_list(world, range(4, 5), after_s=60), "billing")
        assert more[0].refusals == ()
        await asyncio.sleep(300)
        assert all(not command.is_active for command in await room.commands(batch="daily"))
        for answer in await room.desk.request_all(theirs, "ann"):
            assert answer.refusals == (), "the name is free again, and the keys were never used up"

    play(scene)


def test_a_list_is_what_came_since_the_last_one_had_ended_also_when_that_one_is_settled_later() -> None:
    async def scene(world: World, room: Room) -> None:
        doubtful = world.meters["M000000"]
        doubtful.fault = "reply-lost"
        await room.desk.request_all(a_list(world, range(1)), "billing")
        await world.sent(1)
        world.down.add(doubtful.record.line)
        await asyncio.sleep(30)  # nobody knows what became of it; the list has ended
        second = await room.desk.request_all(a_list(world, range(6, 9), after_s=600), "billing")
        listed = await room.journal.read(lambda connection: commands_of_list(connection, "daily", limit=10), "looking")
        assert {one.id for one in listed} == {one.command.id for one in second if one.command is not None}
        for number in range(6, 9):
            world.meters[f"M{number:06d}"].fault = "stuck"
        world.down.clear()
        await asyncio.sleep(300)
        assert (await room.commands(meter="M000000"))[0].state is State.VERIFIED
        await asyncio.sleep(600)
        assert len(world.wire) == 2, "what was proven of the first list let the second go without a canary of its own"

    play(scene)


def test_another_list_under_an_old_name_has_a_canary_of_its_own() -> None:
    async def scene(world: World, room: Room) -> None:
        await room.desk.request_all(a_list(world, range(2)), "billing")
        await world.sent(2)
        await asyncio.sleep(60)
        for meter in world.meters.values():
            meter.fault = "stuck"
        await room.desk.request_all(a_list(world, range(2, 7)), "billing")
        await asyncio.sleep(120)
        assert len(world.wire) == 3, "the first of the second list went wrong, and no other may go"

    play(scene)


@pytest.mark.parametrize("fault", ["", "stuck"])
def test_after_a_restart_the_second_list_of_a_name_still_waits_for_its_own_canary(tmp_path: Path, fault: str) -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        world = World(clock, random_, meters=10, folder=tmp_path)
        first = Room(world)
        await first.start()
        await first.desk.request_all(a_list(world, range(2)), "billing")
        await asyncio.sleep(60)
        assert len(world.wire) == 2
        await first.desk.request_all(a_list(world, range(2, 7), after_s=60), "billing")
        await first.end()
        for meter in world.meters.values():
            meter.fault = fault
        second = Room(world)
        await second.start()
        await asyncio.sleep(200)
        assert len(world.wire) == (3 if fault else 7)
        await second.end()
        world.close()

    run(main, start=NOON, seed=1)


def test_a_batch_is_judged_by_the_commands_of_its_own_list() -> None:
    def a_command(identity: str, state: State, attempts: int = 1) -> Command:
        order = Order(
            kind=Kind.OPEN,
            meter="M000001",
            reason="arrears",
            requester="billing",
            idempotency_key=identity,
            expires_at=NOON + timedelta(days=1),
            batch="daily",
        )
        return Command(
            id=identity, order=order, state=state, created_at=NOON, changed_at=NOON, due_at=NOON, attempts=attempts
        )

    waiting = a_command("c3", State.SCHEDULED, attempts=0)
    assert not Batch.of([waiting]).is_proven
    assert Batch.of([a_command("c2", State.VERIFIED), waiting]).is_proven
    assert Batch.of([a_command("c2", State.CONTRADICTED), waiting]).stopped
    assert Batch.of([a_command("c2", State.CANCELLED, attempts=0), waiting]).canary == ""


def test_what_was_released_from_quarantine_is_no_part_of_the_list_that_waits() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.limit = 1
        await room.desk.request_all(a_list(world, range(2)), "billing")
        await asyncio.sleep(60)
        [held] = await room.quarantined()
        await room.release(held.id)
        await asyncio.sleep(60)
        assert (await state_of(room, held.id)).state is State.VERIFIED
        assert (await accepted(room, meter="M000005")).list_head == ""

    play(scene)


@pytest.mark.parametrize("seed", range(12))
def test_a_payment_and_an_approval_at_one_moment_open_nobody_who_has_paid(seed: int) -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.approval = True
        orders = a_list(world, range(4))
        answers = await room.desk.request_all(orders, "billing")
        ids = [answer.command.id for answer in answers if answer.command is not None]
        paid = "M000002"

        async def pay() -> None:
            await asyncio.sleep(world.random.choice((0.0, 0.002, 0.5, 1.0, 3.0)))
            await room.desk.payment(a_payment(world, paid))

        await asyncio.gather(pay(), room.approve(ids, "ann"))
        await asyncio.sleep(300)
        for frame in world.wire:
            assert frame.kind is Kind.CLOSE or frame.meter != paid or frame.paid == 0
        assert world.meters[paid].contact == "closed"
        assert await room.obligations() == []
        states = {command.meter: command.state for command in await room.commands(batch="daily")}
        assert states[paid] in (State.CANCELLED, State.VERIFIED, State.UNCONFIRMED)

    play(scene, seed=seed)
