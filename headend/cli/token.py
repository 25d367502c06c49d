"""`headend token create | list | revoke`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.output import print_json, print_table, stderr, stdout
from headend.clock import SystemClock
from headend.config import load_config

if TYPE_CHECKING:
    from headend.store.tokens import Tokens

__all__ = ["register"]

ConfigFile = Annotated[Path, typer.Argument(metavar="[CONFIG]", help="The configuration file, headend.toml.")]
DEFAULT = Path("headend.toml")


def register(app: typer.Typer) -> None:
    tokens = typer.Typer(help="API tokens with roles.", no_args_is_help=True)
    tokens.command("create")(create)
    tokens.command("list")(list_)
    tokens.command("revoke")(revoke)
    app.add_typer(tokens, name="token")


def _tokens(config: Path) -> "Tokens":
    from headend.store.store import open_store  # loads the database layer, which other commands should not wait for
    from headend.store.tokens import Tokens

    loaded = load_config(config)
    return Tokens(open_store(loaded.store, loaded.name), SystemClock())


def create(
    config: ConfigFile = DEFAULT,
    name: Annotated[
        str | None, typer.Option(help="Who uses it; stands in lists and logs.  [default: role and time]")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="read, operate, disconnect, approve, cashier or admin; may be given several times.  [default: read]"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Create a token and print it: it is shown this once and kept only as a hash."""
    roles = role or ["read"]
    clock = SystemClock()
    name = name or f"{roles[0]}-{clock.now():%Y%m%dT%H%M%S.%f}"
    plain = _tokens(config).create_token(name, roles)
    if json:
        print_json({"name": name, "roles": roles, "token": plain})
        return
    typer.echo(plain)
    stderr.print(escape(f"token {name!r} with role {', '.join(roles)}; keep it, it is not shown again"))


def list_(config: ConfigFile = DEFAULT, json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List tokens by name; the tokens themselves are not kept."""
    found = _tokens(config).list_tokens()
    if json:
        print_json(
            [
                {
                    "name": token.name,
                    "roles": sorted(role.value for role in token.roles),
                    "created_at": token.created_at,
                    "revoked_at": token.revoked_at,
                }
                for token in found
            ]
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "roles", "created", "revoked"):
        table.add_column(column)
    for token in found:
        table.add_row(
            escape(token.name),
            ", ".join(sorted(role.value for role in token.roles)),
            f"{token.created_at:%Y-%m-%d %H:%M}",
            f"{token.revoked_at:%Y-%m-%d %H:%M}" if token.revoked_at else "",
        )
    print_table(table)


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    config: ConfigFile = DEFAULT,
) -> None:
    """Revoke a token; it stops working at once, in the running service, too."""
    _tokens(config).revoke_token(name)
    stdout.print(escape(f"token {name!r} is revoked"))
