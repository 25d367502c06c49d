"""Void numbers: what the feed skipped when the store was restored from a backup.

Between the backup and the loss of the store events were given out that the restored store does not have. Their numbers are never
given again, so the feed goes on far above them; the first event there says so. A reader whose cursor is at the end of what was
before, or anywhere inside the void, goes on behind it.

Their ids are not given again either. An id is made of meter, quantity, interval end and revision, so the revisions of what is
stored after a restore begin anew, above all before, for all interval ends that may have been given out: for a consumer what comes
then is a correction, and the highest revision counts as always.

Where numbers and revisions go on is made of the minute of the restore, because nothing else is known to rise: a backup may be restored
twice, and does not know of the first time. In a minute a store gives out far fewer than `STEP` numbers, so whatever was given out
lies below. A wrong clock is met by what else is known: the backup, and the replaced store.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from sqlalchemy import Connection, func, select

from headend.store.restores_tables import feed_restores

__all__ = ["STEP", "Lift", "Void", "lift", "over", "runs", "void_after", "voids"]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
STEP = (
    10**8
)  # numbers per minute: 1.6 million a second, more than any store takes; and wider than any pull, so that none spans a void
REVISIONS = 10  # per minute; an interval has a handful in its life

_R = feed_restores.c
_VOIDS = select(_R.void_first, _R.void_last).order_by(_R.number)
_LIFT = select(func.max(_R.void_last), func.max(_R.slots_through))


class Void(Struct, frozen=True):
    """Feed numbers that nothing has and nothing gets."""

    first: int
    last: int


class Lift(Struct, frozen=True):
    """revision: the lowest for what is stored from now on with an interval end up to `slots_through`, epoch milliseconds.

    0 and -1 of a store that was never restored.
    """

    revision: int = 0
    slots_through: int = -1

    def lifted(self, revision: int) -> int:
        return revision if revision >= self.revision else revision + self.revision


def voids(connection: Connection) -> list[Void]:
    """In order; empty unless the store was restored."""
    return [Void(first, last) for first, last in connection.execute(_VOIDS)]


def lift(connection: Connection) -> Lift:
    void_last, slots_through = connection.execute(_LIFT).one()
    return Lift() if void_last is None else Lift(void_last // STEP * REVISIONS, slots_through)


def void_after(last: int, now: datetime, known: int) -> Void:
    """What becomes void when a store whose newest event is `last` is restored. known: the highest number that surely was given out."""
    minute = (now - EPOCH) // timedelta(minutes=1)
    return Void(last + 1, max(minute, max(last, known) // STEP + 1) * STEP)


def over(found: Sequence[Void], sequence: int) -> int:
    """Where a reader goes on that has everything up to `sequence`."""
    for void in found:
        if void.first - 1 <= sequence < void.last:
            sequence = void.last
    return sequence


def runs(found: Iterable[Void], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of `first` to `last` that are not void."""
    for void in found:
        if void.first > last:
            break
        if void.last < first:
            continue
        if first < void.first:
            yield first, void.first - 1
        first = void.last + 1
    if first <= last:
        yield first, last
