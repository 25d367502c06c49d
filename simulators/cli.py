"""`meter-sim`: simulated meters on TCP ports and pseudo-terminals.

With `--json` one object per line of meters is printed as soon as all of them can be reached, and nothing else on
standard output. Exit codes: 0 when stopped by SIGTERM or Ctrl-C, 2 for arguments that cannot be met.
"""

import asyncio
import enum
import json
import sys
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from firmware_contracts.contract import Contract, load
from firmware_contracts.errors import ContractError
from protocols.errors import BadAddress
from protocols.values import MeterAddress
from simulators import cli_dtu, cli_modbus, cli_mqtt, cli_payment
from simulators.cli_support import (
    errors,
    faults_of,
    on_signals,
    place_of_lines,
    rate,
    run,
    serve_line,
    shares,
    true_clock,
    zone,
)
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.quirks import BadQuirk, MeterQuirks, parse_quirks

__all__ = ["app", "main"]

LOAD_W_MAX = 20_000  # more does not go through a meter of 80 A
HASTE_MAX = 3600  # an hour in a second
BAUD_OF_PTY = 2400  # what a client is told to open a pseudo-terminal with when the line has no rate

app = typer.Typer(name="meter-sim", help="Simulated electricity meters.", no_args_is_help=True, add_completion=False)


class Edition(enum.Enum):
    V2007 = "2007"
    V1997 = "1997"


class Street(Struct, frozen=True, kw_only=True):
    """What was asked for. host is None for pseudo-terminals; port 0 lets the system choose."""

    host: str | None
    port: int
    lines: list[list[MeterAddress]]
    seed: int
    baud: int | None
    contract: Contract
    quirks: MeterQuirks
    faults: Path | None
    timezone: ZoneInfo
    constant_w: int
    haste: int
    as_json: bool


@app.callback()
def _meter_sim() -> None:
    """Simulated electricity meters, deterministic from one seed."""


@app.command()
def dlt645(
    listen: Annotated[str | None, typer.Option(help="tcp://HOST:PORT; port 0 takes a free one.")] = None,
    pty: Annotated[bool, typer.Option("--pty", help="Open a pseudo-terminal instead, and print its path.")] = False,
    meters: Annotated[int, typer.Option(help="How many meters.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides customers, start registers, clocks and reply delays.")] = 1,
    first_address: Annotated[str, typer.Option(help="12 digits; the others count up from it.")] = "000000000001",
    lines: Annotated[int, typer.Option(help="Spread the meters over so many lines; ports count up from --listen.")] = 1,
    baud: Annotated[int | None, typer.Option(help="Bytes take the time they would take at this rate.")] = None,
    dialect: Annotated[Edition | None, typer.Option(help="Edition of DL/T 645 the meters speak; 2007.")] = None,
    contract: Annotated[str, typer.Option(help="The contract they play, instead of the edition's base.")] = "",
    quirk: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, such as preamble=0; may be repeated.")] = None,
    faults: Annotated[Path | None, typer.Option(help="TOML file of faults; read again when it changes.")] = None,
    timezone: Annotated[str, typer.Option(help="Where the meters' clocks are.")] = "Asia/Shanghai",
    constant_w: Annotated[int, typer.Option(help="Watts that each customer draws day and night besides.")] = 0,
    haste: Annotated[
        int, typer.Option(help="Registers count so many times what flows: minutes use up what hours would.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")] = False,
) -> None:
    """DL/T 645 meters on TCP ports (as behind a transparent serial server) or pseudo-terminals."""
    host, port = place_of_lines(listen, lines, pty=pty)
    if not 0 <= constant_w <= LOAD_W_MAX:
        raise typer.BadParameter(f"{constant_w}, expected 0 to {LOAD_W_MAX}", param_hint="--constant-w")
    if not 1 <= haste <= HASTE_MAX:
        raise typer.BadParameter(f"{haste}, expected 1 to {HASTE_MAX}", param_hint="--haste")
    street = Street(
        host=host,
        port=port,
        lines=_addresses(first_address, meters, lines),
        seed=seed,
        baud=rate(baud),
        contract=(played := _contract(contract, dialect)),
        quirks=_quirks(played, quirk or []),
        faults=faults,
        timezone=zone(timezone),
        constant_w=constant_w,
        haste=haste,
        as_json=as_json,
    )
    run(_serve(street))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Decides everything that is simulated.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="Stop by itself after so long.")] = None,
    story: Annotated[
        bool, typer.Option(help="Tell of a tenant whose prepaid balance runs out, in about two minutes.")
    ] = True,
) -> None:
    """A street with a head-end that reads it, to look at."""
    from simulators.demo import DemoFailed, run_demo  # it needs an HTTP client, which plain simulators do not

    try:
        run(run_demo(seconds=seconds, seed=seed, with_story=story))
    except DemoFailed as error:
        errors.print(f"demo: {error}", markup=False)
        raise typer.Exit(1) from error


