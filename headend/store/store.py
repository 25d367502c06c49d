"""Reads and the numbered feed in one transaction.

A commit writes the reads and, in the same transaction, their events, numbered from the last one on. There is no second
table of things to push: what is in the feed is what upstream gets, and a destination is only a cursor into it. Since
numbers are given inside the one write transaction, a number exists exactly when its event is durable: readers see no
gap, and never a lower number after a higher one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, bindparam, func, select

from headend.database.engine import BUSY_TIMEOUT_S, connect, prepared_file, reading
from headend.model import Item, MeterClock, MeterRecord, Read, SlotState
from headend.store import clocks, histories, registry, stretches
from headend.store.commits import LAST, Commits
from headend.store.migrate import migrate
from headend.store.rows import epoch_ms, from_epoch_ms, read_from_row
from headend.store.stretches import Bounds, FeedStretch
from headend.store.tables import channels, reads, sources

__all__ = ["Store", "open_store"]

T = TypeVar("T")

_METERS_AT_ONCE = 500  # per question; databases limit the number of parameters

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
        reads.c.ratio,
        reads.c.findings,
    )
    .join_from(reads, channels, reads.c.channel == channels.c.id)
    .join(sources, reads.c.source == sources.c.id)
)

_STORED_AT = select(channels.c.meter, channels.c.obis).where(
    select(reads.c.channel).where(reads.c.channel == channels.c.id, reads.c.slot == bindparam("slot")).exists()
)
_STORED_AT_OF = _STORED_AT.where(channels.c.meter.in_(bindparam("meters", expanding=True)))
_OLDEST = select(func.min(reads.c.slot)).where(reads.c.channel == channels.c.id).scalar_subquery()
_FIRST_SLOTS = select(channels.c.id, channels.c.obis, _OLDEST).where(channels.c.meter == bindparam("meter"))
_SLOT_STATES = select(reads.c.slot, reads.c.revision, reads.c.amount.is_(None), reads.c.reason).where(
    reads.c.channel == bindparam("channel"), reads.c.slot >= bindparam("low"), reads.c.slot < bindparam("high")
)


class Store:
    """The tables behind one URL; `migrate` must have run.

    url: sqlite:////absolute/path, or postgresql+psycopg://…
    name: the head-end's name; events come from "/headend/NAME".

    Any thread may call any method; commits run one at a time. Every method may raise StoreUnavailable.
    """

    def __init__(self, url: str, name: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.engine = connect(url, busy_timeout_s=busy_timeout_s)
        self._commits = Commits(self.engine, f"/headend/{name}")

    def close(self) -> None:
        self.engine.dispose()

    # writing

    def commit(self, items: Sequence[Item]) -> list[int | None]:
        """Write reads and events durably, all or none; gives each item's feed number, None for a read stored already.

        A read is stored already when meter, quantity, interval end and revision are: whatever its amount, the first
        one counts, and a correction needs a new revision. Of a pushed read the content decides, see `PushedRead`.
        Raises StoreUnavailable, or ItemRefused when an item can never be stored (its values break a limit that the
        model does not know).
        """
        return self._commits.commit(items)

    def transact(
        self, work: Callable[[Connection], tuple[T, Sequence[Item]]], doing: str
    ) -> tuple[T, list[int | None]]:
        """One transaction for rows of somebody's own tables and the items that tell of them: all durable at return, or nothing.

        work: given the connection; its result is handed through, its items get the next feed numbers. It may be asked for what no
        other writer can change meanwhile, and must not touch reads or feed itself. doing: for error texts, "recording an order".
        Raises what `work` raises, and as `commit`.
        """
        return self._commits.transact(work, doing)

    # the feed

    def last_sequence(self) -> int:
        """Number of the newest durable event; 0 before the first."""
        with reading(self.engine, "looking up the end of the feed") as connection:
            return connection.execute(LAST).scalar() or 0

    def bounds(self) -> Bounds:
        """Numbers of the oldest event that is kept and of the newest durable one."""
        return stretches.bounds(self.engine)

    def stretch_after(self, sequence: int, limit: int) -> FeedStretch:
        """Up to `limit` events numbered sequence + 1, sequence + 2, …, as texts of many events.

        Where the feed was pruned it begins later than asked, or is empty: compare `first`.
        """
        return stretches.stretch_after(self.engine, sequence, limit)

    def place_of(self, sequence: int) -> Bounds:
        """first: the cursor that one with `sequence` goes on from, which is another only at void numbers, see restores.py. last: the
        number up to which nothing is void behind it."""
        return stretches.place_of(self.engine, sequence)

    def events_after(self, sequence: int, limit: int) -> list[bytes]:
        """The same as one encoded JSON object each, and wherever the feed begins: of a pruned one the oldest that are kept."""
        oldest = self.bounds().first
        stretch = self.stretch_after(max(sequence, oldest - 1), limit)
        return [event for text in stretch.texts for event in text.split(b"\n")]

    def cursor(self, destination: str) -> int:
        """Last feed number the destination has acknowledged; 0 for a new one."""
        return registry.cursor(self.engine, destination)

    def set_cursor(self, destination: str, sequence: int) -> None:
        """Durable at return. A lower number than before is allowed: it sends again."""
        registry.set_cursor(self.engine, destination, sequence)

    # reads

    def latest_slots(self) -> dict[tuple[str, str], int]:
        """(meter, obis) to its newest interval end in whole epoch seconds, missing reads included."""
        with reading(self.engine, "looking up the newest reads") as connection:
            return {(row[0], row[1]): row[4] // 1000 for row in connection.execute(_CHANNELS) if row[4] is not None}

    def stored_at(self, slot: datetime, meters: Sequence[str] | None = None) -> set[tuple[str, str]]:
        """(meter, obis) of the channels that have a read for `slot`, missing ones included; of these meters, or of all.

        One look along the key per channel.
        """
        found: set[tuple[str, str]] = set()
        with reading(self.engine, "looking up what is stored of an interval end") as connection:
            if meters is None:
                found.update((row[0], row[1]) for row in connection.execute(_STORED_AT, {"slot": epoch_ms(slot)}))
            for start in range(0, len(meters or ()), _METERS_AT_ONCE):
                wanted = {"slot": epoch_ms(slot), "meters": (meters or ())[start : start + _METERS_AT_ONCE]}
                found.update((row[0], row[1]) for row in connection.execute(_STORED_AT_OF, wanted))
        return found

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
            statement = statement.where(reads.c.slot >= epoch_ms(since))
        if until is not None:
            statement = statement.where(reads.c.slot < epoch_ms(until))
        statement = statement.order_by(reads.c.slot, channels.c.obis, reads.c.revision).limit(limit)
        with reading(self.engine, "looking up reads") as connection:
            return [read_from_row(tuple(row)) for row in connection.execute(statement)]

    def slots_of(self, meter: str, *, since: datetime, until: datetime) -> dict[str, tuple[datetime, list[SlotState]]]:
        """Per quantity of a meter: its oldest slot ever, and the states of its slots with since <= slot < until.

        One question per channel that follows the key, so that a fleet can be looked through meter by meter.
        """
        low, high = epoch_ms(since), epoch_ms(until)
        found: dict[str, tuple[datetime, list[SlotState]]] = {}
        with reading(self.engine, "looking for missing reads") as connection:
            for channel, obis, first in connection.execute(_FIRST_SLOTS, {"meter": meter}).all():
                if first is None:
                    continue
                rows = connection.execute(_SLOT_STATES, {"channel": channel, "low": low, "high": high})
                states = [
                    SlotState(from_epoch_ms(slot), revision, (reason or "") if missing else "")
                    for slot, revision, missing, reason in rows
                ]
                found[obis] = (from_epoch_ms(first), states)
        return found

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

    # clocks

    def clocks(self) -> dict[str, MeterClock]:
        """By meter; those never measured are absent."""
        return clocks.clocks(self.engine)

    def set_clocks(self, found: Mapping[str, MeterClock]) -> None:
        """Durable at return; replaces what was known of these meters."""
        clocks.set_clocks(self.engine, found)

    def broadcasts(self) -> dict[str, datetime]:
        """When each line's clocks were last set by broadcast."""
        return clocks.broadcasts(self.engine)

    def set_broadcast(self, line: str, at: datetime) -> None:
        """Durable at return: to be called before the frame leaves, so that no crash makes it leave twice a day."""
        clocks.set_broadcast(self.engine, line, at)

    # what truth checks remember

    def histories(self, meters: Iterable[str]) -> dict[str, dict[str, bytes]]:
        """By meter and quantity, of these meters; as they were stored with the reads."""
        return histories.histories_of(self.engine, meters)

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

    # adopted DTUs

    def adoptions(self) -> dict[str, str]:
        """By line, the DTU that was adopted for it."""
        return registry.adoptions(self.engine)

    def adopt(self, line: str, dtu: str) -> None:
        """Durable at return. The line's former one is forgotten, and the DTU's former line."""
        registry.adopt(self.engine, line, dtu)


def open_store(url: str, name: str) -> Store:
    """The store at `url` with its tables brought up to date; makes the folder of a new SQLite file. Raises StoreError."""
    prepared_file(url)
    migrate(url)
    return Store(url, name)
