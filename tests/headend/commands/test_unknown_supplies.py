"""Payments for supplies of which nobody knows whether they are on, and looks that must be in nobody's way."""

import asyncio
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from headend.commands.model import Kind, State
from headend.drivers.relay import Witness
from headend.model import MeterRecord
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.test_story import METER, a_payment, accepted, play, state_of
from tests.headend.commands.world import NOON, Hold, Room, SimMeter, World, WorldSwitch, an_order


def ended(world: World) -> list[str]:
    return [str(event.data["ended"]) for event in world.events if event.data.get("state") == "ended"]


def test_a_payment_for_a_supply_that_nobody_has_looked_at_is_owed_until_somebody_has() -> None:
    async def scene(world: World, room: Room) -> None:
        taken = await room.desk.payment(a_payment(world, METER))
        assert list(taken.obligations) == [METER]
        await asyncio.sleep(30)
        assert await room.obligations() == []
        assert ended(world) == ["already-on"]
        assert world.wire == [], "a supply that is on was switched"
        assert (await room.desk.payment(a_payment(world, METER, reference="P2", fence=2))).obligations == {}

    play(scene)


def test_what_turns_out_to_be_off_is_closed_at_once() -> None:
    async def scene(world: World, room: Room) -> None:
        world.meters[METER].contact = "open"
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(30)
        assert [frame.kind for frame in world.wire] == [Kind.CLOSE]
        assert world.wire[0].at - world.events[0].time < timedelta(seconds=10)
        assert ended(world) == ["verified"]
        assert world.meters[METER].contact == "closed"

    play(scene)


@pytest.mark.parametrize("trouble", ["dead", "down", "unreadable"])
def test_where_nobody_can_look_it_is_switched_on_all_the_same(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if trouble == "unreadable":
        look = WorldSwitch._witness

        def see(self: WorldSwitch, simulated: SimMeter) -> Witness:
            return replace(look(self, simulated), contact="unknown")

        monkeypatch.setattr(WorldSwitch, "_witness", see)

    async def scene(world: World, room: Room) -> None:
        meter = world.meters[METER]
        meter.contact = "open"
        if trouble == "dead":
            meter.fault = "dead"
        elif trouble == "down":
            world.down.add(meter.record.line)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(3600)
        if trouble != "unreadable":
            assert [debt.meter for debt in await room.obligations()] == [METER]
        meter.fault = ""
        world.down.clear()
        await asyncio.sleep(1000)
        assert meter.contact == "closed"
        assert await room.obligations() == []

    play(scene)


def test_many_that_turn_out_to_be_off_are_closed_in_turns() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.feeder_of = lambda meter: "feeder"
        for meter in world.meters.values():
            meter.contact = "open"
        await room.desk.payment(a_payment(world, *world.meters))
        await asyncio.sleep(900)
        assert await room.obligations() == []
        began = world.wire[0].monotonic
        waits = sorted(frame.monotonic - began for frame in world.wire)
        assert len(waits) == len(world.meters)
        assert sum(wait < 10 for wait in waits) < 20
        assert waits[-1] <= 620

    play(scene, meters=100)


def test_those_that_are_only_looked_at_take_no_turns_from_those_that_are_off() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.feeder_of = lambda meter: "feeder"
        off = [meter for number, meter in enumerate(world.meters) if number % 20 == 0]
        for meter in off:
            world.meters[meter].contact = "open"
        await room.desk.payment(a_payment(world, *world.meters))
        await asyncio.sleep(120)
        assert {meter.contact for meter in world.meters.values()} == {"closed"}, "ten turns take a minute at most"
        assert len(world.wire) == len(off) == 10
        assert await room.obligations() == []

    play(scene, meters=200)


def test_who_pays_twice_takes_one_turn() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.feeder_of = lambda meter: "feeder"
        for meter in world.meters:
            world.meters[meter].contact = "open"
            await accepted(room, Kind.STATUS, meter)
        await asyncio.sleep(60)
        first, *_, last = world.meters
        world.down.add(world.meters[first].record.line)
        for number in range(1, 100):
            await room.desk.payment(a_payment(world, first, reference=f"P{number}", fence=number))
        await room.desk.payment(a_payment(world, last, reference="P", fence=1))
        await asyncio.sleep(20)
        assert world.meters[last].contact == "closed"

    play(scene)


def test_a_debts_look_survives_a_kill_at_every_point(tmp_path: Path) -> None:
    """What is owed is paid, whenever the process ended."""

    async def main(clock: VirtualClock, random_: random.Random) -> None:
        kill_at = 1
        while kill_at:
            world = World(clock, random_, meters=2, folder=tmp_path / str(kill_at))
            world.meters["M000000"].contact = "open"
            room = Room(world)
            await room.start()
            await room.desk.payment(a_payment(world, *world.meters))
            world.kill_at = world.points + kill_at
            await asyncio.sleep(60)
            kill_at = kill_at + 3 if world.kill_at is None else 0
            world.kill_at = None
            world.generation += 1
            await room.end()
            again = Room(world)
            await again.start()
            await asyncio.sleep(120)
            assert {meter.contact for meter in world.meters.values()} == {"closed"}
            assert await again.obligations() == []
            assert len({frame.command for frame in world.wire}) == len(world.wire)
            await again.end()
            world.close()

    for number in range(1, 200, 3):
        (tmp_path / str(number)).mkdir()
    run(main, start=NOON, seed=1)


# ------------------------------------------------------------------------------------------------ looks


def test_a_close_waits_for_no_status_on_a_silent_line() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        world.meters[METER].fault = "dead"
        asked = await accepted(room, Kind.STATUS, valid_s=300)
        await asyncio.sleep(20)
        world.meters[METER].fault = ""
        await accepted(room, Kind.PROTECT)
        closed = await accepted(room, Kind.CLOSE)
        ordered_at = world.clock.monotonic()
        await asyncio.sleep(15)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.PROTECT, Kind.CLOSE]
        assert world.wire[2].monotonic - ordered_at < 10
        await asyncio.sleep(60)
        assert (await state_of(room, closed.id)).state is State.VERIFIED
        assert (await state_of(room, asked.id)).state is State.VERIFIED

    play(scene)


