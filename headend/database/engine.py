"""Connections and their transactions. Only here is known which database it is; only here are its errors heard."""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, make_url
from sqlalchemy.exc import ArgumentError, DataError, SQLAlchemyError

from headend.database import postgresql
from headend.database.hot import ask_sqlite
from headend.errors import ConfigError, ItemRefused, StoreFull, StoreUnavailable

__all__ = ["connect", "insert_rows", "prepared_file", "reading", "translated", "writing"]

# Many rows per statement, because sqlite3 gives up the interpreter's lock several times per execution, and a busy event loop gives
# it back only after the switch interval: row by row, the commits of a head-end at work starved. Few sizes, because each is a
# statement kept prepared: 500 rows of `reads` are 6,000 parameters (SQLite allows 32,766) and half a megabyte.
_ROWS_PER_STATEMENT = (500, 100, 20, 4, 1)
CHECKPOINT_PAGES = (
    4000  # 16 MB: pages that several groups change reach the database file once; at most this is read after a crash
)
NO_ROOM_BYTES = 256 << 10  # less is no room: SQLite's files grow in steps, the index of its log by 32 KB
BUSY_TIMEOUT_S = 10.0  # a command-line tool or a checkpoint may hold the file for a moment; longer is an alarm


def connect(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Engine:
    """An engine for `sqlite:////absolute/path` or `postgresql+psycopg://…`. Raises ConfigError."""
    try:
        parsed = make_url(url)
        # Parameters stay out of error texts: they carry meter numbers, and /healthz shows the error to everyone.
        if parsed.get_backend_name() == "postgresql":
            settings = {name: value for name, value in postgresql.CONNECT.items() if name not in parsed.query}
            engine = create_engine(parsed, hide_parameters=True, connect_args=settings, pool_pre_ping=True)
        else:
            engine = create_engine(parsed, hide_parameters=True)
    except (ArgumentError, ImportError, SQLAlchemyError) as error:
        raise ConfigError(
            f"store URL cannot be used ({error}): expected sqlite:////absolute/path/headend.db or "
            f"postgresql+psycopg://user@host/database with the postgresql extra installed"
        ) from error
    if engine.dialect.name == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(
                "the store must be a file: expected sqlite:////absolute/path/headend.db, found a "
                "database in memory, which loses every read at the next restart"
            )
        _prepare_sqlite(engine, busy_timeout_s)
    else:
        postgresql.prepare(engine, busy_timeout_s)
    return engine


def prepared_file(url: str) -> Path | None:
    """Where the store's SQLite file is or will be, its folder made; None for a server. Raises StoreUnavailable."""
    if not url.startswith("sqlite:///"):
        return None
    path = Path(url.removeprefix("sqlite:///"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the store's folder {path.parent} cannot be made: {error.strerror}; choose another `store` in [headend]"
        ) from error
    return path


@contextmanager
def reading(engine: Engine, doing: str) -> Iterator[Connection]:
    """One consistent view. Raises StoreUnavailable, StoreFull."""
    with translated(engine, doing), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, doing: str) -> Iterator[Connection]:
    """One transaction: everything durable at the end of the block, or nothing. Raises StoreUnavailable, StoreFull, ItemRefused."""
    with translated(engine, doing), engine.connect() as connection:
        connection.execution_options(headend_writes=True)
        with connection.begin():
            yield connection


def insert_rows(connection: Connection, table: Table, values: Sequence[Any]) -> None:
    """Insert whole rows, all columns in the table's order; `values` has row after row without nesting, or nothing."""
    width = len(table.columns)
    if connection.dialect.name != "sqlite":
        names = table.columns.keys()
        rows = [dict(zip(names, values[at : at + width], strict=True)) for at in range(0, len(values), width)]
        if rows:
            connection.execute(insert(table), rows)
        return
    at = 0
    while at < len(values):
        size = next(size for size in _ROWS_PER_STATEMENT if size * width <= len(values) - at)
        ask_sqlite(connection, _insert_text(table.name, width, size), values[at : at + size * width])
        at += size * width


@cache  # as many as there are tables and sizes
def _insert_text(table: str, width: int, rows: int) -> str:
    row = f"({','.join('?' * width)})"
    # An error ends the whole transaction anyway; OR FAIL spares SQLite the copies that undo a single statement.
    return f"INSERT OR FAIL INTO {table} VALUES {','.join([row] * rows)}"


@contextmanager
def translated(engine: Engine, doing: str) -> Iterator[None]:
    """A database's errors as ours. Raises StoreUnavailable, StoreFull, ItemRefused."""
    try:
        yield
    except DataError as error:
        raise ItemRefused(f"{doing}: the database cannot hold a value: {_first_line(error.orig)}") from error
    except SQLAlchemyError as error:
        # Everything else is the database's trouble, not the item's: a full disk, a lock, a trigger, a lost connection.
        cause = getattr(error, "orig", None) or error
        kind = StoreFull if _is_full(cause, engine.url.database) else StoreUnavailable
        said = "the disk is full" if kind is StoreFull else _first_line(cause)
        raise kind(f"{doing}: {said}; nothing was stored by this call") from error


def _first_line(cause: BaseException | None) -> str:
    """PostgreSQL goes on with rows and statements, and meter numbers in them."""
    return str(cause).partition("\n")[0]


def _is_full(cause: BaseException, file: str | None) -> bool:
    """SQLite says so only where it writes pages; opening its files, or enlarging them, fails with words that name no cause."""
    if getattr(cause, "sqlstate", None) == postgresql.DISK_FULL:
        return True
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and file is not None:
        try:
            return shutil.disk_usage(Path(file).parent).free < NO_ROOM_BYTES
        except OSError:
            return False
    return code == sqlite3.SQLITE_FULL


def _prepare_sqlite(engine: Engine, busy_timeout_s: float) -> None:
    """Durable at every commit, readers beside one writer, and transactions that begin when we say so."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: object) -> None:
        # The sqlite3 module would begin transactions on its own idea of what changes something; we begin them.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout_s * 1000)}")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise ConfigError(
                f"the store's file system allows no write-ahead log: expected journal mode wal, found "
                f"{mode}; put the store on a local disk"
            )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # A deferred transaction that turns into a writer midway fails at once when another wrote meanwhile,
        # without the busy timeout; so writers say at the start that they are.
        writes = connection.get_execution_options().get("headend_writes", False)
        ask_sqlite(connection, "BEGIN IMMEDIATE" if writes else "BEGIN")
