"""Load records 06xxxxxx of a simulated meter: both generations, worked out from the load curve when they are asked for.

A record exists for every moment of the interval grid (04000A02.., counted from the meter's midnight) at which the meter
had power and its clock showed that moment, back to the depth of its memory. Moments that a clock step left out, and
those of a power cut, are missing: blocks are simply not there, points of a curve are filled.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from firmware_contracts.contract import Contract
from protocols.bcd import decode_digits
from protocols.dlt645.items import Encodable, ItemSpec
from protocols.dlt645.load_record import CLASSES, LoadBlock, encode_blocks, encode_curve
from protocols.errors import BadDigit
from simulators.dlt645_registers import Registers
from simulators.dlt645_values import NoSuchItem, fitting
from simulators.meter import RECORD_DAYS, MeterModel
from simulators.quirks import MeterQuirks

__all__ = ["INTERVAL_MIN", "Series"]

CURVE_TIME_SIZE = 5
INTERVAL_MIN = 15
ALL_CLASSES = 0x3F
# Load curve 0610cckk: the momentary item, or present register, that a point records.
_CURVE_ITEMS = {
    "01": "0201{}00",
    "02": "0202{}00",
    "03": "0203{}00",
    "04": "0204{}00",
    "05": "0206{}00",
    "06": "00{}0000",
    "08": "0280{}",
}
_CURVE_DEMANDS = {"01": "0004", "02": "0005"}
_CLASS_OF_CURVE = {"01": 1, "02": 1, "03": 2, "04": 2, "05": 3, "06": 4, "07": 5, "08": 6}
_ENERGY_CURVES = ("06", "07")
# The items of a first-generation block, by class.
_CLASS_ITEMS: dict[int, tuple[str, ...]] = {
    1: ("02010100", "02010200", "02010300", "02020100", "02020200", "02020300", "02800002"),
    2: tuple(f"020{kind}0{phase}00" for kind in (3, 4) for phase in range(4)),
    3: tuple(f"02060{phase}00" for phase in range(4)),
    4: ("00010000", "00020000", "00030000", "00040000"),
    5: ("00050000", "00060000", "00070000", "00080000"),
    6: ("02800004", "02800005"),
}
_EARLIEST, _FROM, _LATEST = "00", "01", "02"


class Series:
    """written: DATA of written items by DI text, for intervals and the mode word."""

    def __init__(
        self,
        model: MeterModel,
        contract: Contract,
        quirks: MeterQuirks,
        registers: Registers,
        written: dict[str, bytes],
    ) -> None:
        self._model = model
        self._contract = contract
        self._quirks = quirks.contract
        self._registers = registers
        self._written = written
        self._kept = timedelta(days=contract.limits.load_record_days or RECORD_DAYS)

    def read(self, spec: ItemSpec, count: int | None, start: str | None, now: datetime) -> list[bytes]:
        """Blocks, or points of a curve with the time before the first; none when nothing was recorded then.

        count: N as sent. start: YYMMDDhhmm digits. Raises NoSuchItem for a request that the item does not take.
        """
        begin = None if start is None else _moment(start, spec)
        wanted = 1 if count is None else self._count(count, spec)
        if spec.series == "curve":
            if begin is None:
                raise NoSuchItem(spec.di.text)
            return self._curve(spec, wanted, begin, now)
        return self._blocks(spec, wanted, begin, now)

    # ------------------------------------------------------------------------------------------ first generation

    def _blocks(self, spec: ItemSpec, wanted: int, begin: datetime | None, now: datetime) -> list[bytes]:
        number, choice = int(spec.di.text[2:4], 16), spec.di.text[6:]
        mode = self._written.get("04000901", bytes([ALL_CLASSES]))[0]
        numbers = [one for one in _CLASS_ITEMS if number in (0, one) and mode >> one - 1 & 1]
        if choice == _FROM and begin is None:
            raise NoSuchItem(spec.di.text)
        if not numbers:
            return []
        interval = min(map(self._interval, numbers))
        clock = self._model.clock(now)
        if choice == _LATEST:
            last = _on_grid(clock - interval + timedelta(microseconds=1), interval)
            moments: Iterator[datetime] = (last - interval * index for index in range(self._kept // interval))
            wanted = 1
        else:
            oldest = clock - self._kept
            first = oldest if begin is None or choice == _EARLIEST else begin
            if first < oldest:
                return []  # no longer there: blocks of another time would not be what was asked for
            moments = _until(_on_grid(first, interval), interval, clock)
        recorded = ((local, self._recorded(local, now)) for local in moments)
        there = ((local, at) for local, at in recorded if at is not None)
        return [encode_blocks([self._block(local, at, numbers)]) for local, at in islice(there, wanted)]

    def _block(self, local: datetime, at: datetime, numbers: list[int]) -> LoadBlock:
        classes: dict[int, Any] = {}  # bare contents do as well as values
        for number in numbers:
            interval = self._interval(number)
            if _on_grid(local, interval) == local:
                values = [self._value(di, at) for di in _CLASS_ITEMS[number]]
                classes[number] = fitting(values, CLASSES[number - 1])
        return LoadBlock(at=local, classes=classes)

    # ------------------------------------------------------------------------------------------ second generation

    def _curve(self, spec: ItemSpec, wanted: int, begin: datetime, now: datetime) -> list[bytes]:
        kind = spec.di.text[4:6]
        interval = self._interval(_CLASS_OF_CURVE.get(kind, 1))
        members = spec.members or (spec,)
        oldest = self._model.clock(now) - self._kept
        pieces: list[bytes] = []
        missing: list[Encodable] = [None] * len(members)
        found = False
        moments = islice(_until(_on_grid(begin, interval), interval, self._model.clock(now)), wanted)
        for local in (moment for moment in moments if moment >= oldest):
            at = self._recorded(local, now)
            values = missing
            if at is not None:
                found = True
                values = [value for item in members for value in self._point(item, at)]
            if at is not None and kind in _ENERGY_CURVES and self._quirks.missing_point == "repeat":
                missing = values
            wire = encode_curve(local, values, spec)
            pieces.append(wire[CURVE_TIME_SIZE:] if pieces else wire)
        return pieces if found else []

    def _point(self, item: ItemSpec, at: datetime) -> list[Encodable]:
        return fitting([self._value(_recorded_by(item.di.text), at)], item)

    # ------------------------------------------------------------------------------------------ both

    def _recorded(self, local: datetime, now: datetime) -> datetime | None:
        at = self._model.recorded(local)
        return at if at is not None and at <= now else None

    def _value(self, di: str, at: datetime) -> Encodable:
        """Now or then; a phase that is not there leaves its place, because a record has no other way to miss one."""
        try:
            values = self._registers.energy(di, at) if di.startswith("00") else self._registers.variable(di, at)
        except NoSuchItem:
            if di.startswith("020"):
                return None
            raise
        return values[0]

    def _interval(self, number: int) -> timedelta:
        """Of a class, 04000A02 for the first."""
        wire = self._written.get(f"04000A{number + 1:02X}")
        return timedelta(minutes=int(decode_digits(wire)) or INTERVAL_MIN if wire else INTERVAL_MIN)

    def _count(self, sent: int, spec: ItemSpec) -> int:
        if self._quirks.block_count == "binary":
            return sent
        try:
            return int(decode_digits(bytes([sent])))
        except BadDigit as error:
            raise NoSuchItem(spec.di.text) from error


def _recorded_by(di: str) -> str:
    """The item whose values make the curve `di`."""
    kind, item = di[4:6], di[6:]
    if kind == "07":
        return f"00{int(item, 16) + 4:02X}0000"
    if di[:4] != "0610" or kind not in _CURVE_ITEMS or (kind == "08" and item not in _CURVE_DEMANDS):
        raise NoSuchItem(di)
    return _CURVE_ITEMS[kind].format(_CURVE_DEMANDS[item] if kind == "08" else item)


def _moment(start: str, spec: ItemSpec) -> datetime:
    try:
        year, month, day, hour, minute = (int(start[at : at + 2]) for at in range(0, 10, 2))
        return datetime(2000 + year, month, day, hour, minute)  # noqa: DTZ001 - meter time has no zone
    except ValueError as error:
        raise NoSuchItem(spec.di.text) from error


def _on_grid(local: datetime, interval: timedelta) -> datetime:
    """The first moment of the grid at or after `local`; the grid starts anew at midnight."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight - interval * ((midnight - local) // interval)
    return min(at, midnight + timedelta(days=1))


def _until(first: datetime, interval: timedelta, last: datetime) -> Iterator[datetime]:
    local = first
    while local <= last:
        yield local
        following = local + interval
        midnight = following.replace(hour=0, minute=0)
        local = following if following.day == local.day else midnight
