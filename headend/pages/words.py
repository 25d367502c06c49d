"""What the pages say, by language: texts as data files, and figures written as people of that language do."""

import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from string import Formatter
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.prepayment.money import shown

__all__ = ["LANGUAGES", "Words", "language_of", "load_words"]

LANGUAGES = ("zh", "en")
_FOLDER = Path(__file__).parent / "words"
_TAGS = {"zh": "zh-CN", "en": "en"}  # BCP 47
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MINUS = "−"


class Words(Struct, frozen=True, kw_only=True):
    """One language. texts: by "group.name". zone: of moments and days."""

    language: str
    texts: Mapping[str, str]
    zone: ZoneInfo

    def __call__(self, name: str, **figures: object) -> str:
        """The text with its figures. Raises KeyError for a text or a figure that is missing."""
        return self.texts[name].format(**figures)

    def count(self, name: str, count: int, **figures: object) -> str:
        """The text for so many: English says "1 day", and "2 days"."""
        return self(f"{name}_one" if count == 1 else name, count=count, **figures)

    @property
    def tag(self) -> str:
        return _TAGS[self.language]

    @property
    def other(self) -> str:
        return next(one for one in LANGUAGES if one != self.language)

    def number(self, minor: int, currency: str) -> str:
        return shown(minor, currency).replace("-", MINUS)

    def exact(self, exact_minor: Decimal, currency: str) -> str:
        """An exact amount, shown to the minor unit."""
        return self.number(int(exact_minor.to_integral_value(rounding=ROUND_HALF_UP)), currency)

    def unit(self, currency: str) -> str:
        return self.texts.get(f"unit.{currency}", currency)

    def money(self, minor: int, currency: str) -> str:
        """12.05 yuan"""
        return f"{self.number(minor, currency)} {self.unit(currency)}"

    def kwh(self, amount: Decimal) -> str:
        return format(amount.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP), "f").replace("-", MINUS)

    def day(self, day: date) -> str:
        """2026年3月2日, 2 Mar 2026"""
        if self.language == "zh":
            return f"{day.year}年{day.month}月{day.day}日"
        return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"

    def short_day(self, day: date) -> str:
        return f"{day.month}月{day.day}日" if self.language == "zh" else f"{day.day} {_MONTHS[day.month - 1]}"

    def span(self, since: date, day: date) -> str:
        """From the one to the other; of one day that day."""
        if since == day:
            return self.short_day(day)
        return self("use.stretch", since=self.short_day(since), day=self.short_day(day))

    def month(self, month: str) -> str:
        """month: 2026-03."""
        year, _, number = month.partition("-")
        return f"{year}年{int(number)}月" if self.language == "zh" else f"{_MONTHS[int(number) - 1]} {year}"

    def moment(self, at: datetime) -> str:
        local = at.astimezone(self.zone)
        return f"{self.day(local.date())} {local:%H:%M}"

    def clock(self, at: datetime) -> str:
        return f"{at.astimezone(self.zone):%H:%M}"


def load_words(language: str, zone: ZoneInfo) -> Words:
    return Words(language=language, texts=_texts(language), zone=zone)


def language_of(*wishes: str) -> str:
    """The first wish that we speak; a wish is a language or an Accept-Language header. Chinese without one."""
    for wish in wishes:
        for part in wish.split(","):
            bare = part.partition(";")[0].strip().lower().partition("-")[0]
            if bare in LANGUAGES:
                return bare
    return LANGUAGES[0]


@cache
def _texts(language: str) -> Mapping[str, str]:
    found = tomllib.loads((_FOLDER / f"{language}.toml").read_text("utf-8"))
    return {f"{group}.{name}": text for group, texts in found.items() for name, text in texts.items()}


def fields_of(text: str) -> set[str]:
    """The figures that a text asks for."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
