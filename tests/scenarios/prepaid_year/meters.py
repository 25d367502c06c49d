"""Meters as a head-end knows them, and the feed that it tells: intervals with their reasons, spans, exchanges and revisions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

__all__ = ["DAY", "ZONE", "Meter", "YearFeed", "midnight"]

ZONE = ZoneInfo("Asia/Shanghai")
DAY = timedelta(days=1)
SLOTS = 12  # of two hours, where a tariff has a timetable: its bands change at even hours
NAMES = ("1-0:1.8.0", "1-0:1.8.1", "1-0:1.8.2", "1-0:1.8.3", "1-0:1.8.4")


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), ZONE).astimezone(UTC)


def _iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


class YearFeed:
    """Numbered, as the head-end's. What both readers have long taken is forgotten, so that a year fits into memory."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._base = 0
        self._days: list[int] = []

    def tell(self, type_: str, subject: str, data: Mapping[str, object]) -> None:
        number = self._base + len(self._events) + 1
        head = {
            "specversion": "1.0", "id": f"e{number}", "source": "/headend/year", "type": type_, "subject": subject,
            "time": "2028-01-01T00:00:00Z", "sequence": str(number), "data": data,
        }  # fmt: skip
        self._events.append(json.dumps(head).encode())

    def events_after(self, sequence: int, limit: int) -> Sequence[bytes]:
        assert sequence >= self._base, "a reader is days behind"
        return self._events[sequence - self._base : sequence - self._base + limit]

    def forget_a_day(self, keep_days: int = 4) -> None:
        """Called once a day."""
        self._days.append(self._base + len(self._events))
        if len(self._days) > keep_days:
            base = self._days.pop(0)
            del self._events[: base - self._base]
            self._base = base


class Meter:
    """registers: that are told. slots: in a day. A place is a slot since the first day; `good` is of the read at its begin.

    since: where its first read lies, when that is inside the first day. lost: places in which it was exchanged and nobody told the
    readings.
    """

    def __init__(
        self, name: str, first: date, registers: tuple[int, ...], *, by_time: bool, since: datetime | None = None
    ) -> None:
        self.name = name
        self.first = first
        self.registers = registers
        self.slots = SLOTS if by_time else 1
        self.used: list[dict[int, Decimal]] = []
        self.good: list[bool] = [True]
        self.lost: set[int] = set()
        self.exchanged: set[int] = set()
        self.start = 0
        self._since = since
        if since is not None and by_time:
            # The slot in which it was fitted has no amount; it counts from the read at that slot's end on.
            self.start = (since - midnight(first)) // timedelta(hours=24 // SLOTS)
            self.used = [dict.fromkeys(registers, Decimal(0)) for _ in range(self.start)]
            self.good = [True] * (self.start + 1)
        self._told: dict[tuple[int, int], tuple[int, str]] = {}

    def live(self, used: Sequence[Mapping[int, Decimal]], *, good: Sequence[bool]) -> None:
        """A day: what each slot counted, and whether the read at its end is good."""
        begin = len(self.used) % self.slots
        assert len(used) == len(good) == self.slots
        self.used += [dict(one) for one in used[begin:]]
        self.good += good[begin:]

    def day_of(self, place: int) -> date:
        return self.first + (place // self.slots) * DAY

    def place_of(self, day: date) -> int:
        """Where that day begins."""
        return (day - self.first).days * self.slots

    def counted(self, first: date, last: date) -> Decimal:
        """In all, on the days from first to last."""
        low, high = max(0, self.place_of(first)), self.place_of(last + DAY)
        return sum((one[0] if 0 in one else sum(one.values(), Decimal(0)) for one in self.used[low:high]), Decimal(0))

    def news(self, since: int = 0) -> Iterator[dict[str, object]]:
        """Intervals from that place on that say something else than before."""
        for place in range(max(since, self.start), len(self.used)):
            for register in self.registers:
                data = self._interval(place, register)
                text = json.dumps(data)
                before = self._told.get((place, register))
                if before is not None and before[1] == text:
                    continue
                revision = 0 if before is None else before[0] + 1
                self._told[place, register] = (revision, text)
                yield {**data, "revision": revision}

    def tell(self, feed: YearFeed, since: int = 0) -> None:
        for data in self.news(since):
            feed.tell("headend.interval.v1", self.name, data)

    def _moment(self, place: int) -> datetime:
        return midnight(self.first) + place * (DAY / self.slots)

    def _interval(self, place: int, register: int) -> dict[str, object]:
        start, end = self._moment(place), self._moment(place + 1)
        data: dict[str, object] = {
            "meter": self.name, "obis": NAMES[register], "start": _iso(start), "end": _iso(end),
            "period_s": int((end - start).total_seconds()), "amount": None, "unit": "kWh", "quality": ["missing"],
            "source": "year", "evidence": {},
        }  # fmt: skip
        is_first = place == 0 and self._since is not None
        if place in self.lost:
            return data | {"reason": "exchange-without-readings"}
        if self.good[place] and self.good[place + 1] and not is_first:
            marks = {"marks": ["meter-exchanged"]} if place in self.exchanged else {}
            return data | {"amount": str(self.used[place][register]), "quality": ["measured"]} | marks
        reason = "suspect-boundary" if place % 3 == 0 else "missing-boundary"
        if not self.good[place + 1]:
            return data | {"reason": reason, "quality": ["suspect" if place % 3 == 0 else "missing"]}
        last = next((one for one in range(place, self.start - 1, -1) if self.good[one]), None)
        if last is None or any(one in self.lost for one in range(last, place + 1)):
            return data | {"reason": reason}
        amount = sum((self.used[one][register] for one in range(last, place + 1)), Decimal(0))
        since = self._since if last == 0 and self._since is not None and self.start == 0 else self._moment(last)
        span = {"start": _iso(since), "end": _iso(end), "amount": str(amount)}
        return data | {"reason": "partial" if is_first else reason, "span": span}
