"""From register reads to interval values: differences of aligned reads, and never an invented one.

Good reads form a chain. Where two of them are one period apart, their difference is that interval's amount. Where reads between them
are missing or suspect, the intervals between have no amount, and the one that ends at the later read carries the difference as its
`span`. So amounts and spans together are what the register counted from the first good read to the last, exactly.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from headend.feed.envelope import iso_utc, plain
from headend.intervals.model import (
    Boundary,
    Channel,
    Exchange,
    Facts,
    Interval,
    Mark,
    Part,
    RatioChange,
    Span,
)
from headend.intervals.registers import Kind, Register, movement_max, rolled_over
from headend.model import Quality
from headend.ratios import RatioFact, Ratios
from headend.scheduling.plan import next_slot, slot_at
from protocols.values import Unit

__all__ = [
    "build_intervals",
    "covered_unless_aligned",
    "lacking",
    "ratio_facts",
    "ratio_up_to",
    "revised",
    "slots_of",
    "with_ratio",
]

COVERED_TOLERANCE = timedelta(seconds=60)
NO_FACTS = Facts()
_DOUBTED = frozenset(("suspect-boundary", "backward-step", "unit-changed", "repeated-label"))
PRECISION = 60  # digits: no product of an amount and a ratio is ever rounded


class _Stretch(Struct, frozen=True, kw_only=True):
    """What was counted between two good boundaries. amount: None when that cannot be told, `reason` says why."""

    start: Boundary
    end: Boundary
    amount: Decimal | None
    reason: str
    marks: tuple[Mark, ...]
    evidence: dict[str, str]
    ratio: Decimal | None
    primary: Decimal | None
    parts: tuple[Part, ...]


def build_intervals(
    channel: Channel,
    boundaries: Iterable[Boundary],
    *,
    since: datetime,
    until: datetime,
    facts: Facts = NO_FACTS,
) -> list[Interval]:
    """Every interval of the channel that ends in (since, until], oldest first; none is left out and none comes twice.

    boundaries: the reads of [since, until] in any order, and the last good one before. The highest revision of a moment counts.
    Moments inside an interval serve as the channel's very first and last read only.
    """
    slots = slots_of(channel, since, until)
    newest = _newest(boundaries)
    chain = _chain(newest, frozenset(slots), channel)
    stretches = {stretch.end.instant: stretch for stretch in _stretches(channel, chain, facts)}
    inside = _ending_inside(stretches, slots)
    intervals = []
    for start, end in pairwise(slots):
        stretch = stretches.get(end)
        if stretch is not None and stretch.start.instant == start:
            intervals.append(_whole(channel, start, end, stretch))
        else:
            intervals.append(_broken(channel, start, end, newest, chain, stretch or inside.get(end)))
    return intervals


def revised(previous: Interval | None, fresh: Interval) -> Interval | None:
    """What to publish now that `previous` has been: None when nothing changed, else `fresh` with the next revision."""
    if previous is None:
        return fresh
    if replace(fresh, revision=previous.revision) == previous:
        return None
    return replace(fresh, revision=previous.revision + 1)


def ratio_facts(
    facts: Iterable[RatioFact], meter: str, unit: Unit, amounts: Mapping[datetime, Decimal] | None = None
) -> tuple[Decimal | None, tuple[RatioChange, ...]]:
    """`ratio` and `ratio_changes` of Facts. amounts: what this channel's register showed at a change, as far as it was read."""
    own = sorted((fact for fact in facts if fact.meter == meter), key=lambda fact: fact.start)
    ratios = Ratios(own)
    changes = []
    for fact in own:
        before = ratios.factor(meter, unit, fact.start)
        after = ratios.factor(meter, unit, fact.start + timedelta(microseconds=1))
        if before != after:
            amount = (amounts or {}).get(fact.start)
            changes.append(RatioChange(at=fact.start, before=before, after=after, amount=amount))
    return (None, ()) if not changes else (changes[0].before, tuple(changes))


