"""The database of prepaid supply: its own, apart from the head-end's store. SQLite by default; the same code on PostgreSQL."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.dialects import postgresql

from headend.database.engine import connect, prepared_file, reading, writing
from headend.errors import SchemaMismatch

__all__ = ["AT_ONCE", "Database", "open_database", "put_rows"]

AT_ONCE = 500  # values in one question; databases limit the number of parameters
_SCRIPTS = Path(__file__).parent / "migrations"
_ROWS_PER_STATEMENT = (100, 10, 1)


class Database:
    """Transactions on one engine; any thread may begin one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = threading.Lock()

    @contextmanager
    def reading(self, doing: str) -> Iterator[Connection]:
        """One consistent view. Raises StoreUnavailable, StoreFull."""
        with reading(self.engine, doing) as connection:
            yield connection

    @contextmanager
    def writing(self, doing: str) -> Iterator[Connection]:
        """Everything durable at the end of the block, or nothing. Raises StoreUnavailable, StoreFull, ItemRefused."""
        # Who waits for SQLite's lock asks for it again and again, and gets it never from one who writes without a pause.
        with self._writer, writing(self.engine, doing) as connection:
            yield connection

    def dispose(self) -> None:
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Its tables brought to this program's version first. Raises ConfigError, StoreUnavailable, SchemaMismatch."""
    prepared_file(url)
    engine = connect(url)
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with writing(engine, "migrating the accounts") as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        engine.dispose()
        raise SchemaMismatch(
            f"the accounts' database was made by another version of this program ({error}): run the newest version on it, "
            f"or restore the backup taken before the upgrade"
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return Database(engine)


def put_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Whole rows, all columns in the table's order; each in place of the one with its key, if there is one."""
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        names = table.columns.keys()
        keys = [column.name for column in table.primary_key]
        wanted = postgresql.insert(table)
        rest = {name: wanted.excluded[name] for name in names if name not in keys}
        statement = (
            wanted.on_conflict_do_update(index_elements=keys, set_=rest)
            if rest
            else wanted.on_conflict_do_nothing(index_elements=keys)
        )
        connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])
        return
    at = 0
    while at < len(rows):
        size = next(size for size in _ROWS_PER_STATEMENT if size <= len(rows) - at)
        some = tuple(value for row in rows[at : at + size] for value in row)
        connection.exec_driver_sql(_put_text(table.name, len(table.columns), size), some)
        at += size


@cache
def _put_text(table: str, width: int, rows: int) -> str:
    row = f"({','.join('?' * width)})"
    # One statement a table and size; REPLACE, because an upsert that names its columns is parsed for longer than it runs.
    return f"INSERT OR REPLACE INTO {table} VALUES {','.join([row] * rows)}"
