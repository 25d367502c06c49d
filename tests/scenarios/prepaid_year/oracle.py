"""What every account has to pay, recomputed in plain Python from what its meters counted.

Nothing is shared with the program: tariff files are read here on their own, money is fractions of a minor unit, each step is one
formula over what was used before and after. Only the rules are the same, as docs/prepayment.md tells them.
"""

import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from msgspec import Struct

__all__ = ["PriceBook", "Reckoning", "Used"]

DAY = timedelta(days=1)
REGISTERS = {"all": 0, "sharp": 1, "peak": 2, "flat": 3, "valley": 4}
Used = Mapping[str, Decimal]  # kWh by name of the band


class PriceBook:
    """All versions of all tariffs, as their files have them."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._versions: dict[str, list[dict[str, Any]]] = {}
        for file in files:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
            self._versions.setdefault(found["tariff"]["name"], []).append(found)
        for versions in self._versions.values():
            versions.sort(key=lambda one: one["tariff"]["applies_from"])

    def names(self) -> list[str]:
        return sorted(self._versions)

    def version(self, name: str, day: date) -> dict[str, Any]:
        return [one for one in self._versions[name] if one["tariff"]["applies_from"] <= day][-1]

    def is_by_time(self, name: str) -> bool:
        return "windows" in self._versions[name][0]

    def registers(self, name: str) -> tuple[int, ...]:
        """Of the meter, that the tariff charges by."""
        if self.is_by_time(name):
            return (0,)
        return tuple(sorted(REGISTERS[band] for band in self._versions[name][0]["prices"]))

    def band_at(self, name: str, day: date, at: time) -> str:
        version = self.version(name, day)
        season = [one["name"] for one in version.get("seasons", ()) if _is_in(one["first"], one["last"], day)]
        for window in version["windows"]:
            if "seasons" in window and not set(window["seasons"]) & set(season):
                continue
            assert "days" not in window, "no tariff of these tests knows weekends"
            if _minutes(window["start"]) <= at.hour * 60 + at.minute < _minutes(window["end"]):
                return str(window["band"])
        raise AssertionError(f"{name} has no band at {at} of {day}")

    def slack(self, name: str) -> Fraction:
        """By how much what was booked may differ from what was charged, in minor units."""
        rounds_down = any(one["tariff"].get("rounding") == "down" for one in self._versions[name])
        return Fraction(1) if rounds_down else Fraction(1, 2)


class _State(Struct, frozen=True):
    """After a charge. period: of the steps, "" without. exact: of the charge, minor units. total, kwh: of all so far."""

    period: str
    period_kwh: Fraction
    month: tuple[int, int]
    month_money: Fraction
    exact: Fraction
    total: Fraction
    kwh: Fraction


_NOTHING = _State("", Fraction(0), (0, 0), Fraction(0), Fraction(0), Fraction(0), Fraction(0))


class Reckoning:
    """Of one account. `used` is by the day on which it is charged; it may change at any day, and all from there on is done anew."""

    def __init__(self, book: PriceBook, opened: date, *, is_large: bool) -> None:
        self._book = book
        self._opened = opened
        self._is_large = is_large
        self.tariffs: list[tuple[date, str]] = []
        self.closes: date | None = None
        self._states: dict[date, _State] = {}
        self._used: dict[date, Used] = {}

    def tariff_of(self, day: date) -> str:
        return [name for since, name in self.tariffs if since <= day][-1]

    @property
    def last(self) -> date | None:
        return max(self._states, default=None)

    @property
    def total(self) -> Fraction:
        return self._newest(date.max).total

    @property
    def kwh(self) -> Fraction:
        return self._newest(date.max).kwh

    def exact(self, since: date) -> dict[date, Fraction]:
        return {day: state.exact for day, state in self._states.items() if day >= since}

    def reckon(self, used: Mapping[date, Used], since: date) -> None:
        """used: all that is known from `since` on; what is known of days before stays."""
        for day in [day for day in self._states if day >= since]:
            del self._states[day]
        before = self._newest(since)
        for day in sorted(used):
            assert day >= since
            before = self._states[day] = self._charge(day, used[day], before)

    def _newest(self, before: date) -> _State:
        last = max((day for day in self._states if day < before), default=None)
        return _NOTHING if last is None else self._states[last]

    def _charge(self, day: date, used: Used, before: _State) -> _State:
        version = self._book.version(self.tariff_of(day), day)
        kwh = sum((Fraction(one) for one in used.values()), Fraction(0))
        month = (day.year, day.month)
        month_money = before.month_money if before.month == month else Fraction(0)
        money = sum((Fraction(one) * Fraction(version["prices"][band]) for band, one in used.items()), Fraction(0))
        period, had = "", Fraction(0)
        if (steps := version.get("steps")) is not None:
            # Use before a change of tariff counts where both count by the same year or month.
            period = f"{day:%Y}" if steps["period"] == "year" else f"{day:%Y-%m}"
            had = before.period_kwh if before.period == period else Fraction(0)
            money += self._stepped(steps, had + kwh, day) - self._stepped(steps, had, day)
        money += sum((Fraction(one["per_kwh"]) * kwh for one in version.get("surcharges", ())), Fraction(0))
        money *= 1 + sum((Fraction(one["rate"]) for one in version.get("taxes", ())), Fraction(0))
        money *= 100
        month_money += money
        if (day + DAY).month != day.month or day == self.closes:
            lacking = max(Fraction(0), Fraction(version["tariff"].get("minimum", "0")) * 100 - month_money)
            money, month_money = money + lacking, month_money + lacking
        return _State(period, had + kwh, month, month_money, money, before.total + money, before.kwh + kwh)

    def _stepped(self, steps: dict[str, Any], kwh: Fraction, day: date) -> Fraction:
        """What the steps add to that much: each costs more than the one before, on all that lies above its limit."""
        by_year = steps["period"] == "year"
        money = before = Fraction(0)
        for step in steps["step"]:
            limit = Fraction(step["above_kwh"])
            if limit and self._is_large:
                limit += Fraction(steps.get("household_extra_kwh", "0")) * (12 if by_year else 1)
            if by_year and self._opened.year == day.year:
                limit *= Fraction(13 - self._opened.month, 12)
            money += max(kwh - limit, Fraction(0)) * (Fraction(step["addition"]) - before)
            before = Fraction(step["addition"])
        return money


def _minutes(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


def _is_in(first: str, last: str, day: date) -> bool:
    at = f"{day:%m-%d}"
    return first <= at <= last if first <= last else at >= first or at <= last
