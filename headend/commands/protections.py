"""Protections: who must not be cut off, from when until when, and why. The rows are in `headend.store.governor_protections`."""

import enum
from datetime import datetime

from msgspec import Struct

__all__ = ["Protection", "Scope"]


class Scope(enum.Enum):
    """What a protection covers. ALL: the fleet, as a weather hold may."""

    METER = "meter"
    LINE = "line"
    FEEDER = "feeder"
    ALL = "all"


class Protection(Struct, frozen=True, kw_only=True):
    """target: asset number, line or feeder; "" with Scope.ALL. category: "medical", "public", "keep-power", "weather", "dispute", …

    until: not protected any more at and after it; None: never ends, which somebody said in so many words.
    """

    id: str
    scope: Scope
    target: str
    category: str
    reason: str
    since: datetime
    until: datetime | None
    added_by: str

    def is_in_force(self, first: datetime, last: datetime) -> bool:
        """At any instant from `first` to `last`."""
        return self.since <= last and (self.until is None or self.until > first)
