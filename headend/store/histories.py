"""Histories of channels: written in the commit of their reads, moved by facts, loaded once at the start.

A history carries the generation of its baseline. Reads that were judged before a fact moved the baseline may be committed after
it; their histories are of a lower generation then, and do not replace what the fact has written.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Insert, select
from sqlalchemy.dialects import postgresql, sqlite

from headend.database.engine import reading
from headend.store.tables import channels
from headend.store.truth_tables import truth_histories

__all__ = ["histories_of", "rebase_history", "write_histories"]

_ROWS_PER_STATEMENT = (500, 100, 20, 4, 1)  # see `engine.insert_rows`
_HISTORIES = select(channels.c.meter, channels.c.obis, truth_histories.c.body).join_from(truth_histories, channels)
_ROWS_AT_ONCE = 5000


def histories_of(engine: Engine, meters: Iterable[str]) -> dict[str, dict[str, bytes]]:
    """By meter and quantity, of these meters only."""
    found: dict[str, dict[str, bytes]] = {meter: {} for meter in meters}
    with reading(engine, "loading what is remembered of the channels") as connection:
        for meter, obis, body in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(_HISTORIES):
            if (of_meter := found.get(meter)) is not None:
                of_meter[sys.intern(obis)] = body
    return found


def write_histories(connection: Connection, histories: Mapping[int, tuple[int, bytes]]) -> None:
    """By channel: generation and history. One that is of a lower generation than what is there is passed over."""
    if connection.dialect.name != "sqlite":
        rows = [{"channel": channel, "generation": kept[0], "body": kept[1]} for channel, kept in histories.items()]
        connection.execute(_upsert(connection.dialect.name), rows)
        return
    values: list[Any] = []
    for channel in sorted(histories):  # in the order of the table, so that its pages are looked for once
        values += (channel, *histories[channel])
    at = 0
    while at < len(values):
        size = next(size for size in _ROWS_PER_STATEMENT if 3 * size <= len(values) - at)
        connection.exec_driver_sql(_sqlite_text(size), tuple(values[at : at + 3 * size]))
        at += 3 * size


def rebase_history(connection: Connection, meter: str, obis: str, generation: int, history: bytes) -> None:
    """In somebody's transaction. A channel that has no stored read yet has no history either."""
    named = select(channels.c.id).where(channels.c.meter == meter, channels.c.obis == obis)
    if (channel := connection.execute(named).scalar()) is not None:
        write_histories(connection, {channel: (generation, history)})


@cache  # as many as there are sizes
def _sqlite_text(rows: int) -> str:
    return (
        f"INSERT INTO truth_histories VALUES {','.join(['(?,?,?)'] * rows)} ON CONFLICT(channel) DO UPDATE SET "
        f"generation=excluded.generation, body=excluded.body WHERE excluded.generation >= truth_histories.generation"
    )


def _upsert(dialect: str) -> Insert:
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(truth_histories)
    new: Any = statement.excluded
    upsert: Insert = statement.on_conflict_do_update(
        index_elements=["channel"],
        set_={"generation": new.generation, "body": new.body},
        where=new.generation >= truth_histories.c.generation,
    )
    return upsert
