"""`headend explain HEX | -`"""

import codecs
import sys
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.output import ExitCode, fail, print_json, print_table, stdout
from headend.explain.explain import Explanation, NotHex, explain, parse_hex

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("explain")(explain_command)


def explain_command(
    frame: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HEX | -",
            help="The frame in hex, spaces allowed; `-` takes one frame per line from standard input.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per frame, nothing else on standard output.")
    ] = False,
) -> None:
    """Say what any frame means, byte by byte.

    Exit code 0: every byte understood; 2: nothing to explain, no hex, or no DL/T 645 frame in it; 4: a damaged frame, or a right
    one whose data do not fit.
    With `-` every line is explained and carries its own verdict; the exit code is 0.
    """
    text = " ".join(frame or [])
    if text.strip() == "-":
        _explain_stream(json=json)
        return
    try:
        wire = parse_hex(text)
    except NotHex as error:
        if json:
            print_json(Explanation(problem=str(error)))
        fail(str(error))
    found = explain(wire)
    for explanation in found:
        _show(explanation, json=json)
    if any(explanation.problem for explanation in found):
        is_ours = any((explanation.protocol or "").startswith("dlt645") for explanation in found)
        raise typer.Exit(ExitCode.CORRUPT if is_ours else ExitCode.USAGE)


def _explain_stream(*, json: bool) -> None:
    seen = False
    for number, wire_line in enumerate(sys.stdin.buffer):
        # Whatever comes through a pipe is looked at: bytes that are no text are no hex, and one bad line does not end the others.
        line = wire_line.removeprefix(codecs.BOM_UTF8 if number == 0 else b"").decode("utf-8", "replace")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        seen = True
        try:
            found = explain(parse_hex(line))
        except NotHex as error:
            found = [Explanation(problem=str(error))]
        for explanation in found:
            _show(explanation, json=json)
    if not seen:
        fail("standard input held no frame; expected one per line, in hex")


def _show(explanation: Explanation, *, json: bool) -> None:
    if json:
        print_json(explanation)
        return
    verdict = "[green]valid[/]" if explanation.valid else "[red]valid: false[/]"
    head = " ".join(part for part in (explanation.protocol or "", explanation.fn or "") if part)
    direction = {"m2s": f"to meter {explanation.addr}", "s2m": f"from meter {explanation.addr}"}.get(
        explanation.dir or "", ""
    )
    stdout.print(f"{verdict}  {escape(head)}  {direction}".rstrip())
    if explanation.problem:
        stdout.print(f"[red]problem:[/] {escape(explanation.problem)}")
    for item in explanation.items:
        value = "not measured" if item.value is None else f"{item.value} {item.unit}".rstrip() or '""'
        extra = "".join(f"  {escape(part)}" for part in (item.obis, item.at and f"at {item.at}") if part)
        stdout.print(f"  {escape(item.name)}: [bold]{escape(value)}[/]{extra}")
    table = Table(box=None, pad_edge=False)
    for column in ("at", "bytes", "meaning"):
        table.add_column(column, justify="right" if column == "at" else "left", overflow="fold")
    for piece in explanation.bytes:
        table.add_row(str(piece.offset), piece.hex, escape(piece.meaning))
    print_table(table)
    stdout.print()
