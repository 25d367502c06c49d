"""Backup of a store at work, and restoring one so that no number and no id is ever given to something else.

A backup is one consistent moment of the store in one file; commits go on meanwhile, since readers of a write-ahead log do not hold
up its writer. It is checked and synced before it gets its name.

A restored store does not know what was given out between the backup and the loss. So its feed goes on far above anything that can have
been. The numbers between are void (see restores.py); the first event behind them tells so. Destinations count as having what is
void. The replaced file is kept beside the store.
"""

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from sqlalchemy import Connection, insert, inspect

from headend.database.engine import connect, prepared_file, reading, writing
from headend.errors import ConfigError, HeadendError, StoreUnavailable
from headend.feed.envelope import encode_event, iso_utc
from headend.model import Event
from headend.store.commits import LAST
from headend.store.cursors import Cursors, Saved
from headend.store.lock import sole_owner
from headend.store.migrate import migrate
from headend.store.restores import Void, void_after
from headend.store.restores_tables import feed_restores
from headend.store.rows import epoch_ms, from_epoch_ms
from headend.store.tables import feed_batches

__all__ = [
    "BackupTaken",
    "Restored",
    "back_up",
    "go_on_after_server",
    "held_on_server",
    "is_on_server",
    "replace_by",
    "restore",
]

RESTORED_TYPE = "headend.service-status.v1"
SEQUENCE_MAX = 2**53  # that every reader of JSON can hold
AHEAD = timedelta(days=1)  # interval ends that may have been given out before their time, by a clock that was fast
PAGES_AT_ONCE = 1000  # 4 MB between two looks of the progress bar
_FACTS = "backup_facts"  # a table that only backups have
_COMPANIONS = ("-wal", "-shm", "-journal")

T = TypeVar("T")
Show = Callable[[int, int], None]  # done, of how many
Last = Callable[[sqlite3.Connection], int]


class BackupTaken(Struct, frozen=True, kw_only=True):
    """last_sequence: of the newest event in it. size: bytes."""

    path: Path
    taken_at: datetime
    last_sequence: int
    size: int


class Restored(Struct, frozen=True, kw_only=True):
    """first_sequence: of the event that tells of it. replaced: where the former file is; None when there was none."""

    backup_at: datetime
    last_before: int
    first_sequence: int
    replaced: Path | None


def is_on_server(url: str) -> bool:
    """Whether it is a server's database, which no file here can be a backup of."""
    return prepared_file(url) is None


def back_up(
    url: str, target: Path, now: datetime, show: Show = lambda done, total: None, *, last_of: Last | None = None
) -> BackupTaken:
    """Copy the store at `url` into the new file `target`, beside a running head-end or without one.

    last_of: what `last_sequence` is, of another database than the store. Raises ConfigError, StoreUnavailable.
    """
    file = _file_of(url)
    if not file.exists():
        raise ConfigError(f"there is no store {file} to back up; `headend run` makes it")
    if target.is_dir():
        target = target / f"{file.stem}-{now:%Y%m%dT%H%M%SZ}.backup"
    if target.exists():
        raise ConfigError(f"{target} exists and is not overwritten: give another name, or a folder")
    part = target.with_name(f"{target.name}.part")
    with _said(f"backing up {file} to {target}", remove=part):
        if (free := shutil.disk_usage(target.parent).free) < file.stat().st_size:
            raise StoreUnavailable(
                f"{target.parent} has {free >> 20} MB free, the store has {file.stat().st_size >> 20} MB"
            )
        part.unlink(missing_ok=True)
        part.touch(0o600)  # tokens and meters are in it: for nobody else while it is written
        with closing(sqlite3.connect(file, isolation_level=None)) as source, closing(sqlite3.connect(part)) as copy:
            # A read transaction holds the moment still: without it, every commit of the head-end would begin the copy anew.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(copy, pages=PAGES_AT_ONCE, progress=lambda _, left, total: show(total - left, total))
            source.execute("COMMIT")
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
            last = (last_of or _last_sequence)(copy)
            copy.execute(f"CREATE TABLE {_FACTS} (taken_at INTEGER NOT NULL, last_sequence INTEGER NOT NULL)")
            copy.execute(f"INSERT INTO {_FACTS} VALUES (?, ?)", (epoch_ms(now), last))
            copy.commit()
            _check(copy, part)
        shutil.copymode(file, part)
        _sync(part)
        os.link(part, target)  # refuses where somebody made the target meanwhile
        part.unlink()
        _sync(target.parent)
    return BackupTaken(path=target, taken_at=now, last_sequence=last, size=target.stat().st_size)


