"""`headend contract run | list | show | lint`: what contracts say, and whether a device keeps its own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from firmware_contracts.conformance import Check, Examination
from firmware_contracts.contract import Contract
from firmware_contracts.errors import ContractError
from firmware_contracts.files import layers, merged
from firmware_contracts.findings import Device, Finding, Report, Verdict
from firmware_contracts.library import CONCENTRATORS, contract_names, protocol_of
from firmware_contracts.modbus_contract import ModbusContract
from headend.cli.contract_html import report_html
from headend.cli.contract_lint import lint
from headend.cli.contract_modbus import find_point, modbus_json, point_json, show_modbus, show_point
from headend.cli.contract_report import report_json, report_junit
from headend.cli.contract_show import contract_json, item_json, show_contract, show_item
from headend.cli.output import ExitCode, exit_code_of, fail, print_json, print_table, stderr, stdout
from headend.clock import SystemClock
from headend.conformance import SilentMeter, chosen_checks, examine
from headend.drivers.line import Line
from headend.drivers.protocols import timing_of
from headend.drivers.transport import LineUrl, connect
from headend.errors import HeadendError
from headend.quantities import load_contract
from protocols.dlt645.items import Di
from protocols.errors import BadAddress, BadText
from protocols.exchange import Timing
from protocols.values import MeterAddress

__all__ = ["register"]

COLOURS = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.NOT_OFFERED: "bright_black",
    Verdict.NOT_JUDGED: "yellow",
}
CAME_SHOWN_MAX = 160
FRAMES_SHOWN_MAX = 12  # failures: beyond that the terminal scrolls away what matters
ContractName = Annotated[str, typer.Argument(metavar="CONTRACT", help="A contract's name or file: dlt645/base_2007.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")]


def register(app: typer.Typer) -> None:
    contracts = typer.Typer(help="What meters promise, and whether they keep it.", no_args_is_help=True)
    contracts.command("run")(run)
    contracts.command("list")(list_)
    contracts.command("show")(show)
    contracts.command("lint")(lint)
    app.add_typer(contracts, name="contract")


def run(
    contract: ContractName,
    line: Annotated[
        str,
        typer.Argument(
            metavar="LINE",
            help="serial:///dev/ttyUSB0 (rate and parity from the contract unless given) or tcp://host:port",
        ),
    ],
    meter: Annotated[str, typer.Argument(metavar="METER", help="12 digits as printed on the meter.")],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Checks by DI, family or name, * allowed; may be given several times."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to the first byte of a reply.  [default: 1 serial, 3 tcp]")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, max=10, help="Further tries of a read that stayed without reply.")] = 1,
    timezone: Annotated[str, typer.Option(help="Where the meter's clock is.")] = "Asia/Shanghai",
    clock_limit: Annotated[float, typer.Option(help="Seconds by which the meter's clock may be off.")] = 60.0,
    allow_writes: Annotated[
        bool,
        typer.Option(
            "--allow-writes", help="Also give the meter its own time and have it freeze now. Never the relay."
        ),
    ] = False,
    json: AsJson = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one HTML file without outside parts.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List every check, not only what is wrong.")] = False,
) -> None:
    """Hold a device against its contract. It only reads, and never switches anything.

    Exit code 0: nothing contradicts the contract (items that it does not offer are no contradiction); 2: usage, or the line
    does not open; 3: the meter is silent; 4: only damaged replies; 6: something contradicts the contract.
    """
    if timeout is not None and not 0 < timeout <= 600:
        fail(f"--timeout {timeout}: expected seconds above 0, at most 600")
    try:
        known = _dlt645(contract)
        url = LineUrl.parse(_with_serial_settings(line, known))
        wanted = chosen_checks(known, only or [], writes=allow_writes)
        device = Device(address=MeterAddress(meter).digits, zone=_zone(timezone), clock_limit_s=clock_limit)
    except (HeadendError, ContractError) as error:
        fail(str(error))
    except BadAddress as error:
        fail(f"{error}; a meter alone on its line tells its address: headend read {line} AAAAAAAAAAAA di:04000401")
    timing = timing_of(url, "dlt645", reply_timeout_s=timeout)
    try:
        report = asyncio.run(_examine(url, timing, known, device, wanted, allow_writes, retries))
    except SilentMeter as error:
        if json:
            print_json(
                {"contract": contract, "line": line, "meter": meter, "problem": str(error), "kind": error.error.kind}
            )
        fail(str(error), exit_code_of(error.error))
    except HeadendError as error:
        fail(str(error))
    _write(junit, report_junit(report) if junit else "")
    _write(html, report_html(report) if html else "")
    if json:
        print_json(report_json(report))
    else:
        _show(report, every=every)
    raise typer.Exit(ExitCode.CONTRADICTED if report.failures else ExitCode.GOOD)


def _with_serial_settings(line: str, contract: Contract) -> str:
    """A serial line without rate or parity takes those the meter leaves the factory with."""
    parts = urlsplit(line)
    if parts.scheme != "serial":
        return line
    serial, given = contract.serial, dict(parse_qsl(parts.query))
    settings = {"baud": serial.baud, "parity": serial.parity, "stop": serial.stop_bits}
    added = "&".join(f"{key}={value}" for key, value in settings.items() if key not in given)
    return f"{line}{'&' if parts.query else '?'}{added}" if added else line


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        fail(f"--timezone {name!r} is no time zone, expected a name such as Asia/Shanghai")


async def _examine(
    url: LineUrl, timing: Timing, contract: Contract, device: Device, wanted: list[Check], writes: bool, retries: int
) -> Report:
    clock = SystemClock()
    line = Line(url.text, url, timing, connect=connect, clock=clock)
    await line.connect()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[current]}", style="bright_black"),
        console=Console(stderr=True),
        transient=True,
        disable=not stderr.is_terminal,
    )
    try:
        with bar:
            task = bar.add_task(device.address, total=None, current="")

            def progress(examination: Examination) -> None:
                done, total = len(examination.findings), examination.total
                bar.update(task, completed=done, total=total, current=escape(examination.current[:48]))

            return await examine(
                line, contract, device, clock=clock, wanted=wanted, writes=writes, retries=retries, progress=progress
            )
    finally:
        line.close()


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}")


def _show(report: Report, *, every: bool) -> None:
    wanted = [finding for finding in report.findings if every or finding.verdict in (Verdict.FAIL, Verdict.NOT_JUDGED)]
    with_frames = len(report.failures) <= FRAMES_SHOWN_MAX
    for finding in wanted:
        _show_finding(finding, with_frames=with_frames)
    if wanted:
        if report.failures and not with_frames:
            stdout.print("(frames: --json, --junit or --html; or fewer checks with --only)", style="bright_black")
        stdout.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("family")
    for verdict in Verdict:
        table.add_column(verdict.value, justify="right", style=COLOURS[verdict])
    for family, counts in report.by_family().items():
        table.add_row(family, *(str(counts[verdict] or "") for verdict in Verdict))
    table.add_section()
    table.add_row("all", *(str(report.count(verdict)) for verdict in Verdict))
    print_table(table)
    if lacking := report.lacking():
        stdout.print(f"\nnot offered at all: {', '.join(lacking)}")
    failures = len(report.failures)
    outcome = f"[bold red]{failures} contradict the contract[/]" if failures else "[green]the contract is kept[/]"
    took_s = report.took.total_seconds()
    stdout.print(
        f"\n{report.meter} against {report.contract}: {len(report.findings)} checks in {took_s:.1f} s, {outcome}"
    )


def _show_finding(finding: Finding, *, with_frames: bool) -> None:
    colour = COLOURS[finding.verdict]
    name = f"{finding.di} {finding.title}".strip()
    came = finding.came if len(finding.came) <= CAME_SHOWN_MAX else f"{finding.came[:CAME_SHOWN_MAX]}…"
    stdout.print(f"[{colour}]{finding.verdict.value:<11}[/] {escape(name)}: {escape(came)}")
    if finding.verdict is Verdict.FAIL:
        stdout.print(f"            expected {escape(finding.expected)}", style="bright_black")
        for frame in finding.frames if with_frames else ():
            stdout.print(f"            > {frame.sent.hex(' ').upper()}", style="bright_black")
            stdout.print(f"            < {frame.received.hex(' ').upper() or '(nothing)'}", style="bright_black")


def _dlt645(name: str) -> Contract:
    known = load_contract(name)
    if not isinstance(known, Contract):
        fail(
            f"{name} is a contract of {known.protocol}; conformance runs are for DL/T 645. headend contract lint {name} "
            f"looks at the contract itself, and headend read at a meter's values"
        )
    return known


def list_(json: AsJson = False) -> None:
    """The contracts that come with the head-end."""
    found = [_listed(name) for name in contract_names()]
    if json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("contract", "protocol", "serial", "what it describes"):
        table.add_column(column)
    for about in found:
        serial = about["serial"].text if about.get("serial") and about.get("port") != "ethernet" else ""
        table.add_row(about["contract"], about["protocol"], serial, escape(about["description"]))
    print_table(table)


def _listed(name: str) -> dict[str, Any]:
    if protocol_of(name) in CONCENTRATORS:
        return _about(name)
    known = load_contract(name)
    return modbus_json(known) if isinstance(known, ModbusContract) else contract_json(known)


def _about(name: str) -> dict[str, Any]:
    """The first section of a concentrator's contract; what its messages mean is in docs/concentrators.md."""
    return {"description": ""} | merged(layers(name), "contract") | {"contract": name}


