"""Protections and the people behind tokens, as rows. Every function works inside somebody's transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select, update

from headend.commands.protections import Protection, Scope
from headend.store.governor_tables import governor_people, governor_protections
from headend.store.rows import epoch_ms, from_epoch_ms

__all__ = [
    "active_protections",
    "add_protection",
    "end_protection",
    "find_protection",
    "person_of",
    "protections_of",
    "set_person",
]

_row = governor_protections.c
_UP = timedelta(microseconds=999)  # an end is stored late rather than early
_THERE = _row.removed_at.is_(None)


def add_protection(connection: Connection, protection: Protection) -> None:
    """Raises ValueError for one that protects nobody, and for an id that is taken."""
    if not protection.reason.strip() or not protection.category.strip() or not protection.added_by:
        raise ValueError("a protection needs a category, a reason, and who adds it")
    if (protection.scope is Scope.ALL) != (protection.target == ""):
        raise ValueError(
            f"expected a target with every scope but all, found {protection.scope.value} {protection.target!r}"
        )
    if protection.until is not None and protection.until <= protection.since:
        raise ValueError(f"it would end at {protection.until} before it begins at {protection.since}")
    if connection.execute(select(_row.id).where(_row.id == protection.id)).first() is not None:
        raise ValueError(f"there is or was a protection {protection.id!r}; expected a new id")
    connection.execute(
        insert(governor_protections).values(
            id=protection.id,
            scope=protection.scope.value,
            target=protection.target,
            category=protection.category,
            reason=protection.reason,
            since=epoch_ms(protection.since),
            until=None if protection.until is None else epoch_ms(protection.until + _UP),
            added_by=protection.added_by,
            removed_at=None,
            removed_by="",
        )
    )


def protections_of(
    connection: Connection, meter: str, now: datetime, *, line: str = "", feeder: str = ""
) -> tuple[Protection, ...]:
    """What protects this meter at `now` or later, of whatever scope; what has ended or was removed is left out."""
    return _found(connection, _reaches(meter, line, feeder), now)


def active_protections(connection: Connection, now: datetime) -> tuple[Protection, ...]:
    """Of all meters, at `now` or later."""
    return _found(connection, _THERE, now)


def find_protection(connection: Connection, identity: str) -> Protection | None:
    """None: there is none, or it was removed."""
    row = connection.execute(select(governor_protections).where(_row.id == identity, _THERE)).first()
    return None if row is None else _protection(row)


def end_protection(connection: Connection, identity: str, people: Sequence[str], now: datetime) -> None:
    """Removed by these; that they are two is seen to by `headend.commands.rulebook`."""
    connection.execute(
        update(governor_protections)
        .where(_row.id == identity, _THERE)
        .values(removed_at=epoch_ms(now), removed_by="\n".join(people))
    )


def set_person(connection: Connection, token: str, person: str) -> None:
    """Who holds a token. Raises ValueError for nobody."""
    if not person.strip() or not person.isprintable():
        raise ValueError(f"expected the name of a person, found {person!r}")
    changed = connection.execute(
        update(governor_people).where(governor_people.c.token == token).values(person=person.strip())
    )
    if changed.rowcount == 0:
        connection.execute(insert(governor_people).values(token=token, person=person.strip()))


def person_of(connection: Connection, token: str) -> str:
    """ "" when nobody has said."""
    row = connection.execute(select(governor_people.c.person).where(governor_people.c.token == token)).first()
    return "" if row is None else row[0]


def _reaches(meter: str, line: str, feeder: str) -> ColumnElement[bool]:
    scopes = [and_(_row.scope == Scope.METER.value, _row.target == meter), _row.scope == Scope.ALL.value]
    if line:
        scopes.append(and_(_row.scope == Scope.LINE.value, _row.target == line))
    if feeder:
        scopes.append(and_(_row.scope == Scope.FEEDER.value, _row.target == feeder))
    return and_(_THERE, or_(*scopes))


def _found(connection: Connection, where: ColumnElement[bool], now: datetime) -> tuple[Protection, ...]:
    rows = connection.execute(
        select(governor_protections)
        .where(where, or_(_row.until.is_(None), _row.until > epoch_ms(now)))
        .order_by(_row.since, _row.id)
    )
    return tuple(_protection(row) for row in rows)


def _protection(row: Row[*tuple[Any, ...]]) -> Protection:
    values = row._mapping
    return Protection(
        id=values["id"],
        scope=Scope(values["scope"]),
        target=values["target"],
        category=values["category"],
        reason=values["reason"],
        since=from_epoch_ms(values["since"]),
        until=None if values["until"] is None else from_epoch_ms(values["until"]),
        added_by=values["added_by"],
    )
