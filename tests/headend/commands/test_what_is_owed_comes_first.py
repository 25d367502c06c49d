"""Whatever happens between an open and a close: what is owed goes first, goes soon, and no open comes alive behind it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from headend.audit.record import AuditError
from headend.commands.agenda import CLOSES_PER_LINE
from headend.commands.journal import Page
from headend.commands.machine import Event
from headend.commands.model import Command, Kind, Order, Refusal, State
from headend.commands.obligations import Obligation
from headend.drivers.relay import OnSending, Ready, Sent
from headend.model import MeterRecord
from tests.headend.commands.test_story import METER, a_payment, accepted, play, state_of
from tests.headend.commands.world import NOON, OpenGate, Room, World, WorldSwitch, an_order

pytestmark = pytest.mark.both_databases

OTHERS = [f"M{number:06d}" for number in range(5)]  # of METER's line, METER among them
HOUR_S = 3600.0


def test_a_payment_does_not_wait_for_a_close_that_was_ordered_for_tomorrow() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        later = await accepted(room, Kind.CLOSE, after_s=20 * HOUR_S, valid_s=40 * HOUR_S)
        taken = await room.desk.payment(a_payment(world, METER))
        assert METER in taken.obligations
        await asyncio.sleep(20)
        assert world.meters[METER].contact == "closed"
        assert (await state_of(room, later.id)).state is State.CANCELLED

    play(scene)


def _once_durable(monkeypatch: pytest.MonkeyPatch, then: Callable[[World], Awaitable[None]]) -> None:
    """`then` happens when an open is durable as "sending", and before its last look."""
    order = WorldSwitch.order

    async def order_late(
        self: WorldSwitch, meter: MeterRecord, kind: Kind, *, on_sending: OnSending, **more: Any
    ) -> Sent:
        async def sending(ready: Ready) -> None:
            await on_sending(ready)
            if kind is Kind.OPEN:
                await then(self._world)

        return await order(self, meter, kind, on_sending=sending, **more)

    monkeypatch.setattr(WorldSwitch, "order", order_late)


def test_an_open_that_its_line_gave_back_does_not_come_alive_behind_a_newer_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(world: World, room: Room) -> None:
        async def close_it(world: World) -> None:
            await accepted(room, Kind.CLOSE)
            world.down.add("line-0")

        _once_durable(monkeypatch, close_it)
        opened = await accepted(room)
        await asyncio.sleep(30)
        assert world.wire == []
        world.down.clear()
        await asyncio.sleep(300)
        assert [frame.kind for frame in world.wire] == [Kind.CLOSE]
        assert (await state_of(room, opened.id)).state is State.CANCELLED

    play(scene)


def test_a_payment_with_an_old_stamp_and_no_newer_fence_stops_an_open_that_is_about_to_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(world: World, room: Room) -> None:
        async def pay(world: World) -> None:
            long_ago = world.clock.now() - timedelta(hours=1)
            await room.desk.payment(replace(a_payment(world, METER), paid_at=long_ago, fence=0))

        _once_durable(monkeypatch, pay)
        opened = await accepted(room)
        await asyncio.sleep(60)
        assert Kind.OPEN not in [frame.kind for frame in world.wire]
        assert (await state_of(room, opened.id)).state is State.CANCELLED

    play(scene)


def test_all_closes_of_a_line_go_while_nothing_can_be_written_down() -> None:
    async def scene(world: World, room: Room) -> None:
        for meter in OTHERS:
            await accepted(room, Kind.CLOSE, meter, after_s=5)
        world.is_store_broken = True
        await asyncio.sleep(60)
        assert sorted(frame.meter for frame in world.wire) == OTHERS
        world.is_store_broken = False
        await asyncio.sleep(120)
        assert len(world.wire) == len(OTHERS), "none is sent twice"
        assert await room.obligations() == []

    play(scene)


def test_an_open_that_lapses_while_nothing_can_be_written_down_keeps_no_close_waiting() -> None:
    async def scene(world: World, room: Room) -> None:
        opened = await accepted(room, after_s=2, valid_s=10)
        world.synchronised = None  # it is held back
        await accepted(room, Kind.CLOSE, "M000003", after_s=30)
        world.is_store_broken = True
        await asyncio.sleep(60)
        assert [frame.meter for frame in world.wire] == ["M000003"]
        world.is_store_broken = False
        await asyncio.sleep(60)
        assert (await state_of(room, opened.id)).state is State.EXPIRED

    play(scene)


def test_closes_whose_time_is_over_keep_no_place_while_nothing_can_be_written_down() -> None:
    async def scene(world: World, room: Room) -> None:
        world.down.add("line-0")
        late = [await accepted(room, Kind.CLOSE, meter, valid_s=10) for meter in OTHERS[:2]]
        await accepted(room, Kind.CLOSE, OTHERS[2], after_s=15)
        await asyncio.sleep(8)
        world.is_store_broken = True
        await asyncio.sleep(4)
        world.down.clear()
        await asyncio.sleep(60)
        assert [frame.meter for frame in world.wire] == [OTHERS[2]]
        world.is_store_broken = False
        await asyncio.sleep(60)
        assert [(await state_of(room, one.id)).state for one in late] == [State.EXPIRED] * 2

    play(scene)


def test_closes_that_were_sent_keep_no_place_while_nothing_can_be_written_down() -> None:
    async def scene(world: World, room: Room) -> None:
        meters = list(world.meters)
        for meter in meters:
            world.meters[meter].contact, world.meters[meter].fault = "open", "stuck"  # it is looked at for a while
            await accepted(room, Kind.CLOSE, meter, after_s=5 if meter != meters[-1] else 40)
        await world.sent(CLOSES_PER_LINE)
        await asyncio.sleep(1)
        world.is_store_broken = True
        await asyncio.sleep(60)
        assert meters[-1] in [frame.meter for frame in world.wire]

    play(scene, meters=CLOSES_PER_LINE + 1, per_line=CLOSES_PER_LINE + 1)


def test_an_error_of_ours_while_commands_are_ended_stops_neither_closes_nor_the_others_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Page.step

    def refuse(self: Page, identity: str, event: Event, **more: Any) -> Command:
        if event is Event.DEADLINE_PASSED and self.command(identity).meter == METER:
            raise AuditError("its text is refused")
        return step(self, identity, event, **more)

    monkeypatch.setattr(Page, "step", refuse)

    async def scene(world: World, room: Room) -> None:
        spoilt, other = [await accepted(room, meter=meter, after_s=2, valid_s=10) for meter in (METER, "M000002")]
        world.synchronised = None  # both are held back
        await asyncio.sleep(30)
        assert (await state_of(room, other.id)).state is State.EXPIRED
        await accepted(room, Kind.CLOSE, "M000003")
        await asyncio.sleep(20)
        assert [frame.meter for frame in world.wire] == ["M000003"]
        await asyncio.sleep(600)
        assert room.executor.failures < 40, "it is tried again, and not all the time"
        monkeypatch.undo()
        await asyncio.sleep(120)
        assert (await state_of(room, spoilt.id)).state is State.EXPIRED

    play(scene)


def test_a_close_that_the_rules_refuse_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    examine = OpenGate.examine

    def refuse_closes(self: OpenGate, order: Order, **more: Any) -> tuple[Refusal, ...]:
        return (self._refusal("reconnect"),) if order.kind is Kind.CLOSE else examine(self, order, **more)

    monkeypatch.setattr(OpenGate, "examine", refuse_closes)

    async def scene(world: World, room: Room) -> None:
        waiting = await accepted(room, after_s=60)
        answer = await room.desk.request(an_order(world, Kind.CLOSE, METER), "billing")
        assert [one.rule for one in answer.refusals] == ["reconnect"]
        assert (await state_of(room, waiting.id)).state is State.SCHEDULED

    play(scene)


def test_what_joins_a_debt_makes_it_older_and_lets_it_last() -> None:
    hour = timedelta(hours=1)

    async def scene(world: World, room: Room) -> None:
        intake = room.desk.intake

        def join(page: Page) -> list[Obligation]:
            order = intake.new_debt(page, meter=METER, cause="order", reference="c1")
            paid = intake.new_debt(page, meter=METER, cause="payment", reference="P2")
            return [
                intake.owe(page, debt)
                for debt in (
                    replace(order, since=NOON, expires_at=NOON + hour),
                    replace(order, since=NOON, expires_at=NOON + 3 * hour, reference="c2"),
                    replace(order, since=NOON - hour / 2, expires_at=NOON + 2 * hour, reference="c3"),
                    replace(paid, since=NOON - hour),
                    replace(paid, since=NOON - 3 * hour, reference="P1"),
                    replace(paid, since=NOON - 2 * hour, reference="P3"),
                )
            ]

        made = await room.journal.write(join, "owing")
        assert len({debt.id for debt in made}) == 1
        ends = [NOON + hour, NOON + 3 * hour, NOON + 3 * hour, None, None, None]
        assert [debt.expires_at for debt in made] == ends
        since = [NOON, NOON, NOON - hour / 2, NOON - hour, NOON - 3 * hour, NOON - 3 * hour]
        assert [debt.since for debt in made] == since
        assert made[-1].reference == "P1", "the clock is the oldest payment's"

    play(scene)


def test_who_has_paid_is_owed_again_when_the_permission_is_gone_before_there_was_power() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.direct = False
        await accepted(room)
        await asyncio.sleep(20)
        identity = (await room.desk.payment(a_payment(world, METER))).obligations[METER]
        await asyncio.sleep(20)
        assert world.meters[METER].contact == "permitted"
        assert await room.obligations() == []
        world.meters[METER].contact = "open"  # by somebody at the meter, or by its own rules
        await asyncio.sleep(120)
        assert world.meters[METER].contact == "permitted"
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.PERMIT_CLOSE, Kind.PERMIT_CLOSE]
        debt = await room.journal.write(lambda page: page.debt(identity), "looking")
        assert (debt.ended, debt.tries) == ("permitted", 2)
        told = [event.id for event in world.events if identity in event.id]
        assert len(told) == len(set(told)), "a consumer drops what it takes for a repeat"

    play(scene)


def test_a_meter_that_takes_every_permission_back_is_permitted_ever_more_seldom() -> None:
    async def scene(world: World, room: Room) -> None:
        async def take_back() -> None:
            while True:
                await asyncio.sleep(5)
                if world.meters[METER].contact == "permitted":
                    world.meters[METER].contact = "open"

        world.gate.direct = False
        await accepted(room)
        await asyncio.sleep(20)
        taking_back = asyncio.create_task(take_back())
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(4 * HOUR_S)
        taking_back.cancel()
        assert 10 < len(world.wire) < 30

    play(scene)


def test_opens_that_are_added_to_a_list_make_it_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World, room: Room) -> None:
        monkeypatch.setattr(world.gate, "needs_approval", lambda orders: len(orders) > 3)

        async def ask(*meters: str) -> list[State]:
            orders = [an_order(world, Kind.OPEN, one, after_s=600, batch="daily") for one in meters]
            answers = await room.desk.request_all(orders, "billing")
            return [answer.command.state for answer in answers if answer.command is not None]

        assert await ask(*OTHERS[:2]) == [State.SCHEDULED] * 2
        assert await ask(*OTHERS[2:4]) == [State.CHECKED] * 2, "they wait for another person"
        again = [an_order(world, Kind.OPEN, one, after_s=600, batch="weekly") for one in OTHERS[4:]]
        again += [an_order(world, Kind.OPEN, f"M00000{number}", after_s=600, batch="weekly") for number in (5, 6)]
        for _ in range(2):
            answers = await room.desk.request_all(again, "billing")
            assert [one.command.state for one in answers if one.command is not None] == [State.SCHEDULED] * 3

    play(scene)
