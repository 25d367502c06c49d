"""What a line does while no live read is due: clocks first, then gaps.

One exchange at a time, and none that would reach into the next round, however long it takes.
"""

from datetime import datetime
from typing import Protocol

import structlog

from headend.clock import Clock
from headend.drivers.line import Line
from headend.model import Read
from headend.scheduling.back_fill import BackFiller
from headend.scheduling.budget import exchange_s, line_rate
from headend.scheduling.clock_keeper import ClockKeeper

__all__ = ["SpareTime", "Worker"]

REQUEST_BYTES = 50  # DATA of the longest request made here: a write with password and operator code
REST_S = 600.0  # after a failure that nobody foresaw
REPLY_BYTES = 205  # a full frame of reply


log = structlog.get_logger(__name__)


class Worker(Protocol):
    """What the poller gives its spare time to."""

    async def work(self, until: datetime) -> bool:
        """Do one piece of work that ends before `until`, wall time; False when there is none."""
        ...

    def missing(self, read: Read) -> None:
        """A read was recorded as missing."""
        ...


class SpareTime:
    """The worker of one line. retries: of the driver, which may double what an exchange takes."""

    def __init__(self, line: Line, keeper: ClockKeeper, filler: BackFiller, *, clock: Clock, retries: int) -> None:
        self._clock = clock
        self._line_name = line.name
        self._resting_until = 0.0
        self._keeper = keeper
        self._filler = filler
        timing = line.timing
        # The longest that one exchange can take: everything on the wire, and every try waiting to its time-out.
        self._exchange_s = (1 + retries) * exchange_s(
            REQUEST_BYTES, REPLY_BYTES, timing, baud=line_rate(timing)[0], reply_delay_s=timing.reply_timeout_s
        )

    @property
    def counters(self) -> dict[str, int]:
        """Since the start, for the line's diagnostics."""
        return {
            "clock_checks": self._keeper.checks,
            "clock_corrections": self._keeper.corrections,
            "back_fill_asks": self._filler.asks,
            "back_filled": self._filler.filled,
            "back_fill_given_up": self._filler.given_up,
        }

    def missing(self, read: Read) -> None:
        self._filler.missing(read)

    async def work(self, until: datetime) -> bool:
        def fits(exchanges: int) -> bool:
            return (until - self._clock.now()).total_seconds() > exchanges * self._exchange_s

        if self._clock.monotonic() < self._resting_until or not fits(1):
            return False
        try:
            return await self._keeper.work(fits) or await self._filler.work(fits)
        except Exception:
            # A supervisor of its own: whatever goes wrong with old intervals, live reading goes on.
            log.exception("spare time work failed", line=self._line_name)
            self._filler.set_aside()
            self._resting_until = self._clock.monotonic() + REST_S
            return False
