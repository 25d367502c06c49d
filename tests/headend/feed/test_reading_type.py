"""ReadingTypes against what others have published, and against the quantities that our contracts offer."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from firmware_contracts.contract import Contract
from firmware_contracts.library import contract_names, load_any
from firmware_contracts.modbus_contract import ModbusContract
from headend.feed.reading_type import FIELDS, Kind, kind_of, reading_type, register_type
from protocols.values import Unit

WITHOUT = {
    *(
        "1-0:12.31.0",
        "1-0:12.35.0",
        "1-0:16.24.0",
        "1-0:81.7.0",
        "1-0:81.7.15",
        "1-0:81.7.26",
        "1-0:83.8.3",
        "1-0:83.8.6",
        "1-0:99.1.0",
    ),
    *(f"1-0:{c}.7.124" for c in (31, 32, 51, 52, 71, 72)),
}

PUBLISHED: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("reading_types.toml").read_text("utf-8"))[
    "published"
]


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: f"{one['obis']} {one['kind']} {one.get('period_s', '')}")
def test_published_reading_types(one: dict[str, Any]) -> None:
    unit = Unit(one["unit"])
    found = reading_type(one["obis"], unit, one.get("period_s"), one["kind"], primary=one.get("primary", False))
    assert found == one["mrid"], one["origin"]


def test_enough_of_them_were_published_with_their_obis_code() -> None:
    assert len(PUBLISHED) >= 20
    assert sum(one["obis_by"] == "source" for one in PUBLISHED) >= 10


def fields(text: str | None) -> dict[str, int]:
    assert text is not None
    return dict(zip(FIELDS, map(int, text.split(".")), strict=True))


def test_a_green_button_sample_of_15_minutes_has_the_same_numbers() -> None:
    """GreenButtonAlliance's sample "Energy Delivered (kWh)" gives the fields one by one; its multiplier and qualifier are its own."""
    sample = {"accumulation": 4, "commodity": 1, "flowDirection": 1, "measurementKind": 12, "unit": 72}
    found = fields(reading_type("1-0:1.8.0", Unit.KWH, 900, "interval"))
    assert {name: found[name] for name in sample} == sample


def test_a_maximum_demand_is_a_maximum_of_the_billing_period() -> None:
    found = fields(reading_type("1-0:1.6.3", Unit.KW, 900, "demand"))
    told = {name: found[name] for name in ("macroPeriod", "aggregate", "measuringPeriod", "measurementKind", "tou")}
    assert told == {"macroPeriod": 8, "aggregate": 8, "measuringPeriod": 2, "measurementKind": 8, "tou": 3}


def test_the_primary_side_differs_in_its_commodity_alone() -> None:
    secondary = fields(reading_type("1-0:1.8.0", Unit.KWH, None, "register"))
    primary = fields(reading_type("1-0:1.8.0", Unit.KWH, None, "register", primary=True))
    assert {name for name in FIELDS if secondary[name] != primary[name]} == {"commodity"}
    assert (secondary["commodity"], primary["commodity"]) == (1, 2)


@pytest.mark.parametrize(
    ("obis", "unit", "period_s", "kind"),
    [
        ("di:0280000A", Unit.MINUTE, None, "register"),
        ("reg:4:0x0048:float32", Unit.KWH, None, "register"),
        ("1-0:1.8.0", Unit.KW, None, "register"),  # a unit that the quantity does not have
        ("1-0:1.8.0", Unit.W, None, "register"),
        ("1-0:1.8.0", Unit.KWH, None, "interval"),  # an interval without its length
        ("1-0:1.8.0", Unit.KWH, 7200, "interval"),  # a length without a number in CIM
        ("1-0:1.8.0", Unit.KWH, 901, "register"),
        ("1-0:1.8.0", Unit.KWH, None, "demand"),
        ("1-0:1.8.64", Unit.KWH, None, "register"),  # no tariff
        ("1-0:1.8.0*1", Unit.KWH, None, "register"),  # of an earlier settlement
        ("1-1:1.8.0", Unit.KWH, None, "register"),
        ("7-0:3.0.0", Unit.NONE, None, "register"),
        ("1-0:32.7.124", Unit.PERCENT, None, "instantaneous"),  # distortion
        ("1-0:32.7.1", Unit.V, None, "instantaneous"),
        ("1-0:81.7.15", Unit.DEG, None, "instantaneous"),  # against the voltage of phase B: CIM has no such phases
        ("1-0:81.8.4", Unit.DEG, None, "instantaneous"),
        ("0-0:19.10.0", Unit.CNY, None, "register"),
        ("0-0:96.9.0", Unit.DEGC, None, "instantaneous"),
        ("1-0:13.7.0", Unit.PERCENT, None, "instantaneous"),
        ("rubbish", Unit.KWH, None, "register"),
    ],
)
def test_what_is_unknown_has_none(obis: str, unit: Unit, period_s: int | None, kind: Kind) -> None:
    assert reading_type(obis, unit, period_s, kind) is None


def test_every_period_has_its_own_number() -> None:
    periods = [60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 86400]
    found = [reading_type("1-0:1.8.0", Unit.KWH, period_s, "interval") for period_s in periods]
    assert None not in found
    assert len(set(found)) == len(periods)


def test_a_read_is_named_by_its_quantity_whatever_its_period() -> None:
    assert [kind_of(obis) for obis in ("1-0:1.8.0", "1-0:32.7.0", "1-0:1.6.0", "1-0:1.4.0", "0-0:96.1.0", "di:1")] == [
        "register",
        "instantaneous",
        "demand",
        "demand",
        None,
        None,
    ]
    assert register_type("1-0:32.7.0", Unit.V) == "0.0.0.6.0.1.54.0.0.0.0.0.0.0.128.0.29.0"
    assert register_type("di:0280000A", Unit.MINUTE) is None


def offered() -> set[tuple[str, Unit]]:
    """OBIS codes of electricity with their units, as the feed has them, that contracts of ours can read; the present ones."""
    found: set[tuple[str, Unit]] = set()
    for name in contract_names():
        contract = load_any(name)
        if isinstance(contract, ModbusContract):
            found |= {(str(point.obis), _kilo(point.unit)) for point in contract.points if point.obis is not None}
        elif isinstance(contract, Contract):
            for family in contract.items():
                filled = {re.sub("<tt?>", str(tariff), family.obis.replace("<hh>", "")) for tariff in range(5)}
                found |= {(obis, Unit(family.unit)) for obis in filled if "," not in family.unit}
    return {(obis, unit) for obis, unit in found if re.fullmatch(r"1-0:[1-9]\d*\.\d+\.\d+", obis)}


def _kilo(unit: Unit) -> Unit:
    return {Unit.W: Unit.KW, Unit.VAR: Unit.KVAR, Unit.VA: Unit.KVA}.get(unit, unit)


def test_what_contracts_offer_has_a_reading_type_but_for_these() -> None:
    """Losses, distortion, thresholds, forecasts, and angles that CIM's phases cannot tell."""
    found = offered()
    without = sorted({obis for obis, unit in found if register_type(obis, unit) is None})
    assert len(found) > 180
    assert [obis for obis in without if obis not in WITHOUT] == []
