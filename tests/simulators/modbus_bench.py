"""Simulated Modbus meters on the bench, and what they must show, told apart from the code that shows it.

The rows are those of the fact sheet's table, numbers are taken out of registers by pymodbus, and what they must be comes
from the meter model by the name of the quantity.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, cast

from pymodbus.client.mixin import ModbusClientMixin

from firmware_contracts.modbus_contract import load_modbus
from protocols.modbus import pdu as p
from protocols.values import MeterAddress
from simulators.load_curve import Kind, Quantity
from simulators.meter import MeterModel
from simulators.modbus_meter import ModbusMeter
from tests.firmware_contracts.test_modbus_csv import CONTRACTS, DECIDED, ROWS

NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)  # 11:30 on a Tuesday in Shanghai
ALL_CONTRACTS = sorted(CONTRACTS.values())
RELAY = "modbus/generic_relay_meter"

_IMPORT, _EXPORT = (Quantity.FORWARD,), (Quantity.REVERSE,)
_TOTAL = (Quantity.FORWARD, Quantity.REVERSE)
_REACTIVE_IMPORT, _REACTIVE_EXPORT = (Quantity.Q1, Quantity.Q2), (Quantity.Q3, Quantity.Q4)
_ENERGIES = {
    "import_active_energy": _IMPORT,
    "export_active_energy": _EXPORT,
    "total_active_energy": _TOTAL,
    "import_reactive_energy": _REACTIVE_IMPORT,
    "export_reactive_energy": _REACTIVE_EXPORT,
    "total_reactive_energy": _REACTIVE_IMPORT + _REACTIVE_EXPORT,
}


def model(kind: Kind = Kind.HOUSEHOLD, *, seed: int = 3, solar: bool = False) -> MeterModel:
    address = MeterAddress("000000000001")
    return MeterModel(address, seed=seed, kind=kind, clock_set_at=NOW, drift_ppm=0, clock_offset_s=0, solar=solar)


def modbus_meter(
    contract: str = "modbus/eastron_sdm630", unit: int = 1, *, seed: int = 3, **options: object
) -> ModbusMeter:
    promised = load_modbus(contract)
    kind = Kind.FACTORY if promised.limits.phases == 3 else Kind.HOUSEHOLD
    options = {"reply_delay_s": 0.02} | options
    return ModbusMeter(model(kind, seed=seed), promised, unit, **options)  # type: ignore[arg-type]


def registers(meter: ModbusMeter, function: int, start: int, count: int, now: datetime = NOW) -> list[int]:
    reply = meter.answer(p.ReadRegisters(function, start, count), now)
    assert isinstance(reply, p.Registers), reply
    return [int.from_bytes(reply.content[at : at + 2], "big") for at in range(0, len(reply.content), 2)]


def rows_of(contract: str) -> list[dict[str, str]]:
    return [row for row in ROWS if CONTRACTS[row["meter"]] == contract]


def width(row: dict[str, str]) -> int:
    return int(row["type"][-2:]) // 16


def foreign_number(row: dict[str, str], words: Sequence[int]) -> float:
    """What pymodbus makes of the registers, times the scale of the table."""
    kind = ModbusClientMixin.DATATYPE[row["type"].upper()]
    order = cast(Literal["big", "little"], row["word_order"].split()[0])
    number = ModbusClientMixin.convert_from_registers(words, kind, word_order=order)
    assert isinstance(number, int | float)
    return number * float(scale_of(row))


def scale_of(row: dict[str, str]) -> Decimal:
    return Decimal(DECIDED.get(row["scale"], (row["scale"],))[0])


def must_show(of: MeterModel, row: dict[str, str], now: datetime = NOW) -> float | None:
    """In the unit of the row; None for what only the simulator decides (distortion)."""
    name, _, last = row["quantity"].rpartition("_")
    phase = {"l1": 0, "l2": 1, "l3": 2}.get(last)
    tariff = {"t1": 1, "t2": 2, "t3": 3, "t4": 4}.get(last, 0)
    if phase is None and not tariff:
        name = row["quantity"]
    if name in _ENERGIES:
        counted = of.energies(now)
        flowed = sum(
            sum(counted[each * 4 : each * 4 + 4]) if tariff == 0 else counted[each * 4 + tariff - 1]
            for each in _ENERGIES[name]
        )
        return (flowed if phase is None else of.curve.by_phase(flowed)[phase]) / 3_600_000
    instant = of.instant(now)
    with_total = 0 if phase is None else phase + 1
    amounts: dict[str, Decimal | None] = {
        "voltage": instant.voltage_v[phase or 0],
        "current": instant.current_a[phase or 0],
        "active_power": instant.active_kw[with_total],
        "reactive_power": instant.reactive_kvar[with_total],
        "apparent_power": instant.apparent_kva[with_total],
        "power_factor": instant.power_factor[with_total],
        "frequency": instant.frequency_hz,
        "phase_angle": instant.angle_deg[0],
        "thd_voltage": None,
    }
    amount = amounts[name]
    if amount is None:
        return None
    shown = float(amount) * (1000 if row["unit"] in ("W", "var", "VA") else 1)
    return abs(shown) if row["type"].startswith("uint") else shown


def assert_shows(of: MeterModel, row: dict[str, str], words: Sequence[int], now: datetime = NOW) -> None:
    """Equal to what the register can resolve: one step of its scale, or the 24 bits of a float."""
    shown, expected = foreign_number(row, words), must_show(of, row, now)
    if expected is None:
        assert 0 < shown < 10, row
        return
    step = 0.001 if row["type"] == "float32" else float(scale_of(row))
    assert abs(shown - expected) <= step + abs(expected) * 2**-23, (row, shown, expected)
