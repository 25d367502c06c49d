"""Names that strangers choose, counted in bounded memory."""

from collections import Counter
from datetime import datetime

import structlog
from msgspec import Struct

__all__ = ["Refusals", "Seen", "Strangers"]

NAME_MAX = 128  # characters shown of a name that somebody else chose
LOG_EVERY_S = 60.0


class Seen(Struct):
    """count: messages. first_at, last_at: our wall clock. detail: of the newest one."""

    count: int
    first_at: datetime
    last_at: datetime
    detail: str = ""


class Strangers:
    """Who is not configured. The first `names_max` are kept: whoever floods us with new names pushes nobody out."""

    def __init__(self, names_max: int) -> None:
        self.seen: dict[tuple[str, ...], Seen] = {}
        self.overflow = 0  # messages of further names
        self._names_max = names_max

    def note(self, name: tuple[str, ...], now: datetime, detail: str = "", *, count: int = 1) -> bool:
        """True for a name not seen before that is kept. count: 0 for one that was only mentioned."""
        name = tuple(part[:NAME_MAX] for part in name)
        known = self.seen.get(name)
        if known is not None:
            known.count += count
            known.last_at = now
            known.detail = detail or known.detail
            return False
        if len(self.seen) >= self._names_max:
            self.overflow += count
            return False
        self.seen[name] = Seen(count, now, now, detail)
        return True


class Refusals:
    """What was refused, by reason; reasons are words of ours. The log gets one of each kind a minute, with how many there were."""

    def __init__(self, broker: str) -> None:
        self.counts: Counter[str] = Counter()
        self._log = structlog.get_logger(__name__).bind(broker=broker)
        self._logged: dict[str, tuple[float, int]] = {}  # when, monotonic, and the count then

    def note(self, reason: str, monotonic: float, *, topic: str = "", problem: str = "") -> None:
        self.counts[reason] += 1
        logged = self._logged.get(reason)
        if logged is None or monotonic - logged[0] >= LOG_EVERY_S:
            since = self.counts[reason] - (0 if logged is None else logged[1])
            self._logged[reason] = (monotonic, self.counts[reason])
            self._log.warning("message refused", reason=reason, topic=topic[:NAME_MAX], problem=problem, count=since)
