"""The loop that reads the meters of one line, each at its interval ends.

A round is one plan's slot on this line: its meters, in order, until all are read, or the slot can no longer be read for. Among
open rounds the one that ends first goes first, so a daily plan never delays a 15-minute one by more than one meter. What is
still unread when its round ends becomes a read with quality `missing` and the reason, so that billing never has to guess; so do
the slots that passed while the head-end was not running.

Bad meters cost little. The first silent quantity ends a meter's turn; it goes to the back of its round and, in later rounds,
behind the meters that answer; how often it is asked again is bounded by its breaker and by the line's purse (`breaker`).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.drivers.errors import DriverError, LineDown, NoAnswer, SilentBehind
from headend.drivers.line import Line, Priority
from headend.drivers.reading import Question, Reader, Reading, Register
from headend.intervals.guard import Guard, Judgement
from headend.model import Item, MeterRecord, Read
from headend.scheduling.breaker import Breaker, Purse
from headend.scheduling.plan import next_slot, slot_at
from headend.scheduling.polled_reads import feed_reason, missing_read, reads_of
from headend.scheduling.spare_time import Worker
from headend.store.writer import Writer

__all__ = ["MeterStatus", "PlannedMeter", "Poller"]

ACCEPT_MAX = timedelta(
    hours=4
)  # a register read later than this is no reading of its interval end, whatever the period
LATE_MAX = timedelta(hours=1)
MISSED_MAX = timedelta(
    days=3
)  # slots that passed while we were down are named so far back; older ones are a gap in the feed
PORTION = 200  # missing reads put between two looks at the line

log = structlog.get_logger(__name__)


class PlannedMeter(Struct, frozen=True, gc=False):
    """A meter and what its plan asks of it. questions are shared by all meters of one contract and plan."""

    record: MeterRecord
    questions: tuple[Question, ...]

    @property
    def registers(self) -> Iterator[Register]:
        for question in self.questions:
            yield from question.registers


class MeterStatus(Struct, gc=False):
    """How a meter is doing. problem: the kind of its present trouble, "" when its last read succeeded."""

    last_read_at: datetime | None = None
    problem: str = ""
    failing_since: datetime | None = None
    breaker: Breaker | None = None

    def heard(self, now: datetime) -> None:
        self.last_read_at, self.problem, self.failing_since, self.breaker = now, "", None, None


class _Turn(Struct):
    """A meter waiting in a round. left: questions not yet settled. began_at, not_before: monotonic seconds.

    heard: what it said in this try, to be judged together.
    """

    meter: PlannedMeter
    left: tuple[Question, ...]
    tries: int = 0
    began_at: float | None = None
    not_before: float = 0.0
    reason: str = ""
    heard: list[Read] = []


class _Round(Struct, kw_only=True):
    """ends: until when a read counts for `slot`. unread: what to say of a quantity whose turn did not come."""

    slot: datetime
    next_slot: datetime
    ends: datetime
    late_after: datetime
    turns: deque[_Turn]
    unread: str


class _Group(Struct, kw_only=True):
    """One plan on this line."""

    period_s: int
    meters: list[PlannedMeter]
    round: _Round | None = None


class Poller:
    """Reads one line's meters by their plans until `stop`. Owns no I/O of its own.

    driver: one that does not retry; when to try again is decided here.
    tries_max: per meter and slot. in_flight: meters asked at once; more than one where the line's session takes several requests.
    stored_at: (meter, obis) of the reads that the store has for a slot; asked at the start and after a clock was set back.
    newest: the newest slot that the store has of a channel. guard: looks at every read before it is published.
    """

    def __init__(
        self,
        line: Line,
        driver: Reader,
        *,
        zone: ZoneInfo,
        clock: Clock,
        writer: Writer,
        status: dict[str, MeterStatus],
        stored_at: Callable[[datetime], Collection[tuple[str, str]]],
        newest: Callable[[str, str], datetime | None],
        guard: Guard,
        tries_max: int = 3,
        in_flight: int = 1,
    ) -> None:
        self._line = line
        self._driver = driver
        self._zone = zone
        self._clock = clock
        self._writer = writer
        self._status = status
        self._stored_at = stored_at
        self._newest = newest
        self._guard = guard
        self._tries_max = tries_max
        self._in_flight = in_flight
        self._groups: list[_Group] = []
        self._purse = Purse(clock.monotonic())
        self._missed: Iterator[Read] = iter(())
        self._has_missed = False
        self._stopping = asyncio.Event()
        self._spare: Worker | None = None

    def give_spare_time_to(self, worker: Worker) -> None:
        """Who may use the line while no live read is due; without one it rests."""
        self._spare = worker

    def add_plan(self, *, period_s: int, meters: Iterable[PlannedMeter]) -> None:
        self._groups.append(_Group(period_s=period_s, meters=list(meters)))

    def stop(self) -> None:
        """End after the read in flight. Meters whose turn has not come are not recorded: a restart within the slot reads them."""
        self._stopping.set()

    @property
    def dead_time_s(self) -> float:
        """Line time that brought no reply, since the start."""
        return self._purse.spent_s

    async def run(self) -> None:
        self._name_missed(self._missed_before_start(self._clock.now()))
        while not self._stopping.is_set():
            now = self._clock.now()
            for group in self._groups:
                await self._keep_round(group, now)
            await self._writer.room()
            turn_round = self._pick()
            if turn_round is not None and self._line.is_up:
                await self._serve_several(turn_round)
            elif self._has_missed:
                self._put_missed()
            elif turn_round is None and await self._use_spare_time(now):
                continue
            else:
                line_up = () if turn_round is None else (self._line.wait_up(),)
                await _first(self._wait_s(now), self._stopping.wait(), *line_up)

    async def _use_spare_time(self, now: datetime) -> bool:
        """False when nobody had anything to do that ends before the line is needed."""
        if self._spare is None or not self._line.is_up:
            return False
        return await self._spare.work(now + timedelta(seconds=self._free_s(now)))

    # -------------------------------------------------------------------------------------------- rounds

    async def _keep_round(self, group: _Group, now: datetime) -> None:
        round_ = group.round
        check_store = round_ is None
        if round_ is not None:
            if round_.slot <= now < round_.ends:
                return
            if now >= round_.ends and round_.turns:
                await self._close(round_)
            if round_.slot <= now < round_.next_slot:
                return
            if now < round_.slot:
                if round_.slot - now < timedelta(seconds=group.period_s):
                    return  # a correction; the slot comes again in a moment, and is never read twice
                log.warning(
                    "wall clock was set back", line=self._line.name, now=now.isoformat(), slot=round_.slot.isoformat()
                )
                check_store = True
            elif (skipped := round_.next_slot) < slot_at(now, group.period_s, self._zone):
                self._name_missed(self._missed_slots(group, skipped, now))
        group.round = self._open_round(group, now, check_store=check_store)

    def _open_round(self, group: _Group, now: datetime, *, check_store: bool) -> _Round:
        slot = slot_at(now, group.period_s, self._zone)
        following = next_slot(slot, group.period_s, self._zone)
        stored = self._stored_at(slot) if check_store else ()
        # The slot in which the head-end starts has begun without it: what does not fit into the rest is not the plan's fault.
        return _Round(
            slot=slot,
            next_slot=following,
            ends=min(following, slot + ACCEPT_MAX),
            late_after=slot + min(timedelta(seconds=group.period_s / 3), LATE_MAX),
            turns=deque(self._turns(group, stored)),
            unread="stopped" if check_store and slot < now else "overrun",
        )

    def _turns(self, group: _Group, stored: Collection[tuple[str, str]]) -> Iterable[_Turn]:
        """Meters that answer go first: what the others cost, the others wait for."""
        for is_failing in (False, True):
            for meter in group.meters:
                if (self._status[meter.record.id].problem != "") is is_failing:
                    left = tuple(
                        question
                        for question in meter.questions
                        if any((meter.record.id, register.name) not in stored for register in question.registers)
                    )
                    if left:
                        yield _Turn(meter, left)

    async def _close(self, round_: _Round) -> None:
        unread = round_.unread if self._line.is_up else "line-down"
        for count, turn in enumerate(round_.turns):
            if count % PORTION == 0:
                await self._writer.room()
            self._record_missing(round_, turn, turn.reason or self._status[turn.meter.record.id].problem or unread)
        round_.turns.clear()

    def _pick(self) -> _Round | None:
        now = self._clock.monotonic()
        best: _Round | None = None
        for group in self._groups:
            round_ = group.round
            if round_ is None or not round_.turns or (best is not None and round_.ends >= best.ends):
                continue
            if any(self._may_ask(turn, now) for turn in round_.turns):
                best = round_
        return best

    def _may_ask(self, turn: _Turn, now: float) -> bool:
        if turn.not_before > now:
            return False
        breaker = self._status[turn.meter.record.id].breaker
        return breaker is None or (breaker.allows(now) and self._purse.covers(self._price_s, now))

    @property
    def _price_s(self) -> float:
        """What an asking costs that brings no reply."""
        timing = self._line.timing
        return timing.reply_timeout_s + timing.quiet_s + timing.wire_time_s(20)

    def _wait_s(self, now: datetime) -> float:
        """How long to sleep. A wall clock that is stepped is noticed within a minute."""
        return max(min(60.0, self._free_s(now)), 0.001)

    def _free_s(self, now: datetime) -> float:
        """Until something becomes due."""
        waits = [86400.0]
        monotonic = self._clock.monotonic()
        for group in self._groups:
            if group.round is None:
                continue
            boundary = group.round.ends if group.round.turns else group.round.next_slot
            waits.append((boundary - now).total_seconds())
            for turn in group.round.turns:
                breaker = self._status[turn.meter.record.id].breaker
                free_at = turn.not_before
                if breaker is not None:
                    free_at = max(free_at, breaker.not_before, self._purse.covers_at(self._price_s, monotonic))
                if free_at > monotonic:  # one that is ready waits for the line, not for time
                    waits.append(free_at - monotonic)
        return min(waits)

    # -------------------------------------------------------------------------------------------- one meter's turn

    async def _serve_several(self, round_: _Round | None) -> None:
        """As many meters at once as the line takes requests."""
        if self._in_flight == 1:
            assert round_ is not None
            await self._serve(round_, self._take_turn(round_))
            return
        async with asyncio.TaskGroup() as group:
            for _ in range(self._in_flight):
                if round_ is None:
                    break
                group.create_task(self._serve(round_, self._take_turn(round_)))
                round_ = self._pick()

    def _take_turn(self, round_: _Round) -> _Turn:
        now = self._clock.monotonic()
        turn = next(turn for turn in round_.turns if self._may_ask(turn, now))
        round_.turns.remove(turn)
        return turn

    async def _serve(self, round_: _Round, turn: _Turn) -> None:
        now = self._clock.monotonic()
        began_at = turn.began_at  # a late answer to an earlier try of this slot is welcome
        turn.began_at = now if began_at is None else began_at
        try:
            await self._ask_for(round_, turn, began_at)
            await self._judge(round_, turn)
        except asyncio.CancelledError:
            # Another meter's turn went wrong while this one was under way: it comes again, and is not lost without a word.
            round_.turns.appendleft(turn)
            raise
        except Exception:
            # An error of ours, which the supervisor tells: the turn comes again, or ends with a reason like any other.
            self._postpone(round_, turn, "corrupt", is_alive=False)
            raise
        finally:
            if turn.heard:  # the turn broke off: what was read counts all the same
                self._publish(self._guard.examine(_taken(turn)).items)

    async def _ask_for(self, round_: _Round, turn: _Turn, began_at: float | None) -> None:
        meter = turn.meter.record
        while turn.left:
            question = turn.left[0]
            try:
                reading = await self._driver.ask(meter.address, question, Priority.LIVE, began_at=began_at)
            except LineDown as error:
                self._line_fell(round_, turn, error)
                return
            except DriverError as error:
                self._note_problem(meter.id, error)
                if error.retryable:
                    self._postpone(
                        round_, turn, feed_reason(error.kind), is_alive=error.kind in ("corrupt", "unmatched")
                    )
                    return
                self._record_missing(round_, _Turn(turn.meter, (question,)), feed_reason(error.kind))
            else:
                turn.heard += self._reads(round_, turn.meter, question, reading)
            turn.left = turn.left[1:]
            if self._stopping.is_set():
                return

    async def _judge(self, round_: _Round, turn: _Turn) -> None:
        """Publish what was read in this turn; of what is doubtful one question is asked again first, once."""
        if not turn.heard:
            return
        judgement = self._guard.examine(_taken(turn))
        items = judgement.items
        try:
            if judgement.doubts and not turn.left and not self._stopping.is_set():
                items = await self._ask_again(round_, turn, judgement)
        finally:
            self._publish(items)

    async def _ask_again(self, round_: _Round, turn: _Turn, judgement: Judgement) -> list[Item]:
        again = set(judgement.again)
        question = next(
            one for one in turn.meter.questions if any(register.name in again for register in one.registers)
        )
        try:
            reading = await self._driver.ask(turn.meter.record.address, question, Priority.LIVE)
        except LineDown:
            return judgement.items
        except DriverError as error:
            self._note_problem(turn.meter.record.id, error)
            return judgement.items
        return self._guard.judge(judgement, self._reads(round_, turn.meter, question, reading))

    def _line_fell(self, round_: _Round, turn: _Turn, error: LineDown) -> None:
        """Asking this meter may be what brought the line down: then it goes to the back, and is not tried for ever."""
        if not error.wire_sent:
            round_.turns.appendleft(turn)
            return
        self._postpone(round_, turn, error.kind, is_alive=False)

    def _postpone(self, round_: _Round, turn: _Turn, reason: str, *, is_alive: bool) -> None:
        turn.tries += 1
        turn.reason = reason
        if turn.tries >= self._tries_max:
            self._record_missing(round_, turn, reason)
            return
        # Damage is chance: ask again soon. Silence is rarely.
        turn.not_before = self._clock.monotonic() + (0.2 if is_alive else 5.0 * 2 ** (turn.tries - 1))
        round_.turns.append(turn)

    def _note_problem(self, meter: str, error: DriverError) -> None:
        status = self._status[meter]
        status.problem = feed_reason(error.kind)
        if isinstance(
            error, NoAnswer | SilentBehind
        ):  # a concentrator's line is as busy with a dead meter as ours would be
            now = self._clock.monotonic()
            self._purse.pay(error.elapsed_s + self._line.timing.quiet_s, now)
            status.breaker = status.breaker or Breaker()
            status.breaker.failed(now)
        if status.failing_since is None:
            status.failing_since = self._clock.now()
            log.info(
                "meter does not answer rightly", line=self._line.name, meter=meter, kind=error.kind, problem=str(error)
            )

    # -------------------------------------------------------------------------------------------- what becomes of it

    def _reads(self, round_: _Round, meter: PlannedMeter, question: Question, reading: Reading) -> list[Read]:
        now = self._clock.now()
        self._status[meter.record.id].heard(now)
        late = now > round_.late_after
        return reads_of(meter.record.id, question, reading, slot=round_.slot, now=now, zone=self._zone, late=late)

    def _publish(self, items: Iterable[Item]) -> None:
        for item in items:
            self._writer.put(item)

    def _record_missing(self, round_: _Round, turn: _Turn, reason: str) -> None:
        now = self._clock.now()
        for question in turn.left:
            for register in question.registers:
                read = missing_read(turn.meter.record.id, register, slot=round_.slot, now=now, reason=reason)
                self._writer.put(read)
                if self._spare is not None:
                    self._spare.missing(read)

    # -------------------------------------------------------------------------------------------- slots nobody was there for

    def _missed_before_start(self, now: datetime) -> Iterator[Read]:
        for group in self._groups:
            current = slot_at(now, group.period_s, self._zone)
            earliest = now - MISSED_MAX
            for meter in group.meters:
                for register in meter.registers:
                    newest = self._newest(meter.record.id, register.name)
                    if newest is None or newest >= current:
                        continue
                    slot = next_slot(
                        max(newest, slot_at(earliest, group.period_s, self._zone)), group.period_s, self._zone
                    )
                    yield from self._stopped(group, meter, register, slot, current)

    def _missed_slots(self, group: _Group, slot: datetime, now: datetime) -> Iterator[Read]:
        """Slots that passed while this process was suspended, blocked, or its clock stepped over them."""
        current = slot_at(now, group.period_s, self._zone)
        slot = max(slot, slot_at(now - MISSED_MAX, group.period_s, self._zone))
        for meter in group.meters:
            for register in meter.registers:
                yield from self._stopped(group, meter, register, slot, current)

    def _stopped(
        self, group: _Group, meter: PlannedMeter, register: Register, slot: datetime, until: datetime
    ) -> Iterator[Read]:
        while slot < until:
            yield missing_read(meter.record.id, register, slot=slot, now=self._clock.now(), reason="stopped")
            slot = next_slot(slot, group.period_s, self._zone)

    def _name_missed(self, missed: Iterator[Read]) -> None:
        before, self._missed, self._has_missed = self._missed, iter(()), True

        def both() -> Iterator[Read]:
            yield from before
            yield from missed

        self._missed = both()

    def _put_missed(self) -> None:
        """A portion, in time that no meter needs."""
        for _ in range(PORTION):
            read = next(self._missed, None)
            if read is None:
                self._has_missed = False
                return
            self._writer.put(read)
            if self._spare is not None:
                self._spare.missing(read)


def _taken(turn: _Turn) -> list[Read]:
    heard, turn.heard = turn.heard, []
    return heard


async def _first(timeout_s: float, *waits: Awaitable[object]) -> None:
    """Wait for the first of several things, or the time-out, and leave none of them running."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
