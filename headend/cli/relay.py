"""`headend relay …`: supply switches, always through the running head-end, never around it."""

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from headend.cli import relay_limits
from headend.cli.client import ConfigOption, TokenOption, UrlOption, any_body, calling, path_part, refuse
from headend.cli.output import ExitCode, fail, moment_of, print_json, print_table, stderr, stdout
from headend.cli.relay_answers import Json, Reason, good_body, tell_refused

if TYPE_CHECKING:
    import httpx

__all__ = ["register"]

LOOK_S = 0.4
WAIT_S = 600.0
EXPIRES = "15m"
PAGE = 200
REFUSALS_SHOWN = 20
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ENDS = {
    "verified": ExitCode.GOOD,
    "refused": ExitCode.USAGE,
    "quarantined": ExitCode.USAGE,
    "cancelled": ExitCode.USAGE,
    "expired": ExitCode.SILENT,
    "unconfirmed": ExitCode.CONTRADICTED,
    "contradicted": ExitCode.CONTRADICTED,
}
_ENDED_BADLY = frozenset(_ENDS) - {"verified"} | {"failed"}
_WHY_NOT = frozenset({"rule", "policy", "limit", "needed"})
_COLOURS = {"verified": "green", "quarantined": "yellow", "unconfirmed": "red", "contradicted": "red", "refused": "red"}

Meter = Annotated[str, typer.Argument(metavar="METER", help="Asset number.")]
Expires = Annotated[
    str, typer.Option(metavar="LENGTH|TIME", help="Nothing leaves after this: 15m, 2h, or 2026-11-22T16:00:00Z.")
]
NotBefore = Annotated[
    str | None, typer.Option(metavar="LENGTH|TIME", help="Nothing leaves before this.  [default: at once]")
]
Key = Annotated[
    str | None, typer.Option(help="Idempotency key: the same one again is the same command.  [default: a new one]")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the outcome.")]
WaitS = Annotated[float, typer.Option("--wait-s", help="How long, at most.")]
Id = Annotated[str, typer.Argument(metavar="COMMAND", help="Id of a command.")]


def register(app: typer.Typer) -> None:
    relay = typer.Typer(
        help="Supply switches, through the running head-end. Exit codes: 0 verified; 2 usage, or refused by a rule; "
        "3 silent, or no head-end; 5 refused by the meter; 6 contradicted or unconfirmed.",
        no_args_is_help=True,
    )
    commands: tuple[tuple[str, Callable[..., None]], ...] = (
        ("open", open_command),
        (
            "permit-close",
            _plain_order(
                "permit-close",
                "Permit a customer to close at the meter's button. Verified is not yet power: the customer's button is waited for.",
            ),
        ),
        ("close", _plain_order("close", "Close a supply (switch it on), now. Needs a token with role operate.")),
        ("protect", _plain_order("protect", "Make the meter keep its supply on, whatever it is ordered.")),
        (
            "unprotect",
            _plain_order(
                "unprotect",
                "Ask that the meter's own protection ends; another person approves. Needs a token with role disconnect.",
            ),
        ),
        ("status", status_command),
        ("list", list_command),
        ("show", show_command),
        ("cancel", cancel_command),
        ("stop", stop_command),
        ("resume", resume_command),
    )
    for name, command in commands:
        relay.command(name)(command)
    relay_limits.register(relay)
    app.add_typer(relay, name="relay")


# ------------------------------------------------------------------------------------------------ orders


def open_command(
    meter: Meter,
    reason: Reason,
    proof: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"proof": {"account", "balance_minor", "currency", "as_of", "fence"}, "notices": […]}.'
        ),
    ] = None,
    expires: Expires = EXPIRES,
    not_before: NotBefore = None,
    key: Key = None,
    wait: Wait = True,
    wait_s: WaitS = WAIT_S,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Ask for a supply to be opened (switched off). Needs a token with role disconnect, and all that the policy asks for."""
    more = _proof(proof) if proof is not None else {}
    _order("open", meter, reason, expires, not_before, key, wait, wait_s, (config, url, token), json, more)


def _plain_order(kind: str, says: str) -> Callable[..., None]:
    """An order that needs nothing but a meter and a reason. says: its help."""

    def command(
        meter: Meter,
        reason: Reason,
        expires: Expires = "24h",
        not_before: NotBefore = None,
        key: Key = None,
        wait: Wait = True,
        wait_s: WaitS = WAIT_S,
        config: ConfigOption = None,
        url: UrlOption = None,
        token: TokenOption = None,
        json: Json = False,
    ) -> None:
        _order(kind, meter, reason, expires, not_before, key, wait, wait_s, (config, url, token), json)

    command.__doc__ = says
    return command


def status_command(
    meter: Meter,
    reason: Reason = "asked on the command line",
    expires: Expires = "5m",
    key: Key = None,
    wait: Wait = True,
    wait_s: WaitS = WAIT_S,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Look at the contact, its counters and the load. Nothing is switched."""
    _order("status", meter, reason, expires, None, key, wait, wait_s, (config, url, token), json)


