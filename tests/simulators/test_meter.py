"""The meter model: registers that only grow, a relay that stops them, a clock that drifts, and what is kept."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.values import MeterAddress
from simulators.load_curve import Kind, Quantity, total
from simulators.meter import MeterModel
from simulators.relay import RelayRefused

NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)  # 11:30 on a Tuesday in Shanghai
HOUR = timedelta(hours=1)
CENT = Decimal("0.01")


def meter(kind: Kind = Kind.HOUSEHOLD, seed: int = 1, **options: object) -> MeterModel:
    exact: dict[str, object] = {"drift_ppm": 0, "clock_offset_s": 0}
    return MeterModel(MeterAddress("000000000001"), seed=seed, kind=kind, clock_set_at=NOW, **(exact | options))  # type: ignore[arg-type]


def forward(model: MeterModel, at: datetime) -> Decimal:
    return model.energy(Quantity.FORWARD, 0, at)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([*Kind]), st.integers(0, 10**7), st.integers(0, 10**6))
def test_registers_never_run_backwards(kind: Kind, seconds: int, more: int) -> None:
    model = meter(kind)
    at = NOW + timedelta(seconds=seconds)
    earlier, later = model.energies(at), model.energies(at + timedelta(seconds=more))
    assert all(before <= after for before, after in zip(earlier, later, strict=True))


@pytest.mark.parametrize("kind", Kind)
def test_truncated_tariffs_stay_at_most_three_cents_below_the_total(kind: Kind) -> None:
    model = meter(kind)
    for hours in range(0, 500, 7):
        at = NOW + hours * HOUR
        tariffs = sum(model.energy(Quantity.FORWARD, tariff, at) for tariff in range(1, 5))
        assert 0 <= forward(model, at) - tariffs <= 3 * CENT


def test_the_same_seed_is_the_same_meter() -> None:
    assert forward(meter(seed=9), NOW) == forward(meter(seed=9), NOW) != forward(meter(seed=8), NOW)


def test_energy_and_current_stop_while_the_relay_is_open() -> None:
    model, twin = meter(Kind.SHOP), meter(Kind.SHOP)
    model.open_relay(NOW, b"\1\2\3\4")
    before = forward(model, NOW)
    assert forward(model, NOW + 10 * HOUR) == before
    instant = model.instant(NOW + HOUR)
    assert instant.current_a == (Decimal("0.000"), None, None)
    assert instant.active_kw[0] == 0
    assert (instant.voltage_v[0] or 0) > 200
    model.close_relay(NOW + 10 * HOUR)
    later = NOW + 20 * HOUR
    lost = total(model.curve.energy(NOW, NOW + 10 * HOUR), Quantity.FORWARD)
    assert total(twin.energies(later), Quantity.FORWARD) - total(model.energies(later), Quantity.FORWARD) == lost > 0
    # What is past stays as it was, also when asked for later.
    assert model.energies(NOW - HOUR) == twin.energies(NOW - HOUR)
    assert forward(model, NOW + 5 * HOUR) == before
    assert [record.operator for record in model.trips] == [b"\1\2\3\4"]
    assert (model.trip_count, model.close_count) == (1, 1)
    assert model.trips[0].at == datetime(2025, 6, 17, 11, 30)


def test_status_word_three_shows_relay_command_and_protection() -> None:
    model = meter()
    assert model.status_words(NOW)[2] == 0
    model.open_relay(NOW)
    assert model.status_words(NOW)[2] == 0x0050  # as a real meter showed it: relay open, command open
    model.permit_close(NOW)
    assert model.status_words(NOW)[2] == 0x0010
    assert model.press_key(NOW)
    assert model.status_words(NOW)[2] == 0
    model.protect(NOW)
    assert model.status_words(NOW)[2] == 0x1000


def test_the_key_closes_nothing_without_permission() -> None:
    model = meter()
    model.open_relay(NOW)
    assert not model.press_key(NOW)
    assert model.relay_open(NOW)


def test_a_customer_presses_the_key_some_time_after_the_permission() -> None:
    model = meter(press_after_s=90)
    model.open_relay(NOW)
    model.permit_close(NOW + HOUR)
    assert model.relay_open(NOW + HOUR + timedelta(seconds=89))
    assert not model.relay_open(NOW + 3 * HOUR)
    assert model.closes[0].at == datetime(2025, 6, 17, 12, 31, 30)


def test_a_timed_trip_restores_by_itself() -> None:
    model = meter()
    model.open_relay(NOW, restore_after=timedelta(minutes=30))
    assert model.relay_open(NOW + timedelta(minutes=29))
    assert not model.relay_open(NOW + timedelta(minutes=30))
    model.open_relay(NOW + HOUR, restore_after=timedelta(minutes=30), restore_permits=True)
    assert model.relay_open(NOW + 2 * HOUR)
    assert model.relay.close_permitted


def test_a_protected_supply_refuses_to_open_and_protecting_closes() -> None:
    model = meter()
    model.open_relay(NOW)
    model.protect(NOW)
    assert not model.relay_open(NOW)
    with pytest.raises(RelayRefused):
        model.open_relay(NOW)
    model.unprotect(NOW)
    model.open_relay(NOW)
    assert model.relay_open(NOW)


def test_the_clock_drifts_and_can_be_set() -> None:
    model = meter(drift_ppm=100, clock_offset_s=5)
    start = datetime(2025, 6, 17, 11, 30, 5)
    assert model.clock(NOW) == start
    assert model.clock(NOW + 10_000 * timedelta(seconds=1)) == start + timedelta(seconds=10_001)
    model.set_clock(start, NOW + HOUR)
    assert model.clock(NOW + HOUR) == start
    for days in (-40, 0, 3):
        local = start + timedelta(days=days)
        assert abs(model.clock(model.true_time(local)) - local) < timedelta(milliseconds=1)


def test_settlements_are_the_registers_at_the_first_of_the_month() -> None:
    model = meter()
    first = datetime(2025, 5, 31, 16, tzinfo=UTC)
    assert model.settlement_at(1, NOW) == first
    assert model.settlement_at(12, NOW) == datetime(2024, 6, 30, 16, tzinfo=UTC)
    assert model.settlement_at(13, NOW) is None
    values = [forward(model, model.settlement_at(back, NOW) or NOW) for back in range(1, 13)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0


def test_a_settlement_waits_for_the_meters_own_midnight() -> None:
    slow = meter(clock_offset_s=-120)
    midnight = datetime(2025, 6, 30, 16, tzinfo=UTC)
    assert slow.settlement_at(1, midnight) == datetime(2025, 5, 31, 16, 2, tzinfo=UTC)
    assert slow.settlement_at(1, midnight + timedelta(seconds=120)) == midnight + timedelta(seconds=120)


@pytest.mark.parametrize("kind", Kind)
def test_maximum_demand_is_the_largest_quarter_hour_of_the_month(kind: Kind) -> None:
    model = meter(kind)
    demand = model.max_demand(Quantity.FORWARD, 0, 0, NOW)
    assert demand is not None
    assert demand.at is not None
    start = model.settlement_at(1, NOW)
    assert start is not None
    quarter = timedelta(minutes=15)
    blocks = {
        start + quarter * step: total(
            model.curve.energy(start + quarter * (step - 1), start + quarter * step), Quantity.FORWARD
        )
        for step in range(1, int((NOW - start) / quarter) + 1)
    }
    assert demand.kilo == Decimal(max(blocks.values()) * 10 // 900).scaleb(-4)
    assert demand.at == model.clock(max(blocks, key=lambda end: (blocks[end], -end.timestamp())))
    by_tariff = [model.max_demand(Quantity.FORWARD, tariff, 0, NOW) for tariff in range(1, 5)]
    assert max(part.kilo for part in by_tariff if part) == demand.kilo


def test_an_open_relay_makes_no_demand() -> None:
    model = meter(Kind.SHOP)
    model.clear_demand(NOW)
    model.open_relay(NOW)
    later = NOW + 5 * HOUR
    demand = model.max_demand(Quantity.FORWARD, 0, 0, later)
    assert demand is not None
    assert demand.kilo == 0
    assert demand.at is None
    assert model.present_demand(Quantity.FORWARD, later) == 0
    assert model.present_demand(Quantity.FORWARD, NOW) > 0


def test_freezes_are_kept_as_far_back_as_the_meter_can() -> None:
    model = meter()
    assert model.daily_freeze(1, NOW) == datetime(2025, 6, 16, 16, tzinfo=UTC)
    assert model.daily_freeze(62, NOW) == datetime(2025, 4, 16, 16, tzinfo=UTC)
    assert model.daily_freeze(63, NOW) is None
    assert model.hourly_freeze(1, NOW) == datetime(2025, 6, 17, 3, tzinfo=UTC)
    assert model.instant_freeze(1, NOW) is None
    for hour in range(4):
        model.freeze_now(NOW + hour * HOUR)
    assert [model.instant_freeze(back, NOW + 9 * HOUR) for back in (1, 3, 4)] == [NOW + 3 * HOUR, NOW + HOUR, None]


@pytest.mark.parametrize(
    ("pattern", "last"),
    [
        ("99999920", datetime(2025, 6, 19, 3, 20, tzinfo=UTC)),
        ("99990030", datetime(2025, 6, 18, 16, 30, tzinfo=UTC)),
        ("99181200", datetime(2025, 6, 18, 4, 0, tzinfo=UTC)),
        ("06181200", datetime(2025, 6, 18, 4, 0, tzinfo=UTC)),
    ],
)
def test_a_timed_freeze_follows_its_pattern_from_when_it_was_set(pattern: str, last: datetime) -> None:
    model = meter()
    model.set_freeze_pattern(pattern, NOW)
    later = NOW + timedelta(days=2)
    assert model.timed_freeze(1, later) == last
    assert model.timed_freeze(1, NOW) is None
    if pattern.startswith("9999") and pattern != "99999920":
        assert model.timed_freeze(2, later) == last - timedelta(days=1)
        assert model.timed_freeze(3, later) is None


def test_clearing_forgets_registers_and_history() -> None:
    model = meter()
    model.clear_energies(NOW)
    assert set(model.energies(NOW)) == {0}
    assert model.settlement_at(1, NOW + HOUR) is None
    assert model.daily_freeze(1, NOW + HOUR) is None
    assert forward(model, NOW + 24 * HOUR) > 0


def test_a_three_phase_meter_has_three_of_everything_that_add_up() -> None:
    instant = meter(Kind.FACTORY).instant(NOW)
    assert None not in instant.voltage_v + instant.current_a + instant.active_kw + instant.angle_deg
    total_kw, *phases = instant.active_kw
    assert total_kw == sum(phase for phase in phases if phase is not None)
    assert all(factor is not None and 0 < factor <= 1 for factor in instant.power_factor)


def test_export_is_negative_power_and_a_reversed_direction() -> None:
    noon = datetime(2025, 6, 18, 4, tzinfo=UTC)
    model = meter(solar=True, seed=3)
    instant = model.instant(noon)
    assert (instant.active_kw[0] or 0) < 0
    assert (instant.current_a[0] or 0) < 0
    assert model.status_words(noon)[0] & 1 << 4
    assert model.status_words(noon)[1] & 1
