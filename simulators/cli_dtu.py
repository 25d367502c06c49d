"""`meter-sim dtu`: modems with DL/T 645 meters behind them that dial in to a head-end.

With `--json` one object per DTU is printed before the first dials, and nothing else on standard output: its url is that of the
line to configure.
"""

import asyncio
import json
import ssl
from collections import Counter
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import typer
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from firmware_contracts.contract import load
from protocols.errors import BadAddress
from protocols.values import MeterAddress
from simulators.cli_support import METERS_MAX, on_signals, rate, run, tell, true_clock, zone
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.dtu import BadPacket, DtuSettings, SimulatedDtu, count_up, packet
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel

__all__ = ["register"]

CONTRACT = "dlt645/base_2007"
SHOWN_MAX = 10


class Fleet(Struct, frozen=True, kw_only=True):
    """What was asked for. meters: of each DTU."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    dtus: list[str]
    meters: list[list[MeterAddress]]
    registration: str
    heartbeat: str
    heartbeat_s: float
    ramp_s: float
    seed: int
    baud: int | None
    timezone: ZoneInfo
    as_json: bool


def register(app: typer.Typer) -> None:
    """Add the command `dtu`."""
    app.command()(dtu)


def dtu(
    connect: Annotated[str, typer.Option(help="tcp://HOST:PORT where the head-end listens.")],
    count: Annotated[int, typer.Option(help="How many DTUs.")] = 1,
    first_id: Annotated[str, typer.Option(help="The others count up from it.")] = "860000000000001",
    registration: Annotated[str, typer.Option(help=r"Sent first; {id} is the id, \r \n \xNN are bytes.")] = "{id}",
    heartbeat: Annotated[str, typer.Option(help="Sent after a silence; written as --registration; empty: none.")] = "",
    heartbeat_s: Annotated[float, typer.Option(help="How long that silence is.")] = 30.0,
    meters_per_dtu: Annotated[int, typer.Option(help="Meters on the line behind each.")] = 1,
    first_address: Annotated[str, typer.Option(help="12 digits; the other meters count up from it.")] = "000000000001",
    ramp_s: Annotated[float, typer.Option(help="They dial for the first time spread over so long.")] = 0.0,
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM file: dial in over TLS, and accept this authority only.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file with certificate and key to show.")] = None,
    seed: Annotated[int, typer.Option(help="Decides meters and when each dials again.")] = 1,
    baud: Annotated[int | None, typer.Option(help="Bytes take the time they would take at this rate.")] = None,
    timezone: Annotated[str, typer.Option(help="Where the meters' clocks are.")] = "Asia/Shanghai",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per DTU on standard output.")] = False,
) -> None:
    """DTUs with DL/T 645 meters behind them, dialling in to a head-end until stopped."""
    host, port = _head_end(connect)
    if heartbeat_s <= 0 or ramp_s < 0:
        raise typer.BadParameter("expected seconds above 0", param_hint="--heartbeat-s")
    fleet = Fleet(
        host=host,
        port=port,
        tls=_tls(tls_ca, tls_certificate),
        dtus=_ids(first_id, count),
        meters=_meters(first_address, count, meters_per_dtu),
        registration=_template(registration, "--registration"),
        heartbeat=_template(heartbeat, "--heartbeat"),
        heartbeat_s=heartbeat_s,
        ramp_s=ramp_s,
        seed=seed,
        baud=rate(baud),
        timezone=zone(timezone),
        as_json=as_json,
    )
    run(_dial_in(fleet))


async def _dial_in(fleet: Fleet) -> None:
    stop = asyncio.Event()
    on_signals(stop)
    _announce(fleet)
    dtus = _make(fleet)
    pause_s = fleet.ramp_s / len(dtus)
    tasks = [asyncio.create_task(dtu.run(index * pause_s)) for index, dtu in enumerate(dtus)]
    try:
        await stop.wait()
    finally:
        connected = sum(dtu.is_connected for dtu in dtus)
        problems = Counter(dtu.problem for dtu in dtus if dtu.problem)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        dialled = sum(dtu.counters.dialled for dtu in dtus)
        asked = sum(dtu.counters.bytes_received > 0 for dtu in dtus)
        totals = (
            f"dialled {dialled} times, {connected} of {len(dtus)} connected at the end, {asked} were sent something"
        )
        common = f"; not connected: {problems.most_common(1)[0][0]}" if problems else ""
        tell(totals + common)


def _make(fleet: Fleet) -> list[SimulatedDtu]:
    began, now = true_clock()
    contract = load(CONTRACT)
    dtus = []
    for index, (name, addresses) in enumerate(zip(fleet.dtus, fleet.meters, strict=True)):
        meters = []
        for address in addresses:
            model = MeterModel(
                address,
                seed=fleet.seed * 1_000_003 + int(address.digits),
                kind=Kind.HOUSEHOLD,
                timezone=fleet.timezone,
                clock_set_at=began,
            )
            meters.append(Dlt645Meter(model, contract))
        settings = DtuSettings(
            host=fleet.host,
            port=fleet.port,
            registration=packet(fleet.registration, name),
            heartbeat=packet(fleet.heartbeat, name),
            heartbeat_s=fleet.heartbeat_s,
            tls=fleet.tls,
        )
        line = SimulatedLine(Dlt645Bus(meters), now, baud=fleet.baud)
        dtus.append(SimulatedDtu(name, settings, line, seed=fleet.seed * 1_000_003 + index))
    return dtus


def _announce(fleet: Fleet) -> None:
    scheme = "listens" if fleet.tls else "listen"
    urls = [f"{scheme}://0.0.0.0:{fleet.port}?dtu={name}" for name in fleet.dtus]
    if fleet.as_json:
        for name, url, meters in zip(fleet.dtus, urls, fleet.meters, strict=True):
            addresses = [str(address) for address in meters]
            typer.echo(json.dumps({"url": url, "protocol": "dlt645", "dtu": name, "meters": addresses}))
        return
    table = Table(title=f"{len(fleet.dtus)} DTUs that dial in to {fleet.host}:{fleet.port}, seed {fleet.seed}")
    for column in ("line", "meters", "first address", "last address"):
        table.add_column(column, overflow="fold")
    for url, meters in list(zip(urls, fleet.meters, strict=True))[:SHOWN_MAX]:
        table.add_row(url, str(len(meters)), str(meters[0]), str(meters[-1]))
    if len(urls) > SHOWN_MAX:
        table.add_row("…", "", "", str(fleet.meters[-1][-1]))
    console = Console()
    console.print(table)
    console.print(f"try: headend read '{urls[0]}' {fleet.meters[0][0]}", markup=False, highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops.")


def _head_end(connect: str) -> tuple[str, int]:
    parts = urlsplit(connect)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme != "tcp" or not host or not port or parts.path or parts.query:
        raise typer.BadParameter(
            f"{connect!r}, expected tcp://HOST:PORT, for example tcp://127.0.0.1:9001", param_hint="--connect"
        )
    return host, port


def _tls(authority: Path | None, certificate: Path | None) -> ssl.SSLContext | None:
    if authority is None:
        if certificate is not None:
            raise typer.BadParameter("it is shown over TLS only: give --tls-ca, too", param_hint="--tls-certificate")
        return None
    try:
        context = ssl.create_default_context(cafile=str(authority))
        if certificate is not None:
            context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise typer.BadParameter(f"{error}; expected PEM files", param_hint="--tls-ca") from error
    return context


def _ids(first: str, count: int) -> list[str]:
    if not 1 <= count <= METERS_MAX:
        raise typer.BadParameter(f"{count}, expected 1 to {METERS_MAX}", param_hint="--count")
    try:
        return count_up(first, count)
    except BadPacket as error:
        raise typer.BadParameter(str(error), param_hint="--first-id") from error


def _template(template: str, option: str) -> str:
    try:
        packet(template, "")
    except BadPacket as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    return template


def _meters(first: str, count: int, each: int) -> list[list[MeterAddress]]:
    total = count * each
    if each < 1 or total > METERS_MAX:
        raise typer.BadParameter(f"{each}, expected 1 to {METERS_MAX} meters in all", param_hint="--meters-per-dtu")
    try:
        start = int(MeterAddress(first).digits)
        if start + total > 10**12:
            raise typer.BadParameter(f"{total} meters from {first} do not fit 12 digits", param_hint="--first-address")
        addresses = [MeterAddress(f"{start + index:012}") for index in range(total)]
    except BadAddress as error:
        raise typer.BadParameter(str(error), param_hint="--first-address") from error
    return [addresses[begin : begin + each] for begin in range(0, total, each)]