def show(
    contract: ContractName,
    item: Annotated[
        str | None,
        typer.Argument(
            metavar="[ITEM]",
            help="DL/T 645: a data identifier, 8 hex digits (1997: 4). Modbus: name, OBIS code or reg:….",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """What a contract says: limits, quirks, items or points; or all it knows of one of them."""
    try:
        if protocol_of(contract) in CONCENTRATORS:
            _show_about(contract, item, as_json=json)
            return
        as_json, parts = _shown(load_contract(contract), item)
    except (HeadendError, ContractError, BadText) as error:
        fail(str(error))
    if json:
        print_json(as_json)
        return
    for part in parts:
        if isinstance(part, Table):
            print_table(part)
        else:
            stdout.print(part)


def _shown(known: Contract | ModbusContract, item: str | None) -> tuple[dict[str, Any], Iterator[RenderableType]]:
    """The contract, or what it has for `item`, for programs and for people."""
    if isinstance(known, ModbusContract):
        if item is None:
            return modbus_json(known, points=True), show_modbus(known)
        point = find_point(known, item)
        return point_json(point), show_point(point)
    if item is None:
        return contract_json(known, items=True), show_contract(known)
    spec = known.find(Di(item.removeprefix("di:")))
    return item_json(spec), show_item(spec)


def _show_about(name: str, item: str | None, *, as_json: bool) -> None:
    if item is not None:
        fail(f"{name} describes a concentrator: it has messages, not items")
    about = _about(name)
    if as_json:
        print_json(about)
        return
    for key, said in about.items():
        stdout.print(f"{key}: {said}", markup=False)
