"""The two clocks. Wall time is aware UTC; monotonic time is float seconds; they never meet in one expression."""

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the head-end knows about time; virtual in tests."""

    def now(self) -> datetime:
        """Wall time, aware, UTC. May jump when the machine's clock is corrected."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps. For deadlines and durations."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