cli_modbus.register(app)
cli_mqtt.register(app)
cli_dtu.register(app)
cli_payment.register(app)


def main() -> None:
    app()


async def _serve(street: Street) -> None:
    stop = asyncio.Event()
    on_signals(stop)
    began, now = true_clock()
    async with AsyncExitStack() as stack:
        places, buses = [], []
        for index, addresses in enumerate(street.lines):
            bus = _bus(street, addresses, sum(len(line) for line in street.lines[:index]), began)
            buses.append(bus)
            line = SimulatedLine(bus, now, baud=street.baud)
            stack.callback(line.close)
            port = street.port + index if street.port else 0
            settings = f"baud={street.baud or BAUD_OF_PTY}"
            places.append((await serve_line(line, street.host, port, stack, settings=settings), addresses))
        if street.faults is not None:
            await stack.enter_async_context(faults_of(street.faults, began, buses))
        _announce(street, places)
        await stop.wait()


def _bus(street: Street, addresses: list[MeterAddress], before: int, began: datetime) -> Dlt645Bus:
    meters = []
    for index, address in enumerate(addresses, before):
        model = MeterModel(
            address,
            seed=street.seed * 1_000_003 + index,
            kind=_kind(index, street.contract),
            timezone=street.timezone,
            clock_set_at=began,
            constant_w=street.constant_w,
            haste=street.haste,
        )
        meters.append(Dlt645Meter(model, street.contract, quirks=street.quirks))
    return Dlt645Bus(meters)


def _kind(index: int, contract: Contract) -> Kind:
    """Of twenty customers sixteen are households, three shops and one a factory, as far as the meter fits them."""
    place = index % 20
    if contract.limits.phases == 1:
        return Kind.SHOP if place >= 16 else Kind.HOUSEHOLD
    if contract.offers is not None:
        return Kind.FACTORY  # it promises three phases
    return Kind.FACTORY if place == 19 else Kind.SHOP if place >= 16 else Kind.HOUSEHOLD


def _announce(street: Street, places: list[tuple[str, list[MeterAddress]]]) -> None:
    if street.as_json:
        for url, addresses in places:
            print(json.dumps({"url": url, "protocol": "dlt645", "meters": [str(address) for address in addresses]}))
        sys.stdout.flush()
        return
    table = Table(title=f"{street.contract.name} meters, seed {street.seed}")
    for column in ("line", "meters", "first address", "last address"):
        table.add_column(column, overflow="fold")
    for url, addresses in places:
        table.add_row(url, str(len(addresses)), str(addresses[0]), str(addresses[-1]))
    console = Console()
    console.print(table)
    console.print(f"try: headend read {places[0][0]} {places[0][1][0]}", markup=False, highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops.")


def _addresses(first: str, count: int, lines: int) -> list[list[MeterAddress]]:
    """Contiguous shares, the first lines one longer where it does not come out even."""
    spans = shares(count, lines)
    try:
        start = int(MeterAddress(first).digits)
        if start + count > 10**12:
            raise typer.BadParameter(f"{count} meters from {first} do not fit 12 digits", param_hint="--first-address")
        addresses = [MeterAddress(f"{start + index:012}") for index in range(count)]
    except BadAddress as error:
        raise typer.BadParameter(str(error), param_hint="--first-address") from error
    return [addresses[begin:end] for begin, end in spans]


def _contract(name: str, dialect: Edition | None) -> Contract:
    try:
        contract = load(name or f"dlt645/base_{(dialect or Edition.V2007).value}")
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="--contract") from error
    if dialect is not None and contract.protocol != f"dlt645-{dialect.value}":
        raise typer.BadParameter(f"{contract.name} speaks {contract.protocol}", param_hint="--dialect")
    return contract


def _quirks(contract: Contract, given: list[str]) -> MeterQuirks:
    try:
        return parse_quirks(contract, given)
    except BadQuirk as error:
        raise typer.BadParameter(str(error), param_hint="--quirk") from error
