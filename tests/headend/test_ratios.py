"""Transformer ratios: what is written, since when it holds, and both sides of an amount."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.model import Quality, Read
from headend.ratios import BadRatio, RatioFact, Ratios, other_side, parse_ratio
from protocols.values import Unit

START = datetime(2026, 3, 1, tzinfo=UTC)
FACTS = Ratios(
    [
        RatioFact(meter="M1", start=START + timedelta(days=30), ct=Decimal(120), pt=Decimal(100)),
        RatioFact(meter="M1", start=START, ct=Decimal(80), pt=Decimal(100)),
    ]
)


@pytest.mark.parametrize(
    ("text", "ratio"), [("80", "80"), ("400/5", "80"), (" 10000 / 100 ", "100"), ("1.25", "1.25"), ("5/4", "1.25")]
)
def test_a_ratio_is_a_number_or_primary_over_secondary(text: str, ratio: str) -> None:
    assert parse_ratio(text) == Decimal(ratio)
    assert str(parse_ratio(text)) == ratio


@pytest.mark.parametrize("text", ["", "0", "-5", "400/0", "5/3", "NaN", "1e9", "400/5/1", "four"])
def test_what_is_no_ratio_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(BadRatio, match=r"expected a ratio|never ends"):
        parse_ratio(text)


def test_a_fact_holds_from_its_moment_on_and_not_for_the_interval_that_ends_there() -> None:
    assert FACTS.fact("M1", START) is None
    for at, ct in (
        (START + timedelta(seconds=1), 80),
        (START + timedelta(days=30), 80),
        (START + timedelta(days=31), 120),
    ):
        fact = FACTS.fact("M1", at)
        assert fact is not None
        assert fact.ct == ct
    assert FACTS.fact("M2", START + timedelta(days=1)) is None


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        (Unit.KWH, 8000),
        (Unit.KVARH, 8000),
        (Unit.KW, 8000),
        (Unit.A, 80),
        (Unit.V, 100),
        (Unit.HZ, None),
        (Unit.NONE, None),
    ],
)
def test_energy_and_power_take_both_ratios_current_and_voltage_their_own(unit: Unit, factor: int | None) -> None:
    assert FACTS.factor("M1", unit, START + timedelta(days=1)) == factor


@given(
    st.decimals(min_value=0, max_value=10**8, places=4), st.sampled_from([Decimal(80), Decimal("1.25"), Decimal(300)])
)
def test_from_secondary_to_primary_is_exact_and_back_within_twelve_decimals(amount: Decimal, ratio: Decimal) -> None:
    primary = other_side(amount, ratio, is_primary=False)
    assert Fraction(primary) == Fraction(amount) * Fraction(ratio)
    back = other_side(amount, ratio, is_primary=True)
    assert abs(Fraction(back) - Fraction(amount) / Fraction(ratio)) <= Fraction(1, 2 * 10**12)


def test_a_read_keeps_the_ratio_of_its_interval_end_and_a_missing_one_has_none() -> None:
    def read(amount: Decimal | None, **fields: object) -> Read:
        quality, reason = ((Quality.MEASURED,), "") if amount is not None else ((Quality.MISSING,), "silent")
        return Read(
            **{
                "meter": "M1",
                "obis": "1-0:1.8.0",
                "amount": amount,
                "unit": Unit.KWH,
                "interval_end": START + timedelta(days=1),
                "read_at": None,
                "received_at": START + timedelta(days=1),
                "quality": quality,
                "source": "test",
                "reason": reason,
            }  # type: ignore[arg-type]
            | fields,
        )

    applied = FACTS.applied(read(Decimal("12.5")))
    assert isinstance(applied, Read)
    assert applied.ratio == 8000
    for untouched in (read(None), read(Decimal(1), meter="M2"), read(Decimal(50), unit=Unit.HZ)):
        assert FACTS.applied(untouched) is untouched
