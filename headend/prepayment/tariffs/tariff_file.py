"""Tariff files: TOML, one version of one tariff each, checked whole, so that one run tells every problem with its place.

[tariff]
name = "residential"
version = "2026-07"
currency = "CNY"
applies_from = 2026-07-01

[prices]                       # of a kWh, decimal text; one `all`, or one for each band
all = "0.5600"

[steps]
period = "year"                # or "month"
household_extra_kwh = "100"    # a month, where five or more people are registered

[[steps.step]]
above_kwh = "0"
addition = "0"

[[steps.step]]
above_kwh = "2160"
addition = "0.05"
"""

import re
from collections.abc import Iterable, Sequence
from datetime import date, time
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from headend.configuration.reader import Problem, Reader, read_toml
from headend.configuration.words import LEAP_YEAR, ConfigTable, MonthDay, Name, TimeOfDay
from headend.errors import ConfigError
from headend.prepayment.money import MINOR_DIGITS, Rounding, exact_minor
from headend.prepayment.tariffs.tariff import (
    Band,
    DayKind,
    Season,
    Step,
    Steps,
    Surcharge,
    Tariff,
    Tax,
    Timetable,
    Window,
)

__all__ = ["TARIFFS", "check_tariff", "load_tariff", "load_tariffs"]

TARIFFS = Path(__file__).parent
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,12})?")


def _number(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f'{text!r}; expected a decimal number as text that is not negative, such as "0.5600"')
    return text


def _currency(text: str) -> str:
    if text not in MINOR_DIGITS:
        raise ValueError(f"{text!r}; expected one of {', '.join(MINOR_DIGITS)}")
    return text


Number = Annotated[str, AfterValidator(_number)]


class _Tariff(ConfigTable):
    name: Name = ""
    version: Name = ""
    currency: Annotated[str, AfterValidator(_currency)] = "CNY"
    applies_from: date = date.min
    minimum: Number = "0"
    rounding: Literal["half-up", "half-even", "down"] = "half-up"
    source: str = ""


class _Prices(ConfigTable):
    all: Number | None = None
    sharp: Number | None = None
    peak: Number | None = None
    flat: Number | None = None
    valley: Number | None = None


class _Step(ConfigTable):
    above_kwh: Number
    addition: Number


class _Steps(ConfigTable):
    period: Literal["month", "year"] = "month"
    prorated: bool = True
    household_extra_kwh: Number = "0"
    step: Annotated[tuple[_Step, ...], Field(strict=False)] = ()


class _Named(ConfigTable):
    name: Annotated[str, Field(min_length=1, max_length=64)]


class _Surcharge(_Named):
    per_kwh: Number


class _Tax(_Named):
    rate: Number


class _Season(ConfigTable):
    name: Name
    first: MonthDay
    last: MonthDay


class _Window(ConfigTable):
    model_config = ConfigDict(extra="forbid", strict=True)

    seasons: Annotated[list[str], Field(min_length=1)] | None = None
    days: Annotated[list[Literal["workday", "weekend", "holiday"]], Field(min_length=1)] | None = None
    start: TimeOfDay
    end: TimeOfDay
    band: Literal["sharp", "peak", "flat", "valley"]


class _Calendar(ConfigTable):
    holidays: Annotated[tuple[date, ...], Field(strict=False)] = ()
    workdays: Annotated[tuple[date, ...], Field(strict=False)] = ()


_TABLES: dict[str, type[ConfigTable]] = {
    "tariff": _Tariff,
    "prices": _Prices,
    "steps": _Steps,
    "calendar": _Calendar,
}
_ENTRIES: dict[str, type[ConfigTable]] = {
    "surcharges": _Surcharge,
    "taxes": _Tax,
    "seasons": _Season,
    "windows": _Window,
}


def load_tariff(path: Path) -> Tariff:
    """Raises ConfigError with every problem of the file."""
    tariff, problems = check_tariff(path)
    if tariff is None:
        raise ConfigError("\n".join(str(problem) for problem in problems))
    return tariff


