"""`meter-sim modbus`: Modbus meters on a serial line, behind a serial server or on Modbus TCP."""

import asyncio
import enum
import json
from contextlib import AsyncExitStack
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from firmware_contracts.errors import ContractError
from firmware_contracts.modbus_contract import ModbusContract, load_modbus
from protocols.values import MeterAddress
from simulators.cli_support import (
    faults_of,
    line_url,
    listening,
    on_signals,
    place_of_lines,
    rate,
    run,
    serve_line,
    shares,
    tell,
    true_clock,
    zone,
)
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.modbus_bus import ModbusBus
from simulators.modbus_meter import ModbusMeter
from simulators.modbus_tcp import serve_modbus_tcp

__all__ = ["register"]

UNIT_MAX = 247
RATIO_MAX = Decimal(10_000)
DEFAULT_CONTRACT = "modbus/eastron_sdm630"


class Framing(enum.Enum):
    RTU = "rtu"
    TCP = "tcp"


class HolesOption(enum.Enum):
    ALLOWED = "allowed"
    REJECTED = "rejected"


class ModbusStreet(Struct, frozen=True, kw_only=True):
    """What was asked for. host is None for pseudo-terminals; units: of each line."""

    host: str | None
    port: int
    framing: Literal["rtu", "tcp"]
    units: list[range]
    seed: int
    baud: int | None
    contract: ModbusContract
    holes: Literal["allowed", "rejected"] | None
    ct: Decimal
    pt: Decimal
    relay_delay_s: float
    out_of_order: bool
    answers_absent: bool
    faults: Path | None
    timezone: ZoneInfo
    as_json: bool

    @property
    def protocol(self) -> str:
        return f"modbus-{self.framing}"


def register(app: typer.Typer) -> None:
    app.command()(modbus)


def modbus(
    listen: Annotated[str | None, typer.Option(help="tcp://HOST:PORT; port 0 takes a free one.")] = None,
    pty: Annotated[bool, typer.Option("--pty", help="Open a pseudo-terminal instead, and print its path.")] = False,
    framing: Annotated[
        Framing, typer.Option(help="rtu: frames with CRC, also over TCP; tcp: Modbus TCP.")
    ] = Framing.RTU,
    contract: Annotated[str, typer.Option(help="The contract they play.")] = DEFAULT_CONTRACT,
    meters: Annotated[int, typer.Option(help="How many meters.")] = 1,
    first_unit: Annotated[int, typer.Option(help="The others of a line count up from it; 247 is the last.")] = 1,
    lines: Annotated[int, typer.Option(help="Spread the meters over so many lines; ports count up from --listen.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides customers, start registers and reply delays.")] = 1,
    baud: Annotated[int | None, typer.Option(help="Bytes take the time they would take at this rate.")] = None,
    holes: Annotated[
        HolesOption | None, typer.Option(help="Registers without a point, instead of what the contract says.")
    ] = None,
    ct: Annotated[str, typer.Option(help="Ratio of the current transformers before the meters.")] = "1",
    pt: Annotated[str, typer.Option(help="Ratio of the voltage transformers before the meters.")] = "1",
    relay_delay: Annotated[float, typer.Option(help="Seconds until a contact follows its order.")] = 0.0,
    out_of_order: Annotated[
        bool, typer.Option("--out-of-order", help="Modbus TCP: replies overtake each other.")
    ] = False,
    answer_absent: Annotated[
        bool, typer.Option("--answer-absent", help="Modbus TCP: units that are not there get exception 0BH.")
    ] = False,
    faults: Annotated[Path | None, typer.Option(help="TOML file of faults; read again when it changes.")] = None,
    timezone: Annotated[str, typer.Option(help="Where the meters' clocks are.")] = "Asia/Shanghai",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")] = False,
) -> None:
    """Modbus meters: RTU on pseudo-terminals, RTU over TCP (as behind a serial server), or Modbus TCP."""
    if framing is Framing.TCP and pty:
        raise typer.BadParameter("Modbus TCP needs --listen, a serial line has --framing rtu", param_hint="--framing")
    if framing is not Framing.TCP and (out_of_order or answer_absent):
        raise typer.BadParameter("--out-of-order and --answer-absent need --framing tcp", param_hint="--framing")
    host, port = place_of_lines(listen, lines, pty=pty)
    run(
        _serve(
            ModbusStreet(
                host=host,
                port=port,
                framing=framing.value,
                units=_units(first_unit, meters, lines),
                seed=seed,
                baud=rate(baud),
                contract=_contract(contract),
                holes=None if holes is None else holes.value,
                ct=_ratio(ct, "--ct"),
                pt=_ratio(pt, "--pt"),
                relay_delay_s=_delay(relay_delay),
                out_of_order=out_of_order,
                answers_absent=answer_absent,
                faults=faults,
                timezone=zone(timezone),
                as_json=as_json,
            )
        )
    )


