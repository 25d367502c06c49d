"""What became of each meter's intervals of one day: its states, and stretches of what is missing. Pure.

The day's interval ends are those after its first midnight, up to and with the midnight that ends it. An interval is expected
when a duty owed it, or when a read for it is in the store: somebody tried.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.intervals.days import local_day
from headend.ledger.duty import CONCENTRATOR, Duty, overlapping
from headend.ledger.states import COLLECTED, NOT_SENT, UNRECORDED, State, state_of
from headend.scheduling.gaps import slots_between
from headend.store.rows import epoch_ms, from_epoch_ms

__all__ = ["ChannelRow", "MeterAccount", "MissingRun", "Window", "count_channel", "count_unseen"]

RUNS_MAX = 50  # stretches told per meter and day; a meter of every other interval would fill the feed with them

# slot, revision, quality bits, reason, sequence; of one channel, by slot and revision
ChannelRow = tuple[int, int, int, str, int]

_RANK = {state: rank for rank, state in enumerate(State)}


class MissingRun(Struct, frozen=True, kw_only=True):
    """Intervals of one quantity, one after the other, that share why they are not collected. first, last: epoch milliseconds."""

    obis: str
    state: State
    reason: str
    first: int
    last: int
    count: int


class MeterAccount:
    """events: of the day's reads in the feed, all revisions. left_off: intervals missing whose stretch is not told."""

    __slots__ = ("events", "left_off", "line", "meter", "reasons", "route", "runs", "seen", "states")

    def __init__(self, meter: str, line: str, route: str) -> None:
        self.meter = meter
        self.line = line
        self.route = route
        self.events = 0
        self.states: dict[State, int] = {}
        self.reasons: dict[str, int] = {}
        self.runs: list[MissingRun] = []
        self.left_off = 0
        self.seen: set[str] = set()

    @property
    def expected(self) -> int:
        return sum(self.states.values())

    def add(self, obis: str, ended: Sequence[tuple[int, State, str]]) -> None:
        """Intervals of a channel in their order: slot, state, reason."""
        states, reasons = self.states, self.reasons
        run: tuple[State, str] | None = None
        first = last = count = 0
        for slot, state, reason in ended:
            states[state] = states.get(state, 0) + 1
            if state in COLLECTED:
                if run is not None:
                    self._end_run(obis, run, first, last, count)
                    run = None
                continue
            reasons[reason] = reasons.get(reason, 0) + 1
            if run != (state, reason):
                if run is not None:
                    self._end_run(obis, run, first, last, count)
                run, first, count = (state, reason), slot, 0
            last, count = slot, count + 1
        if run is not None:
            self._end_run(obis, run, first, last, count)

    def _end_run(self, obis: str, run: tuple[State, str], first: int, last: int, count: int) -> None:
        if len(self.runs) >= RUNS_MAX:
            self.left_off += count
            return
        state, reason = run
        self.runs.append(MissingRun(obis=obis, state=state, reason=reason, first=first, last=last, count=count))


