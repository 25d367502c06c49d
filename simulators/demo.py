"""`meter-sim demo`: a street to look at: simulated meters on lines and behind concentrators, a head-end, a live table.

Every part is its own process and meets the others only on a wire: a pseudo-terminal, TCP sockets, a broker, the HTTP interface.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

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
SITE = ZoneInfo("Asia/Shanghai")
USED = "used kWh"  # in the last interval
MODBUS = "modbus/eastron_sdm630"
DTUS = ("860000000000001", "860000000000002")  # a third one is known to nobody


class DemoFailed(Exception):
    """A part of the street did not come up; the message says which and what it said."""


class _Part(Struct, frozen=True, kw_only=True):
    """Some simulated meters that are reached the same way. tables: what stands in the configuration for them, `line` its name."""

    kind: str
    line: str
    meters: list[str]
    tables: str
    contract: str = "dlt645/base_2007"
    url: str = ""

    @property
    def ids(self) -> list[str]:
        """Asset numbers, in the order of the meters."""
        return [f"{self.kind[0].upper()}{address[-6:]:0>6}" for address in self.meters]


async def run_demo(*, seconds: float | None = None, seed: int = 1) -> None:
    """Run until Ctrl-C, or for `seconds`. Raises DemoFailed."""
    console = Console()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headend-demo-")))
        console.print(
            "starting a street: 8 meters on a serial line, 32 behind a serial server, 6 behind a Modbus concentrator, 10 behind "
            "an MQTT concentrator, 4 behind two DTUs that dial in, and a DTU that nobody knows …",
            highlight=False,
        )
        parts = await _parts(stack, seed)
        config = folder / "headend.toml"
        config.write_text(_config(parts), encoding="utf-8")
        token = await _token(config)
        log = folder / "headend.log"
        head_end = await stack.enter_async_context(
            _process("headend", "run", str(config), "--json", stderr=stack.enter_context(log.open("wb")))
        )
        api = json.loads(await _first_line(head_end, "headend run", log))["api"]
        _print_hints(console, parts, config, api, token)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=api, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        )
        street = _Street(parts)
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
            raise DemoFailed(f"the head-end ended by itself: {_tail(log)}")
        console.print(f"{street.reads} reads of {len(street.rows)} meters; stopping …")


# ------------------------------------------------------------------------------------------------ the street's parts


async def _parts(stack: AsyncExitStack, seed: int) -> list[_Part]:
    """All of it, each a process of its own; those that dial in find the head-end when it listens."""
    tcp = ("--listen", "tcp://127.0.0.1:0")
    numbered = [str(seed + place) for place in range(5)]
    serial = await _simulated(stack, "dlt645", "--pty", "--baud", "2400", "--meters", "8", "--seed", numbered[0])
    server = await _simulated(
        stack, "dlt645", *tcp, "--meters", "32", "--seed", numbered[1], "--first-address", "000000000101"
    )
    modbus = await _simulated(
        stack, "modbus", *tcp, "--framing", "tcp", "--contract", MODBUS, "--meters", "6", "--seed", numbered[2]
    )
    broker = await _simulated(stack, "broker")
    pushing = await _simulated(
        stack, "mqtt", "--broker", broker["url"], "--mqtt", "3.1.1", "--meters", "10", "--period", "20",
        "--seed", numbered[3], "--first-address", "000000000201", "--name", "tx-9",
    )  # fmt: skip
    port = _free_port()
    dtus = await _simulated(
        stack, "dtu", "--connect", f"tcp://127.0.0.1:{port}", "--count", str(len(DTUS) + 1), "--first-id", DTUS[0],
        "--meters-per-dtu", "2", "--first-address", "000000000301", "--seed", numbered[4], count=len(DTUS) + 1,
    )  # fmt: skip
    return [
        _line_part("serial", serial, "dlt645"),
        _line_part("server", server, "dlt645"),
        _line_part("modbus", modbus, "modbus-tcp", contract=MODBUS),
        _Part(
            kind="pushed",
            line="tx-9",
            url=broker["url"],
            meters=pushing["meters"],
            tables=f'[[brokers]]\nname = "city"\nurl = "{broker["url"]}"\nversion = "3.1.1"\n\n'
            '[[concentrators]]\nname = "tx-9"\nbroker = "city"\ncontract = "concentrator/hes_v1"\n',
        ),
        *(
            _line_part(
                "dialled", found | {"url": f"listen://127.0.0.1:{port}?dtu={dtu}"}, "dlt645", name=f"dtu-{place}"
            )
            for place, (dtu, found) in enumerate(zip(DTUS, dtus["all"], strict=False), 1)
        ),
    ]


def _line_part(
    kind: str, found: dict[str, Any], protocol: str, *, name: str = "", contract: str = "dlt645/base_2007"
) -> _Part:
    name = name or kind
    tables = f'[[lines]]\nname = "{name}"\nurl = "{found["url"]}"\nprotocol = "{protocol}"\n'
    return _Part(kind=kind, line=name, url=found["url"], meters=found["meters"], tables=tables, contract=contract)


async def _simulated(stack: AsyncExitStack, *arguments: str, count: int = 1) -> dict[str, Any]:
    """What `meter-sim` says when it is ready; of several lines the first, and all of them under "all"."""
    process = await stack.enter_async_context(
        _process("meter-sim", *arguments, "--json", stderr=asyncio.subprocess.DEVNULL)
    )
    said = [json.loads(await _first_line(process, f"meter-sim {' '.join(arguments)}")) for _ in range(count)]
    first: dict[str, Any] = said[0]
    return first | {"all": said}


def _free_port() -> int:
    """For the head-end to listen on; DTUs must be told before it does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# ------------------------------------------------------------------------------------------------ processes


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
    command: str, *arguments: str, stderr: IO[bytes] | int | None = None
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


