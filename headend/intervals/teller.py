"""What there is to tell of intervals when further reads, or a fact, have come. It decides; the keeper makes it durable.

An interval was told when the read that ends it lies behind the cursor, and what was told follows from the reads behind the cursor. So
each step reckons twice, without and with what is new, and tells the difference. Reads that come in order, nearly all, need no look
into the store: a channel's last read and its last good one are kept at hand.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from headend.feed.interval_event import interval_event
from headend.intervals.boundaries import EVER, Boundaries, boundaries_in
from headend.intervals.feed_reads import FedRead, reads_in
from headend.intervals.known_facts import CLOCK, RATIO, KnownFacts
from headend.intervals.model import Facts, Interval
from headend.intervals.registers import Kind, Register
from headend.intervals.standing import (
    Series,
    Standing,
    boundary_slot,
    interval_of,
    slot_after,
    slot_before,
    standing_of,
)
from headend.model import Event
from headend.scheduling.plan import slot_at
from headend.store.intervals import Changes, Era, FactRow, IntervalBook
from headend.store.restores import Lift
from headend.store.rows import epoch_ms, from_epoch_ms
from protocols.values import Unit

__all__ = ["PeriodOf", "RegisterOf", "Step", "Teller", "is_counted", "series_of_eras"]

TAILS_MAX = 200_000  # channels; some hundred bytes each
CLUSTER_GAP_MS = 2 * 86_400_000  # late reads further apart are looked at by themselves
BEFORE_FIRST_MS = (
    86_400_000  # pushed reads may come in any order; so much earlier than the first one, they still make intervals
)
ITEMS_MAX = 500  # per transaction: everybody's commits wait for it
FACTS_MAX = 100
ENDS_AT_ONCE = 256
EARLIER = timedelta(hours=30)  # a read may be captured so long after its boundary, or its clock be off by so much

# What the configuration says of a register, by meter, quantity and unit; None where no interval is made of it.
RegisterOf = Callable[[str, str, Unit], Register | None]
PeriodOf = Callable[[str], int | None]  # of a meter's plan, seconds; None for a meter that is not configured


class Step(Struct):
    """What is to be told, and what is to be remembered with it.

    waits_for: a meter whose facts must be through before these reads can be told; then the step is void.
    """

    items: list[Event]
    changes: Changes
    waits_for: str = ""


class _Tail(Struct):
    """Where a channel stands. newest: no read has a later interval end, epoch milliseconds. good: as in `interval_of`."""

    channel: int
    since: int
    series: Series
    newest: int
    last: Standing | None
    good: Standing | None


def is_counted(register: Register | None) -> bool:
    """Whether its differences mean something."""
    return register is not None and register.kind in (Kind.CUMULATIVE, Kind.BALANCE)


class Teller:
    """For one thread. facts: of the store, taken into account as far as they are applied."""

    def __init__(
        self, book: IntervalBook, facts: KnownFacts, *, zone: ZoneInfo, register_of: RegisterOf, period_of: PeriodOf
    ) -> None:
        self._book = book
        self.facts = facts
        self._zone = zone
        self._register_of = register_of
        self._period_of = period_of
        self._tails: dict[tuple[str, str], _Tail] = {}
        self._lift = Lift()

    def forget(self) -> None:
        """What was told last may not have become durable: everything is looked up anew."""
        self._tails.clear()
        self._lift = self._book.lift()
        self.facts.reset(self._book.facts())

    # -------------------------------------------------------------------------------------------- reads

    def portion(self, after: int, first: int, events: Sequence[bytes], now: datetime) -> Step:
        """after: intervals of reads up to this event are told. first: number of the first of these."""
        step = Step([], Changes())
        groups: dict[tuple[str, str], list[FedRead]] = defaultdict(list)
        for read in reads_in(events):
            groups[read.meter, read.obis].append(read)
        for key, reads in groups.items():
            tail = self._tail(key, reads[0], after, step)
            if tail is None:
                continue
            if not self._tell_in_order(tail, reads, now, step):
                if self.facts.are_pending(
                    key[0]
                ):  # they count for some of the intervals behind, and not yet for others
                    self.forget()
                    return Step([], Changes(), waits_for=key[0])
                del self._tails[key]
                self._tell_late(tail, reads, (after, first + len(events) - 1), now, step)
        return step

    def _tell_in_order(self, tail: _Tail, reads: Sequence[FedRead], now: datetime, step: Step) -> bool:
        """False when one of them is late; nothing is told then."""
        series, place = tail.series, (tail.channel, tail.newest + 1)
        facts = self.facts.of(series.meter, series.obis, series.register.unit, place=place)
        newest, last, good = tail.newest, tail.last, tail.good
        told: list[Event] = []
        for read in reads:
            moment = epoch_ms(read.interval_end)
            if moment <= self._lift.slots_through:
                return False  # its interval may have been given out before the store was restored
            here = _standing(read, series, facts)
            if moment <= newest or (here.slot is not None and last is not None and here.slot == last.slot):
                return False
            newest = moment
            if here.slot is None:
                good = here if good is None and here.good else good
                continue
            if series.since is not None and here.slot < series.since:
                continue
            if epoch_ms(here.slot) > tail.since:
                is_next = last is not None and last.slot == slot_before(here.slot, series.period_s, series.zone)
                told.append(_event(interval_of(series, last if is_next else None, here, good, facts), here, now))
            last = here
            good = here if here.good else good
        tail.newest, tail.last, tail.good = newest, last, good
        step.items += told
        return True

    def _tell_late(
        self, tail: _Tail, reads: Sequence[FedRead], span: tuple[int, int], now: datetime, step: Step
    ) -> None:
        """Reads of a channel in any order, among others that are stored."""
        fetch = partial(self._book.rows, tail.channel, through=span[1])
        eras = self._eras(tail.channel, step)
        facts = self.facts.of(tail.series.meter, tail.series.obis, tail.series.register.unit)
        clusters = list(_clusters(sorted({epoch_ms(one.interval_end) for one in reads})))
        revisions: dict[int, set[int]] = defaultdict(set)
        for one in reads:
            revisions[epoch_ms(one.interval_end)].add(one.revision)
        hidden = {(moment, revision) for moment, some in revisions.items() for revision in some}
        for cluster in clusters:
            before = frozenset(hidden)
            hidden -= {(moment, revision) for moment in cluster for revision in revisions[moment]}
            moments = [from_epoch_ms(moment) for moment in cluster]
            for periods, low, high in series_of_eras(tail.series, eras):
                series = periods[-1]
                was = boundaries_in(fetch, periods, hidden=before, facts=facts)
                now_is = boundaries_in(fetch, periods, hidden=frozenset(hidden), facts=facts)
                since = slot_before(slot_at(moments[0], series.period_s, self._zone), series.period_s, self._zone)
                until = moments[-1] + 2 * timedelta(seconds=series.period_s)
                was.load(since, until)
                now_is.load(since, until)
                ends = sorted(end for end in _touched(now_is, moments) if low < epoch_ms(end) <= high)
                self._tell_changes(tail.channel, ends, was, now_is, now, step)

    def _tell_changes(
        self,
        channel: int,
        ends: Sequence[datetime],
        was: Boundaries,
        now_is: Boundaries,
        now: datetime,
        step: Step,
    ) -> None:
        if not ends:
            return
        told = self._book.revisions(channel, epoch_ms(ends[0]), epoch_ms(ends[-1]))
        for end in ends:
            fresh = now_is.interval(end)
            if fresh is None:
                continue
            known = was.interval(end)
            place = (channel, epoch_ms(end))
            revision = 0
            if known is not None:
                if known == fresh:
                    continue
                revision = step.changes.revisions.get(place, told.get(place[1], 0)) + 1
            if place[1] <= self._lift.slots_through:
                revision = self._lift.lifted(revision)
            if revision:
                step.changes.revisions[place] = revision
                fresh = replace(fresh, revision=revision)
            last = now_is.at(end)
            assert last is not None
            step.items.append(_event(fresh, last, now))

    # -------------------------------------------------------------------------------------------- facts

    def take_in(self, pending: Sequence[FactRow], through: int, now: datetime) -> Step:
        """Facts that are not applied yet, oldest first, as many as fit into one step. through: reads up to this event are told."""
        step = Step([], Changes())
        for fact in pending[:FACTS_MAX]:
            place = self._take_in(fact, through, now, step)
            if place is not None:
                step.changes.progress = (fact.id, place)
                self.facts.learn([replace(fact, done=place)])
                self._forget_tails(fact.meter)
                break
            step.changes.applied.append(fact.id)
            self.facts.learn([replace(fact, is_applied=True)])
            self._forget_tails(fact.meter)
            if len(step.items) >= ITEMS_MAX:
                break
        return step

    def _forget_tails(self, meter: str) -> None:
        for key in [key for key in self._tails if key[0] == meter]:
            del self._tails[key]

    def _take_in(self, fact: FactRow, through: int, now: datetime, step: Step) -> tuple[int, int] | None:
        """How far it has come; None when it is through."""
        for channel, obis, unit in self._book.units_of(fact.meter):
            register = self._register_of(fact.meter, obis, Unit(unit))
            if channel < fact.done[0] or register is None or not is_counted(register):
                continue
            done = fact.done[1] if channel == fact.done[0] else -EVER
            facts = self.facts.of(fact.meter, obis, register.unit), self.facts.with_fact(fact, obis, register.unit)
            fetch = partial(self._book.rows, channel, through=through)
            whole = Series(meter=fact.meter, obis=obis, period_s=0, zone=self._zone, register=register)
            for periods, low, high in series_of_eras(whole, self._eras(channel, step)):
                series = periods[-1]
                was, now_is = (boundaries_in(fetch, periods, facts=one) for one in facts)
                first, last = self._reach(fact, now_is)
                ends = (one.slot for one in now_is.upwards(max(low + 1, first, done + 1), min(high, last)) if one.slot)
                while some := list(islice(ends, ENDS_AT_ONCE)):
                    since = slot_before(some[0], series.period_s, self._zone)
                    was.load(since, some[-1])
                    now_is.load(since, some[-1])
                    self._tell_changes(channel, some, was, now_is, now, step)
                    if len(step.items) >= ITEMS_MAX:
                        return channel, epoch_ms(some[-1])
        return None

    def _reach(self, fact: FactRow, boundaries: Boundaries) -> tuple[int, int]:
        """Interval ends that the fact may touch, epoch milliseconds."""
        first, last = fact.at - EARLIER, fact.at + EARLIER
        if fact.kind == RATIO:
            ends = self.facts.ratios_after(fact.meter, fact.at)
            if ends is None:
                return epoch_ms(fact.at), EVER
            last = ends
        elif fact.kind == CLOCK and not any(
            row.read_at is not None for row in boundaries.rows(epoch_ms(first), epoch_ms(last))
        ):
            return 1, 0  # nothing there has a label of that clock
        for _ in range(2):
            following = boundaries.good_after(last)
            if following is None or following.slot is None:
                return epoch_ms(first), EVER if fact.kind == RATIO else epoch_ms(last)
            last = following.slot
        return epoch_ms(first), epoch_ms(last)

    # -------------------------------------------------------------------------------------------- channels

    def _tail(self, key: tuple[str, str], read: FedRead, after: int, step: Step) -> _Tail | None:
        """None where no interval is made of this quantity."""
        period_s = self._period_of(key[0])
        tail = self._tails.get(key)
        if tail is not None and period_s in (tail.series.period_s, None):
            return tail
        if not is_counted(self._register_of(*key, Unit(read.unit))):
            return None
        found = self._book.channel(*key)
        # The unit of a channel is that of its first read, whatever this one says.
        register = None if found is None else self._register_of(*key, Unit(found[1]))
        if found is None or register is None or not is_counted(register):
            return None
        channel = found[0]
        eras = self._eras(channel, step)
        if period_s is None:  # its last reads, from before it was taken out of the configuration
            if not eras:
                return None
            period_s = eras[-1].period_s
        rows = self._book.rows(channel, low=-EVER, high=EVER, through=after, limit=1, downwards=True)
        newest = rows[0].slot if rows else None
        series = Series(meter=key[0], obis=key[1], period_s=period_s, zone=self._zone, register=register)
        if not eras or eras[-1].period_s != period_s:
            since = epoch_ms(read.interval_end) - BEFORE_FIRST_MS if newest is None else newest
            if eras and newest is not None:
                told = boundary_slot(from_epoch_ms(newest), eras[-1].period_s, self._zone)
                since = max(newest if told is None else epoch_ms(told), newest, eras[-1].since + 1)
            eras.append(Era(since, period_s))
            step.changes.eras.append((channel, eras[-1]))
        periods = [periods for periods, _, _ in series_of_eras(series, eras)][-1]
        tail = _Tail(channel, eras[-1].since, periods[-1], -EVER if newest is None else newest, None, None)
        if newest is not None:
            self._look_back(tail, periods, after)
        if len(self._tails) >= TAILS_MAX:
            del self._tails[next(iter(self._tails))]
        self._tails[key] = tail
        return tail

    def _look_back(self, tail: _Tail, periods: Sequence[Series], after: int) -> None:
        series, place = tail.series, (tail.channel, tail.newest + 1)
        facts = self.facts.of(series.meter, series.obis, series.register.unit, place=place)
        stored = boundaries_in(partial(self._book.rows, tail.channel, through=after), periods, facts=facts)
        for one in stored.downwards(EVER):
            if stored.is_before(one.boundary.instant):
                break
            tail.last = tail.last or one
            if one.good:
                tail.good = one
                return
        tail.good = stored.base() or stored.first_good()

    def _eras(self, channel: int, step: Step) -> list[Era]:
        """Those of this step included."""
        return [*self._book.eras(channel), *(era for one, era in step.changes.eras if one == channel)]


def _standing(read: FedRead, series: Series, facts: Facts) -> Standing:
    return standing_of(
        read.interval_end,
        series,
        amount=read.value,
        unit=Unit(read.unit),
        quality=read.qualities,
        revision=read.revision,
        reason=read.reason,
        read_at=read.read_at,
        received_at=read.received_at,
        source=read.source,
        is_primary=read.side == "primary",
        facts=facts,
    )


def _event(interval: Interval, last: Standing, now: datetime) -> Event:
    return interval_event(interval, now, is_primary=last.is_primary)


def series_of_eras(series: Series, eras: Sequence[Era]) -> Iterator[tuple[list[Series], int, int]]:
    """Each as the last of its list, behind those before it; with the ends, epoch milliseconds, between which its intervals end: later
    than the first, up to the second."""
    found: list[Series] = []
    for place, era in enumerate(eras):
        following = eras[place + 1].since if place + 1 < len(eras) else EVER
        found.append(replace(series, period_s=era.period_s, since=from_epoch_ms(era.since) if place else None))
        yield found[:], era.since, following


def _clusters(moments: Sequence[int]) -> Iterator[list[int]]:
    cluster: list[int] = []
    for moment in moments:
        if cluster and moment - cluster[-1] > CLUSTER_GAP_MS:
            yield cluster
            cluster = []
        cluster.append(moment)
    yield cluster


def _touched(boundaries: Boundaries, moments: Iterable[datetime]) -> set[datetime]:
    """Ends of the intervals that may say something else since there are reads of these moments."""
    series = boundaries.series
    ends: set[datetime] = set()
    for moment in moments:
        if series.since is not None and moment <= series.since:
            # It may be from where this period goes on: that is told by its first interval, and by the first that has a read.
            ends.add(slot_after(slot_at(series.since, series.period_s, series.zone), series.period_s, series.zone))
            following = boundaries.good_after(series.since)
            if following is not None and following.slot is not None:
                ends.add(following.slot)
        slot = boundary_slot(moment, series.period_s, series.zone)
        here = slot or slot_at(moment, series.period_s, series.zone)
        if slot is None and (head := boundaries.first_good()) is not None and head.boundary.instant < moment:
            continue  # between two boundaries, and not the first: no interval is made of it
        following = boundaries.good_after(here)
        if boundaries.good_before(here if slot is not None else slot_after(here, series.period_s, series.zone)) is None:
            # It may be the first good one: what comes before that is told differently from what is missing later.
            until = EVER if following is None or following.slot is None else epoch_ms(following.slot)
            ends.update(one.slot for one in boundaries.upwards(epoch_ms(here), until) if one.slot is not None)
        ends.add(here)
        ends.add(slot_after(here, series.period_s, series.zone))
        if following is not None and following.slot is not None:
            ends.add(following.slot)
    return ends
