"""The loop that reads the meters of one line, each at its interval ends.

A round is one plan's slot on this line: its meters, in order, until all are read, or the next slot begins. Among open rounds
the one whose slot ends first goes first, so a daily plan never delays a 15-minute one by more than one meter. A meter that does
not answer goes to the back of its round and is tried again later; what is still unread when its round ends becomes a read
with quality `missing` and the reason, so that billing never has to guess.

Bad meters cost little: the first silent quantity ends the meter's turn.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import structlog
from msgspec import Struct

from headend.clock import Clock
from headend.drivers.dlt645 import Dlt645Driver, ItemReading
from headend.drivers.errors import DriverError, LineDown
from headend.drivers.line import Line, Priority
from headend.model import MeterRecord, Quality, Read
from headend.scheduling.plan import next_slot, slot_at
from headend.store.writer import Writer
from protocols.dlt645.items import ItemSpec, ItemValue

__all__ = ["MeterStatus", "PlannedMeter", "Poller", "feed_reason", "reads_of"]

TRIES_MAX = 3  # per meter and slot, on top of the driver's own retries
RETRY_AFTER_S = 5.0  # doubled at each try
_RETRYABLE = ("silent", "corrupt", "unmatched", "line-busy")
_REASONS = {"line-busy": "overrun"}  # driver words that are no reasons of the feed

log = structlog.get_logger(__name__)


class PlannedMeter(Struct, frozen=True):
    """A meter and what its plan asks of it. specs: (source, item) pairs, shared by all meters of one contract and plan."""

    record: MeterRecord
    specs: tuple[ItemSpec, ...]


class MeterStatus(Struct):
    """How a meter is doing. problem: the kind of its present trouble, "" when its last read succeeded."""

    last_read_at: datetime | None = None
    problem: str = ""
    failing_since: datetime | None = None


class _Turn(Struct):
    """A meter waiting in a round. left: quantities not yet settled."""

    meter: PlannedMeter
    left: tuple[ItemSpec, ...]
    tries: int = 0
    not_before: datetime | None = None
    reason: str = ""


class _Round(Struct, kw_only=True):
    """unread: what to say of a quantity whose turn did not come."""

    slot: datetime
    ends: datetime
    late_after: datetime
    turns: deque[_Turn]
    unread: str


class _Group(Struct, kw_only=True):
    """One plan on this line."""

    period_s: int
    late_after_s: float
    meters: list[PlannedMeter]
    round: _Round | None = None


class Poller:
    """Reads one line's meters by their plans until `stop`. Owns no I/O of its own."""

    def __init__(
        self,
        line: Line,
        driver: Dlt645Driver,
        *,
        zone: ZoneInfo,
        clock: Clock,
        writer: Writer,
        status: dict[str, MeterStatus],
        is_stored: Callable[[str, str, datetime], bool],
    ) -> None:
        self._line = line
        self._driver = driver
        self._zone = zone
        self._clock = clock
        self._writer = writer
        self._status = status
        self._is_stored = is_stored
        self._groups: list[_Group] = []
        self._stopping = asyncio.Event()

    def add_plan(self, *, period_s: int, late_after_s: float, meters: Iterable[PlannedMeter]) -> None:
        self._groups.append(_Group(period_s=period_s, late_after_s=late_after_s, meters=list(meters)))

    def stop(self) -> None:
        """End after the read in flight. Meters whose turn has not come are not recorded: a restart within the slot reads them."""
        self._stopping.set()

    async def run(self) -> None:
        while not self._stopping.is_set():
            now = self._clock.now()
            for group in self._groups:
                self._keep_round(group, now)
            await self._writer.room()
            turn_round = self._pick(now)
            if turn_round is None:
                await self._sleep_until(self._wake_at(now))
            elif not self._line.is_up:
                await self._wait_for_line(self._wake_at(now))
            else:
                await self._serve(turn_round)

    # -------------------------------------------------------------------------------------------- rounds

    def _keep_round(self, group: _Group, now: datetime) -> None:
        slot = slot_at(now, group.period_s, self._zone)
        if group.round is not None:
            if slot <= group.round.slot:  # also when the wall clock was set back: a slot is never read twice
                return
            self._close(group.round)
        # The slot in which the head-end starts has begun without it: what does not fit into the rest is not the plan's fault.
        unread = "stopped" if group.round is None and slot < now else "overrun"
        group.round = _Round(
            slot=slot,
            ends=next_slot(slot, group.period_s, self._zone),
            late_after=slot + timedelta(seconds=group.late_after_s),
            turns=deque(self._turns(group, slot)),
            unread=unread,
        )

    def _turns(self, group: _Group, slot: datetime) -> Iterable[_Turn]:
        for meter in group.meters:
            left = tuple(
                spec
                for spec in meter.specs
                if not self._is_stored(meter.record.id, str(spec.obis) if spec.obis else f"di:{spec.di}", slot)
            )
            if left:
                yield _Turn(meter, left)

    def _close(self, round_: _Round) -> None:
        for turn in round_.turns:
            self._record_missing(round_, turn, turn.reason or (round_.unread if self._line.is_up else "line-down"))
        round_.turns.clear()

    def _pick(self, now: datetime) -> _Round | None:
        ready = [
            group.round
            for group in self._groups
            if group.round is not None and any(_is_ready(turn, now) for turn in group.round.turns)
        ]
        return min(ready, key=lambda round_: round_.ends, default=None)

    def _wake_at(self, now: datetime) -> datetime:
        """When something becomes due next, on the wall clock."""
        moments = [group.round.ends for group in self._groups if group.round is not None]
        moments += [
            turn.not_before
            for group in self._groups
            if group.round is not None
            for turn in group.round.turns
            if turn.not_before is not None and turn.not_before > now
        ]
        return min(moments)

    # -------------------------------------------------------------------------------------------- one meter's turn

    async def _serve(self, round_: _Round) -> None:
        now = self._clock.now()
        turn = next(turn for turn in round_.turns if _is_ready(turn, now))
        round_.turns.remove(turn)
        address = turn.meter.record.address
        while turn.left:
            spec = turn.left[0]
            try:
                reading = await self._driver.read(address, spec, Priority.LIVE)
            except LineDown:
                round_.turns.appendleft(turn)
                return
            except DriverError as error:
                self._note_problem(turn.meter.record.id, error)
                if error.kind in _RETRYABLE:
                    self._postpone(round_, turn, feed_reason(error.kind))
                    return
                self._record_missing(round_, _Turn(turn.meter, (spec,)), feed_reason(error.kind))
            else:
                self._record(round_, turn.meter, spec, reading)
            turn.left = turn.left[1:]
            if self._stopping.is_set():
                return

    def _postpone(self, round_: _Round, turn: _Turn, reason: str) -> None:
        turn.tries += 1
        turn.reason = reason
        if turn.tries >= TRIES_MAX:
            self._record_missing(round_, turn, reason)
            return
        turn.not_before = self._clock.now() + timedelta(seconds=RETRY_AFTER_S * 2 ** (turn.tries - 1))
        round_.turns.append(turn)

    def _record(self, round_: _Round, meter: PlannedMeter, spec: ItemSpec, reading: ItemReading) -> None:
        now = self._clock.now()
        status = self._status[meter.record.id]
        status.last_read_at, status.problem, status.failing_since = now, "", None
        for read in reads_of(
            meter.record.id,
            spec,
            reading.values,
            slot=round_.slot,
            now=now,
            zone=self._zone,
            late=now > round_.late_after,
        ):
            self._writer.put(read)

    def _record_missing(self, round_: _Round, turn: _Turn, reason: str) -> None:
        now = self._clock.now()
        for spec in turn.left:
            for read in reads_of(
                turn.meter.record.id, spec, None, slot=round_.slot, now=now, zone=self._zone, late=False, reason=reason
            ):
                self._writer.put(read)

    def _note_problem(self, meter: str, error: DriverError) -> None:
        status = self._status[meter]
        status.problem = error.kind
        if status.failing_since is None:
            status.failing_since = self._clock.now()
            log.info(
                "meter does not answer rightly", line=self._line.name, meter=meter, kind=error.kind, problem=str(error)
            )

    # -------------------------------------------------------------------------------------------- waiting

    async def _sleep_until(self, moment: datetime) -> None:
        """Until the wall clock says `moment`, or stop. A clock step is noticed within a minute."""
        wait_s = min(max((moment - self._clock.now()).total_seconds(), 0.0), 60.0)
        await _first(wait_s, self._stopping.wait())

    async def _wait_for_line(self, moment: datetime) -> None:
        wait_s = max((moment - self._clock.now()).total_seconds(), 0.0)
        await _first(wait_s, self._stopping.wait(), self._line.wait_up())


