"""Moments and local days as numbers: as the tables keep them, and as a zone has them."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

__all__ = ["LocalDays", "day_number", "day_of", "epoch_ms", "from_epoch_ms"]

_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = date(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)
_CACHED_MAX = 100_000  # moments: three years of quarter hours


def epoch_ms(moment: datetime) -> int:
    return (moment - _BEGIN) // _MILLISECOND


def from_epoch_ms(number: int) -> datetime:
    return _BEGIN + number * _MILLISECOND


def day_number(day: date) -> int:
    return (day - _DAY).days


def day_of(number: int) -> date:
    return _DAY + timedelta(days=number)


class LocalDays:
    """Local days of a zone as numbers, and where they begin in epoch seconds; remembered, because millions of intervals share them."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._midnights: dict[int, int] = {}
        self._days: dict[int, int] = {}
        self._moments: dict[str, int] = {}

    def midnight(self, day: int) -> int:
        """Where the day begins. A midnight that a change of clocks skips falls on the change."""
        found = self._midnights.get(day)
        if found is None:
            on = day_of(day)
            found = int(datetime(on.year, on.month, on.day, tzinfo=self.zone).astimezone(UTC).timestamp())
            self._remember(self._midnights, day, found)
        return found

    def day_at(self, second: int) -> int:
        """In which day that second lies."""
        found = self._days.get(second)
        if found is None:
            found = day_number(datetime.fromtimestamp(second, UTC).astimezone(self.zone).date())
            self._remember(self._days, second, found)
        return found

    def second(self, moment: str) -> int:
        """Of an event's time. Fractions are dropped: boundaries have none. Raises ValueError."""
        found = self._moments.get(moment)
        if found is None:
            parsed = datetime.fromisoformat(moment)
            if parsed.tzinfo is None:
                raise ValueError(f"{moment!r} has no zone; expected a UTC time such as 2026-11-21T10:15:00Z")
            found = int(parsed.timestamp())
            self._remember(self._moments, moment, found)
        return found

    def today(self, now: datetime) -> date:
        return now.astimezone(self.zone).date()

    @staticmethod
    def _remember(cache: dict[Any, int], key: object, found: int) -> None:
        if len(cache) >= _CACHED_MAX:
            cache.clear()
        cache[key] = found
