"""`meter-sim demo`: a street to look at. Simulated meters on two lines, a head-end that reads them, a live table.

Every part is its own process and meets the others only on a wire: a pseudo-terminal, TCP sockets, the HTTP interface.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import httpx
from msgspec import Struct
from rich.console import Console
from rich.live import Live
from rich.table import Table

from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadRequest, encode

__all__ = ["DemoFailed", "run_demo"]

BIN = Path(sys.executable).parent
READY_S = 30.0
SHOWN_MAX = 24  # rows; the rest is counted below the table
QUANTITIES = {"1-0:1.8.0": "energy kWh", "1-0:32.7.0": "voltage V", "1-0:16.7.0": "power kW"}
ON_PTY, ON_TCP = 8, 40


class DemoFailed(Exception):
    """A part of the street did not come up; the message says which and what it said."""


class _SimulatedLine(Struct, frozen=True):
    name: str
    url: str
    meters: list[str]


async def run_demo(*, seconds: float | None = None, seed: int = 1) -> None:
    """Run until Ctrl-C, or for `seconds`. Raises DemoFailed."""
    console = Console()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headend-demo-")))
        console.print("starting 8 meters on a pseudo-terminal and 40 on TCP …")
        lines = [
            await _line(stack, "pty", "--pty", "--baud", "2400", "--meters", str(ON_PTY), "--seed", str(seed)),
            await _line(
                stack,
                "tcp",
                "--listen",
                "tcp://127.0.0.1:0",
                "--meters",
                str(ON_TCP),
                "--seed",
                str(seed + 1),
                "--first-address",
                "000000000101",
            ),
        ]
        config = folder / "headend.toml"
        config.write_text(_config(lines), encoding="utf-8")
        token = await _token(config)
        head_end = await stack.enter_async_context(
            _process("headend", "run", str(config), "--json", stderr=stack.enter_context(_log(folder / "headend.log")))
        )
        api = json.loads(await _first_line(head_end, "headend run", folder / "headend.log"))["api"]
        _print_hints(console, lines, config, api, token)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=api, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        )
        street = _Street(lines)
        watching = asyncio.create_task(_watch(client, street, console))
        stopping = asyncio.create_task(stop.wait())
        leaving = asyncio.create_task(head_end.wait())
        try:
            await asyncio.wait([watching, stopping, leaving], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, stopping, leaving):
                task.cancel()
            await asyncio.gather(watching, stopping, leaving, return_exceptions=True)
        if head_end.returncode is not None:
            raise DemoFailed(f"the head-end ended by itself: {_tail(folder / 'headend.log')}")
        console.print(f"{street.reads} reads of {len(street.rows)} meters; stopping …")


async def _line(stack: AsyncExitStack, name: str, *arguments: str) -> _SimulatedLine:
    process = await stack.enter_async_context(_process("meter-sim", "dlt645", "--json", *arguments))
    ready = json.loads(await _first_line(process, f"meter-sim dlt645 {' '.join(arguments)}"))
    return _SimulatedLine(name, ready["url"], ready["meters"])


async def _token(config: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        str(BIN / "headend"),
        "token",
        "create",
        str(config),
        "--name",
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, problem = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"headend token create: {problem.decode()}")
    return printed.decode().strip()


@asynccontextmanager
async def _process(
    command: str, *arguments: str, stderr: IO[bytes] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child of ours, ended with us; its own session, so that Ctrl-C reaches it through us and in order."""
    process = await asyncio.create_subprocess_exec(
        str(BIN / command),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        start_new_session=os.name == "posix",
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


def _log(path: Path) -> IO[bytes]:
    return path.open("wb")


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-2000:]


async def _first_line(process: asyncio.subprocess.Process, what: str, log: Path | None = None) -> str:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
    except TimeoutError:
        line = b""
    if not line:
        said = _tail(log) if log else "see above"
        raise DemoFailed(f"{what} was not ready within {READY_S:.0f} s: {said}")
    return line.decode()


