"""The feed as readers get it: whole batches as they lie in the store, cut only at the ends of what was asked for.

A batch is never taken apart into events, let alone decoded: it is JSON objects joined by newlines, and that is what goes out.
"""

import zlib

from msgspec import Struct
from sqlalchemy import Connection, Engine, bindparam, func, select

from headend.database.engine import reading
from headend.store.restores import over, voids
from headend.store.tables import feed_batches

__all__ = ["Bounds", "FeedStretch", "bounds", "place_of", "stretch_after"]

_NUMBER_MAX = 2**63 - 1  # what databases can be asked for; no feed gets there
_BATCH = feed_batches.c
# The batch that holds the first wanted event may begin before it; when it is not kept any more, the oldest one is the first.
_HOLDER = select(func.max(_BATCH.first)).where(_BATCH.first <= bindparam("first")).scalar_subquery()
_WANTED = (
    select(_BATCH.first, _BATCH.count, _BATCH.body)
    .where(_BATCH.first >= func.coalesce(_HOLDER, 0), _BATCH.first <= bindparam("last"))
    .order_by(_BATCH.first)
)
_FIRST = select(func.min(_BATCH.first))
_LAST = select(_BATCH.first + _BATCH.count - 1).order_by(_BATCH.first.desc()).limit(1)


class Bounds(Struct, frozen=True):
    """Numbers of the oldest and the newest event that are kept; 0 and 0 before the first."""

    first: int
    last: int


class FeedStretch(Struct, frozen=True):
    """Consecutive events, from number `first` on. `first` is 0 when there are none.

    texts: each some events joined by newlines, without one at the end; the event itself has none.
    """

    first: int
    count: int
    texts: list[bytes]

    @property
    def last(self) -> int:
        """0 when there are none."""
        return self.first + self.count - 1 if self.count else 0


def bounds(engine: Engine) -> Bounds:
    """Raises StoreUnavailable."""
    with reading(engine, "looking up the ends of the feed") as connection:
        return _bounds(connection)


def place_of(engine: Engine, sequence: int) -> Bounds:
    """Where a reader goes on that has everything up to `sequence`, and the last number that follows without a void.

    Raises StoreUnavailable.
    """
    with reading(engine, "looking for a place in the feed") as connection:
        found = voids(connection)
        start = over(found, sequence)
        end = _bounds(connection).last
    return Bounds(start, min([end, *(void.first - 1 for void in found if void.first > start)]))


def stretch_after(engine: Engine, sequence: int, limit: int) -> FeedStretch:
    """Up to `limit` events numbered sequence + 1, sequence + 2, …; later ones, within that range, where the feed begins later.

    Behind void numbers (see restores.py) it goes on by itself; a stretch never has some inside, since a void is wider than any limit.
    Raises StoreUnavailable.
    """
    texts: list[bytes] = []
    begin = end = 0
    with reading(engine, "reading the feed") as connection:
        sequence = over(voids(connection), sequence)
        first, last = min(sequence + 1, _NUMBER_MAX), min(sequence + limit, _NUMBER_MAX)
        for start, count, body in connection.execute(_WANTED, {"first": first, "last": last}):
            stop = start + count - 1
            if stop < first:
                continue
            text = zlib.decompress(body)
            if start < first or stop > last:
                text = b"\n".join(text.split(b"\n")[max(0, first - start) : last + 1 - start])
            texts.append(text)
            begin = begin or max(start, first)
            end = min(stop, last)
    return FeedStretch(begin, end - begin + 1 if texts else 0, texts)


def _bounds(connection: Connection) -> Bounds:
    first = connection.execute(_FIRST).scalar()
    last = connection.execute(_LAST).scalar()
    return Bounds(first or 0, last or 0)
