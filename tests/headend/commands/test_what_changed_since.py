"""What was true when an order was taken and is not any more: policies, contacts, meters. Wrong opens and forgotten closes hide here."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from headend.commands.lookout import SeenReads
from headend.commands.model import Kind, State
from headend.commands.patrol import Patrol
from headend.drivers.errors import NotOffered
from headend.drivers.relay import Sent, Witness
from headend.model import MeterRecord
from tests.headend.commands.test_story import METER, a_payment, accepted, play, state_of
from tests.headend.commands.world import Room, World, WorldSwitch, an_order


def test_an_open_names_the_policy_under_which_it_was_looked_at_last() -> None:
    async def scene(world: World, room: Room) -> None:
        command = await accepted(room, after_s=60)
        assert command.policy_version == "test@1"
        world.gate.version = "test@2"
        await asyncio.sleep(120)
        ended = await state_of(room, command.id)
        assert (ended.state, ended.policy_version) == (State.VERIFIED, "test@2")

    play(scene)


def test_a_supply_that_was_off_already_is_no_canary() -> None:
    async def scene(world: World, room: Room) -> None:
        for number in (0, 1):
            world.meters[f"M{number:06d}"].contact = "open"
        for number in range(2, 6):
            world.meters[f"M{number:06d}"].fault = "stuck"
        orders = [an_order(world, Kind.OPEN, f"M{number:06d}", batch="B1") for number in range(6)]
        await room.desk.request_all(orders, "billing")
        await asyncio.sleep(300)
        assert len(world.wire) == 3, (
            "two that were off say nothing; the first that was on went wrong, and no other may go"
        )
        states = [command.state for command in await room.commands(batch="B1")]
        assert states.count(State.CANCELLED) == 3

    play(scene)


def test_after_a_restart_a_supply_that_was_off_already_is_still_no_canary() -> None:
    async def scene(world: World, room: Room) -> None:
        world.meters[METER].contact = "open"
        later = (an_order(world, Kind.OPEN, f"M{number:06d}", batch="B1", after_s=60) for number in range(2, 5))
        await room.desk.request_all([an_order(world, Kind.OPEN, METER, batch="B1"), *later], "billing")
        await asyncio.sleep(30)
        states = {command.meter: command.state for command in await room.commands(batch="B1")}
        assert states.pop(METER) is State.VERIFIED
        assert set(states.values()) == {State.SCHEDULED}
        await room.end()
        for meter in world.meters.values():
            meter.fault = "stuck"
        again = Room(world)
        await again.start()
        await asyncio.sleep(300)
        assert len(world.wire) == 2, "the one that was off proves nothing; the next went wrong, and no other may go"
        states_now = [command.state for command in await again.commands(batch="B1")]
        assert states_now.count(State.CANCELLED) == 2
        await again.end()

    play(scene)


def test_a_debt_is_tried_in_the_way_that_the_policy_says_now(monkeypatch: pytest.MonkeyPatch) -> None:
    order = WorldSwitch.order

    async def knows_no_button(self: WorldSwitch, meter: MeterRecord, kind: Kind, **more: Any) -> Sent:
        if kind is Kind.PERMIT_CLOSE:
            raise NotOffered(f"meter {meter.id}: a Modbus relay opens and closes, and knows no {kind.value}")
        return await order(self, meter, kind, **more)

    monkeypatch.setattr(WorldSwitch, "order", knows_no_button)

    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        world.gate.direct = False
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(600)
        [debt] = await room.obligations()
        assert "knows no permit-close" in debt.problem
        world.gate.direct = True
        await asyncio.sleep(1000)
        assert await room.obligations() == []
        assert world.meters[METER].contact == "closed"

    play(scene)


@pytest.mark.parametrize("has_obeyed", [False, True])
def test_what_a_meter_refused_is_looked_at_before_anybody_relies_on_it(
    has_obeyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = WorldSwitch.order

    async def obeys_and_refuses(self: WorldSwitch, meter: MeterRecord, kind: Kind, **more: Any) -> Sent:
        sent = await order(self, meter, kind, **more)
        if kind is Kind.OPEN and has_obeyed:
            self._world.meters[meter.id].contact = "open"
        return sent

    monkeypatch.setattr(WorldSwitch, "order", obeys_and_refuses)

    async def scene(world: World, room: Room) -> None:
        await accepted(room, Kind.STATUS)
        await asyncio.sleep(10)
        world.meters[METER].fault = "refuses"
        refused = await accepted(room)
        await asyncio.sleep(20)
        assert (await state_of(room, refused.id)).state is State.REFUSED
        assert room.journal.supply(METER).contact == "unknown"
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(60)
        assert world.meters[METER].contact == "closed", "paid, dark, and nobody knows of it"
        assert await room.obligations() == []
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, *([Kind.CLOSE] if has_obeyed else [])]

    play(scene)


def test_power_that_was_seen_before_the_next_cut_is_not_the_supply_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    look_back = WorldSwitch.look_back

    async def slow(self: WorldSwitch, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        seen = await look_back(self, meter, kind=kind)
        if kind is Kind.STATUS:
            await asyncio.sleep(25)
        return seen

    monkeypatch.setattr(WorldSwitch, "look_back", slow)

    async def scene(world: World, room: Room) -> None:
        world.gate.direct = False
        await accepted(room)
        await asyncio.sleep(20)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(20)
        permitted = (await room.commands(meter=METER))[0]
        assert permitted.waiting_for_customer
        world.meters[METER].contact = "closed"  # the customer presses the button
        age_s = (world.clock.now() - permitted.changed_at).total_seconds()
        await asyncio.sleep(32 - age_s)  # the look has begun
        proof = an_order(world, Kind.OPEN, METER, fence=1)
        assert (await room.desk.request(proof, "billing")).refusals == ()
        await asyncio.sleep(60)
        assert not (await state_of(room, permitted.id)).waiting_for_customer
        assert room.journal.supply(METER).contact == "open"
        taken = await room.desk.payment(replace(a_payment(world, METER), reference="P2", fence=2))
        assert METER in taken.obligations, "paid, dark, and nobody knows of it"

    play(scene)


def test_a_protection_ends_nobodys_waiting_for_the_button() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.direct = False
        await accepted(room)
        await asyncio.sleep(20)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(20)
        permitted = (await room.commands(meter=METER))[0]
        await accepted(room, Kind.PROTECT)
        await asyncio.sleep(10)
        assert room.aftercare.waiting == 1
        world.meters[METER].contact = "closed"
        await asyncio.sleep(1000)
        assert not (await state_of(room, permitted.id)).waiting_for_customer
        assert room.journal.supply(METER).contact == "closed"

    play(scene)


@pytest.mark.parametrize("what", ["stop", "payment", "protection"])
def test_a_frame_that_waits_for_its_line_is_stopped_by_what_came_meanwhile_and_a_close_is_not(what: str) -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room, meter="M000002")
        await accepted(room, Kind.STATUS)
        await asyncio.sleep(20)
        async with world.holds[world.meters[METER].record.line].by(-9):
            opened = await accepted(room)
            await accepted(room, Kind.CLOSE, meter="M000002")
            await asyncio.sleep(30)  # both stand in the line's queue
            if what == "stop":
                await room.desk.set_stop(True, "Ann", "something is wrong")
            elif what == "payment":
                await room.desk.payment(a_payment(world, METER))
            else:
                world.gate.protected.add(METER)
        await asyncio.sleep(120)
        assert [(frame.kind, frame.meter) for frame in world.wire[1:]] == [(Kind.CLOSE, "M000002")]
        ended = await state_of(room, opened.id)
        expected = {"stop": State.SCHEDULED, "payment": State.CANCELLED, "protection": State.REFUSED}
        assert ended.state is expected[what]

    play(scene)


def test_who_has_paid_and_stays_dark_is_told_and_told_again_when_power_is_back() -> None:
    async def scene(world: World, room: Room) -> None:
        patrol = Patrol(room.journal, world, clock=world.clock)
        await patrol.load()
        patrolling = asyncio.create_task(patrol.run())
        await accepted(room)
        await asyncio.sleep(20)
        world.meters[METER].fault = "stuck"
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(2400)
        world.meters[METER].fault = ""
        await asyncio.sleep(1000)
        patrolling.cancel()
        alarms = [event.data for event in world.events if event.data.get("about") == "alarm"]
        assert [(one["alarm"], one["state"]) for one in alarms] == [
            ("paid-but-dark", "raised"),
            ("paid-but-dark", "cleared"),
        ]
        assert patrol.standing == {}

    play(scene)


class SlowJournal:
    """A room's journal whose writes return half a minute after they are durable."""

    def __init__(self, room: Room) -> None:
        self._journal = room.journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def write(self, work: Any, doing: str) -> Any:
        found = await self._journal.write(work, doing)
        await asyncio.sleep(30)
        return found


