"""Takes the feed in: what it tells of meters' days, and which accounts must be looked at again.

Cursor and content are written in one transaction, so a crash loses nothing and takes nothing twice. A meter may be told to belong to an
account days after its intervals came; so for a while those of unknown meters are kept as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import Connection, delete, select

from headend.prepayment.accounts.agenda import touch_meters
from headend.prepayment.days import LocalDays, day_number
from headend.prepayment.errors import FeedBroken, FeedPruned
from headend.prepayment.ports import Feed
from headend.prepayment.storage.database import Database, put_rows
from headend.prepayment.storage.tables import account_meters, feed_cursor, meter_days
from headend.prepayment.usage.heard import IntervalEvent, Told, decode_day, encode_day, merged, told_of
from headend.prepayment.usage.meter_days import bodies_of_days, told_of_days

__all__ = ["PAGE", "Intake", "Taken", "note_told"]

PAGE = 5_000  # events in one transaction: some 3 MB
BEHIND_DAYS = 60  # how far back it is looked for whether a meter stands behind transformers
UNKNOWN_DAYS = 10  # how long the days of meters that belong to nobody are kept
_INTERVAL = "headend.interval.v1"
_SERVICE = "headend.service-status.v1"
# What an event or a row raises that is not of its form; ArithmeticError: of moments and numbers that nobody can reckon with.
_UNREADABLE = (msgspec.MsgspecError, ValueError, ArithmeticError)
_log = structlog.get_logger()


class Taken(Struct, frozen=True, kw_only=True):
    """events: read from the feed. meter_days: that say something else now. cursor: sequence of the last event."""

    events: int
    meter_days: int
    cursor: int


class _Head(Struct, frozen=True):
    sequence: str
    type: str
    data: msgspec.Raw


class _Notice(Struct):
    kind: str = ""
    last_before: int = -1
    void_through: int = -1


_HEAD = msgspec.json.Decoder(_Head)
_EVENT = msgspec.json.Decoder(IntervalEvent)


class Intake:
    """The one reader of the feed for this database."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        days: LocalDays,
        *,
        unknown_days: int = UNKNOWN_DAYS,
        heard: Callable[[Connection, Sequence[str]], None] | None = None,
    ) -> None:
        """heard: told in the transaction of a page, of the accounts that it brings news of."""
        self._database = database
        self._told_of = heard
        self._feed = feed
        self._days = days
        self._unknown_days = unknown_days

    @property
    def cursor(self) -> int:
        with self._database.reading("looking for the feed's cursor") as connection:
            return _cursor(connection)

    def catch_up(self, *, pages_max: int | None = None) -> Taken:
        """To the end of the feed. Raises FeedBroken, FeedUnavailable, StoreError; what was taken before that is kept."""
        events = changed = pages = 0
        cursor = self.cursor
        while pages_max is None or pages < pages_max:
            try:
                page = self._feed.events_after(cursor, PAGE)
            except FeedPruned as pruned:
                cursor = self._begin(pruned)
                page = self._feed.events_after(cursor, PAGE)
            if not page:
                break
            taken = self.take(page, cursor)
            events, changed, cursor, pages = (
                events + taken.events, changed + taken.meter_days, taken.cursor, pages + 1
            )  # fmt: skip
        return Taken(events=events, meter_days=changed, cursor=cursor)

    def take(self, page: Sequence[bytes], cursor: int) -> Taken:
        """One page in one transaction. cursor: that it was asked with. Raises FeedBroken when an event is missing in it."""
        heard: dict[tuple[str, int], list[tuple[IntervalEvent, int]]] = {}
        after = cursor
        for wire in page:
            try:
                head = _HEAD.decode(wire)
                sequence = int(head.sequence)
            except (msgspec.MsgspecError, ValueError) as error:
                raise FeedBroken(
                    f"what follows event {after} is no event ({error}); expected a JSON object with sequence, type and data"
                ) from error
            if sequence != after + 1 and not _behind_void(head, sequence, after):
                raise FeedBroken(f"event {sequence} follows event {after}; expected {after + 1}: pull it again")
            after = sequence
            if head.type == _INTERVAL:
                self._sort_in(head, sequence, heard)
        with self._database.writing("taking in the feed") as connection:
            held = _cursor(connection)
            if held != cursor:
                raise FeedBroken(
                    f"the cursor is at {held}, the page begins after {cursor}: somebody else reads for this database"
                )
            changed = self._keep(connection, heard)
            put_rows(connection, feed_cursor, [(1, after)])
        return Taken(events=len(page), meter_days=changed, cursor=after)

    def forget_unknown(self, now: datetime) -> int:
        """Days of meters that belong to no account, when they are old; how many. Call it once a day."""
        before = day_number(self._days.today(now)) - self._unknown_days
        with self._database.writing("forgetting unknown meters") as connection:
            known = select(account_meters.c.meter)
            found = connection.execute(
                delete(meter_days).where(meter_days.c.day < before, meter_days.c.meter.not_in(known))
            )
            return found.rowcount

    def _begin(self, pruned: FeedPruned) -> int:
        """Where nothing was ever taken in, with the oldest event that the feed has. Raises what was given, where something was."""
        with self._database.writing("beginning to read the feed") as connection:
            if connection.execute(select(feed_cursor.c.sequence)).first() is not None:
                raise pruned
            put_rows(connection, feed_cursor, [(1, pruned.first - 1)])
        _log.info("feed_begins", first=pruned.first)
        return pruned.first - 1

    def _sort_in(
        self, head: _Head, sequence: int, heard: dict[tuple[str, int], list[tuple[IntervalEvent, int]]]
    ) -> None:
        try:
            event = _EVENT.decode(head.data)
            day = self._days.day_at(self._days.second(event.end) - 1)
        except _UNREADABLE as error:
            # It will not be better next time, and those behind it are good: the day stays unsettled, and the log says why.
            _log.error("interval_refused", sequence=sequence, problem=str(error))
            return
        heard.setdefault((event.meter, day), []).append((event, sequence))

    def _keep(self, connection: Connection, heard: Mapping[tuple[str, int], list[tuple[IntervalEvent, int]]]) -> int:
        before: dict[tuple[str, int], list[Told]] = {}
        unreadable: dict[tuple[str, int], str] = {}
        for of, body in bodies_of_days(connection, heard):
            try:
                before[of] = decode_day(body)
            except _UNREADABLE as error:
                unreadable[of] = str(error)
        rows: list[tuple[int, str, bytes]] = []
        since: dict[str, int] = {}
        for (meter, day), events in heard.items():
            if (problem := unreadable.get((meter, day))) is not None:
                # What the row holds stays as it is, for whoever mends it; the others' days must not wait for that.
                for _, sequence in events:
                    _log.error("interval_refused", sequence=sequence, meter=meter, day=day, problem=problem)
                continue
            known = before.get((meter, day), [])
            news: list[Told] = []
            for event, sequence in events:
                try:
                    behind = event.span is not None and event.side == "" and _is_behind(connection, meter, day)
                    told = told_of(event, self._days, behind_transformers=behind)
                except _UNREADABLE as error:
                    _log.error("interval_refused", sequence=sequence, problem=str(error))
                    continue
                if told is not None:
                    news.append(told)
            kept, changed = merged(known, news)
            if changed is None:
                continue
            rows.append((day, meter, encode_day(kept)))
            first = min(day, self._days.day_at(changed))
            since[meter] = min(since.get(meter, first), first)
        put_rows(connection, meter_days, rows)
        touched = touch_meters(connection, since)
        if self._told_of is not None:
            self._told_of(connection, touched)
        return len(rows)


