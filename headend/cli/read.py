"""`headend read LINE METER [QUANTITY]…`: one-shot read, no configuration needed."""

import asyncio
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from firmware_contracts.errors import ContractError
from firmware_contracts.modbus_contract import register_point
from headend.cli.output import ExitCode, exit_code_of, fail, print_json, print_table, stderr
from headend.clock import SystemClock
from headend.drivers.dialect import base_contract, detect_dialect
from headend.drivers.errors import DriverError, LineDown
from headend.drivers.line import Line, Priority
from headend.drivers.listener_connect import DialInConnect
from headend.drivers.protocols import PROTOCOLS, reader_of, session_of, timing_of
from headend.drivers.reading import Reader, Reading
from headend.drivers.transport import LineUrl
from headend.errors import ConfigError, HeadendError
from headend.on_demand import OnDemandRead, answered, unanswered
from headend.quantities import AnyContract, Found, check_address, load_contract, question_of, resolve
from protocols.errors import BadText
from protocols.exchange import Timing
from protocols.values import MeterAddress

__all__ = ["register"]

DEFAULT_QUANTITY = "1-0:1.8.0"
DEFAULT_CONTRACT = "dlt645/base_2007"
DIAL_IN_S = 120.0  # DTUs redial within a minute or two
WAIT_S_MAX = 86_400.0
AUTO = "auto"


def register(app: typer.Typer) -> None:
    app.command("read")(read_command)


def read_command(
    line: Annotated[
        str,
        typer.Argument(
            metavar="LINE",
            help="serial:///dev/ttyUSB0?baud=2400&parity=E, tcp://host:port, or listen://0.0.0.0:9001 "
            "for a DTU that dials in.",
        ),
    ],
    meter: Annotated[
        str,
        typer.Argument(
            metavar="METER",
            help="12 digits as printed; AAAAAAAAAAAA asks the only meter on a line. Of Modbus the unit, 1 to 247.",
        ),
    ],
    quantities: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUANTITY]…",
            help="OBIS code (1-0:1.8.0), di:00010000 or reg:4:0x0048:float32.  [default: 1-0:1.8.0]",
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="dlt645, modbus-rtu (also over tcp://) or modbus-tcp")] = "dlt645",
    contract: Annotated[
        str,
        typer.Option(
            help="What the meter promises: a contract's name or file; auto: ask a DL/T 645 meter which edition it speaks. "
            "[default: dlt645/base_2007; of Modbus none, which leaves reg:…]"
        ),
    ] = "",
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to the first byte of a reply.  [default: 1 serial, 3 tcp]")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=10, help="Tries after a first that stayed silent or came back damaged.")
    ] = 1,
    wait: Annotated[float, typer.Option(help="Seconds within which a DTU has to dial in; listen:// only.")] = DIAL_IN_S,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON list of reads, nothing else on standard output.")
    ] = False,
) -> None:
    """Read quantities of one meter, now.

    Exit code 0: all read; 2: usage, or the line does not open; 3: silent, or hung up without a byte; 4: corrupt reply, or hung
    up in the middle of one; 5: refused by the meter.
    """
    if protocol not in PROTOCOLS:
        fail(f"protocol {protocol!r} is not served by this version; expected one of {', '.join(PROTOCOLS)}")
    if timeout is not None and not 0 < timeout <= 600:
        fail(f"--timeout {timeout}: expected seconds above 0, at most 600")
    if not 0 < wait <= WAIT_S_MAX:
        fail(f"--wait {wait}: expected seconds above 0, at most {WAIT_S_MAX:.0f}")
    try:
        url = LineUrl.parse(line)
        if url.scheme == "serial" and protocol == "modbus-tcp":
            fail(f"{line}: modbus-tcp has no form for a serial port; expected --protocol modbus-rtu")
        address = _address(meter, protocol)
        timing = timing_of(url, protocol, reply_timeout_s=timeout)
        if contract == AUTO and protocol == "dlt645":
            contract = asyncio.run(_detect(url, timing, address, wait))
        if contract or protocol == "dlt645":
            known = _contract(contract or DEFAULT_CONTRACT, protocol)
            wanted = [(quantity, resolve(known, quantity)) for quantity in quantities or [DEFAULT_QUANTITY]]
        else:
            wanted = [(quantity, _register(quantity)) for quantity in quantities or [DEFAULT_QUANTITY]]
    except (HeadendError, ContractError, BadText) as error:
        if json and isinstance(error, LineDown):
            print_json([])
        fail(str(error), _exit_code(error) if isinstance(error, LineDown) and error.wire_sent else ExitCode.USAGE)
    try:
        shown, code = asyncio.run(_read_all(url, timing, protocol, address, wanted, retries, wait))
    except LineDown as error:
        if json:
            print_json([])
        fail(str(error))
    if json:
        print_json(shown)
    else:
        _show(shown)
    raise typer.Exit(code)


