"""Every row of the fact sheet's table is in its contract, and nothing else is.

The table is read here by itself, with csv and Decimal only: the contracts were written from it, and the two must not drift apart.
What the contracts decided against the table's letter stands in `DECIDED`.
"""

import csv
from decimal import Decimal
from pathlib import Path

import pytest
from pymodbus.client.mixin import ModbusClientMixin

from firmware_contracts.modbus_contract import load_modbus, modbus_names
from protocols.modbus.points import decode_point
from protocols.values import Obis, Unit

TABLE = Path(__file__).parent / "modbus_meters.csv"
CONTRACTS = {
    "Eastron SDM630": "modbus/eastron_sdm630",
    "Eastron SDM120": "modbus/eastron_sdm120",
    "Eastron SDM230": "modbus/eastron_sdm230",
    "CHINT DTSU666": "modbus/chint_dtsu666",
    "CHINT DDSU666": "modbus/chint_ddsu666",
    "Acrel ADL400": "modbus/acrel_adl400",
    "Acrel ADL400 (primary float block)": "modbus/acrel_adl400_primary",
    "Acrel ADL3000-E / DTSD1352 family": "modbus/acrel_adl3000_e",
    "Acrel DDSY1352 (ADL200-style single phase)": "modbus/acrel_ddsy1352",
    "Acrel ADW300": "modbus/acrel_adw300",
    "Schneider iEM3155 / iEM3255 (iEM3000)": "modbus/schneider_iem3000",
    "Carlo Gavazzi EM24 (RS-485)": "modbus/carlo_gavazzi_em24",
    "Carlo Gavazzi EM24 Ethernet (E1)": "modbus/carlo_gavazzi_em24_e1",
    "Carlo Gavazzi EM330/EM340/ET340": "modbus/carlo_gavazzi_em340",
    "ABB B23 / B24 (also A43/A44)": "modbus/abb_b23",
    "Janitza UMG 96RM / B-series (19000 block)": "modbus/janitza_umg96rm",
    "Finder 7M.24": "modbus/finder_7m24",
    "Finder 7M.38": "modbus/finder_7m38",
    "Orno OR-WE-516 / 517": "modbus/orno_we516",
    "Orno OR-WE-514 / 515": "modbus/orno_we514",
    "Orno OR-WE-504": "modbus/orno_we504",
    "Orno OR-WE-525 / 526": "modbus/orno_we525",
    "Hiking DDS238-2": "modbus/hiking_dds238_2",
}
WITHOUT_TABLE = {"modbus/chint_dtsu666_401e", "modbus/generic_relay_meter"}
DECIDED = {"0.01*PT*CT": ("0.01", "ct*pt"), "vendor/CT": ("0.001", "ct*pt")}
WIDTHS = {"16": 1, "32": 2, "64": 4}


def table() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


ROWS = table()


@pytest.mark.parametrize("row", ROWS, ids=[f"{CONTRACTS[row['meter']]}-{row['quantity']}" for row in ROWS])
def test_the_contract_says_what_the_table_says(row: dict[str, str]) -> None:
    contract = load_modbus(CONTRACTS[row["meter"]])
    (written,) = (point for point in contract.written if point.name == row["quantity"])
    scale, ratio = DECIDED.get(row["scale"], (row["scale"], written.ratio))
    assert str(written.function) == row["fc"]
    assert written.address == int(row["address"], 16)
    assert written.type.value == row["type"]
    assert written.width == WIDTHS[row["type"][-2:]]
    assert written.word_order.value == row["word_order"].split()[0]
    assert written.scale == Decimal(scale)
    assert written.ratio == ratio
    assert written.unit.value == row["unit"]
    assert (str(written.obis) if written.obis else "") == row["obis"]
    assert [document.strip() for document in row["source"].split(";")] == written.origin.split("; ")
    assert written.name_zh
    assert written.access == "r"


@pytest.mark.parametrize("row", ROWS, ids=[f"{CONTRACTS[row['meter']]}-{row['quantity']}" for row in ROWS])
def test_what_comes_out_is_the_same_amount_with_power_in_kilowatts(row: dict[str, str]) -> None:
    point = load_modbus(CONTRACTS[row["meter"]]).find(row["quantity"])
    scale = Decimal(DECIDED.get(row["scale"], (row["scale"],))[0])
    if row["unit"] in ("W", "var", "VA"):
        assert (point.unit, point.scale) == (Unit("k" + row["unit"]), scale / 1000)
    else:
        assert (point.unit, point.scale) == (Unit(row["unit"]), scale)
    assert point.source == f"{CONTRACTS[row['meter']]}:{row['quantity']}"


@pytest.mark.parametrize("row", ROWS, ids=[f"{CONTRACTS[row['meter']]}-{row['quantity']}" for row in ROWS])
def test_registers_that_pymodbus_fills_from_the_table_read_as_the_amount(row: dict[str, str]) -> None:
    """The other end is pymodbus, told type and word order by the table: 23 and a half fits every type exactly."""
    point = load_modbus(CONTRACTS[row["meter"]]).find(row["quantity"])
    number = 23.5 if row["type"] == "float32" else 23
    words = ModbusClientMixin.convert_to_registers(
        number,
        ModbusClientMixin.DATATYPE[row["type"].upper()],
        word_order="big" if row["word_order"].startswith("big") else "little",
    )
    content = b"".join(word.to_bytes(2, "big") for word in words)
    scale = Decimal(DECIDED.get(row["scale"], (row["scale"],))[0])
    thousands = 1000 if row["unit"] in ("W", "var", "VA") else 1
    assert decode_point(point, content) == Decimal(str(number)) * scale / thousands


@pytest.mark.parametrize(("meter", "name"), CONTRACTS.items())
def test_a_contract_has_no_points_that_the_table_lacks(meter: str, name: str) -> None:
    assert {point.name for point in load_modbus(name).points} == {
        row["quantity"] for row in ROWS if row["meter"] == meter
    }


def test_the_table_is_whole_and_every_contract_is_accounted_for() -> None:
    assert len(ROWS) == 397
    assert len(CONTRACTS) == 23
    assert set(modbus_names()) == set(CONTRACTS.values()) | WITHOUT_TABLE


@pytest.mark.parametrize("name", modbus_names())
def test_a_power_is_the_same_unit_in_every_contract(name: str) -> None:
    contract = load_modbus(name)
    for point in contract.points:
        assert point.unit not in (Unit.W, Unit.VAR, Unit.VA)
        assert point.obis is None or contract.find_obis(Obis(point.obis.text)) is point
