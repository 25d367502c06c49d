"""Holidays, and weekend days that are worked in exchange for them, as an authority published them year by year.

A year that is not published is unknown, and nobody guesses: rules for movable feasts would answer for every year, but a state
decides anew each autumn which weekends are worked. Where a year's list may reach back into the old year (the Chinese list of 2023
made 31 December 2022 a holiday), the last days of a year stay unknown until the next year's list is there.
"""

import enum
from collections.abc import Sequence
from datetime import date, timedelta

from msgspec import Struct

__all__ = ["Calendar", "CalendarYear", "DayKind", "Holiday"]

_DAY = timedelta(days=1)


class DayKind(enum.Enum):
    """UNKNOWN: no published list covers the day. WORKED: a day that would be a rest day, worked in exchange for a holiday."""

    ORDINARY = "ordinary"
    HOLIDAY = "holiday"
    WORKED = "worked"
    UNKNOWN = "unknown"


class Holiday(Struct, frozen=True, kw_only=True):
    """first to last: local days, both included."""

    name: str
    first: date
    last: date


class CalendarYear(Struct, frozen=True, kw_only=True):
    """One published list. worked: rest days that are worked. published: None: it follows from a standing law.

    reaches_back_days: so many last days of the year are known only together with the next year's list.
    """

    year: int
    source: str
    published: date | None
    holidays: tuple[Holiday, ...]
    worked: tuple[date, ...] = ()
    reaches_back_days: int = 0


class Calendar:
    """Any number of published years under one name, looked up by local day."""

    def __init__(self, name: str, years: Sequence[CalendarYear]) -> None:
        self.name = name
        self.years = tuple(sorted(years, key=lambda year: year.year))
        self._covered = {year.year for year in self.years}
        self._back = {year.year: year.reaches_back_days for year in self.years}
        self._holidays: dict[date, str] = {}
        self._worked: set[date] = set()
        for year in self.years:
            self._worked.update(year.worked)
            for holiday in year.holidays:
                day = holiday.first
                while day <= holiday.last:
                    self._holidays[day] = holiday.name
                    day += _DAY

    def kind_of(self, day: date) -> DayKind:
        if day.year not in self._covered:
            return DayKind.UNKNOWN
        if day in self._holidays:
            return DayKind.HOLIDAY
        if day.month == 12 and 31 - day.day < self._back[day.year] and day.year + 1 not in self._covered:
            return DayKind.UNKNOWN
        return DayKind.WORKED if day in self._worked else DayKind.ORDINARY

    def name_of(self, day: date) -> str:
        """Of the holiday; "" on any other day."""
        return self._holidays.get(day, "")

    @property
    def last_year(self) -> int:
        """0 without any year."""
        return max(self._covered, default=0)
