"""`headend approvals …` and `headend obligations`: what needs two people, and whose supply is owed."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.client import ConfigOption, TokenOption, UrlOption, calling, path_part
from headend.cli.output import fail, print_json, print_table, stdout
from headend.cli.relay_answers import Json, Reason, good_body

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    approvals = typer.Typer(help="What needs two people.", no_args_is_help=True)
    commands: tuple[tuple[str, Callable[..., None]], ...] = (
        ("list", list_command),
        ("show", show_command),
        ("ask", ask_command),
        ("approve", approve_command),
        ("refuse", refuse_command),
    )
    for name, command in commands:
        approvals.command(name)(command)
    app.add_typer(approvals, name="approvals")
    app.command("obligations")(obligations_command)


# ------------------------------------------------------------------------------------------------ two people


def list_command(
    everything: Annotated[bool, typer.Option("--all", help="Given and void ones, too.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """What waits for a second person."""
    with calling(config, url, token) as client:
        answer = client.get("/v1/approvals", params={} if everything else {"waiting": True})
        body = good_body(answer, "approvals", json=json)
    if json:
        print_json(body)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("approval", "purpose", "about", "commands", "state", "asked by", "asked", "approved by"):
        table.add_column(column)
    for one in body["approvals"]:
        table.add_row(
            one["id"],
            one["purpose"],
            escape(one["subject"]),
            str(len(one["commands"])),
            one["state"],
            escape(one["asked_by"]),
            one["asked_at"][:19],
            escape(one["approved_by"]),
        )
    if body["approvals"]:
        print_table(table)
    else:
        stdout.print("nothing waits for a second person")


def show_command(
    approval: Annotated[str, typer.Argument(metavar="APPROVAL")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Exactly what would be approved, and its digest."""
    with calling(config, url, token) as client:
        body = good_body(client.get(f"/v1/approvals/{path_part(approval)}"), "approval", json=json)
    if json:
        print_json(body)
        return
    asked = body["approval"]
    stdout.print(
        f"{asked['purpose']} {escape(asked['subject'])}, asked by {escape(asked['asked_by'])}: {asked['state']}"
    )
    for one in body["commands"]:
        stdout.print(f"  {one['kind']:<12} {escape(one['meter']):<16} {one['state']:<12} {escape(one['reason'])}")
    stdout.print(f"digest {asked['digest']}")


def ask_command(
    purpose: Annotated[str, typer.Argument(help="batch, order, release, delete or unprotect.")],
    about: Annotated[list[str], typer.Argument(help="A batch, a command, a protection; for release and delete, ids.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Ask for a second person. Needs a token with role disconnect, of a known person."""
    if purpose not in ("release", "delete") and len(about) != 1:
        fail(f"{purpose} is about one thing; found {len(about)}")
    asked: dict[str, Any] = {"purpose": purpose}
    asked |= {"commands": about} if purpose in ("release", "delete") else {"subject": about[0]}
    with calling(config, url, token) as client:
        body = good_body(client.post("/v1/approvals", json=asked), "digest", json=json)
    if json:
        print_json(body)
    else:
        stdout.print(f"asked: headend approvals approve {body['id']} --digest {body['digest']}")


def approve_command(
    approval: Annotated[str, typer.Argument(metavar="APPROVAL")],
    digest: Annotated[str, typer.Option(help="Of what you have seen, see `headend approvals show`.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Agree, as another person than those who asked. Needs a token with role approve, of a known person."""
    with calling(config, url, token) as client:
        answer = client.post(f"/v1/approvals/{path_part(approval)}/approve", json={"digest": digest})
        body = good_body(answer, "approval", json=json)
    if json:
        print_json(body)
        return
    stdout.print(f"approved; {len(body['commands'])} command(s) went on")
    if body["effective_in_s"] is not None:
        stdout.print(f"the limits hold after {body['effective_in_s']:g} s of running time")
    for identity, refusals in body["refusals"].items():
        stdout.print(f"[red]{identity}[/] is refused all the same: {escape(refusals[0]['text'] if refusals else '')}")


def refuse_command(
    approval: Annotated[str, typer.Argument(metavar="APPROVAL")],
    reason: Reason,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Do not agree: what waited is refused. Needs a token with role approve, of a known person."""
    with calling(config, url, token) as client:
        answer = client.post(f"/v1/approvals/{path_part(approval)}/refuse", json={"reason": reason})
        body = good_body(answer, "approval", json=json)
    if json:
        print_json(body)
    else:
        stdout.print(f"refused; {len(body['commands'])} command(s) ended")


# ------------------------------------------------------------------------------------------------ debts


def obligations_command(
    meter: Annotated[str, typer.Option(help="Only of this asset number.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    json: Json = False,
) -> None:
    """Reconnections that are owed, the oldest first. Exit code 0: listed; 2: usage, or refused; 3: no answer."""
    asked: dict[str, Any] = ({"meter": meter} if meter else {}) | ({"ended": True} if everything else {})
    with calling(config, url, token) as client:
        body = good_body(client.get("/v1/obligations", params=asked), "obligations", json=json)
    if json:
        print_json(body)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("obligation", "meter", "state", "for", "since", "due by", "tries", "problem"):
        table.add_column(column, justify="right" if column == "tries" else "left")
    for one in body["obligations"]:
        colour = {"incident": "red", "escalated": "yellow", "ended": "green"}.get(one["state"], "default")
        table.add_row(
            one["id"],
            escape(one["meter"]),
            f"[{colour}]{one['ended'] or one['state']}[/]",
            escape(f"{one['cause']} {one['reference']}"),
            one["since"][:19],
            one["due_by"][:19],
            str(one["tries"]),
            escape(one["problem"]),
        )
    if body["obligations"]:
        print_table(table)
    else:
        stdout.print("nothing is owed" if not everything else "nothing was ever owed")
