"""What customers are told, by language: templates as data files, filled with figures that are written as people of that language do."""

import tomllib
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from string import Formatter
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.errors import ConfigError
from headend.prepayment.model import CHANNELS
from headend.prepayment.money import shown

__all__ = ["FIELDS", "LANGUAGES", "Money", "NoticeTexts", "Written", "load_texts"]

LANGUAGES = ("zh", "en")
_TEMPLATES = Path(__file__).parent / "templates"

# What each text may name. `account` is everybody's.
FIELDS: dict[str, frozenset[str]] = {
    "low": frozenset({"balance", "days", "day"}),
    "used-up": frozenset({"owed", "pay_by", "day", "balance"}),
    "last-warning": frozenset({"owed", "deadline"}),
    "disconnected": frozenset({"owed", "at"}),
    "paid": frozenset({"balance"}),
    "restored": frozenset({"at", "took", "balance"}),
    "permitted": frozenset({"balance"}),
    "reversed": frozenset({"amount", "channel", "receipt", "reason", "balance", "follows"}),
    "topped-up": frozenset({"amount", "day", "balance"}),
    "debit-refused": frozenset({"amount", "day", "reason", "balance"}),
    "statement": frozenset({"month", "used", "charged", "paid", "balance"}),
    "agreement": frozenset({"day", "reminder", "topup"}),
    "finding": frozenset({"day", "kwh", "found"}),
}
_CHOICES = {
    "reversed-follows": ("usual-notices", "last-warning"),
    "finding-found": ("sudden-increase", "use-while-disconnected"),
    "channels": CHANNELS,
}  # parts of other texts
_PARTS = {"follows": "reversed-follows", "found": "finding-found", "channel": "channels"}  # by the name of the figure
_DEADLINES = ("pay_by", "deadline")
_UNKNOWN_DAYS = {"zh": "不足5", "en": "fewer than 5"}
_NONE = {"zh": "未开通", "en": "none"}


class Money(Struct, frozen=True):
    """Of a text: in minor units."""

    minor: int
    currency: str


class Written(Struct, frozen=True):
    title: str
    text: str


Figure = str | int | Decimal | Money | date | datetime | timedelta | None


class NoticeTexts(Struct, frozen=True):
    """templates: by language, kind, then title and text. units: by language and currency. zone: of times."""

    templates: Mapping[str, Mapping[str, Mapping[str, str]]]
    units: Mapping[str, Mapping[str, str]]
    zone: ZoneInfo

    def write(self, kind: str, language: str, account: str, figures: Mapping[str, Figure]) -> Written:
        """In Chinese where the language is not one of ours. Raises KeyError for a kind or a figure that is missing."""
        language = language if language in self.templates else LANGUAGES[0]
        words = {name: self._word(name, figure, language) for name, figure in figures.items()}
        template = self.templates[language][kind]
        missing = FIELDS[kind] - words.keys()
        if missing:
            raise KeyError(f"text {kind!r} needs {', '.join(sorted(missing))}")
        return Written(
            template["title"].format(account=account, **words), template["text"].format(account=account, **words)
        )

    def money(self, amount: Money, language: str) -> str:
        unit = self.units[language].get(amount.currency, amount.currency)
        return (
            f"{shown(amount.minor, amount.currency)}{'' if language == 'zh' and unit != amount.currency else ' '}{unit}"
        )

    def _word(self, name: str, figure: Figure, language: str) -> str:
        if isinstance(figure, Money):
            return self.money(figure, language)
        if isinstance(figure, datetime):
            exact = name in _DEADLINES and figure.second  # of a plan for trials; nothing may happen before what is told
            return figure.astimezone(self.zone).strftime("%Y-%m-%d %H:%M:%S" if exact else "%Y-%m-%d %H:%M")
        if isinstance(figure, timedelta):
            seconds = max(0, int(figure.total_seconds()))
            minutes = seconds // 60
            if not minutes:
                return f"{seconds}秒" if language == "zh" else f"{seconds} s"
            if minutes < 120:
                return f"{minutes}分钟" if language == "zh" else f"{minutes} min"
            return f"{minutes // 60}小时" if language == "zh" else f"{minutes // 60} h"
        if isinstance(figure, Decimal) and name == "days":
            return str(max(0, int(figure)))
        if figure is None:
            return _UNKNOWN_DAYS[language] if name == "days" else _NONE[language]
        if name in _PARTS:
            return self.templates[language][_PARTS[name]][str(figure)]
        return str(figure)


def load_texts(zone: ZoneInfo, folder: Path | None = None) -> NoticeTexts:
    """folder: whose files stand in place of those that come with the program, language by language. Raises ConfigError."""
    templates, units = {}, {}
    for language in LANGUAGES:
        own = None if folder is None else folder / f"{language}.toml"
        path = own if own is not None and own.exists() else _TEMPLATES / f"{language}.toml"
        try:
            found = tomllib.loads(path.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"texts {path}: {error}") from error
        if problems := _problems(found):
            raise ConfigError(f"texts {path}: {'; '.join(problems)}")
        units[language] = found.pop("units")
        templates[language] = found
    return NoticeTexts(templates, units, zone)


def _problems(found: Mapping[str, object]) -> list[str]:
    problems = []
    expected = FIELDS.keys() | _CHOICES.keys() | {"units"}
    problems += [f"[{name}]; expected one of {', '.join(sorted(expected))}" for name in found.keys() - expected]
    for name in sorted(expected):
        table = found.get(name)
        if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
            problems.append(f"[{name}] is missing, or holds something else than texts")
            continue
        wanted = {"title", *_CHOICES[name]} if name in _CHOICES else {"title", "text"} if name in FIELDS else set()
        if absent := wanted - table.keys():
            problems.append(f"[{name}] has no {', '.join(sorted(absent))}")
        for key, text in table.items():
            problems += [f"[{name}] {key}: {one}" for one in _wrong_names(text, FIELDS.get(name))]
    return problems


def _wrong_names(text: str, allowed: frozenset[str] | None) -> list[str]:
    try:
        names = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        return [f"{error}; write {{{{ for a brace"]
    known = {"account"} | allowed if allowed is not None else set()
    return [f"{{{name}}}; expected one of {', '.join(sorted(known)) or 'none'}" for name in sorted(names - known)]
