"""Figures with their spread, goals, and the marks between which something is measured."""

import asyncio
import resource
import statistics
import time
from collections.abc import Callable, Iterable

from msgspec import Struct

__all__ = ["WARM_UP_S", "Figure", "Goal", "Mark", "Stretch", "between", "ratio", "spread"]

WARM_UP_S = 0.4  # caches filled, all lines at work


class Goal(Struct, frozen=True):
    """What a median should be: at least `least`, or at most `most`."""

    least: float | None = None
    most: float | None = None

    def is_met(self, median: float) -> bool:
        return (self.least is None or median >= self.least) and (self.most is None or median <= self.most)

    def __str__(self) -> str:
        return f"≥ {self.least:,g}" if self.least is not None else f"≤ {self.most:,g}"


class Figure(Struct, frozen=True, kw_only=True):
    """One measured quantity over several rounds. rounds: in the order of measuring."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    rounds: tuple[float, ...]
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """None when there is no goal."""
        return None if self.goal is None else self.goal.is_met(self.median)


class Mark(Struct, frozen=True):
    """Where a measured process stands. cpu_s: user and system time of all its threads."""

    reads: int
    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls, reads: int) -> "Mark":
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(reads, time.perf_counter(), used.ru_utime + used.ru_stime)


class Stretch(Struct, frozen=True):
    """What a client did between two marks. waiting: reads that the store had not made durable when the client stopped asking."""

    begin: Mark
    end: Mark
    waiting: int = 0

    @property
    def figures(self) -> dict[str, float]:
        return {
            "reads": self.end.reads - self.begin.reads,
            "wall_s": self.end.wall_s - self.begin.wall_s,
            "cpu_s": self.end.cpu_s - self.begin.cpu_s,
            "waiting": self.waiting,
        }


def spread(name: str, unit: str, rounds: Iterable[float], goal: Goal | None = None) -> Figure:
    kept = tuple(rounds)
    return Figure(
        name=name, unit=unit, median=statistics.median(kept), low=min(kept), high=max(kept), rounds=kept, goal=goal
    )


def ratio(name: str, over: Figure, under: Figure, goal: Goal | None = None) -> Figure:
    """Round by round, so that what slows the machine for a while slows both sides of a ratio."""
    return spread(name, "×", (a / b for a, b in zip(over.rounds, under.rounds, strict=True)), goal)


async def between(count: Callable[[], int], seconds: float) -> Stretch:
    """Between two moments of a client that is at work all the time; `count` gives its reads so far."""
    await asyncio.sleep(WARM_UP_S)
    begin = Mark.now(count())
    await asyncio.sleep(seconds)
    return Stretch(begin, Mark.now(count()))
