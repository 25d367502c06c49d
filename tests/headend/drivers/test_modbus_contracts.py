"""Every contract of the table, read by our driver from the simulated meter, over each of the three transports.

What the numbers must be is told from the meter model by the name of the quantity, without our contracts or codec.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest

from firmware_contracts.modbus_contract import load_modbus
from headend.clock import SystemClock
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import BlockQuestion, ModbusDriver
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl, connect
from simulators.line import SimulatedLine, serve_pty, serve_tcp
from simulators.modbus_bus import ModbusBus
from simulators.modbus_tcp import serve_modbus_tcp
from tests.simulators.modbus_bench import ALL_CONTRACTS, NOW, modbus_meter, must_show, rows_of, scale_of

KILO = {"W": "kW", "var": "kvar", "VA": "kVA"}


@asynccontextmanager
async def served(transport: str, contract: str) -> AsyncIterator[tuple[str, str, ModbusBus]]:
    """URL, protocol and the bus behind it; the world stands still, so that both sides speak of one moment."""
    bus = ModbusBus([modbus_meter(contract, 9, reply_delay_s=0.0)], framing="tcp" if transport == "tcp" else "rtu")
    if transport == "tcp":
        server = await serve_modbus_tcp(bus, lambda: NOW, "127.0.0.1", 0)
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", "modbus-tcp", bus
        server.close()
        return
    line = SimulatedLine(bus, lambda: NOW)
    if transport == "serial":
        port = await serve_pty(line)
        yield f"serial://{port.path}?baud=9600&parity=N", "modbus-rtu", bus
        port.close()
    else:
        server = await serve_tcp(line, "127.0.0.1", 0)
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", "modbus-rtu", bus
        server.close()
    line.close()


@pytest.mark.parametrize("transport", ["tcp", "rtu-over-tcp", "serial"])
@pytest.mark.parametrize("contract", ALL_CONTRACTS)
async def test_all_points_are_read_right(contract: str, transport: str) -> None:
    promised = load_modbus(contract)
    found: dict[str, tuple[Decimal | str | None, str]] = {}
    async with served(transport, contract) as (text, protocol, bus):
        url = LineUrl.parse(text)
        timing = timing_of(url, protocol, reply_timeout_s=5.0)
        line = Line("line", url, timing, connect=connect, clock=SystemClock(), session=session_of(protocol))
        await line.connect()
        driver = ModbusDriver(line)
        for block in promised.plan(promised.points):
            reading = await asyncio.wait_for(driver.ask("9", BlockQuestion(block), Priority.LIVE), 20)
            found |= {value.name: (value.content, value.unit.value) for value in reading.values}
        line.close()
        meter = bus.meters[0]
    rows = rows_of(contract)
    assert found.keys() == {row["quantity"] for row in rows}
    for row in rows:
        content, unit = found[row["quantity"]]
        assert isinstance(content, Decimal), row
        assert unit == KILO.get(row["unit"], row["unit"])
        shown = float(content) * (1000 if row["unit"] in KILO else 1)
        told = must_show(meter.model, row)
        if told is None:  # distortion, which only the simulator decides
            assert 0 < shown < 10, row
            continue
        step = 0.001 if row["type"] == "float32" else float(scale_of(row))
        assert abs(shown - told) <= step + abs(told) * 2**-23, (row, shown, told)
