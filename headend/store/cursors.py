"""How far each destination has come, what it would not take, and the feed as deliveries read it.

A destination's row in `cursors` is its low-water mark. A save writes marks, stretches and parked events of any number of
destinations in one transaction: an event is behind the mark exactly when it was acknowledged or lies here, parked.
"""

import zlib
from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, Delete, Engine, delete, func, insert, select, update

from headend.database.engine import reading, writing
from headend.feed.pusher_progress import Progress
from headend.feed.sinks.sink import time_of
from headend.store.cursors_tables import delivered_ranges, parked_events
from headend.store.restores import Void, voids
from headend.store.rows import epoch_ms, from_epoch_ms
from headend.store.tables import cursors, feed_batches

__all__ = ["Cursors", "Parked", "Saved", "Stretch"]

_ROWS_AT_ONCE = 8  # batches fetched per question; each unpacks to half a megabyte at most
_FIRST_BYTES = 4096  # an event is some hundred
_BATCH = feed_batches.c
_PARKED = parked_events.c


class Parked(Struct, frozen=True, kw_only=True):
    """An event that a destination will not take. reason: what it said. tries: how often it was offered. released: to be tried again."""

    sequence: int
    reason: str
    since: datetime
    tries: int
    body: bytes
    released: bool = False


class Saved(Struct, frozen=True, kw_only=True):
    """What changes for one destination. park: new ones, or known ones that were refused again. unpark: taken after all."""

    progress: Progress
    park: tuple[Parked, ...] = ()
    unpark: tuple[int, ...] = ()


class Stretch(Struct, frozen=True):
    """Events as they are stored, consecutive from number `first` on. `first` is 0 when there are none."""

    first: int
    events: list[bytes]