def feed_reason(kind: str) -> str:
    """The feed's word for a driver error's kind."""
    return _REASONS.get(kind, kind)


def reads_of(
    meter: str,
    spec: ItemSpec,
    values: list[ItemValue] | None,
    *,
    slot: datetime,
    now: datetime,
    zone: ZoneInfo,
    late: bool,
    reason: str = "",
) -> list[Read]:
    """One read per value of an item; with `values` None, one missing read per value it should have had, for `reason`.

    A value that the meter marks as not measured is missing, too, never a number.
    """
    if values is None:
        members = spec.members or (spec,)
        values = [ItemValue(name=member.name, obis=member.obis, content=None, unit=member.unit) for member in members]
    reads = []
    for value in values:
        amount = value.content if isinstance(value.content, Decimal) else None
        quality = (Quality.MEASURED if amount is not None else Quality.MISSING, *((Quality.LATE,) if late else ()))
        reads.append(
            Read(
                meter=meter,
                obis=str(value.obis) if value.obis else f"di:{spec.di}",
                amount=amount,
                unit=value.unit,
                interval_end=slot,
                read_at=None,
                received_at=now,
                quality=quality,
                source=spec.source,
                reason="" if amount is not None else reason or "not-measured",
                occurred_at=value.at.replace(tzinfo=zone).astimezone(UTC) if value.at is not None else None,
            )
        )
    return reads


def _is_ready(turn: _Turn, now: datetime) -> bool:
    return turn.not_before is None or turn.not_before <= now


async def _first(timeout_s: float, *waits: Awaitable[object]) -> None:
    """Wait for the first of several things, or the time-out, and leave none of them running."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
