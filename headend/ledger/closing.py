"""One look through a day: what became of its intervals, and what the feed holds of it.

Both go in steps of some hundredths of a second, so that a head-end closes a day beside its work, can stop between two of them, and
never holds more than a part of the feed in memory. Everything is as of one event of the feed, `through`: what comes later changes
nothing.
"""

import hashlib
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from headend.errors import HeadendError
from headend.feed.envelope import READ_TYPE
from headend.ledger.account import MeterAccount, Window, count_channel, count_unseen
from headend.ledger.digest import RecordsHash, digest_of, event_text, read_digest, record_text
from headend.ledger.duty import LINE, Duty
from headend.ledger.entries import Stretch, block_size
from headend.ledger.states import State
from headend.store.ledger import EventsGone, LedgerBook
from headend.store.restores import runs

__all__ = ["DayLook", "LedgerDisagrees", "day_of", "touched_days"]

CHANNELS_PER_STEP = 100
REMEMBERED_MAX = 4096  # interval ends; ten days of a plan of one minute would not fit, and need not
PAGE = 12  # bits; events are looked for in pages of 4096, some 60 ms of work

_decode = msgspec.json.Decoder().decode


class LedgerDisagrees(HeadendError):
    """The reads of the store and the events of the feed do not tell the same: one of them was changed, or pruned."""


class DayLook(Struct):
    """What was found of a day. accounts: by meter, complete after `count`. The rest is complete after `hash_events`.

    touched: days of which reads were seen in the stretch.
    """

    window: Window
    through: int
    accounts: dict[str, MeterAccount] = {}
    pages: set[int] = set()
    whole: RecordsHash = msgspec.field(default_factory=RecordsHash)
    records: dict[str, RecordsHash] = {}
    stretch: Stretch | None = None
    touched: set[date] = set()

    @property
    def events(self) -> int:
        return sum(account.events for account in self.accounts.values())

    @property
    def states(self) -> dict[State, int]:
        found: dict[State, int] = {}
        for account in self.accounts.values():
            for state, count in account.states.items():
                found[state] = found.get(state, 0) + count
        return found

    # -------------------------------------------------------------------------------------------- states

    def count(self, book: LedgerBook) -> Iterator[None]:
        """Fill `accounts`, step by step."""
        window = self.window
        duties = window.duties(book.duties(window.low, window.high))
        for meter, owed in duties.items():
            self._account(meter, owed)
        last = book.channels()
        for first in range(1, last + 1, CHANNELS_PER_STEP):
            found = book.rows(first, first + CHANNELS_PER_STEP, low=window.low, high=window.high, through=self.through)
            for meter, obis, rows in found:
                owed = duties.get(meter, [])
                count_channel(self._account(meter, owed), obis, rows, owed, window)
                self.pages.update({row[4] >> PAGE for row in rows})
            yield
        for meter, owed in duties.items():
            count_unseen(self.accounts[meter], owed, window)

    def _account(self, meter: str, duties: list[Duty]) -> MeterAccount:
        account = self.accounts.get(meter)
        if account is None:
            line, route = (duties[-1].line, duties[-1].route) if duties else ("", LINE)
            account = self.accounts[meter] = MeterAccount(meter, line, route)
        return account

    # -------------------------------------------------------------------------------------------- digests

    def hash_events(self, book: LedgerBook, *, after: int) -> Iterator[None]:
        """Fill the rest, step by step. after: the stretch of the feed that this look vouches for begins behind this event.

        Raises LedgerDisagrees.
        """
        oldest, voids = book.first_sequence(), book.voids()
        # A stretch has no void numbers in it: what came before them is proven by the days.
        after = max([after, oldest - 1, *(void.last for void in voids)])
        blocks = _Blocks(after, self.through)
        days = _Days(self.window.zone)
        ranges = self._ranges(after, max(oldest, 1))
        for first, last in (run for wanted in ranges for run in runs(voids, *wanted)):
            while first <= last:
                try:
                    portion = book.events(first, last)
                except EventsGone as error:
                    raise LedgerDisagrees(f"{self.window.day} cannot be proven: {error}") from error
                for sequence, text in portion:
                    self._take(sequence, text, blocks, days)
                first = portion[-1][0] + 1
                yield
        for meter, account in self.accounts.items():
            found = self.records.get(meter)
            if account.events != (0 if found is None else found.count):
                raise LedgerDisagrees(
                    f"{self.window.day}: the store has {account.events} reads of meter {meter}, the feed up to event "
                    f"{self.through} has {0 if found is None else found.count}"
                )
        self.stretch = blocks.stretch()

    def _ranges(self, after: int, oldest: int) -> list[tuple[int, int]]:
        """Of events to look at, in order: pages with reads of the day, and the stretch. oldest: event that is still there."""
        ranges: list[tuple[int, int]] = []
        pages = sorted((page << PAGE, min(((page + 1) << PAGE) - 1, self.through)) for page in self.pages)
        stretch = [(after + 1, self.through)] if after < self.through else []
        for first, last in sorted([*pages, *stretch]):
            first = max(first, oldest)
            if ranges and first <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
            else:
                ranges.append((first, last))
        return ranges

    def _take(self, sequence: int, text: bytes, blocks: "_Blocks", days: "_Days") -> None:
        is_new = sequence > blocks.after
        event = _decode(text)
        data = event["data"]
        day = days.of(data["interval_end"]) if event["type"] == READ_TYPE else None
        is_of_day = day == self.window.day
        if not is_new and not is_of_day:
            return
        digest = digest_of(data) if day is None else read_digest(data)
        record = record_text(event["id"], digest)
        if is_of_day:
            meter = data["meter"]
            records = self.records.get(meter)
            if records is None:
                records = self.records[meter] = RecordsHash()
            records.add(sequence, record)
            self.whole.add(sequence, record)
        if is_new:
            blocks.add(record, event_text(event, digest))
            if day is not None and not is_of_day:
                self.touched.add(day)


