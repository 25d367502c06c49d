"""Commits: reads and their events, numbered and written in one transaction."""

import sys
import threading
import zlib
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Engine, func, select, tuple_

from headend.errors import ItemRefused
from headend.feed.envelope import encode_event
from headend.model import Item, Read
from headend.store.engine import insert_rows, writing
from headend.store.packing import Channel, ReadPacker, channel_of
from headend.store.rows import epoch_s
from headend.store.tables import channels, feed_batches, reads, sources

__all__ = ["LAST", "Commits"]

BATCH_MAX = 1000  # events per row: a reader that wants one event unpacks at most half a megabyte
COMPRESSION = 1  # zlib's fastest; the events repeat each other so much that higher levels gain little
_KEYS_AT_ONCE = 500  # read keys per question; databases limit the number of parameters

_Key = tuple[int, int, int]  # channel, slot, revision

LAST = select(feed_batches.c.first + feed_batches.c.count - 1).order_by(feed_batches.c.first.desc()).limit(1)
_NEWEST = select(func.max(reads.c.slot)).where(reads.c.channel == channels.c.id).scalar_subquery()
_CHANNELS = select(channels.c.meter, channels.c.obis, channels.c.id, channels.c.unit, _NEWEST)


class _Known(Struct):
    """What the writer remembers of the tables, so that a new read costs no question. True as of feed number `last`.

    channels: by (meter, obis). sources: ids by name.
    """

    last: int
    channels: dict[tuple[str, str], Channel]
    sources: dict[str, int]


class _Group(Struct):
    """One commit in the making. values: of the rows of `reads`, row after row without nesting. events: JSON texts."""

    channels: list[tuple[str, str]]
    sources: list[str]
    values: list[Any]
    events: list[str]
    results: list[int | None]


class Commits:
    """Writes to the tables of one store. Any thread may call `commit`; commits run one at a time.

    source: of the events, "/headend/NAME".
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._source = source
        self._packer = ReadPacker(source)
        self._known: _Known | None = None
        # As text: it is asked at every commit, and building it costs more than its answer.
        self._last = str(LAST.compile(engine, compile_kwargs={"literal_binds": True}))
        self._one_at_a_time = threading.Lock()

    def commit(self, items: Sequence[Item]) -> list[int | None]:
        """See `Store.commit`."""
        with self._one_at_a_time:
            group = _Group([], [], [], [], [])
            try:
                with writing(self._engine, f"storing {len(items)} items") as connection:
                    known = self._up_to_date(connection)
                    try:
                        self._number(connection, known, items, group)
                        if group.events:
                            self._write(connection, known, group)
                    except (TypeError, ValueError, OverflowError, AttributeError) as error:
                        raise ItemRefused(f"an item cannot be stored as it is: {error}") from error
            except BaseException:
                self._forget(group)
                raise
            known.last += len(group.events)
            return group.results

    def _up_to_date(self, connection: Connection) -> _Known:
        """What we remember, read anew unless the feed still ends where we left it.

        It does not after a commit whose outcome was lost with the connection, or when another process wrote.
        """
        last = connection.exec_driver_sql(self._last).scalar() or 0
        if self._known is None or self._known.last != last:
            known = _Known(last, {}, {})
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
        pack, ids = self._packer.pack, known.sources
        sequence, end, slot = known.last, None, 0
        taken: set[_Key] | None = None
        for index, item in enumerate(items):
            if not isinstance(item, Read):
                sequence += 1
                group.events.append(encode_event(item, source=self._source, sequence=sequence).decode())
                group.results.append(sequence)
                continue
            name = (item.meter, item.obis)
            channel = known.channels.get(name)
            if channel is None:
                # Ids are ours and count up without holes: channels and sources are never removed.
                channel = known.channels[name] = channel_of(len(known.channels) + 1, *name, item.unit.value)
                group.channels.append(name)
            if item.interval_end is not end:  # the reads of a round share it
                end = item.interval_end
                slot = epoch_s(end)
            if taken is None and slot <= channel.newest:
                taken = self._taken(connection, known, group, items[index:])
            if taken is not None:
                key = (channel.id, slot, item.revision)
                if key in taken:
                    group.results.append(None)
                    continue
                taken.add(key)
            if slot > channel.newest:
                channel.newest = slot
            source = ids.get(item.source)
            if source is None:
                source = ids[item.source] = len(ids) + 1
                group.sources.append(item.source)
            sequence += 1
            row, event = pack(item, channel, slot, source, sequence)
            group.values += row
            group.events.append(event)
            group.results.append(sequence)

    @staticmethod
    def _taken(connection: Connection, known: _Known, group: _Group, items: Sequence[Item]) -> set[_Key]:
        """Keys of the group so far, and those of `items` that have a row."""
        width = len(reads.columns)
        channel_at, slot_at, revision_at = (group.values[place::width] for place in range(3))
        doubtful: set[_Key] = set()
        for item in items:
            if isinstance(item, Read):
                channel = known.channels.get((item.meter, item.obis))
                slot = epoch_s(item.interval_end)
                if channel is not None and slot <= channel.newest:
                    doubtful.add((channel.id, slot, item.revision))
        return {*zip(channel_at, slot_at, revision_at, strict=True), *_stored(connection, sorted(doubtful))}

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
        batches: list[Any] = []
        for start in range(0, len(group.events), BATCH_MAX):
            events = group.events[start : start + BATCH_MAX]
            packed = zlib.compress("\n".join(events).encode(), COMPRESSION)
            batches += (known.last + 1 + start, len(events), packed)
        insert_rows(connection, feed_batches, batches)


def _stored(connection: Connection, keys: Sequence[_Key]) -> set[_Key]:
    """Those of the keys that have a row."""
    found: set[_Key] = set()
    columns = tuple_(reads.c.channel, reads.c.slot, reads.c.revision)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        wanted = keys[start : start + _KEYS_AT_ONCE]
        rows = connection.execute(select(reads.c.channel, reads.c.slot, reads.c.revision).where(columns.in_(wanted)))
        found.update((row[0], row[1], row[2]) for row in rows)
    return found
