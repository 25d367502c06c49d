"""Calendar files: TOML, a table `[[years]]` per published list. Those that come with the program lie in `calendars/`.

name = "cn-state-council"

[[years]]
year = 2026
published = 2025-11-04
source = "…"
reaches_back_days = 3
holidays = [{ name = "元旦", first = 2026-01-01, last = 2026-01-03 }]
worked = [2026-01-04]
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from headend.commands.calendar import CalendarYear, Holiday
from headend.configuration.reader import Entry, Problem, Reader, read_toml
from headend.configuration.words import ConfigTable, Name

__all__ = ["CALENDARS", "read_years"]

CALENDARS = Path(__file__).parent / "calendars"
REACHES_BACK_DAYS_MAX = 31

Text = Annotated[str, Field(min_length=1)]


class _Top(ConfigTable):
    name: Name
    title: Text


class _Holiday(ConfigTable):
    name: Text
    first: date
    last: date


class _Year(ConfigTable):
    year: Annotated[int, Field(ge=1900, le=9998)]
    published: date | None = None
    source: Text
    reaches_back_days: Annotated[int, Field(ge=0, le=REACHES_BACK_DAYS_MAX)] = 0
    holidays: list[_Holiday]
    worked: list[date] = Field(default_factory=list)


def read_years(path: Path) -> tuple[list[CalendarYear], list[Problem]]:
    """The years of a calendar file and what is wrong with it; a year with a problem is left out, and so is unknown."""
    text, document, problems = read_toml(path)
    if problems:
        return [], problems
    reader = Reader(path, text)
    top = {key: value for key, value in document.items() if key != "years"}
    reader.entry((), top, _Top)
    years = []
    for entry in reader.entries(document, "years", _Year):
        if entry.good is not None:
            before = len(reader.problems)
            _check_year(entry)
            if len(reader.problems) == before:
                years.append(_year(entry.good))
    if not document.get("years"):
        reader.problem(("years",), "missing: expected a table [[years]] per published year")
    return years, [*reader.fatal, *reader.problems]


def _check_year(entry: Entry) -> None:
    year: _Year = entry.good
    taken: dict[date, str] = {}
    for index, holiday in enumerate(year.holidays):
        place = f"holidays[{index}]"
        if holiday.last < holiday.first or (holiday.last - holiday.first).days > 60:
            entry.report(place, f"{holiday.first} to {holiday.last}; expected first <= last, at most 60 days")
            continue
        if not year.year - 1 <= holiday.first.year <= holiday.last.year <= year.year + 1:
            entry.report(place, f"{holiday.first} to {holiday.last} does not belong to the list of {year.year}")
        for day in _days(holiday.first, holiday.last):
            if day in taken:
                entry.report(place, f"{day} is in {taken[day]!r} and in {holiday.name!r}; expected one of them")
                break
            taken[day] = holiday.name
    for index, day in enumerate(year.worked):
        if day in taken:
            entry.report(f"worked[{index}]", f"{day} is a holiday, {taken[day]!r}, and worked; expected one of them")
        if day in year.worked[:index]:
            entry.report(f"worked[{index}]", f"{day} is there twice")
        if abs(day.year - year.year) > 1:
            entry.report(f"worked[{index}]", f"{day} does not belong to the list of {year.year}")


def _year(year: _Year) -> CalendarYear:
    return CalendarYear(
        year=year.year,
        source=year.source,
        published=year.published,
        holidays=tuple(Holiday(name=day.name, first=day.first, last=day.last) for day in year.holidays),
        worked=tuple(year.worked),
        reaches_back_days=year.reaches_back_days,
    )


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=day) for day in range((last - first).days + 1)]