def note_told(connection: Connection, meter: str, day: int, told: Iterable[Told], days: LocalDays) -> None:
    """What a person told of a meter's day, in place of what he told before."""
    known = told_of_days(connection, [(meter, day)]).get((meter, day), [])
    kept, changed = merged(known, told)
    if changed is not None:
        put_rows(connection, meter_days, [(day, meter, encode_day(kept))])
        touch_meters(connection, {meter: day})


def _behind_void(head: _Head, sequence: int, after: int) -> bool:
    """Whether it tells that the head-end's store was restored from a backup: the numbers before it are never given again, and what was
    taken of them is true."""
    if head.type != _SERVICE:
        return False
    try:
        notice = msgspec.json.decode(head.data, type=_Notice)
    except msgspec.MsgspecError:
        return False
    return notice.kind == "restored" and notice.last_before <= after < sequence == notice.void_through + 1


def _cursor(connection: Connection) -> int:
    return connection.execute(select(feed_cursor.c.sequence)).scalar() or 0


def _is_behind(connection: Connection, meter: str, day: int) -> bool:
    """Whether the newest known days of the meter had a ratio: then a span without one must not be taken for primary.

    Raises MsgspecError, ValueError where none of them can be read."""
    statement = select(meter_days.c.body).where(
        meter_days.c.meter == meter, meter_days.c.day.in_(range(day - BEHIND_DAYS, day + 1))
    )
    known: list[Told] = []
    problem: Exception | None = None
    for (body,) in connection.execute(statement):
        try:
            known += decode_day(body)
        except _UNREADABLE as error:
            problem = error
    if problem is not None and not known:
        raise problem
    return any(told.is_secondary for told in known)
