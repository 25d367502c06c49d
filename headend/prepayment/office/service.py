"""Runs the parts of prepaid supply in turn, each a little at a time, on a thread of their own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.errors import HeadendError

__all__ = ["Duty", "DutyState", "PrepaymentService"]

BUSY_S = 0.05  # between two rounds while there is more to do
IDLE_S = 1.0
TOLD_S = (
    120.0  # a failure is told on for so long: what failed may be put off for a minute, and whoever looks would miss it
)
_log = structlog.get_logger(__name__)


class Duty(Struct, frozen=True, kw_only=True):
    """tick: does a bounded piece of what is due, and gives how much it was; 0 when nothing was. every_s: not more often."""

    name: str
    tick: Callable[[datetime], int]
    every_s: float = 0.0


class DutyState(Struct):
    """problem: why it failed the last time, "" when it has not for TOLD_S. done: pieces since the start.

    next_at, told_until: monotonic.
    """

    problem: str = ""
    failures: int = 0
    done: int = 0
    next_at: float = 0.0
    told_until: float = 0.0


class _Execute(Protocol):
    def __call__(self, work: Callable[[], int], /) -> Awaitable[int]: ...


class PrepaymentService:
    """duties: in this order, which matters where one makes work for the next. One that fails is tried again and holds up no other."""

    def __init__(self, duties: Sequence[Duty], *, clock: Clock, execute: _Execute) -> None:
        self._duties = duties
        self._clock = clock
        self._execute = execute
        self._stop = asyncio.Event()
        self.states = {duty.name: DutyState() for duty in duties}

    async def run(self) -> None:
        """Until `stop`; the piece under way is brought to its end. May be run again."""
        self._stop.clear()
        while not self._stop.is_set():
            done = await self.round()
            try:
                async with asyncio.timeout(BUSY_S if done else IDLE_S):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        self._stop.set()

    async def round(self) -> int:
        """One piece of every duty that has its turn."""
        total = 0
        for duty in self._duties:
            if self._stop.is_set():
                break
            state = self.states[duty.name]
            if self._clock.monotonic() < state.next_at:
                continue
            now = self._clock.now()
            state.next_at = self._clock.monotonic() + duty.every_s
            try:
                done = await self._execute(partial(duty.tick, now))
            except Exception as error:
                # Whatever it is: those behind it bring supplies back.
                state.failures += 1
                state.problem = str(error) or type(error).__name__
                state.told_until = self._clock.monotonic() + TOLD_S
                told = {"duty": duty.name, "problem": state.problem}
                if isinstance(error, HeadendError):
                    _log.warning("a duty of prepaid supply failed", **told)
                else:
                    _log.error("a duty of prepaid supply failed unexpectedly", **told, exc_info=error)
                continue
            if state.problem and self._clock.monotonic() >= state.told_until:
                state.problem = ""
            state.done += done
            total += done
        return total
