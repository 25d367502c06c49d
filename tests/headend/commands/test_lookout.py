"""What the head-end's own reads say of supplies that are off; tests/scenarios/test_relay.py has it on simulated meters."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from headend.commands.lookout import CLOCKS, EVENTS_MAX, Lookout, SeenReads, seen_in
from headend.commands.model import Kind, State
from headend.commands.patrol import Patrol
from headend.drivers.relay import Witness
from headend.feed.envelope import encode_read
from headend.model import Quality, Read
from headend.store.writer import inline
from protocols.values import Unit
from tests.headend.commands.test_story import METER, a_payment, accepted, play, state_of
from tests.headend.commands.world import NOON, Room, SimMeter, World, WorldSwitch

QUARTER = timedelta(minutes=15)


def a_read(amount: str, *, obis: str = "1-0:1.8.0", unit: Unit = Unit.KWH, at: datetime, meter: str = METER) -> Read:
    return Read(
        meter=meter,
        obis=obis,
        amount=Decimal(amount),
        unit=unit,
        interval_end=at.replace(microsecond=0),
        read_at=None,
        received_at=at + timedelta(seconds=3),
        quality=(Quality.MEASURED,),
        source="dlt645/base_2007:00010000",
    )


def seen(*reads: Read, since: datetime = NOON) -> dict[str, SeenReads]:
    events = [encode_read(read, sequence=number, source="/headend/test") for number, read in enumerate(reads, start=1)]
    return seen_in(events, {METER: since})


def test_only_good_reads_of_supplies_that_are_off_taken_since_are_looked_into() -> None:
    good = a_read("200.5", at=NOON + QUARTER)
    assert seen(good)[METER].energy == (Decimal("200.5"), "kWh")
    assert seen(replace(good, meter="M000009")) == {}
    assert seen(good, since=NOON + QUARTER) == {}
    pushed = replace(good, received_at=NOON + QUARTER + timedelta(seconds=20))
    assert seen(pushed, since=NOON + QUARTER - CLOCKS) == {}, "the clock that it bears may be fast"
    assert seen(pushed, since=NOON + QUARTER - CLOCKS - timedelta(seconds=1)) != {}
    assert seen(replace(good, quality=(Quality.MEASURED, Quality.SUSPECT))) == {}
    assert seen(replace(good, amount=None, quality=(Quality.MISSING,), reason="silent")) == {}
    late = replace(good, interval_end=NOON - QUARTER, quality=(Quality.MEASURED, Quality.BACK_FILLED))
    assert seen(late) == {}, "what is fetched late tells of before"
    assert seen_in([b'{"type":"headend.relay.v1","subject":"M000001","data":{"about":"alarm"}}'], {METER: NOON}) == {}


@pytest.mark.parametrize(
    ("obis", "amount", "unit", "expected"),
    [
        ("1-0:31.7.0", "-0.05", Unit.A, {"current_a": Decimal("0.05")}),
        ("1-0:1.7.0", "0.0125", Unit.KW, {"power_w": Decimal("12.5")}),
        ("1-0:16.7.0", "-2.5", Unit.KW, {"power_w": Decimal("2500")}),
        ("0-0:96.3.10", "1", Unit.NONE, {"contact": "closed"}),
        ("0-0:96.3.10", "0", Unit.NONE, {"contact": "open"}),
        ("0-0:96.3.10", "7", Unit.NONE, {}),
        ("1-0:2.8.0", "5", Unit.KWH, {}),
    ],
)
def test_each_quantity_says_its_own(obis: str, amount: str, unit: Unit, expected: dict[str, object]) -> None:
    found = seen(a_read(amount, obis=obis, unit=unit, at=NOON + QUARTER))[METER]
    told = {name: getattr(found, name) for name in ("energy", "current_a", "power_w", "contact")}
    assert {name: value for name, value in told.items() if value} == expected


class Watch:
    def __init__(self, world: World, room: Room) -> None:
        self.world = world
        self.patrol = Patrol(room.journal, world, clock=world.clock)
        self.lookout = Lookout(room.journal, self.patrol, world.store, clock=world.clock, execute=inline)

    async def reads(self, *reads: Read) -> int:
        self.world.store.commit(reads)
        return await self.lookout.look()

    def alarms(self) -> list[tuple[str, str]]:
        told = [event.data for event in self.world.events if event.data.get("about") == "alarm"]
        return [(str(one["alarm"]), str(one["state"])) for one in told]


@pytest.mark.parametrize(
    ("reads", "alarms"),
    [
        ([("123.45", "1-0:1.8.0", Unit.KWH), ("123.49", "1-0:1.8.0", Unit.KWH)], []),
        ([("123.55", "1-0:1.8.0", Unit.KWH)], ["cut-but-consuming"]),
        ([("0.02", "1-0:31.7.0", Unit.A)], []),
        ([("1.2", "1-0:31.7.0", Unit.A)], ["cut-but-consuming"]),
        ([("0.004", "1-0:1.7.0", Unit.KW)], []),
        ([("0.3", "1-0:1.7.0", Unit.KW)], ["cut-but-consuming"]),
        ([("1", "0-0:96.3.10", Unit.NONE)], ["closed-but-should-be-open"]),
        ([("0", "0-0:96.3.10", Unit.NONE)], []),
    ],
)
def test_a_read_of_a_supply_that_is_off_raises_the_alarm_that_it_shows_once(
    reads: Sequence[tuple[str, str, Unit]], alarms: list[str]
) -> None:
    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        assert await watch.lookout.look() == 0
        await accepted(room)
        await asyncio.sleep(20)
        assert await watch.lookout.look() == 0
        for number, (amount, obis, unit) in enumerate(reads, start=1):
            await watch.reads(a_read(amount, obis=obis, unit=unit, at=NOON + number * QUARTER))
            await watch.reads(a_read(amount, obis=obis, unit=unit, at=NOON + (number + 10) * QUARTER))
        assert watch.alarms() == [(alarm, "raised") for alarm in alarms]
        assert len(world.wire) == 1

    play(scene)


def test_without_a_captured_register_the_first_read_after_the_cut_is_what_others_are_held_against() -> None:
    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        world.meters[METER].contact = "open"
        await accepted(room, Kind.STATUS)
        await asyncio.sleep(20)
        await watch.lookout.look()
        assert await watch.reads(a_read("777.00", at=NOON + QUARTER)) == 1
        assert watch.alarms() == []
        await watch.reads(a_read("777.40", at=NOON + 2 * QUARTER))
        assert watch.alarms() == [("cut-but-consuming", "raised")]

    play(scene)


def test_paid_and_seen_open_is_told_and_what_a_close_does_is_no_alarm() -> None:
    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        await accepted(room)
        await asyncio.sleep(400)
        await watch.lookout.look()
        world.meters[METER].fault = "silent-after"
        await room.desk.payment(a_payment(world, METER))
        await world.sent(2)
        on = a_read("9.9", obis="1-0:31.7.0", unit=Unit.A, at=world.clock.now())
        await watch.reads(on)
        assert watch.alarms() == [], "a close is on the wire: this may be its work"
        world.down.add(world.meters[METER].record.line)
        await asyncio.sleep(3000)
        await watch.reads(a_read("0", obis="0-0:96.3.10", unit=Unit.NONE, at=world.clock.now()))
        assert watch.alarms() == [("paid-but-dark", "raised")]

    play(scene)


def test_a_close_of_which_nobody_knows_what_it_did_is_no_theft() -> None:
    """Its reply and every look back were lost; the next poll goes through, and the power is on as it should be."""

    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        await accepted(room)
        await asyncio.sleep(400)
        await watch.lookout.look()
        meter = world.meters[METER]
        meter.fault = "reply-lost"
        closed = await accepted(room, Kind.CLOSE)
        await world.sent(2)
        meter.fault = "dead"
        await asyncio.sleep(25)
        assert (await state_of(room, closed.id)).state is State.UNCONFIRMED
        assert await watch.reads(a_read("9.9", obis="1-0:31.7.0", unit=Unit.A, at=world.clock.now())) == 1
        assert watch.alarms() == []

    play(scene)


@pytest.mark.parametrize("looks", [False, True])
def test_an_open_contact_that_the_meter_calls_permitted_is_watched_like_any_other(
    looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = WorldSwitch._witness

    def see(self: WorldSwitch, simulated: SimMeter) -> Witness:
        found = look(self, simulated)
        return replace(found, contact="permitted") if found.contact == "open" else found

    monkeypatch.setattr(WorldSwitch, "_witness", see)

    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        await accepted(room)
        await asyncio.sleep(20)
        if looks:
            await accepted(room, Kind.STATUS)
            await asyncio.sleep(20)
        await watch.lookout.look()
        await watch.reads(a_read("1.2", obis="1-0:31.7.0", unit=Unit.A, at=NOON + QUARTER))
        assert watch.alarms() == [("cut-but-consuming", "raised")]

    play(scene)


@pytest.mark.parametrize("is_ours", [False, True])
def test_only_what_somebody_has_opened_should_be_open(is_ours: bool) -> None:
    """A supply that was only seen open, by whatever it was opened, may be closed by whatever closes it."""

    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        if is_ours:
            await accepted(room)
            await asyncio.sleep(20)
        world.meters[METER].contact = "open"
        looked = await accepted(room, Kind.STATUS)
        await asyncio.sleep(20)
        await watch.lookout.look()
        await watch.reads(a_read("1", obis="0-0:96.3.10", unit=Unit.NONE, at=NOON + QUARTER))
        assert watch.alarms() == ([("closed-but-should-be-open", "raised")] if is_ours else [])
        await watch.reads(a_read("1.2", obis="1-0:31.7.0", unit=Unit.A, at=NOON + 2 * QUARTER))
        assert watch.alarms()[-1] == ("cut-but-consuming", "raised")
        why = [str(event.data["detail"]) for event in world.events if event.data.get("about") == "alarm"][-1]
        assert (f"seen open by command {looked.id}" in why) is not is_ours

    play(scene)


def test_reads_of_a_supply_that_was_on_in_between_are_not_held_against_it() -> None:
    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        await accepted(room)
        await asyncio.sleep(20)
        await watch.lookout.look()
        executed = watch.lookout._read

        def slow(after: int, off: Mapping[str, datetime]) -> tuple[int, dict[str, SeenReads]]:
            found = executed(after, off)
            supply = room.journal.supplies[METER]
            room.journal.supplies[METER] = replace(supply, at=NOON + 2 * QUARTER, by="closed and opened again")
            return found

        watch.lookout._read = slow  # type: ignore[method-assign]
        await watch.reads(a_read("5", obis="1-0:31.7.0", unit=Unit.A, at=NOON + QUARTER))
        assert watch.alarms() == []

    play(scene)


def test_nothing_is_read_while_nobody_is_off_and_a_long_feed_is_gone_through_in_steps() -> None:
    async def scene(world: World, room: Room) -> None:
        watch = Watch(world, room)
        await watch.reads(a_read("1", at=NOON + QUARTER))
        assert watch.lookout._cursor is None
        await accepted(room)
        await asyncio.sleep(20)
        await watch.lookout.look()
        others = [
            a_read("1", obis=f"1-0:{number}.8.0", at=NOON + step * QUARTER, meter="M000009")
            for step in range(1, 60)
            for number in range(1, 100)
        ]
        assert len(others) > EVENTS_MAX
        assert await watch.reads(*others, a_read("500", at=NOON + QUARTER + QUARTER)) == 1
        assert watch.alarms() == [("cut-but-consuming", "raised")]

    play(scene)