def test_a_close_goes_while_a_status_is_being_asked() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        await accepted(room, Kind.STATUS)
        await asyncio.sleep(0.1)
        closed = await accepted(room, Kind.CLOSE)
        await asyncio.sleep(10)
        assert (await state_of(room, closed.id)).state is State.VERIFIED
        assert room.journal.supply(METER).contact == "closed", "what was seen before the close was taken for the end"

    play(scene)


def test_a_second_status_of_a_meter_is_refused_and_one_beside_a_waiting_open_is_not() -> None:
    async def scene(world: World, room: Room) -> None:
        waiting = await accepted(room, after_s=600)
        world.meters[METER].fault = "dead"
        asked = await accepted(room, Kind.STATUS)
        again = await room.desk.request(an_order(world, Kind.STATUS, METER), "billing")
        assert [one.rule for one in again.refusals] == ["one-active-command"]
        assert asked.id in again.refusals[0].text
        world.meters[METER].fault = ""
        await asyncio.sleep(120)
        assert (await state_of(room, asked.id)).state is State.VERIFIED
        assert (await state_of(room, waiting.id)).state is State.SCHEDULED

    play(scene)


def test_what_a_status_saw_before_a_close_was_proven_is_not_the_supply_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_back = WorldSwitch.look_back

    async def slow(self: WorldSwitch, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Any:
        seen = await look_back(self, meter, kind=kind)
        if kind is Kind.STATUS:
            await asyncio.sleep(8)
        return seen

    monkeypatch.setattr(WorldSwitch, "look_back", slow)

    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        asked = await accepted(room, Kind.STATUS)
        await asyncio.sleep(0.5)
        await accepted(room, Kind.CLOSE)
        await asyncio.sleep(20)
        looked = await state_of(room, asked.id)
        assert (looked.state, looked.detail["contact"]) == (State.VERIFIED, "open")
        assert room.journal.supply(METER).contact == "closed"

    play(scene)


@pytest.mark.parametrize("kind", [Kind.STATUS, Kind.OPEN])
def test_permission_that_was_only_seen_and_never_ordered_pays_no_debt(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some meters show a contact that was ordered open in the bits of a permitted one."""
    look = WorldSwitch._witness

    def see(self: WorldSwitch, simulated: SimMeter) -> Witness:
        seen = look(self, simulated)
        return replace(seen, contact="permitted") if seen.contact == "open" else seen

    monkeypatch.setattr(WorldSwitch, "_witness", see)

    async def scene(world: World, room: Room) -> None:
        world.gate.direct = False
        if kind is Kind.STATUS:
            world.meters[METER].contact = "open"
        await accepted(room, kind)
        await asyncio.sleep(20)
        assert room.journal.supply(METER).contact == ("permitted" if kind is Kind.STATUS else "open")
        taken = await room.desk.payment(a_payment(world, METER))
        assert METER in taken.obligations, "paid, dark, and nobody knows of it"
        await asyncio.sleep(60)
        assert Kind.PERMIT_CLOSE in [frame.kind for frame in world.wire]

    play(scene)


def test_an_open_that_was_contradicted_may_still_be_done_and_a_payment_closes_all_the_same() -> None:
    """Some meters take the order and wait with it until the load has gone down, long after the looks."""

    async def scene(world: World, room: Room) -> None:
        meter = world.meters[METER]
        meter.fault = "stuck"
        opened = await accepted(room)
        await asyncio.sleep(20)
        assert (await state_of(room, opened.id)).state is State.CONTRADICTED
        meter.fault, meter.contact = "", "open"
        taken = await room.desk.payment(a_payment(world, METER))
        assert list(taken.obligations) == [METER]
        await asyncio.sleep(20)
        assert meter.contact == "closed"

    play(scene)


def test_a_look_claims_no_reply_and_a_later_look_does_not_unsay_one() -> None:
    async def scene(world: World, room: Room) -> None:
        looked = await accepted(room, Kind.STATUS)
        await asyncio.sleep(20)
        assert "reply" not in (await state_of(room, looked.id)).detail
        meter = world.meters[METER]
        meter.fault = "reply-lost"
        opened = await accepted(room)
        await world.sent(1)
        meter.fault = "dead"
        await asyncio.sleep(25)
        assert (await state_of(room, opened.id)).state is State.UNCONFIRMED
        meter.fault = ""
        await asyncio.sleep(60)
        settled = await state_of(room, opened.id)
        assert (settled.state, settled.detail["reply"]) == (State.VERIFIED, "none: silent")

    play(scene)


# ------------------------------------------------------------------------------------------------ waiting for the line


def test_an_order_that_waits_long_for_its_line_is_sent_while_it_is_good() -> None:
    async def scene(world: World, room: Room) -> None:
        line = world.meters[METER].record.line
        async with world.holds.setdefault(line, Hold()).by(-9):
            command = await accepted(room, valid_s=3600)
            await asyncio.sleep(600)
            assert (await state_of(room, command.id)).is_active
        await asyncio.sleep(60)
        assert (await state_of(room, command.id)).state is State.VERIFIED
        async with world.holds[line].by(-9):
            late = await accepted(room, meter="M000002", valid_s=300)
            await asyncio.sleep(600)
        await asyncio.sleep(60)
        assert (await state_of(room, late.id)).state is State.EXPIRED
        assert len(world.wire) == 1

    play(scene)


@pytest.mark.parametrize("offset_s", [number / 10 for number in range(16)])
def test_an_open_that_nobody_knew_of_is_not_judged_by_the_close_that_came_behind_it(offset_s: float) -> None:
    async def scene(world: World, room: Room) -> None:
        meter = world.meters[METER]
        meter.fault = "reply-lost"
        opened = await accepted(room)
        await world.sent(1)
        world.down.add(meter.record.line)
        await asyncio.sleep(12)
        doubtful = await state_of(room, opened.id)
        assert doubtful.state is State.UNCONFIRMED
        world.down.clear()
        meter.fault = ""
        first_look_s = 30 - (world.clock.now() - doubtful.changed_at).total_seconds()
        await asyncio.sleep(first_look_s - offset_s)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(600)
        assert (await state_of(room, opened.id)).state in (State.UNCONFIRMED, State.VERIFIED)
        assert room.journal.supply(METER).contact == "closed"
        assert await room.obligations() == []

    play(scene)
