"""What a meter's own memory holds of a plan's quantities, what to ask for, and what a reply settles. Pure.

Three kinds of memory (DL/T 645-2007 with its addenda): load curves (0610), load records in blocks (06), and freezes (0506 daily, 0504
hourly). Each value in them has a label, the meter's own wall time. A value is filed under an interval only when its label is
that interval's end to the minute, and the meter's clock was right enough when it was written; a wrong interval is worse than none.

Newest first: an ask begins at the newest missing slot and takes older ones along as far as one frame of reply reaches.
"""

import enum
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from msgspec import Struct

from firmware_contracts.contract import Contract
from firmware_contracts.errors import ContractError
from headend.scheduling.gaps import Gap
from protocols.dlt645.items import Di, ItemSpec, size_range
from protocols.values import Unit

__all__ = ["Ask", "Memory", "Point", "Record", "Wanted", "freeze_index", "label_of", "next_ask", "records_of", "settle"]

CURVE_START_BYTES = 5
BLOCK_BYTES = 2 + 1 + 5 + 6 + 2  # A0A0, size, time, six AAH, sum and E5H; and the class's own bytes
CLASS_BYTES = (17, 24, 8, 16, 16, 6)  # DL/T 645-2007, annex B
POINTS_MAX = 9  # points or blocks: N is BCD in some firmware, plain in other; below ten they agree
DAILY_KEPT = 62
HOURLY_KEPT = 254


class Memory(enum.Enum):
    CURVE = "curve"
    BLOCKS = "blocks"
    DAILY = "daily freeze"
    HOURLY = "hourly freeze"


class Record(Struct, frozen=True, kw_only=True):
    """Where one quantity is kept.

    spec: of the curve, or of the blocks of one class from a given time, or of the newest freeze. time: of freezes: the item
    that holds their label.
    place: index of the value in a point, a class, or a freeze. interval: item with the recording interval, minutes.
    """

    memory: Memory
    spec: ItemSpec
    place: int = 0
    record_class: int = 0
    interval: ItemSpec | None = None
    time: ItemSpec | None = None


class Wanted(Struct):
    """A gap with the places where it may still be found, the best first. label: the meter's wall time at the interval's end."""

    gap: Gap
    label: datetime
    records: tuple[Record, ...]


class Ask(Struct, frozen=True, kw_only=True):
    """start, count: labels asked for, oldest first, `interval_s` apart; for a freeze there is one."""

    record: Record
    start: datetime
    count: int
    interval_s: int


class Point(Struct, frozen=True):
    """One recorded moment. amounts: by place; None where the meter recorded nothing."""

    label: datetime
    amounts: tuple[tuple[Decimal | None, Unit], ...]


# Present item -> curve, class of the first-generation record, place in that class.
_CURVES: tuple[tuple[str, str, int, int], ...] = (
    ("000(?P<n>[1-4])0000", "0610060{n}", 4, -1),
    ("000(?P<n>[5-8])0000", "0610070{n}", 5, -5),
    ("02010(?P<n>[1-3])00", "0610010{n}", 1, -1),
    ("02020(?P<n>[1-3])00", "0610020{n}", 1, 2),
    ("0280000(?P<n>2)", "", 1, 4),
    ("02030(?P<n>[0-3])00", "0610030{n}", 2, 0),
    ("02040(?P<n>[0-3])00", "0610040{n}", 2, 4),
    ("02060(?P<n>[0-3])00", "0610050{n}", 3, 0),
    ("0280000(?P<n>[45])", "0610080{n}", 6, -4),
)
_CURVE_FIRST = {
    "061007": 4,
    "061008": 3,
}  # quadrants I..IV are kinds 5..8 and points 1..4; demands 4, 5 are points 1, 2
_ENERGY = re.compile(r"00(0[1-8])([0-3][0-9A-F])00")


def records_of(contract: Contract, spec: ItemSpec, period_s: int) -> tuple[Record, ...]:
    """Where the contract's meters keep `spec` at interval ends; () when nowhere. 1997 knows no such records."""
    if contract.protocol != "dlt645-2007":
        return ()
    di = spec.di.text
    series: list[Record] = []
    for pattern, curve, record_class, shift in _CURVES:
        match = re.fullmatch(pattern, di)
        if match is None:
            continue
        number = int(match["n"])
        interval = _find(contract, f"04000A0{record_class + 1}")
        curve_di = curve.format(n=number - _CURVE_FIRST.get(curve[:6], 0))
        if curve and (found := _find(contract, curve_di)) is not None and _same_unit(found, spec):
            series.append(Record(memory=Memory.CURVE, spec=found, record_class=record_class, interval=interval))
        if (found := _find(contract, f"060{record_class}0001")) is not None:
            series.append(
                Record(
                    memory=Memory.BLOCKS,
                    spec=found,
                    place=number + shift,
                    record_class=record_class,
                    interval=interval,
                )
            )
    freezes = _freezes(contract, spec)
    daily = [freeze for freeze in freezes if freeze.memory is Memory.DAILY]
    hourly = [freeze for freeze in freezes if freeze.memory is Memory.HOURLY]
    return tuple(daily + series + hourly if period_s == 86400 else series + hourly + daily)


def _freezes(contract: Contract, spec: ItemSpec) -> list[Record]:
    energy = _ENERGY.fullmatch(spec.di.text)
    if energy is None:
        return []
    kind, tariff = energy.groups()
    found = []
    for memory, family in ((Memory.DAILY, "0506"), (Memory.HOURLY, "0504")):
        item, time = _find(contract, f"{family}{kind}01"), _find(contract, f"{family}0001")
        if item is None or time is None or not _same_unit(item, spec):
            continue
        if memory is Memory.DAILY or tariff == "00":  # hourly freezes keep totals only
            found.append(Record(memory=memory, spec=item, place=int(tariff, 16), time=time))
    return found


