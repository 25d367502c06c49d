"""`headend dtu list|adopt`: DTUs that dial in to a running head-end."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.client import ConfigArgument, TokenOption, UrlOption, body_of, calling
from headend.cli.output import print_json, print_table, stdout

__all__ = ["register"]

SHOWN_MAX = 1000


def register(app: typer.Typer) -> None:
    dtu = typer.Typer(help="DTUs that dial in to a running head-end.", no_args_is_help=True)
    dtu.command("list")(list_command)
    dtu.command("adopt")(adopt_command)
    app.add_typer(dtu, name="dtu")


def list_command(
    config: ConfigArgument = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else on standard output.")] = False,
) -> None:
    """Who dialled in and is not known. Unknown callers are never polled.

    Exit code 0: listed, also when nobody is unknown; 2: usage, or refused by the head-end; 3: no answer.
    """
    with calling(config, url, token) as client:
        body = body_of(client.get("/v1/callers", params={"limit": SHOWN_MAX}), expected="unknown")
    if json:
        print_json(body)
        return
    for listener in body["listeners"]:
        stdout.print(
            f"{escape(listener['listen'])}: {listener['connected']} DTUs on their lines, {listener['unknown']} unknown"
        )
    if not body["listeners"]:
        stdout.print("no line waits for DTUs: none has a url that begins with listen://")
    if not body["unknown"]:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("unknown DTU", "from", "last heard", "calls", "here", "said"):
        table.add_column(column, justify="right" if column == "calls" else "left")
    for caller in body["unknown"]:
        table.add_row(
            escape(caller["dtu"] or "(did not say)"),
            escape(caller["address"]),
            caller["last_seen"],
            str(caller["connects"]),
            "yes" if caller["is_connected"] else "no",
            escape(caller["heard"]),
        )
    print_table(table)
    stdout.print("headend dtu adopt DTU LINE gives one to a line", style="dim")


def adopt_command(
    dtu: Annotated[
        str, typer.Argument(metavar="DTU", help="The id of its registration packet, see `headend dtu list`.")
    ],
    line: Annotated[str, typer.Argument(metavar="LINE", help="Name of a line whose url begins with listen://.")],
    config: ConfigArgument = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else on standard output.")] = False,
) -> None:
    """Give a DTU to a line, instead of the one it had: at once, and over restarts. Needs a token with role admin.

    Exit code 0: adopted; 2: usage, or refused by the head-end; 3: no answer.
    """
    with calling(config, url, token) as client:
        body = body_of(client.post("/v1/callers/adopt", json={"dtu": dtu, "line": line}), expected="dtu")
    if json:
        print_json(body)
        return
    here = "it is connected" if body["connected"] else "it takes effect when it dials in"
    stdout.print(f"DTU {escape(dtu)} is that of line {escape(line)} now; {here}")
