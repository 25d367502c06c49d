"""Commits: reads and their events, numbered and written in one transaction."""

import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import BigInteger, Connection, Engine, Integer, Select, and_, column, func, select, values

from headend.database.engine import insert_rows, writing
from headend.database.hot import HotStatement
from headend.errors import ItemRefused, StoreUnavailable
from headend.feed.envelope import encode_event
from headend.model import Event, Item, JudgedRead, PushedRead, Quality, Read
from headend.store.histories import write_histories
from headend.store.packing import Channel, ReadPacker, channel_of
from headend.store.restores import Lift, lift
from headend.store.rows import epoch_ms
from headend.store.tables import channels, feed_batches, reads, sources

__all__ = ["LAST", "Commits"]

T = TypeVar("T")

BATCH_MAX = 1000  # events per row: a reader that wants one event unpacks at most half a megabyte
COMPRESSION = 1  # zlib's fastest; the events repeat each other so much that higher levels gain little
_PLACES_AT_ONCE = 500  # per question; databases limit the number of parameters

_Place = tuple[int, int]  # channel, slot
_Revisions = dict[int, str | None]  # amounts as stored, None of a missing read

LAST = select(feed_batches.c.first + feed_batches.c.count - 1).order_by(feed_batches.c.first.desc()).limit(1)
_HOT_LAST = HotStatement(LAST)  # it is asked at every commit
_NEWEST = select(func.max(reads.c.slot)).where(reads.c.channel == channels.c.id).scalar_subquery()
_CHANNELS = select(channels.c.meter, channels.c.obis, channels.c.id, channels.c.unit, _NEWEST)


class _Known(Struct):
    """What the writer remembers of the tables, so that a new read costs no question. True as of feed number `last`.

    channels: by (meter, obis). sources: ids by name.
    """

    last: int
    channels: dict[tuple[str, str], Channel]
    sources: dict[str, int]
    lift: Lift


class _Group(Struct):
    """One commit in the making. values: of the rows of `reads`, row after row without nesting. events: JSON texts.

    histories: of channels, generation and what is to be stored; of several in one commit the last.
    """

    channels: list[tuple[str, str]]
    sources: list[str]
    values: list[Any]
    events: list[str]
    results: list[int | None]
    histories: dict[int, tuple[int, bytes]]


