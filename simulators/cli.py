"""`meter-sim`: simulated meters on TCP ports and pseudo-terminals.

With `--json` one object per line of meters is printed as soon as all of them can be reached, and nothing else on
standard output. Exit codes: 0 when stopped by SIGTERM or Ctrl-C, 2 for arguments that cannot be met.
"""

import asyncio
import contextlib
import enum
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from firmware_contracts.contract import Contract, load
from firmware_contracts.errors import ContractError
from protocols.errors import BadAddress
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.fault_file import FaultFile, struck_on
from simulators.faults import BadFaults
from simulators.line import PtyPort, SimulatedLine, serve_pty, serve_tcp
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.quirks import BadQuirk, MeterQuirks, parse_quirks

__all__ = ["app", "main"]

BAUD_OF_PTY = 2400  # what a client is told to open a pseudo-terminal with when the line has no rate
METERS_MAX = 10_000

app = typer.Typer(name="meter-sim", help="Simulated electricity meters.", no_args_is_help=True, add_completion=False)
errors = Console(stderr=True, highlight=False)


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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")] = False,
) -> None:
    """DL/T 645 meters on TCP ports (as behind a transparent serial server) or pseudo-terminals."""
    host, port = _place(listen, pty=pty)
    if port and port + lines - 1 > 65535:
        raise typer.BadParameter(f"{lines} lines from port {port} end above 65535", param_hint="--lines")
    street = Street(
        host=host,
        port=port,
        lines=_addresses(first_address, meters, lines),
        seed=seed,
        baud=_rate(baud),
        contract=(played := _contract(contract, dialect)),
        quirks=_quirks(played, quirk or []),
        faults=faults,
        timezone=_zone(timezone),
        as_json=as_json,
    )
    _run(_serve(street))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Decides everything that is simulated.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="Stop by itself after so long.")] = None,
) -> None:
    """A street with a head-end that reads it, to look at."""
    from simulators.demo import DemoFailed, run_demo  # it needs an HTTP client, which plain simulators do not

    try:
        _run(run_demo(seconds=seconds, seed=seed))
    except DemoFailed as error:
        errors.print(f"demo: {error}", markup=False)
        raise typer.Exit(1) from error


def main() -> None:
    app()


def _run(work: Any) -> None:
    """On uvloop where it is installed. Ctrl-C before the signal handlers are set is an ordinary end, too."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


async def _serve(street: Street) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    began, began_s = datetime.now(UTC), time.monotonic()

    def now() -> datetime:
        # Wall time at the start, then monotonic: a corrected host clock must not make registers run backwards.
        return began + timedelta(seconds=time.monotonic() - began_s)

    async with AsyncExitStack() as stack:
        places, buses = [], []
        for index, addresses in enumerate(street.lines):
            bus = _bus(street, addresses, sum(len(line) for line in street.lines[:index]), began)
            buses.append(bus)
            line = SimulatedLine(bus, now, baud=street.baud)
            stack.callback(line.close)
            places.append((await _open(street, line, index, stack), addresses))
        if street.faults is not None:
            await stack.enter_async_context(_faults(street.faults, began, buses))
        _announce(street, places)
        await stop.wait()


@asynccontextmanager
async def _faults(path: Path, began: datetime, buses: list[Dlt645Bus]) -> AsyncIterator[None]:
    """The file in force, and followed until the end; then what it did."""

    def report(sentence: str) -> None:
        errors.print(f"meter-sim: {sentence}", markup=False, soft_wrap=True)

    file = FaultFile(path, began, buses, report)
    try:
        file.load()
    except (BadFaults, OSError) as error:
        raise _cannot(str(error)) from error
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, file.reload)
    following = asyncio.create_task(file.follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        report(f"faults struck: {struck_on(buses)}")


def _bus(street: Street, addresses: list[MeterAddress], before: int, began: datetime) -> Dlt645Bus:
    meters = []
    for index, address in enumerate(addresses, before):
        model = MeterModel(
            address,
            seed=street.seed * 1_000_003 + index,
            kind=_kind(index, street.contract),
            timezone=street.timezone,
            clock_set_at=began,
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


async def _open(street: Street, line: SimulatedLine, index: int, stack: AsyncExitStack) -> str:
    """The URL under which the line can be reached."""
    if street.host is None:
        try:
            port: PtyPort = await serve_pty(line)
        except (ImportError, OSError) as error:
            raise _cannot(f"no pseudo-terminal on this system ({error}): use --listen") from error
        stack.callback(port.close)
        return f"serial://{port.path}?baud={street.baud or BAUD_OF_PTY}"
    wanted = street.port + index if street.port else 0
    try:
        server = await serve_tcp(line, street.host, wanted)
    except OSError as error:
        raise _cannot(
            f"cannot listen on {street.host}:{wanted}: {error.strerror or error}. "
            f"Expected a free port of this machine; port 0 takes any"
        ) from error
    stack.callback(server.close)
    number = server.sockets[0].getsockname()[1]
    return f"tcp://[{street.host}]:{number}" if ":" in street.host else f"tcp://{street.host}:{number}"


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


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def _place(listen: str | None, *, pty: bool) -> tuple[str | None, int]:
    if pty and listen:
        raise typer.BadParameter("--listen and --pty exclude each other", param_hint="--pty")
    if pty:
        return None, 0
    if listen is None:
        raise typer.BadParameter("expected --listen tcp://HOST:PORT or --pty", param_hint="--listen")
    parts = urlsplit(listen)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme != "tcp" or not host or port is None or parts.path or parts.query:
        raise typer.BadParameter(
            f"{listen!r}, expected tcp://HOST:PORT, for example tcp://127.0.0.1:0", param_hint="--listen"
        )
    return host, port


def _addresses(first: str, count: int, lines: int) -> list[list[MeterAddress]]:
    """Contiguous shares, the first lines one longer where it does not come out even."""
    if not 1 <= count <= METERS_MAX:
        raise typer.BadParameter(f"{count}, expected 1 to {METERS_MAX}", param_hint="--meters")
    if not 1 <= lines <= count:
        raise typer.BadParameter(f"{lines}, expected 1 to the number of meters ({count})", param_hint="--lines")
    try:
        start = int(MeterAddress(first).digits)
        if start + count > 10**12:
            raise typer.BadParameter(f"{count} meters from {first} do not fit 12 digits", param_hint="--first-address")
        addresses = [MeterAddress(f"{start + index:012}") for index in range(count)]
    except BadAddress as error:
        raise typer.BadParameter(str(error), param_hint="--first-address") from error
    share, more = divmod(count, lines)
    ends = [share * (line + 1) + min(line + 1, more) for line in range(lines)]
    return [addresses[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _rate(baud: int | None) -> int | None:
    if baud is not None and not 300 <= baud <= 115_200:
        raise typer.BadParameter(f"{baud}, expected 300 to 115200, usually 2400 or 9600", param_hint="--baud")
    return baud


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise typer.BadParameter(
            f"{name!r} is no time zone, expected a name such as Asia/Shanghai", param_hint="--timezone"
        ) from error


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


def _cannot(problem: str) -> typer.Exit:
    errors.print(f"meter-sim: {problem}", markup=False, soft_wrap=True)
    return typer.Exit(2)
