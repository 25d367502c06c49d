"""A channel's stored reads as boundaries, looked up as they are needed, in the state that they had at some event of the feed."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Protocol

from headend.intervals.build import NO_FACTS
from headend.intervals.model import Facts, Interval
from headend.intervals.standing import Series, Standing, interval_of, slot_before, standing_of
from headend.model import Quality
from headend.store.intervals import StoredRow
from headend.store.rows import QUALITY_BITS, epoch_ms, from_epoch_ms
from protocols.values import Unit

__all__ = ["EVER", "Boundaries", "Fetch", "boundaries_in", "standing_of_row"]

EVER = 2**62  # epoch milliseconds, beyond every read
ROWS_FIRST, ROWS_MAX = 8, 1024  # asked for at once: what is looked for is mostly near
GROUP_MS = 120_000  # reads for one boundary are no further apart than twice the tolerance


class Fetch(Protocol):
    """Rows of the channel with low <= interval end <= high, epoch milliseconds, by interval end; `limit` of them, -1 is all."""

    def __call__(self, *, low: int, high: int, limit: int = -1, downwards: bool = False) -> list[StoredRow]: ...


class Boundaries:
    """hidden: (interval end, revision) of rows that are taken not to be there. before: of the period before this one."""

    def __init__(
        self,
        fetch: Fetch,
        series: Series,
        *,
        hidden: Collection[tuple[int, int]] = frozenset(),
        facts: Facts = NO_FACTS,
        before: "Boundaries | None" = None,
    ) -> None:
        self.series = series
        self._before = before
        self._fetch = fetch
        self._hidden = hidden
        self.facts = facts
        self._low, self._high = 1, 0  # nothing is loaded
        self._block: dict[datetime, Standing] = {}
        self._good: list[datetime] = []
        self._below: Standing | None = None
        self._has_below = False
        self._head: Standing | None = None
        self._has_head = False
        self._base: Standing | None = None
        self._has_base = False

    def load(self, low: datetime, high: datetime) -> None:
        """Have these at hand: the others cost a question each."""
        found = self._fetch(low=epoch_ms(low) - GROUP_MS // 2, high=epoch_ms(high) + GROUP_MS // 2)
        self._low, self._high = epoch_ms(low), epoch_ms(high)
        self._block = {one.slot: one for one in self._aligned(found) if one.slot is not None}
        self._good = [slot for slot, one in self._block.items() if one.good]
        self._below, self._has_below = None, False

    def at(self, slot: datetime) -> Standing | None:
        ms = epoch_ms(slot)
        if self._low <= ms <= self._high:
            return self._block.get(slot)
        found = self._aligned(self._fetch(low=ms - GROUP_MS // 2, high=ms + GROUP_MS // 2))
        return next((one for one in found if one.slot == slot), None)

    def good_before(self, slot: datetime) -> Standing | None:
        """The last good read at a boundary before this one."""
        ms = epoch_ms(slot)
        if not self._low < ms <= self._high + 1:
            return next((one for one in self.downwards(ms) if one.good and _is_before(one, slot)), None)
        place = bisect_left(self._good, slot)
        if place:
            return self._block[self._good[place - 1]]
        if not self._has_below:
            low = from_epoch_ms(self._low)
            self._below = next((one for one in self.downwards(self._low) if one.good and _is_before(one, low)), None)
            self._has_below = True
        return self._below

    def good_after(self, slot: datetime) -> Standing | None:
        """The first good read at a boundary after this one."""
        ms = epoch_ms(slot)
        if self._low <= ms <= self._high:
            place = bisect_right(self._good, slot)
            if place < len(self._good):
                return self._block[self._good[place]]
            ms = self._high
        after = from_epoch_ms(ms)
        return next((one for one in self.upwards(ms) if one.good and one.slot is not None and one.slot > after), None)

    def first_good(self) -> Standing | None:
        """The channel's first good read, at a boundary or not."""
        if not self._has_head:
            self._head = next((one for one in self._all_upwards() if one.good), None)
            self._has_head = True
        return self._head

    def is_before(self, instant: datetime) -> bool:
        """Whether another period was told beyond this moment."""
        return self.series.since is not None and instant < self.series.since

    def base(self) -> Standing | None:
        """Up to where the periods before this one have told what was counted: their last good read at one of their boundaries."""
        if not self._has_base and self._before is not None and self.series.since is not None:
            found = next((one for one in self._before.downwards(epoch_ms(self.series.since)) if one.good), None)
            is_theirs = found is not None and not self._before.is_before(found.boundary.instant)
            self._base = found if is_theirs else self._before.base()
        self._has_base = True
        return self._base

    def interval(self, end: datetime) -> Interval | None:
        """The interval that ends there, in revision 0; None where no read says that its time has come."""
        last = self.at(end)
        if last is None:
            return None
        start = slot_before(end, self.series.period_s, self.series.zone)
        first = None if self.is_before(start) else self.at(start)
        good = first if first is not None and first.good else self.good_before(end)
        if good is None or self.is_before(good.boundary.instant):
            good = self.base()
        if good is None:
            head = self.first_good()
            good = head if head is not None and head.boundary.instant < end else None
        return interval_of(self.series, first, last, good, self.facts)

    def upwards(self, low: int, high: int = EVER) -> Iterator[Standing]:
        """What stands at the boundaries of reads from `low` to `high`, oldest first."""
        limit = ROWS_FIRST
        while True:
            rows = self._fetch(low=low - GROUP_MS // 2, high=min(high + GROUP_MS // 2, EVER), limit=limit)
            is_last = len(rows) < limit
            cut = EVER if is_last else rows[-1].slot - GROUP_MS
            for one in self._aligned(row for row in rows if row.slot < cut):
                if one.slot is not None and low <= epoch_ms(one.slot) <= high:
                    yield one
                    low = epoch_ms(one.slot) + 1
            if is_last:
                return
            low, limit = max(low, cut), _more(limit, is_stuck=cut <= low - GROUP_MS // 2)

    def rows(self, low: int, high: int) -> list[StoredRow]:
        """As they are stored."""
        return self._fetch(low=low, high=high)

    def downwards(self, high: int) -> Iterator[Standing]:
        """Newest first, from `high` on."""
        limit = ROWS_FIRST
        while True:
            rows = self._fetch(low=-EVER, high=min(high + GROUP_MS // 2, EVER), limit=limit, downwards=True)
            is_last = len(rows) < limit
            cut = -EVER if is_last else rows[-1].slot + GROUP_MS
            found = list(self._aligned(row for row in reversed(rows) if row.slot > cut))
            for one in reversed(found):
                if one.slot is not None and epoch_ms(one.slot) <= high:
                    yield one
                    high = epoch_ms(one.slot) - 1
            if is_last:
                return
            high, limit = min(high, cut), _more(limit, is_stuck=cut >= high + GROUP_MS // 2)

    def _all_upwards(self) -> Iterator[Standing]:
        low, limit = -EVER, ROWS_FIRST
        while True:
            rows = self._fetch(low=low, high=EVER, limit=limit)
            yield from self._newest(rows)
            if len(rows) < limit:
                return
            low, limit = rows[-1].slot, _more(limit, is_stuck=rows[-1].slot == low)

    def _aligned(self, rows: Iterable[StoredRow]) -> Iterator[Standing]:
        """One for each boundary that a read stands for: a good one before others, then the nearest."""
        best: Standing | None = None
        rank = (True, timedelta(0))
        for instant, one in ((one.boundary, one) for one in self._newest(rows)):
            if one.slot is None:
                continue
            here = (not one.good, abs(instant.instant - one.slot))
            if best is None or best.slot != one.slot:
                if best is not None:
                    yield best
                best, rank = one, here
            elif here < rank:
                best, rank = one, here
        if best is not None:
            yield best

    def _newest(self, rows: Iterable[StoredRow]) -> Iterator[Standing]:
        """Of each moment the highest revision."""
        kept: StoredRow | None = None
        for row in rows:
            if self._hidden and (row.slot, row.revision) in self._hidden:
                continue
            if kept is not None and kept.slot != row.slot:
                yield self._standing(kept)
                kept = row
            elif kept is None or row.revision > kept.revision:
                kept = row
        if kept is not None:
            yield self._standing(kept)

    def _standing(self, row: StoredRow) -> Standing:
        return standing_of_row(row, self.series, self.facts)


def boundaries_in(
    fetch: Fetch,
    periods: Sequence[Series],
    *,
    hidden: Collection[tuple[int, int]] = frozenset(),
    facts: Facts = NO_FACTS,
) -> Boundaries:
    """Those of the last of a channel's periods, oldest first."""
    found: Boundaries | None = None
    for series in periods:
        found = Boundaries(fetch, series, hidden=hidden, facts=facts, before=found)
    assert found is not None
    return found


def standing_of_row(row: StoredRow, series: Series, facts: Facts = NO_FACTS) -> Standing:
    return standing_of(
        from_epoch_ms(row.slot),
        series,
        amount=None if row.amount is None else Decimal(row.amount),
        unit=Unit(row.unit),
        quality=_qualities(row.quality),
        revision=row.revision,
        reason=row.reason or "",
        read_at=None if row.read_at is None else from_epoch_ms(row.read_at),
        received_at=from_epoch_ms(row.received_at),
        source=row.source,
        is_primary=row.ratio is not None and row.ratio.startswith("/"),
        facts=facts,
    )


@lru_cache(maxsize=128)
def _qualities(bits: int) -> tuple[Quality, ...]:
    return tuple(one for one, bit in QUALITY_BITS.items() if bits & bit)


def _more(limit: int, *, is_stuck: bool) -> int:
    """How many rows to ask for next. is_stuck: so many there are for one moment."""
    return limit * 2 if is_stuck else min(limit * 4, max(limit, ROWS_MAX))


def _is_before(one: Standing, slot: datetime) -> bool:
    return one.slot is not None and one.slot < slot