class Commits:
    """Writes to the tables of one store. Any thread may call `commit`; commits run one at a time.

    source: of the events, "/headend/NAME".
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._source = source
        self._packer = ReadPacker(source)
        self._known: _Known | None = None
        self._one_at_a_time = threading.Lock()

    def commit(self, items: Sequence[Item]) -> list[int | None]:
        """See `Store.commit`."""
        return self.transact(lambda connection: (None, items), f"storing {len(items)} items")[1]

    def transact(
        self, work: Callable[[Connection], tuple[T, Sequence[Item]]], doing: str
    ) -> tuple[T, list[int | None]]:
        """See `Store.transact`."""
        with self._one_at_a_time:
            group = _Group([], [], [], [], [], {})
            try:
                with writing(self._engine, doing) as connection:
                    result, items = work(connection)
                    known = self._up_to_date(connection)
                    try:
                        self._number(connection, known, items, group)
                        if group.events or group.histories:
                            self._write(connection, known, group)
                    except (TypeError, ValueError, OverflowError, AttributeError) as error:
                        raise ItemRefused(f"an item cannot be stored as it is: {error}") from error
            except BaseException:
                self._forget(group)
                raise
            known.last += len(group.events)
            return result, group.results

    def _up_to_date(self, connection: Connection) -> _Known:
        """What we remember, read anew unless the feed still ends where we left it.

        It does not after a commit whose outcome was lost with the connection, or when another process wrote.
        """
        row = _HOT_LAST.first(connection)
        last = 0 if row is None else row[0]
        if self._known is not None and last < self._known.last:
            raise StoreUnavailable(
                f"the feed ends at {last}, and {self._known.last} was given out: the database was put back under the running head-end. "
                f"Stop it, then `headend restore`, or the same numbers are given to something else"
            )
        if self._known is None or self._known.last != last:
            known = _Known(last, {}, {}, lift(connection))
            for meter, obis, identity, unit, newest in connection.execute(_CHANNELS):
                channel = channel_of(identity, meter, obis, unit, -1 if newest is None else newest)
                known.channels[sys.intern(meter), sys.intern(obis)] = channel
            for identity, name in connection.execute(select(sources.c.id, sources.c.name)):
                known.sources[name] = identity
            self._known = known
        return self._known

    def _forget(self, group: _Group) -> None:
        """The group was not stored: neither were its names. `newest` may stay too late, which costs a question at most."""
        if self._known is not None:
            for name in group.channels:
                del self._known.channels[name]
            for source in group.sources:
                del self._known.sources[source]

    def _number(self, connection: Connection, known: _Known, items: Sequence[Item], group: _Group) -> None:
        """Fill the group. A slot above its channel's newest is surely new; only when there are others, the tables are asked."""
        pack, ids, slots_lifted = self._packer.pack, known.sources, known.lift.slots_through
        sequence, end, slot = known.last, None, 0
        stored: dict[_Place, _Revisions] | None = None
        for index, item in enumerate(items):
            judged = None
            if isinstance(item, JudgedRead):
                judged, item = item, item.read
            if isinstance(item, Read):
                read, pushed = item, False
            elif isinstance(item, PushedRead):
                read, pushed = item.read, True
            else:
                sequence += 1
                group.events.append(encode_event(item, source=self._source, sequence=sequence).decode())
                group.results.append(sequence)
                continue
            name = (read.meter, read.obis)
            channel = known.channels.get(name)
            if channel is None:
                # Ids are ours and count up without holes: channels and sources are never removed.
                channel = known.channels[name] = channel_of(len(known.channels) + 1, *name, read.unit.value)
                group.channels.append(name)
            if judged is not None:
                group.histories[channel.id] = (judged.generation, judged.history)
            if read.interval_end is not end:  # the reads of a round share it
                end = read.interval_end
                slot = epoch_ms(end)
            if stored is None and slot <= channel.newest:
                stored = self._stored(connection, known, group, items[index:])
            if pushed or stored is not None:
                there = {} if stored is None else stored.setdefault((channel.id, slot), {})
                new = _with_revision(read, there) if pushed else (None if read.revision in there else read)
                if new is None:
                    group.results.append(None)
                    continue
                read = new
                if slot <= slots_lifted:
                    read = _lifted(read, known.lift)
                    if read.revision in there:
                        group.results.append(None)
                        continue
                there[read.revision] = None if read.amount is None else str(read.amount)
            elif slot <= slots_lifted:
                read = _lifted(read, known.lift)
            if slot > channel.newest:
                channel.newest = slot
            source = ids.get(read.source)
            if source is None:
                source = ids[read.source] = len(ids) + 1
                group.sources.append(read.source)
            sequence += 1
            row, event = pack(read, channel, slot, source, sequence)
            group.values += row
            group.events.append(event)
            group.results.append(sequence)

    @staticmethod
    def _stored(
        connection: Connection, known: _Known, group: _Group, items: Sequence[Item]
    ) -> dict[_Place, _Revisions]:
        """What is there of the group so far, and at the places of `items`."""
        doubtful: set[_Place] = set()
        for item in items:
            if isinstance(item, JudgedRead):
                item = item.read
            if not isinstance(item, Event):
                read = item.read if isinstance(item, PushedRead) else item
                channel = known.channels.get((read.meter, read.obis))
                slot = epoch_ms(read.interval_end)
                if channel is not None and slot <= channel.newest:
                    doubtful.add((channel.id, slot))
        found: dict[_Place, _Revisions] = {}
        for channel_id, slot, revision, amount in _rows_at(connection, sorted(doubtful)):
            found.setdefault((channel_id, slot), {})[revision] = amount
        width = len(reads.columns)
        columns = (group.values[place::width] for place in range(4))
        for channel_id, slot, revision, amount in zip(*columns, strict=True):
            found.setdefault((channel_id, slot), {})[revision] = amount
        return found

    @staticmethod
    def _write(connection: Connection, known: _Known, group: _Group) -> None:
        if group.channels:
            names = [(known.channels[name], *name) for name in group.channels]
            insert_rows(
                connection,
                channels,
                [
                    value
                    for channel, meter, obis in names
                    for value in (channel.id, meter, obis, "" if channel.unit is None else channel.unit.value)
                ],
            )
        if group.sources:
            insert_rows(connection, sources, [value for name in group.sources for value in (known.sources[name], name)])
        if group.values:
            insert_rows(connection, reads, group.values)
        if group.histories:
            write_histories(connection, group.histories)
        batches: list[Any] = []
        for start in range(0, len(group.events), BATCH_MAX):
            events = group.events[start : start + BATCH_MAX]
            packed = zlib.compress("\n".join(events).encode(), COMPRESSION)
            batches += (known.last + 1 + start, len(events), packed)
        insert_rows(connection, feed_batches, batches)


def _lifted(read: Read, lift: Lift) -> Read:
    """With a revision that was never given out, see restores.py."""
    return read if read.revision >= lift.revision else replace(read, revision=lift.lifted(read.revision))


def _with_revision(read: Read, there: _Revisions) -> Read | None:
    """The pushed read as it is to be stored beside what is there; None when it says nothing new."""
    if not there:
        return replace(read, revision=0) if read.revision else read
    amounts = [Decimal(amount) for amount in there.values() if amount is not None]
    if read.amount is None or read.amount in amounts:
        return None
    doubt = (Quality.SUSPECT,) if amounts and Quality.SUSPECT not in read.quality else ()
    return replace(read, revision=max(there) + 1, quality=(*read.quality, *doubt))


def _rows_at(connection: Connection, places: Sequence[_Place]) -> list[tuple[int, int, int, str | None]]:
    """Channel, slot, revision, amount of the rows at these places.

    A join, because SQLite looks a list of pairs (`IN (VALUES …)`) up by walking the whole table; a test asks for its plan.
    """
    found: list[tuple[int, int, int, str | None]] = []
    for start in range(0, len(places), _PLACES_AT_ONCE):
        statement = rows_at_statement(places[start : start + _PLACES_AT_ONCE])
        found += [(row[0], row[1], row[2], row[3]) for row in connection.execute(statement)]
    return found


def rows_at_statement(places: Sequence[_Place]) -> Select[Any]:
    wanted = values(column("channel", Integer), column("slot", BigInteger), name="wanted").data(places).cte("wanted")
    return select(reads.c.channel, reads.c.slot, reads.c.revision, reads.c.amount).join_from(
        wanted, reads, and_(reads.c.channel == wanted.c.channel, reads.c.slot == wanted.c.slot)
    )