def _order(
    kind: str,
    meter: str,
    reason: str,
    expires: str,
    not_before: str | None,
    key: str | None,
    wait: bool,
    wait_s: float,
    place: tuple[Path | None, str | None, str | None],
    json: bool,
    more: dict[str, Any] | None = None,
) -> None:
    order = {
        "kind": kind,
        "meter": meter,
        "reason": reason,
        "idempotency_key": key or f"cli-{uuid.uuid4().hex}",
        "expires_at": _moment("--expires", expires),
        "not_before": None if not_before is None else _moment("--not-before", not_before),
        **(more or {}),
    }
    with calling(*place) as client:
        answer = client.post("/v1/commands", json=order)
        body = any_body(answer)
        if answer.status_code not in (200, 202):
            tell_refused(answer, body, json=json)
        command = _of(answer, body, "command")
        if command["state"] == "quarantined" or body["approval"] is not None or not wait:
            _end(command, body, json=json)
        command, steps = _waited(client, command, wait_s, quiet=json)
    _end(command, body | {"command": command, "steps": steps}, json=json, waited_s=wait_s)


def _waited(
    client: "httpx.Client", command: dict[str, Any], wait_s: float, *, quiet: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The command when it has ended, or as it stands when the wait is over; and its steps."""
    until = time.monotonic() + wait_s
    with _state_line(command, quiet=quiet) as show:
        while True:
            view = good_body(client.get(f"/v1/commands/{command['id']}"), "steps", json=quiet)
            command = view["command"]
            show(command)
            if command["is_final"] or command["state"] == "quarantined" or time.monotonic() >= until:
                return command, view["steps"]
            time.sleep(min(LOOK_S, max(0.0, until - time.monotonic())))


@contextmanager
def _state_line(command: dict[str, Any], *, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """On a terminal one line that changes; through a pipe a line for each state."""
    if quiet:
        yield lambda now: None
        return
    if stderr.is_terminal:
        with stderr.status(_line(command)) as status:
            yield lambda now: status.update(_line(now))
        return
    shown: list[str] = []

    def show(now: dict[str, Any]) -> None:
        if shown[-1:] != [_line(now)]:
            shown.append(_line(now))
            stderr.print(_line(now))

    yield show


def _line(command: dict[str, Any]) -> str:
    colour = _COLOURS.get(command["state"], "cyan")
    line = f"{command['kind']} {escape(command['meter'])}: [{colour}]{command['state']}[/]"
    if command["state"] == "scheduled" and _later(command["due_at"]):
        line += f", not before {command['due_at']}"
    return line + (f" ({escape(command['problem'])})" if command["problem"] else "")


def _why_not(command: dict[str, Any]) -> str:
    detail = command["detail"]
    return str(
        detail.get("refusal_1_text") or detail.get("problem") or detail.get("limit") or detail.get("because", "")
    )


def _later(text: str) -> bool:
    return datetime.fromisoformat(text) > datetime.now(UTC) + timedelta(seconds=2)


def _end(command: dict[str, Any], body: dict[str, Any], *, json: bool, waited_s: float = 0.0) -> NoReturn:
    code = _exit_code(command, body, is_waited=waited_s > 0)
    if json:
        print_json(body)
        raise typer.Exit(code)
    _print_command(command, body, waited_s)
    raise typer.Exit(code)


def _exit_code(command: dict[str, Any], body: dict[str, Any], *, is_waited: bool) -> ExitCode:
    state, detail = command["state"], command["detail"]
    if state == "refused" and detail.get("refused"):
        return ExitCode.REFUSED
    if state == "failed":
        kind = detail.get("kind_of_problem", "")
        return ExitCode.SILENT if kind in ("silent", "unmatched") else ExitCode.REFUSED
    if state in _ENDS:
        return _ENDS[state]
    # On its way: good, unless the outcome was waited for and did not come.
    return ExitCode.SILENT if is_waited else ExitCode.GOOD


def _print_command(command: dict[str, Any], body: dict[str, Any], waited_s: float) -> None:
    state, colour = command["state"], _COLOURS.get(command["state"], "cyan")
    stdout.print(f"[{colour}]{state}[/] {command['kind']} {escape(command['meter'])}  [dim]{command['id']}[/]")
    detail = command["detail"]
    if state == "verified" and command["waiting_for_customer"]:
        stdout.print("  waiting for the customer's button: closing is permitted, and no power was seen yet")
    for name in (
        "contact",
        "because",
        "trips",
        "closes",
        "current",
        "voltage",
        "identity",
        "problem",
        "rule",
        "policy",
        "limit",
        "needed",
    ):
        if name in _WHY_NOT and (state == "verified" or "refusal_1_rule" in detail):
            continue  # what was in its way once; or it is told below with all that it says
        if detail.get(name):
            stdout.print(f"  {name:<9} {escape(detail[name])}")
    for number in range(1, REFUSALS_SHOWN + 1):
        if (rule := detail.get(f"refusal_{number}_rule")) is None:
            break
        stdout.print(f"  {escape(rule)} ({command['policy_version']}): {escape(detail[f'refusal_{number}_text'])}")
        stdout.print(f"            needed: {escape(detail[f'refusal_{number}_needed'])}")
    if (register := command["register"]) is not None:
        stdout.print(f"  register  {register['obis']} {register['value']} {register['unit']}")
    if (approval := body.get("approval")) is not None:
        stdout.print(
            f"  waits for another person: headend approvals approve {approval['id']} --digest {approval['digest']}"
        )
    if state == "quarantined":
        stdout.print("  over a limit: two people release or delete it, headend approvals ask release " + command["id"])
    if waited_s and not command["is_final"] and state not in _ENDS:
        stdout.print(f"  no outcome within {waited_s:g} s; headend relay show {command['id']} tells of it later")


# ------------------------------------------------------------------------------------------------ commands that are there


def list_command(
    meter: Annotated[str, typer.Option(help="Only of this asset number.")] = "",
    state: Annotated[str, typer.Option(help="Only in these states, with commas.")] = "",
    batch: Annotated[str, typer.Option(help="Only of this batch.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.")] = PAGE,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Commands, the newest first. Exit code 0: listed; 2: usage, or refused by the head-end; 3: no answer."""
    asked: dict[str, str | int] = {"meter": meter, "state": state, "batch": batch, "limit": limit}
    with calling(config, url, token) as client:
        answer = client.get("/v1/commands", params={name: told for name, told in asked.items() if told != ""})
        body = good_body(answer, "commands", json=json)
    if json:
        print_json(body)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("command", "meter", "kind", "state", "by", "ordered", "problem"):
        table.add_column(column)
    for one in body["commands"]:
        state_now = one["state"] + (", waits for the button" if one["waiting_for_customer"] else "")
        table.add_row(
            one["id"],
            escape(one["meter"]),
            one["kind"],
            f"[{_COLOURS.get(one['state'], 'default')}]{state_now}[/]",
            escape(one["requester"]),
            one["created_at"][:19],
            escape(one["problem"] or (_why_not(one) if one["state"] in _ENDED_BADLY else "")),
        )
    if body["commands"]:
        print_table(table)
    else:
        stdout.print("there is none")


def show_command(
    command: Id, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """One command with its journal. Exit code 0: shown; 2: usage, or refused by the head-end; 3: no answer."""
    with calling(config, url, token) as client:
        body = good_body(client.get(f"/v1/commands/{path_part(command)}"), "steps", json=json)
    if json:
        print_json(body)
        return
    _print_command(body["command"], {}, 0.0)
    for step in body["steps"]:
        stdout.print(f"  {step['at'][:23]}  {step['state']:<13} {step['event']:<20} {escape(step['actor'])}")


def cancel_command(
    command: Id,
    reason: Reason,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Take a command back of which no byte has left. Exit code 0: done; 2: usage, or refused; 3: no answer."""
    with calling(config, url, token) as client:
        answer = client.post(f"/v1/commands/{path_part(command)}/cancel", json={"reason": reason})
        body = good_body(answer, "state", json=json)
    if json:
        print_json(body)
    else:
        _print_command(body, {}, 0.0)


def stop_command(
    reason: Reason, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Stop all opens, at once, those that wait already, too. Supplies are given back all the same."""
    with calling(config, url, token) as client:
        body = good_body(client.put("/v1/stop-switch", json={"reason": reason}), "is_on", json=json)
    if json:
        print_json(body)
    else:
        stdout.print("[bold red]all opens are stopped[/]; `headend relay resume` allows them again")


def resume_command(
    reason: Reason, config: ConfigOption = None, url: UrlOption = None, token: TokenOption = None, json: Json = False
) -> None:
    """Allow opens again. Needs a token with role disconnect, of a known person."""
    with calling(config, url, token) as client:
        body = good_body(client.delete("/v1/stop-switch", params={"reason": reason}), "is_on", json=json)
    if json:
        print_json(body)
    else:
        stdout.print("opens are allowed again; those that waited go on")


# ------------------------------------------------------------------------------------------------ helpers


def _moment(option: str, text: str) -> str:
    """A length from now, or a time with its zone."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.isascii() and number.isdecimal() and len(number) < 7:
        return (datetime.now(UTC) + timedelta(seconds=int(number) * _UNITS[unit])).isoformat()
    return moment_of(option, text, or_a="length such as 15m or 2h, or a ").isoformat()


def _proof(path: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        found = msgspec.json.decode(text)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    except (msgspec.MsgspecError, UnicodeError) as error:
        fail(f"{path} is no JSON: {error}")
    if not isinstance(found, dict) or not found or not found.keys() <= {"proof", "notices"}:
        fail(f'{path}: expected {{"proof": {{…}}, "notices": […]}} and nothing else')
    return found


def _of(answer: "httpx.Response", body: dict[str, Any], member: str) -> dict[str, Any]:
    found = body.get(member)
    if not isinstance(found, dict):
        refuse(answer, body)
    return found
