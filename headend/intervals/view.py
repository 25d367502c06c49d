"""Intervals as they stand, for whoever asks: reckoned from the stored reads as far as they are told, in their newest revisions."""

import heapq
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from headend.feed.interval_event import interval_data
from headend.feed.payloads import IntervalData
from headend.intervals.boundaries import EVER, Boundaries, Fetch, boundaries_in
from headend.intervals.known_facts import KnownFacts
from headend.intervals.registers import Register
from headend.intervals.standing import Series, slot_before
from headend.intervals.teller import BEFORE_FIRST_MS, RegisterOf, is_counted, series_of_eras
from headend.store.intervals import IntervalBook
from headend.store.rows import epoch_ms
from protocols.values import Unit

__all__ = ["IntervalView", "Place"]

ENDS_FIRST, ENDS_MAX = 16, 256  # reckoned at once


class Place(Struct, frozen=True, order=True):
    """Where a page ended: intervals are in the order of their ends, and of one end in the order of quantities."""

    end: datetime
    obis: str


class IntervalView:
    """Any thread may call it. May raise StoreUnavailable."""

    def __init__(self, book: IntervalBook, *, zone: ZoneInfo, register_of: RegisterOf) -> None:
        self._book = book
        self._zone = zone
        self._register_of = register_of

    def knows(self, meter: str) -> bool:
        """Whether the meter was ever read, also when it is no longer configured."""
        return bool(self._book.units_of(meter))

    def page(
        self,
        meter: str,
        *,
        obis: str | None,
        since: datetime | None,
        until: datetime | None,
        after: Place | None,
        limit: int,
    ) -> tuple[list[IntervalData], Place | None]:
        """Those with since <= start and end <= until, behind `after`; and where the next page begins, None when this is the last."""
        through = self._book.cursor() or 0
        facts = KnownFacts()
        facts.learn(self._book.facts_of(meter))
        low = -EVER if since is None else epoch_ms(since) + 1
        low = low if after is None else max(low, epoch_ms(after.end))
        high = EVER if until is None else epoch_ms(until)
        streams = [
            self._channel(meter, name, channel, register, facts, (low, high), since, through)
            for channel, name, unit in self._book.units_of(meter)
            if (obis is None or name == obis)
            and (register := self._register_of(meter, name, Unit(unit))) is not None
            and is_counted(register)
        ]
        merged = (one for one in heapq.merge(*streams, key=_first) if after is None or one[0] > after)
        found = list(islice(merged, limit + 1))
        page = found[:limit]
        return [data for _, data in page], page[-1][0] if len(found) > limit else None

    def _channel(
        self,
        meter: str,
        obis: str,
        channel: int,
        register: Register,
        facts: KnownFacts,
        window: tuple[int, int],
        since: datetime | None,
        through: int,
    ) -> Iterator[tuple[Place, IntervalData]]:
        fetch = partial(self._book.rows, channel, through=through)
        whole = Series(meter=meter, obis=obis, period_s=0, zone=self._zone, register=register)
        eras = list(series_of_eras(whole, self._book.eras(channel)))
        kept = _kept_from(fetch, eras[0]) if eras else EVER
        for periods, begins, ends in eras:
            series = periods[-1]
            low, high = max(begins + 1, window[0], kept), min(ends, window[1])
            if low > high:
                continue
            slots = (one.slot for one in Boundaries(fetch, series).upwards(low, high) if one.slot is not None)
            size = ENDS_FIRST
            while some := list(islice(slots, size)):
                size = min(2 * size, ENDS_MAX)
                # A fact that is still being taken in counts for a part of them: each is asked with its own place.
                known = {end: facts.of(meter, obis, register.unit, place=(channel, epoch_ms(end))) for end in some}
                told = self._book.revisions(channel, epoch_ms(some[0]), epoch_ms(some[-1]))
                boundaries: Boundaries | None = None
                for end in some:
                    if boundaries is None or boundaries.facts != known[end]:
                        boundaries = boundaries_in(fetch, periods, facts=known[end])
                        boundaries.load(slot_before(some[0], series.period_s, self._zone), some[-1])
                    interval = boundaries.interval(end)
                    last = boundaries.at(end)
                    if interval is None or last is None or (since is not None and interval.start < since):
                        continue
                    interval = replace(interval, revision=told.get(epoch_ms(end), 0))
                    yield Place(end, obis), interval_data(interval, is_primary=last.is_primary)


def _kept_from(fetch: Fetch, era: tuple[list[Series], int, int]) -> int:
    """The first interval end that can still be reckoned: where reads were pruned, what begins before the oldest good one cannot."""
    periods, since, _ = era
    oldest = fetch(low=-EVER, high=EVER, limit=1)
    if not oldest or oldest[0].slot <= since + BEFORE_FIRST_MS:
        return -EVER
    good = (one for one in boundaries_in(fetch, periods).upwards(-EVER) if one.good and one.slot is not None)
    found = next(good, None)
    return EVER if found is None or found.slot is None else epoch_ms(found.slot) + 1


def _first(one: tuple[Place, IntervalData]) -> Place:
    return one[0]
