"""The processes of the demo: each a child of ours that meets the others only on a wire, and the configuration that names them all."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

__all__ = [
    "BIN",
    "MODBUS",
    "QUANTITIES",
    "SITE",
    "DemoFailed",
    "Part",
    "config_text",
    "end_of",
    "first_line",
    "headend",
    "process",
    "simulated",
    "street_parts",
    "together",
]

BIN = Path(sys.executable).parent
READY_S = 60.0  # of a machine that has much else to do
DONE_S = 60.0
SITE = "Asia/Shanghai"
QUANTITIES = {"1-0:1.8.0": "energy kWh", "1-0:32.7.0": "voltage V", "1-0:16.7.0": "power kW"}
MODBUS = "modbus/eastron_sdm630"
DTUS = ("860000000000001", "860000000000002")  # a third one is known to nobody


class DemoFailed(Exception):
    """A part of the street did not come up, or the story did not go on; the message says which and what it said."""


class Part(Struct, frozen=True, kw_only=True):
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


async def street_parts(stack: AsyncExitStack, seed: int) -> list[Part]:
    """All of it, each a process of its own; those that dial in find the head-end when it listens."""
    tcp = ("--listen", "tcp://127.0.0.1:0")
    numbered = [str(seed + place) for place in range(5)]
    port = _free_port()

    async def concentrator() -> tuple[dict[str, Any], dict[str, Any]]:
        broker = await simulated(stack, "broker")
        pushing = await simulated(
            stack, "mqtt", "--broker", broker["url"], "--mqtt", "3.1.1", "--meters", "10", "--period", "20",
            "--seed", numbered[3], "--first-address", "000000000201", "--name", "tx-9",
        )  # fmt: skip
        return broker, pushing

    serial, server, modbus, (broker, pushing), dtus = await together(
        simulated(stack, "dlt645", "--pty", "--baud", "2400", "--meters", "8", "--seed", numbered[0]),
        simulated(stack, "dlt645", *tcp, "--meters", "32", "--seed", numbered[1], "--first-address", "000000000101"),
        simulated(
            stack, "modbus", *tcp, "--framing", "tcp", "--contract", MODBUS, "--meters", "6", "--seed", numbered[2]
        ),
        concentrator(),
        simulated(
            stack, "dtu", "--connect", f"tcp://127.0.0.1:{port}", "--count", str(len(DTUS) + 1), "--first-id", DTUS[0],
            "--meters-per-dtu", "2", "--first-address", "000000000301", "--seed", numbered[4], count=len(DTUS) + 1,
        ),
    )  # fmt: skip
    return [
        _line_part("serial", serial, "dlt645"),
        _line_part("server", server, "dlt645"),
        _line_part("modbus", modbus, "modbus-tcp", contract=MODBUS),
        Part(
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


def config_text(parts: Sequence[Part], more: str = "") -> str:
    """The configuration of the street. more: further tables, other than [headend] and [api]."""
    tables = [
        f'[headend]\nname = "demo-street"\ntimezone = "{SITE}"\n',
        '[api]\nlisten = "127.0.0.1:0"\n',
        f'[[plans]]\nname = "every-minute"\nperiod = "1m"\nquantities = {json.dumps(list(QUANTITIES))}\n',
        more,
    ]
    for part in parts:
        tables.append(part.tables)
        tables += [
            f'[[meters]]\nid = "{identity}"\nline = "{part.line}"\naddress = "{address}"\n'
            f'contract = "{part.contract}"\nplan = "every-minute"\n'
            for identity, address in zip(part.ids, part.meters, strict=True)
        ]
    return "\n".join(tables)


def _line_part(
    kind: str, found: dict[str, Any], protocol: str, *, name: str = "", contract: str = "dlt645/base_2007"
) -> Part:
    name = name or kind
    tables = f'[[lines]]\nname = "{name}"\nurl = "{found["url"]}"\nprotocol = "{protocol}"\n'
    return Part(kind=kind, line=name, url=found["url"], meters=found["meters"], tables=tables, contract=contract)


def _free_port() -> int:
    """For the head-end to listen on; DTUs must be told before it does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# ------------------------------------------------------------------------------------------------ processes


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """At once; when one fails, the others are ended first, so that no process is begun behind our back."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def simulated(stack: AsyncExitStack, *arguments: str, count: int = 1) -> dict[str, Any]:
    """What `meter-sim` says when it is ready; of several lines the first, and all of them under "all"."""
    child = await stack.enter_async_context(
        process("meter-sim", *arguments, "--json", stderr=asyncio.subprocess.DEVNULL)
    )
    said = [json.loads(await first_line(child, f"meter-sim {' '.join(arguments)}")) for _ in range(count)]
    first: dict[str, Any] = said[0]
    return first | {"all": said}


async def headend(*arguments: str, command: str = "headend", is_good: Sequence[int] = (0,)) -> str:
    """Run a command to its end; what it printed. Raises DemoFailed when it ends otherwise."""
    child = await asyncio.create_subprocess_exec(
        str(BIN / command), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        printed, problem = await asyncio.wait_for(child.communicate(), DONE_S)
    except TimeoutError:
        child.kill()
        await child.wait()
        raise DemoFailed(f"{command} {arguments[0]} took more than {DONE_S:.0f} s") from None
    if child.returncode not in is_good:
        raise DemoFailed(f"{command} {' '.join(arguments[:2])}: {problem.decode().strip()}")
    return printed.decode().strip()


@asynccontextmanager
async def process(
    command: str, *arguments: str, stderr: IO[bytes] | int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child of ours, ended with us; its own session, so that Ctrl-C reaches it through us and in order."""
    child = await asyncio.create_subprocess_exec(
        str(BIN / command),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        start_new_session=os.name == "posix",
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), 15)
            except TimeoutError:
                child.kill()
                await child.wait()


async def first_line(child: asyncio.subprocess.Process, what: str, log: Path | None = None) -> str:
    """Raises DemoFailed when none comes in time."""
    assert child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), READY_S)
    except TimeoutError:
        raise DemoFailed(f"{what} was not ready within {READY_S:.0f} s{f': {end_of(log)}' if log else ''}") from None
    if not line:
        raise DemoFailed(f"{what} ended before it was ready{f': {end_of(log)}' if log else ''}")
    return line.decode()


def end_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-2000:]