def test_two_supplies_that_come_back_within_one_commit_are_both_off_the_list_of_alarms() -> None:
    async def scene(world: World, room: Room) -> None:
        patrol = Patrol(SlowJournal(room), world, clock=world.clock)  # type: ignore[arg-type]
        two = [METER, "M000002"]
        for meter in two:
            await accepted(room, meter=meter)
            await asyncio.sleep(20)
            await patrol.saw_reads(meter, SeenReads(at=world.clock.now(), current_a=Decimal(5)))
        assert patrol.standing.keys() == set(two)
        await accepted(room, Kind.CLOSE, METER)
        await asyncio.sleep(20)
        patrolling = asyncio.create_task(patrol.run())
        await asyncio.sleep(1)
        await accepted(room, Kind.CLOSE, "M000002")  # while that of the other is being cleared
        await asyncio.sleep(200)
        patrolling.cancel()
        assert patrol.standing == {}
        alarms = [event for event in world.events if event.data.get("about") == "alarm"]
        assert [event.subject for event in alarms if event.data["state"] == "cleared"] == two

    play(scene)


def test_what_is_on_is_not_switched_after_an_outage_because_nobody_could_look() -> None:
    async def scene(world: World, room: Room) -> None:
        world.down.add(world.meters[METER].record.line)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(5 * 3600)
        assert len(await room.obligations()) == 1
        world.down.clear()
        await asyncio.sleep(60)
        assert await room.obligations() == []
        assert world.wire == []

    play(scene)


