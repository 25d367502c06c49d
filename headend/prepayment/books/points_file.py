"""Rule files for points and bonus on top-ups: TOML, checked whole, so that one run tells every problem with its place.

[rule]
name = "top-up-bonus"
currency = "CNY"
applies_from = 2026-01-01
channels = ["app", "counter"]   # left out: all

[[tiers]]
from = "100.00"                 # the smallest top-up, main unit
points = 100
bonus = "0.50"                  # credited; left out: none
"""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from msgspec import Struct
from pydantic import AfterValidator, Field

from headend.configuration.reader import Problem, Reader, read_toml
from headend.configuration.words import ConfigTable, Name
from headend.errors import ConfigError
from headend.prepayment.model import CHANNELS
from headend.prepayment.money import MINOR_DIGITS, exact_minor

__all__ = ["RULES", "PointsRule", "Tier", "check_points_rule", "load_points_rule"]

RULES = Path(__file__).parent / "rules"
_MONEY = re.compile(r"\d{1,9}(\.\d{1,3})?")


class Tier(Struct, frozen=True, kw_only=True):
    """from_minor: the smallest top-up that reaches it."""

    from_minor: int
    points: int
    bonus_minor: int = 0


class PointsRule(Struct, frozen=True, kw_only=True):
    """tiers: by rising `from_minor`. last_day: None until further notice. Both days are local and belong to it."""

    name: str
    currency: str
    applies_from: date
    last_day: date | None
    channels: tuple[str, ...]
    tiers: tuple[Tier, ...]

    def tier_of(self, amount_minor: int, currency: str, channel: str, day: date) -> Tier | None:
        """The highest that the top-up reaches."""
        if currency != self.currency or channel not in self.channels or day < self.applies_from:
            return None
        if self.last_day is not None and day > self.last_day:
            return None
        reached = [tier for tier in self.tiers if tier.from_minor <= amount_minor]
        return reached[-1] if reached else None


def _money(text: str) -> str:
    if not _MONEY.fullmatch(text):
        raise ValueError(f'{text!r}; expected an amount as text that is not negative, such as "100.00"')
    return text


Money = Annotated[str, AfterValidator(_money)]


class _Rule(ConfigTable):
    name: Name = ""
    currency: str = "CNY"
    applies_from: date = date.min
    last_day: date | None = None
    channels: Annotated[tuple[str, ...], Field(strict=False)] = CHANNELS


class _Tier(ConfigTable):
    from_: Annotated[Money, Field(alias="from")]
    points: Annotated[int, Field(ge=0, le=10**9)] = 0
    bonus: Money = "0"


def load_points_rule(path: Path) -> PointsRule:
    """Raises ConfigError with every problem of the file."""
    rule, problems = check_points_rule(path)
    if rule is None:
        raise ConfigError("\n".join(str(problem) for problem in problems))
    return rule


def check_points_rule(path: Path) -> tuple[PointsRule | None, list[Problem]]:
    """The rule of a file, and every problem; None with any."""
    text, document, problems = read_toml(path)
    if problems:
        return None, problems
    reader = Reader(path, text)
    for key in document:
        if key not in ("rule", "tiers"):
            reader.problem((key,), "unknown key; expected one of rule, tiers")
    head = reader.table(document, "rule", _Rule)
    for name in ("name", "applies_from"):
        if name not in document.get("rule", {}):
            reader.problem(("rule", name), "missing")
    if head.currency not in MINOR_DIGITS:
        reader.problem(("rule", "currency"), f"{head.currency!r}; expected one of {', '.join(MINOR_DIGITS)}")
    for channel in head.channels:
        if channel not in CHANNELS:
            reader.problem(("rule", "channels"), f"{channel!r}; expected of {', '.join(CHANNELS)}")
    if head.last_day is not None and head.last_day < head.applies_from:
        reader.problem(("rule", "last_day"), f"{head.last_day} is before applies_from, {head.applies_from}")
    tiers = _tiers(reader, [entry.good for entry in reader.entries(document, "tiers", _Tier)], head.currency)
    if reader.fatal or reader.problems:
        return None, [*reader.fatal, *reader.problems]
    return PointsRule(
        name=head.name,
        currency=head.currency,
        applies_from=head.applies_from,
        last_day=head.last_day,
        channels=tuple(head.channels),
        tiers=tiers,
    ), []


def _tiers(reader: Reader, found: list[_Tier | None], currency: str) -> tuple[Tier, ...]:
    if not found:
        reader.problem(("tiers",), "no tier; expected at least one [[tiers]]")
    tiers: list[Tier] = []
    for place, tier in enumerate(found):
        if tier is None or currency not in MINOR_DIGITS:
            continue
        amounts = [exact_minor(Decimal(text), currency) for text in (tier.from_, tier.bonus)]
        for key, amount in zip(("from", "bonus"), amounts, strict=True):
            if amount != int(amount):
                reader.problem(("tiers", place, key), f"expected whole minor units of {currency}")
        new = Tier(from_minor=int(amounts[0]), points=tier.points, bonus_minor=int(amounts[1]))
        if new.from_minor <= 0 or (tiers and new.from_minor <= tiers[-1].from_minor):
            reader.problem(("tiers", place, "from"), f"{tier.from_} is not above the tier before; expected more")
        if new.bonus_minor > new.from_minor:
            reader.problem(("tiers", place, "bonus"), f"{tier.bonus} is more than the top-up that earns it")
        tiers.append(new)
    return tuple(tiers)
