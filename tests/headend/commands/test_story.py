"""What becomes of single commands, from order to proof, in every way in which a meter can answer."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from headend.commands.desk import Payment
from headend.commands.model import Command, Kind, State
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.world import NOON, Room, World, an_order, running

Scene = Callable[[World, Room], Awaitable[None]]
METER = "M000001"


def play(scene: Scene, *, meters: int = 10, per_line: int = 5, seed: int = 1) -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        world = World(clock, random_, meters=meters, per_line=per_line)
        async with running(world) as room:
            await scene(world, room)

    run(main, start=NOON, seed=seed)


async def state_of(room: Room, identity: str) -> Command:
    found = await room.desk.command(identity)
    assert found is not None
    return found[0]


async def accepted(room: Room, kind: Kind = Kind.OPEN, meter: str = METER, **more: object) -> Command:
    answer = await room.desk.request(an_order(room.world, kind, meter, **more), "billing")  # type: ignore[arg-type]
    assert answer.refusals == ()
    assert answer.command is not None
    return answer.command


def a_payment(world: World, *meters: str, reference: str = "P1", fence: int = 1) -> Payment:
    return Payment(
        meters=meters, reference=reference, paid_at=world.clock.now(), amount_minor=100_00, currency="CNY", fence=fence
    )


def test_an_open_is_verified_with_register_and_evidence() -> None:
    async def scene(world: World, room: Room) -> None:
        command = await accepted(room)
        await asyncio.sleep(20)
        ended = await state_of(room, command.id)
        assert ended.state is State.VERIFIED
        assert ended.register is not None
        assert ended.detail["contact"] == "open"
        found = await room.desk.command(command.id)
        assert found is not None
        assert [step.state.value for step in found[1]] == [
            "requested",
            "checked",
            "approved",
            "scheduled",
            "due",
            "sending",
            "sent",
            "acknowledged",
            "verified",
        ]
        assert [step.number for step in found[1]] == list(range(1, 10))
        told = [event for event in world.events if event.id.startswith(f"relay:{command.id}:")]
        assert [event.data["state"] for event in told] == [step.state.value for step in found[1]]

    play(scene)


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.CLOSE, Kind.PERMIT_CLOSE])
@pytest.mark.parametrize("fault", ["", "silent-after", "refuses"])
def test_what_the_register_said_stands_beside_every_order_that_has_left_whatever_became_of_it(
    kind: Kind, fault: str
) -> None:
    async def scene(world: World, room: Room) -> None:
        world.meters[METER].contact = "closed" if kind is Kind.OPEN else "open"
        world.meters[METER].fault = fault
        command = await accepted(room, kind)
        await world.sent(1)
        await asyncio.sleep(60)
        register = (await state_of(room, command.id)).register
        assert register is not None
        assert (register.obis, str(register.amount), register.unit) == ("1-0:1.8.0", "123.45", "kWh")
        told = [event.data for event in world.events if event.data.get("command") == command.id]
        registers = [data["register"] for data in told if data["state"] in ("sending", "sent")]
        assert [str(one["value"]) for one in registers if isinstance(one, dict)] == ["123.45", "123.45"]

    play(scene)


@pytest.mark.parametrize(
    ("fault", "state", "word"),
    [
        ("stuck", State.CONTRADICTED, "closed"),
        ("silent-after", State.CONTRADICTED, "closed"),
        ("reply-lost", State.VERIFIED, "none: silent"),
        ("swapped", State.FAILED, "not the one"),
        ("wrong-operator", State.REFUSED, "wrong operator"),
        ("refuses", State.REFUSED, "protected"),
        ("lazy", State.VERIFIED, "open"),
    ],
)
def test_each_way_of_failing_ends_in_its_own_state_with_evidence(fault: str, state: State, word: str) -> None:
    async def scene(world: World, room: Room) -> None:
        world.meters[METER].fault = fault
        command = await accepted(room)
        await asyncio.sleep(60)
        ended = await state_of(room, command.id)
        assert ended.state is state
        assert any(word in text for text in ended.detail.values()), ended.detail
        assert len(world.wire) == (0 if fault == "swapped" else 1)

    play(scene)


def test_a_silent_meter_is_asked_again_before_anything_left_and_expires_in_the_end() -> None:
    async def scene(world: World, room: Room) -> None:
        world.meters[METER].fault = "dead"
        command = await accepted(room, valid_s=120)
        await asyncio.sleep(200)
        ended = await state_of(room, command.id)
        assert ended.state is State.EXPIRED
        assert "no byte came" in ended.detail["problem"]
        assert world.wire == []

    play(scene)


def test_an_unconfirmed_open_is_settled_by_a_later_look_and_never_sent_again() -> None:
    async def scene(world: World, room: Room) -> None:
        meter = world.meters[METER]
        meter.fault = "reply-lost"
        command = await accepted(room)
        await world.sent(1)
        world.down.add(meter.record.line)
        await asyncio.sleep(60)
        assert (await state_of(room, command.id)).state is State.UNCONFIRMED
        again = await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        assert [one.rule for one in again.refusals] == ["unconfirmed"]
        world.down.clear()
        await asyncio.sleep(300)
        assert (await state_of(room, command.id)).state is State.VERIFIED
        assert len(world.wire) == 1

    play(scene)


def test_an_open_waits_for_the_window_of_the_next_morning() -> None:
    async def scene(world: World, room: Room) -> None:
        await asyncio.sleep(7 * 3600)  # 19:00
        command = await accepted(room, valid_s=24 * 3600)
        await asyncio.sleep(12 * 3600)
        assert (await state_of(room, command.id)).state is State.SCHEDULED
        await asyncio.sleep(3600 + 60)
        assert (await state_of(room, command.id)).state is State.VERIFIED
        assert world.wire[0].at.hour == 8

    play(scene)


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.CLOSE])
def test_nothing_leaves_before_its_not_before_also_after_a_restart(kind: Kind) -> None:
    async def scene(world: World, room: Room) -> None:
        world.meters[METER].contact = "closed" if kind is Kind.OPEN else "open"
        command = await accepted(room, kind, after_s=900)
        await asyncio.sleep(450)
        await room.end()
        again = Room(world)
        await again.start()
        await asyncio.sleep(440)
        assert world.wire == []
        await asyncio.sleep(60)
        [frame] = world.wire
        assert command.order.not_before is not None
        assert timedelta(0) <= frame.at - command.order.not_before < timedelta(seconds=40)
        await again.end()

    play(scene)


def test_the_same_key_is_the_same_command_for_months_and_another_order_under_it_is_a_conflict() -> None:
    async def scene(world: World, room: Room) -> None:
        order = an_order(world, Kind.OPEN, METER, key="K1")
        first = await room.desk.request(order, "billing")
        await asyncio.sleep(60)
        world.sleep_machine(90 * 86400)
        second = await room.desk.request(order, "billing")
        assert first.command is not None
        assert second.command is not None
        assert second.is_repeat
        assert second.command.id == first.command.id
        assert second.command.state is State.VERIFIED
        other = await room.desk.request(an_order(world, Kind.OPEN, "M000002", key="K1"), "billing")
        assert other.is_conflict
        assert other.command is None
        assert other.refusals[0].rule == "idempotency-key"
        assert len(world.wire) == 1

    play(scene)


def test_a_refused_order_says_which_rule_of_which_version_and_what_is_needed_each_time_it_is_asked() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.protected.add(METER)
        order = an_order(world, Kind.OPEN, METER, key="K1")
        first = await room.desk.request(order, "billing")
        second = await room.desk.request(order, "billing")
        assert first.command is not None
        assert first.command.state is State.REFUSED
        assert [(one.rule, one.version, one.needed) for one in first.refusals] == [
            ("protection", "test@1", "no protection")
        ]
        assert second.refusals == first.refusals

    play(scene)


@pytest.mark.parametrize("wrong", ["meter", "expired", "times", "requester", "batch"])
def test_an_order_that_cannot_be_one_is_refused_and_makes_no_command(wrong: str) -> None:
    async def scene(world: World, room: Room) -> None:

        order = an_order(world, Kind.OPEN, METER)
        orders = {
            "meter": [replace(order, meter="*")],
            "expired": [replace(order, expires_at=world.clock.now())],
            "times": [replace(order, not_before=order.expires_at)],
            "requester": [replace(order, requester="somebody-else")],
            "batch": [order, an_order(world, Kind.OPEN, "M000002")],
        }[wrong]
        for answer in await room.desk.request_all(orders, "billing"):
            assert answer.command is None
            assert [one.rule for one in answer.refusals] == [wrong]
        assert await room.commands() == []

    play(scene)


def test_a_close_takes_the_place_of_an_unsent_open() -> None:
    async def scene(world: World, room: Room) -> None:
        opened = await accepted(room, after_s=600)
        second = await room.desk.request(an_order(world, Kind.OPEN, METER), "billing")
        assert [one.rule for one in second.refusals] == ["one-active-command"]
        closed = await accepted(room, Kind.CLOSE)
        superseded = await state_of(room, opened.id)
        assert superseded.state is State.CANCELLED
        assert superseded.detail["superseded_by"] == closed.id
        await asyncio.sleep(900)
        assert [frame.kind for frame in world.wire] == [Kind.CLOSE]

    play(scene)


def test_a_payment_ends_a_waiting_open_and_owes_nothing_where_the_supply_is_on() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room, Kind.STATUS)
        await asyncio.sleep(10)
        opened = await accepted(room, after_s=600)
        taken = await room.desk.payment(a_payment(world, METER))
        assert taken.cancelled == (opened.id,)
        assert taken.obligations == {}
        late = await room.desk.request(an_order(world, Kind.OPEN, METER, fence=0), "billing")
        assert [one.rule for one in late.refusals] == ["fence"]
        await asyncio.sleep(1000)
        assert world.wire == []

    play(scene)


def test_a_payment_in_flight_puts_a_close_on_the_wire_within_ten_seconds() -> None:
    async def scene(world: World, room: Room) -> None:
        opened = await accepted(room)
        await world.sent(1)
        taken = await room.desk.payment(a_payment(world, METER))
        paid_at = world.clock.monotonic()
        assert list(taken.obligations) == [METER]
        await asyncio.sleep(60)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.CLOSE]
        assert world.wire[1].monotonic - paid_at <= 10
        assert world.meters[METER].contact == "closed"
        assert (await state_of(room, opened.id)).state in (State.UNCONFIRMED, State.VERIFIED)
        assert await room.obligations() == []
        assert room.debts.counters.ended == {"verified": 1}

    play(scene)


def test_a_payment_that_is_told_twice_counts_once() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        payment = a_payment(world, METER)
        first = await room.desk.payment(payment)
        second = await room.desk.payment(payment)
        assert second.is_repeat
        assert second.obligations == first.obligations
        other = await room.desk.payment(a_payment(world, METER, "M000002"))
        assert other.is_conflict
        await asyncio.sleep(60)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.CLOSE]

    play(scene)


def test_the_stop_switch_holds_waiting_opens_and_lets_closes_go() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room, meter="M000003")
        await asyncio.sleep(20)
        opened = await accepted(room, after_s=5)
        await room.desk.set_stop(True, "chief", "storm")
        refused = await room.desk.request(an_order(world, Kind.OPEN, "M000002"), "billing")
        assert [one.rule for one in refused.refusals] == ["stop-switch"]
        closed = await accepted(room, Kind.CLOSE, "M000003")
        await asyncio.sleep(300)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.CLOSE]
        assert (await state_of(room, closed.id)).state is State.VERIFIED
        assert "storm" in room.executor.problem_of(opened.id)
        await room.desk.set_stop(False, "chief", "storm over")
        await asyncio.sleep(120)
        assert (await state_of(room, opened.id)).state is State.VERIFIED

    play(scene)


def test_the_stop_switch_is_still_on_after_a_restart() -> None:
    async def scene(world: World, room: Room) -> None:
        await room.desk.set_stop(True, "chief", "storm")
        await room.end()
        again = Room(world)
        await again.start()
        assert again.desk.stop.is_on
        assert again.journal.is_stopped
        await again.end()

    play(scene)


def test_what_is_over_the_limit_is_quarantined_and_two_people_release_it() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.limit = 2
        commands = [await accepted(room, meter=f"M{number:06d}") for number in range(5)]
        await asyncio.sleep(60)
        held = await room.quarantined()
        assert len(held) == 3
        assert len(world.wire) == 2
        await room.release(held[0].id)
        await room.delete(held[1].id)
        await asyncio.sleep(60)
        assert (await state_of(room, held[0].id)).state is State.VERIFIED
        assert (await state_of(room, held[1].id)).state is State.CANCELLED
        assert len(world.wire) == 3
        assert len(commands) == 5

    play(scene)


def test_a_batch_goes_on_only_after_its_canary_was_verified() -> None:
    async def scene(world: World, room: Room) -> None:
        orders = [an_order(world, Kind.OPEN, f"M{number:06d}", batch="B1") for number in range(10)]
        answers = await room.desk.request_all(orders, "billing")
        assert all(answer.refusals == () for answer in answers)
        await asyncio.sleep(120)
        assert len(world.wire) == 10
        told = [(event.data["state"], event.data["command"]) for event in world.events if "command" in event.data]
        proven = next(index for index, (state, _) in enumerate(told) if state == "verified")
        assert sum(state == "sending" for state, _ in told[:proven]) == 1

    play(scene)


def test_a_batch_whose_canary_goes_wrong_is_stopped() -> None:
    async def scene(world: World, room: Room) -> None:
        for meter in world.meters.values():
            meter.fault = "stuck"
        orders = [an_order(world, Kind.OPEN, f"M{number:06d}", batch="B1") for number in range(10)]
        await room.desk.request_all(orders, "billing")
        await asyncio.sleep(120)
        assert len(world.wire) == 1
        states = [command.state for command in await room.commands(batch="B1")]
        assert states.count(State.CONTRADICTED) == 1
        assert states.count(State.CANCELLED) == 9

    play(scene)


def test_a_list_waits_for_another_person() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.approval = True
        orders = [an_order(world, Kind.OPEN, f"M{number:06d}", batch="B1") for number in range(3)]
        answers = await room.desk.request_all(orders, "billing")
        ids = [answer.command.id for answer in answers if answer.command is not None]
        await asyncio.sleep(30)
        assert world.wire == []
        assert {command.approver for command in await room.approve(ids, "ann")} == {"ann"}
        await asyncio.sleep(60)
        assert len(world.wire) == 3

    play(scene)


def test_a_permitted_close_waits_visibly_until_power_is_seen() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.direct = False
        await accepted(room)
        await asyncio.sleep(20)
        await room.desk.payment(a_payment(world, METER))
        await asyncio.sleep(30)
        permitted = (await room.commands(meter=METER))[0]
        assert permitted.kind is Kind.PERMIT_CLOSE
        assert permitted.state is State.VERIFIED
        assert permitted.waiting_for_customer
        assert room.aftercare.waiting == 1
        assert room.debts.counters.ended == {"permitted": 1}
        await asyncio.sleep(2 * 3600)
        assert [event.data["number"] for event in world.events if event.data.get("about") == "reminder"] == [1]
        world.meters[METER].contact = "closed"
        await asyncio.sleep(1000)
        ended = await state_of(room, permitted.id)
        assert not ended.waiting_for_customer
        assert 7000 < float(ended.detail["time_to_power_s"]) < 8400
        assert room.journal.supply(METER).contact == "closed"

    play(scene)


def test_a_debt_climbs_the_ladder_and_stays_open_as_an_incident_until_it_is_paid() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        world.meters[METER].fault = "dead"
        paid_at = world.clock.now() - timedelta(minutes=30)
        payment = Payment(meters=(METER,), reference="P1", paid_at=paid_at, amount_minor=1, currency="CNY", fence=1)
        await room.desk.payment(payment)
        climbed: list[float] = []
        for _ in range(26 * 60):
            await asyncio.sleep(60)
            if len(world.escalations) > len(climbed):
                climbed.append((world.clock.now() - paid_at).total_seconds() / 3600)
        assert [round(hours, 1) for hours in climbed] == [1.0, 4.0, 12.0, 20.0, 24.0]
        (debt,) = await room.obligations()
        assert debt.is_incident
        told: dict[object, object] = {}  # by step of the ladder, as it was first told in the feed
        for event in world.events:
            if event.data.get("about") == "obligation" and event.data["stage"]:
                told.setdefault(event.data["stage"], event.data["state"])
        assert told == {1: "escalated", 2: "escalated", 3: "escalated", 4: "escalated", 5: "incident"}
        assert room.debts.counters.escalations == 5
        world.meters[METER].fault = ""
        await asyncio.sleep(1000)
        assert await room.obligations() == []
        assert world.meters[METER].contact == "closed"

    play(scene)


def test_a_debt_is_tried_within_a_minute_of_its_lines_return() -> None:
    async def scene(world: World, room: Room) -> None:
        for number in range(5):
            await accepted(room, meter=f"M{number:06d}")
        await asyncio.sleep(60)
        world.down.add("line-0")
        await room.desk.payment(a_payment(world, *(f"M{number:06d}" for number in range(5))))
        await asyncio.sleep(5 * 3600)
        world.down.clear()
        back_at = world.clock.monotonic()
        await asyncio.sleep(120)
        closes = [frame for frame in world.wire if frame.kind is Kind.CLOSE]
        assert len(closes) == 5
        assert max(frame.monotonic for frame in closes) - back_at <= 60
        assert await room.obligations() == []

    play(scene)


def test_an_ordered_close_does_not_happen_after_it_expired_and_its_debt_lapses_with_an_event() -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room)
        await asyncio.sleep(20)
        world.down.add("line-0")
        command = await accepted(room, Kind.CLOSE, valid_s=600)
        await asyncio.sleep(700)
        world.down.clear()
        await asyncio.sleep(3600)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN]
        assert (await state_of(room, command.id)).state is State.EXPIRED
        assert [event.data["ended"] for event in world.events if event.data.get("state") == "ended"] == ["lapsed"]

    play(scene)


@pytest.mark.parametrize("trouble", ["audit", "clock", "store"])
def test_opens_wait_and_closes_go_when_something_of_ours_is_broken(trouble: str) -> None:
    async def scene(world: World, room: Room) -> None:
        await accepted(room, meter="M000003")
        await asyncio.sleep(20)
        opened = await accepted(room, after_s=5)
        await accepted(room, Kind.CLOSE, "M000003", after_s=5)
        if trouble == "audit":
            world.audit.ok = False
        elif trouble == "clock":
            world.synchronised = None
        else:
            world.is_store_broken = True
        await asyncio.sleep(120)
        assert [frame.kind for frame in world.wire] == [Kind.OPEN, Kind.CLOSE]
        world.audit.ok, world.synchronised, world.is_store_broken = True, True, False
        await asyncio.sleep(120)
        assert (await state_of(room, opened.id)).state is State.VERIFIED
        assert [command.state for command in await room.commands(meter="M000003")] == [State.VERIFIED] * 2

    play(scene)


def test_a_status_settles_what_nobody_knew() -> None:
    async def scene(world: World, room: Room) -> None:
        asked = await accepted(room, Kind.STATUS)
        await asyncio.sleep(5)
        ended = await state_of(room, asked.id)
        assert ended.state is State.VERIFIED
        assert ended.detail["contact"] == "closed"
        assert room.journal.supply(METER).contact == "closed"
        assert world.wire == []

    play(scene)


def test_a_cancelled_command_sends_nothing_and_one_in_flight_cannot_be_cancelled() -> None:
    async def scene(world: World, room: Room) -> None:
        waiting = await accepted(room, after_s=60)
        cancelled = await room.desk.cancel(waiting.id, "ann", "wrong customer")
        assert isinstance(cancelled, Command)
        assert cancelled.state is State.CANCELLED
        await asyncio.sleep(120)
        assert world.wire == []
        sent = await accepted(room)
        await world.sent(1)
        assert not isinstance(await room.desk.cancel(sent.id, "ann", "too late"), Command)

    play(scene)


def test_closes_of_one_feeder_are_spread_protected_customers_first() -> None:
    async def scene(world: World, room: Room) -> None:
        world.gate.feeder_of = lambda meter: "feeder"
        world.gate.first = {"M000199"}
        meters = [f"M{number:06d}" for number in range(200)]
        for meter in meters:
            world.meters[meter].contact = "open"
            await accepted(room, Kind.STATUS, meter)
        await asyncio.sleep(60)
        paid_at = world.clock.monotonic()
        await room.desk.payment(a_payment(world, *meters))
        await asyncio.sleep(800)
        closes = [frame for frame in world.wire if frame.kind is Kind.CLOSE]
        assert sorted(frame.meter for frame in closes) == meters
        waits = {frame.meter: frame.monotonic - paid_at for frame in closes}
        assert max(waits.values()) <= 610
        assert waits["M000199"] < 5
        per_minute = [sum(60 * minute <= wait < 60 * (minute + 1) for wait in waits.values()) for minute in range(10)]
        assert max(per_minute) <= 40
        assert await room.obligations() == []

    play(scene, meters=200)
