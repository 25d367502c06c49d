"""How much of a line's time meters that do not answer may take. Pure: `now` is monotonic seconds.

Every failure of a meter doubles the pause before it is asked again (back-off with probes). That alone bounds nothing: ten dead
meters cost ten time-outs. So all askings that brought no reply are paid from one purse per line, which fills with a fixed share
of the time that passes. A meter that failed last time is asked only when the purse covers a time-out; a meter that is presumed
well is always asked, and if that was wrong, the purse goes into debt until time has repaid it. The debt has an end: where a whole line
falls silent for a moment (a feeder, a concentrator), its meters must not be left unread for hours afterwards.
"""

from msgspec import Struct

__all__ = ["Breaker", "Purse"]

SHARE_MAX = 0.10  # of the line's time, guaranteed over any PURSE_S_MAX / (SHARE_MAX − SHARE_FILLED) seconds, here 500 s
SHARE_FILLED = 0.08
PURSE_S_MAX = 10.0  # enough for some probes in a row after a quiet time
DEBT_S_MAX = (
    20.0  # repaid within five minutes, so that an outage costs the interval it falls into and not those that follow
)
PAUSE_S_FIRST = 5.0
PAUSE_S_MAX = 900.0  # a meter that was exchanged or got its power back is found within a quarter of an hour


class Breaker(Struct, gc=False):
    """One meter's failures in a row. not_before: when it may be asked again."""

    failures: int = 0
    not_before: float = 0.0

    def succeeded(self) -> None:
        self.failures = 0
        self.not_before = 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        self.not_before = now + min(PAUSE_S_FIRST * 2 ** (self.failures - 1), PAUSE_S_MAX)

    def allows(self, now: float) -> bool:
        return now >= self.not_before


class Purse:
    """The line time that unanswered askings are paid from."""

    def __init__(self, now: float) -> None:
        self._filled_s = PURSE_S_MAX
        self._at = now
        self.spent_s = 0.0  # since the start, for metrics

    def pay(self, seconds: float, now: float) -> None:
        self._fill(now)
        self._filled_s = max(self._filled_s - seconds, -DEBT_S_MAX)
        self.spent_s += seconds

    def covers(self, seconds: float, now: float) -> bool:
        self._fill(now)
        return self._filled_s >= min(seconds, PURSE_S_MAX)

    def covers_at(self, seconds: float, now: float) -> float:
        """When it will cover `seconds`, if nothing else is paid meanwhile."""
        self._fill(now)
        return now + max(0.0, min(seconds, PURSE_S_MAX) - self._filled_s) / SHARE_FILLED

    def _fill(self, now: float) -> None:
        self._filled_s = min(PURSE_S_MAX, self._filled_s + (now - self._at) * SHARE_FILLED)
        self._at = now
