"""How fast a lane may push, and how long a destination that is away is left alone. Pure."""

import random

__all__ = ["RETRY_AFTER_S_MAX", "Backoff", "Pace"]

PAUSE_S = (0.5, 60.0)  # before the first further try, and at most
RETRY_AFTER_S_MAX = (
    3600.0  # a destination that asks for more is asked once an hour all the same: it may have been a mistake
)


class Pace:
    """events_per_s: 0 sets no limit. What was not used is not saved up: a lane that paused goes on as before, not faster."""

    def __init__(self, events_per_s: float) -> None:
        self._per_s = events_per_s
        self._free_at = float("-inf")

    @property
    def batch_max(self) -> float:
        """No batch takes more than a second of the rate, so that a lane that is held back moves smoothly."""
        return max(1.0, self._per_s) if self._per_s else float("inf")

    def ready_in(self, now: float) -> float:
        """Seconds until the next batch may leave; 0 for at once."""
        return max(0.0, self._free_at - now)

    def took(self, events: int, now: float) -> None:
        if self._per_s:
            self._free_at = max(now, self._free_at) + events / self._per_s


class Backoff:
    """Pauses that double, each cut by up to a half at random, so that several head-ends do not return in step."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.failures = 0

    def failed(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait now. retry_after_s: what the destination itself asked for."""
        longest_s = min(PAUSE_S[1], PAUSE_S[0] * 2.0 ** min(self.failures, 16))
        self.failures += 1
        pause_s = longest_s * self._random.uniform(0.5, 1.0)
        return pause_s if retry_after_s is None else max(pause_s, min(retry_after_s, RETRY_AFTER_S_MAX))

    def worked(self) -> None:
        self.failures = 0