def test_what_is_owed_at_a_meter_that_is_gone_stays_owed_and_is_paid_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        world.down.add("line-0")
        await room.desk.payment(a_payment(world, METER))
        await room.end()
        gone = world.meters.pop(METER)
        record = World.record

        def of_nowhere(self: World, meter: str) -> MeterRecord:
            if meter in self.meters:
                return record(self, meter)
            return MeterRecord(id=meter, line="(not configured)", address="", contract="", plan="", protocol="")

        monkeypatch.setattr(World, "record", of_nowhere)
        world.down = {"(not configured)"}
        without = Room(world)
        await without.start()
        await asyncio.sleep(26 * 3600)
        [debt] = await without.obligations()
        assert debt.is_incident
        opened = await without.desk.request(an_order(world, Kind.OPEN, METER, fence=1), "billing")
        assert [one.rule for one in opened.refusals] == ["meter"]
        await without.end()
        world.meters[METER] = gone
        world.down.clear()
        again = Room(world)
        await again.start()
        await asyncio.sleep(1000)
        assert await again.obligations() == []
        assert gone.contact == "closed"
        await again.end()

    play(scene)


def test_opens_of_a_head_end_that_may_not_switch_any_more_are_taken_back_and_closes_are_kept() -> None:
    async def scene(world: World, room: Room) -> None:
        later = await accepted(room, after_s=1800)
        close = await room.desk.request(an_order(world, Kind.CLOSE, "M000003", after_s=1800), "billing")
        assert await room.desk.drop_opens("[control] was switched off") == 1
        assert (await state_of(room, later.id)).detail["problem"] == "[control] was switched off"
        assert (await state_of(room, later.id)).state is State.CANCELLED
        assert close.command is not None
        await asyncio.sleep(7200)
        assert [frame.kind for frame in world.wire] == [Kind.CLOSE]
        assert await room.desk.drop_opens("again") == 0

    play(scene)
