"""Statements that are asked for every step of something: as text, built once, and on SQLite given straight to the driver.

SQLAlchemy's way from a built statement to its rows costs some ten times what SQLite takes for the answer. Where a command takes a
dozen of them, that is most of what it costs. On other databases, whose answers come over a wire, the statement goes the usual way.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import Executable

__all__ = ["HotStatement", "ask_sqlite"]

_SQLITE = sqlite.dialect(paramstyle="qmark")


class HotStatement:
    """names: of the statement's bind parameters, in the order in which `all`, `first`, … are given them.

    Columns must be of types that SQLite's driver takes and gives as they are: integers, texts, bytes.
    """

    __slots__ = ("_names", "_order", "_text", "statement")

    def __init__(self, statement: Executable, *names: str) -> None:
        compiled = statement.compile(dialect=_SQLITE, column_keys=names)  # type: ignore[attr-defined]
        self.statement = statement
        self._names = names
        self._text = str(compiled)
        constants = {name: value for name, value in compiled.params.items() if name not in names}
        # Each place of the text: which of the values that are given, or a constant of the statement.
        self._order: tuple[tuple[int, Any], ...] = tuple(
            (names.index(name), None) if name in names else (-1, constants[name]) for name in compiled.positiontup or ()
        )

    def first(self, connection: Connection, *values: Any) -> Sequence[Any] | None:
        """The first row; None when there is none. Others, if any, are not asked for."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, dict(zip(self._names, values, strict=True))).first()
        row: Sequence[Any] | None = self._ask(connection, values).fetchone()
        return row

    def all(self, connection: Connection, *values: Any) -> Sequence[Sequence[Any]]:
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, dict(zip(self._names, values, strict=True))).all()
        return self._ask(connection, values).fetchall()

    def change(self, connection: Connection, *values: Any) -> int:
        """How many rows were changed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, dict(zip(self._names, values, strict=True))).rowcount
        return self._ask(connection, values).rowcount

    def change_each(self, connection: Connection, rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> None:
        """Once for each row of values; there may be none."""
        if connection.dialect.name != "sqlite":
            given = [dict(zip(self._names, values, strict=True)) for values in rows]
            if given:  # without any, SQLAlchemy would ask once, for nothing
                connection.execute(self.statement, given)
            return
        for values in rows:
            self._ask(connection, values)

    def _ask(self, connection: Connection, values: Sequence[Any]) -> sqlite3.Cursor:
        given = [values[place] if place >= 0 else constant for place, constant in self._order]
        return ask_sqlite(connection, self._text, given)


def ask_sqlite(connection: Connection, text: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
    """text: with a question mark for each value. The connection's transaction must have begun. Raises DBAPIError."""
    dbapi: Any = connection.dialect.loaded_dbapi
    cursor: sqlite3.Cursor = connection.connection.cursor()  # type: ignore[assignment]
    try:
        return cursor.execute(text, values)
    except dbapi.Error as error:
        # As SQLAlchemy says it, since whoever ends the transaction listens for that.
        raise DBAPIError.instance(
            text, None, error, dbapi.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