def restore(
    url: str,
    backup: Path,
    name: str,
    now: datetime,
    *,
    beyond: int = 0,
    show: Show = lambda done, total: None,
) -> Restored:
    """Put the backup into the place of the store at `url`, whose head-end must not run.

    name: the head-end's. beyond: a sequence that somebody is known to have. Raises StoreInUse, ConfigError, StoreUnavailable,
    SchemaMismatch.
    """

    def prepare(part: Path, taken_at: datetime, last: int) -> Void:
        migrate(f"sqlite:///{part}")
        void = _void_after(last, now, max(beyond, _last_of(_file_of(url))))
        _make_void(f"sqlite:///{part}", name, void, taken_at, now)
        return void

    taken_at, last, replaced, void = replace_by(url, backup, now, prepare, needs="feed_batches", show=show)
    return Restored(backup_at=taken_at, last_before=last, first_sequence=void.last + 1, replaced=replaced)


def go_on_after_server(url: str, name: str, restored_to: datetime, now: datetime, *, beyond: int = 0) -> Restored:
    """The server's own tools have put its database back to what it was at `restored_to`: the feed goes on as `restore` lets it.

    The rest as `restore`.
    """
    with held_on_server(url, restored_to, now, needs="feed_batches"):
        migrate(url)
        engine = connect(url)
        try:
            with reading(engine, "looking up the end of the feed") as connection:
                last = connection.execute(LAST).scalar() or 0
        finally:
            engine.dispose()
        void = _void_after(last, now, beyond)
        _make_void(url, name, void, restored_to, now)
    return Restored(backup_at=restored_to, last_before=last, first_sequence=void.last + 1, replaced=None)


@contextmanager
def held_on_server(url: str, restored_to: datetime, now: datetime, *, needs: str) -> Iterator[None]:
    """A server's database that was put back, while nobody else may have it open. needs: a table that it must have then.

    Raises StoreInUse, ConfigError, StoreUnavailable.
    """
    if not is_on_server(url):
        raise ConfigError("this database is a file: give the backup that is to be put into its place")
    _expect_past(restored_to, now, "it is said to be restored to")
    with sole_owner(url):
        engine = connect(url)
        try:
            with reading(engine, "looking at what was put back") as connection:
                if not inspect(connection).has_table(needs):
                    raise ConfigError(
                        f"there is no table {needs} in this database: put it back with the server's tools first"
                    )
        finally:
            engine.dispose()
        yield


def _void_after(last: int, now: datetime, known: int) -> Void:
    void = void_after(last, now, known)
    if void.last > SEQUENCE_MAX:
        raise ConfigError(
            f"the feed would go on behind {void.last}, expected a number below {SEQUENCE_MAX}: `--beyond` is too high"
        )
    return void


def _expect_past(moment: datetime, now: datetime, said: str) -> None:
    if moment > now:
        raise ConfigError(
            f"{said} {iso_utc(moment)}, and it is {iso_utc(now)} here: set the clock of this machine first, how far the feed must "
            f"go on depends on it"
        )


def replace_by(
    url: str,
    backup: Path,
    now: datetime,
    prepare: Callable[[Path, datetime, int], T],
    *,
    needs: str,
    show: Show = lambda done, total: None,
) -> tuple[datetime, int, Path | None, T]:
    """Put a backup into the place of the database at `url`, which nobody may have open; gives when the backup was taken, its last
    sequence, where the former file is, and what `prepare` gave.

    prepare: makes of the copy what is to go on: its path, and what the backup says of itself. needs: a table that it must have.
    """
    file = _file_of(url)
    part = file.with_name(f"{file.name}.restoring")
    with sole_owner(url), _said(f"restoring {backup} to {file}", remove=part):
        taken_at, last = _facts(backup)
        _expect_past(taken_at, now, f"{backup} says it was taken at")
        for old in (part, *(Path(f"{part}{ending}") for ending in _COMPANIONS)):
            old.unlink(missing_ok=True)
        _copy(backup, part, show)
        with closing(sqlite3.connect(part)) as copy:
            _check(copy, backup)
            if not copy.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (needs,)).fetchone()[0]:
                raise ConfigError(f"{backup} is a backup of another database; expected one with a table {needs}")
            copy.execute(f"DROP TABLE {_FACTS}")
            copy.commit()
        prepared = prepare(part, taken_at, last)
        with closing(sqlite3.connect(part)) as copy:  # and no log beside it
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            copy.execute("PRAGMA journal_mode=DELETE")
        if file.exists():
            shutil.copymode(file, part)
        _sync(part)
        replaced = _set_aside(file, now)
        os.replace(part, file)
        _sync(file.parent)
    return taken_at, last, replaced, prepared


