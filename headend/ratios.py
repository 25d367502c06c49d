"""Transformer ratios (倍率): what a meter behind current or voltage transformers shows, and what flows in the customer's line.

A ratio is a fact with a date: transformers are exchanged, and a read keeps the ratio that held when its interval ended, whatever
becomes known later. Amounts are exact decimals both ways; a quotient that never ends is cut at twelve decimals.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from msgspec import Struct
from msgspec.structs import replace

from headend.model import Item, JudgedRead, PushedRead, Read
from protocols.values import Unit

__all__ = ["BadRatio", "RatioFact", "Ratios", "other_side", "parse_ratio"]

DECIMALS_MAX = 12
_WIDE = Context(prec=80, rounding=ROUND_HALF_EVEN)
RATIO_MAX = Decimal(1_000_000)  # 4000/1 A times 1000 kV/100 V is 40,000,000 and metered nowhere at one point
_NUMBER = re.compile(
    r"[0-9]{1,12}(?:\.[0-9]{1,6})?"
)  # no exponents: 1e999999999 is a number, too, and no computer divides it
_BOTH = frozenset((Unit.KWH, Unit.KVARH, Unit.KVAH, Unit.KW, Unit.KVAR, Unit.KVA, Unit.W, Unit.VAR, Unit.VA))


class BadRatio(ValueError):
    """Text that is no ratio; the message says what was expected."""


class RatioFact(Struct, frozen=True, kw_only=True):
    """What holds for one meter from `start` on, UTC. ct, pt: primary over secondary; 1 where there is no such transformer."""

    meter: str
    start: datetime
    ct: Decimal
    pt: Decimal


def parse_ratio(text: str) -> Decimal:
    """ "80" or "400/5". Raises BadRatio."""
    expected = "expected a ratio such as 80 or 400/5, above 0 and at most 1000000"
    primary, slash, secondary = (part.strip() for part in text.partition("/"))
    if not _NUMBER.fullmatch(primary) or not _NUMBER.fullmatch(secondary if slash else "1"):
        raise BadRatio(f"{text[:40]!r}: {expected}")
    over, under = Decimal(primary), Decimal(secondary) if slash else Decimal(1)
    if not over or not under:
        raise BadRatio(f"{text!r}: {expected}")
    ratio = over / under
    if ratio * under != over:
        raise BadRatio(f"{text!r}: as a decimal it never ends; give the ratio that stands on the transformer")
    if ratio > RATIO_MAX:
        raise BadRatio(f"{text!r}: {expected}")
    return ratio.normalize() if ratio != ratio.to_integral_value() else ratio.quantize(Decimal(1))


def other_side(amount: Decimal, ratio: Decimal, *, is_primary: bool) -> Decimal:
    """The secondary amount of a primary one, or the other way round."""
    with localcontext(_WIDE):
        if not is_primary:
            return amount * ratio
        quotient = amount / ratio
        if quotient * ratio != amount:
            quotient = quotient.quantize(Decimal(1).scaleb(-DECIMALS_MAX))
        return quotient


class Ratios:
    """The facts of a fleet. Meters without one cost nothing."""

    def __init__(self, facts: Iterable[RatioFact]) -> None:
        self._facts: dict[str, list[RatioFact]] = {}
        for fact in sorted(facts, key=lambda fact: fact.start):
            self._facts.setdefault(fact.meter, []).append(fact)

    def __bool__(self) -> bool:
        return bool(self._facts)

    def fact(self, meter: str, at: datetime) -> RatioFact | None:
        """What held up to a moment: a fact that begins at an interval's end is the next interval's.

        None up to the first fact, and for meters without any.
        """
        facts = self._facts.get(meter)
        if facts is None:
            return None
        place = bisect_left(facts, at, key=lambda fact: fact.start)
        return facts[place - 1] if place else None

    def factor(self, meter: str, unit: Unit, at: datetime) -> Decimal | None:
        """What a secondary amount of this unit is multiplied by; None where no ratio is known or none applies."""
        fact = self.fact(meter, at)
        if fact is None:
            return None
        if unit in _BOTH:
            return fact.ct * fact.pt
        if unit in (Unit.A, Unit.AH):
            return fact.ct
        return fact.pt if unit is Unit.V else None

    def applied(self, item: Item) -> Item:
        """The read with the ratio that held for it; everything else as it is."""
        if isinstance(item, JudgedRead):
            judged = self.applied(item.read)
            if judged is item.read or not isinstance(judged, Read | PushedRead):
                return item
            return JudgedRead(judged, item.history, item.generation)
        if isinstance(item, PushedRead):
            read = self.applied(item.read)
            return item if read is item.read or not isinstance(read, Read) else PushedRead(read)
        if not isinstance(item, Read) or item.amount is None or item.meter not in self._facts:
            return item
        ratio = self.factor(item.meter, item.unit, item.interval_end)
        return item if ratio is None else replace(item, ratio=ratio)
