"""Random schedules and random races, watched from the wire.

`--commands N` schedules of opens with stalls, suspends and clock steps, and as many races of payments against opens. The checker
has the true time and its own copy of the rules; it asks nobody of us.
"""

import asyncio
import random
from datetime import timedelta
from math import ceil

import pytest

from headend.commands.desk import Payment
from headend.commands.model import Kind, Order
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.light_store import LightStore
from tests.headend.commands.world import NOON, Room, World, an_order, running

METERS = 200  # in one world
PARTS = 4  # so that workers share them
SYNC_S = 60.0  # the machine's own idea of its clock is so much behind


async def disturb(world: World) -> None:
    """Suspends and clock steps; now and then an operator, or a time server, sets the clock right again."""
    random_ = world.random
    while True:
        await asyncio.sleep(random_.uniform(600, 5400))
        match random_.randrange(3):
            case 0:
                world.sleep_machine(random_.uniform(1, 7200))
            case 1:
                world.clock.step(random_.choice((-1, 1)) * random_.choice((3, 60, 3600, 86400, 10 * 365 * 86400)))
            case 2:
                world.stand_still(random_.uniform(0.5, 600))
        off_s = (world.true_now() - world.clock.now()).total_seconds()
        await asyncio.sleep(random_.uniform(0, SYNC_S))
        world.synchronised = abs(off_s) < 0.5
        await asyncio.sleep(random_.uniform(0, 1800))
        world.clock.step((world.true_now() - world.clock.now()).total_seconds())
        world.synchronised = True


def schedule(world: World, meter: str) -> tuple[Order, bool]:
    """A random order, and whether its meter is to become protected some time after it was accepted."""
    random_ = world.random
    after_s = random_.choice((None, random_.uniform(0, 40000)))
    valid_s = (after_s or 0) + random_.choice((random_.uniform(0.2, 10), random_.uniform(10, 4000), 20000.0))
    return an_order(world, Kind.OPEN, meter, after_s=after_s, valid_s=valid_s), random_.random() < 0.1


def check_schedules(world: World, orders: dict[str, tuple[Order, float]], protected: dict[str, float]) -> None:
    for frame in world.wire:
        assert frame.kind is Kind.OPEN
        order, true_expires = orders[frame.meter]
        seconds = (frame.at - NOON).total_seconds()
        assert seconds < true_expires, f"{frame} left after it had expired"
        assert 8 <= frame.at.hour < 18, f"{frame} left at a forbidden hour"
        assert seconds <= protected.get(frame.meter, float("inf")), f"{frame} reached a protected meter"
        assert frame.audited, f"{frame} left before its audit record was durable"
        assert order.meter == frame.meter
    assert len({frame.command for frame in world.wire}) == len(world.wire), "a command was sent twice"