async def _serve(street: ModbusStreet) -> None:
    stop = asyncio.Event()
    on_signals(stop)
    began, now = true_clock()
    async with AsyncExitStack() as stack:
        urls, buses, before = [], [], 0
        for index, units in enumerate(street.units):
            bus = _bus(street, units, before, began)
            buses.append(bus)
            before += len(units)
            port = street.port + index if street.port else 0
            if street.framing == "tcp":
                assert street.host is not None
                async with listening(street.host, port):
                    server = await serve_modbus_tcp(bus, now, street.host, port, baud=street.baud)
                stack.callback(server.close)
                urls.append(line_url(server, street.host))
                continue
            line = SimulatedLine(bus, now, baud=street.baud)
            stack.callback(line.close)
            # Linux pseudo-terminals have no parity, whatever the meter's own port has.
            settings = f"baud={street.baud or street.contract.serial.baud}&parity=N"
            urls.append(await serve_line(line, street.host, port, stack, settings=settings))
        if street.faults is not None:
            await stack.enter_async_context(faults_of(street.faults, began, buses))
        _report_unmodelled(buses[0])
        _announce(street, urls)
        await stop.wait()


def _bus(street: ModbusStreet, units: range, before: int, began: datetime) -> ModbusBus:
    meters = []
    for index, unit in enumerate(units, before):
        model = MeterModel(
            MeterAddress(f"{index + 1:012}"),
            seed=street.seed * 1_000_003 + index,
            kind=_kind(index, street.contract),
            timezone=street.timezone,
            clock_set_at=began,
        )
        meters.append(
            ModbusMeter(
                model,
                street.contract,
                unit,
                ct=street.ct,
                pt=street.pt,
                holes=street.holes,
                relay_delay_s=street.relay_delay_s,
            )
        )
    return ModbusBus(
        meters,
        framing=street.framing,
        baud=street.baud,
        out_of_order=street.out_of_order,
        answers_absent=street.answers_absent,
    )


def _kind(index: int, contract: ModbusContract) -> Kind:
    """A meter of three phases belongs to a factory; of twenty others sixteen are households and four shops."""
    if contract.limits.phases == 3:
        return Kind.FACTORY
    return Kind.SHOP if index % 20 >= 16 else Kind.HOUSEHOLD


def _report_unmodelled(bus: ModbusBus) -> None:
    if unmodelled := bus.meters[0].image.unmodelled:
        tell(f"not modelled, read as not measured: {', '.join(point.name for point in unmodelled)}")


def _announce(street: ModbusStreet, urls: list[str]) -> None:
    if street.as_json:
        for url, units in zip(urls, street.units, strict=True):
            meters = [str(unit) for unit in units]
            typer.echo(json.dumps({"url": url, "protocol": street.protocol, "meters": meters}))
        return
    table = Table(title=f"{street.contract.name} meters, {street.protocol}, seed {street.seed}")
    for column in ("line", "meters", "first unit", "last unit"):
        table.add_column(column, overflow="fold")
    for url, units in zip(urls, street.units, strict=True):
        table.add_row(url, str(len(units)), str(units[0]), str(units[-1]))
    console = Console()
    console.print(table)
    console.print(
        f"try: headend read {urls[0]} {street.units[0][0]} --protocol {street.protocol} --contract {street.contract.name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print("Ctrl-C stops.")


def _units(first: int, count: int, lines: int) -> list[range]:
    """Of each line; units are counted from `first` on every one, being known on their own line only."""
    units = [range(first, first + end - begin) for begin, end in shares(count, lines)]
    if not 1 <= first <= UNIT_MAX:
        raise typer.BadParameter(f"{first}, expected 1 to {UNIT_MAX}", param_hint="--first-unit")
    if (last := max(each[-1] for each in units)) > UNIT_MAX:
        raise typer.BadParameter(
            f"a line would end with unit {last}, and {UNIT_MAX} is the last: take more --lines", param_hint="--meters"
        )
    return units


def _contract(name: str) -> ModbusContract:
    try:
        return load_modbus(name)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="--contract") from error


def _ratio(text: str, option: str) -> Decimal:
    try:
        ratio = Decimal(text)
    except InvalidOperation:
        ratio = Decimal(0)
    if not ratio.is_finite() or not 0 < ratio <= RATIO_MAX:
        raise typer.BadParameter(f"{text!r}, expected a number above 0, for example 40", param_hint=option)
    return ratio


def _delay(seconds: float) -> float:
    if not 0 <= seconds <= 3600:
        raise typer.BadParameter(f"{seconds}, expected 0 to 3600 seconds", param_hint="--relay-delay")
    return seconds
