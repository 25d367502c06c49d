"""What a day costs: exact, whatever the order and the portions in which its energy came, and rounded in one place."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.prepayment.money import Rounding, rounded
from headend.prepayment.tariffs.tariff import (
    Band,
    Charge,
    Household,
    Position,
    Tariff,
    charge_day,
    closing_charge,
    tariff_on,
)
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariff
from headend.prepayment.usage.usage import IntervalUse, UsageUnclear, usage_of_intervals, usage_of_registers
from tests.headend.prepayment.example_tariffs import (
    FLAT,
    KINDS,
    STEPPED_MONTH,
    STEPPED_TOU,
    STEPPED_YEAR,
    TOU,
    period_price,
)

D = Decimal
SHANGHAI = ZoneInfo("Asia/Shanghai")
SETTLED = Household(began_on=date(2015, 5, 1))
KWH = st.decimals(min_value=0, max_value=60, places=2)


def charged(
    tariff: Tariff, days: Sequence[Mapping[Band, Decimal]], *, start: date, home: Household = SETTLED
) -> list[Charge]:
    position, charges = Position(), []
    for number, usage in enumerate(days):
        charge = charge_day(tariff, start + timedelta(days=number), usage, position, home)
        charges.append(charge)
        position = charge.position
    return charges


def total(charges: Sequence[Charge]) -> Fraction:
    return sum((Fraction(charge.exact) for charge in charges), Fraction(0))


def usages(tariff: Tariff) -> st.SearchStrategy[dict[Band, Decimal]]:
    return st.fixed_dictionaries({band: KWH for band in tariff.prices})


@pytest.mark.parametrize("tariff", KINDS, ids=lambda tariff: tariff.name)
@given(data=st.data())
def test_days_of_a_period_cost_what_the_period_costs(tariff: Tariff, data: st.DataObject) -> None:
    """An oracle with fractions and one formula for the whole period; so no step is crossed twice, and none is jumped over."""
    days = data.draw(st.lists(usages(tariff), min_size=1, max_size=31))
    charges = charged(tariff, days, start=date(2026, 1, 1))
    assert total(charges) == period_price(tariff, days)
    assert all(charge.exact == sum(line.exact for line in charge.lines) for charge in charges)


@given(data=st.data())
def test_steps_count_the_year_and_begin_anew(data: st.DataObject) -> None:
    days = data.draw(st.lists(usages(STEPPED_YEAR), min_size=60, max_size=60))
    charges = charged(STEPPED_YEAR, days, start=date(2025, 12, 2))
    assert total(charges[:30]) == period_price(STEPPED_YEAR, days[:30])
    assert total(charges[30:]) == period_price(STEPPED_YEAR, days[30:])


@given(
    parts=st.lists(st.tuples(st.integers(0, 95), KWH), max_size=40),
    seed=st.randoms(use_true_random=False),
)
def test_any_split_of_a_day_into_intervals_costs_the_same(parts: list[tuple[int, Decimal]], seed: object) -> None:
    """Quarter hours, each used in one go or in pieces that come in any order."""
    tariff = load_tariff(TARIFFS / "commercial-tou.toml")
    day, midnight = date(2026, 7, 6), datetime(2026, 7, 5, 16, tzinfo=UTC)
    whole: dict[int, Decimal] = {}
    for place, kwh in parts:
        whole[place] = whole.get(place, D(0)) + kwh

    def interval(place: int, kwh: Decimal) -> IntervalUse:
        start = midnight + place * timedelta(minutes=15)
        return IntervalUse(start=start, end=start + timedelta(minutes=15), kwh=kwh)

    pieces = [interval(place, kwh) for place, kwh in parts]
    seed.shuffle(pieces)  # type: ignore[attr-defined]
    once = usage_of_intervals(tariff, day, SHANGHAI, [interval(place, kwh) for place, kwh in whole.items()])
    assert usage_of_intervals(tariff, day, SHANGHAI, pieces) == once
    assert sum(once.values()) == sum(kwh for _, kwh in parts)
    # 16:00 to 20:00 is peak, 20:00 to 22:00 sharp, in summer.
    assert once[Band.PEAK] == sum(kwh for place, kwh in parts if 64 <= place < 80)
    assert once[Band.SHARP] == sum(kwh for place, kwh in parts if 80 <= place < 88)


@given(
    amounts=st.lists(st.decimals(min_value=0, max_value=500, places=7), max_size=60), rounding=st.sampled_from(Rounding)
)
def test_what_is_booked_is_what_was_charged_rounded_once(amounts: list[Decimal], rounding: Rounding) -> None:
    carried, booked = D(0), 0
    for exact in amounts:
        result = rounded(exact, carried, rounding)
        booked, carried = booked + result.minor, result.carried
        assert abs(carried) < 1
    assert booked == rounded(sum(amounts, D(0)), D(0), rounding).minor or abs(carried) == D("0.5")
    assert booked + carried == sum(amounts, D(0))


def test_the_steps_of_henan() -> None:
    """2160 kWh at 0.56, 960 at 0.61, the rest at 0.86: 4000 kWh are 2552.00 CNY."""
    tariff = load_tariff(TARIFFS / "residential-step.toml")
    charges = charged(tariff, [{Band.ALL: D(100)}] * 40, start=date(2026, 1, 1))
    assert total(charges) == 100 * Fraction("2160") * Fraction("0.56") + 96000 * Fraction("0.61") + 88000 * Fraction(
        "0.86"
    )
    crossing = charges[21]  # 2100 to 2200
    assert [(line.what, line.kwh) for line in crossing.lines] == [("all", D(100)), ("step 2", D(40))]


def test_a_large_household_and_one_that_began_in_july_have_other_limits() -> None:
    large = charged(
        STEPPED_YEAR,
        [{Band.ALL: D(3360)}],
        start=date(2026, 3, 1),
        home=Household(began_on=date(2020, 1, 1), is_large=True),
    )
    assert total(large) == 3360 * 56  # 2160 and twelve times 100
    late = Household(began_on=date(2026, 7, 10))  # six months: 1080 and 1560
    assert total(charged(STEPPED_YEAR, [{Band.ALL: D(1080)}], start=date(2026, 7, 10), home=late)) == 1080 * 56
    assert total(charged(STEPPED_YEAR, [{Band.ALL: D(1082)}], start=date(2026, 7, 10), home=late)) == 1082 * 56 + 10


def test_a_new_version_inside_the_year_goes_on_with_the_steps() -> None:
    dearer = Tariff(
        name="year",
        version="2",
        currency="CNY",
        applies_from=date(2026, 5, 15),
        prices={Band.ALL: D("0.60")},
        steps=STEPPED_YEAR.steps,
    )
    versions = (dearer, STEPPED_YEAR)
    before, after = tariff_on(versions, date(2026, 5, 14)), tariff_on(versions, date(2026, 5, 15))
    assert (before, after) == (STEPPED_YEAR, dearer)
    first = charge_day(STEPPED_YEAR, date(2026, 5, 14), {Band.ALL: D(2150)}, Position(), SETTLED)
    second = charge_day(dearer, date(2026, 5, 15), {Band.ALL: D(20)}, first.position, SETTLED)
    assert second.exact == 20 * 60 + 10 * 5
    assert tariff_on(versions, date(2019, 12, 31)) is None


def test_a_month_below_its_minimum_is_filled_up_on_its_last_day_once() -> None:
    charges = charged(TOU, [{Band.FLAT: D("0.5")}] * 30, start=date(2026, 6, 1))
    filled = closing_charge(TOU, date(2026, 6, 30), charges[-1].position)
    assert filled is not None
    assert total([*charges, filled]) == 2000
    assert closing_charge(TOU, date(2026, 6, 30), filled.position) is None
    unused = closing_charge(TOU, date(2026, 7, 31), filled.position)
    assert unused is not None
    assert unused.exact == 2000


def test_registers_of_the_meter_are_its_bands() -> None:
    used = {"1-0:1.8.0": D(10), "1-0:1.8.1": D(1), "1-0:1.8.2": D(2), "1-0:1.8.3": D(3), "1-0:1.8.4": D(4)}
    assert usage_of_registers(STEPPED_TOU, used) == {
        Band.SHARP: D(1),
        Band.PEAK: D(2),
        Band.FLAT: D(3),
        Band.VALLEY: D(4),
    }
    assert usage_of_registers(FLAT, used) == {Band.ALL: D(10)}
    with pytest.raises(UsageUnclear, match=r"1-0:1\.8\.4 not there"):
        usage_of_registers(STEPPED_TOU, {obis: kwh for obis, kwh in used.items() if obis != "1-0:1.8.4"})
    two = Tariff(
        name="two",
        version="1",
        currency="CNY",
        applies_from=date(2020, 1, 1),
        prices={Band.PEAK: D(1), Band.VALLEY: D(1)},
    )
    with pytest.raises(UsageUnclear, match="no price"):
        usage_of_registers(two, used)
    assert usage_of_registers(two, used | {"1-0:1.8.1": D(0), "1-0:1.8.3": D(0)}) == {
        Band.PEAK: D(2),
        Band.VALLEY: D(4),
    }


def test_an_interval_that_crosses_a_change_of_price_is_no_ground_for_a_charge() -> None:
    tariff = load_tariff(TARIFFS / "commercial-tou.toml")
    start = datetime(2026, 7, 6, 7, 30, tzinfo=SHANGHAI)
    for hours in (1, 16):
        with pytest.raises(UsageUnclear, match=r"crosses a change of price|does not lie in"):
            usage_of_intervals(
                tariff,
                date(2026, 7, 6),
                SHANGHAI,
                [IntervalUse(start=start, end=start + timedelta(hours=hours), kwh=D(1))],
            )
    with pytest.raises(UsageUnclear, match="does not lie in"):
        usage_of_intervals(
            tariff, date(2026, 7, 7), SHANGHAI, [IntervalUse(start=start, end=start + timedelta(hours=1), kwh=D(1))]
        )


def test_bad_energy_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        charge_day(FLAT, date(2026, 1, 1), {Band.ALL: D("-0.01")}, Position(), SETTLED)
    with pytest.raises(ValueError, match="no price for peak; it has all"):
        charge_day(FLAT, date(2026, 1, 1), {Band.PEAK: D(1)}, Position(), SETTLED)


def test_a_tax_is_on_everything_before_it() -> None:
    charge = charge_day(STEPPED_MONTH, date(2026, 1, 1), {Band.ALL: D(100)}, Position(), SETTLED)
    assert charge.exact == (100 * D("0.4983") + 100 * D("0.01") + 100 * D("0.0191")) * 100 * D("1.13")
    assert [line.what for line in charge.lines] == ["all", "step 1", "fund", "VAT"]
