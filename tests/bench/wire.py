"""How much of a slow line's time is used: reads over a simulated UART with wire-accurate timing, ours and PyPI `dlt645`'s RTU client.

The bound is what the wire and the meter leave nobody: request and reply, wake-up bytes included, at 11 bits a byte, and the meter's
own delay. Both clients read the same meter of one `meter-sim --pty --baud N` process, one after the other in every round.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dlt645 import MeterClientService, disable_logging

from firmware_contracts.contract import load
from headend.clock import SystemClock
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.line import Line, Priority
from headend.drivers.transport import LineUrl, connect
from protocols.dlt645.items import Di
from protocols.exchange import BITS_PER_BYTE, Timing
from tests.bench.figures import Figure, Goal, ratio, spread

__all__ = ["measure_wire"]

BAUDS = (2400, 9600)
REPLY_DELAY_S = 0.02  # the shortest that the standard allows, so that the client's own share shows most
REQUEST_SIZE = 4 + 16  # four wake-up bytes and a read request
REPLY_SIZE = 4 + 20  # four wake-up bytes and a reply of one energy
TOTAL = load("dlt645/base_2007").find(Di("00010000"))
ADDRESS = "000000000001"


def measure_wire(*, rounds: int, seconds: float, note: Callable[[str], None] = lambda _: None) -> list[Figure]:
    """Reads per second of one meter at 2400 and 9600 baud, over the theoretical bound."""
    disable_logging()
    figures: list[Figure] = []
    for baud in BAUDS:
        bound = 1 / ((REQUEST_SIZE + REPLY_SIZE) * BITS_PER_BYTE / baud + REPLY_DELAY_S)
        ours: list[float] = []
        foreign: list[float] = []
        with _simulated_uart(baud) as device:
            for number in range(rounds):
                note(f"wire at {baud} baud, round {number + 1} of {rounds}")
                ours.append(asyncio.run(_our_rate(device, baud, seconds)))
                foreign.append(_foreign_rate(device, baud, seconds))
        limit = spread(f"bound at {baud} baud", "reads/s", [bound] * rounds)
        mine = spread(f"headend at {baud} baud", "reads/s", ours)
        theirs = spread(f"PyPI dlt645 RTU client at {baud} baud", "reads/s", foreign)
        figures += [limit, mine, theirs, ratio(f"ours over the bound, {baud} baud", mine, limit, Goal(least=0.95))]
        figures.append(ratio(f"PyPI dlt645 over the bound, {baud} baud", theirs, limit))
    return figures


@contextmanager
def _simulated_uart(baud: int) -> Iterator[str]:
    command: list[str | Path] = [
        Path(sys.executable).parent / "meter-sim", "dlt645", "--pty", "--baud", str(baud), "--meters", "1", "--json",
        "--quirk", f"reply_delay_s={REPLY_DELAY_S}", "--quirk", "preamble=4",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield urlsplit(json.loads(process.stdout.readline())["url"]).path
    finally:
        process.terminate()
        process.wait(timeout=10)


async def _our_rate(device: str, baud: int, seconds: float) -> float:
    url = LineUrl.parse(f"serial://{device}?baud={baud}")
    line = Line("bench", url, Timing(baud=baud), connect=connect, clock=SystemClock())
    driver = Dlt645Driver(line)
    await line.connect()
    try:
        await driver.read(ADDRESS, TOTAL, Priority.LIVE)
        reads, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            await driver.read(ADDRESS, TOTAL, Priority.LIVE)
            reads += 1
        return reads / (time.perf_counter() - began)
    finally:
        line.close()


def _foreign_rate(device: str, baud: int, seconds: float) -> float:
    client = MeterClientService.new_rtu_client(device, baudrate=baud, databits=8, stopbits=1, parity="N", timeout=2.0)
    assert client is not None
    assert client.set_address(bytes.fromhex(ADDRESS)[::-1].hex())  # it wants the bytes in the order of the wire
    assert client.read_00(0x00010000) is not None, "the foreign client does not read the simulated meter"
    reads, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        assert client.read_00(0x00010000) is not None
        reads += 1
    rate = reads / (time.perf_counter() - began)
    client.client.disconnect()
    return rate