class Window:
    """One local day as `now` sees it. low, high: epoch milliseconds, interval ends with low < end <= high.

    Of a day that is not over, intervals whose round may still be under way are nobody's yet.
    """

    def __init__(self, day: date, zone: ZoneInfo, now: datetime) -> None:
        self.day = day
        self.zone = zone
        start, end = local_day(day, zone)
        self.start, self.end = start, end
        self.low, self.high = epoch_ms(start), epoch_ms(end)
        self.now = epoch_ms(now)
        self.until = min(self.high, self.now)
        self._slots: dict[int, list[int]] = {}

    @property
    def is_complete(self) -> bool:
        return self.until == self.high

    def duties(self, duties: Iterable[Duty]) -> dict[str, list[Duty]]:
        """By meter, those of this day."""
        found: dict[str, list[Duty]] = {}
        for duty in overlapping(duties, self.low, self.high):
            found.setdefault(duty.meter, []).append(duty)
        return found

    def slots(self, period_s: int) -> list[int]:
        """All interval ends of the day."""
        known = self._slots.get(period_s)
        if known is None:
            ends = slots_between(self.start, from_epoch_ms(self.high + 1), period_s, self.zone)
            known = self._slots[period_s] = [slot for slot in map(epoch_ms, ends) if self.low < slot <= self.high]
        return known

    def owed(self, duty: Duty) -> Sequence[int]:
        """Interval ends of the day that the duty owes; of a day that is not over, only those whose time has passed."""
        slots = self.slots(duty.period_s)
        until = self.until if self.is_complete else self.until - duty.period_s * 1000
        if duty.until is not None:
            until = min(until, duty.until)
        if duty.since <= self.low and until >= self.high:
            return slots
        return slots[bisect_left(slots, duty.since + 1) : bisect_left(slots, until + 1)]

    def is_over(self, slot: int, duty: Duty) -> bool:
        """Whether back-filling no longer looks at this interval end."""
        return duty.back_fill_s == 0 or self.now > slot + (duty.back_fill_s + duty.period_s) * 1000


def count_channel(
    account: MeterAccount, obis: str, rows: Sequence[ChannelRow], duties: Sequence[Duty], window: Window
) -> None:
    """Enter one channel of the meter. duties: the meter's of this day, oldest first. rows: may be empty."""
    account.seen.add(obis)
    account.events += len(rows)
    concerned = [duty for duty in duties if obis in duty.quantities]
    if any(duty.route == CONCENTRATOR for duty in concerned):
        account.add(obis, _pushed(rows, concerned, window))
    else:
        account.add(obis, _polled(rows, concerned, window))


def count_unseen(account: MeterAccount, duties: Sequence[Duty], window: Window) -> None:
    """Enter the quantities that are owed and have no channel or no row. To be called after the others."""
    for duty in duties:
        for obis in duty.quantities:
            if obis not in account.seen:
                count_channel(account, obis, (), duties, window)


def _polled(rows: Sequence[ChannelRow], duties: Sequence[Duty], window: Window) -> list[tuple[int, State, str]]:
    newest = {row[0]: row for row in rows}  # by revision, so the last one stays
    duty_at = {slot: duty for duty in duties for slot in window.owed(duty)}
    latest = duties[-1] if duties else None  # for what was read though nobody owed it
    ended = []
    is_all = newest.keys() <= duty_at.keys() or not window.is_complete
    for slot in duty_at if is_all else sorted({*duty_at, *newest}):
        duty_here = duty_at.get(slot, latest)
        row = newest.get(slot)
        is_over = duty_here is None or window.is_over(slot, duty_here)
        if row is None:
            ended.append((slot, State.IRRECOVERABLE if is_over else State.OPEN, UNRECORDED))
        else:
            ended.append((slot, state_of(row[2], row[3], is_over=is_over), row[3] or _doubt(row[2])))
    return ended


def _pushed(rows: Sequence[ChannelRow], duties: Sequence[Duty], window: Window) -> list[tuple[int, State, str]]:
    """An interval has the best of what was taken in it; what was taken outside of all owed intervals is nobody's."""
    newest = {row[0]: row for row in rows}
    ended = []
    for duty in duties:
        slots = window.slots(duty.period_s)
        inside: dict[int, tuple[State, str]] = {}
        for slot, row in newest.items():
            place = bisect_left(slots, slot)
            if place == len(slots):
                continue
            end = slots[place]
            found = (state_of(row[2], row[3], is_over=window.is_over(end, duty)), row[3] or _doubt(row[2]))
            best = inside.get(end)
            if best is None or _RANK[found[0]] < _RANK[best[0]]:
                inside[end] = found
        for end in window.owed(duty):
            absent = (State.METER_UNREACHABLE if window.is_over(end, duty) else State.OPEN, NOT_SENT)
            ended.append((end, *inside.get(end, absent)))
    return ended


def _doubt(quality: int) -> str:
    return "" if state_of(quality, "", is_over=True) in COLLECTED else State.SUSPECT.value