def slots_of(channel: Channel, since: datetime, until: datetime) -> list[datetime]:
    """Boundaries from the last one at or before `since` to the last one at or before `until`."""
    slot = slot_at(since, channel.period_s, channel.zone)
    slots = [slot]
    while (slot := next_slot(slot, channel.period_s, channel.zone)) <= until:
        slots.append(slot)
    return slots


# ------------------------------------------------------------------------------------------------ the chain of good reads


def _newest(boundaries: Iterable[Boundary]) -> dict[datetime, Boundary]:
    newest: dict[datetime, Boundary] = {}
    for boundary in boundaries:
        known = newest.get(boundary.instant)
        if known is None or boundary.revision > known.revision:
            newest[boundary.instant] = boundary
    return newest


def _chain(newest: Mapping[datetime, Boundary], slots: frozenset[datetime], channel: Channel) -> list[Boundary]:
    good = sorted((one for one in newest.values() if one.is_good), key=lambda one: one.instant)
    aligned = [one for one in good if one.instant in slots or _is_slot(one.instant, channel)]
    if not aligned:
        return good if len(good) < 2 else [good[0], good[-1]]
    before = [one for one in good if one.instant < aligned[0].instant][:1]
    after = [one for one in good if one.instant > aligned[-1].instant][-1:]
    return before + aligned + after


def _is_slot(instant: datetime, channel: Channel) -> bool:
    return slot_at(instant, channel.period_s, channel.zone) == instant


def _stretches(channel: Channel, chain: Sequence[Boundary], facts: Facts) -> Iterable[_Stretch]:
    """Each exchange is used once, by the first stretch whose end was captured at or after it."""
    exchanges = list(facts.exchanges)
    register = channel.register
    while chain and exchanges and exchanges[0].at <= chain[0].moment:
        register = exchanges.pop(0).register or register
    for start, end in pairwise(chain):
        own = []
        while exchanges and exchanges[0].at <= end.moment:
            own.append(exchanges.pop(0))
        yield _stretch(channel, register, start, end, own, facts)
        for exchange in own:
            register = exchange.register or register


class _Walk:
    """Adds up what a register counted, piece by piece, under the ratio that held for each."""

    def __init__(self, register: Register, start: Boundary, ratio: Decimal | None, *, is_primary: bool) -> None:
        assert start.amount is not None
        self.register = register
        self.at = start.amount
        self.since = start.instant
        self.ratio = ratio
        self.is_primary = is_primary
        self.total = Decimal(0)
        self.primary: Decimal | None = Decimal(0)
        self.parts: list[Part] = []
        self.part = Decimal(0)
        self.has_rolled_over = False

    def to(self, amount: Decimal, most: Decimal | None) -> bool:
        """Up to a register value; False when it cannot get there."""
        counted = amount - self.at
        if counted < 0 and self.register.kind is not Kind.BALANCE:
            rolled = rolled_over(self.at, amount, self.register, most)
            if rolled is None:
                return False
            counted, self.has_rolled_over = rolled, True
        self.at = amount
        self.total += counted
        self.part += counted
        if self.primary is not None:
            factor = Decimal(1) if self.is_primary else self.ratio
            self.primary = None if factor is None else self.primary + counted * factor
        return True

    def end_part(self, at: datetime) -> None:
        if self.ratio is not None:
            self.parts.append(Part(start=self.since, end=at, amount=self.part, ratio=self.ratio))
        self.since, self.part = at, Decimal(0)