def _make_void(url: str, name: str, void: Void, taken_at: datetime, now: datetime) -> None:
    """Everything that makes the copy a store that goes on behind the void, in one transaction but for the cursors, which may repeat."""
    engine = connect(url)
    data: dict[str, object] = {
        "kind": "restored",
        "state": "restored",
        "last_before": void.first - 1,
        "void_through": void.last,
        "backup_at": iso_utc(taken_at),
    }
    event = Event(type=RESTORED_TYPE, subject=name, data=data, time=now)
    try:
        with writing(engine, "making numbers void") as connection:
            values = {
                "number": _restores(connection) + 1,
                "restored_at": epoch_ms(now),
                "backup_at": epoch_ms(taken_at),
                "void_first": void.first,
                "void_last": void.last,
                "slots_through": epoch_ms(now + AHEAD),
            }
            connection.execute(insert(feed_restores), [values])
            body = zlib.compress(encode_event(event, source=f"/headend/{name}", sequence=void.last + 1))
            connection.execute(insert(feed_batches), [{"first": void.last + 1, "count": 1, "body": body}])
        cursors = Cursors(engine)
        known = cursors.all_progress().items()
        cursors.save({name: Saved(progress=one.settled(void.first, void.last)) for name, one in known})
    finally:
        engine.dispose()


def _restores(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM feed_restores").scalar_one())


def _set_aside(file: Path, now: datetime) -> Path | None:
    """Give the former store a second name; from then on the first may be overwritten. Its log goes along, so that it can be opened."""
    if not file.exists():
        for ending in _COMPANIONS:  # of a file that somebody removed: it would be taken for the restored one's
            Path(f"{file}{ending}").unlink(missing_ok=True)
        return None
    aside = file.with_name(f"{file.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}+")
    os.link(file, aside)
    for ending in _COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{file}{ending}", f"{aside}{ending}")
    return aside


def _facts(backup: Path) -> tuple[datetime, int]:
    """When it was taken, and its last sequence. Raises ConfigError."""
    if not backup.is_file():
        raise ConfigError(f"there is no backup {backup}")
    try:
        with closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            taken_at, last = opened.execute(f"SELECT taken_at, last_sequence FROM {_FACTS}").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise ConfigError(
            f"{backup} is not a backup made by `headend backup` ({error}): a plain copy of a store does not say when it was made"
        ) from error
    return from_epoch_ms(taken_at), int(last)


def _last_of(file: Path) -> int:
    """Newest event of the store that is to be replaced; 0 when it cannot be read, as is to be expected of one that was damaged."""
    if not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(file)) as opened:
            return _last_sequence(opened)
    except sqlite3.Error:
        return 0


def _last_sequence(connection: sqlite3.Connection) -> int:
    row = connection.execute(str(LAST.compile(compile_kwargs={"literal_binds": True}))).fetchone()
    return 0 if row is None else int(row[0])


def _check(copy: sqlite3.Connection, path: Path) -> None:
    found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreUnavailable(f"{path} is damaged: {found}; use another backup")


def _copy(source: Path, target: Path, show: Show) -> None:
    total = source.stat().st_size
    with (
        source.open("rb") as reader,
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer,
    ):
        while chunk := reader.read(PAGES_AT_ONCE * 4096):
            writer.write(chunk)
            show(reader.tell(), total)


def _sync(path: Path) -> None:
    """A file, or a folder's names."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows has no folders that can be opened
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_of(url: str) -> Path:
    file = prepared_file(url)
    if file is None:
        raise ConfigError(
            "this is a server's database: back it up and put it back with its own tools (pg_dump, or continuous archiving, which loses "
            "nothing), and then let it go on with `headend restore CONFIG --restored-to TIME`"
        )
    return file.resolve()


@contextmanager
def _said(doing: str, *, remove: Path) -> Iterator[None]:
    """Errors in our words, and nothing half-done left behind. Raises StoreUnavailable."""
    try:
        yield
    except HeadendError:
        _tidy(remove)
        raise
    except (OSError, sqlite3.Error) as error:
        _tidy(remove)
        raise StoreUnavailable(f"{doing}: {error}") from error


def _tidy(path: Path) -> None:
    for ending in ("", *_COMPANIONS):
        with contextlib.suppress(OSError):
            Path(f"{path}{ending}").unlink(missing_ok=True)
