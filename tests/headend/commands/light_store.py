"""The command room's tables without what makes them last: in memory, on one connection, and no feed is kept.

For runs of many thousands of commands in which nobody ends the process. A transaction is one all the same: all of it, or nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from headend.database.hot import ask_sqlite
from headend.store.tables import metadata

__all__ = ["LightStore"]

T = TypeVar("T")


class LightStore:
    """`Store` as far as the command room asks it."""

    def __init__(self) -> None:
        # isolation_level: transactions begin when we say so, as in the store that lasts.
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"isolation_level": None})
        self._connection = self._engine.connect()
        metadata.create_all(self._connection)

    def transact(self, work: Callable[[Connection], tuple[T, Sequence[Any]]], doing: str) -> tuple[T, list[int | None]]:
        connection = self._connection
        ask_sqlite(connection, "BEGIN")
        try:
            result, items = work(connection)
        except BaseException:
            ask_sqlite(connection, "ROLLBACK")
            raise
        ask_sqlite(connection, "COMMIT")
        return result, [None for _ in items]

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()
