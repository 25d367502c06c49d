"""Keeping long-running tasks alive: an unexpected error in one line must not take the others with it, and must not go unseen."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

__all__ = ["Supervisor"]

PAUSE_S = (1.0, 60.0)  # first and longest before a task that failed is started anew

log = structlog.get_logger(__name__)


class Supervisor:
    """Runs tasks and restarts those that end by an error of ours.

    problems: one sentence per task that is failing now, for /healthz. restarts: since the start, for metrics.
    """

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}
        self.restarts = 0

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(self._failing.values())

    async def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Until `work` ends by itself or this is cancelled."""
        pause_s = PAUSE_S[0]
        while True:
            try:
                await work()
            except Exception as error:
                self.restarts += 1
                self._failing[name] = f"{name} failed and is started again: {type(error).__name__}: {error}"
                log.exception("a task failed", task=name)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S[1])
            # It has come back; if it fails at once again, it is named again.
            self._failing.pop(name, None)
