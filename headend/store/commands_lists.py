"""Lists of orders that came under one name. A name is used again; each list under it is told from earlier ones by its first command.

Every function takes somebody's connection.
"""

import msgspec
from sqlalchemy import Connection, bindparam, select

from headend.commands.model import Command
from headend.database.hot import HotStatement
from headend.store.commands_tables import commands

__all__ = ["LIST_MAX", "active_of_list", "commands_of_list", "under_way"]

LIST_MAX = 100_000  # commands of one list that are looked at

_decode = msgspec.json.Decoder(Command).decode
_UNDER_WAY = HotStatement(
    select(commands.c.body).where(commands.c.batch == bindparam("batch_is"), commands.c.place.is_not(None)).limit(1),
    "batch_is",
)
_NEWEST = (
    select(commands.c.body)
    .where(commands.c.batch == bindparam("batch_is"))
    .order_by(commands.c.created_at.desc(), commands.c.id.desc())
    .limit(1)
)


def under_way(connection: Connection, batch: str) -> Command | None:
    """A command of this name that has not ended; None: there is none, and the name is free."""
    row = _UNDER_WAY.first(connection, batch)
    return None if row is None else _decode(row[0])


def active_of_list(connection: Connection, batch: str) -> list[Command]:
    """Of this name, those that have not ended."""
    statement = select(commands.c.body).where(commands.c.batch == batch, commands.c.place.is_not(None))
    return [_decode(body) for (body,) in connection.execute(statement.limit(LIST_MAX))]


def commands_of_list(connection: Connection, batch: str, *, limit: int) -> list[Command]:
    """Of the list of this name that came last, the command made first first."""
    newest = under_way(connection, batch)
    if newest is None:
        body = connection.execute(_NEWEST, {"batch_is": batch}).scalar()
        if body is None:
            return []
        newest = _decode(body)
    head = newest.list_head
    statement = select(commands.c.body).where(commands.c.batch == batch)
    began = connection.execute(select(commands.c.created_at).where(commands.c.id == head)).scalar()
    if began is not None:
        statement = statement.where(commands.c.created_at >= began)
    rows = connection.execute(statement.order_by(commands.c.created_at, commands.c.id).limit(limit))
    return [one for (body,) in rows if (one := _decode(body)).list_head == head]