def load_tariffs(paths: Iterable[Path]) -> dict[str, tuple[Tariff, ...]]:
    """All versions by name, oldest first. Raises ConfigError; also where two versions begin on one day, or currencies differ."""
    versions: dict[str, list[Tariff]] = {}
    wrong = []
    for path in paths:
        tariff, problems = check_tariff(path)
        if tariff is None:
            wrong += [str(problem) for problem in problems]
            continue
        others = versions.setdefault(tariff.name, [])
        for other in others:
            if other.applies_from == tariff.applies_from or other.version == tariff.version:
                wrong.append(
                    f"{path.name} tariff: version {tariff.version} from {tariff.applies_from} and version {other.version} from "
                    f"{other.applies_from} cannot both be; expected another version and another first day for each"
                )
            elif other.currency != tariff.currency:
                wrong.append(
                    f"{path.name} tariff.currency: {tariff.currency}, but version {other.version} has {other.currency}; expected one "
                    f"currency for all versions of a tariff"
                )
        others.append(tariff)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return {name: tuple(sorted(some, key=lambda one: one.applies_from)) for name, some in versions.items()}


def check_tariff(path: Path) -> tuple[Tariff | None, list[Problem]]:
    """The tariff of a file, and every problem; None with any."""
    text, document, problems = read_toml(path)
    if problems:
        return None, problems
    reader = Reader(path, text)
    known = (*_TABLES, *_ENTRIES)
    for key in document:
        if key not in known:
            reader.problem((key,), f"unknown key; expected one of {', '.join(known)}")
    tables: dict[str, Any] = {name: reader.table(document, name, shape) for name, shape in _TABLES.items()}
    entries = {
        name: [entry.good for entry in reader.entries(document, name, shape)] for name, shape in _ENTRIES.items()
    }
    if reader.problems or reader.fatal:
        return None, [*reader.fatal, *reader.problems]
    head, calendar = tables["tariff"], tables["calendar"]
    for key in ("name", "version"):
        if not getattr(head, key):
            reader.problem(("tariff", key), "missing")
    if head.applies_from == date.min:
        reader.problem(("tariff", "applies_from"), "missing; expected the first local day that it applies to")
    if exact_minor(Decimal(head.minimum), head.currency) % 1:
        reader.problem(("tariff", "minimum"), f"{head.minimum!r}; expected whole minor units of {head.currency}")
    prices = {
        Band[name.upper()]: Decimal(price)
        for name in _Prices.model_fields
        if (price := getattr(tables["prices"], name)) is not None
    }
    _check_prices(reader, prices)
    timetable = _timetable(reader, entries["seasons"], entries["windows"], calendar, prices)
    steps = _steps(reader, tables["steps"]) if "steps" in document else None
    if reader.problems:
        return None, reader.problems
    return Tariff(
        name=head.name,
        version=head.version,
        currency=head.currency,
        applies_from=head.applies_from,
        prices=prices,
        timetable=timetable,
        steps=steps,
        surcharges=tuple(Surcharge(one.name, Decimal(one.per_kwh)) for one in entries["surcharges"]),
        taxes=tuple(Tax(one.name, Decimal(one.rate)) for one in entries["taxes"]),
        minimum_minor=int(exact_minor(Decimal(head.minimum), head.currency)),
        rounding=Rounding(head.rounding),
    ), []


def _check_prices(reader: Reader, prices: dict[Band, Decimal]) -> None:
    if not prices:
        reader.problem(("prices",), "no price; expected `all`, or one for each band")
    elif Band.ALL in prices and len(prices) > 1:
        reader.problem(("prices", "all"), "there are prices for bands too; expected `all`, or bands, not both")


