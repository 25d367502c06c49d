"""What is owed: which quantities of which meter, at which period, since when. Pure.

A configuration says what is owed from now on; an interval is judged by what was owed when it ended. So each change of a meter's
plan, line or quantities ends its duty and begins another, and old days stay what they were.
"""

from collections.abc import Iterable

from msgspec import Struct

__all__ = ["CONCENTRATOR", "LINE", "Duty", "overlapping"]

LINE = "line"
CONCENTRATOR = "concentrator"


class Duty(Struct, frozen=True, kw_only=True, gc=False):
    """quantities: channels as stored. route: LINE, whose reads are for exact interval ends, or CONCENTRATOR, behind which meters push
    when they like: an interval has what was taken inside it. line: its name. back_fill_s: how long a gap may still be filled; 0: never.
    since, until: epoch milliseconds; owed are interval ends with since < end <= until. None: until further notice.
    """

    meter: str
    route: str
    line: str
    period_s: int
    back_fill_s: int
    quantities: tuple[str, ...]
    since: int = 0
    until: int | None = None

    def is_same(self, other: "Duty") -> bool:
        """Whatever their times."""
        return self._terms == other._terms

    @property
    def _terms(self) -> tuple[object, ...]:
        return self.meter, self.route, self.line, self.period_s, self.back_fill_s, self.quantities


def overlapping(duties: Iterable[Duty], low: int, high: int) -> list[Duty]:
    """Those that owe an interval end with low < end <= high, oldest first."""
    return sorted(
        (duty for duty in duties if duty.since < high and (duty.until is None or duty.until > low)),
        key=lambda duty: duty.since,
    )
