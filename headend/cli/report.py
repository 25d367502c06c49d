"""`headend report collection`"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.client import TokenOption, UrlOption, body_of, calling
from headend.cli.output import print_json, print_table, stdout

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    report = typer.Typer(help="Reports of a running head-end.", no_args_is_help=True)
    report.command("collection")(collection)
    report.callback()(_group)
    app.add_typer(report, name="report")


def _group() -> None:
    """Keeps `collection` a subcommand while it is the only one."""


def collection(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Take the address from this configuration.")
    ] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    day: Annotated[str | None, typer.Option(help="Local day, 2026-11-21.  [default: yesterday]")] = None,
    meters: Annotated[int, typer.Option(min=0, max=100, help="How many of the meters that miss most are shown.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """How much of what was expected of a day has been collected, the worst first, with the reasons.

    Exit code 2: usage, or refused by the head-end; 3: no answer.
    """
    with calling(config, url, token) as client:
        report = body_of(client.get("/v1/collection-rate", params={} if day is None else {"day": day}))
    if json:
        print_json(report)
        return
    stdout.print(_headline(report))
    if report["lines"]:
        print_table(_table("line", report["lines"], report["target"]))
    if report["meters"][:meters]:
        stdout.print()
        print_table(_table("meter", report["meters"][:meters], report["target"]))
        if len(report["meters"]) > meters:
            stdout.print("and more meters that miss less; --meters shows up to 100, the day's manifest names all")


def _headline(report: dict[str, Any]) -> str:
    found = report["intervals"]
    if not found["expected"]:
        return escape(f"{report['day']} ({report['timezone']}): nothing was expected")
    verdict = "[green]met[/]" if report["meets"] else "[red]not met[/]"
    still = "" if report["is_over"] else ", so far"
    still += f", {found['states'].get('open', 0)} still open" if not report["is_final"] else ""
    return (
        f"{escape(report['day'])} ({escape(report['timezone'])}): [bold]{_percent(found['rate'])}[/] collected, "
        f"{found['collected']} of {found['expected']} intervals{still}; target {_percent(report['target'])} {verdict}"
    )


def _table(kind: str, rows: list[dict[str, Any]], target: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(kind)
    table.add_column("meters" if kind == "line" else "line", justify="right" if kind == "line" else "left")
    for name in ("missing", "expected", "collected"):
        table.add_column(name, justify="right")
    table.add_column("not collected because")
    for row in rows:
        found = row["intervals"]
        rate = found["rate"]
        colour = "green" if rate is None or float(rate) >= float(target) else "red"
        name = row["name"] if kind == "line" else row["meter"]
        if kind == "line" and row["kind"] != "line":
            name = f"{name} ({row['kind']})"
        table.add_row(
            escape(name or "(no longer configured)"),
            str(row["meters"]) if kind == "line" else escape(row["line"]),
            str(found["expected"] - found["collected"]),
            str(found["expected"]),
            f"[{colour}]{_percent(rate)}[/]",
            escape(", ".join(f"{reason} {count}" for reason, count in found["reasons"].items())),
        )
    return table


def _percent(rate: str | None) -> str:
    return "-" if rate is None else f"{float(rate):.2%}"
