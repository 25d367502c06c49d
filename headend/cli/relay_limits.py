"""`headend relay limits …`: how many supplies may be opened, and how much of that is used."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.client import ConfigOption, TokenOption, UrlOption, calling
from headend.cli.output import fail, print_json, print_table, stdout
from headend.cli.relay_answers import Json, good_body

__all__ = ["register"]

_COUNTS = ("per_hour", "per_day", "caller_per_hour", "caller_per_day", "line_per_hour", "line_per_day")
_NEEDED = frozenset(
    {"per_hour", "of_fleet_per_day", "of_feeder_per_day", "kw_when_unknown", "batch_max", "raise_delay_s"}
)
_WHOLE = frozenset({*_COUNTS, "batch_max", "raise_delay_s"})
# What is used of which limit, by the names of the answer.
_USED = {"per_hour": "last_hour", "per_day": "last_day", "kw_per_hour": "kw_last_hour", "kw_per_day": "kw_last_day"}
_BY = {"caller_per_day": "by_caller", "of_feeder_per_day": "by_feeder", "line_per_day": "by_line"}

Count = Annotated[str | None, typer.Option(metavar="N|none", help="Opens at most; none: no such limit.")]
Whole = Annotated[str | None, typer.Option(metavar="N", help="Opens at most.")]
Share = Annotated[str | None, typer.Option(metavar="SHARE", help="0.005 is 0.5 %; one open at least.")]
Kilowatts = Annotated[
    str | None, typer.Option(metavar="KW|none", help="Of what is cut off, in kW; none: no such limit.")
]


def register(relay: typer.Typer) -> None:
    limits = typer.Typer(help="How many supplies may be opened.", no_args_is_help=True)
    limits.command("show")(show_command)
    limits.command("set")(set_command)
    relay.add_typer(limits, name="limits")


def show_command(
    config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Limits in force, what counts against them now, and higher ones that do not hold yet."""
    with calling(config, url, token) as client:
        body = good_body(client.get("/v1/limits"), "used", json=json)
    if json:
        print_json(body)
        return
    limits, used = body["limits"], body["used"]
    if limits is None:
        stdout.print(
            "there are no limits, and nothing is opened; `headend relay limits set --per-hour N` asks for some"
        )
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("limit", "allowed", "used", "at most, by the configuration"):
            table.add_column(column, justify="right" if column in ("allowed", "used") else "left")
        for name, allowed in limits.items():
            table.add_row(
                name, "none" if allowed is None else str(allowed), _used(name, used), body["ceiling"].get(name, "")
            )
        print_table(table)
    for higher, wait_s in body["waiting"]:
        changed = {name: value for name, value in higher.items() if limits is None or limits[name] != value}
        when = "wait for a second person" if wait_s is None else f"hold in {wait_s:.0f} s of running time"
        stdout.print(f"higher ones {when}: " + ", ".join(f"{name} {value}" for name, value in changed.items()))


def set_command(
    per_hour: Whole = None,
    per_day: Count = None,
    of_fleet_per_day: Share = None,
    of_feeder_per_day: Share = None,
    caller_per_hour: Count = None,
    caller_per_day: Count = None,
    line_per_hour: Count = None,
    line_per_day: Count = None,
    kw_per_hour: Kilowatts = None,
    kw_per_day: Kilowatts = None,
    kw_when_unknown: Annotated[
        str | None, typer.Option(metavar="KW", help="Stands for a meter of which nobody knows.")
    ] = None,
    batch_max: Annotated[
        str | None, typer.Option(metavar="N", help="A list with more opens needs a second person.")
    ] = None,
    raise_delay_s: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Between approval and effect of higher limits.")
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Change the limits that are named; the others stay. Lower ones hold at once, higher ones wait for another person and a delay.

    Exit code 0: set, or asked for; 2: usage, or refused; 3: no answer.
    """
    given = {
        "per_hour": per_hour,
        "per_day": per_day,
        "of_fleet_per_day": of_fleet_per_day,
        "of_feeder_per_day": of_feeder_per_day,
        "caller_per_hour": caller_per_hour,
        "caller_per_day": caller_per_day,
        "line_per_hour": line_per_hour,
        "line_per_day": line_per_day,
        "kw_per_hour": kw_per_hour,
        "kw_per_day": kw_per_day,
        "kw_when_unknown": kw_when_unknown,
        "batch_max": batch_max,
        "raise_delay_s": raise_delay_s,
    }
    wanted = {name: _value(name, text) for name, text in given.items() if text is not None}
    if not wanted:
        fail("no limit is named; expected at least one, such as --per-hour 20; `headend relay limits show` lists them")
    with calling(config, url, token) as client:
        there = good_body(client.get("/v1/limits"), "used", json=json)["limits"]
        if there is None and "per_hour" not in wanted:
            fail("there are no limits yet; give at least --per-hour, the others get their usual values")
        answer = client.put("/v1/limits", json=(there or {}) | wanted)
        body = good_body(answer, "approval", json=json)
    if json:
        print_json(body)
        return
    approval = body["approval"]
    if approval is None:
        stdout.print("the limits hold now")
        return
    stdout.print(
        "what is higher waits for another person, and then for a delay; what is lower holds now:\n"
        f"  headend approvals approve {escape(approval['id'])} --digest {approval['digest']}"
    )


def _value(name: str, text: str) -> Any:
    """As the interface takes it: a whole number, a decimal as text, or null."""
    option = "--" + name.replace("_", "-")
    if text == "none":
        if name in _NEEDED:
            fail(f"{option} cannot be none; expected a number")
        return None
    if name in _WHOLE:
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            expected = "a whole number" if name in _NEEDED else "a whole number, or none"
            fail(f"{option} is {text!r}; expected {expected}")
        return int(text)
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        fail(f"{option} is {text!r}; expected a number such as {'0.005' if name.startswith('of_') else '250'}")
    return format(number, "f")


def _used(name: str, used: dict[str, Any]) -> str:
    if name in _USED:
        return str(used[_USED[name]])
    if name in _BY:
        counted = used[_BY[name]]
        return ", ".join(
            f"{escape(who)} {count}" for who, count in sorted(counted.items(), key=lambda one: -one[1])[:3]
        )
    return ""
