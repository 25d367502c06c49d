"""Rows of the audit log. Functions take the connection of the transaction that they are part of; `AuditBook` reads in its own."""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Engine, bindparam, func, insert, select, update

from headend.database.engine import insert_rows, reading
from headend.database.hot import HotStatement
from headend.store.audit_tables import audit_breaks, audit_checkpoints, audit_records

__all__ = [
    "ROWS_AT_ONCE",
    "AuditBook",
    "Row",
    "acknowledge_breaks",
    "add_break",
    "add_checkpoint",
    "add_records",
    "checkpoints_behind",
    "checkpoints_to_tell",
    "last_break",
    "last_checkpoint",
    "meter_count",
    "open_breaks",
    "record_at",
    "records_behind",
    "tail",
]

ROWS_AT_ONCE = 5000  # some megabytes

_record = audit_records.c
_checkpoint = audit_checkpoints.c
_TAIL = HotStatement(select(_record.number, _record.hash).order_by(_record.number.desc()).limit(1))
_ROWS = select(_record.number, _record.meter, _record.meter_number, _record.hash, _record.body)
_METER_COUNT = HotStatement(select(func.max(_record.meter_number)).where(_record.meter == bindparam("of")), "of")


class Row(Struct, frozen=True, gc=False):
    """A record as it lies in the store. meter, meter_number: None where it is about no single meter."""

    number: int
    meter: str | None
    meter_number: int | None
    hash: str
    body: str


def tail(connection: Connection) -> tuple[int, str] | None:
    """Number and hash of the last record; None when there is none."""
    row = _TAIL.first(connection)
    return None if row is None else (row[0], row[1])


def meter_count(connection: Connection, meter: str) -> int:
    """How many records the meter has."""
    row = _METER_COUNT.first(connection, meter)
    return 0 if row is None else row[0] or 0


def add_records(connection: Connection, values: Sequence[Any]) -> None:
    """values: number, meter, meter_number, hash, body, record after record without nesting."""
    insert_rows(connection, audit_records, values)


def records_behind(connection: Connection, number: int, through: int | None = None) -> Iterator[Row]:
    """By number, `through` included. Portion by portion, so that the log need not fit into memory."""
    while True:
        statement = _ROWS.where(_record.number > number).order_by(_record.number).limit(ROWS_AT_ONCE)
        if through is not None:
            statement = statement.where(_record.number <= through)
        rows = connection.execute(statement).all()
        for row in rows:
            yield Row(*row)
        if len(rows) < ROWS_AT_ONCE:
            return
        number = rows[-1][0]


def record_at(connection: Connection, number: int) -> Row | None:
    row = connection.execute(_ROWS.where(_record.number == number)).first()
    return None if row is None else Row(*row)


def last_checkpoint(connection: Connection) -> tuple[int, str] | None:
    """Number and body."""
    statement = select(_checkpoint.number, _checkpoint.body).order_by(_checkpoint.number.desc()).limit(1)
    row = connection.execute(statement).first()
    return None if row is None else (row[0], row[1])


def checkpoints_behind(connection: Connection, number: int) -> Iterator[tuple[int, str]]:
    """Number and body, in order, portion by portion."""
    while True:
        statement = select(_checkpoint.number, _checkpoint.body).where(_checkpoint.number > number)
        rows = connection.execute(statement.order_by(_checkpoint.number).limit(ROWS_AT_ONCE)).all()
        for row in rows:
            yield row[0], row[1]
        if len(rows) < ROWS_AT_ONCE:
            return
        number = rows[-1][0]


def add_checkpoint(connection: Connection, number: int, body: str) -> None:
    connection.execute(insert(audit_checkpoints).values(number=number, body=body, told=0))


def checkpoints_to_tell(connection: Connection, limit: int) -> list[str]:
    """Bodies of those whose event is not in the feed yet, which from now on they are held to be."""
    statement = select(_checkpoint.number, _checkpoint.body).where(_checkpoint.told == 0)
    rows = connection.execute(statement.order_by(_checkpoint.number).limit(limit)).all()
    if rows:
        told = update(audit_checkpoints).where(_checkpoint.told == 0, _checkpoint.number <= rows[-1][0])
        connection.execute(told.values(told=1))
    return [row[1] for row in rows]


def add_break(connection: Connection, number: int, problem: str) -> None:
    connection.execute(insert(audit_breaks).values(number=number, problem=problem, acknowledged=None))


def open_breaks(connection: Connection) -> list[tuple[int, str]]:
    """Those that nobody has acknowledged: number of the record, and what was wrong."""
    statement = select(audit_breaks.c.number, audit_breaks.c.problem).where(audit_breaks.c.acknowledged.is_(None))
    return [(row[0], row[1]) for row in connection.execute(statement.order_by(audit_breaks.c.number))]


def last_break(connection: Connection) -> int:
    """Number of its record; 0 when there never was one."""
    return connection.execute(select(func.max(audit_breaks.c.number))).scalar() or 0


def acknowledge_breaks(connection: Connection, record: int) -> None:
    """record: that says who has."""
    open_ = update(audit_breaks).where(audit_breaks.c.acknowledged.is_(None))
    connection.execute(open_.values(acknowledged=record))


class AuditBook:
    """What others look at. Any thread may call any method; every method may raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def records(self, *, after: int = 0, limit: int | None = None, meter: str | None = None) -> list[Row]:
        """By number. meter: of this one alone."""
        statement = _ROWS.where(_record.number > after).order_by(_record.number).limit(limit)
        if meter is not None:
            statement = statement.where(_record.meter == meter)
        with reading(self._engine, "looking at the audit log") as connection:
            return [Row(*row) for row in connection.execute(statement)]

    def checkpoints(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, str]]:
        """Number of the last record covered, and body, in order."""
        statement = select(_checkpoint.number, _checkpoint.body).where(_checkpoint.number > after)
        with reading(self._engine, "looking at checkpoints") as connection:
            rows = connection.execute(statement.order_by(_checkpoint.number).limit(limit))
            return [(row[0], row[1]) for row in rows]

    def checkpoint_over(self, number: int) -> tuple[int, str] | None:
        """The one that covers this record; None while none does."""
        return next(iter(self.checkpoints(after=number - 1, limit=1)), None)

    def record_before(self, number: int) -> Row | None:
        """The one with the next lower number."""
        statement = _ROWS.where(_record.number < number).order_by(_record.number.desc()).limit(1)
        with reading(self._engine, "looking at the audit log") as connection:
            row = connection.execute(statement).first()
        return None if row is None else Row(*row)

    def last_number(self) -> int:
        with reading(self._engine, "looking for the end of the audit log") as connection:
            found = tail(connection)
        return 0 if found is None else found[0]
