"""Registered meters, the cursors of destinations, adopted DTUs: small tables beside the stream of reads."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, bindparam, delete, func, insert, select, update

from headend.database.engine import reading, writing
from headend.model import MeterRecord
from headend.store.tables import cursors, dtu_adoptions, meters

__all__ = ["adopt", "adoptions", "cursor", "delete_meters", "list_meters", "one_meter", "set_cursor", "upsert_meters"]

_FIELDS = ("id", "line", "address", "contract", "plan", "protocol")
_METERS = select(*(meters.c[field] for field in _FIELDS))
_ASK_MAX = 500  # ids in one question; databases limit the number of parameters


def upsert_meters(engine: Engine, records: Sequence[MeterRecord]) -> None:
    rows = {record.id: {field: getattr(record, field) for field in _FIELDS} for record in records}
    with writing(engine, "registering meters") as connection:
        known: set[str] = set()
        ids = list(rows)
        for start in range(0, len(ids), _ASK_MAX):
            known.update(connection.scalars(select(meters.c.id).where(meters.c.id.in_(ids[start : start + _ASK_MAX]))))
        fresh = [row for identity, row in rows.items() if identity not in known]
        changed = [{"key": row["id"], **row} for identity, row in rows.items() if identity in known]
        if fresh:
            connection.execute(insert(meters), fresh)
        if changed:
            values: dict[str, Any] = {field: bindparam(field) for field in _FIELDS[1:]}
            statement = update(meters).where(meters.c.id == bindparam("key")).values(values)
            connection.execute(statement, [{k: v for k, v in row.items() if k != "id"} for row in changed])


def delete_meters(engine: Engine, ids: Sequence[str]) -> int:
    """Their reads stay."""
    with writing(engine, "removing meters") as connection:
        return sum(connection.execute(delete(meters).where(meters.c.id == identity)).rowcount for identity in ids)


def list_meters(engine: Engine, *, after: str, limit: int | None) -> list[MeterRecord]:
    statement = _METERS.where(meters.c.id > after).order_by(meters.c.id).limit(limit)
    with reading(engine, "listing meters") as connection:
        return [MeterRecord(**dict(zip(_FIELDS, row, strict=True))) for row in connection.execute(statement)]


def one_meter(engine: Engine, identity: str) -> MeterRecord | None:
    with reading(engine, "looking up a meter") as connection:
        row = connection.execute(_METERS.where(meters.c.id == identity)).first()
    return None if row is None else MeterRecord(**dict(zip(_FIELDS, row, strict=True)))


def cursor(engine: Engine, destination: str) -> int:
    with reading(engine, "reading a cursor") as connection:
        statement = select(func.coalesce(func.max(cursors.c.sequence), 0)).where(cursors.c.destination == destination)
        return int(connection.execute(statement).scalar_one())


def set_cursor(engine: Engine, destination: str, sequence: int) -> None:
    with writing(engine, "moving a cursor") as connection:
        move = update(cursors).where(cursors.c.destination == destination).values(sequence=sequence)
        moved = connection.execute(move)
        if moved.rowcount == 0:
            connection.execute(insert(cursors).values(destination=destination, sequence=sequence))


def adoptions(engine: Engine) -> dict[str, str]:
    with reading(engine, "looking up adopted DTUs") as connection:
        return {line: dtu for line, dtu in connection.execute(select(dtu_adoptions.c.line, dtu_adoptions.c.dtu))}


def adopt(engine: Engine, line: str, dtu: str) -> None:
    with writing(engine, "adopting a DTU") as connection:
        connection.execute(delete(dtu_adoptions).where((dtu_adoptions.c.line == line) | (dtu_adoptions.c.dtu == dtu)))
        connection.execute(insert(dtu_adoptions).values(line=line, dtu=dtu))
