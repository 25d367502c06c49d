"""Load curves: energy adds up over any split, the seed decides everything, and the amounts look like customers."""

import time
from datetime import UTC, datetime, timedelta
from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.load_curve import SLOTS, TARIFFS, Kind, LoadCurve, Quantity, total

NOON = datetime(2025, 6, 1, 4, tzinfo=UTC)  # 12:00 in Shanghai
CURVES = [LoadCurve(kind, seed) for kind in Kind for seed in (1, 2)] + [LoadCurve(Kind.HOUSEHOLD, 3, solar=True)]
KWH = 3_600_000

instants = st.datetimes(datetime(2023, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CURVES), st.lists(instants, min_size=3, max_size=3))
def test_energy_is_the_sum_over_any_split(curve: LoadCurve, cuts: list[datetime]) -> None:
    start, middle, end = sorted(cuts)
    whole = curve.energy(start, end)
    assert whole == tuple(map(add, curve.energy(start, middle), curve.energy(middle, end)))
    assert all(part >= 0 for part in whole)


@pytest.mark.parametrize("curve", CURVES)
def test_energy_is_the_integral_of_the_power(curve: LoadCurve) -> None:
    start = NOON + timedelta(minutes=7)
    forward = reverse = inductive = 0
    for second in range(0, 5400, 1):
        power = curve.power(start + timedelta(seconds=second))
        watts = sum(power.watts)
        forward += max(0, watts)
        reverse += max(0, -watts)
        inductive += sum(power.vars) if watts >= 0 and sum(power.vars) >= 0 else 0
    energies = curve.energy(start, start + timedelta(seconds=5400))
    assert total(energies, Quantity.FORWARD) == forward
    assert total(energies, Quantity.REVERSE) == reverse
    assert total(energies, Quantity.Q1) == inductive


def test_a_tariff_counts_only_in_its_slots() -> None:
    curve = LoadCurve(Kind.SHOP, 5)
    midnight = curve.midnight(curve.day_of(NOON))
    for (start, tariff), end in zip(SLOTS, [*[start for start, _ in SLOTS[1:]], 86_400], strict=True):
        energies = curve.energy(midnight + timedelta(seconds=start), midnight + timedelta(seconds=end))
        forward = energies[:TARIFFS]
        assert forward[tariff - 1] == sum(forward) > 0
        assert curve.tariff_at(start) == curve.tariff_at(end - 1) == tariff


def test_blocks_are_the_quarter_hours_of_the_day() -> None:
    curve = LoadCurve(Kind.FACTORY, 4)
    day = curve.day_of(NOON)
    start = curve.midnight(day)
    assert curve.blocks(day, Quantity.FORWARD)[41] == total(
        curve.energy(start + timedelta(minutes=15 * 41), start + timedelta(minutes=15 * 42)), Quantity.FORWARD
    )


def test_the_seed_decides_and_the_order_of_questions_does_not() -> None:
    times = [NOON + timedelta(hours=37 * step) for step in range(20)]
    for kind in Kind:
        first, again, other = LoadCurve(kind, 1), LoadCurve(kind, 1), LoadCurve(kind, 2)
        forwards = [first.count(at) for at in times]
        assert [again.count(at) for at in reversed(times)] == forwards[::-1]
        assert [other.count(at) for at in times] != forwards


@pytest.mark.parametrize(
    ("kind", "low", "high"), [(Kind.HOUSEHOLD, 1000, 8000), (Kind.SHOP, 4000, 40_000), (Kind.FACTORY, 20_000, 300_000)]
)
def test_a_year_is_what_such_a_customer_uses(kind: Kind, low: int, high: int) -> None:
    for seed in range(5):
        curve = LoadCurve(kind, seed, solar=False)
        year = curve.energy(NOON, NOON + timedelta(days=365))
        assert low < total(year, Quantity.FORWARD) // KWH < high
        assert total(year, Quantity.REVERSE) == 0
        assert 0 < total(year, Quantity.Q1) < total(year, Quantity.FORWARD)


def test_phases_and_export() -> None:
    assert [LoadCurve(kind, 1).phases for kind in Kind] == [1, 1, 3]
    factory = LoadCurve(Kind.FACTORY, 1).power(datetime(2025, 6, 3, 2, tzinfo=UTC))
    assert len(factory.watts) == 3
    assert min(factory.watts) > 0
    assert min(LoadCurve(Kind.HOUSEHOLD, 3, solar=True).power(NOON).watts) < 0
    assert any(LoadCurve(Kind.HOUSEHOLD, seed).solar for seed in range(40))


def test_two_hundred_meters_and_a_day_of_quarter_hours_take_seconds() -> None:
    began = time.process_time()
    for seed in range(200):
        curve = LoadCurve(Kind.HOUSEHOLD, seed)
        for slot in range(96):
            curve.count(NOON + timedelta(minutes=15 * slot))
    assert time.process_time() - began < 5.0


def test_slots_must_begin_at_midnight() -> None:
    with pytest.raises(ValueError, match="second 0"):
        LoadCurve(Kind.SHOP, 1, slots=[(3600, 1)])
