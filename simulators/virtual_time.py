"""Time that costs nothing: an event loop whose clock jumps to the next timer as soon as nothing is left to do.

A program that only waits for timers and for its own tasks runs through a day in the time its callbacks need. The loop
never looks at real sockets, and refuses threads: both would tie the run to the wall clock and make it unrepeatable.
When nothing is ready and no timer is set, no event can ever come; that is reported as DeadlockInVirtualTime, with what
each task waits for.

Two clocks come with the loop, as everywhere in this system: `monotonic()` is the loop's own time, `now()` is the wall.
The wall can be stepped, as operators and NTP do, and the monotonic clock never notices. `world()` is the time outside
that machine, which nobody can step: what simulated meters live by.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

__all__ = ["START", "DeadlockInVirtualTime", "VirtualClock", "VirtualTimeError", "VirtualTimeLoop", "run"]

START = datetime(2025, 6, 1, tzinfo=UTC)
# Timers closer together than this fire in one turn. A microsecond is the wall clock's own resolution, and stays above
# the spacing of floats for a hundred years of seconds; below that spacing a timer at `now` would never be due.
RESOLUTION_S = 1e-6

T = TypeVar("T")


class VirtualTimeError(RuntimeError):
    """Something was asked of virtual time that only the real world can do."""


class DeadlockInVirtualTime(VirtualTimeError):
    """Nothing is ready and no timer is set, so time cannot move. `waiting` has a line for each unfinished task."""

    def __init__(self, waiting: list[str]) -> None:
        tasks = "\n".join(f"  {line}" for line in waiting) or "  (no tasks; run_forever with nothing to do)"
        super().__init__(
            "deadlock in virtual time: nothing is ready and no timer is set. "
            f"Waiting for something that is not a timer:\n{tasks}"
        )
        self.waiting = waiting


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop for one thread, timers and in-memory transports.

    start: aware wall time at loop time 0. Raises ValueError for a naive one.
    """

    def __init__(self, start: datetime = START) -> None:
        self._virtual_s = 0.0
        super().__init__(_JumpingSelector(self))
        if start.tzinfo is None:
            self.close()
            raise ValueError(f"start {start.isoformat()} is naive, expected an aware UTC datetime")
        self._clock_resolution = RESOLUTION_S
        self.clock = VirtualClock(self, start.astimezone(UTC))

    def time(self) -> float:
        return self._virtual_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise VirtualTimeError(f"{func!r} would run in a thread, and virtual time waits for none: call it inline")

    def jump(self, timeout_s: float | None) -> None:
        """Move to the next timer; `timeout_s` is the loop's own idea of the wait, None when no timer is set."""
        if timeout_s is None:
            raise DeadlockInVirtualTime(_what_waits(self))
        if timeout_s > 0:
            # The timer's own deadline rather than now + timeout: a sum of floats may fall short of it.
            timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
            self._virtual_s = max(self._virtual_s, timers[0].when())


class VirtualClock:
    """Wall and monotonic time of a VirtualTimeLoop."""

    def __init__(self, loop: VirtualTimeLoop, start: datetime) -> None:
        self._loop = loop
        self._start = start
        self._wall = start

    def now(self) -> datetime:
        """Aware UTC: start, plus what has elapsed, plus every step."""
        return self._wall + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()

    def world(self) -> datetime:
        """Aware UTC: start plus what has elapsed, whatever happened to the wall clock."""
        return self._start + timedelta(seconds=self._loop.time())

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back when negative. Timers and monotonic time are not touched."""
        self._wall += timedelta(seconds=seconds)


def run(
    main: Callable[[VirtualClock, random.Random], Coroutine[Any, Any, T]], *, start: datetime = START, seed: int = 0
) -> T:
    """Run `main(clock, random)` to its end in virtual time.

    The same program and seed run in the same order. Libraries that draw from the global generator (back-off jitter) are
    made repeatable too: it is seeded for the run and restored after it.
    """
    generator = random.Random(seed)
    saved = random.getstate()
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start)) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, VirtualTimeLoop)
            return runner.run(main(loop.clock, generator))
    finally:
        random.setstate(saved)


class _JumpingSelector(selectors.SelectSelector):
    """Keeps the registrations asyncio makes (its wake-up pipe), and moves time instead of waiting for them."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(timeout)
        return []


def _what_waits(loop: VirtualTimeLoop) -> list[str]:
    lines = []
    for task in asyncio.all_tasks(loop):
        frames = task.get_stack(limit=1)
        place = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
        name = getattr(task.get_coro(), "__qualname__", "?")
        lines.append(f"{task.get_name()}: {name}{place}")
    return sorted(lines)
