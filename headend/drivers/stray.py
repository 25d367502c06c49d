"""Bytes on a line that belong to no exchange, over a sliding window: how a babbling device is told from ordinary noise. Pure."""

__all__ = ["StrayWatch"]

WINDOW_S = 20
BABBLING_SHARE = 0.20  # of what the line can carry; a few noise bytes before every reply stay well below
CAPACITY_UNKNOWN = 218.0  # bytes a second at 2400 baud, where the rate behind a tunnel is not known


class StrayWatch:
    """Counts stray bytes per second. capacity: bytes a second that the line can carry."""

    def __init__(self, capacity: float | None) -> None:
        self._threshold = BABBLING_SHARE * (capacity or CAPACITY_UNKNOWN) * WINDOW_S
        self._buckets: dict[int, int] = {}
        self.bytes_total = 0

    def note(self, count: int, now: float) -> None:
        self.bytes_total += count
        second = int(now)
        self._buckets[second] = self._buckets.get(second, 0) + count
        if len(self._buckets) > 2 * WINDOW_S:
            self._forget(second)

    def in_window(self, now: float) -> int:
        self._forget(int(now))
        return sum(self._buckets.values())

    def is_babbling(self, now: float) -> bool:
        """Whether some device talks without being asked; needs bytes in at least half of the seconds of the window."""
        return self.in_window(now) >= self._threshold and len(self._buckets) >= WINDOW_S // 2

    def _forget(self, second: int) -> None:
        self._buckets = {at: count for at, count in self._buckets.items() if at > second - WINDOW_S}