def _stretch(
    channel: Channel,
    register: Register,
    start: Boundary,
    end: Boundary,
    exchanges: Sequence[Exchange],
    facts: Facts,
) -> _Stretch:
    changes = [change for change in facts.ratio_changes if start.instant < change.at < end.instant]
    marks, evidence = _marks(start, end, exchanges, changes, facts)
    ratio = ratio_up_to(start.instant + timedelta(microseconds=1), facts)
    reason = ""
    walk = _Walk(register, start, ratio, is_primary=channel.is_primary)
    if start.unit is not end.unit or end.unit is not channel.unit:
        reason, evidence["units"] = (
            "unit-changed",
            f"{start.unit.value}, {end.unit.value}; {channel.unit.value} expected",
        )
    else:
        with localcontext() as context:
            context.prec = PRECISION
            most = movement_max(register, (end.moment - start.moment).total_seconds())
            reason = _walk_events(walk, end, exchanges, changes, most)
    if walk.has_rolled_over:
        marks = (Mark.ROLLED_OVER, *marks)
        evidence["modulus"] = str(walk.register.modulus)
    if reason:
        evidence |= {
            "from": f"{start.amount} at {iso_utc(start.instant)}",
            "to": f"{end.amount} at {iso_utc(end.instant)}",
        }
    is_split = bool(changes) and all(change.amount is not None for change in changes)
    return _Stretch(
        start=start,
        end=end,
        amount=None if reason else walk.total,
        reason=reason,
        marks=marks,
        evidence=evidence,
        ratio=None if changes else ratio,
        primary=None if reason or (changes and not is_split and not channel.is_primary) else walk.primary,
        parts=tuple(walk.parts) if is_split and not reason else (),
    )


def _walk_events(
    walk: _Walk, end: Boundary, exchanges: Sequence[Exchange], changes: Sequence[RatioChange], most: Decimal | None
) -> str:
    """Through exchanges and ratio changes to the end, in order of time; the reason when it cannot be done."""
    events: list[Exchange | RatioChange] = sorted([*exchanges, *changes], key=lambda event: event.at)
    for event in events:
        if isinstance(event, Exchange):
            if event.final is None or event.first is None:
                return "exchange-without-readings"
            if not walk.to(event.final, most):
                return "backward-step"
            walk.at, walk.register = event.first, event.register or walk.register
        elif event.amount is not None:
            if not walk.to(event.amount, most):
                return "backward-step"
            walk.end_part(event.at)
            walk.ratio = event.after
        else:
            walk.ratio = event.after
    assert end.amount is not None
    if not walk.to(end.amount, most):
        return "backward-step"
    walk.end_part(end.instant)
    return ""


def _marks(
    start: Boundary, end: Boundary, exchanges: Sequence[Exchange], changes: Sequence[RatioChange], facts: Facts
) -> tuple[tuple[Mark, ...], dict[str, str]]:
    marks: list[Mark] = []
    evidence: dict[str, str] = {}
    if exchanges:
        marks.append(Mark.METER_EXCHANGED)
        evidence["exchanged"] = "; ".join(
            f"{iso_utc(one.at)} final {_text(one.final)} first {_text(one.first)}" for one in exchanges
        )
    corrections = [one.at for one in facts.corrections if start.instant < one.at <= end.instant]
    if corrections and (start.by_meter_clock or end.by_meter_clock):
        marks.append(Mark.CLOCK_CORRECTED)
        evidence["clock_corrected"] = "; ".join(map(iso_utc, corrections))
    if changes:
        marks.append(Mark.RATIO_CHANGED)
        evidence["ratio_changed"] = "; ".join(
            f"{iso_utc(one.at)} from {_text(one.before)} to {_text(one.after)} at {_text(one.amount)}"
            for one in changes
        )
    return tuple(marks), evidence


def ratio_up_to(at: datetime, facts: Facts) -> Decimal | None:
    """What holds for an interval that ends at `at`: a change at its end is the next one's."""
    ratio = facts.ratio
    for change in facts.ratio_changes:
        if change.at < at:
            ratio = change.after
    return ratio


def _text(amount: Decimal | None) -> str:
    return "unknown" if amount is None else plain(amount)


# ------------------------------------------------------------------------------------------------ intervals


