"""Foreign Modbus clients read our simulated meters: pymodbus, synchronous and not, and Debian's mbpoll.

Every row of the fact sheet's table is read by itself over each transport; pymodbus makes the number, the meter's model says
what it must be.
"""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient, ModbusSerialClient, ModbusTcpClient

from simulators.line import SimulatedLine, serve_pty, serve_tcp
from simulators.modbus_bus import Framing, ModbusBus
from simulators.modbus_meter import ModbusMeter
from simulators.modbus_tcp import serve_modbus_tcp
from tests.simulators.modbus_bench import ALL_CONTRACTS, NOW, RELAY, assert_shows, modbus_meter, rows_of, width

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals"),
]

UNIT = 17
TIMEOUT_S = 5.0
NEEDS_MBPOLL = pytest.mark.skipif(
    shutil.which("mbpoll") is None, reason="mbpoll is not installed (Debian: apt-get install mbpoll)"
)


@asynccontextmanager
async def on_tcp(meter: ModbusMeter, framing: Framing, **options: Any) -> AsyncIterator[int]:
    """The port of a Modbus TCP meter, or of the serial server before it. The meter's time stands still."""
    bus = ModbusBus([meter], framing=framing, **options)
    if framing == "tcp":
        server = await serve_modbus_tcp(bus, lambda: NOW, "127.0.0.1", 0)
    else:
        line = SimulatedLine(bus, lambda: NOW)
        server = await serve_tcp(line, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def on_pty(meter: ModbusMeter) -> AsyncIterator[str]:
    line = SimulatedLine(ModbusBus([meter]), lambda: NOW)
    port = await serve_pty(line)
    try:
        yield port.path
    finally:
        port.close()
        line.close()


def read(client: Any, row: dict[str, str]) -> Any:
    """A reply, or with an asynchronous client the promise of one."""
    ask = client.read_input_registers if row["fc"] == "4" else client.read_holding_registers
    return ask(int(row["address"], 16), count=width(row), device_id=UNIT)


def check_all(client: Any, meter: ModbusMeter) -> None:
    assert client.connect()
    try:
        for row in rows_of(meter.contract.name):
            reply = read(client, row)
            assert not reply.isError(), (row, reply)
            assert_shows(meter.model, row, reply.registers)
    finally:
        client.close()


async def check_all_async(client: Any, meter: ModbusMeter) -> None:
    assert await client.connect()
    try:
        for row in rows_of(meter.contract.name):
            reply = await read(client, row)
            assert not reply.isError(), (row, reply)
            assert_shows(meter.model, row, reply.registers)
    finally:
        client.close()


def meter_of(contract: str) -> ModbusMeter:
    return modbus_meter(contract, UNIT, reply_delay_s=0.0)


FRAMERS: list[tuple[Framing, FramerType]] = [("rtu", FramerType.RTU), ("tcp", FramerType.SOCKET)]


@pytest.mark.parametrize(("framing", "framer"), FRAMERS, ids=["rtu-over-tcp", "tcp"])
@pytest.mark.parametrize("contract", ALL_CONTRACTS)
async def test_pymodbus_reads_every_row_over_tcp(contract: str, framing: Framing, framer: FramerType) -> None:
    meter = meter_of(contract)
    async with on_tcp(meter, framing) as port:
        client = ModbusTcpClient("127.0.0.1", port=port, framer=framer, timeout=TIMEOUT_S, retries=0)
        await asyncio.to_thread(check_all, client, meter)
        again = AsyncModbusTcpClient("127.0.0.1", port=port, framer=framer, timeout=TIMEOUT_S, retries=0)
        await check_all_async(again, meter)


@pytest.mark.parametrize("contract", ALL_CONTRACTS)
async def test_pymodbus_reads_every_row_over_a_pseudo_terminal(contract: str) -> None:
    meter = meter_of(contract)
    async with on_pty(meter) as path:
        client = ModbusSerialClient(path, baudrate=115_200, timeout=TIMEOUT_S, retries=0)
        await asyncio.to_thread(check_all, client, meter)
        again = AsyncModbusSerialClient(path, baudrate=115_200, timeout=TIMEOUT_S, retries=0)
        await check_all_async(again, meter)


@pytest.mark.parametrize(("framing", "framer"), FRAMERS, ids=["rtu-over-tcp", "tcp"])
async def test_pymodbus_switches_the_relay_and_is_refused_what_is_not_there(
    framing: Framing, framer: FramerType
) -> None:
    meter = meter_of(RELAY)
    async with on_tcp(meter, framing) as port:
        client = AsyncModbusTcpClient("127.0.0.1", port=port, framer=framer, timeout=TIMEOUT_S, retries=0)
        assert await client.connect()
        try:
            for closed in (False, True, False):
                assert not (await client.write_coil(0, closed, device_id=UNIT)).isError()
                assert (await client.read_coils(0, device_id=UNIT)).bits[0] is closed
                assert (await client.read_discrete_inputs(0, device_id=UNIT)).bits[0] is closed
            refused = await client.write_coil(9, True, device_id=UNIT)
            assert (refused.isError(), refused.exception_code) == (True, 2)
            refused = await client.write_register(0, 1, device_id=UNIT)
            assert (refused.isError(), refused.exception_code) == (True, 1)
        finally:
            client.close()


async def test_two_connections_have_transactions_of_their_own() -> None:
    meter = meter_of("modbus/abb_b23")
    async with on_tcp(meter, "tcp") as port:
        clients = [
            AsyncModbusTcpClient("127.0.0.1", port=port, timeout=TIMEOUT_S, retries=0, name=str(index))
            for index in range(3)
        ]
        try:
            for client in clients:
                assert await client.connect()
            starts = (0x5000, 0x5B00, 0x5B14)
            replies = await asyncio.gather(
                *(
                    client.read_holding_registers(start, count=2, device_id=UNIT)
                    for _ in range(20)
                    for client, start in zip(clients, starts, strict=True)
                )
            )
            assert len({tuple(reply.registers) for reply in replies}) == 3
        finally:
            for client in clients:
                client.close()


async def test_what_is_no_modbus_tcp_is_hung_up_on_and_many_connections_cost_nobody_else() -> None:
    meter = meter_of("modbus/abb_b23")
    async with on_tcp(meter, "tcp") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=TIMEOUT_S, retries=0)
        assert await client.connect()
        assert not (await client.read_holding_registers(0x5000, count=4, device_id=UNIT)).isError()
        client.close()


