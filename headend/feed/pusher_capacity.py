"""How many hours the store can go on taking events, and when to say so. Pure.

The question behind it is how long an outage upstream may last: what a destination has not got is not deleted. So it is asked as if
nothing were deleted at all, at the rate of the last day, in which every plan has had its turn.
"""

from msgspec import Struct

__all__ = ["LEVELS_H", "Growth", "hours_left", "level_of"]

LEVELS_H = (72, 24, 4)  # a long weekend, a working day, the time to drive there
RECOVERED = 1.1  # an alarm ends when there is a tenth more than its limit, so that it does not come and go
WINDOW_H_MIN = 0.25  # a rate over less says nothing


class Growth(Struct, frozen=True, kw_only=True):
    """events: stored in the last `window_h` hours, 24 or as many as there is feed for."""

    bytes_per_event: float
    events: int
    window_h: float

    @property
    def events_per_h(self) -> float:
        return self.events / self.window_h if self.window_h >= WINDOW_H_MIN else 0.0


def hours_left(free_bytes: int | None, growth: Growth) -> float | None:
    """None when there is no end in sight, or nothing is known of the disk or of the rate."""
    bytes_per_h = growth.events_per_h * growth.bytes_per_event
    if free_bytes is None or bytes_per_h <= 0:
        return None
    return max(0.0, free_bytes / bytes_per_h)


def level_of(hours: float | None, before: str = "ok") -> str:
    """The alarm that stands: "ok", "72h", "24h", "4h". before: the one that stood."""
    if hours is None:
        return "ok"
    reached = [level for level in LEVELS_H if hours <= level]
    if before != "ok" and hours <= int(before[:-1]) * RECOVERED:
        reached.append(int(before[:-1]))
    return f"{min(reached)}h" if reached else "ok"
