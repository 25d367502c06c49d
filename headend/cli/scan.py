"""`headend scan LINE`: find meters, baud rate, parity, dialect."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

import typer
from msgspec import UNSET, Struct, UnsetType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from headend.cli.output import ExitCode, fail, print_json, stderr, stdout
from headend.clock import SystemClock
from headend.drivers.errors import LineDown
from headend.drivers.transport import BAUDS, PARITIES, LineUrl, connect
from headend.errors import HeadendError
from headend.scanning.planned import Comparison, PlannedMeter, compare, load_planned
from headend.scanning.scanner import BAUDS_FIRST, DIALECTS, PARITIES_FIRST, SETTING_TUNNEL, Scanner, ScanOptions, Step
from headend.scanning.state import Found, ScanState, Setting, SettingReport, load_state
from protocols.dlt645.control import Dialect

__all__ = ["register"]


class _Result(Struct, kw_only=True):
    """baud, parity: of the first setting at which a meter answered; null behind a tunnel, and where none did."""

    line: str
    baud: int | None
    parity: str | None
    found: list[Found]
    exchanges: int
    elapsed_s: float
    settings: list[SettingReport]
    unconfirmed: list[str]
    plan: Comparison | UnsetType = UNSET


def register(app: typer.Typer) -> None:
    app.command("scan")(scan_command)


def scan_command(
    line: Annotated[
        str,
        typer.Argument(
            metavar="LINE", help="serial:///dev/ttyUSB0 or tcp://host:port; baud and parity in it restrict."
        ),
    ],
    baud: Annotated[
        list[int] | None, typer.Option(help="Only this rate; may be given again.  [default: 2400 9600 1200 4800]")
    ] = None,
    parity: Annotated[
        list[str] | None, typer.Option(help="Only this parity, E, N or O; may be given again.  [default: E N]")
    ] = None,
    dialect: Annotated[str | None, typer.Option(help="Only 2007 or 1997.  [default: both]")] = None,
    plan: Annotated[Path | None, typer.Option(help="CSV with columns id,line,address: what should be there.")] = None,
    plan_line: Annotated[str | None, typer.Option(help="Which line of the plan this is.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Written after each exchange; a scan that was stopped goes on from it.")
    ] = None,
    listen: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to listen before each first word.")] = 3.0,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds to a reply.  [default: what the standard allows; learnt behind tcp, 3 at most]"),
    ] = None,
    silences: Annotated[
        int, typer.Option(min=1, max=5, help="How often a pattern must stay silent; more for lines that lose requests.")
    ] = 1,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Look below every meter for one it may drown: 100 exchanges each.")
    ] = False,
    all_settings: Annotated[
        bool, typer.Option("--all-settings", help="Go on with other rates and parities after meters were found.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Talk although another master does.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else on standard output.")] = False,
) -> None:
    """Find every meter on a line, with rate, parity and dialect. Only reads are sent.

    Exit code 0: meters found; 2: usage, the line does not open, or somebody else talks on it; 3: nothing answered.
    """
    if timeout is not None and not 0 < timeout <= 600:
        fail(f"--timeout {timeout}: expected seconds above 0, at most 600")
    try:
        url = LineUrl.parse(line)
        planned = load_planned(plan, plan_line) if plan is not None else []
        options = ScanOptions(
            settings=_settings(url, baud or [], [text.upper() for text in parity or []]),
            dialects=_dialects(dialect),
            wait_s=timeout,
            listen_s=listen,
            silences=silences,
            thorough=thorough,
            all_settings=all_settings,
            force=force,
            planned=tuple(planned),
        )
        saved = load_state(state) if state is not None else None
        with _progress(len(options.settings)) as show:
            scanner = Scanner(
                url, options, connect=connect, clock=SystemClock(), state=saved, state_path=state, on_progress=show
            )
            done = asyncio.run(scanner.run())
    except LineDown as error:
        fail(f"{error}{_go_on(state)}")
    except HeadendError as error:
        fail(str(error))
    except KeyboardInterrupt:
        stderr.print(f"[yellow]stopped[/]{_go_on(state)}")
        raise SystemExit(130) from None
    result = _result(url, done, planned if plan is not None else None)
    if json:
        print_json(result)
    else:
        _show(result)
    if done.reports and done.reports[-1].verdict == "busy":
        fail(done.reports[-1].text)
    raise typer.Exit(ExitCode.GOOD if result.found else ExitCode.SILENT)


def _settings(url: LineUrl, bauds: list[int], parities: list[str]) -> tuple[Setting, ...]:
    """Every rate at the first parity, then at the next. What stands in the URL restricts, an option more so."""
    if url.scheme != "serial":
        if bauds or parities:
            fail("--baud and --parity are for serial lines; a tunnel's rate is set where the wire is")
        return (SETTING_TUNNEL,)
    if wrong := [rate for rate in bauds if rate not in BAUDS]:
        fail(f"--baud {wrong[0]}: expected one of {', '.join(map(str, BAUDS))}")
    if wrong_parity := [text for text in parities if text not in PARITIES]:
        fail(f"--parity {wrong_parity[0]}: expected one of {', '.join(PARITIES)}")
    given = dict(parse_qsl(urlsplit(url.text).query))
    if not bauds and "baud" in given and url.baud is not None:
        bauds = [url.baud]
    if not parities and "parity" in given:
        parities = [url.parity]
    rates = bauds or BAUDS_FIRST
    kinds = parities or PARITIES_FIRST
    return tuple(Setting(rate, kind) for kind in kinds for rate in rates)


def _dialects(text: str | None) -> tuple[Dialect, ...]:
    if text is None:
        return DIALECTS
    for dialect in DIALECTS:
        if text == dialect.value:
            return (dialect,)
    fail(f"--dialect {text}: expected one of {', '.join(dialect.value for dialect in DIALECTS)}")


def _go_on(state: Path | None) -> str:
    return f"; the same command goes on from {state}" if state is not None and state.exists() else ""


@contextlib.contextmanager
def _progress(count: int) -> Iterator[Callable[[Step], None]]:
    """A bar on standard error, where that is a terminal; addresses appear above it as they are found."""
    if not stderr.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.fields[setting]}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[found]} found"),
        TextColumn("{task.fields[exchanges]} exchanges"),
        TextColumn("about {task.fields[left]} left"),
        TextColumn("[dim]{task.description}[/]"),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("", total=1.0, setting="", found=0, exchanges=0, left="?")

        def show(step: Step) -> None:
            if step.newest:
                bar.console.print(f"[green]found[/] {step.newest}")
            bar.update(
                task,
                completed=step.share,
                description=escape(step.doing),
                setting=f"{step.setting} ({step.number}/{count})",
                found=step.found,
                exchanges=step.exchanges,
                left=str(timedelta(seconds=round(step.left_s))),
            )

        yield show


def _result(url: LineUrl, state: ScanState, planned: list[PlannedMeter] | None) -> _Result:
    first = state.found[0] if state.found else None
    return _Result(
        line=url.text,
        baud=first.baud if first else None,
        parity=first.parity if first else None,
        found=sorted(state.found, key=lambda found: found.address),
        exchanges=state.exchanges,
        elapsed_s=state.elapsed_s,
        settings=state.reports,
        unconfirmed=state.unconfirmed,
        plan=UNSET if planned is None else compare(planned, [found.address for found in state.found]),
    )


def _show(result: _Result) -> None:
    if result.found:
        table = Table(box=None, pad_edge=False)
        for column in ("address", "dialect", "setting", "contract", "answered"):
            table.add_column(column, overflow="fold")
        for found in result.found:
            setting = str(Setting(found.baud, found.parity))
            evidence = ", ".join(dict.fromkeys(text.partition(" to ")[0] for text in found.evidence))
            table.add_row(found.address, found.dialect, setting, found.contract_hint, escape(evidence))
        stdout.print(table)
    for report in result.settings:
        colour = {"found": "green", "empty": "dim", "unreadable": "yellow", "busy": "red"}[report.verdict]
        at = Setting(report.baud, report.parity)
        stdout.print(f"[{colour}]{report.verdict:<10}[/] {at}: {escape(report.text)}  [dim]{report.elapsed_s:.0f} s[/]")
    if result.unconfirmed:
        stdout.print(f"[yellow]heard, but silent when asked:[/] {', '.join(result.unconfirmed)}")
    if isinstance(result.plan, Comparison):
        _show_comparison(result.plan)
    stdout.print(
        f"{len(result.found)} found, {result.exchanges} exchanges, {timedelta(seconds=round(result.elapsed_s))}"
    )


def _show_comparison(plan: Comparison) -> None:
    stdout.print(f"plan: {len(plan.matched)} matched, {len(plan.missing)} missing, {len(plan.unexpected)} unexpected")
    for meter in plan.missing:
        stdout.print(f"[red]missing[/]    {meter.address}  {escape(meter.id)}")
    for address in plan.unexpected:
        stdout.print(f"[yellow]unexpected[/] {address}")