# ------------------------------------------------------------------------------------------ mbpoll


def mbpoll(*arguments: str) -> str:
    done = subprocess.run(["mbpoll", "-0", "-1", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def polled(printed: str) -> list[str]:
    """The values of lines such as "[12]: 	0x4366"."""
    return [found[1] for found in re.finditer(r"^\[\d+\]:\s+(\S+)", printed, re.MULTILINE)]


def serial_arguments(path: str) -> tuple[list[str], str]:
    return ["-m", "rtu", "-a", str(UNIT), "-b", "115200", "-P", "none"], path


def tcp_arguments(port: int) -> tuple[list[str], str]:
    return ["-m", "tcp", "-a", str(UNIT), "-p", str(port)], "127.0.0.1"


def poll_all(meter: ModbusMeter, how: list[str], where: str) -> None:
    """In the blocks that the contract's planner makes."""
    rows = {row["quantity"]: row for row in rows_of(meter.contract.name)}
    for block in meter.contract.plan(meter.contract.points):
        kind = f"-t{3 if block.function == 4 else 4}:hex"
        words = polled(mbpoll(*how, kind, "-r", str(block.start), "-c", str(block.count), where))
        assert len(words) == block.count
        for point in block.points:
            at = point.address - block.start
            assert_shows(meter.model, rows[point.name], [int(word, 16) for word in words[at : at + point.width]])


@NEEDS_MBPOLL
@pytest.mark.parametrize("contract", ALL_CONTRACTS)
async def test_mbpoll_reads_every_row_over_a_pseudo_terminal_and_tcp(contract: str) -> None:
    meter = meter_of(contract)
    async with on_pty(meter) as path:
        await asyncio.to_thread(poll_all, meter, *serial_arguments(path))
    async with on_tcp(meter, "tcp") as port:
        await asyncio.to_thread(poll_all, meter, *tcp_arguments(port))


Places = Callable[[ModbusMeter], Any]


@pytest.fixture(params=["pty", "tcp"])
def place(request: pytest.FixtureRequest) -> Places:
    @asynccontextmanager
    async def arguments(meter: ModbusMeter) -> AsyncIterator[tuple[list[str], str]]:
        if request.param == "pty":
            async with on_pty(meter) as path:
                yield serial_arguments(path)
        else:
            async with on_tcp(meter, "tcp") as port:
                yield tcp_arguments(port)

    return arguments


@NEEDS_MBPOLL
async def test_mbpoll_understands_our_floats_and_word_orders(place: Places) -> None:
    eastron, gavazzi = meter_of("modbus/eastron_sdm630"), meter_of("modbus/carlo_gavazzi_em340")
    volts = [float(volt or 0) for volt in eastron.model.instant(NOW).voltage_v]
    async with place(eastron) as (how, where):
        printed = await asyncio.to_thread(mbpoll, *how, "-t3:float", "-B", "-r", "0", "-c", "3", where)
        assert [float(value) for value in polled(printed)] == pytest.approx(volts, abs=0.05)
    async with place(gavazzi) as (how, where):
        printed = await asyncio.to_thread(mbpoll, *how, "-t3:int", "-r", "0", "-c", "3", where)
        assert [int(value) for value in polled(printed)] == [round(volt * 10) for volt in volts]


@NEEDS_MBPOLL
async def test_mbpoll_switches_the_relay_and_reads_it_back(place: Places) -> None:
    meter = meter_of(RELAY)
    async with place(meter) as (how, where):
        for word in ("0", "1"):
            await asyncio.to_thread(mbpoll, *how, "-t0", "-r", "0", where, word)
            assert meter.model.relay_open(NOW) is (word == "0")
            for kind in ("-t0", "-t1"):
                assert polled(await asyncio.to_thread(mbpoll, *how, kind, "-r", "0", where)) == [word]
