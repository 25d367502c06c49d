"""Reads and the numbered feed in one transaction.

A commit writes the reads and, in the same transaction, their events, numbered from the last one on. There is no second
table of things to push: what is in the feed is what upstream gets, and a destination is only a cursor into it. Since
numbers are given inside the one write transaction, a number exists exactly when its event is durable: readers see no
gap, and never a lower number after a higher one.
"""

import threading
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, func, insert, select, tuple_

from headend.errors import ItemRefused, StoreUnavailable
from headend.feed.envelope import encode_event, encode_read
from headend.model import Item, MeterRecord, Read
from headend.store import registry
from headend.store.engine import BUSY_TIMEOUT_S, connect, reading, writing
from headend.store.migrate import migrate
from headend.store.rows import epoch_s, read_from_row, row_from_read
from headend.store.tables import channels, feed_batches, reads, sources

__all__ = ["Store", "open_store"]

BATCH_MAX = 1000  # events per row: a reader that wants one event unpacks at most half a megabyte
COMPRESSION = 1  # zlib's fastest; the events repeat each other so much that higher levels gain little
_ROWS_AT_ONCE = 32  # batches fetched per question, so that a long pull does not hold the whole feed in memory
_KEYS_AT_ONCE = 500  # read keys per question; databases limit the number of parameters

_Key = tuple[int, int, int]  # channel, slot, revision

_LAST = select(feed_batches.c.first + feed_batches.c.count - 1).order_by(feed_batches.c.first.desc()).limit(1)
_HIGHEST = select(func.max(reads.c.slot)).where(reads.c.channel == channels.c.id).scalar_subquery()
_CHANNELS = select(channels.c.meter, channels.c.obis, channels.c.id, channels.c.unit, _HIGHEST)
_READS = (
    select(
        channels.c.meter,
        channels.c.obis,
        reads.c.amount,
        func.coalesce(reads.c.unit, channels.c.unit),
        reads.c.slot,
        reads.c.read_at,
        reads.c.received_at,
        reads.c.quality,
        sources.c.name,
        reads.c.revision,
        reads.c.reason,
        reads.c.occurred_at,
    )
    .join_from(reads, channels, reads.c.channel == channels.c.id)
    .join(sources, reads.c.source == sources.c.id)
)


class _Known(Struct):
    """What the writer remembers of the tables, so that a new read costs no question. True as of feed number `last`.

    channels: (meter, obis) to id and unit. highest: newest slot per channel id.
    """

    last: int
    channels: dict[tuple[str, str], tuple[int, str]]
    sources: dict[str, int]
    highest: dict[int, int]


class _Group(Struct):
    """One commit in the making: rows and names that become known when it is durable."""

    channels: dict[tuple[str, str], tuple[int, str]]
    sources: dict[str, int]
    rows: list[dict[str, Any]]
    bodies: list[bytes]
    results: list[int | None]


