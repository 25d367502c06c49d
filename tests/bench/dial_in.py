"""Thousands of DTUs that dial in: `python -m tests.bench.dial_in [--known 1900] [--unknown 100] [--ramp-s 60] [--tls]`.

The DTUs are a `meter-sim dtu` process of their own; this process listens, so that its memory is that of a head-end's lines. Measured:
how long until every known DTU has its line, what each costs while it idles (resident memory, before the lines exist and when all
are connected), and one read of every meter. Prints one JSON object.
"""

import argparse
import asyncio
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import structlog

from firmware_contracts.contract import load
from headend.clock import SystemClock
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.line import Line, Priority
from headend.drivers.listener import DialIn
from headend.drivers.listener_settings import ListenerSettings, TlsSettings
from headend.drivers.transport import LineUrl
from protocols.dlt645.items import Di
from protocols.exchange import Timing

__all__ = ["main"]

FIRST_ID = 860000000000001
SLACK_S = 60.0  # beyond the ramp, for a busy machine
READ_TIMEOUT_S = 10.0
READ_AT_ONCE = 50  # the simulator computes each register when it is asked for the first time, some 10 ms each
SIMULATOR = Path(sys.executable).parent / "meter-sim"


async def measure(known: int, unknown: int, ramp_s: float, tls: TlsSettings | None) -> dict[str, Any]:
    clock, contract = SystemClock(), load("dlt645/base_2007")
    settings = ListenerSettings(tls=tls)
    dial_in = DialIn("127.0.0.1", 0, settings, clock=clock)
    await dial_in.start()
    before = resident()
    scheme = "listens" if tls else "listen"
    lines = []
    for index in range(known):
        url = LineUrl.parse(f"{scheme}://127.0.0.1:{dial_in.port}?dtu={FIRST_ID + index}")
        dial_in.expect(f"line-{index}", url)
        timing = Timing(reply_timeout_s=READ_TIMEOUT_S)
        lines.append(Line(f"line-{index}", url, timing, connect=dial_in.connect, clock=clock))
    tasks = [asyncio.create_task(line.run()) for line in lines]
    simulator = await start_simulator(dial_in.port, known + unknown, ramp_s, tls)
    try:
        began = time.monotonic()
        async with asyncio.timeout(ramp_s + SLACK_S):
            await asyncio.gather(*(line.wait_up() for line in lines))
            up_s = time.monotonic() - began
            while dial_in.counters.unknown < unknown:  # noqa: ASYNC110 -- they are nobody's, so nobody tells
                await asyncio.sleep(0.1)
        await asyncio.sleep(2 * settings.register_within_s / 10)  # the last ones settle
        idle = resident()
        began = time.monotonic()
        total, turn = contract.find(Di("00010000")), asyncio.Semaphore(READ_AT_ONCE)

        async def read(index: int, line: Line) -> int:
            async with turn:
                return len((await Dlt645Driver(line).read(f"{index + 1:012}", total, Priority.LIVE)).values)

        reads = await asyncio.gather(*(read(index, line) for index, line in enumerate(lines)))
        return {
            "known": known,
            "unknown": unknown,
            "tls": tls is not None,
            "all_up_s": round(up_s, 1),
            "up": sum(line.is_up for line in lines),
            "read": sum(values == 1 for values in reads),
            "read_all_s": round(time.monotonic() - began, 2),
            "listed_unknown": sorted(int(entry.dtu) - FIRST_ID for entry in dial_in.unknown())
            == list(range(known, known + unknown)),
            "asked": await asked(simulator),
            "kib_per_dtu": round((idle - before) / (known + unknown) / 1024, 1),
            "counters": msgspec.to_builtins(dial_in.counters),
        }
    finally:
        if simulator.returncode is None:
            simulator.kill()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await dial_in.aclose()
        await simulator.wait()


async def asked(simulator: asyncio.subprocess.Process) -> int:
    """Stops the DTUs; how many of them anything was ever sent to."""
    simulator.terminate()
    _, said = await simulator.communicate()
    found = re.search(rb"(\d+) were sent something", b" ".join(said.split()))
    return int(found[1]) if found is not None else -1


async def start_simulator(port: int, count: int, ramp_s: float, tls: TlsSettings | None) -> asyncio.subprocess.Process:
    arguments = ["dtu", "--connect", f"tcp://127.0.0.1:{port}", "--count", str(count), "--first-id", str(FIRST_ID)]
    arguments += ["--ramp-s", str(ramp_s), "--heartbeat", "www.usr.cn", "--heartbeat-s", "30", "--json"]
    if tls is not None:
        arguments += ["--tls-ca", str(tls.certificate)]
    return await asyncio.create_subprocess_exec(
        SIMULATOR, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def self_signed(folder: Path) -> TlsSettings:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    arguments = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=bench",
    ]
    subject = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *arguments, *subject, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return TlsSettings(certificate=certificate, key=key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, default=1900)
    parser.add_argument("--unknown", type=int, default=100)
    parser.add_argument("--ramp-s", type=float, default=60.0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--plain-loop", action="store_true", help="asyncio's own event loop instead of uvloop")
    given = parser.parse_args()
    structlog.configure(
        logger_factory=structlog.ReturnLoggerFactory(), processors=[structlog.processors.JSONRenderer()]
    )
    factory = None
    if not given.plain_loop:
        import uvloop

        factory = uvloop.new_event_loop
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=factory) as runner:
        tls = self_signed(Path(folder)) if given.tls else None
        print(json.dumps(runner.run(measure(given.known, given.unknown, given.ramp_s, tls))))


if __name__ == "__main__":
    main()
