"""PyPI `dlt645`'s async client, logging off, without a store.

One meter per connection, so that its `set_address` is not measured.
"""

import asyncio
from copy import copy
from typing import Any

from dlt645 import disable_logging
from dlt645.aio import AsyncMeterClientService, AsyncTcpClient

from tests.bench.figures import Stretch, between
from tests.bench.prepared import DIS, ENERGY, HOST, address_of, amount_of

__all__ = ["measure"]


async def measure(port: int, lines: int, meters: int, seconds: float) -> Stretch:
    disable_logging()
    services: list[Any] = []
    first = AsyncMeterClientService.new_tcp_client(HOST, port, timeout=10.0)
    for line in range(lines):
        # Each service made by itself would first take a second to copy the table of all items; one copy serves them all here.
        service: Any = copy(first)
        service.client = AsyncTcpClient(HOST, port, timeout=10.0)
        # The foreign package writes addresses in wire order.
        assert service.set_address(bytes.fromhex(address_of(line + 1))[::-1].hex())
        assert await service.connect()
        services.append(service)
    counts = [0] * lines
    stop = asyncio.Event()

    async def ask(line: int) -> None:
        service, energy, voltage = services[line], int(str(DIS[0]), 16), int(str(DIS[1]), 16)
        while not stop.is_set():
            for read, di in ((service.read_00, energy), (service.read_02, voltage)):
                item = await read(di)
                if item is None or item.value is None:
                    raise AssertionError(f"line {line}: no value for {di:08X}")
                counts[line] += 1

    tasks = [asyncio.create_task(ask(line)) for line in range(lines)]
    measured = await between(lambda: sum(counts), seconds)
    stop.set()
    await asyncio.gather(*tasks)
    for line, service in enumerate(services):
        for di in DIS:
            item = await (service.read_00 if di == ENERGY else service.read_02)(int(str(di), 16))
            assert round(item.value, 2) == float(amount_of(line + 1, di))
        await service.disconnect()
    return measured