class Store:
    """The tables behind one URL; `migrate` must have run.

    url: sqlite:////absolute/path, or postgresql+psycopg://…
    name: the head-end's name; events come from "/headend/NAME".

    Any thread may call any method; commits run one at a time. Every method may raise StoreUnavailable.
    """

    def __init__(self, url: str, name: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.engine = connect(url, busy_timeout_s=busy_timeout_s)
        self._source = f"/headend/{name}"
        self._known: _Known | None = None
        self._one_commit = threading.Lock()

    def close(self) -> None:
        self.engine.dispose()

    # writing

    def commit(self, items: Sequence[Item]) -> list[int | None]:
        """Write reads and events durably, all or none; gives each item's feed number, None for a read stored already.

        A read is stored already when meter, quantity, interval end and revision are: whatever its amount, the first
        one counts, and a correction needs a new revision. Raises StoreUnavailable, or ItemRefused when an item can
        never be stored (its values break a limit that the model does not know).
        """
        with self._one_commit, writing(self.engine, f"storing {len(items)} items") as connection:
            known = self._up_to_date(connection)
            try:
                group = self._number(connection, known, items)
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                raise ItemRefused(f"an item cannot be stored as it is: {error}") from error
            if group.bodies:
                try:
                    self._write(connection, known.last + 1, group)
                except OverflowError as error:
                    raise ItemRefused(f"a number of an item is too large for the store: {error}") from error
        # Only now is it durable: what is remembered never runs ahead of the tables.
        known.last += len(group.bodies)
        known.channels.update(group.channels)
        known.sources.update(group.sources)
        for row in group.rows:
            known.highest[row["channel"]] = max(row["slot"], known.highest.get(row["channel"], row["slot"]))
        return group.results

    def _up_to_date(self, connection: Connection) -> _Known:
        """What we remember, read anew unless the feed still ends where we left it.

        It does not after a commit whose outcome was lost with the connection, or when another process wrote.
        """
        last = connection.execute(_LAST).scalar() or 0
        if self._known is None or self._known.last != last:
            known = _Known(last, {}, {}, {})
            for meter, obis, identity, unit, highest in connection.execute(_CHANNELS):
                known.channels[meter, obis] = (identity, unit)
                if highest is not None:
                    known.highest[identity] = highest
            for identity, name in connection.execute(select(sources.c.id, sources.c.name)):
                known.sources[name] = identity
            self._known = known
        return self._known

    def _number(self, connection: Connection, known: _Known, items: Sequence[Item]) -> _Group:
        group = _Group({}, {}, [], [], [])
        keys = [self._key(known, group, item) if isinstance(item, Read) else None for item in items]
        # A slot above the channel's newest is surely new; only the others need a question.
        taken = _stored(connection, [key for key in keys if key and key[1] <= known.highest.get(key[0], -1)])
        sequence = known.last
        for item, key in zip(items, keys, strict=True):
            if key in taken:
                group.results.append(None)
                continue
            sequence += 1
            if isinstance(item, Read):
                assert key is not None
                taken.add(key)
                unit = (known.channels.get((item.meter, item.obis)) or group.channels[item.meter, item.obis])[1]
                source = known.sources.get(item.source) or group.sources.get(item.source)
                if source is None:
                    source = group.sources[item.source] = len(known.sources) + len(group.sources) + 1
                own_unit = None if unit == item.unit.value else item.unit.value
                group.rows.append(
                    row_from_read(
                        item,
                        channel=key[0],
                        slot=key[1],
                        unit=own_unit,
                        source=source,
                        sequence=sequence,
                    )
                )
                group.bodies.append(encode_read(item, source=self._source, sequence=sequence))
            else:
                group.bodies.append(encode_event(item, source=self._source, sequence=sequence))
            group.results.append(sequence)
        return group

    @staticmethod
    def _key(known: _Known, group: _Group, read: Read) -> _Key:
        name = (read.meter, read.obis)
        channel = known.channels.get(name) or group.channels.get(name)
        if channel is None:
            # Ids are ours and count up without holes: channels and sources are never removed.
            channel = group.channels[name] = (len(known.channels) + len(group.channels) + 1, read.unit.value)
        return channel[0], epoch_s(read.interval_end), read.revision

    @staticmethod
    def _write(connection: Connection, first: int, group: _Group) -> None:
        if group.channels:
            connection.execute(
                insert(channels),
                [
                    {"id": identity, "meter": meter, "obis": obis, "unit": unit}
                    for (meter, obis), (identity, unit) in group.channels.items()
                ],
            )
        if group.sources:
            names = [{"id": identity, "name": name} for name, identity in group.sources.items()]
            connection.execute(insert(sources), names)
        if group.rows:
            connection.execute(insert(reads), group.rows)
        batches = []
        for start in range(0, len(group.bodies), BATCH_MAX):
            bodies = group.bodies[start : start + BATCH_MAX]
            packed = zlib.compress(b"\n".join(bodies), COMPRESSION)
            batches.append({"first": first + start, "count": len(bodies), "body": packed})
        connection.execute(insert(feed_batches), batches)

    # the feed

    def last_sequence(self) -> int:
        """Number of the newest durable event; 0 before the first."""
        with reading(self.engine, "looking up the end of the feed") as connection:
            return connection.execute(_LAST).scalar() or 0

    def events_after(self, sequence: int, limit: int) -> list[bytes]:
        """Up to `limit` events numbered sequence + 1, sequence + 2, …, each one encoded JSON object."""
        events: list[bytes] = []
        batch = feed_batches.c
        with reading(self.engine, "reading the feed") as connection:
            # The batch that holds sequence + 1 may begin before it.
            start = connection.execute(select(func.max(batch.first)).where(batch.first <= sequence + 1)).scalar() or 0
            while len(events) < limit:
                rows = connection.execute(
                    select(batch.first, batch.count, batch.body)
                    .where(batch.first >= start)
                    .order_by(batch.first)
                    .limit(_ROWS_AT_ONCE),
                ).all()
                for first, count, body in rows:
                    skip = max(0, sequence + 1 - first)
                    if skip < count and len(events) < limit:
                        events += zlib.decompress(body).split(b"\n")[skip : skip + limit - len(events)]
                if len(rows) < _ROWS_AT_ONCE:
                    break
                start = rows[-1][0] + 1
        return events

    def cursor(self, destination: str) -> int:
        """Last feed number the destination has acknowledged; 0 for a new one."""
        return registry.cursor(self.engine, destination)

    def set_cursor(self, destination: str, sequence: int) -> None:
        """Durable at return. A lower number than before is allowed: it sends again."""
        registry.set_cursor(self.engine, destination, sequence)

    # reads

    def latest_slots(self) -> dict[tuple[str, str], int]:
        """(meter, obis) to its newest interval end in epoch seconds, missing reads included."""
        with reading(self.engine, "looking up the newest reads") as connection:
            return {(row[0], row[1]): row[4] for row in connection.execute(_CHANNELS) if row[4] is not None}

    def reads(
        self,
        meter: str,
        obis: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Read]:
        """Stored reads with since <= interval end < until, by interval end, quantity, revision. All revisions."""
        statement = _READS.where(channels.c.meter == meter)
        if obis is not None:
            statement = statement.where(channels.c.obis == obis)
        if since is not None:
            statement = statement.where(reads.c.slot >= epoch_s(since))
        if until is not None:
            statement = statement.where(reads.c.slot < epoch_s(until))
        statement = statement.order_by(reads.c.slot, channels.c.obis, reads.c.revision).limit(limit)
        with reading(self.engine, "looking up reads") as connection:
            return [read_from_row(tuple(row)) for row in connection.execute(statement)]

    def latest_read(self, meter: str) -> Read | None:
        """The meter's newest read that is not missing; None when there is none."""
        newest: Read | None = None
        with reading(self.engine, "looking up the newest read") as connection:
            # Channel by channel from the end of its rows: one question for all would walk the meter's whole history.
            for channel in connection.scalars(select(channels.c.id).where(channels.c.meter == meter)).all():
                row = connection.execute(
                    _READS.where(reads.c.channel == channel, reads.c.amount.is_not(None))
                    .order_by(reads.c.slot.desc(), reads.c.revision.desc())
                    .limit(1),
                ).first()
                found = None if row is None else read_from_row(tuple(row))
                if found is not None and (newest is None or found.interval_end > newest.interval_end):
                    newest = found
        return newest

    # registered meters

    def upsert_meters(self, records: Iterable[MeterRecord]) -> None:
        """Add meters or replace what is known of them, by id; all or none."""
        registry.upsert_meters(self.engine, list(records))

    def delete_meters(self, ids: Sequence[str]) -> int:
        """Forget meters, gives how many there were. Their reads and events stay."""
        return registry.delete_meters(self.engine, ids)

    def meters(self, *, after: str = "", limit: int | None = None) -> list[MeterRecord]:
        """Registered meters by id; the next page begins after the last id of this one."""
        return registry.list_meters(self.engine, after=after, limit=limit)

    def meter(self, identity: str) -> MeterRecord | None:
        """None when no meter is registered under this id."""
        return registry.one_meter(self.engine, identity)


def open_store(url: str, name: str) -> Store:
    """The store at `url` with its tables brought up to date; makes the folder of a new SQLite file. Raises StoreError."""
    if url.startswith("sqlite:///"):
        folder = Path(url.removeprefix("sqlite:///")).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"the store's folder {folder} cannot be made: {error.strerror}; choose another `store` in [headend]"
            ) from error
    migrate(url)
    return Store(url, name)


def _stored(connection: Connection, keys: Sequence[_Key]) -> set[_Key]:
    """Those of the keys that have a row."""
    found: set[_Key] = set()
    columns = tuple_(reads.c.channel, reads.c.slot, reads.c.revision)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        wanted = keys[start : start + _KEYS_AT_ONCE]
        rows = connection.execute(select(reads.c.channel, reads.c.slot, reads.c.revision).where(columns.in_(wanted)))
        found.update((row[0], row[1], row[2]) for row in rows)
    return found
