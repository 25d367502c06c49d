"""Our Modbus driver against pymodbus' server, for every meter of the table, over TCP, RTU over TCP, and RTU on a serial line.

The server's registers are filled from the table itself, with csv and struct only: neither our contracts nor our codec have a hand in
what stands there.
"""
# mypy: disallow_untyped_calls=false
# pymodbus annotates its servers by halves.

import asyncio
import contextlib
import os
import random
import struct
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, cast

import pytest
from pymodbus import FramerType
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusSerialServer, ModbusTcpServer

from firmware_contracts.modbus_contract import load_modbus, register_point
from headend.clock import SystemClock
from headend.drivers.errors import RefusedByMeter
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import BlockQuestion, ModbusDriver
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl, connect
from headend.quantities import question_of
from tests.firmware_contracts.test_modbus_csv import CONTRACTS, DECIDED, ROWS

UNIT = "17"
ADDRESSES = 0x10000
INTEGERS = {"uint16": ">H", "int16": ">h", "uint32": ">I", "int32": ">i", "uint64": ">Q", "int64": ">q"}
KILO = {"W": "kW", "var": "kvar", "VA": "kVA"}


def image(meter: str, seed: int) -> tuple[list[int], dict[str, tuple[Decimal, str]]]:
    """65,536 registers, and what each quantity of the table must come out as."""
    chance = random.Random(f"{meter}/{seed}")
    registers = [0] * ADDRESSES
    expected = {}
    for row in (row for row in ROWS if row["meter"] == meter):
        kind = row["type"]
        if kind == "float32":
            text = f"{chance.randint(-99999, 99999)}e{chance.randint(-4, 0)}"
            content, number = struct.pack(">f", float(text)), Decimal(text)
        else:
            size = struct.calcsize(INTEGERS[kind])
            raw = chance.getrandbits(8 * size - 2)  # below every mark for "not measured"
            content, number = struct.pack(INTEGERS[kind], raw), Decimal(raw)
        words = [int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2)]
        if row["word_order"].startswith("little"):
            words.reverse()
        start = int(row["address"], 16)
        registers[start : start + len(words)] = words
        amount = number * Decimal(DECIDED.get(row["scale"], (row["scale"],))[0])
        unit = row["unit"]
        expected[row["quantity"]] = (amount / 1000 if unit in KILO else amount, KILO.get(unit, unit))
    return registers, expected


def server_context(registers: list[int]) -> ModbusServerContext:
    # pymodbus counts its blocks from 1: the first value stands at wire address 0.
    device = ModbusDeviceContext(
        ir=ModbusSequentialDataBlock(1, list(registers)), hr=ModbusSequentialDataBlock(1, list(registers))
    )
    return ModbusServerContext(devices={int(UNIT): device}, single=False)


@contextlib.contextmanager
def crossed_ptys() -> Iterator[tuple[str, str]]:
    """Two pseudo-terminals whose far ends are joined: what is written to one is read from the other."""
    loop = asyncio.get_running_loop()
    pairs = [os.openpty(), os.openpty()]
    for _, end in pairs:
        tty.setraw(end)
    (a, a_end), (b, b_end) = pairs
    loop.add_reader(a, lambda: os.write(b, os.read(a, 4096)))
    loop.add_reader(b, lambda: os.write(a, os.read(b, 4096)))
    try:
        yield os.ttyname(a_end), os.ttyname(b_end)
    finally:
        for fd in (a, b):
            loop.remove_reader(fd)
        for fd in (a, a_end, b, b_end):
            os.close(fd)


@asynccontextmanager
async def a_server(transport: str, registers: list[int]) -> AsyncIterator[tuple[str, str]]:
    """URL and protocol under which it is reached."""
    context = server_context(registers)
    if transport == "serial":
        with crossed_ptys() as (ours, theirs):
            serial = ModbusSerialServer(context, framer=FramerType.RTU, port=theirs, baudrate=19200)
            await serial.serve_forever(background=True)
            try:
                yield f"serial://{ours}?baud=19200&parity=N", "modbus-rtu"
            finally:
                await serial.shutdown()
        return
    framer = FramerType.SOCKET if transport == "tcp" else FramerType.RTU
    server = ModbusTcpServer(context, framer=framer, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    port = cast(Any, server.transport).sockets[0].getsockname()[1]
    try:
        yield f"tcp://127.0.0.1:{port}", "modbus-tcp" if transport == "tcp" else "modbus-rtu"
    finally:
        await server.shutdown()


@asynccontextmanager
async def a_driver(url_text: str, protocol: str) -> AsyncIterator[ModbusDriver]:
    url = LineUrl.parse(url_text)
    line = Line(
        "line", url, timing_of(url, protocol), connect=connect, clock=SystemClock(), session=session_of(protocol)
    )
    await line.connect()
    try:
        yield ModbusDriver(line)
    finally:
        line.close()


@pytest.mark.interop
@pytest.mark.parametrize("transport", ["tcp", "rtu-over-tcp", "serial"])
@pytest.mark.parametrize("meter", CONTRACTS)
async def test_every_point_of_every_meter_is_read_right(meter: str, transport: str) -> None:
    registers, expected = image(meter, seed=4)
    contract = load_modbus(CONTRACTS[meter])
    found: dict[str, tuple[Decimal, str]] = {}
    async with a_server(transport, registers) as (url, protocol), a_driver(url, protocol) as driver:
        for block in contract.plan(contract.points):
            reading = await driver.ask(UNIT, BlockQuestion(block), Priority.LIVE)
            for value in reading.values:
                assert isinstance(value.content, Decimal), value
                found[value.name] = (value.content, value.unit.value)
    assert found == expected


@pytest.mark.interop
async def test_a_server_that_refuses_is_told_so_with_its_exception() -> None:
    short = ModbusDeviceContext(hr=ModbusSequentialDataBlock(1, [7] * 10), ir=ModbusSequentialDataBlock(1, [7] * 10))
    server = ModbusTcpServer(
        ModbusServerContext(devices={int(UNIT): short}, single=False),
        framer=FramerType.SOCKET,
        address=("127.0.0.1", 0),
    )
    await server.serve_forever(background=True)
    port = cast(Any, server.transport).sockets[0].getsockname()[1]
    try:
        async with a_driver(f"tcp://127.0.0.1:{port}", "modbus-tcp") as driver:
            beyond = question_of(register_point("reg:3:100:uint16"))
            with pytest.raises(RefusedByMeter, match="exception 02H") as refused:
                await driver.ask(UNIT, beyond, Priority.ON_DEMAND)  # type: ignore[arg-type]
            assert refused.value.word == 2
            assert refused.value.wire_received[-2:] == b"\x83\x02"
    finally:
        await server.shutdown()
