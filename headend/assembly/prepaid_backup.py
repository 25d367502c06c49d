"""Backups of the accounts' database, and restoring one so that no fence number is ever given a second time.

What was taken after the backup is not in it: payments are told again by their channels, day by day from the reconciliation files; what
meters counted comes again from the feed. Orders and payments of the time between are known to the command room, which keeps the highest
fence of each meter. So all accounts go on with fences above any that can have been given.
"""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct
from sqlalchemy import select

from headend.database.engine import prepared_file
from headend.prepayment.books.fences import ALL_ACCOUNTS
from headend.prepayment.storage.database import open_database, put_rows
from headend.prepayment.storage.tables import feed_cursor, fences
from headend.store.backup import BackupTaken, Show, back_up, held_on_server, replace_by

__all__ = ["AccountsRestored", "accounts_go_on_after_server", "back_up_accounts", "restore_accounts"]

ENDING = "-accounts"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
STEP = 10**6  # fences of one account in a minute; a backup may be restored twice, so they follow the clock


class AccountsRestored(Struct, frozen=True, kw_only=True):
    """last_sequence: of the feed, as far as the backup has taken it in. replaced: where the former file is; None: there was none."""

    backup_at: datetime
    last_sequence: int
    replaced: Path | None


def back_up_accounts(url: str, target: Path, now: datetime, show: Show) -> BackupTaken | None:
    """target: where the store's backup goes, or its folder. None: there is no file yet, or never one: a server's database
    is backed up with the server's own tools. Raises ConfigError, StoreUnavailable."""
    file = prepared_file(url)
    if file is None or not file.exists():
        return None
    if not target.is_dir():
        target = target.with_name(f"{target.stem}{ENDING}{target.suffix}")
    return back_up(url, target, now, show, last_of=_cursor)


def restore_accounts(url: str, backup: Path, now: datetime, show: Show) -> AccountsRestored:
    """Nobody may have the database open. Raises StoreInUse, ConfigError, StoreUnavailable, SchemaMismatch."""

    def prepare(part: Path, taken_at: datetime, last: int) -> None:
        _lift_fences(f"sqlite:///{part}", now)

    taken_at, last, replaced, _ = replace_by(url, backup, now, prepare, needs="feed_cursor", show=show)
    return AccountsRestored(backup_at=taken_at, last_sequence=last, replaced=replaced)


def accounts_go_on_after_server(url: str, restored_to: datetime, now: datetime) -> AccountsRestored:
    """The server's own tools have put the accounts back to what they were at `restored_to`. The rest as `restore_accounts`."""
    with held_on_server(url, restored_to, now, needs="feed_cursor"):
        last = _lift_fences(url, now)
    return AccountsRestored(backup_at=restored_to, last_sequence=last, replaced=None)


def _cursor(copy: sqlite3.Connection) -> int:
    row = copy.execute("SELECT sequence FROM feed_cursor").fetchone()
    return 0 if row is None else int(row[0])


def _lift_fences(url: str, now: datetime) -> int:
    """Of all accounts, also those that are not in the backup; with the tables of this program. Gives the cursor into the feed."""
    lowest = (now - EPOCH) // timedelta(minutes=1) * STEP
    database = open_database(url)
    try:
        with database.writing("lifting fences") as connection:
            lifted = {
                account: max(number + STEP, lowest) for account, number in connection.execute(select(fences)).all()
            }
            lifted[ALL_ACCOUNTS] = max([lowest, *lifted.values()])
            put_rows(connection, fences, list(lifted.items()))
            return connection.execute(select(feed_cursor.c.sequence)).scalar() or 0
    finally:
        database.dispose()
