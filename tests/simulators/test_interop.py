"""A foreign DL/T 645 client (PyPI `dlt645`) reads our simulated meter: what it understands is what the model has."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import dlt645
import pytest

from firmware_contracts.contract import load
from protocols.dlt645.items import Di, decode
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.line import SimulatedLine, serve_pty, serve_tcp
from simulators.load_curve import Kind
from simulators.meter import MeterModel

pytestmark = pytest.mark.interop

ADDRESS = "202512340017"
NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)  # the meter's time stands still, so that both sides see one value
# The client takes one value from a reply, so these are single items. It reads BCD as float.
ENERGIES = [
    0x00000000,
    0x00010000,
    0x00010100,
    0x00010200,
    0x00010300,
    0x00010400,
    0x00020000,
    0x00010001,
    0x0001000C,
    0x00030000,
    0x00050000,
]
VARIABLES = [0x02010100, 0x02020100, 0x02030000, 0x02030100, 0x02040000, 0x02050000, 0x02060000, 0x02800002]
PARAMETERS = [0x04000101, 0x04000102, 0x04000204, 0x04000401, 0x04000402, 0x04000409]


@pytest.fixture
def meter() -> Dlt645Meter:
    model = MeterModel(MeterAddress(ADDRESS), seed=11, kind=Kind.FACTORY, clock_set_at=NOW)
    return Dlt645Meter(model, load("dlt645/base_2007"), reply_delay_s=0.02)


@pytest.fixture
async def line(meter: Dlt645Meter) -> AsyncIterator[SimulatedLine]:
    line = SimulatedLine(Dlt645Bus([meter]), lambda: NOW)
    yield line
    line.close()


def expected(meter: Dlt645Meter, di: int) -> Any:
    name = Di(f"{di:08X}")
    data = b"".join(meter.items.read(name, NOW))
    return decode(data, meter.contract.find(name))[0]


def questions(client: Any, meter: Dlt645Meter) -> int:
    """Ask everything; gives how many identifiers agreed."""
    assert client.set_address(bytes.fromhex(ADDRESS)[::-1].hex())  # it wants the bytes in the order of the wire
    agreed = 0
    ways: list[tuple[Callable[[int], Any], list[int]]] = [(client.read_00, ENERGIES), (client.read_02, VARIABLES)]
    for read, dis in ways:
        for di in dis:
            item = read(di)
            assert item is not None, f"{di:08X}"
            assert Decimal(str(item.value)) == expected(meter, di).content, f"{di:08X}"
            agreed += 1
    demand = client.read_01(0x01010000)
    value = expected(meter, 0x01010000)
    assert Decimal(str(demand.value.value)) == value.content
    # Not compared: its time. The client reads the five bytes as YY MM DD hh mm; the standard sends mm hh DD MM YY.
    for di in PARAMETERS:
        item = client.read_04(di)
        assert item is not None, f"{di:08X}"
        content = expected(meter, di).content
        assert int(item.value) == int(content), f"{di:08X}"
        agreed += 1
    return agreed + 1


async def test_the_foreign_tcp_client_reads_what_the_model_has(meter: Dlt645Meter, line: SimulatedLine) -> None:
    server = await serve_tcp(line, "127.0.0.1", 0)
    client = dlt645.MeterClientService.new_tcp_client("127.0.0.1", server.sockets[0].getsockname()[1], timeout=3.0)
    async with server:
        try:
            assert await asyncio.to_thread(questions, client, meter) >= 20
        finally:
            client.disconnect()


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
async def test_the_foreign_serial_client_reads_over_a_pseudo_terminal_opened_twice(
    meter: Dlt645Meter, line: SimulatedLine
) -> None:
    port = await serve_pty(line)
    try:
        for _ in range(2):
            # No parity: Linux pseudo-terminals have none, and this client sets its port up again before each read.
            client = dlt645.MeterClientService.new_rtu_client(port.path, 2400, 8, 1, "N", 3.0)
            try:
                assert await asyncio.to_thread(questions, client, meter) >= 20
            finally:
                client.disconnect()
    finally:
        port.close()


async def test_the_foreign_client_learns_the_address(meter: Dlt645Meter, line: SimulatedLine) -> None:
    server = await serve_tcp(line, "127.0.0.1", 0)
    client = dlt645.MeterClientService.new_tcp_client("127.0.0.1", server.sockets[0].getsockname()[1], timeout=3.0)
    async with server:
        try:
            item = await asyncio.to_thread(client.read_address)
        finally:
            client.disconnect()
    assert item is not None
    assert bytes(client.address)[::-1].hex() == ADDRESS
