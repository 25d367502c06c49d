"""Customers who draw more than their seed says, and registers that run ahead of what flows: for demonstrations."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from protocols.values import MeterAddress
from simulators.cli import app
from simulators.load_curve import Energies, Kind, LoadCurve, Quantity, total
from simulators.meter import MeterModel

NOON = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def a_meter(**more: Any) -> MeterModel:
    given: dict[str, Any] = {"seed": 11, "kind": Kind.HOUSEHOLD, "clock_set_at": NOON, "solar": False} | more
    return MeterModel(MeterAddress("000000000001"), **given)


def counted(model: MeterModel, since: datetime, until: datetime) -> int:
    return total(model.energies(until), Quantity.FORWARD) - total(model.energies(since), Quantity.FORWARD)


def test_a_constant_load_is_drawn_day_and_night_and_counted_exactly() -> None:
    plain, heated = (LoadCurve(Kind.HOUSEHOLD, 11, solar=False, constant_w=watts) for watts in (0, 3500))
    for hour in range(48):
        at = NOON + hour * HOUR
        assert sum(heated.power(at).watts) - sum(plain.power(at).watts) == 3500

    def forward(energies: Energies) -> int:
        return total(energies, Quantity.FORWARD)

    more = forward(heated.energy(NOON, NOON + 24 * HOUR)) - forward(plain.energy(NOON, NOON + 24 * HOUR))
    assert more == 3500 * 86_400


def test_hurried_registers_count_so_many_times_what_flows_and_the_history_before_is_as_it_was() -> None:
    plain, hurried = a_meter(), a_meter(haste=300)
    assert hurried.energies(NOON) == plain.energies(NOON)
    assert hurried.energies(NOON - 30 * HOUR) == plain.energies(NOON - 30 * HOUR)
    assert counted(hurried, NOON, NOON + HOUR) == 300 * counted(plain, NOON, NOON + HOUR)
    # Any split adds up, and the shown power is what flows.
    middle = NOON + timedelta(minutes=17)
    both = counted(hurried, NOON, middle) + counted(hurried, middle, NOON + HOUR)
    assert both == counted(hurried, NOON, NOON + HOUR)
    assert hurried.power(middle) == plain.power(middle)


def test_an_open_relay_stops_hurried_registers_too_and_they_go_on_where_they_stood() -> None:
    meter = a_meter(haste=300, constant_w=3500)
    meter.open_relay(NOON + HOUR)
    stood = meter.energies(NOON + HOUR)
    assert meter.energies(NOON + 2 * HOUR) == stood
    assert sum(meter.power(NOON + 2 * HOUR).watts) == 0
    meter.close_relay(NOON + 3 * HOUR)
    assert meter.energies(NOON + 3 * HOUR) == stood
    assert counted(meter, NOON + 3 * HOUR, NOON + 4 * HOUR) == 300 * total(
        meter.curve.energy(NOON + 3 * HOUR, NOON + 4 * HOUR), Quantity.FORWARD
    )


@pytest.mark.parametrize(("option", "given"), [("--haste", "0"), ("--haste", "3601"), ("--constant-w", "20001")])
def test_more_than_a_meter_takes_is_refused(option: str, given: str) -> None:
    done = CliRunner().invoke(app, ["dlt645", "--listen", "tcp://127.0.0.1:0", option, given])
    assert done.exit_code == 2
    assert f"{given}, expected " in done.stderr
