"""Late replies on Modbus RTU over TCP, in real time: what becomes of them in the head-end and in pymodbus' async client.

Both ask the same far end (`far_end_late`) block after block of one meter after the other; blocks are of one size, as RTU replies of
blocks are that nothing else tells apart. A block is misattributed when its registers say that it is another meter's, another block's,
or older than the question. `tests/scenarios/test_late_modbus_replies.py` has a million of ours in virtual time.
"""

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from headend.clock import SystemClock
from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.drivers.modbus import ModbusDriver
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl, connect
from tests.bench.far_end import REPOSITORY, far_end
from tests.bench.far_end_late import REGISTERS, taken_apart
from tests.bench.figures import Figure, Goal, spread
from tests.bench.prepared import HOST

__all__ = ["measure_late"]

TIMEOUT_S = 0.03
READS = 2000
UNITS = range(1, 5)
STARTS = (0, 8, 16, 1000, 1008)
PROTOCOL = "modbus-rtu"
NAMES = {"ours": "headend", "foreign": "pymodbus"}
CLIENT_S_MAX = 1200.0

Ask = Callable[
    [int, int], Awaitable[bytes | None]
]  # unit, start -> the registers; None when the client gave up and said so


def measure_late(*, reads: int = READS, note: Callable[[str], None] = lambda _: None) -> list[Figure]:
    """Each client once, with a far end of its own that is late by the same dice."""
    found = {}
    for kind, name in NAMES.items():
        note(f"late replies: {name}")
        with far_end(TIMEOUT_S, module="tests.bench.far_end_late") as other:
            found[kind] = _run(kind, other.port, reads)
    figures = []
    for kind, name in NAMES.items():
        goal = Goal(most=0) if kind == "ours" else None
        what = f"{name}: of {reads} reads, a tenth of the replies late"
        figures += [
            spread(f"{what}: misattributed", "", [found[kind]["misattributed"]], goal),
            spread(f"{what}: given up", "", [found[kind]["given_up"]]),
            spread(f"{what}: right", "", [found[kind]["right"]]),
            spread(f"{what}: duration", "s", [found[kind]["wall_s"]]),
        ]
    return figures


def _run(kind: str, port: int, reads: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.late", kind, str(port), str(reads)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=CLIENT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{kind} failed: {done.stderr[-2000:]}"
    counted: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return counted


# ------------------------------------------------------------------------------------------------ one client, in its own process


async def _counted(ask: Ask, reads: int) -> dict[str, float]:
    counts: dict[str, float] = {"right": 0, "misattributed": 0, "given_up": 0}
    began = time.monotonic()
    for number in range(reads):
        unit, start = UNITS[number // len(STARTS) % len(UNITS)], STARTS[number % len(STARTS)]
        asked_at = time.monotonic_ns()
        content = await ask(unit, start)
        if content is None:
            counts["given_up"] += 1
            continue
        from_unit, from_start, answered_at = taken_apart(content)
        is_right = (from_unit, from_start) == (unit, start) and answered_at >= asked_at
        counts["right" if is_right else "misattributed"] += 1
    return counts | {"wall_s": time.monotonic() - began}


async def _ours(port: int, reads: int) -> dict[str, float]:
    url = LineUrl.parse(f"tcp://{HOST}:{port}")
    # Time-outs are a hundredth of a tunnel's, so that the benchmark ends; the silence that ends draining goes with them.
    timing = replace(timing_of(url, PROTOCOL, reply_timeout_s=TIMEOUT_S), quiet_s=TIMEOUT_S)
    line = Line("late", url, timing, connect=connect, clock=SystemClock(), session=session_of(PROTOCOL))
    await line.connect()
    driver = ModbusDriver(line)

    async def ask(unit: int, start: int) -> bytes | None:
        try:
            return (await driver.read_registers(str(unit), 3, start, REGISTERS, Priority.LIVE))[0]
        except DriverError:
            return None

    try:
        return await _counted(ask, reads)
    finally:
        line.close()


async def _foreign(port: int, reads: int) -> dict[str, float]:
    """As it comes, but for the time-out; a connection that it gives up it makes anew before the next read."""
    from pymodbus import FramerType, ModbusException
    from pymodbus.client import AsyncModbusTcpClient

    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    client = AsyncModbusTcpClient(HOST, port=port, framer=FramerType.RTU, timeout=TIMEOUT_S)
    assert await client.connect()

    async def ask(unit: int, start: int) -> bytes | None:
        try:
            answer = await client.read_holding_registers(start, count=REGISTERS, device_id=unit)
        except ModbusException:
            return None
        return None if answer.isError() else b"".join(word.to_bytes(2, "big") for word in answer.registers)

    try:
        return await _counted(ask, reads)
    finally:
        client.close()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    kind_of, where, how_many = sys.argv[1:]
    print(json.dumps(asyncio.run((_ours if kind_of == "ours" else _foreign)(int(where), int(how_many)))))