@pytest.mark.timeout(7200)  # the full run
@pytest.mark.parametrize("part", range(PARTS))
def test_no_open_leaves_late_in_a_forbidden_hour_to_a_protected_meter_or_unrecorded(
    part: int, request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("--commands") // PARTS
    asked = sent = 0

    async def main(clock: VirtualClock, random_: random.Random) -> None:
        nonlocal asked, sent
        world = World(clock, random_, meters=METERS, per_line=10, light=LightStore())
        world.stall = lambda: random_.choice((0.0,) * 6 + (0.4, 0.9, 1.1, 30.0, 4000.0))
        orders: dict[str, tuple[Order, float]] = {}
        protected: dict[str, float] = {}
        async with running(world) as room:
            disturbing = asyncio.create_task(disturb(world))
            meters = list(world.meters)
            random_.shuffle(meters)
            for start in range(0, METERS, 20):
                await asyncio.sleep(random_.uniform(0, 6000))
                # What a caller writes down by a clock that is off is no test of ours.
                while world.synchronised is not True or not orders_are_true(world):  # noqa: ASYNC110  nothing tells
                    await asyncio.sleep(random_.uniform(0, 600))
                chosen = [schedule(world, meter) for meter in meters[start : start + 20]]
                for order, is_to_be_protected in chosen:
                    # Written down while the clock was right; whatever happens to it from here on, this is the true instant.
                    orders[order.meter] = (order, (order.expires_at - NOON).total_seconds())
                    await room.desk.request(order, "billing")
                    if is_to_be_protected:
                        protect_later(world, order.meter, protected)
            await asyncio.sleep(50000)
            disturbing.cancel()
            check_schedules(world, orders, protected)
            asked += len(orders)
            sent += len(world.wire)

    for seed in range(ceil(count / METERS)):
        run(main, start=NOON, seed=1_000_000 * part + seed)
    assert asked >= count
    assert sent > count // 20, f"only {sent} of {count} schedules reached the wire: this proves little"


def orders_are_true(world: World) -> bool:
    return abs((world.true_now() - world.clock.now()).total_seconds()) < 0.001


def protect_later(world: World, meter: str, protected: dict[str, float]) -> None:
    def protect() -> None:
        world.gate.protected.add(meter)
        protected[meter] = (world.true_now() - NOON).total_seconds()

    asyncio.get_running_loop().call_later(world.random.uniform(0, 5000), protect)


async def race(world: World, room: Room, meter: str) -> None:
    """One open and one payment, which meet anywhere on the open's way."""
    random_ = world.random
    await asyncio.sleep(random_.uniform(0, 600))
    opening = asyncio.create_task(
        room.desk.request(an_order(world, Kind.OPEN, meter, valid_s=3600, after_s=random_.uniform(0, 3)), "billing")
    )
    await asyncio.sleep(random_.choice((random_.uniform(0, 0.05), random_.uniform(0, 8), random_.uniform(0, 60))))
    payment = Payment(
        meters=(meter,),
        reference=f"P-{meter}",
        paid_at=world.clock.now(),
        amount_minor=100_00,
        currency="CNY",
        fence=1,
    )
    paid_at = world.clock.monotonic()
    await room.desk.payment(payment)
    opens = [frame for frame in world.wire if frame.meter == meter and frame.kind is Kind.OPEN]
    await opening
    if opens:
        await asyncio.sleep(10)
        closes = [frame for frame in world.wire if frame.meter == meter and frame.kind is Kind.CLOSE]
        assert closes, f"{meter}: paid in flight at {paid_at}, and no close within ten seconds"
        assert closes[0].monotonic - paid_at <= 10


@pytest.mark.timeout(7200)  # the full run
@pytest.mark.parametrize("part", range(PARTS))
def test_no_open_leaves_after_a_payment_and_one_in_flight_is_followed_by_a_close(
    part: int, request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("--commands") // PARTS
    in_flight = 0

    async def main(clock: VirtualClock, random_: random.Random) -> None:
        nonlocal in_flight
        commit_s = random_.choice((0.001, 0.01))
        world = World(clock, random_, meters=METERS, per_line=4, commit_s=commit_s, light=LightStore())
        world.stall = lambda: random_.choice((0.0,) * 20 + (0.4, 0.9))
        async with running(world) as room:
            await asyncio.gather(*(race(world, room, meter) for meter in world.meters))
            await asyncio.sleep(1200)
            for frame in world.wire:
                assert frame.kind is Kind.CLOSE or frame.paid == 0, f"{frame}: opened after a committed payment"
                assert frame.audited
            closed = [meter for meter, simulated in world.meters.items() if simulated.contact != "closed"]
            assert closed == [], "paid and dark"
            assert await room.obligations() == []
            in_flight += sum(frame.kind is Kind.OPEN for frame in world.wire)

    for seed in range(ceil(count / METERS)):
        run(main, start=NOON + timedelta(minutes=1), seed=1_000_000 * part + seed)
    assert in_flight > count // 20, f"only {in_flight} of {count} payments met an open that had left"
