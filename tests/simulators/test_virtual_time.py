"""Virtual time: a day costs its callbacks only, the order repeats, and what can never come is said so."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from simulators.virtual_time import DeadlockInVirtualTime, VirtualClock, VirtualTimeError, run

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_day_of_idle_timers_takes_less_than_a_second() -> None:
    ticks = 0

    async def main(clock: VirtualClock, __: random.Random) -> datetime:
        nonlocal ticks
        for _ in range(24 * 60):
            await asyncio.sleep(60)
            ticks += 1
        return clock.now()

    began = time.perf_counter()
    end = run(main, start=NEW_YEAR)
    assert time.perf_counter() - began < 1.0
    assert ticks == 1440
    assert end == NEW_YEAR + timedelta(days=1)


def test_timers_fire_exactly_at_their_deadline() -> None:
    async def main(clock: VirtualClock, _: random.Random) -> list[float]:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        for delay in (0.3, 0.1, 86400 * 40.0, 0.2):
            loop.call_later(delay, lambda: fired.append(clock.monotonic()))
        await asyncio.sleep(86400 * 41)
        return fired

    assert run(main) == [0.1, 0.2, 0.3, 86400 * 40.0]


def test_waiting_for_nothing_is_a_deadlock_that_names_the_tasks() -> None:
    async def lonely() -> None:
        await asyncio.get_running_loop().create_future()

    async def main(_: VirtualClock, __: random.Random) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lonely(), name="meter-17")

    with pytest.raises(DeadlockInVirtualTime, match="deadlock in virtual time") as caught:
        run(main)
    assert any(
        line.startswith("meter-17: ") and "lonely" in line and "test_virtual_time.py" in line
        for line in caught.value.waiting
    )


def test_threads_are_refused_because_time_cannot_wait_for_them() -> None:
    async def main(_: VirtualClock, __: random.Random) -> None:
        await asyncio.to_thread(time.monotonic)

    with pytest.raises(VirtualTimeError, match="thread"):
        run(main)


def test_a_wall_clock_step_moves_now_and_not_monotonic() -> None:
    async def main(clock: VirtualClock, _: random.Random) -> tuple[datetime, float, datetime]:
        await asyncio.sleep(10)
        clock.step(-3600)
        stepped, monotonic = clock.now(), clock.monotonic()
        await asyncio.sleep(10)
        return stepped, monotonic, clock.now()

    stepped, monotonic, end = run(main, start=NEW_YEAR)
    assert stepped == NEW_YEAR + timedelta(seconds=10 - 3600)
    assert monotonic == 10
    assert end == NEW_YEAR + timedelta(seconds=20 - 3600)


async def _jostle(clock: VirtualClock, generator: random.Random) -> list[tuple[float, int]]:
    log: list[tuple[float, int]] = []

    async def worker(number: int) -> None:
        for _ in range(50):
            await asyncio.sleep(generator.choice((0.0, 0.01, random.random())))
            log.append((clock.monotonic(), number))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(worker(number))
    return log


def test_the_same_seed_runs_in_the_same_order_and_another_does_not() -> None:
    first = run(_jostle, seed=7)
    assert run(_jostle, seed=7) == first
    assert run(_jostle, seed=8) != first


def test_the_global_random_state_survives_a_run() -> None:
    random.seed(5)
    state = random.getstate()
    run(_jostle, seed=1)
    assert random.getstate() == state


def test_naive_start_is_refused() -> None:
    async def main(_: VirtualClock, __: random.Random) -> None: ...

    with pytest.raises(ValueError, match="naive"):
        run(main, start=datetime(2025, 1, 1))


def test_hundreds_of_thousands_of_callbacks_a_second() -> None:
    async def main(clock: VirtualClock, _: random.Random) -> int:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        left = 100_000

        def turn() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_later(0.01, turn) if left % 2 else loop.call_soon(turn)
            else:
                done.set()

        turn()
        await done.wait()
        return left

    began = time.process_time()
    assert run(main) == 0
    # Half timers, half immediate. A quiet core needs 0.2 s; the bound leaves room for a busy one.
    assert time.process_time() - began < 1.0