def touched_days(book: LedgerBook, zone: ZoneInfo, *, after: int, through: int, found: set[date]) -> Iterator[None]:
    """Fill `found` with the days of the reads among these events, step by step. Those that are gone are left out."""
    days = _Days(zone)
    for first, last in runs(book.voids(), max(after + 1, book.first_sequence()), through):
        while first <= last:
            portion = book.events(first, last)
            for _, text in portion:
                event = _decode(text)
                if event["type"] == READ_TYPE:
                    found.add(days.of(event["data"]["interval_end"]))
            first = portion[-1][0] + 1
            yield


class _Blocks:
    """Hashes of the blocks of a stretch."""

    def __init__(self, after: int, through: int) -> None:
        self.after = after
        self._through = max(after, through)
        self._size = block_size(self._through - after)
        self._begin()
        self._records: list[str] = []
        self._events: list[str] = []

    def add(self, record: bytes, event: bytes) -> None:
        self._record.update(record)
        self._event.update(event)
        self._count += 1
        if self._count == self._size:
            self._end()

    def stretch(self) -> Stretch:
        if self._count:
            self._end()
        return Stretch(
            after=self.after, through=self._through, block=self._size, records=self._records, events=self._events
        )

    def _begin(self) -> None:
        self._record, self._event, self._count = hashlib.sha256(), hashlib.sha256(), 0

    def _end(self) -> None:
        self._records.append(self._record.hexdigest())
        self._events.append(self._event.hexdigest())
        self._begin()


class _Days:
    """The local day of an interval end as the feed spells it. All meters share their interval ends, so they are remembered."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._known: dict[str, date] = {}

    def of(self, interval_end: str) -> date:
        day = self._known.get(interval_end)
        if day is None:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.clear()
            day = self._known[interval_end] = day_of(datetime.fromisoformat(interval_end), self._zone)
        return day


def day_of(interval_end: datetime, zone: ZoneInfo) -> date:
    """The local day an interval belongs to: one that ends at midnight, to the day that ends there."""
    return (interval_end - timedelta(milliseconds=1)).astimezone(zone).date()
