"""`headend token create | list | revoke`"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headend.cli.output import fail, print_json, print_table, stderr, stdout
from headend.clock import SystemClock

if TYPE_CHECKING:
    from headend.config import Config
    from headend.store.store import Store
    from headend.store.tokens import Tokens

__all__ = ["register"]

ConfigFile = Annotated[Path, typer.Argument(metavar="[CONFIG]", help="The configuration file, headend.toml.")]
DEFAULT = Path("headend.toml")
_PEOPLES = frozenset(
    {"disconnect", "approve", "admin"}
)  # roles that ask for what makes supplies less safe, or approve it


def register(app: typer.Typer) -> None:
    tokens = typer.Typer(help="API tokens with roles.", no_args_is_help=True)
    tokens.command("create")(create)
    tokens.command("list")(list_)
    tokens.command("revoke")(revoke)
    app.add_typer(tokens, name="token")


def _opened(config: Path) -> "tuple[Config, Store]":
    from headend.config import load_config
    from headend.store.store import open_store  # loads the database layer, which other commands should not wait for

    loaded = load_config(config)
    return loaded, open_store(loaded.store, loaded.name)


def _tokens_of(store: "Store") -> "Tokens":
    from headend.store.tokens import Tokens

    return Tokens(store, SystemClock())


def _name_person(store: "Store", name: str, person: str) -> None:
    from headend.database.engine import writing
    from headend.store.governor_protections import set_person

    with writing(store.engine, "naming the person of a token") as connection:
        set_person(connection, name, person)


def _people(store: "Store", names: list[str]) -> dict[str, str]:
    from headend.database.engine import reading
    from headend.store.governor_protections import person_of

    with reading(store.engine, "looking up the people of tokens") as connection:
        return {name: person_of(connection, name) for name in names}


def _record(
    loaded: "Config", store: "Store", kind: str, name: str, data: dict[str, object], roles: Iterable[str]
) -> None:
    """In the audit log; a token that can only look is no business of it."""
    from headend.audit.record import AuditRecord
    from headend.audit.settings import log_of

    if not set(roles) - {"read", "customer"}:
        return
    clock = SystemClock()
    log = log_of(loaded.audit, store, source=loaded.source, base=loaded.path.resolve().parent, clock=clock)
    record = AuditRecord(kind=kind, subject=name, actor="command line", data=data)
    store.transact(lambda connection: (log.append(connection, record, clock.now()), ()), "recording a token")


def create(
    config: ConfigFile = DEFAULT,
    name: Annotated[
        str | None, typer.Option(help="Who uses it; stands in lists and logs.  [default: role and time]")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="read, operate, disconnect, approve, cashier or admin; may be given several times. Or customer, with --account.  "
            "[default: read]"
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(help="Who holds it. Opens and approvals take people, and two tokens of one person are one."),
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="Of a customer: the account that the token sees, and nothing else.")
    ] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Create a token and print it: it is shown this once and kept only as a hash."""
    roles = role or (["read"] if account is None else ["customer"])
    clock = SystemClock()
    name = name or f"{roles[0]}-{clock.now():%Y%m%dT%H%M%S.%f}"
    if person is not None and (not person.strip() or not person.isprintable()):
        fail(f"--person is {person!r}; expected the name of a person")
    if person is None and _PEOPLES & set(roles):
        named = ", ".join(sorted(_PEOPLES & set(roles)))
        stderr.print(f"[yellow]note[/]: without --person a token with role {named} opens and approves nothing")
    loaded, store = _opened(config)
    plain = _tokens_of(store).create_token(name, roles, account=account or "")
    if person is not None:
        _name_person(store, name, person)
    _record(loaded, store, "token-created", name, _told(roles, person, account), roles)
    if json:
        shown = {"name": name, "roles": roles, "token": plain}
        print_json(shown | ({"person": person} if person else {}) | ({"account": account} if account else {}))
        return
    typer.echo(plain)
    stderr.print(escape(f"token {name!r} with role {', '.join(roles)}; keep it, it is not shown again"))


def _told(roles: list[str], person: str | None, account: str | None) -> dict[str, object]:
    told: dict[str, object] = {"roles": sorted(roles), "person": person or ""}
    return told | ({"account": account} if account else {})


def list_(config: ConfigFile = DEFAULT, json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List tokens by name; the tokens themselves are not kept."""
    _, store = _opened(config)
    found = _tokens_of(store).list_tokens()
    people = _people(store, [token.name for token in found])
    if json:
        print_json(
            [
                {
                    "name": token.name,
                    "roles": sorted(role.value for role in token.roles),
                    "person": people[token.name],
                    "account": token.account,
                    "created_at": token.created_at,
                    "revoked_at": token.revoked_at,
                }
                for token in found
            ]
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "roles", "person", "account", "created", "revoked"):
        table.add_column(column)
    for token in found:
        table.add_row(
            escape(token.name),
            ", ".join(sorted(role.value for role in token.roles)),
            escape(people[token.name]),
            escape(token.account),
            f"{token.created_at:%Y-%m-%d %H:%M}",
            f"{token.revoked_at:%Y-%m-%d %H:%M}" if token.revoked_at else "",
        )
    print_table(table)


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    config: ConfigFile = DEFAULT,
) -> None:
    """Revoke a token; it stops working at once, in the running service, too."""
    loaded, store = _opened(config)
    _tokens_of(store).revoke_token(name)
    roles = next(token.roles for token in _tokens_of(store).list_tokens() if token.name == name)
    _record(loaded, store, "token-revoked", name, {}, [role.value for role in roles])
    stdout.print(escape(f"token {name!r} is revoked"))
