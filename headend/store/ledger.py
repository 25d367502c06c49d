"""What the ledger reads of the store, and the little it writes: duties, and an index of manifests that the feed has already.

The feed is the truth: an issued manifest is an event, and its row here only finds it again, also when the feed is pruned. A
crash between the two leaves an event without a row, which `events` of the next start shows.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Engine, delete, func, insert, select, text, update

from headend.database.engine import reading, writing
from headend.errors import StoreError
from headend.ledger.account import ChannelRow
from headend.ledger.duty import Duty
from headend.store.commits import LAST
from headend.store.ledger_tables import ledger_duties, ledger_manifests, ledger_mark
from headend.store.restores import Void, lift, voids
from headend.store.tables import channels, feed_batches

__all__ = ["EventsGone", "Issued", "LedgerBook", "Mark"]

_ROWS = text(
    "SELECT channels.meter, channels.obis, reads.slot, reads.revision, reads.quality, reads.reason, reads.sequence "
    "FROM channels JOIN reads ON reads.channel = channels.id "
    "WHERE channels.id >= :first AND channels.id < :after AND reads.slot > :low AND reads.slot <= :high "
    "AND reads.sequence <= :through ORDER BY reads.channel, reads.slot, reads.revision"
)
_BATCHES_AT_ONCE = 32
EVENTS_AT_ONCE = 4000  # to unpack and look at; some hundredths of a second
_COMPRESSION = 6


class EventsGone(StoreError):
    """The feed no longer holds these events: they were pruned."""


class Mark(Struct, frozen=True):
    """Event numbers: the last before the ledger was first kept; manifests up to it are indexed; up to it, days were closed anew."""

    begins_after: int
    looked_through: int
    reopened_through: int


class Issued(Struct, frozen=True, kw_only=True):
    """A manifest that is in the feed. sequence: of its event. sha256: digest of its data."""

    day: str
    revision: int
    sequence: int
    through: int
    is_final: bool
    sha256: str


_ISSUED = select(*(ledger_manifests.c[name] for name in Issued.__struct_fields__))
_OF_DAY = ledger_manifests.alias()
_FIRST_REVISION = (
    select(func.min(_OF_DAY.c.revision)).where(_OF_DAY.c.day == ledger_manifests.c.day).correlate(ledger_manifests)
).scalar_subquery()


class LedgerBook:
    """Any thread may call any method. Every method may raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # reads and events

    def last_sequence(self) -> int:
        with reading(self._engine, "looking up the end of the feed") as connection:
            return connection.execute(LAST).scalar() or 0

    def channels(self) -> int:
        """Channels have the ids 1 to this."""
        with reading(self._engine, "counting channels") as connection:
            return connection.execute(select(func.max(channels.c.id))).scalar() or 0

    def rows(
        self, first: int, after: int, *, low: int, high: int, through: int
    ) -> list[tuple[str, str, list[ChannelRow]]]:
        """Meter, quantity and rows of channels with first <= id < after that have rows; low < slot <= high, sequence <= through."""
        wanted = {"first": first, "after": after, "low": low, "high": high, "through": through}
        found: list[tuple[str, str, list[ChannelRow]]] = []
        here: tuple[str, str] | None = None
        with reading(self._engine, "looking through the reads of a day") as connection:
            for meter, obis, slot, revision, quality, reason, sequence in connection.execute(_ROWS, wanted):
                if here != (meter, obis):
                    here = (meter, obis)
                    found.append((meter, obis, rows := []))
                rows.append((slot, revision, quality, reason or "", sequence))
        return found

    def events(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """A portion of the events `first` to `last`, from `first` on: some thousands. Raises EventsGone."""
        batch = feed_batches.c
        found: list[tuple[int, bytes]] = []
        expected = first
        with reading(self._engine, "reading the feed") as connection:
            start = connection.execute(select(func.max(batch.first)).where(batch.first <= first)).scalar() or 0
            rows = connection.execute(
                select(batch.first, batch.body)
                .where(batch.first >= start, batch.first <= last)
                .order_by(batch.first)
                .limit(_BATCHES_AT_ONCE)
            )
            for begins, body in rows:
                events = zlib.decompress(body).split(b"\n")
                if begins > expected or begins + len(events) <= expected:
                    break
                found += [pair for pair in enumerate(events, begins) if expected <= pair[0] <= last]
                expected = begins + len(events)
                if len(found) >= EVENTS_AT_ONCE:
                    break
        if not found:
            raise EventsGone(f"events from {first} on are no longer in the feed: expected them up to {last}")
        return found

    def voids(self) -> list[Void]:
        """Numbers that a restore has made void, in order."""
        with reading(self._engine, "looking up void numbers") as connection:
            return voids(connection)

    def lowest_revision(self) -> int:
        """Of a manifest that is issued now: lower ones may have been given out before the store was restored."""
        with reading(self._engine, "looking up restores") as connection:
            return lift(connection).revision

    def first_sequence(self) -> int:
        """Of the oldest event that is still there; 0 when there is none."""
        with reading(self._engine, "looking up the beginning of the feed") as connection:
            return connection.execute(select(func.min(feed_batches.c.first))).scalar() or 0

    # duties

    def duties(self, low: int, high: int) -> list[Duty]:
        """Those that owe an interval end with low < end <= high, epoch milliseconds."""
        duty = ledger_duties.c
        statement = select(ledger_duties).where(duty.since < high, (duty.until.is_(None)) | (duty.until > low))
        with reading(self._engine, "looking up what is owed") as connection:
            return [_duty(row) for row in connection.execute(statement)]

    def first_duty(self) -> int | None:
        """When the oldest duty began, epoch milliseconds; None when nothing was ever owed."""
        with reading(self._engine, "looking up what is owed") as connection:
            return connection.execute(select(func.min(ledger_duties.c.since))).scalar()

    def set_duties(self, wanted: Iterable[Duty], now: int) -> int:
        """What is owed from `now` on; what was owed until now and no longer is, ends. Gives how many began or ended."""
        new = {duty.meter: duty for duty in wanted}
        table = ledger_duties.c
        with writing(self._engine, "storing what is owed") as connection:
            rows = connection.execute(select(ledger_duties).where(table.until.is_(None))).all()
            known = {row.meter: _duty(row) for row in rows}
            ended = [duty for meter, duty in known.items() if meter not in new or not duty.is_same(new[meter])]
            begun = [duty for meter, duty in new.items() if meter not in known or not duty.is_same(known[meter])]
            for duty in ended:
                here = (table.meter == duty.meter) & (table.since == duty.since)
                if duty.since >= now:  # the clock was set back: it has never owed anything
                    connection.execute(delete(ledger_duties).where(here))
                else:
                    connection.execute(update(ledger_duties).where(here).values(until=now))
            ahead = set(connection.scalars(select(table.meter).where(table.since >= now)))  # the same, and ended since
            for meter in ahead & {duty.meter for duty in begun}:
                connection.execute(delete(ledger_duties).where(table.meter == meter, table.since >= now))
            if begun:
                connection.execute(insert(ledger_duties), [_duty_row(duty, now) for duty in begun])
        return len(ended) + len(begun)

    # manifests

    def mark(self) -> Mark | None:
        """None at the first start."""
        with reading(self._engine, "looking up the ledger's mark") as connection:
            row = connection.execute(select(*(ledger_mark.c[name] for name in Mark.__struct_fields__))).first()
        return None if row is None else Mark(*row)

    def begin(self, sequence: int) -> None:
        """The ledger is kept from here on."""
        values = dict.fromkeys(Mark.__struct_fields__, sequence)
        with writing(self._engine, "beginning the ledger") as connection:
            connection.execute(insert(ledger_mark).values(id=1, **values))

    def set_mark(self, **marks: int) -> None:
        with writing(self._engine, "moving the ledger's mark") as connection:
            connection.execute(update(ledger_mark).values(**marks))

    def record(self, issued: Issued, whole: bytes, parts: Sequence[bytes]) -> None:
        """A manifest that is in the feed. whole, parts: its events."""
        row = {name: getattr(issued, name) for name in Issued.__struct_fields__}
        row |= {"is_final": int(issued.is_final), "body": zlib.compress(b"\n".join([whole, *parts]), _COMPRESSION)}
        with writing(self._engine, "storing a manifest") as connection:
            connection.execute(insert(ledger_manifests), [row])
            connection.execute(update(ledger_mark).values(looked_through=issued.sequence))

    def newest(self, *, first_only: bool = False) -> Issued | None:
        """The one issued last; first_only: of those that were the first of their day."""
        statement = _ISSUED.order_by(ledger_manifests.c.sequence.desc()).limit(1)
        if first_only:  # whose revision is not 0 after a restore
            statement = statement.where(ledger_manifests.c.revision == _FIRST_REVISION)
        with reading(self._engine, "looking up manifests") as connection:
            row = connection.execute(statement).first()
        return None if row is None else _issued(row)

    def last_day(self) -> str | None:
        """The newest day that has a manifest."""
        with reading(self._engine, "looking up manifests") as connection:
            return connection.execute(select(func.max(ledger_manifests.c.day))).scalar()

    def latest(self) -> dict[str, Issued]:
        """Of each day its newest revision."""
        statement = _ISSUED.order_by(ledger_manifests.c.day, ledger_manifests.c.revision)
        with reading(self._engine, "looking up manifests") as connection:
            return {row.day: _issued(row) for row in connection.execute(statement)}

    def issued(self, *, after: int = 0, limit: int | None = None) -> list[Issued]:
        """In the order in which they stand in the feed, those behind event `after`."""
        statement = (
            _ISSUED.where(ledger_manifests.c.sequence > after).order_by(ledger_manifests.c.sequence).limit(limit)
        )
        with reading(self._engine, "looking up manifests") as connection:
            return [_issued(row) for row in connection.execute(statement)]

    def body(self, day: str, revision: int | None = None) -> list[bytes] | None:
        """The whole's event, then those of its parts; None when there is none. revision: None is the newest."""
        table = ledger_manifests.c
        statement = select(table.body).where(table.day == day).order_by(table.revision.desc()).limit(1)
        if revision is not None:
            statement = statement.where(table.revision == revision)
        with reading(self._engine, "looking up a manifest") as connection:
            packed = connection.execute(statement).scalar()
        return None if packed is None else zlib.decompress(packed).split(b"\n")


def _duty(row: Any) -> Duty:
    return Duty(
        meter=row.meter,
        route=row.route,
        line=row.line,
        period_s=row.period_s,
        back_fill_s=row.back_fill_s,
        quantities=tuple(row.quantities.split("\n")) if row.quantities else (),
        since=row.since,
        until=row.until,
    )


def _duty_row(duty: Duty, since: int) -> dict[str, Any]:
    return {
        "meter": duty.meter,
        "since": since,
        "until": None,
        "route": duty.route,
        "line": duty.line,
        "period_s": duty.period_s,
        "back_fill_s": duty.back_fill_s,
        "quantities": "\n".join(duty.quantities),
    }


def _issued(row: Any) -> Issued:
    return Issued(
        day=row.day,
        revision=row.revision,
        sequence=row.sequence,
        through=row.through,
        is_final=bool(row.is_final),
        sha256=row.sha256,
    )
