"""`headend read LINE METER [QUANTITY]…`: one-shot read, no configuration needed."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct
from rich.markup import escape
from rich.table import Table

from firmware_contracts.contract import load
from firmware_contracts.errors import ContractError
from headend.cli.output import ExitCode, exit_code_of, fail, print_json, stderr, stdout
from headend.clock import SystemClock
from headend.config import TUNNEL_REPLY_TIMEOUT_S
from headend.drivers.dlt645 import Dlt645Driver, ItemReading
from headend.drivers.errors import DriverError, LineDown
from headend.drivers.line import Line, Priority
from headend.drivers.transport import LineUrl, connect
from headend.errors import HeadendError
from headend.feed.envelope import iso_utc
from headend.quantities import resolve
from protocols.dlt645.items import ItemSpec
from protocols.dlt645.session import Timing
from protocols.errors import BadAddress
from protocols.values import MeterAddress

__all__ = ["register"]

DEFAULT_QUANTITY = "1-0:1.8.0"


class _Shown(Struct, kw_only=True, omit_defaults=False):
    """One line of the answer, as design 5.2 names it; `problem` and `kind` only where there is one."""

    meter: str
    quantity: str
    obis: str | None
    name: str = ""
    value: str | None
    unit: str | None
    at: str | None = None
    read_at: str | None = None
    received_at: str
    quality: list[str]
    wire_sent: str
    wire_received: str
    elapsed_ms: float
    problem: str | msgspec.UnsetType = msgspec.UNSET
    kind: str | msgspec.UnsetType = msgspec.UNSET


def register(app: typer.Typer) -> None:
    app.command("read")(read_command)


def read_command(
    line: Annotated[
        str, typer.Argument(metavar="LINE", help="serial:///dev/ttyUSB0?baud=2400&parity=E or tcp://host:port")
    ],
    meter: Annotated[
        str, typer.Argument(metavar="METER", help="12 digits as printed; AAAAAAAAAAAA asks the only meter on a line.")
    ],
    quantities: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUANTITY]…", help="OBIS code (1-0:1.8.0) or di:00010000.  [default: 1-0:1.8.0]"),
    ] = None,
    protocol: Annotated[str, typer.Option(help="dlt645")] = "dlt645",
    contract: Annotated[
        str, typer.Option(help="What the meter promises: a contract's name or file.")
    ] = "dlt645/base_2007",
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to the first byte of a reply.  [default: 1 serial, 3 tcp]")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=10, help="Tries after a first that stayed silent or came back damaged.")
    ] = 1,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON list of reads, nothing else on standard output.")
    ] = False,
) -> None:
    """Read quantities of one meter, now.

    Exit code 0: all read; 2: usage, or the line does not open; 3: silent; 4: corrupt reply; 5: refused by the meter.
    """
    if protocol != "dlt645":
        fail(f"protocol {protocol!r} is not served by this version; expected dlt645")
    if timeout is not None and not 0 < timeout <= 600:
        fail(f"--timeout {timeout}: expected seconds above 0, at most 600")
    try:
        url = LineUrl.parse(line)
        address = _address(meter)
        known = load(contract)
        specs = [(quantity, resolve(known, quantity)) for quantity in quantities or [DEFAULT_QUANTITY]]
    except (HeadendError, ContractError, BadAddress) as error:
        fail(str(error))
    default_s = Timing().reply_timeout_s if url.scheme == "serial" else TUNNEL_REPLY_TIMEOUT_S
    timing = Timing(baud=url.baud, reply_timeout_s=timeout or default_s)
    try:
        shown, code = asyncio.run(_read_all(url, timing, address, specs, retries))
    except LineDown as error:
        if json:
            print_json([])
        fail(str(error))
    if json:
        print_json(shown)
    else:
        _show(shown)
    raise typer.Exit(code)


def _address(meter: str) -> str:
    """12 digits, or a wildcard: AA pairs at the high end."""
    upper = meter.upper()
    digits = upper
    while digits.startswith("AA"):
        digits = digits[2:]
    if len(upper) == 12 and len(digits) < 12 and (not digits or digits.isdecimal()):
        return upper
    return str(MeterAddress(meter))


async def _read_all(
    url: LineUrl, timing: Timing, address: str, specs: list[tuple[str, ItemSpec]], retries: int
) -> tuple[list[_Shown], ExitCode]:
    clock = SystemClock()
    line = Line(url.text, url, timing, connect=connect, clock=clock)
    driver = Dlt645Driver(line, retries=retries)
    shown: list[_Shown] = []
    code = ExitCode.GOOD
    await line.connect()
    try:
        for quantity, spec in specs:
            try:
                reading = await driver.read(address, spec, Priority.ON_DEMAND)
            except DriverError as error:
                code = code or exit_code_of(error)
                shown.append(_failed(address, quantity, spec, error, clock.now()))
            else:
                shown += _shown(quantity, reading, clock.now())
    finally:
        line.close()
    return shown, code


def _shown(quantity: str, reading: ItemReading, now: datetime) -> list[_Shown]:
    return [
        _Shown(
            meter=reading.address,
            quantity=quantity,
            obis=str(value.obis) if value.obis else None,
            name=value.name,
            value=None if value.content is None else str(value.content),
            unit=value.unit.value,
            at=value.at.isoformat() if value.at else None,
            received_at=iso_utc(now),
            quality=["missing"] if value.content is None else ["measured"],
            wire_sent=_hex(reading.wire_sent),
            wire_received=_hex(reading.wire_received),
            elapsed_ms=round(reading.elapsed_s * 1000, 1),
        )
        for value in reading.values
    ]


def _failed(address: str, quantity: str, spec: ItemSpec, error: DriverError, now: datetime) -> _Shown:
    return _Shown(
        meter=address,
        quantity=quantity,
        obis=str(spec.obis) if spec.obis else None,
        name=spec.name,
        value=None,
        unit=None,
        received_at=iso_utc(now.astimezone(UTC)),
        quality=["missing"],
        wire_sent=_hex((error.wire_sent,)),
        wire_received=_hex((error.wire_received,)),
        elapsed_ms=0.0,
        problem=str(error),
        kind=error.kind,
    )


def _hex(wires: tuple[bytes, ...]) -> str:
    return " ".join(wire.hex(" ").upper() for wire in wires if wire)


def _show(shown: list[_Shown]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("meter", "quantity", "name", "value", "unit", "at", "ms"):
        table.add_column(column, justify="right" if column in ("value", "ms") else "left")
    problems: dict[str, Any] = {}
    for read in shown:
        if isinstance(read.problem, str):
            problems[read.quantity] = read
        else:
            table.add_row(
                read.meter,
                read.obis or read.quantity,
                escape(read.name),
                read.value or "not measured",
                read.unit,
                read.at or "",
                f"{read.elapsed_ms:.0f}",
            )
    if table.row_count:
        stdout.print(table)
    for quantity, read in problems.items():
        stderr.print(f"[bold red]{read.kind}:[/] {escape(quantity)} of {read.meter}: {escape(read.problem)}")