def _config(parts: list[_Part]) -> str:
    tables = [
        f'[headend]\nname = "demo-street"\ntimezone = "{SITE.key}"\n',
        '[api]\nlisten = "127.0.0.1:0"\n',
        f'[[plans]]\nname = "every-minute"\nperiod = "1m"\nquantities = {json.dumps(list(QUANTITIES))}\n',
    ]
    for part in parts:
        tables.append(part.tables)
        tables += [
            f'[[meters]]\nid = "{identity}"\nline = "{part.line}"\naddress = "{address}"\n'
            f'contract = "{part.contract}"\nplan = "every-minute"\n'
            for identity, address in zip(part.ids, part.meters, strict=True)
        ]
    return "\n".join(tables)


class _Street:
    """The newest read of every meter and quantity."""

    def __init__(self, parts: list[_Part]) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.line_of = {identity: part.line for part in parts for identity in part.ids}
        self.reads = 0
        self.missing = self.suspect = self.intervals = 0
        self.sequence = 0

    def take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            data = event["data"]
            if event["type"] == "headend.interval.v1" and data["amount"] is not None:
                self.rows.setdefault(data["meter"], {})[USED] = data["amount"]
                self.intervals += 1
            if event["type"] != "headend.read.v1":
                continue
            row = self.rows.setdefault(data["meter"], {})
            row[data["obis"]] = data["value"]
            row["interval_end"], row["quality"] = data["interval_end"], ", ".join(data["quality"])
            self.reads += 1
            self.missing += data["value"] is None
            self.suspect += "suspect" in data["quality"]

    def table(self) -> Table:
        table = Table(
            title=f"demo street: {self.reads} reads, {self.missing} missing, {self.suspect} suspect, {self.intervals} intervals, "
            f"feed at sequence {self.sequence}"
        )
        for column in ("line", "meter", *QUANTITIES.values(), USED, "interval end", "quality"):
            table.add_column(column, justify="right" if column in (*QUANTITIES.values(), USED) else "left")
        for meter in self._shown():
            row = self.rows[meter]
            table.add_row(
                self.line_of.get(meter, "?"),
                meter,
                *(row.get(obis) or "–" for obis in (*QUANTITIES, USED)),
                row.get("interval_end", "–"),
                row.get("quality", "–"),
            )
        if len(self.rows) > SHOWN_MAX:
            table.caption = f"and {len(self.rows) - SHOWN_MAX} more meters"
        return table

    def _shown(self) -> list[str]:
        """Some of every line, in the order of the street."""
        lines: dict[str, list[str]] = {}
        for meter, line in self.line_of.items():
            if meter in self.rows:
                lines.setdefault(line, []).append(meter)
        share = max(2, SHOWN_MAX // max(1, len(lines)))
        return [meter for meters in lines.values() for meter in meters[:share]][:SHOWN_MAX]


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


def _print_hints(console: Console, parts: list[_Part], config: Path, api: str, token: str) -> None:
    of_kind = {part.kind: part for part in reversed(parts)}
    server, modbus, pushed = of_kind["server"], of_kind["modbus"], of_kind["pushed"]
    headend = os.path.relpath(BIN / "headend")
    auth = '-H "Authorization: Bearer $HEADEND_TOKEN"'
    console.print(f"\nhead-end: [bold]{api}[/]   configuration: {config}\n\ntry in a second terminal:", highlight=False)
    for hint in (
        f"export HEADEND_TOKEN={token}",
        f"{headend} read {server.url} {server.meters[0]} 1-0:1.8.0 di:0201FF00",
        f"{headend} read {modbus.url} 1 1-0:1.8.0 reg:4:0x0046:float32 --protocol modbus-tcp --contract {MODBUS}",
        f"curl -s {auth} -X POST '{api}/v1/meters/{pushed.ids[0]}/reads' -d '{{\"quantities\": [\"di:02010100\"]}}'",
        f"{headend} dtu list --url {api}",
        f"{headend} feed tail --url {api}",
        f"curl -s {auth} '{api}/v1/intervals?meter={server.ids[0]}&obis=1-0:1.8.0'",
        f"{headend} feed export feed.ndjson --url {api}",
        f"{headend} report collection --url {api} --day {datetime.now(SITE).date()}",
        f"{headend} explain {encode(ReadRequest(di=Di('00010000')), server.meters[0]).to_bytes().hex(' ').upper()}",
        f"curl -s {auth} '{api}/v1/concentrators'",
        f"curl -s {api}/healthz",
    ):
        console.print(f"  {hint}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        "\nthe lines are read every minute, the MQTT concentrator pushes every 20 s; Ctrl-C stops everything\n",
        highlight=False,
    )
