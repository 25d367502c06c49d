"""Measures the clocks of one line's meters once a day, and sets them as the policy allows. See `clock_check` for the rules.

Works in spare line time only: the first check of a local day follows the meter's first read of that day. Meters that do not answer
are left alone; a clock that nobody can read has no offset, and its records are not used for back-filling.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import structlog
from msgspec.structs import replace

from firmware_contracts.contract import Contract, load
from firmware_contracts.errors import ContractError
from headend.clock import Clock
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.dlt645_operations import Dlt645Operations
from headend.drivers.errors import DriverError, RefusedByMeter
from headend.drivers.line import Priority
from headend.errors import HeadendError
from headend.feed.envelope import iso_utc
from headend.model import Event, MeterClock, MeterRecord
from headend.scheduling.clock_check import (
    BROADCAST_S_MAX,
    ClockPolicy,
    Correction,
    corrected,
    decide,
    is_check_due,
    measure,
)
from headend.secrets import Authority
from headend.store.writer import Execute, Writer
from protocols.dlt645.items import Di, ItemSpec

__all__ = ["STATUS_TYPE", "ClockBook", "ClockKeeper"]

STATUS_TYPE = "headend.meter-status.v1"
AGAIN_AFTER = timedelta(minutes=10)
MIDNIGHT_S = 120.0  # around it, date and time read one after the other may belong to different days
# One item with date and time where the meter has it; else the date first, then the time.
_ITEMS = {"dlt645-2007": ("0400010C", "04000101", "04000102"), "dlt645-1997": ("", "C010", "C011")}

log = structlog.get_logger(__name__)


class ClockBook(Protocol):
    """Where clocks are kept over a restart; the store."""

    def set_clocks(self, found: Mapping[str, MeterClock]) -> None: ...
    def set_broadcast(self, line: str, at: datetime) -> None: ...


class ClockKeeper:
    """The clocks of one line.

    clocks: by meter, shared with whoever wants to know them; changed here. is_well: whether the meter answered its last read.
    authority: with what right a meter's clock is written; raises BadSecret.
    """

    def __init__(
        self,
        driver: Dlt645Driver,
        meters: Iterable[MeterRecord],
        *,
        policy: ClockPolicy,
        zone: ZoneInfo,
        clock: Clock,
        periods_s: Iterable[int],
        clocks: dict[str, MeterClock],
        broadcast_at: datetime | None,
        book: ClockBook,
        execute: Execute,
        writer: Writer,
        is_well: Callable[[str], bool],
        authority: Callable[[str], Authority],
    ) -> None:
        self._driver = driver
        self._operations = Dlt645Operations(driver)
        self._meters = {meter.id: meter for meter in meters}
        self._policy = policy
        self._zone = zone
        self._clock = clock
        self._periods_s = tuple(periods_s)
        self._clocks = clocks
        self._broadcast_at = broadcast_at
        self._book = book
        self._execute = execute
        self._writer = writer
        self._is_well = is_well
        self._authority = authority
        self._due: set[str] = set()
        self._due_day: object = None
        self._beyond = {meter for meter in self._meters if meter in clocks and self._is_beyond(clocks[meter])}
        self._not_before: dict[str, datetime] = {}
        self._without_one_item: set[str] = set()
        self.checks = 0
        self.corrections = 0

    async def work(self, fits: Callable[[int], bool]) -> bool:
        """Do one thing that is due; False when nothing is. fits: whether so many exchanges end before the line is needed."""
        now = self._clock.now()
        if now.astimezone(self._zone).date() != self._due_day:
            self._due_day = now.astimezone(self._zone).date()
            self._due = {meter for meter in self._meters if is_check_due(self._clocks.get(meter), now, self._zone)}
        meter = next((meter for meter in sorted(self._due) if self._may_be_asked(meter, now)), None)
        if meter is not None and fits(2):
            await self._check(self._meters[meter])
            return True
        correction = self._correction(now)
        if correction is None or not fits(2):
            return False
        if correction.method == "broadcast":
            await self._broadcast(correction)
        else:
            await self._write(self._meters[correction.meters[0]])
        return True

    def _may_be_asked(self, meter: str, now: datetime) -> bool:
        return self._is_well(meter) and self._not_before.get(meter, now) <= now

    def _is_beyond(self, clock: MeterClock) -> bool:
        return abs(clock.offset_s) > self._policy.limit_s

    # -------------------------------------------------------------------------------------------- measuring

    async def _check(self, meter: MeterRecord) -> None:
        now = self._clock.now()
        self._not_before[meter.id] = now + AGAIN_AFTER
        try:
            shown, elapsed_s = await self._read_clock(meter)
        except DriverError as error:
            log.info("meter clock not read", meter=meter.id, kind=error.kind, problem=str(error))
            return
        if shown is None:
            return
        received_at = self._clock.now()
        previous = self._clocks.get(meter.id)
        found = measure(shown, received_at=received_at, elapsed_s=elapsed_s, zone=self._zone, previous=previous)
        self._clocks[meter.id] = found
        self._due.discard(meter.id)
        self._not_before.pop(meter.id, None)
        self.checks += 1
        if self._is_beyond(found):
            self._beyond.add(meter.id)
            self._tell(meter.id, "beyond-limit", found)
        elif meter.id in self._beyond:
            self._beyond.discard(meter.id)
            self._tell(meter.id, "within-limit", found)
        await self._keep({meter.id: found})

    async def _read_clock(self, meter: MeterRecord) -> tuple[datetime | None, float]:
        """The meter's wall time and how long the exchange took; None when it must be read again later."""
        contract = load(meter.contract)
        both, date, time = (_find(contract, di) for di in _ITEMS[contract.protocol])
        if both is not None and meter.id not in self._without_one_item:
            try:
                reading = await self._driver.read(meter.address, both, Priority.BACK_FILL)
                return reading.values[0].at, reading.elapsed_s
            except RefusedByMeter:
                self._without_one_item.add(meter.id)
        if date is None or time is None or self._is_near_midnight():
            return None, 0.0
        day = (await self._driver.read(meter.address, date, Priority.BACK_FILL)).values[0].at
        reading = await self._driver.read(meter.address, time, Priority.BACK_FILL)
        digits = str(reading.values[0].content)
        if day is None or len(digits) != 6 or not digits.isdecimal():
            return None, 0.0
        since = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]), seconds=int(digits[4:]))
        if not MIDNIGHT_S <= since.total_seconds() <= 86400 - MIDNIGHT_S:
            return None, 0.0
        return day + since, reading.elapsed_s

    def _is_near_midnight(self) -> bool:
        local = self._clock.now().astimezone(self._zone)
        seconds = local.hour * 3600 + local.minute * 60 + local.second
        return not MIDNIGHT_S <= seconds <= 86400 - MIDNIGHT_S

    # -------------------------------------------------------------------------------------------- setting

    def _correction(self, now: datetime) -> Correction | None:
        if not self._beyond:
            return None
        measured = {
            meter: self._clocks[meter]
            for meter in self._meters
            if meter in self._clocks and not is_check_due(self._clocks[meter], now, self._zone)
        }
        return decide(
            self._policy,
            measured,
            now=now,
            zone=self._zone,
            periods_s=self._periods_s,
            broadcast_at=self._broadcast_at,
        )

    async def _broadcast(self, correction: Correction) -> None:
        now = self._clock.now()
        self._broadcast_at = now
        try:
            await self._execute(lambda: self._book.set_broadcast(self._driver.line.name, now))
            await self._operations.broadcast_time(self._local_now, Priority.BACK_FILL)
        except HeadendError as error:
            log.warning("clock broadcast failed", line=self._driver.line.name, problem=str(error))
            return
        log.info("clocks set by broadcast", line=self._driver.line.name, beyond=len(correction.meters))
        sent_at = self._clock.now()
        for meter in correction.meters:
            self._tell(meter, "corrected", self._clocks[meter], method="broadcast")
        moved = {
            meter: corrected(self._clocks[meter], sent_at)
            for meter in self._meters
            if meter in self._clocks and abs(self._clocks[meter].offset_s) <= BROADCAST_S_MAX
        }
        await self._note_corrected(moved)

    async def _write(self, meter: MeterRecord) -> None:
        now = self._clock.now()
        before = replace(self._clocks[meter.id], written_at=now)
        self._clocks[meter.id] = before
        await self._keep({meter.id: before})
        contract = load(meter.contract)
        both, date, time = (_find(contract, di) for di in _ITEMS[contract.protocol])
        try:
            authority = self._authority(meter.id)
            specs = [both] if both is not None and meter.id not in self._without_one_item else [date, time]
            for spec in specs:
                if spec is None:
                    raise HeadendError(f"contract {contract.name} has no clock that could be written")
                digits = _digits(spec, self._local_now())
                await self._operations.write(meter.address, spec, digits, authority, Priority.BACK_FILL, verify=False)
        except HeadendError as error:
            log.warning("meter clock not written", meter=meter.id, offset_s=before.offset_s, problem=str(error))
            self._tell(meter.id, "correction-failed", before, method="write")
            # It may have been set all the same: measured again either way.
            self._due.add(meter.id)
            return
        log.warning("meter clock written", meter=meter.id, offset_s=before.offset_s)
        self._tell(meter.id, "corrected", before, method="write")
        await self._note_corrected({meter.id: corrected(before, self._clock.now())})

    async def _note_corrected(self, moved: Mapping[str, MeterClock]) -> None:
        self._clocks.update(moved)
        self._due.update(moved)
        self.corrections += 1
        await self._keep(moved)

    def _local_now(self) -> datetime:
        return self._clock.now().astimezone(self._zone).replace(tzinfo=None)

    # -------------------------------------------------------------------------------------------- telling

    async def _keep(self, found: Mapping[str, MeterClock]) -> None:
        try:
            await self._execute(lambda: self._book.set_clocks(found))
        except HeadendError as error:
            log.warning("meter clocks not stored", line=self._driver.line.name, problem=str(error))

    def _tell(self, meter: str, state: str, clock: MeterClock, *, method: str = "") -> None:
        """One event of what happened to a clock; `offset_s` is what was measured last."""
        now = self._clock.now()
        data: dict[str, object] = {
            "meter": meter,
            "kind": "clock",
            "state": state,
            "offset_s": clock.offset_s,
            "uncertainty_s": clock.uncertainty_s,
            "limit_s": self._policy.limit_s,
            "drift_ppm": clock.drift_ppm,
            "measured_at": iso_utc(clock.measured_at),
        }
        if method:
            data["method"] = method
        identity = f"clock:{meter}:{state}:{iso_utc(now)}"
        self._writer.put(Event(type=STATUS_TYPE, subject=meter, data=data, time=now, id=identity))


def _find(contract: Contract, di: str) -> ItemSpec | None:
    if not di:
        return None
    try:
        return contract.find(Di(di))
    except ContractError:
        return None


def _digits(spec: ItemSpec, local: datetime) -> str:
    """The wall time as the item's layout has it; weekday 00 is Sunday."""
    weekday = f"{(local.weekday() + 1) % 7:02}"
    return {
        "YYMMDDWWhhmmss": f"{local:%y%m%d}{weekday}{local:%H%M%S}",
        "YYMMDDWW": f"{local:%y%m%d}{weekday}",
        "hhmmss": f"{local:%H%M%S}",
    }[spec.layout]