class Cursors:
    """Any thread may call any method. Every method may raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # progress

    def progress(self, destination: str) -> Progress | None:
        """None for a destination that was never saved."""
        with reading(self._engine, "reading a cursor") as connection:
            return _progress(connection).get(destination)

    def all_progress(self) -> dict[str, Progress]:
        """By destination, those no longer configured included."""
        with reading(self._engine, "reading cursors") as connection:
            return _progress(connection)

    def save(self, changes: Mapping[str, Saved]) -> None:
        """Durable at return, all or none."""
        with writing(self._engine, "moving cursors") as connection:
            for name, change in changes.items():
                progress = change.progress
                move = update(cursors).where(cursors.c.destination == name).values(sequence=progress.low)
                if connection.execute(move).rowcount == 0:
                    connection.execute(insert(cursors).values(destination=name, sequence=progress.low))
                connection.execute(delete(delivered_ranges).where(delivered_ranges.c.destination == name))
                if progress.ranges:
                    rows = [{"destination": name, "first": first, "last": last} for first, last in progress.ranges]
                    connection.execute(insert(delivered_ranges), rows)
                gone = [*change.unpark, *(parked.sequence for parked in change.park)]
                for sequence in gone:
                    connection.execute(_of(name, sequence))
                if change.park:
                    connection.execute(insert(parked_events), [_parked_row(name, parked) for parked in change.park])

    def forget(self, destination: str) -> bool:
        """Everything about it; False when there is nothing."""
        with writing(self._engine, "forgetting a destination") as connection:
            connection.execute(delete(delivered_ranges).where(delivered_ranges.c.destination == destination))
            connection.execute(delete(parked_events).where(_PARKED.destination == destination))
            return connection.execute(delete(cursors).where(cursors.c.destination == destination)).rowcount > 0

    # parked events

    def parked(
        self, destination: str, *, after: int = 0, limit: int | None = None, released: bool = False
    ) -> list[Parked]:
        """By sequence. released: only those that wait to be tried again."""
        statement = select(parked_events).where(_PARKED.destination == destination, _PARKED.sequence > after)
        if released:
            statement = statement.where(_PARKED.released)
        with reading(self._engine, "listing parked events") as connection:
            return [
                Parked(
                    sequence=row.sequence,
                    reason=row.reason,
                    since=from_epoch_ms(row.since),
                    tries=row.tries,
                    body=row.body,
                    released=row.released,
                )
                for row in connection.execute(statement.order_by(_PARKED.sequence).limit(limit))
            ]

    def count_parked(self, destination: str) -> int:
        with reading(self._engine, "counting parked events") as connection:
            statement = select(func.count()).select_from(parked_events).where(_PARKED.destination == destination)
            return int(connection.execute(statement).scalar_one())

    def release(self, destination: str, sequence: int | None = None) -> int:
        """Mark one, or all, to be tried again; how many there were."""
        with writing(self._engine, "releasing parked events") as connection:
            statement = update(parked_events).where(_PARKED.destination == destination).values(released=True)
            return connection.execute(
                statement if sequence is None else statement.where(_PARKED.sequence == sequence)
            ).rowcount

    def drop(self, destination: str, sequence: int | None = None) -> int:
        """Give one up, or all: this destination never gets them. How many there were."""
        with writing(self._engine, "dropping parked events") as connection:
            statement = delete(parked_events).where(_PARKED.destination == destination)
            return connection.execute(
                statement if sequence is None else statement.where(_PARKED.sequence == sequence)
            ).rowcount

    # the feed

    def first_sequence(self) -> int:
        """The oldest event that is kept; 0 when there is none."""
        with reading(self._engine, "looking up the start of the feed") as connection:
            return connection.execute(select(func.min(_BATCH.first))).scalar() or 0

    def voids(self) -> list[Void]:
        """Numbers that a restore has made void: nobody waits for them."""
        with reading(self._engine, "looking up void numbers") as connection:
            return voids(connection)

    def events_from(self, sequence: int, limit: int, bytes_max: int) -> Stretch:
        """Up to `limit` events from number `sequence` on, at least one and otherwise no more than `bytes_max` together.

        They begin later than asked when the older ones are not kept any more.
        """
        events: list[bytes] = []
        size = begin = 0
        with reading(self._engine, "reading the feed") as connection:
            start = connection.execute(select(func.max(_BATCH.first)).where(_BATCH.first <= sequence)).scalar() or 0
            while True:
                rows = connection.execute(
                    select(_BATCH.first, _BATCH.count, _BATCH.body)
                    .where(_BATCH.first >= start)
                    .order_by(_BATCH.first)
                    .limit(_ROWS_AT_ONCE),
                ).all()
                for first, count, body in rows:
                    skip = max(0, sequence - first)
                    if skip >= count:
                        continue
                    if events and first != begin + len(events):  # void numbers lie between
                        return Stretch(begin, events)
                    begin = begin or first + skip
                    for event in zlib.decompress(body).split(b"\n")[skip:]:
                        if len(events) >= limit or (events and size + len(event) > bytes_max):
                            return Stretch(begin, events)
                        events.append(event)
                        size += len(event)
                if len(rows) < _ROWS_AT_ONCE:
                    return Stretch(begin, events)
                start = rows[-1][0] + 1

    def time_of(self, sequence: int) -> datetime | None:
        """When the event with this number, or the oldest one after it, happened; None when there is none."""
        stretch = self.events_from(sequence, 1, 1)
        return time_of(stretch.events[0]) if stretch.events else None

    def first_since(self, moment: datetime) -> int:
        """The first batch that begins with an event of `moment` or later; one more than the last event when none does.

        The feed is in the order of storing, which is that of time but for some seconds; so this is found by halving.
        """
        with reading(self._engine, "looking for a time in the feed") as connection:
            first, last = connection.execute(select(func.min(_BATCH.first), func.max(_BATCH.first))).one()
            if first is None:
                return 1
            low, high = first, last + 1
            while low < high:
                middle = (low + high) // 2
                begin = connection.execute(select(func.max(_BATCH.first)).where(_BATCH.first <= middle)).scalar_one()
                body = connection.execute(select(_BATCH.body).where(_BATCH.first == begin)).scalar_one()
                if time_of(_first_of(body)) >= moment:
                    high = begin
                else:
                    low = (
                        connection.execute(select(func.min(_BATCH.first)).where(_BATCH.first > begin)).scalar() or high
                    )
            if low <= last:
                return int(low)
            count = connection.execute(select(_BATCH.count).where(_BATCH.first == last)).scalar_one()
            return int(last + count)


def _progress(connection: Connection) -> dict[str, Progress]:
    ranges: dict[str, list[tuple[int, int]]] = {}
    for row in connection.execute(select(delivered_ranges).order_by(delivered_ranges.c.first)):
        ranges.setdefault(row.destination, []).append((row.first, row.last))
    return {
        row.destination: Progress(row.sequence, tuple(ranges.get(row.destination, ())))
        for row in connection.execute(select(cursors))
    }


def _first_of(body: bytes) -> bytes:
    """The first event of a batch, without unpacking more than it takes."""
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(body, _FIRST_BYTES)
    while b"\n" not in text and not unpacking.eof:
        text += unpacking.decompress(unpacking.unconsumed_tail, _FIRST_BYTES)
    return text.split(b"\n", 1)[0]


def _of(destination: str, sequence: int) -> Delete:
    return delete(parked_events).where(_PARKED.destination == destination, _PARKED.sequence == sequence)


def _parked_row(destination: str, parked: Parked) -> dict[str, object]:
    return {
        "destination": destination,
        "sequence": parked.sequence,
        "reason": parked.reason,
        "since": epoch_ms(parked.since),
        "tries": parked.tries,
        "released": parked.released,
        "body": parked.body,
    }
