"""Load records (负荷记录) of both generations: values a meter keeps at fixed intervals.

First generation, DI 06cc00ss: blocks back to back, each with its own time and checksum (DL/T 645-2007, annex B):

    A0 A0 | size | mm hh DD MM YY | class 1 | AA | class 2 | AA | … | class 6 | AA | sum | E5

E0 E0 in place of A0 A0 marks a block the meter itself found damaged. `size` (binary) counts from the time through the
last AA; a class not recorded or not asked for leaves only its AA; the sum runs from the first A0 through the last AA.

Second generation ("load curve"), DI 0610cckk: the time of the first point, then values at a fixed spacing that only
the meter's interval parameters 04000A02.. tell. Follow-up replies carry values alone, so the whole DATA of a reply in
several frames is one curve.

A meter without a record in the asked span answers with the DI alone: no bytes, no values.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from protocols.dlt645.items import Di, Encodable, ItemSpec, ItemValue, decode, encode, size_range
from protocols.errors import BadChecksum, BadSize, EncodeError
from protocols.values import Unit

__all__ = ["CLASSES", "LoadBlock", "decode_blocks", "decode_curve", "decode_series", "encode_blocks", "encode_curve"]

START, START_DAMAGED, END, SEPARATOR = b"\xa0\xa0", b"\xe0\xe0", 0xE5, 0xAA
HEADER_SIZE = 3  # two start bytes and the size
TIME_SIZE = 5
_TIME = ItemSpec(di=Di("06000000"), name="Load record: time", layout="YYMMDDhhmm")


def _record_class(number: int, name: str, layout: str) -> ItemSpec:
    return ItemSpec(di=Di(f"060{number}0000"), name=name, layout=layout)


# DL/T 645-2007, annex B: what each class holds, in the order of the block. 17, 24, 8, 16, 16 and 6 bytes.
CLASSES = (
    _record_class(
        1,
        "Load record",
        "voltage phase A/voltage phase B/voltage phase C:XXX.X[V],"
        "current phase A/current phase B/current phase C:±XXX.XXX[A],frequency:XX.XX[Hz]",
    ),
    _record_class(
        2,
        "Load record",
        "active power total/active power phase A/active power phase B/active power phase C:"
        "±XX.XXXX[kW],reactive power total/reactive power phase A/reactive power phase B/"
        "reactive power phase C:±XX.XXXX[kvar]",
    ),
    _record_class(
        3, "Load record", "power factor total/power factor phase A/power factor phase B/power factor phase C:±X.XXX"
    ),
    _record_class(
        4,
        "Load record",
        "forward active energy/reverse active energy:XXXXXX.XX[kWh],"
        "combined reactive energy 1/combined reactive energy 2:±XXXXXX.XX[kvarh]",
    ),
    _record_class(
        5,
        "Load record",
        "quadrant I reactive energy/quadrant II reactive energy/"
        "quadrant III reactive energy/quadrant IV reactive energy:XXXXXX.XX[kvarh]",
    ),
    _record_class(6, "Load record", "present active demand:±XX.XXXX[kW],present reactive demand:±XX.XXXX[kvar]"),
)


class LoadBlock(Struct, frozen=True, kw_only=True):
    """What a meter recorded at one moment.

    at: the meter's wall time; None where the block's time is no date.
    classes: values by class number 1..6; absent classes are left out.
    damaged: the meter marked the block; its values must not be used and are not decoded.
    """

    at: datetime | None
    classes: dict[int, list[ItemValue]]
    damaged: bool = False


def decode_blocks(data: bytes) -> list[LoadBlock]:
    """Read first-generation blocks, the DATA behind the DI of one whole reply.

    Raises BadSize when a block's parts and its size byte disagree, BadChecksum when its sum does, BadDigit.
    """
    blocks, at = [], 0
    while at < len(data):
        size = data[at + HEADER_SIZE - 1] if at + HEADER_SIZE <= len(data) else 0
        body_end = at + HEADER_SIZE + size
        wire = data[at : body_end + 2]
        if len(wire) < HEADER_SIZE + size + 2 or size < TIME_SIZE + len(CLASSES):
            raise BadSize(f"a load record block of {size} bytes does not fit the {len(data) - at} bytes left", wire)
        if wire[:2] not in (START, START_DAMAGED) or wire[-1] != END:
            raise BadSize("a load record block begins with A0A0H or E0E0H and ends with E5H", wire)
        expected = sum(wire[:-2]) & 0xFF
        if expected != wire[-2]:
            raise BadChecksum(wire, expected=expected, found=wire[-2])
        blocks.append(_decode_block(wire))
        at = body_end + 2
    return blocks


def _decode_block(wire: bytes) -> LoadBlock:
    body = wire[HEADER_SIZE:-2]
    damaged = wire[:2] == START_DAMAGED
    if damaged:
        return LoadBlock(at=None, classes={}, damaged=True)
    (time,) = decode(body[:TIME_SIZE], _TIME)
    at, classes = TIME_SIZE, {}
    for number, spec in enumerate(CLASSES, start=1):
        if body[at : at + 1] != bytes([SEPARATOR]):
            size = size_range(spec)[0]
            values = decode(body[at : at + size], spec)
            classes[number] = [replace(value, at=time.at) for value in values]
            at += size
        if body[at : at + 1] != bytes([SEPARATOR]):
            raise BadSize(f"no AAH behind class {number} of a load record block", wire)
        at += 1
    if at != len(body):
        raise BadSize(f"a load record block of {len(body)} bytes whose classes end after {at}", wire)
    return LoadBlock(at=time.at, classes=classes)


def encode_blocks(blocks: Sequence[LoadBlock]) -> bytes:
    """Inverse of decode_blocks; a damaged block goes out as E0E0H with no classes. Raises EncodeError."""
    return b"".join(_encode_block(block) for block in blocks)


def _encode_block(block: LoadBlock) -> bytes:
    body = encode(block.at, _TIME)
    for number, spec in enumerate(CLASSES, start=1):
        values = block.classes.get(number)
        if values and not block.damaged:
            body += encode(list(values), spec)
        body += bytes([SEPARATOR])
    wire = (START_DAMAGED if block.damaged else START) + bytes([len(body)]) + body
    return wire + bytes([sum(wire) & 0xFF, END])


def decode_curve(data: bytes, spec: ItemSpec, *, period_s: int | None = None) -> list[ItemValue]:
    """Read a second-generation curve, oldest point first: its values in the order of the item.

    period_s: the meter's recording interval; without it only the first point has a time. A point of FFH is None, a
    missing one. Raises BadSize, BadDigit.
    """
    point = _point(spec)
    size = size_range(point)[0]
    if not data:
        return []
    if len(data) < TIME_SIZE or (len(data) - TIME_SIZE) % size:
        raise BadSize(f"{spec.di} {spec.name}: {len(data)} bytes, expected {TIME_SIZE} and a multiple of {size}", data)
    (start,) = decode(data[:TIME_SIZE], _TIME)
    values = []
    for index in range((len(data) - TIME_SIZE) // size):
        at = start.at if index == 0 else None
        if start.at is not None and period_s is not None:
            at = start.at + timedelta(seconds=index * period_s)
        where = TIME_SIZE + index * size
        values += [replace(value, at=at) for value in decode(data[where : where + size], point)]
    return values


def encode_curve(start: datetime | None, values: Sequence[Encodable], spec: ItemSpec) -> bytes:
    """Inverse of decode_curve. No values is the empty reply of a meter without a record. Raises EncodeError."""
    point = _point(spec)
    width = max(1, len(spec.members))
    if len(values) % width:
        raise EncodeError(f"{spec.di} {spec.name}: {len(values)} values do not make points of {width}")
    if not values:
        return b""
    points = [encode(list(values[at : at + width]), point) for at in range(0, len(values), width)]
    return encode(start, _TIME) + b"".join(points)


@lru_cache(maxsize=256)
def _point(spec: ItemSpec) -> ItemSpec:
    return replace(spec, series="", partial=False)


def decode_series(data: bytes, spec: ItemSpec) -> list[ItemValue]:
    """The values of a load record or curve in one list; of damaged blocks one value without content."""
    if spec.series == "curve":
        return decode_curve(data, spec)
    values: list[ItemValue] = []
    for block in decode_blocks(data):
        if block.damaged:
            values.append(ItemValue(name="Load record: damaged block", content=None, unit=Unit.NONE))
        for number in sorted(block.classes):
            values += block.classes[number]
    return values