def _config(lines: list[_SimulatedLine]) -> str:
    parts = [
        '[headend]\nname = "demo-street"\ntimezone = "Asia/Shanghai"\n',
        '[api]\nlisten = "127.0.0.1:0"\n',
        f'[[plans]]\nname = "every-minute"\nperiod = "1m"\nquantities = {json.dumps(list(QUANTITIES))}\n',
    ]
    for line in lines:
        parts.append(f'[[lines]]\nname = "{line.name}"\nurl = "{line.url}"\nprotocol = "dlt645"\n')
        parts += [
            f'[[meters]]\nid = "M{address[-6:]}"\nline = "{line.name}"\naddress = "{address}"\n'
            f'contract = "dlt645/base_2007"\nplan = "every-minute"\n'
            for address in line.meters
        ]
    return "\n".join(parts)


class _Street:
    """The newest read of every meter and quantity."""

    def __init__(self, lines: list[_SimulatedLine]) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.line_of = {f"M{address[-6:]}": line.name for line in lines for address in line.meters}
        self.reads = 0
        self.missing = 0
        self.sequence = 0

    def take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["type"] != "headend.read.v1":
                continue
            data = event["data"]
            row = self.rows.setdefault(data["meter"], {})
            row[data["obis"]] = data["value"]
            row["interval_end"], row["quality"] = data["interval_end"], ", ".join(data["quality"])
            self.reads += 1
            self.missing += data["value"] is None

    def table(self) -> Table:
        table = Table(
            title=f"demo street: {self.reads} reads, {self.missing} missing, feed at sequence {self.sequence}"
        )
        for column in ("line", "meter", *QUANTITIES.values(), "interval end", "quality"):
            table.add_column(column, justify="right" if column in QUANTITIES.values() else "left")
        for meter in sorted(self.rows)[:SHOWN_MAX]:
            row = self.rows[meter]
            table.add_row(
                self.line_of.get(meter, "?"),
                meter,
                *(row.get(obis) or "–" for obis in QUANTITIES),
                row["interval_end"],
                row["quality"],
            )
        if len(self.rows) > SHOWN_MAX:
            table.caption = f"and {len(self.rows) - SHOWN_MAX} more meters"
        return table


async def _watch(client: httpx.AsyncClient, street: _Street, console: Console) -> None:
    """Pull the feed as a billing system would, and show it."""
    if not console.is_terminal:
        while True:
            if await _pull(client, street):
                console.print(
                    f"{street.reads} reads of {len(street.rows)} meters, {street.missing} missing, feed at sequence {street.sequence}"
                )
            await asyncio.sleep(2)
    with Live(street.table(), console=console, auto_refresh=False) as live:
        while True:
            await _pull(client, street)
            live.update(street.table(), refresh=True)
            await asyncio.sleep(0.5)


async def _pull(client: httpx.AsyncClient, street: _Street) -> bool:
    answer = await client.get("/v1/feed", params={"after": street.sequence, "limit": 1000})
    answer.raise_for_status()
    page = answer.json()
    street.take(page["events"])
    street.sequence = page["next"]
    return bool(page["events"])


def _print_hints(console: Console, lines: list[_SimulatedLine], config: Path, api: str, token: str) -> None:
    tcp = next(line for line in lines if line.url.startswith("tcp:"))
    headend = os.path.relpath(BIN / "headend")
    console.print(f"\nhead-end: [bold]{api}[/]   configuration: {config}\n\ntry in a second terminal:", highlight=False)
    for hint in (
        f"export HEADEND_TOKEN={token}",
        f"{headend} read {tcp.url} {tcp.meters[0]} 1-0:1.8.0 di:0201FF00",
        f"{headend} feed tail --url {api}",
        f"{headend} explain {encode(ReadRequest(di=Di('00010000')), tcp.meters[0]).to_bytes().hex(' ').upper()}",
        f"curl -s -H \"Authorization: Bearer $HEADEND_TOKEN\" '{api}/v1/feed?after=0&limit=2'",
        f"curl -s {api}/healthz",
    ):
        console.print(f"  {hint}", highlight=False, soft_wrap=True)
    console.print("\nthe meters are read every minute; Ctrl-C stops everything\n")
