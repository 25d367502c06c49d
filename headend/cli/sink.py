"""`headend sink list|status|parked|release|drop|forget`: destinations of a running head-end."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.client import ConfigArgument, ConfigOption, TokenOption, UrlOption, body_of, calling, path_part
from headend.cli.output import fail, print_json, print_table, stdout

__all__ = ["register"]

PAGE = 1000

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the destination, see `headend sink list`.")]
Sequence = Annotated[
    int | None, typer.Argument(metavar="[SEQUENCE]", help="Of one parked event, see `headend sink parked`.")
]
All = Annotated[bool, typer.Option("--all", help="All parked events of the destination.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, nothing else on standard output.")]


def register(app: typer.Typer) -> None:
    sink = typer.Typer(help="Where a running head-end pushes its feed to.", no_args_is_help=True)
    for name, command in (
        ("list", list_command),
        ("status", status_command),
        ("parked", parked_command),
        ("release", release_command),
        ("drop", drop_command),
        ("forget", forget_command),
    ):
        sink.command(name)(command)
    app.add_typer(sink, name="sink")


def list_command(
    config: ConfigArgument = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Every destination and how far it has come. Needs a token with role admin, like all of these.

    Exit code 0: listed; 2: usage, or refused by the head-end; 3: no answer.
    """
    with calling(config, url, token) as client:
        body = body_of(client.get("/v1/sinks"), expected="sinks")
    if json:
        print_json(body)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("destination", "kind", "state", "behind", "by", "backlog", "parked", "problem"):
        table.add_column(column, justify="right" if column in ("behind", "by", "backlog", "parked") else "left")
    for sink in body["sinks"]:
        colour = "green" if sink["state"] == "up" else "red"
        table.add_row(
            escape(sink["name"]),
            sink["kind"],
            f"[{colour}]{sink['state']}[/]",
            str(sink["lag_events"]),
            _span(sink["lag_s"]),
            str(sink["backlog_events"]),
            f"[red]{sink['parked']}[/]" if sink["parked"] else "0",
            escape(sink["problem"]),
        )
    if body["sinks"]:
        print_table(table)
    else:
        stdout.print("no destination is configured: add [[sinks]] to the configuration")
    capacity = body["capacity"]
    if capacity is not None and capacity["hours_left"] is not None:
        stdout.print(
            f"the disk lasts {_span(3600 * capacity['hours_left'])} more at the present rate, if nothing is deleted"
        )
    for problem in body["problems"]:
        stdout.print(f"[bold red]![/] {escape(problem)}")


def status_command(
    name: Name, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Everything about one destination: cursor, lanes, counters, why it waits.

    Exit code 0: shown; 2: usage, or refused by the head-end; 3: no answer.
    """
    with calling(config, url, token) as client:
        body = body_of(client.get(f"/v1/sinks/{path_part(name)}"), expected="delivered_up_to")
    if json:
        print_json(body)
        return
    counters = body.pop("counters")
    for key, value in body.items():
        if key == "delivered_ahead":
            value = ", ".join(f"{first}-{last}" for first, last in value) or "nothing"
        stdout.print(f"{key.replace('_', ' '):<18} {escape('' if value is None else str(value))}")
    for key, value in counters.items():
        stdout.print(f"{key.replace('_', ' '):<18} {value} since the start")


def parked_command(
    name: Name, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Events that a destination would not take, and what it said.

    Exit code 0: listed, also when there are none; 2: usage, or refused by the head-end; 3: no answer.
    """
    found: list[dict[str, Any]] = []
    with calling(config, url, token) as client:
        after = 0
        while True:
            answer = client.get(f"/v1/sinks/{path_part(name)}/parked", params={"after": after, "limit": PAGE})
            body = body_of(answer, expected="parked")
            found += body["parked"]
            if len(body["parked"]) < PAGE:
                break
            after = body["next"]
    if json:
        print_json({"parked": found})
        return
    if not found:
        stdout.print(f"{escape(name)} has taken everything that it was offered")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("sequence", "since", "tries", "id", "reason"):
        table.add_column(column, justify="right" if column in ("sequence", "tries") else "left")
    for one in found:
        tries = f"{one['tries']}, released" if one["released"] else str(one["tries"])
        table.add_row(str(one["sequence"]), one["since"], tries, escape(one["id"]), escape(one["reason"]))
    print_table(table)
    stdout.print(
        "headend sink release NAME SEQUENCE offers one again, headend sink drop NAME SEQUENCE gives it up", style="dim"
    )


def release_command(
    name: Name,
    sequence: Sequence = None,
    everything: All = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Offer a parked event again, or all of them.

    Exit code 0: done; 2: usage, or refused by the head-end; 3: no answer.
    """
    _one_or_all(sequence, everything)
    place = f"/{sequence}/release" if sequence is not None else "/release"
    with calling(config, url, token) as client:
        body = body_of(client.post(f"/v1/sinks/{path_part(name)}/parked{place}"), expected="count")
    if json:
        print_json(body)
        return
    stdout.print(
        f"{body['count']} event(s) are offered to {escape(name)} again; see `headend sink parked` for those it still refuses"
    )


def drop_command(
    name: Name,
    sequence: Sequence = None,
    everything: All = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Give a parked event up, or all of them: this destination never gets them. They stay in the feed.

    Exit code 0: done; 2: usage, or refused by the head-end; 3: no answer.
    """
    _one_or_all(sequence, everything)
    place = f"/{sequence}" if sequence is not None else ""
    with calling(config, url, token) as client:
        body = body_of(client.delete(f"/v1/sinks/{path_part(name)}/parked{place}"), expected="count")
    if json:
        print_json(body)
        return
    stdout.print(f"{body['count']} event(s) given up for {escape(name)}")


def forget_command(
    name: Name, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Forget a destination that is no longer configured: nothing is kept for it any more.

    Exit code 0: done; 2: usage, or refused by the head-end; 3: no answer.
    """
    with calling(config, url, token) as client:
        body = body_of(client.delete(f"/v1/sinks/{path_part(name)}"), expected="count")
    if json:
        print_json(body)
        return
    stdout.print(f"{escape(name)} is forgotten")


def _one_or_all(sequence: int | None, everything: bool) -> None:
    if (sequence is None) is not everything:
        fail("expected either the SEQUENCE of one event, or --all")


def _span(seconds: float) -> str:
    """At the size a person reads it: 12 s, 5 min, 3.2 h, 4.1 d."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"
