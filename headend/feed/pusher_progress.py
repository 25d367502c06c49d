"""How far a destination has come: everything up to a low-water mark, and stretches delivered ahead of it. Pure."""

from msgspec import Struct

__all__ = ["Progress"]


class Progress(Struct, frozen=True):
    """Feed numbers that are settled: acknowledged by the destination, or parked.

    low: everything up to here is. ranges: first and last of stretches above it, ascending, with something open before each.
    """

    low: int = 0
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def head(self) -> int:
        """The newest that is settled."""
        return self.ranges[-1][1] if self.ranges else self.low

    def settled(self, first: int, last: int) -> "Progress":
        """With `first` to `last`, whatever was settled of them before."""
        if last < first:
            return self
        low = self.low
        merged: list[tuple[int, int]] = []
        for start, end in sorted((*self.ranges, (first, last))):
            if start <= low + 1:
                low = max(low, end)
            elif merged and start <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        return Progress(low, tuple(merged))

    def gap(self, until: int) -> tuple[int, int] | None:
        """First and last of the oldest open stretch up to `until`; None when there is none."""
        last = min(until, self.ranges[0][0] - 1) if self.ranges else until
        return (self.low + 1, last) if last > self.low else None

    def open_up_to(self, end: int) -> int:
        """How many are open up to `end`."""
        ahead = sum(min(last, end) - first + 1 for first, last in self.ranges if first <= end)
        return max(0, end - self.low - ahead)
