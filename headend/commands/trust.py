"""Whether the wall clock may be trusted with a customer's supply, and deadlines that hold on both clocks."""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct

from headend.clock import Clock

__all__ = ["ClockTrust", "Deadline"]

STEP_S = 2.0  # the wall against the monotonic clock between two looks; slewing moves it by 0.5 ms a second at most
HOLD_S = 300.0  # after a step: time servers are asked every 64 s or more, and may not have noticed yet


class Deadline(Struct, frozen=True):
    """An instant on both clocks: passed when either says so, so that setting one clock back gives no time back."""

    wall: datetime
    monotonic: float

    @classmethod
    def at(cls, wall: datetime, clock: Clock) -> "Deadline":
        return cls(wall, clock.monotonic() + (wall - clock.now()).total_seconds())

    def is_passed(self, clock: Clock) -> bool:
        return clock.now() >= self.wall or clock.monotonic() >= self.monotonic


class ClockTrust:
    """Compares the two clocks at every look. synchronised: what the machine says; None when it does not know.

    A step of the wall clock, or a machine that slept, which looks the same, is a reason to open nothing for a while, whatever the
    machine says: what it says may be from before the step.
    """

    def __init__(self, clock: Clock, synchronised: Callable[[], bool | None]) -> None:
        self._clock = clock
        self._synchronised = synchronised
        self._began_at = self._now_as_s()
        self._hold_until = float("-inf")
        self.steps = 0
        self.last_step_s = 0.0

    def look(self) -> bool | None:
        """True: it may be trusted; False: not; None: nobody knows."""
        now_s = self._now_as_s()
        step_s = now_s - self._began_at
        if abs(step_s) > STEP_S:
            self.steps += 1
            self.last_step_s = step_s
            self._hold_until = self._clock.monotonic() + HOLD_S
        # Slow slewing is followed, so that it never adds up to a step.
        self._began_at = now_s
        if self._clock.monotonic() < self._hold_until:
            return False
        return self._synchronised()

    def _now_as_s(self) -> float:
        """What the wall clock showed when the monotonic one was at zero, in seconds since 1970."""
        start = self._clock.now() - timedelta(seconds=self._clock.monotonic())
        return start.timestamp()
