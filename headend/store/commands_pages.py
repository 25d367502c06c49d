"""Lists of commands and debts for people and programs that look page by page. Every function takes somebody's connection."""

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, and_, or_, select

from headend.commands.model import Command, State
from headend.commands.obligations import Obligation
from headend.store.commands_tables import commands, obligations

__all__ = ["commands_page", "obligations_page"]

_command = msgspec.json.Decoder(Command).decode
_obligation = msgspec.json.Decoder(Obligation).decode


def commands_page(
    connection: Connection,
    *,
    meter: str = "",
    states: Iterable[State] = (),
    batch: str = "",
    after: str = "",
    limit: int = 100,
) -> list[Command] | None:
    """The newest first, those that were made before the command `after`; None: there is no such command. Empty filters let all pass."""
    row = commands.c
    statement = select(row.body).order_by(row.created_at.desc(), row.id.desc()).limit(limit)
    if meter:
        statement = statement.where(row.meter == meter)
    if batch:
        statement = statement.where(row.batch == batch)
    if wanted := [state.value for state in states]:
        statement = statement.where(row.state.in_(wanted))
    if after:
        last = connection.execute(select(row.created_at, row.id).where(row.id == after)).first()
        if last is None:
            return None
        at, identity = last
        statement = statement.where(or_(row.created_at < at, and_(row.created_at == at, row.id < identity)))
    return [_command(body) for (body,) in connection.execute(statement)]


def obligations_page(
    connection: Connection, *, meter: str = "", is_open: bool | None = None, limit: int = 100
) -> list[Obligation]:
    """The oldest debt first, where only open ones are asked for; else the newest. is_open: None: both."""
    row = obligations.c
    order = row.since if is_open else row.since.desc()
    statement = select(row.body).order_by(order, row.id).limit(limit)
    if meter:
        statement = statement.where(row.meter == meter)
    if is_open is not None:
        statement = statement.where(row.is_open == 1 if is_open else row.is_open.is_(None))
    return [_obligation(body) for (body,) in connection.execute(statement)]
