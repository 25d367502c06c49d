"""Tariffs of all kinds for tests, and an oracle that shares no code with the engine: fractions, and one formula per period."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction

from headend.prepayment.tariffs.tariff import Band, Step, Steps, Surcharge, Tariff, Tax

__all__ = ["FLAT", "KINDS", "STEPPED_MONTH", "STEPPED_TOU", "STEPPED_YEAR", "TOU", "period_price"]

D = Decimal
FROM = date(2020, 1, 1)
FLAT = Tariff(name="flat", version="1", currency="CNY", applies_from=FROM, prices={Band.ALL: D("0.5283")})
STEPPED_YEAR = Tariff(
    name="year", version="1", currency="CNY", applies_from=FROM, prices={Band.ALL: D("0.56")},
    steps=Steps(steps=(Step(D(0), D(0)), Step(D(2160), D("0.05")), Step(D(3120), D("0.30"))), by_year=True, extra_kwh=D(100)),
)  # fmt: skip
STEPPED_MONTH = Tariff(
    name="month", version="1", currency="CNY", applies_from=FROM, prices={Band.ALL: D("0.4983")},
    steps=Steps(steps=(Step(D(0), D("0.01")), Step(D(180), D("0.06")), Step(D(350), D("0.31"))), by_year=False),
    surcharges=(Surcharge("fund", D("0.0191")),), taxes=(Tax("VAT", D("0.13")),),
)  # fmt: skip
TOU = Tariff(
    name="tou", version="1", currency="CNY", applies_from=FROM,
    prices={Band.SHARP: D("1.182"), Band.PEAK: D("0.985"), Band.FLAT: D("0.612"), Band.VALLEY: D("0.298")},
    surcharges=(Surcharge("fund", D("0.019")),), minimum_minor=2000,
)  # fmt: skip
STEPPED_TOU = Tariff(
    name="both", version="1", currency="CNY", applies_from=FROM,
    prices={Band.SHARP: D("0.99"), Band.PEAK: D("0.59"), Band.FLAT: D("0.56"), Band.VALLEY: D("0.44")},
    steps=Steps(steps=(Step(D(0), D(0)), Step(D(2160), D("0.05")), Step(D(3120), D("0.30"))), by_year=True),
)  # fmt: skip
KINDS = (FLAT, STEPPED_YEAR, STEPPED_MONTH, TOU, STEPPED_TOU)


def period_price(tariff: Tariff, used: Sequence[Mapping[Band, Decimal]]) -> Fraction:
    """Of one whole step period, in minor units, not rounded, without a minimum; limits as written."""
    total = sum((Fraction(kwh) for day in used for kwh in day.values()), Fraction(0))
    money = sum(
        (Fraction(kwh) * Fraction(tariff.prices[band]) for day in used for band, kwh in day.items()), Fraction(0)
    )
    steps = () if tariff.steps is None else tariff.steps.steps
    # Each step adds what it costs more than the one before it, to everything beyond its limit.
    before = Fraction(0)
    for step in steps:
        money += max(total - Fraction(step.above_kwh), Fraction(0)) * (Fraction(step.addition) - before)
        before = Fraction(step.addition)
    money += sum((Fraction(levy.per_kwh) * total for levy in tariff.surcharges), Fraction(0))
    money += sum((money * Fraction(tax.rate) for tax in tariff.taxes), Fraction(0))
    return money * 100