def _ending_inside(stretches: Mapping[datetime, _Stretch], slots: Sequence[datetime]) -> dict[datetime, _Stretch]:
    """Stretches that end between two slots, by the end of that interval: a channel's last read."""
    inside = {}
    for instant, stretch in stretches.items():
        place = bisect_right(slots, instant)
        if 0 < place < len(slots) and slots[place - 1] != instant:
            inside[slots[place]] = stretch
    return inside


def _whole(channel: Channel, start: datetime, end: datetime, stretch: _Stretch) -> Interval:
    known = stretch.amount is not None
    return Interval(
        meter=channel.meter,
        obis=channel.obis,
        start=start,
        end=end,
        period_s=channel.period_s,
        amount=stretch.amount,
        unit=channel.unit,
        quality=_quality(stretch.start, stretch.end) if known else lacking(stretch.reason),
        source=channel.source,
        marks=stretch.marks,
        reason=stretch.reason,
        evidence=stretch.evidence,
        covered=covered_unless_aligned(stretch.start.moment, stretch.end.moment, start, end, stretch.marks),
        ratio=stretch.ratio,
        primary=stretch.primary,
        parts=stretch.parts,
    )


def _broken(
    channel: Channel,
    start: datetime,
    end: datetime,
    newest: Mapping[datetime, Boundary],
    chain: Sequence[Boundary],
    stretch: _Stretch | None,
) -> Interval:
    """An interval without its two good reads. stretch: that ends in it."""
    edges = (newest.get(start), newest.get(end))
    suspect = any(edge is not None and edge.amount is not None and not edge.is_good for edge in edges)
    evidence = {name: _told(edge) for name, edge in zip(("start", "end"), edges, strict=True)}
    if suspect:
        reason = "suspect-boundary"
    elif not chain or end <= chain[0].instant:
        reason = "before-first-read"
    elif start < chain[0].instant or start < chain[-1].instant < end:
        reason = "partial"
    else:
        reason = "missing-boundary"
    span = None
    if stretch is not None and stretch.amount is not None:
        span = Span(
            start=stretch.start.instant,
            end=stretch.end.instant,
            amount=stretch.amount,
            marks=stretch.marks,
            ratio=stretch.ratio,
            primary=stretch.primary,
        )
    if stretch is not None:
        evidence |= stretch.evidence
        reason = reason if stretch.amount is not None or suspect else stretch.reason
    return Interval(
        meter=channel.meter,
        obis=channel.obis,
        start=start,
        end=end,
        period_s=channel.period_s,
        amount=None,
        unit=channel.unit,
        quality=lacking(reason),
        source=channel.source,
        reason=reason,
        evidence=evidence,
        span=span,
    )


def _told(edge: Boundary | None) -> str:
    if edge is None:
        return "no read"
    if edge.amount is None:
        return edge.reason or "missing"
    return plain(edge.amount) if edge.is_good else f"{plain(edge.amount)} suspect"


def _quality(start: Boundary, end: Boundary) -> tuple[Quality, ...]:
    both = {*start.quality, *end.quality}
    return tuple(one for one in Quality if one in both)


def lacking(reason: str) -> tuple[Quality, ...]:
    """Quality of an interval without an amount: whether there is something to doubt, or nothing at all."""
    return (Quality.SUSPECT,) if reason in _DOUBTED else (Quality.MISSING,)


def covered_unless_aligned(
    since: datetime, until: datetime, start: datetime, end: datetime, marks: Sequence[Mark]
) -> tuple[datetime, datetime] | None:
    """What was really covered, where that is not what the interval says: more than a minute off, or a clock was set inside."""
    is_off = max(abs(since - start), abs(until - end)) > COVERED_TOLERANCE
    return (since, until) if is_off or Mark.CLOCK_CORRECTED in marks else None


def with_ratio(amount: Decimal, ratio: Decimal | None, *, is_primary: bool) -> Decimal | None:
    """What flowed in the customer's line; None where no ratio is known."""
    if is_primary:
        return amount
    if ratio is None:
        return None
    with localcontext() as context:
        context.prec = PRECISION
        return amount * ratio