def _find(contract: Contract, di: str) -> ItemSpec | None:
    try:
        spec = contract.find(Di(di))
    except ContractError:
        return None
    return spec if "r" in spec.access else None


def _same_unit(found: ItemSpec, spec: ItemSpec) -> bool:
    return found.unit is spec.unit


# ------------------------------------------------------------------------------------------------ labels


def label_of(slot: datetime, zone: ZoneInfo) -> datetime | None:
    """The wall time that the meter writes at an interval's end; None in an hour that the zone's clock passes twice."""
    local = slot.astimezone(zone)
    label = local.replace(tzinfo=None, fold=0)
    firsts = {label.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return label if firsts == {slot.astimezone(UTC)} else None


def freeze_index(memory: Memory, label: datetime, meter_now: datetime) -> int | None:
    """How many freezes ago `label` was, 1 the latest; None where no freeze is taken, or it is no longer kept.

    A second before and after the meter's next freeze the answer would depend on whose clock is asked: None within 5 s.
    """
    if label.minute or (memory is Memory.DAILY and label.hour):
        return None
    margin = timedelta(seconds=5)
    indices = {_index(memory, label, moment) for moment in (meter_now - margin, meter_now + margin)}
    index = indices.pop()
    kept = DAILY_KEPT if memory is Memory.DAILY else HOURLY_KEPT
    return index if not indices and 1 <= index <= kept else None


def _index(memory: Memory, label: datetime, meter_now: datetime) -> int:
    if memory is Memory.DAILY:
        return (meter_now.date() - label.date()).days + 1
    latest = meter_now.replace(minute=0, second=0, microsecond=0)
    return (latest - label) // timedelta(hours=1) + 1


# ------------------------------------------------------------------------------------------------ asking


def next_ask(
    wanted: Sequence[Wanted], *, intervals_s: dict[int, int], reply_bytes_max: int, refused: Collection[str]
) -> Ask | None:
    """What to ask for next, given what is wanted of one meter; drops from `wanted` the places that cannot help.

    wanted: newest first; those whose `records` are empty have been everywhere.
    intervals_s: recording interval by class; 0 or absent is not known, and then one point is asked for at a time.
    refused: DIs that this meter has refused to answer at all.
    """
    for newest in wanted:
        while newest.records:
            record = newest.records[0]
            interval_s = intervals_s.get(record.record_class, 0)
            if record.spec.di.text in refused or not _on_grid(record, newest.label, interval_s):
                newest.records = newest.records[1:]
                continue
            if record.memory in (Memory.DAILY, Memory.HOURLY):
                return Ask(record=record, start=newest.label, count=1, interval_s=0)
            if not interval_s:
                return Ask(record=record, start=newest.label, count=1, interval_s=0)
            start = _oldest_in_reach(wanted, newest, interval_s, _points_max(record, reply_bytes_max))
            count = (newest.label - start) // timedelta(seconds=interval_s) + 1
            return Ask(record=record, start=start, count=count, interval_s=interval_s)
    return None


def _on_grid(record: Record, label: datetime, interval_s: int) -> bool:
    if record.memory is Memory.DAILY:
        return label.hour == label.minute == 0
    if record.memory is Memory.HOURLY:
        return label.minute == 0
    return not interval_s or (label.hour * 3600 + label.minute * 60) % interval_s == 0


def _points_max(record: Record, reply_bytes_max: int) -> int:
    room = reply_bytes_max - len(record.spec.di.wire)
    if record.memory is Memory.BLOCKS:
        size = BLOCK_BYTES + CLASS_BYTES[record.record_class - 1]
        return max(1, min(POINTS_MAX, room // size))
    return max(1, min(POINTS_MAX, (room - CURVE_START_BYTES) // size_range(record.spec)[0]))


def _oldest_in_reach(wanted: Sequence[Wanted], newest: Wanted, interval_s: int, points_max: int) -> datetime:
    di = newest.records[0].spec.di
    reach = newest.label - timedelta(seconds=interval_s * (points_max - 1))
    return min(
        other.label
        for other in wanted
        if other.records
        and other.records[0].spec.di == di
        and reach <= other.label <= newest.label
        and _on_grid(other.records[0], other.label, interval_s)
    )


# ------------------------------------------------------------------------------------------------ what a reply settles


def settle(wanted: Sequence[Wanted], ask: Ask, points: Sequence[Point]) -> list[tuple[Wanted, Decimal, Unit]]:
    """The amounts found, each for the gap it belongs to; takes the asked place from those that it turned out not to have.

    points: with certain labels only; what lies before the asked span is no answer. A gap inside the span and not among them is
    not there when the reply reached beyond it, or brought nothing at all; behind the last point of a short reply it stays
    wanted. The oldest gap of the span is always settled, so that asking comes to an end.
    """
    by_label = {point.label: point for point in points if point.label >= ask.start}
    last = max(by_label, default=None)
    end = ask.start + timedelta(seconds=ask.interval_s * (ask.count - 1))
    found = []
    for one in wanted:
        if not one.records or one.records[0].spec.di != ask.record.spec.di or not ask.start <= one.label <= end:
            continue
        record, point = one.records[0], by_label.get(one.label)
        if point is None:
            if last is None or one.label < last or ask.count == 1:
                one.records = one.records[1:]
            continue
        amount, unit = point.amounts[record.place] if record.place < len(point.amounts) else (None, Unit.NONE)
        if amount is None:
            one.records = one.records[1:]
        else:
            one.records = ()
            found.append((one, amount, unit))
    return found
