"""An account as its own town knows it: what it pays and when, what its meters count, and what it must have to its credit."""

import random
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction

from msgspec import Struct

from tests.scenarios.prepaid_year.known import Measure
from tests.scenarios.prepaid_year.oracle import Reckoning

__all__ = ["HABITS", "Household", "use_of"]

# When they pay, and how many of a hundred do so.
HABITS = {"on-reminder": 33, "on-second": 14, "on-last": 12, "when-dark": 16, "by-debit": 15, "whenever": 10}
CENT = Decimal("0.01")


class Household(Struct, kw_only=True, eq=False):
    """credit: acknowledged money, minor units; not the charges. pending: tried and not taken yet, by receipt. charged: as of the last
    settlement, and charged_to the last day that ever was. not_owing_at: when it last owed nothing in a turn of the
    program. enough_at: when a payment was made,
    and when it was known, that sufficed to have the supply again.
    """

    account: str
    habit: str
    tariff: str
    opened: date
    daily_kwh: float
    phone: str
    agreement: str
    measures: list[Measure]
    reckoning: Reckoning
    told: dict[tuple[str, date], dict[int, Decimal]] = {}
    credit: int = 0
    pending: dict[str, int] = {}
    charged: Fraction = Fraction(0)
    charged_to: date | None = None
    dirty: date | None = None
    not_owing_at: datetime | None = None
    dark_since: datetime | None = None
    back_at: datetime | None = None
    enough_at: tuple[datetime, datetime] | None = None
    held_since: datetime | None = None
    leaves: date | None = None
    is_closed: bool = False
    bonus_months: set[str] = set()
    bonus_of: dict[str, int] = {}
    is_planning: bool = False
    given: dict[str, int] = {}

    def truth(self) -> Fraction:
        """What it has, whoever has booked it or not."""
        return self.credit + sum(self.pending.values()) - self.charged

    def touch(self, day: date) -> None:
        self.dirty = day if self.dirty is None else min(self.dirty, day)

    @property
    def meter(self) -> Measure:
        """That counts now, as far as the office knows."""
        return self.measures[-1]


def use_of(chance: random.Random, kwh: float, registers: tuple[int, ...], on: float) -> dict[int, Decimal]:
    """What the registers counted, on: part of the time with supply."""
    whole = Decimal(str(kwh * chance.uniform(0.5, 1.6) * on)).quantize(CENT)
    if chance.random() < 0.02:
        whole = Decimal("0.00")
    if len(registers) == 1:
        return {registers[0]: whole}
    left, found = whole, {}
    for register in registers[:-1]:
        found[register] = (left * Decimal(chance.randrange(10, 60)) / 100).quantize(CENT)
        left -= found[register]
    found[registers[-1]] = left
    return found
