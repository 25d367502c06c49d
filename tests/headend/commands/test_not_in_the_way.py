"""What must not stand in the way of a supply that is owed, and what must not slip past the rules of opens."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from headend.commands.model import Kind, State
from headend.drivers.relay import Sent, Witness
from headend.model import MeterRecord
from tests.headend.commands.test_story import METER, a_payment, play
from tests.headend.commands.world import Room, SimMeter, World, WorldSwitch, an_order


def test_an_error_of_ours_behind_the_bytes_keeps_no_close_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    order = WorldSwitch.order

    async def order_badly(self: WorldSwitch, meter: MeterRecord, kind: Kind, **more: Any) -> Sent:
        sent = await order(self, meter, kind, **more)
        if kind is Kind.OPEN:
            raise ValueError("what nobody thought of")
        return sent

    monkeypatch.setattr(WorldSwitch, "order", order_badly)

    async def scene(world: World, room: Room) -> None:
        await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        await world.sent(1)
        await asyncio.sleep(2)
        (open_,) = await room.commands(meter=METER)
        assert open_.state is State.UNCONFIRMED
        assert "ValueError" in open_.detail["because"]
        taken = await room.desk.payment(a_payment(world, METER))
        assert METER in taken.obligations
        await asyncio.sleep(10)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.CLOSE]
        assert world.meters[METER].contact == "closed"

    play(scene)


def _paying(world: World, room: Room) -> asyncio.Task[Any]:
    return asyncio.create_task(room.desk.payment(a_payment(world, METER)))


def _stopping(world: World, room: Room) -> asyncio.Task[Any]:
    return asyncio.create_task(room.desk.set_stop(True, "Ann", "something is wrong"))


def _forbids_payment(room: Room) -> bool:
    return room.journal.is_forbidden(METER)


def _forbids_all(room: Room) -> bool:
    return room.journal.is_stopped


@pytest.mark.parametrize(("begin", "forbids"), [(_paying, _forbids_payment), (_stopping, _forbids_all)])
def test_a_caller_who_goes_away_lifts_nothing_that_is_being_written(
    begin: Callable[[World, Room], "asyncio.Task[Any]"], forbids: Callable[[Room], bool]
) -> None:
    async def scene(world: World, room: Room) -> None:
        world.commit_s = 1.0
        asked = begin(world, room)
        await asyncio.sleep(0.001)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert forbids(room)
        await room.journal.settle()
        await asyncio.sleep(0)
        # Now it is durable, and what was forbidden for the time of writing is forbidden by what was written.
        assert not room.journal.is_forbidden(METER)
        assert room.journal.stop.is_on or room.journal.supply(METER).fence == 1

    play(scene)


def test_a_payment_is_owed_its_supply_also_where_the_meter_calls_its_open_contact_permitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = WorldSwitch._witness

    def see(self: WorldSwitch, simulated: SimMeter) -> Witness:
        seen = look(self, simulated)
        return replace(seen, contact="permitted") if seen.contact == "open" else seen

    monkeypatch.setattr(WorldSwitch, "_witness", see)

    async def scene(world: World, room: Room) -> None:
        await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        await world.sent(1)
        await asyncio.sleep(20)
        assert room.journal.supply(METER).contact == "open", "nobody has permitted anything"
        taken = await room.desk.payment(a_payment(world, METER))
        assert METER in taken.obligations
        await asyncio.sleep(20)
        assert world.meters[METER].contact == "closed"

    play(scene)


def test_a_close_of_a_forgiven_debt_keeps_the_next_payment_waiting_no_longer_than_itself() -> None:
    async def scene(world: World, room: Room) -> None:
        await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        await world.sent(1)
        await asyncio.sleep(20)
        world.meters[METER].fault = "silent-after"
        first = (await room.desk.payment(a_payment(world, METER))).obligations[METER]
        await world.sent(2)
        await room.desk.forgive(first, "Ann", "the payment bounced")
        second = replace(a_payment(world, METER), reference="P2", fence=2)
        assert METER in (await room.desk.payment(second)).obligations
        world.meters[METER].fault = ""
        await asyncio.sleep(30)
        assert world.meters[METER].contact == "closed"

    play(scene)


def test_a_stuck_contact_that_looks_permitted_after_a_direct_close_is_still_owed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status word 3 has the order taken back and the contact open: the same bits as after a permission."""
    order = WorldSwitch.order

    async def order_noted(self: WorldSwitch, meter: MeterRecord, kind: Kind, **more: Any) -> Sent:
        sent = await order(self, meter, kind, **more)
        if kind is Kind.CLOSE:
            self._world.meters[meter.id].contact = "permitted"
        return sent

    monkeypatch.setattr(WorldSwitch, "order", order_noted)

    async def scene(world: World, room: Room) -> None:
        await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        await world.sent(1)
        await asyncio.sleep(20)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(3600)
        assert [one.meter for one in await room.obligations()] == [METER]
        assert sum(frame.kind is Kind.CLOSE for frame in world.wire) > 1, "it was not tried again"

    play(scene)


@pytest.mark.parametrize("paid_after_s", [3.0, 124.0, 135.0])
def test_a_payment_waits_neither_for_the_answer_to_an_open_nor_for_a_look_behind_it(paid_after_s: float) -> None:
    """A concentrator answers an order after two minutes, and a look at its meter after half of one."""

    async def scene(world: World, room: Room) -> None:
        world.meters[METER].fault = "answers-late"
        await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        await world.sent(1)
        await asyncio.sleep(paid_after_s)
        paid_at = world.clock.monotonic()
        await room.desk.payment(a_payment(world, METER))
        await world.sent(2)
        assert world.clock.monotonic() - paid_at < 10
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.CLOSE]

    play(scene)