async def _detect(url: LineUrl, timing: Timing, address: str, wait_s: float) -> str:
    """Name of the base contract of the edition that the meter answers in; the evidence goes to standard error."""
    dial_in = DialInConnect(clock=SystemClock(), wait_s=wait_s)
    line = Line(url.text, url, timing, connect=dial_in, clock=SystemClock())
    _say_what_is_awaited(url, wait_s)
    await line.connect()
    try:
        found = await detect_dialect(line, address)
    finally:
        line.close()
        await dial_in.aclose()
    for evidence in found.evidence:
        stderr.print(f"[dim]{escape(str(evidence))}[/]")
    if found.dialect is None:
        worst = ExitCode.CORRUPT if any(one.outcome == "corrupt" for one in found.evidence) else ExitCode.SILENT
        fail(
            f"{address} answers in neither edition of DL/T 645; name one with --contract, or look for it: headend scan",
            worst,
        )
    return base_contract(found.dialect)


def _contract(name: str, protocol: str) -> AnyContract:
    speaks = "dlt645" if protocol == "dlt645" else "modbus"
    known = load_contract(name)
    if not known.protocol.startswith(speaks):
        raise ConfigError(f"contract {known.name!r} speaks {known.protocol}; expected one of {speaks}/… for {protocol}")
    return known


def _register(quantity: str) -> Found:
    """A bare register: without a contract nobody knows where a quantity is."""
    if not quantity.startswith("reg:"):
        raise ConfigError(
            f"{quantity}: where a Modbus meter keeps it, its contract says: give --contract modbus/… (`headend contract list` "
            f"names them), or the register itself, such as reg:4:0x0048:float32"
        )
    return register_point(quantity)


def _address(meter: str, protocol: str) -> str:
    """12 digits, or a wildcard: AA pairs at the high end. Of Modbus a unit."""
    if protocol != "dlt645":
        check_address(meter, protocol)
        return meter
    upper = meter.upper()
    digits = upper
    while digits.startswith("AA"):
        digits = digits[2:]
    if len(upper) == 12 and len(digits) < 12 and (not digits or digits.isdecimal()):
        return upper
    return str(MeterAddress(meter))


async def _read_all(
    url: LineUrl,
    timing: Timing,
    protocol: str,
    address: str,
    wanted: list[tuple[str, Found]],
    retries: int,
    wait_s: float,
) -> tuple[list[OnDemandRead], ExitCode]:
    clock = SystemClock()
    dial_in = DialInConnect(clock=clock, wait_s=wait_s)
    line = Line(url.text, url, timing, connect=dial_in, clock=clock, session=session_of(protocol))
    reader = reader_of(line, protocol, retries=retries)
    shown: list[OnDemandRead] = []
    code = ExitCode.GOOD
    _say_what_is_awaited(url, wait_s)
    await line.connect()  # what cannot be opened at all is said once, not once per quantity
    try:
        for quantity, found in wanted:
            began = clock.monotonic()
            try:
                reading = await _read_one(line, reader, address, found, retries)
            except DriverError as error:
                code = code or _exit_code(error)
                shown.append(unanswered(address, quantity, found, error, clock.now(), clock.monotonic() - began))
            else:
                shown += answered(reading.address, quantity, reading, clock.now())
    finally:
        line.close()
        await dial_in.aclose()
    return shown, code


def _say_what_is_awaited(url: LineUrl, wait_s: float) -> None:
    if url.awaited:
        stderr.print(f"[dim]{escape(url.awaited)}, {wait_s:g} s at most[/]")


async def _read_one(line: Line, reader: Reader, address: str, found: Found, retries: int) -> Reading:
    """Reconnects when the connection breaks: serial servers hang up for reasons of their own."""
    broken: LineDown | None = None
    for tries_left in range(retries, -1, -1):
        try:
            if not line.is_up:
                await line.connect()
            return await reader.ask(address, question_of(found), Priority.ON_DEMAND)
        except LineDown as error:
            if broken is None or error.wire_sent:  # what was heard before the break says more than a vain reconnect
                broken = error
            if not tries_left:
                raise broken from None
    raise AssertionError("the loop returns or raises")


def _exit_code(error: DriverError) -> ExitCode:
    """A connection that breaks after it was open is the far end's silence, or damage when bytes had come."""
    if isinstance(error, LineDown):
        return ExitCode.CORRUPT if error.wire_received.strip(b"\xfe") else ExitCode.SILENT
    return exit_code_of(error)


def _show(shown: list[OnDemandRead]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("meter", "quantity", "name", "value", "unit", "at", "ms"):
        table.add_column(column, justify="right" if column in ("value", "ms") else "left")
    for read in shown:
        if isinstance(read.problem, str):
            continue
        table.add_row(
            read.meter,
            escape(read.obis or read.quantity),
            escape(read.name),
            "not measured" if read.value is None else escape(read.value) or '""',
            read.unit,
            read.at or "",
            f"{read.elapsed_ms:.0f}",
        )
    if table.row_count:
        print_table(table)
    for read in shown:
        if isinstance(read.problem, str):
            stderr.print(f"[bold red]{read.kind}:[/] {escape(f'{read.quantity} of {read.meter}: {read.problem}')}")
