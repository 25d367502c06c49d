"""pymodbus' async client as it comes, logging off: raw registers, without points, without a store.

It has one request in flight per connection, whoever asks.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import cycle

from pymodbus.client import AsyncModbusTcpClient

from tests.bench.figures import Stretch, between
from tests.bench.prepared import HOST
from tests.bench.prepared_modbus import COUNT, START, UNITS, VARIANTS, answer_of

__all__ = ["measure"]

CONTENT_AT = 7  # of an answer without its transaction number


async def measure(port: int, lines: int, seconds: float) -> Stretch:
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    clients = [AsyncModbusTcpClient(HOST, port=port) for _ in range(lines)]
    for client in clients:
        assert await client.connect()
    counts = [0] * lines
    last: list[Sequence[int]] = [()] * lines
    stop = asyncio.Event()

    async def ask(line: int) -> None:
        client, units = clients[line], cycle(UNITS)
        while not stop.is_set():
            answer = await client.read_input_registers(START, count=COUNT, device_id=next(units))
            assert len(answer.registers) == COUNT
            last[line] = answer.registers
            counts[line] += 1

    tasks = [asyncio.create_task(ask(line)) for line in range(lines)]
    measured = await between(lambda: sum(counts), seconds)
    stop.set()
    await asyncio.gather(*tasks)
    for line, client in enumerate(clients):
        unit = UNITS[(counts[line] - 1) % len(UNITS)]
        content = b"".join(word.to_bytes(2, "big") for word in last[line])
        assert content in {answer_of(unit, variant)[CONTENT_AT:] for variant in range(VARIANTS)}
        client.close()
    return measured
