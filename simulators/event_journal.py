"""What a meter remembers of what happened to it: how often, and the last ten times of each kind."""

from collections import Counter
from datetime import datetime, timedelta

from msgspec import Struct

__all__ = [
    "CLOCK_SET",
    "COVER",
    "DEMAND_CLEAR",
    "EVENT_CLEAR",
    "METER_CLEAR",
    "POWER_FAILURE",
    "PROGRAMMING",
    "RELAY_MALFUNCTION",
    "Event",
    "EventJournal",
]

RECORDS = 10

# Kinds of events are named by the first six digits of their DL/T 645-2007 identifiers; other protocols map from them.
POWER_FAILURE = "031100"
PROGRAMMING = "033000"
METER_CLEAR = "033001"
DEMAND_CLEAR = "033002"
EVENT_CLEAR = "033003"
CLOCK_SET = "033004"
COVER = "03300D"
RELAY_MALFUNCTION = "033600"
_LASTING = (METER_CLEAR, EVENT_CLEAR)  # no clearing removes the trace of clearing


class Event(Struct, frozen=True, kw_only=True):
    """One occurrence.

    start, end: true time, for the registers of then; end None: it still goes on.
    shown, shown_end: the meter's clock at these moments; of a clock setting, before and after.
    operator, items: who did it, and the DIs that were touched, where somebody did.
    """

    start: datetime
    end: datetime | None
    shown: datetime
    shown_end: datetime | None
    operator: bytes = bytes(4)
    items: tuple[str, ...] = ()


class EventJournal:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._records: dict[str, list[Event]] = {}

    def add(self, kind: str, event: Event) -> None:
        self._counts[kind] += 1
        self._records[kind] = [*self._records.get(kind, []), event][-RECORDS:]

    def end(self, kind: str, now: datetime, shown: datetime) -> None:
        """What began last is over now; nothing when nothing goes on."""
        records = self._records.get(kind, [])
        if records and records[-1].end is None:
            last = records[-1]
            records[-1] = Event(
                start=last.start,
                end=now,
                shown=last.shown,
                shown_end=shown,
                operator=last.operator,
                items=last.items,
            )

    def count(self, kind: str) -> int:
        return self._counts[kind]

    def last(self, kind: str, back: int) -> Event | None:
        """The `back`-th last, from 1."""
        records = self._records.get(kind, [])
        return records[-back] if 1 <= back <= len(records) else None

    def lasted(self, kind: str, now: datetime) -> timedelta:
        """How long the remembered ones took together."""
        return sum(((event.end or now) - event.start for event in self._records.get(kind, [])), timedelta())

    def clear(self, beginning: str = "") -> None:
        """Forget the kinds that begin so."""
        for kind in [kind for kind in self._counts if kind.startswith(beginning) and kind not in _LASTING]:
            del self._counts[kind]
            self._records.pop(kind, None)
