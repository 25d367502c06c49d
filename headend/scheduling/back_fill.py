"""Fetches missing intervals from the meters' own memory, one exchange at a time, in line time that nobody else needs.

The store says what is missing (`gaps`), the contract where it may be found (`records`), the meter's clock how far its labels can be
trusted. Each gap ends in one of three ways: a read with quality `back-filled` that carries the meter's time; a missing read that says
why nothing can be had (`meter-has-no-data`, `meter-clock-off`, `ambiguous-time`), and is not asked about again; or it stays open while
the meter does not answer, until it is older than the plan looks back.

What is known of gaps lives in the store alone. A meter is looked up there when the head-end starts and after each interval it
missed, and only while it answers; a fleet that is dead for days costs neither memory nor line time.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

import structlog
from msgspec import Struct

from firmware_contracts.contract import load
from headend.clock import Clock
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import DriverError, LineDown, RefusedByMeter
from headend.drivers.line import Priority
from headend.errors import HeadendError
from headend.intervals.guard import Guard
from headend.model import MeterClock, MeterRecord, Quality, Read, SlotState
from headend.scheduling.clock_check import is_check_due
from headend.scheduling.gaps import SETTLED, Gap, find_gaps, newest, slots_between
from headend.scheduling.plan import slot_at
from headend.scheduling.records import (
    Ask,
    Memory,
    Point,
    Record,
    Wanted,
    freeze_index,
    label_of,
    next_ask,
    records_of,
    settle,
)
from headend.store.writer import Execute, Writer
from protocols.dlt645.items import Di, ItemSpec
from protocols.values import Unit

__all__ = ["BackFiller", "FilledMeter", "SlotBook"]

SLOTS_AT_ONCE = 96  # of one meter; then others have their turn
SETTLE_AFTER = timedelta(seconds=15)  # a missed interval is durable by then, and a store that fails is not pressed
RECORDED_AFTER = timedelta(minutes=1)  # beyond what a clock may be off by: a meter may take its time to write
PAUSE_FIRST = timedelta(minutes=5)  # for a meter that did not answer; doubled each time
PAUSE_MAX = timedelta(hours=2)
REFUSALS_MAX = (
    3  # or silences in a row; then a meter is taken not to have the record at all, until the head-end starts again
)
INTERVAL_KNOWN_FOR = timedelta(days=1)

log = structlog.get_logger(__name__)


class SlotBook(Protocol):
    """Where reads are; the store."""

    def slots_of(
        self, meter: str, *, since: datetime, until: datetime
    ) -> dict[str, tuple[datetime, list[SlotState]]]: ...


class FilledMeter(Struct, frozen=True, kw_only=True, gc=False):
    """A meter whose gaps are to be filled. specs: of its plan. look_back_s: 0 fills nothing."""

    record: MeterRecord
    specs: tuple[ItemSpec, ...]
    period_s: int
    look_back_s: int


class _Batch(Struct):
    """What is being worked on for one meter. below: where the next look goes on; None when this was all."""

    meter: FilledMeter
    wanted: list[Wanted]
    below: datetime | None
    clock: MeterClock


class _Pause(Struct):
    failures: int
    until: datetime


class BackFiller:
    """The gaps of one line's meters.

    clocks: by meter, as measured; a meter without one is not asked, for nobody knows what its labels mean. tolerance_s: what a
    clock may be off by. is_well: whether the meter answered its last read. guard: looks at every read before it is published.
    """

    def __init__(
        self,
        driver: Dlt645Driver,
        meters: Iterable[FilledMeter],
        *,
        zone: ZoneInfo,
        clock: Clock,
        tolerance_s: float,
        clocks: dict[str, MeterClock],
        book: SlotBook,
        execute: Execute,
        writer: Writer,
        is_well: Callable[[str], bool],
        guard: Guard,
    ) -> None:
        self._driver = driver
        self._meters = {meter.record.id: meter for meter in meters if meter.look_back_s}
        self._zone = zone
        self._clock = clock
        self._tolerance_s = tolerance_s
        self._clocks = clocks
        self._book = book
        self._execute = execute
        self._writer = writer
        self._is_well = is_well
        self._guard = guard
        # A slow clock writes its record late; asked for earlier, the meter would say that it has none.
        self._recorded_after = timedelta(seconds=tolerance_s) + RECORDED_AFTER
        self._started_at = clock.now()
        # Meters to look up, and from when on; all of them at the start, in order.
        self._to_look: dict[str, datetime] = dict.fromkeys(self._meters, self._started_at)
        self._below: dict[str, datetime] = {}
        self._batch: _Batch | None = None
        self._records: dict[tuple[str, Di, int], tuple[Record, ...]] = {}
        self._intervals: dict[tuple[str, int], tuple[int, datetime]] = {}
        self._refusals: dict[tuple[str, str], int] = {}
        self._pauses: dict[str, _Pause] = {}
        self.asks = 0
        self.filled = 0
        self.given_up = 0

    def missing(self, read: Read) -> None:
        """A read was recorded as missing: look the meter up when it is well again."""
        if read.meter in self._meters and read.reason not in SETTLED:
            recorded_at = read.interval_end + self._recorded_after
            self._to_look[read.meter] = max(self._clock.now(), recorded_at) + SETTLE_AFTER
            self._below.pop(read.meter, None)

    def set_aside(self) -> None:
        """Forget the present batch; its meter is looked up again with the next interval it misses."""
        self._batch = None

    async def work(self, fits: Callable[[int], bool]) -> bool:
        """Do one thing; False when there is nothing to do now. fits: whether so many exchanges end before the line is needed."""
        await self._writer.room()
        if self._batch is None and not await self._look():
            return False
        batch = self._batch
        if batch is None:
            return True
        if not self._is_well(batch.meter.record.id):
            self._put_back(batch, self._clock.now())
            return True
        if not fits(2):
            return False
        try:
            await self._advance(batch)
        except LineDown:
            self._put_back(batch, self._clock.now())
        except DriverError as error:
            self._pause(batch, error)
        return True

    # -------------------------------------------------------------------------------------------- looking for gaps

    async def _look(self) -> bool:
        """Look up the next meter that may be asked; False when there is none."""
        now = self._clock.now()
        meter = next(
            (meter for meter, not_before in self._to_look.items() if self._may_look(meter, not_before, now)), None
        )
        if meter is None:
            return False
        del self._to_look[meter]
        try:
            await self._load(self._meters[meter], now)
        except HeadendError as error:  # the store does not answer: the writer says so already
            log.info("gaps not looked up", meter=meter, problem=str(error))
            self._to_look[meter] = now + PAUSE_FIRST
        return True

    def _may_look(self, meter: str, not_before: datetime, now: datetime) -> bool:
        pause = self._pauses.get(meter)
        clock = self._clocks.get(meter)
        return (
            not_before <= now
            and (pause is None or pause.until <= now)
            and self._is_well(meter)
            and clock is not None
            and not is_check_due(clock, now, self._zone)
        )

    async def _load(self, meter: FilledMeter, now: datetime) -> None:
        """Make a batch of the meter's newest gaps, those that can be settled without asking settled at once."""
        identity = meter.record.id
        newest_slot = slot_at(now - self._recorded_after, meter.period_s, self._zone)
        until = self._below.pop(identity, newest_slot + timedelta(seconds=1))
        since = slot_at(now - timedelta(seconds=meter.look_back_s), meter.period_s, self._zone)
        clock = self._clocks[identity]
        states = await self._execute(lambda: self._book.slots_of(identity, since=since, until=until))
        expected = _slots(since, until, meter.period_s, self._zone)
        unattended_before = slot_at(self._started_at, meter.period_s, self._zone)
        gaps: dict[str, list[Gap]] = {}
        for spec in meter.specs:
            obis = _channel(spec)
            first, known = states.get(obis, (None, []))
            gaps[obis] = find_gaps(obis, known, expected, first=first, unattended_before=unattended_before)
            if not self._records_of(meter, spec):
                # Nowhere to get it from: what has a row keeps it, what has none gets one.
                gaps[obis] = [gap for gap in gaps[obis] if gap.revision == 0]
        batch = newest(gaps, SLOTS_AT_ONCE)
        slots = {gap.slot for gap in batch}
        is_all = sum(map(len, gaps.values())) == len(batch)
        wanted = [one for gap in batch if (one := self._wanted(meter, gap, clock)) is not None]
        below = None if is_all else min(slots)
        if wanted or below is not None:
            self._batch = _Batch(meter, wanted, below, clock)

    def _wanted(self, meter: FilledMeter, gap: Gap, clock: MeterClock) -> Wanted | None:
        """None when the gap was settled right away."""
        spec = next(spec for spec in meter.specs if _channel(spec) == gap.obis)
        records = self._records_of(meter, spec)
        label = label_of(gap.slot, self._zone)
        if not records:
            self._give_up(meter, gap, "stopped")
        elif label is None:
            self._give_up(meter, gap, "ambiguous-time")
        elif abs(clock.offset_at(gap.slot)) > self._tolerance_s:
            self._give_up(meter, gap, "meter-clock-off")
        else:
            return Wanted(gap, label, records)
        return None

    def _records_of(self, meter: FilledMeter, spec: ItemSpec) -> tuple[Record, ...]:
        key = (meter.record.contract, spec.di, meter.period_s)
        if key not in self._records:
            self._records[key] = records_of(load(meter.record.contract), spec, meter.period_s)
        return self._records[key]

    # -------------------------------------------------------------------------------------------- asking

    async def _advance(self, batch: _Batch) -> None:
        """One ask of the batch, or its end."""
        meter = batch.meter
        ask = next_ask(
            batch.wanted,
            intervals_s=self._known_intervals(meter),
            reply_bytes_max=load(meter.record.contract).limits.read_data_max,
            refused=[di for (who, di), n in self._refusals.items() if who == meter.record.id and n >= REFUSALS_MAX],
        )
        for one in batch.wanted:
            if not one.records:
                self._give_up(meter, one.gap, "meter-has-no-data")
        batch.wanted = [one for one in batch.wanted if one.records]
        if ask is None:
            self._finish(batch)
            return
        if ask.record.interval is not None and (meter.record.id, ask.record.record_class) not in self._intervals:
            await self._learn_interval(meter, ask.record)
            return
        self.asks += 1
        key = (meter.record.id, ask.record.spec.di.text)
        try:
            points = await self._fetch(meter, ask, batch.clock)
        except LineDown:
            raise
        except DriverError as error:
            # Silence counts, too: some meters say nothing to an item they do not have, while they answer all else.
            self._refusals[key] = self._refusals.get(key, 0) + 1
            if not isinstance(error, RefusedByMeter):
                raise
            points = []
        else:
            if points:
                self._refusals.pop(key, None)
        self._pauses.pop(meter.record.id, None)
        if points is None:
            return
        for one, amount, unit in settle(batch.wanted, ask, points):
            self._file(meter, one, ask.record, amount, unit)
            batch.wanted.remove(one)

    async def _fetch(self, meter: FilledMeter, ask: Ask, clock: MeterClock) -> list[Point] | None:
        """Points whose label is certain; None when the moment was bad and the same is to be asked again."""
        address, record = meter.record.address, ask.record
        if record.memory is Memory.CURVE:
            curve = await self._driver.read_curve(
                address,
                record.spec,
                Priority.BACK_FILL,
                start=ask.start,
                count=ask.count,
                period_s=ask.interval_s or 60,
            )
            points = [
                Point(value.at, ((_amount(value.content), value.unit),))
                for value in curve.values
                if value.at is not None
            ]
            # Only the first point of a reply has a time of its own. A reply in which points are left out would put the
            # others under wrong times, so a short one (which the driver completes with a second asking) proves its first alone.
            is_whole = len(points) == ask.count and len(curve.wire_sent) == 1
            return points if is_whole else points[:1]
        if record.memory is Memory.BLOCKS:
            end = ask.start + timedelta(seconds=ask.interval_s * (ask.count - 1))
            found = await self._driver.read_load_record(
                address, record.spec, Priority.BACK_FILL, count=ask.count, start=ask.start, end=end
            )
            return [
                Point(block.at, tuple((_amount(v.content), v.unit) for v in block.classes.get(record.record_class, [])))
                for block in found.blocks
                if block.at is not None
            ]
        return await self._fetch_freeze(meter, ask, clock)

    async def _fetch_freeze(self, meter: FilledMeter, ask: Ask, clock: MeterClock) -> list[Point] | None:
        """A freeze is asked for by its age, so its time is read first, and its age must not change meanwhile."""
        record, address = ask.record, meter.record.address
        index = freeze_index(record.memory, ask.start, self._meter_now(clock))
        if index is None:
            return []
        assert record.time is not None
        contract = load(meter.record.contract)
        time = contract.find(_aged(record.time.di, index))
        spec = contract.find(_aged(record.spec.di, index))
        shown = (await self._driver.read(address, time, Priority.BACK_FILL)).values[0].at
        if shown != ask.start:
            return []
        reading = await self._driver.read(address, spec, Priority.BACK_FILL)
        if freeze_index(record.memory, ask.start, self._meter_now(clock)) != index:
            return None
        return [Point(ask.start, tuple((_amount(value.content), value.unit) for value in reading.values))]

    def _meter_now(self, clock: MeterClock) -> datetime:
        now = self._clock.now()
        return now.astimezone(self._zone).replace(tzinfo=None) + timedelta(seconds=clock.offset_at(now))

    async def _learn_interval(self, meter: FilledMeter, record: Record) -> None:
        """What the meter records this class at; a meter that does not tell is asked for one point at a time."""
        assert record.interval is not None
        interval_s = 0
        try:
            reading = await self._driver.read(meter.record.address, record.interval, Priority.BACK_FILL)
            minutes = _amount(reading.values[0].content)
            interval_s = int(minutes) * 60 if minutes is not None and 0 < minutes <= 1440 else 0
        except RefusedByMeter:
            log.info("meter does not tell its recording interval", meter=meter.record.id, di=record.interval.di.text)
        self._intervals[meter.record.id, record.record_class] = (interval_s, self._clock.now() + INTERVAL_KNOWN_FOR)

    def _known_intervals(self, meter: FilledMeter) -> dict[int, int]:
        now = self._clock.now()
        for key in [key for key, (_, until) in self._intervals.items() if key[0] == meter.record.id and until <= now]:
            del self._intervals[key]
        return {key[1]: interval_s for key, (interval_s, _) in self._intervals.items() if key[0] == meter.record.id}

    # -------------------------------------------------------------------------------------------- settling

    def _file(self, meter: FilledMeter, one: Wanted, record: Record, amount: Decimal, unit: Unit) -> None:
        self.filled += 1
        read = Read(
            meter=meter.record.id,
            obis=one.gap.obis,
            amount=amount,
            unit=unit,
            interval_end=one.gap.slot,
            read_at=one.label.replace(tzinfo=self._zone).astimezone(UTC),
            received_at=self._clock.now(),
            quality=(Quality.MEASURED, Quality.BACK_FILLED),
            source=record.spec.source,
            revision=one.gap.revision,
        )
        for item in self._guard.examine((read,)).items:
            self._writer.put(item)

    def _give_up(self, meter: FilledMeter, gap: Gap, reason: str) -> None:
        """Say once why there is no number, and never ask for it again."""
        self.given_up += 1
        spec = next(spec for spec in meter.specs if _channel(spec) == gap.obis)
        self._writer.put(
            Read(
                meter=meter.record.id,
                obis=gap.obis,
                amount=None,
                unit=spec.unit,
                interval_end=gap.slot,
                read_at=None,
                received_at=self._clock.now(),
                quality=(Quality.MISSING,),
                source=spec.source,
                revision=gap.revision,
                reason=reason,
            )
        )

    def _finish(self, batch: _Batch) -> None:
        """The batch is settled; older gaps of the meter come when the others have had their turn."""
        self._batch = None
        identity = batch.meter.record.id
        if batch.below is not None and identity not in self._to_look:
            self._below[identity] = batch.below
            self._to_look[identity] = self._clock.now()

    def _put_back(self, batch: _Batch, not_before: datetime) -> None:
        """Look again later; what was settled by then is in the store."""
        self._batch = None
        self._below.pop(batch.meter.record.id, None)
        self._to_look[batch.meter.record.id] = not_before + SETTLE_AFTER

    def _pause(self, batch: _Batch, error: DriverError) -> None:
        identity = batch.meter.record.id
        now = self._clock.now()
        pause = self._pauses.setdefault(identity, _Pause(0, now))
        pause.until = now + min(PAUSE_FIRST * 2**pause.failures, PAUSE_MAX)
        pause.failures += 1
        log.info("back-filling pauses", meter=identity, kind=error.kind, until=pause.until, problem=str(error))
        self._put_back(batch, now)


@lru_cache(maxsize=64)
def _slots(since: datetime, until: datetime, period_s: int, zone: ZoneInfo) -> tuple[datetime, ...]:
    """Kept, because all meters of a plan are looked up with the same ones."""
    return tuple(slots_between(since, until, period_s, zone))


def _channel(spec: ItemSpec) -> str:
    return str(spec.obis) if spec.obis else f"di:{spec.di}"


def _aged(di: Di, index: int) -> Di:
    return Di(f"{di.text[:6]}{index:02X}")


def _amount(content: object) -> Decimal | None:
    return content if isinstance(content, Decimal) else None
