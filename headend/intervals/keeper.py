"""The task that follows the feed's reads and publishes the intervals that they make.

Each step is one transaction: the intervals' events, the cursor behind the reads they rest on, and the few numbers that are remembered
of corrections. So a crash loses none and tells none twice. Nothing waits for the keeper, and it holds nobody up: it looks at reads
when they are durable, some hundred at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from math import inf
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection

from headend.clock import Clock
from headend.errors import StoreUnavailable
from headend.feed.envelope import iso_utc
from headend.feed.live import FeedSignal
from headend.intervals.build import COVERED_TOLERANCE
from headend.intervals.known_facts import CLOCK, RATIO, KnownFacts, effective_ratios
from headend.intervals.teller import PeriodOf, RegisterOf, Step, Teller
from headend.model import Event, MeterClock
from headend.ratios import RatioFact
from headend.store.intervals import FactRow, IntervalBook, add_fact, fact_of_key
from headend.store.rows import epoch_ms
from headend.store.writer import Execute, Writer

__all__ = ["IntervalKeeper"]

EVENTS_MAX = 2000  # looked at in one step
IDLE_MAX = 10_000  # events without any interval, until the cursor is moved for their sake alone
LOOK_S = 60.0  # between two looks at clocks, and at a feed that nobody said anything about
GATHER_S = 1.0  # what is committed meanwhile is told in one transaction
AGAIN_S = 5.0  # after the store has failed
FACTS_AT_ONCE = 500

log = structlog.get_logger(__name__)


class IntervalKeeper:
    """One per head-end. execute: where the steps run; better not the writer's thread, which they would hold up.

    register_of, period_of: what the configuration says; from several threads. ratios: of the configuration. clocks: as they are known
    now, by meter. signal: rings when the feed grows; None: looked at every minute only.
    """

    def __init__(
        self,
        book: IntervalBook,
        writer: Writer,
        *,
        zone: ZoneInfo,
        register_of: RegisterOf,
        period_of: PeriodOf,
        ratios: Iterable[RatioFact],
        clocks: Callable[[], Mapping[str, MeterClock]],
        clock: Clock,
        execute: Execute,
        signal: FeedSignal | None = None,
        gather_s: float = GATHER_S,
    ) -> None:
        self._book = book
        self._writer = writer
        self._ratios = list(ratios)
        self._period_of = period_of
        self._clocks = clocks
        self._clock = clock
        self._execute = execute
        self._signal = signal
        self._gather_s = gather_s
        self._teller = Teller(book, KnownFacts(), zone=zone, register_of=register_of, period_of=period_of)
        self._bell = asyncio.Event()
        self._is_stopping = False
        self._cursor = 0  # durable
        self._position = 0  # looked at
        self._has_begun = False
        self._is_facts_turn = False
        self._first_meter = ""  # whose facts must be through before the next reads can be told
        self._known_clocks: dict[str, datetime | None] = {}
        self._trouble = ""
        self.told = 0
        self.revised = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """For /healthz."""
        return (f"intervals are not told: {self._trouble}",) if self._trouble else ()

    @property
    def needed(self) -> int:
        """The first event that must stay in the feed for its sake."""
        return self._cursor + 1

    def stop(self) -> None:
        """End after the step in hand."""
        self._is_stopping = True
        self._bell.set()

    async def run(self) -> None:
        if self._signal is None:
            await self._follow()
            return
        with self._signal.subscribe() as place:
            self._bell = place.bell
            await self._follow()

    async def _follow(self) -> None:
        clocks_at = -inf  # of a large fleet there is too much to look through at every commit
        while not self._is_stopping:
            self._bell.clear()
            now = self._clock.monotonic()
            try:
                await self.catch_up(are_clocks_due=now >= clocks_at)
                self._trouble = ""
                clocks_at = now + LOOK_S if now >= clocks_at else clocks_at
                await self._pause(LOOK_S)
                if not self._is_stopping:
                    await asyncio.sleep(self._gather_s)
            except StoreUnavailable as error:
                self._trouble = str(error)
                self._has_begun = False
                log.warning("intervals are not told", problem=str(error))
                await self._pause(AGAIN_S)

    async def _pause(self, timeout_s: float) -> None:
        if self._is_stopping:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._bell.wait()
        except TimeoutError:
            return

    async def catch_up(self, *, are_clocks_due: bool = True) -> None:
        """Tell all there is to tell."""
        if not self._has_begun:
            await self.begin()
        if are_clocks_due:
            await self._note_clocks()
        while not self._is_stopping and await self.step():
            pass

    async def begin(self) -> None:
        """Find out how far intervals are told. What the configuration says of ratios now is a fact like any other."""
        cursor = await self._execute(self._book.cursor)
        self._cursor = self._position = cursor or 0
        await self._execute(self._teller.forget)
        facts = await self._execute(
            lambda: changed_ratios(self._book.facts(), self._ratios, self._period_of, self._now())
        )
        await self._note(facts)
        self._has_begun = True
        log.info("intervals are told", after=self._cursor, facts=len(facts))

    async def step(self) -> bool:
        """One transaction, or a look at some events; False when there was nothing to do.

        Facts and reads take turns: a ratio that is told a year late is some minutes of work per meter, and nobody's live intervals
        wait for it.
        """
        now = self._now()
        new = await self._execute(lambda: self._book.facts_after(self._teller.facts.newest))
        self._teller.facts.learn(new)
        pending = self._teller.facts.pending()
        if self._first_meter:
            pending = [fact for fact in pending if fact.meter == self._first_meter] or pending
            if not self._teller.facts.are_pending(self._first_meter):
                self._first_meter = ""
        self._is_facts_turn = not self._is_facts_turn or bool(self._first_meter)
        if pending and self._is_facts_turn:
            cursor = self._cursor
            await self._keep(await self._execute(lambda: self._teller.take_in(pending, cursor, now)))
            return True
        after = self._position
        first, events = await self._execute(lambda: self._book.events_after(after, EVENTS_MAX))
        if not events:
            return bool(pending)
        if first > after + 1 and after:
            log.warning("events were pruned before their intervals were told", first=after + 1, last=first - 1)
        step = await self._execute(lambda: self._teller.portion(after, first, events, now))
        if step.waits_for:
            self._first_meter, self._position = step.waits_for, self._cursor
            return True
        last = first + len(events) - 1
        if step.items or not step.changes.is_empty or last - self._cursor >= IDLE_MAX:
            step.changes.cursor = (self._cursor, last)
            await self._keep(step)
            self._cursor = last
        self._position = last
        return True

    async def _keep(self, step: Step) -> None:
        def work(connection: Connection) -> tuple[None, list[Event]]:
            self._book.write(connection, step.changes)
            return None, step.items

        try:
            await self._writer.transact(work, "storing intervals")
        except BaseException:
            self._has_begun = False  # nobody knows whether it was stored: looked up before the next step
            raise
        self.told += len(step.items)
        self.revised += len(step.changes.revisions)

    # -------------------------------------------------------------------------------------------- facts

    async def _note_clocks(self) -> None:
        """Clocks that were set since we looked last."""
        found = await self._execute(self._clocks)
        facts = []
        changed: dict[str, datetime | None] = {}
        for meter, clock in found.items():
            if clock.corrected_at is None or self._known_clocks.get(meter) == clock.corrected_at:
                continue
            changed[meter] = clock.corrected_at
            if abs(clock.offset_before_s) > COVERED_TOLERANCE.total_seconds():
                facts.append(_clock_fact(meter, clock, clock.corrected_at, self._now()))
        await self._note(facts)
        self._known_clocks |= (
            changed  # not before it is durable: the clock's own row forgets it with the next correction
        )

    async def _note(self, facts: list[FactRow]) -> None:
        for start in range(0, len(facts), FACTS_AT_ONCE):
            some = facts[start : start + FACTS_AT_ONCE]

            def work(connection: Connection, some: list[FactRow] = some) -> tuple[None, list[Event]]:
                for fact in some:
                    if fact_of_key(connection, fact.key) is None:
                        add_fact(connection, fact)
                return None, []

            await self._writer.transact(work, "recording facts about meters")

    def _now(self) -> datetime:
        return self._clock.now()


def changed_ratios(
    known: list[FactRow], wanted: Iterable[RatioFact], period_of: PeriodOf, now: datetime
) -> list[FactRow]:
    """Facts that make what is known of ratios what is wanted; of meters that are not configured nothing changes."""
    stored = {(one.meter, one.start): one for one in effective_ratios(known)}
    now_is = {(one.meter, one.start): one for one in wanted}
    facts: list[FactRow] = []
    number = sum(1 for one in known if one.kind == RATIO)
    for place in sorted(stored.keys() | now_is.keys()):
        new = now_is.get(place)
        if stored.get(place) == new or period_of(place[0]) is None:
            continue
        body: dict[str, Any] = {} if new is None else {"ct": str(new.ct), "pt": str(new.pt)}
        key = f"ratio:{place[0]}:{iso_utc(place[1])}:{number + len(facts)}"
        facts.append(_fact(key, RATIO, place[0], place[1], body, now))
    return facts


def _clock_fact(meter: str, clock: MeterClock, at: datetime, now: datetime) -> FactRow:
    return _fact(
        f"clock:{meter}:{epoch_ms(at)}", CLOCK, meter, at, {"before_s": str(round(clock.offset_before_s, 3))}, now
    )


def _fact(key: str, kind: str, meter: str, at: datetime, body: dict[str, Any], now: datetime) -> FactRow:
    return FactRow(id=0, key=key, kind=kind, meter=meter, at=at, body=body, recorded_at=now)