def _timetable(
    reader: Reader,
    seasons: Sequence[_Season],
    windows: Sequence[_Window],
    calendar: _Calendar,
    prices: dict[Band, Decimal],
) -> Timetable | None:
    if not windows:
        if seasons:
            reader.problem(("seasons",), "there are no windows; expected [[windows]] for each season")
        return None
    whole_year = Season(name="year", first=(1, 1), last=(12, 31))
    found = tuple(Season(name=one.name, first=_place(one.first), last=_place(one.last)) for one in seasons) or (
        whole_year,
    )
    _check_seasons(reader, found)
    names = {season.name for season in found}
    of: dict[tuple[str, DayKind], list[tuple[int, int, Band]]] = {
        (name, kind): [] for name in names for kind in DayKind
    }
    for place, window in enumerate(windows):
        first, last = _minute(window.start), _minute(window.end)
        if first >= last:
            reader.problem(
                ("windows", place),
                f"{window.start} to {window.end}; expected the start before the end, and two windows over midnight",
            )
            continue
        band = Band[window.band.upper()]
        if band not in prices:
            reader.problem(("windows", place, "band"), f"{window.band!r} has no price in [prices]")
        for name in window.seasons or sorted(names):
            if name not in names:
                reader.problem(("windows", place, "seasons"), f"{name!r}; expected of {', '.join(sorted(names))}")
                continue
            for kind in map(DayKind, window.days) if window.days else DayKind:
                of[name, kind].append((first, last, band))
    for (name, kind), spans in sorted(of.items(), key=lambda item: (item[0][0], item[0][1].value)):
        spans.sort(key=lambda span: span[:2])
        _check_day(reader, f"{kind.value}s of season {name!r}", spans)
    both = sorted(set(calendar.holidays) & set(calendar.workdays))
    if both:
        reader.problem(("calendar",), f"{both[0]} is a holiday and a workday; expected one of them")
    return Timetable(
        seasons=found,
        windows={
            key: tuple(Window(_time(first), _time(last), band) for first, last, band in spans)
            for key, spans in of.items()
        },
        holidays=frozenset(calendar.holidays),
        workdays=frozenset(calendar.workdays),
    )


def _check_seasons(reader: Reader, seasons: Sequence[Season]) -> None:
    for name in {season.name for season in seasons}:
        if sum(season.name == name for season in seasons) > 1:
            reader.problem(("seasons",), f"{name!r} is there twice; expected each name once")
    day = date(LEAP_YEAR, 1, 1)
    told = set()
    while day.year == LEAP_YEAR:
        here = tuple(season.name for season in seasons if season.has(day))
        if len(here) != 1 and here not in told:
            told.add(here)
            what = f"belongs to {' and '.join(here)}" if here else "belongs to no season"
            reader.problem(("seasons",), f"{day:%m-%d} {what}; expected exactly one")
        day = date.fromordinal(day.toordinal() + 1)


def _check_day(reader: Reader, what: str, spans: Sequence[tuple[int, int, Band]]) -> None:
    edges = [(0, 0, Band.ALL), *spans, (1440, 1440, Band.ALL)]
    for (_, end, _band), (start, _end, _other) in pairwise(edges):
        if start > end:
            reader.problem(("windows",), f"{what}: nothing from {_shown(end)} to {_shown(start)}; expected no gap")
        elif start < end:
            reader.problem(("windows",), f"{what}: two windows from {_shown(start)} to {_shown(end)}; expected one")


def _steps(reader: Reader, table: _Steps) -> Steps:
    limits = [Decimal(step.above_kwh) for step in table.step]
    if not limits or limits[0] != 0:
        reader.problem(("steps", "step"), "the first step begins above 0 kWh; expected it to begin at 0")
    for place, (before, after) in enumerate(pairwise(limits), 1):
        if after <= before:
            reader.problem(
                ("steps", "step", place, "above_kwh"), f"{after} is not above the step before, {before}; expected more"
            )
    return Steps(
        steps=tuple(Step(Decimal(step.above_kwh), Decimal(step.addition)) for step in table.step),
        by_year=table.period == "year",
        prorated=table.prorated,
        extra_kwh=Decimal(table.household_extra_kwh),
    )


def _place(text: str) -> tuple[int, int]:
    return int(text[:2]), int(text[3:])


def _minute(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _time(minute: int) -> time:
    return time(minute // 60 % 24, minute % 60)


def _shown(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
