"""`meter-sim demo`: a street to look at: simulated meters on lines and behind concentrators, a head-end, a story, a live table.

Every part is its own process and meets the others only on a wire: a pseudo-terminal, TCP sockets, a broker, the HTTP interface.
"""

import asyncio
import json
import os
import signal
import tempfile
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from rich.console import Console

from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadRequest, encode
from simulators.demo_home import ADDRESS, CONTRACT, METER, Home, Pace, config_of, write_rules
from simulators.demo_parts import (
    BIN,
    MODBUS,
    SITE,
    DemoFailed,
    Part,
    config_text,
    end_of,
    first_line,
    headend,
    process,
    simulated,
    street_parts,
    together,
)
from simulators.demo_story import Narrator, Story
from simulators.demo_street import Street, watch

__all__ = ["DemoFailed", "run_demo"]

# Who uses the interface: roles, and the person behind them where opens and approvals take one.
PEOPLE: dict[str, tuple[tuple[str, ...], str]] = {
    "reader": (("read",), ""),
    "cashier": (("cashier",), ""),
    "ann": (("disconnect",), "Ann"),
    "bob": (("approve",), "Bob"),
}


async def run_demo(*, seconds: float | None = None, seed: int = 1, with_story: bool = True) -> None:
    """Run until Ctrl-C, or for `seconds`. Raises DemoFailed."""
    console = Console()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headend-demo-")))
        console.print(
            "starting a street: 8 meters on a serial line, 32 behind a serial server, 6 behind a Modbus concentrator, 10 behind "
            "an MQTT concentrator, 4 behind two DTUs that dial in, and a DTU that nobody knows"
            f"{'; and a flat with prepaid supply' if with_story else ''} …",
            highlight=False,
            soft_wrap=not console.is_terminal,
        )
        config = folder / "headend.toml"
        pace = Pace()
        home: Home | None = None
        if with_story:
            parts, home = await together(street_parts(stack, seed), _home(stack, folder, seed, pace))
        else:
            parts = await street_parts(stack, seed)
        config.write_text(config_text(parts, "" if home is None else config_of(home)), encoding="utf-8")
        tokens = {"reader": await _token(config, "reader")}  # the first one makes the store
        if with_story:
            others = [name for name in PEOPLE if name not in tokens]
            tokens |= zip(others, await together(*(_token(config, name) for name in others)), strict=True)
        log = folder / "headend.log"
        head_end = await stack.enter_async_context(
            process("headend", "run", str(config), "--json", stderr=stack.enter_context(log.open("wb")))
        )
        api = json.loads(await first_line(head_end, "headend run", log))["api"]
        _print_hints(console, parts, config, api, tokens["reader"])
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=api, headers={"Authorization": f"Bearer {tokens['reader']}"}, timeout=30)
        )
        street = Street([*parts, *([] if home is None else [_part_of(home)])])
        story = None if home is None else Story(Narrator(console), api, folder, tokens, pace)
        tasks = [
            asyncio.create_task(_show(client, street, console, story)),
            asyncio.create_task(stop.wait()),
            asyncio.create_task(head_end.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if head_end.returncode is not None:
            raise DemoFailed(f"the head-end ended by itself: {end_of(log)}")
        try:
            for task in done:
                task.result()  # a story that did not go on says why
        except httpx.HTTPError as error:
            raise DemoFailed(f"the head-end does not answer: {error or type(error).__name__}; {end_of(log)}") from error
        console.print(f"{street.reads} reads of {len(street.rows)} meters; stopping …")


async def _show(client: httpx.AsyncClient, street: Street, console: Console, story: Story | None) -> None:
    """The table for ever; before it, and above it, the story."""
    if story is None:
        await watch(client, street, console)
        return
    watching = asyncio.create_task(watch(client, street, console, status=lambda: story.status))
    try:
        await story.tell()
        await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _home(stack: AsyncExitStack, folder: Path, seed: int, pace: Pace) -> Home:
    """The tenant's meter and the rules; in a folder with the keys of a first installation."""
    found, _ = await together(
        simulated(
            stack, "dlt645", "--listen", "tcp://127.0.0.1:0", "--contract", CONTRACT, "--first-address", ADDRESS,
            "--seed", str(seed + 5), "--constant-w", str(pace.constant_w), "--haste", str(pace.haste),
        ),
        headend("init", str(folder)),
    )  # fmt: skip
    home = Home(url=found["url"], pace=pace)
    write_rules(folder, home, today=datetime.now(ZoneInfo(SITE)).date())
    return home


def _part_of(home: Home) -> Part:
    """As the table shows it; its configuration is the home's own."""
    part = Part(kind="tenant", line="home", url=home.url, meters=[ADDRESS], tables="", contract=CONTRACT)
    assert part.ids == [METER]
    return part


async def _token(config: Path, name: str) -> str:
    roles, person = PEOPLE[name]
    named = ("--person", person) if person else ()
    given = [part for role in roles for part in ("--role", role)]
    return await headend("token", "create", str(config), "--name", name, *given, *named)


def _print_hints(console: Console, parts: list[Part], config: Path, api: str, token: str) -> None:
    of_kind = {part.kind: part for part in reversed(parts)}
    server, modbus, pushed = of_kind["server"], of_kind["modbus"], of_kind["pushed"]
    command = os.path.relpath(BIN / "headend")
    auth = '-H "Authorization: Bearer $HEADEND_TOKEN"'
    console.print(f"\nhead-end: [bold]{api}[/]   configuration: {config}\n\ntry in a second terminal:", highlight=False)
    for hint in (
        f"export HEADEND_TOKEN={token}",
        f"{command} read {server.url} {server.meters[0]} 1-0:1.8.0 di:0201FF00",
        f"{command} read {modbus.url} 1 1-0:1.8.0 reg:4:0x0046:float32 --protocol modbus-tcp --contract {MODBUS}",
        f"curl -s {auth} -X POST '{api}/v1/meters/{pushed.ids[0]}/reads' -d '{{\"quantities\": [\"di:02010100\"]}}'",
        f"{command} dtu list --url {api}",
        f"{command} feed tail --url {api}",
        f"curl -s {auth} '{api}/v1/intervals?meter={server.ids[0]}&obis=1-0:1.8.0'",
        f"{command} feed export feed.ndjson --url {api}",
        f"{command} report collection --url {api} --day {datetime.now(ZoneInfo(SITE)).date()}",
        f"{command} explain {encode(ReadRequest(di=Di('00010000')), server.meters[0]).to_bytes().hex(' ').upper()}",
        f"curl -s {auth} '{api}/v1/concentrators'",
        f"curl -s {api}/healthz",
    ):
        console.print(f"  {hint}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        "\nthe lines are read every minute, the MQTT concentrator pushes every 20 s; Ctrl-C stops everything\n",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )
