"""What intervals need of the store: the feed behind a cursor, a channel's rows in order, and the little that is remembered.

Whatever is written goes through `write`, inside the one transaction that also numbers the events that tell of it.
"""

import json
import zlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Engine, func, insert, select, text, update

from headend.database.engine import reading
from headend.errors import StoreUnavailable
from headend.model import Read
from headend.store.commits import LAST
from headend.store.intervals_tables import interval_eras, interval_facts, interval_mark, interval_revisions
from headend.store.restores import Lift, lift
from headend.store.rows import QUALITY_BITS, epoch_ms, from_epoch_ms
from headend.store.tables import channels, feed_batches, reads, sources
from protocols.values import Unit

__all__ = ["Changes", "Era", "FactRow", "IntervalBook", "StoredRow", "add_fact", "fact_of_key", "newest_read"]

_BATCHES_AT_ONCE = 8
_ROW_COLUMNS = "r.slot, r.revision, r.amount, COALESCE(r.unit, c.unit), r.read_at, r.received_at, r.quality, r.reason, s.name, r.ratio"
_ROWS = (
    f"SELECT {_ROW_COLUMNS} FROM reads r JOIN channels c ON c.id = r.channel JOIN sources s ON s.id = r.source "
    "WHERE r.channel = :channel AND r.slot >= :low AND r.slot <= :high AND r.sequence <= :through ORDER BY r.slot"
)
_UPWARDS = text(_ROWS + " LIMIT :limit")
_DOWNWARDS = text(_ROWS + " DESC LIMIT :limit")
_CHANNEL = select(channels.c.id, channels.c.unit).where(
    channels.c.meter == text(":meter"), channels.c.obis == text(":obis")
)
_ERAS = select(interval_eras.c.since, interval_eras.c.period_s).where(interval_eras.c.channel == text(":channel"))
_FACT = interval_facts.c


class StoredRow(Struct, frozen=True, gc=False):
    """One row of `reads`; times in epoch milliseconds, quality as bits."""

    slot: int
    revision: int
    amount: str | None
    unit: str
    read_at: int | None
    received_at: int
    quality: int
    reason: str | None
    source: str
    ratio: str | None


class Era(Struct, frozen=True, gc=False):
    """Intervals of a channel that end after `since`, up to the next era's, have this period. since: epoch milliseconds."""

    since: int
    period_s: int


class FactRow(Struct, frozen=True, kw_only=True):
    """A dated fact as it is kept: nothing of it ever changes but how far it is taken into account.

    done: channel and interval end up to which intervals are told with it, while it is not applied to all.
    """

    id: int
    key: str
    kind: str
    meter: str
    at: datetime
    body: Mapping[str, Any]
    recorded_at: datetime
    is_applied: bool = False
    done: tuple[int, int] = (0, 0)


class Changes(Struct):
    """What one step changes. cursor: (from, to) event numbers; None leaves it. applied: ids; progress: of the fact in hand."""

    cursor: tuple[int, int] | None = None
    eras: list[tuple[int, Era]] = []
    revisions: dict[tuple[int, int], int] = {}
    applied: list[int] = []
    progress: tuple[int, tuple[int, int]] | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.cursor or self.eras or self.revisions or self.applied or self.progress)


class IntervalBook:
    """Any thread may call any method. Every method may raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # the feed

    def cursor(self) -> int | None:
        """None before the first start."""
        with reading(self._engine, "looking up how far intervals are told") as connection:
            return connection.execute(select(interval_mark.c.sequence)).scalar()

    def lift(self) -> Lift:
        """From which revision on intervals go on after a restore."""
        with reading(self._engine, "looking up restores") as connection:
            return lift(connection)

    def last_sequence(self) -> int:
        with reading(self._engine, "looking up the end of the feed") as connection:
            return connection.execute(LAST).scalar() or 0

    def events_after(self, sequence: int, limit: int) -> tuple[int, list[bytes]]:
        """The first one's number and up to `limit` events; later than sequence + 1 when older ones were pruned."""
        batch = feed_batches.c
        first, found = sequence + 1, list[bytes]()
        with reading(self._engine, "reading the feed") as connection:
            start = connection.execute(select(func.max(batch.first)).where(batch.first <= sequence + 1)).scalar() or 0
            rows = connection.execute(
                select(batch.first, batch.body)
                .where(batch.first >= start)
                .order_by(batch.first)
                .limit(_BATCHES_AT_ONCE)
            )
            for begins, body in rows:
                events = zlib.decompress(body).split(b"\n")
                if begins + len(events) <= first:
                    continue
                if found and begins != first + len(found):
                    break  # numbers between are void: the store was restored
                if not found:
                    first = max(first, begins)
                found += events[max(0, first - begins) :]
                if len(found) >= limit:
                    break
        return first, found[:limit]

    # reads

    def channel(self, meter: str, obis: str) -> tuple[int, str] | None:
        """Id and first unit."""
        with reading(self._engine, "looking up a channel") as connection:
            row = connection.execute(_CHANNEL, {"meter": meter, "obis": obis}).first()
        return None if row is None else (row[0], row[1])

    def rows(
        self, channel: int, *, low: int, high: int, through: int, limit: int = -1, downwards: bool = False
    ) -> list[StoredRow]:
        """Reads with low <= interval end <= high of events up to `through`, by interval end; `limit` of them: -1 is all."""
        wanted = {
            "channel": channel,
            "low": low,
            "high": high,
            "through": through,
            "limit": _limit(self._engine, limit),
        }
        with reading(self._engine, "looking up reads of a channel") as connection:
            return [StoredRow(*row) for row in connection.execute(_DOWNWARDS if downwards else _UPWARDS, wanted)]

    def units_of(self, meter: str) -> list[tuple[int, str, str]]:
        """Id, quantity and first unit of a meter's channels."""
        statement = select(channels.c.id, channels.c.obis, channels.c.unit).where(channels.c.meter == meter)
        with reading(self._engine, "looking up a meter's channels") as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(statement.order_by(channels.c.id))]

    def newest_read(self, meter: str, obis: str, slot: datetime) -> Read | None:
        with reading(self._engine, "looking up a read") as connection:
            return newest_read(connection, meter, obis, slot)

    # what is remembered

    def eras(self, channel: int) -> list[Era]:
        """Oldest first."""
        with reading(self._engine, "looking up periods of a channel") as connection:
            return sorted(
                (Era(*row) for row in connection.execute(_ERAS, {"channel": channel})), key=lambda era: era.since
            )

    def revisions(self, channel: int, low: int, high: int) -> dict[int, int]:
        """Of interval ends from low to high, epoch milliseconds; those told once are absent."""
        table = interval_revisions.c
        statement = select(table.slot, table.revision).where(
            table.channel == channel, table.slot >= low, table.slot <= high
        )
        with reading(self._engine, "looking up revisions of intervals") as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def facts(self) -> list[FactRow]:
        """In the order in which they were recorded."""
        with reading(self._engine, "looking up facts") as connection:
            return [_fact(row) for row in connection.execute(select(interval_facts).order_by(_FACT.id))]

    def facts_after(self, identity: int) -> list[FactRow]:
        with reading(self._engine, "looking up facts") as connection:
            rows = connection.execute(select(interval_facts).where(_FACT.id > identity).order_by(_FACT.id))
            return [_fact(row) for row in rows]

    def facts_of(self, meter: str, kind: str | None = None) -> list[FactRow]:
        statement = select(interval_facts).where(_FACT.meter == meter).order_by(_FACT.id)
        if kind is not None:
            statement = statement.where(_FACT.kind == kind)
        with reading(self._engine, "looking up facts") as connection:
            return [_fact(row) for row in connection.execute(statement)]

    def fact_of_key(self, key: str) -> FactRow | None:
        with reading(self._engine, "looking up a fact") as connection:
            return fact_of_key(connection, key)

    # writing, inside somebody's transaction

    @staticmethod
    def write(connection: Connection, changes: Changes) -> None:
        """Raises StoreUnavailable when the cursor is not where these changes begin: somebody else has moved it."""
        if changes.cursor is not None:
            before, after = changes.cursor
            move = update(interval_mark).where(interval_mark.c.sequence == before).values(sequence=after)
            if connection.execute(move).rowcount == 0:
                if connection.execute(select(interval_mark.c.sequence)).scalar() is not None:
                    raise StoreUnavailable("intervals of these reads were told by somebody else; looking again")
                connection.execute(insert(interval_mark).values(id=1, sequence=after))
        if changes.eras:
            rows = [{"channel": channel, "since": era.since, "period_s": era.period_s} for channel, era in changes.eras]
            connection.execute(insert(interval_eras), rows)
        new = []
        for (channel, slot), revision in changes.revisions.items():
            table = interval_revisions.c
            here = (table.channel == channel) & (table.slot == slot)
            move = update(interval_revisions).where(here).values(revision=revision)
            # The first that is remembered is mostly 1, but not when two came at once, nor after a restore.
            if revision == 1 or connection.execute(move).rowcount == 0:
                new.append({"channel": channel, "slot": slot, "revision": revision})
        if new:
            connection.execute(insert(interval_revisions), new)
        for identity in changes.applied:
            connection.execute(update(interval_facts).where(_FACT.id == identity).values(is_applied=1))
        if changes.progress is not None:
            identity, (channel, slot) = changes.progress
            move = update(interval_facts).where(_FACT.id == identity)
            connection.execute(move.values(done_channel=channel, done_slot=slot))


def add_fact(connection: Connection, fact: FactRow) -> FactRow:
    """The fact with its id; that of `fact` is not used."""
    identity = (connection.execute(select(func.max(_FACT.id))).scalar() or 0) + 1
    connection.execute(
        insert(interval_facts).values(
            id=identity,
            key=fact.key,
            kind=fact.kind,
            meter=fact.meter,
            at=epoch_ms(fact.at),
            body=json.dumps(fact.body),
            recorded_at=epoch_ms(fact.recorded_at),
            is_applied=int(fact.is_applied),
            done_channel=0,
            done_slot=0,
        )
    )
    return _fact(connection.execute(select(interval_facts).where(_FACT.id == identity)).one())


def fact_of_key(connection: Connection, key: str) -> FactRow | None:
    row = connection.execute(select(interval_facts).where(_FACT.key == key)).first()
    return None if row is None else _fact(row)


def newest_read(connection: Connection, meter: str, obis: str, slot: datetime) -> Read | None:
    """The highest revision of an interval end, without what the truth checks found."""
    row = connection.execute(
        select(reads, channels.c.unit.label("usual_unit"), sources.c.name.label("source_name"))
        .join_from(reads, channels, reads.c.channel == channels.c.id)
        .join(sources, reads.c.source == sources.c.id)
        .where(channels.c.meter == meter, channels.c.obis == obis, reads.c.slot == epoch_ms(slot))
        .order_by(reads.c.revision.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    return Read(
        meter=meter,
        obis=obis,
        amount=None if row.amount is None else Decimal(row.amount),
        unit=Unit(row.unit or row.usual_unit),
        interval_end=from_epoch_ms(row.slot),
        read_at=None if row.read_at is None else from_epoch_ms(row.read_at),
        received_at=from_epoch_ms(row.received_at),
        quality=tuple(one for one, bit in QUALITY_BITS.items() if row.quality & bit),
        source=row.source_name,
        revision=row.revision,
        reason=row.reason or "",
        occurred_at=None if row.occurred_at is None else from_epoch_ms(row.occurred_at),
        ratio=None if row.ratio is None else Decimal(row.ratio.lstrip("/")),
        is_primary=row.ratio is not None and row.ratio.startswith("/"),
    )


def _limit(engine: Engine, limit: int) -> int | None:
    return None if limit < 0 and engine.dialect.name != "sqlite" else limit


def _fact(row: Any) -> FactRow:
    return FactRow(
        id=row.id,
        key=row.key,
        kind=row.kind,
        meter=row.meter,
        at=from_epoch_ms(row.at),
        body=json.loads(row.body),
        recorded_at=from_epoch_ms(row.recorded_at),
        is_applied=bool(row.is_applied),
        done=(row.done_channel, row.done_slot),
    )
