"""`headend backup`, `headend restore`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from headend.cli.output import fail, moment_of, print_json, stderr, stdout
from headend.clock import SystemClock

if TYPE_CHECKING:
    from headend.config import Config

__all__ = ["register"]

PAGE = 4096
ON_SERVER = (
    "{} not in this backup: a server's database is backed up with its own tools (pg_dump, or continuous archiving, which loses "
    "nothing); the accounts first, then the store. After it was put back: headend restore --restored-to"
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file, headend.toml.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, nothing else on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("backup")(backup_command)
    app.command("restore")(restore_command)


def backup_command(
    config: ConfigFile,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new file, or a folder to put one into.")],
    json: Json = False,
) -> None:
    """Copy the store at one moment, while the head-end goes on or not; with `[prepayment]` also the accounts, beside it."""
    from headend.config import load_config
    from headend.store.backup import back_up, is_on_server  # what other commands need not load

    loaded, now = load_config(config), SystemClock().now()
    accounts = taken = None
    left_out: list[str] = []
    if loaded.prepayment.enabled:
        # First: what it has taken of the feed is then also in the store's backup.
        from headend.assembly.prepaid_backup import back_up_accounts

        if is_on_server(loaded.prepayment.store):
            left_out.append("accounts")
            stderr.print(ON_SERVER.format("the accounts are"))
        with _bar("copying the accounts", PAGE) as show:
            accounts = back_up_accounts(loaded.prepayment.store, target, now, show)
    if accounts is not None and is_on_server(loaded.store):
        left_out.append("store")
        stderr.print(ON_SERVER.format("the store is"))
    else:
        with _bar("copying", PAGE) as show:
            taken = back_up(loaded.store, target, now, show)
    if json:
        told = {} if taken is None else msgspec.to_builtins(taken, enc_hook=str)
        if accounts is not None:
            told["accounts"] = msgspec.to_builtins(accounts, enc_hook=str)
        print_json(told | {"left_out": left_out})
        return
    if accounts is not None:
        stdout.print(escape(f"backed up the accounts to {accounts.path}: {accounts.size >> 10} KB"))
    if taken is not None:
        stdout.print(escape(f"backed up to {taken.path}: {taken.size >> 10} KB, events up to {taken.last_sequence}"))


def restore_command(
    config: ConfigFile,
    backup: Annotated[
        Path | None,
        typer.Argument(metavar="[BACKUP]", help="A file that `headend backup` has made.", show_default=False),
    ] = None,
    beyond: Annotated[int, typer.Option(min=0, help="Highest sequence that any consumer has, where it is known.")] = 0,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="BACKUP is of the accounts of [prepayment]; the store stays as it is.")
    ] = False,
    restored_to: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Instead of BACKUP: the server's own tools have put its database back to this moment, 2026-11-22T02:00:00Z.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Put a backup into the place of the store; the head-end must not run. The former store is kept beside it.

    The feed goes on far above what can have been given out since the backup; its first event says which numbers are void.
    """
    from headend.config import load_config
    from headend.store.backup import go_on_after_server, restore

    if (backup is None) == (restored_to is None):
        fail("expected either BACKUP, or of a server's database that its own tools have put back --restored-to TIME")
    loaded, now = load_config(config), SystemClock().now()
    if accounts:
        _restore_accounts(loaded, backup, restored_to, now, json)
        return
    if backup is not None:
        with _bar("restoring", 1) as show:
            restored = restore(loaded.store, backup, loaded.name, now, beyond=beyond, show=show)
    else:
        restored = go_on_after_server(
            loaded.store, loaded.name, moment_of("--restored-to", restored_to or ""), now, beyond=beyond
        )
    if json:
        print_json(msgspec.to_builtins(restored, enc_hook=str))
        return
    stdout.print(
        escape(
            f"restored: events up to {restored.last_before}; the feed goes on with {restored.first_sequence}, and the numbers "
            f"between are void"
        )
    )
    if restored.replaced is not None:
        stdout.print(escape(f"the former store is {restored.replaced}; remove it when nobody needs it any more"))


def _restore_accounts(
    loaded: "Config", backup: Path | None, restored_to: str | None, now: datetime, json: bool
) -> None:
    from headend.assembly.prepaid_backup import accounts_go_on_after_server, restore_accounts

    if backup is not None:
        with _bar("restoring", 1) as show:
            restored = restore_accounts(loaded.prepayment.store, backup, now, show)
    else:
        restored = accounts_go_on_after_server(
            loaded.prepayment.store, moment_of("--restored-to", restored_to or ""), now
        )
    if json:
        print_json(msgspec.to_builtins(restored, enc_hook=str))
        return
    stdout.print(
        escape(
            f"restored the accounts as of {restored.backup_at:%Y-%m-%d %H:%M} UTC. Payments since then are not in it: take every "
            f"channel's file of those days again (docs/operation.md)"
        )
    )
    if restored.replaced is not None:
        stdout.print(escape(f"the former accounts are {restored.replaced}"))


@contextmanager
def _bar(doing: str, unit: int) -> Iterator[Callable[[int, int], None]]:
    """unit: bytes of what is counted."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done * unit, total=total * unit)
