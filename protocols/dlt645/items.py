"""Items of DL/T 645: what a data identifier names, from bytes to values and back.

An item is one layout (`layout`), or a block: a DI with FFH (1997: FH) in it that asks for several items at once. The
items of a block come back to back, with AAH after every one, or with one AAH at the end; which it was follows from
the length and from AAH being no BCD. A block ends early where a meter has fewer tariffs or phases than the maximum.

What a DI means is not known here: `ItemSpec` is made from a contract row.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

from construct import ConstError, ConstructError
from msgspec import Struct
from msgspec.structs import force_setattr

from protocols.dlt645.layout import Alternative, Field, Kind, Separators, codec, lone_reader, parse_layout, time_of
from protocols.errors import BadDi, BadDigit, BadSize, EncodeError, ItemError
from protocols.values import Obis, Unit

__all__ = ["Di", "Encodable", "ItemSpec", "ItemValue", "Separators", "decode", "encode", "fields_of", "size_range"]

_DI = re.compile(r"[0-9A-F]{8}|[0-9A-F]{4}")
SEPARATOR = 0xAA


class Di(Struct, frozen=True, order=True, cache_hash=True):
    """Data identifier (数据标识), written high byte first: 8 hex digits (2007) or 4 (1997). Raises BadDi."""

    text: str

    def __post_init__(self) -> None:
        force_setattr(self, "text", self.text.upper())
        if _DI.fullmatch(self.text) is None:
            raise BadDi(self.text)

    @classmethod
    def from_wire(cls, wire: bytes) -> "Di":
        """wire: as sent after −33H, low byte first. Raises BadDi."""
        return _di_of_wire(wire)

    @property
    def wire(self) -> bytes:
        return bytes.fromhex(self.text)[::-1]

    @property
    def dialect(self) -> str:
        return "2007" if len(self.text) == 8 else "1997"

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)  # a fleet asks for some dozens; a scan of all identifiers must not fill the memory
def _di_of_wire(wire: bytes) -> Di:
    return Di(wire[::-1].hex())


class ItemValue(Struct, frozen=True, kw_only=True):
    """One value of an item.

    content: Decimal for amounts, with the scale of the layout ("0.00" keeps its decimals); str for all else, as
    `layout` prints it; None when the meter sent FFH in every byte: not measured.
    at: the meter's wall time, without zone: of the occurrence for a maximum demand, of the block or point for load
    records, the time itself for times. None where there is none, where it is all zero (an event still open) or no date.
    """

    name: str
    obis: Obis | None = None
    content: Decimal | str | None
    unit: Unit = Unit.NONE
    at: datetime | None = None


class ItemSpec(Struct, frozen=True, kw_only=True, cache_hash=True):
    """What one concrete DI means, resolved from a contract row.

    unit, signed: of amounts whose layout does not say its own; `unit` is NONE where the values of a record differ.
    access: r, rw, w, or x for items of the security function 03H.
    obis: of the item's only value; the values of a record carry their own, if any.
    members: of a block, in the order of the reply; `layout` is "" then.
    partial: a reply may hold fewer members than there are, from the first on.
    terminated: a 1997 data set: every member is a block with AAH behind it, an absent one is AAH alone.
    series: "load-record" or "curve", see `load_record`; the layout is then that of one point.
    source: contract and row, "dlt645/base_2007:00010000". origin: keys of the documents the row rests on, "S07;L".
    """

    di: Di
    name: str
    name_zh: str = ""
    layout: str = ""
    unit: Unit = Unit.NONE
    signed: bool = False
    access: str = "r"
    obis: Obis | None = None
    members: tuple["ItemSpec", ...] = ()
    partial: bool = True
    terminated: bool = False
    series: str = ""
    source: str = ""
    origin: str = ""
    note: str = ""


Encodable: TypeAlias = (
    ItemValue | Decimal | int | str | datetime | tuple[Decimal | int | str | None, datetime | None] | None
)


def decode(data: bytes, spec: ItemSpec) -> list[ItemValue]:
    """Read the DATA behind the DI, after −33H; of a reply in several frames, all of it.

    Raises BadSize when no number of members fits, BadDigit when a nibble above 9 stands where a digit must be: never
    a wrong number. A curve's points carry times only as far as the data do; `load_record.decode_curve` fills them in.
    """
    if spec.series:
        from protocols.dlt645 import load_record  # it builds on this module

        return load_record.decode_series(data, spec)
    if spec.terminated:
        return _decode_set(data, spec)
    problem: ItemError | None = None
    for reading in _possible_readings(spec, len(data)):
        try:
            return _read(reading, data)
        except ConstError:
            continue  # no AAH where this arrangement has it: try the next
        except BadDigit as error:
            problem = problem or BadDigit(f"{spec.di} {spec.name}: {error}", data)
        except ConstructError as error:
            problem = problem or BadSize(f"{spec.di} {spec.name}: {error}", data)
    raise problem or BadSize(f"{spec.di} {spec.name}: {len(data)} bytes, expected {_expected(spec)}", data)


def encode(values: Encodable | Sequence[Any], spec: ItemSpec, *, separators: Separators = Separators.NONE) -> bytes:
    """Inverse of decode: one value, or a list of as many as the meter has members.

    Takes what decode gives, or bare contents: Decimal, int or decimal text, digits, datetime for times, and the pair
    (amount, time) for a maximum demand; None fills with FFH. A data set takes a list per member block. Raises
    EncodeError when a value does not fit or the number of values fits no arrangement.
    """
    if spec.series:
        raise EncodeError(f"{spec.di} {spec.name}: a series is written by load_record.encode_blocks or encode_curve")
    if spec.terminated:
        blocks = list(values) if isinstance(values, list | tuple) else []
        if len(blocks) != len(spec.members):
            raise EncodeError(f"{spec.di} {spec.name}: expected a list for each of {len(spec.members)} blocks")
        return b"".join(
            (encode(block, member) if block else b"") + bytes([SEPARATOR])
            for block, member in zip(blocks, spec.members, strict=True)
        )
    given: list[Encodable] = list(values) if isinstance(values, list) else [values]  # type: ignore[list-item]
    arrangement = next(_arrangements(spec, len(given), separators, by_count=True), None)
    if arrangement is None:
        raise EncodeError(f"{spec.di} {spec.name}: {len(given)} values do not make the item")
    groups = _with_open_size(arrangement, given)
    contents = iter(given)
    parts: list[Any] = []
    for fields in groups:
        parts.append([raw for field in fields for raw in _to_raw(next(contents), field)])
        if separators is Separators.EACH:
            parts.append(b"\xaa")
    if separators is Separators.END:
        parts.append(b"\xaa")
    try:
        wire: bytes = codec(tuple(tuple(f.wire for f in fields) for fields in groups), separators).build(parts)
    except (EncodeError, ConstructError) as error:
        raise EncodeError(f"{spec.di} {spec.name}: {error}") from error
    return wire


def fields_of(spec: ItemSpec) -> tuple[Field, ...]:
    """Every field the item can have, in order: an open repetition as often as it may be, RAW once."""
    if spec.members:
        return tuple(field for member in spec.members for field in fields_of(member))
    layout = parse_layout(spec.layout)[0]
    return tuple(_resolve(field, spec) for field in layout.expand(0 if layout.is_open else layout.most))


def size_range(spec: ItemSpec) -> tuple[int, int | None]:
    """Fewest and most bytes of the item without separators; None where it is open."""
    if not spec.members:
        layouts = parse_layout(spec.layout)
        least = min(layout.fixed_size + layout.least * layout.step_size for layout in layouts)
        most = max(layout.fixed_size + layout.most * layout.step_size for layout in layouts)
        return least, None if any(layout.is_open for layout in layouts) else most
    ranges = [size_range(member) for member in spec.members]
    tops = [top for _, top in ranges if top is not None]
    if spec.terminated:
        return len(ranges), sum(tops) + len(ranges)
    least = ranges[0][0] if spec.partial else sum(low for low, _ in ranges)
    return least, sum(tops) if len(tops) == len(ranges) else None


# From length to arrangement: which members are there, how often the open field repeats, where the separators are


class _Output(Struct, frozen=True):
    """Where a parsed field goes. picture: of its time, or ""."""

    name: str
    obis: Obis | None
    unit: Unit
    kind: Kind
    picture: str


class _Reading(Struct, frozen=True):
    """One way to read a length: the compiled construct, what comes out of each group, and 2 where AAH stands between.

    lone: reader and output of an item of one field, read without building lists: most items of most polls.
    """

    parser: Any
    groups: tuple[tuple[_Output, ...], ...]
    stride: int
    lone: tuple[Callable[[bytes], Any], _Output] | None = None


def _possible_readings(spec: ItemSpec, length: int) -> Iterator[_Reading]:
    """Without separators first: that is the standard, and almost always all that is looked at."""
    for order in range(len(_SEPARATORS)):
        yield from _readings(spec, length, order)


_SEPARATORS = (Separators.NONE, Separators.EACH, Separators.END)


@lru_cache(maxsize=8192)
def _readings(spec: ItemSpec, length: int, order: int) -> tuple[_Reading, ...]:
    separators = _SEPARATORS[order]
    readings = []
    for groups in _arrangements(spec, length, separators):
        outputs = tuple(tuple(_output(field) for field in fields) for fields in groups)
        first = groups[0][0]
        if separators is Separators.NONE and len(groups) == len(groups[0]) == 1 and not _is_timed(first):
            readings.append(_Reading(None, outputs, 1, (lone_reader(first.wire), outputs[0][0])))
        else:
            parser = codec(tuple(tuple(field.wire for field in fields) for fields in groups), separators)
            readings.append(_Reading(parser, outputs, 2 if separators is Separators.EACH else 1))
    return tuple(readings)


def _read(reading: _Reading, data: bytes) -> list[ItemValue]:
    if reading.lone is not None:
        reader, out = reading.lone
        content = reader(data)
        at = time_of(out.picture, content) if out.picture else None
        return [ItemValue(name=out.name, obis=out.obis, content=content, unit=out.unit, at=at)]
    values = []
    parsed = reading.parser.parse(data)
    for index, outputs in enumerate(reading.groups):
        raws = iter(parsed[index * reading.stride])
        for out in outputs:
            content = next(raws)
            at = None
            if out.picture:
                at = time_of(out.picture, content if out.kind is Kind.TIME else next(raws))
            values.append(ItemValue(name=out.name, obis=out.obis, content=content, unit=out.unit, at=at))
    return values


def _arrangements(
    spec: ItemSpec, total: int, separators: Separators, *, by_count: bool = False
) -> Iterator[tuple[tuple[Field, ...], ...]]:
    """Groups of fields that make `total` bytes, or with `by_count` that many values."""
    if not spec.members:
        for layout in parse_layout(spec.layout):
            several = bool(layout.repeated) or layout.fixed_count > 1
            if separators is Separators.NONE or (several and _is_bcd(layout)):
                each = separators is Separators.EACH
                yield from _arrange([(spec, layout)], total, separators, by_count, split=each)
        return
    least = most = 0
    for count, member in enumerate(spec.members, start=1):
        low, high = _measure(member, separators, by_count)
        least, most = least + low, most + high
        closing = 1 if separators is Separators.END and not by_count else 0
        if not least + closing <= total <= most + closing or (count < len(spec.members) and not spec.partial):
            continue
        choices = [[(one, layout) for layout in parse_layout(one.layout)] for one in spec.members[:count]]
        for chosen in itertools.product(*choices):
            yield from _arrange(list(chosen), total, separators, by_count, split=False)


@lru_cache(maxsize=8192)
def _measure(member: ItemSpec, separators: Separators, by_count: bool) -> tuple[int, int]:
    """Fewest and most bytes, or values, that a member adds to its block."""
    lows, highs = [], []
    for layout in parse_layout(member.layout):
        fixed, step = (layout.fixed_count, layout.step_count) if by_count else (layout.fixed_size, layout.step_size)
        own = 1 if separators is Separators.EACH and not by_count else 0
        lows.append(fixed + layout.least * step + own)
        highs.append(fixed + layout.most * step + own)
    return min(lows), max(highs)


def _arrange(
    chosen: list[tuple[ItemSpec, Alternative]], total: int, separators: Separators, by_count: bool, *, split: bool
) -> Iterator[tuple[tuple[Field, ...], ...]]:
    """All open repetitions of a block are the same number: that of the tariffs. `split`: AAH after every field."""
    layouts = [layout for _, layout in chosen]
    if by_count:
        fixed, step = sum(x.fixed_count for x in layouts), sum(x.step_count for x in layouts)
    else:
        fixed, step = sum(x.fixed_size for x in layouts), sum(x.step_size for x in layouts)
        if split:
            fixed, step = fixed + layouts[0].fixed_count, step + layouts[0].step_count
        elif separators is Separators.EACH:
            fixed += len(layouts)
        elif separators is Separators.END:
            fixed += 1
    repetitions, rest = divmod(total - fixed, step) if step else (0, total - fixed)
    fits = all(x.least <= repetitions <= x.most for x in layouts if x.repeated and not (by_count and x.is_open))
    if rest or not fits:
        return
    groups = [tuple(_resolve(field, spec) for field in layout.expand(repetitions)) for spec, layout in chosen]
    yield tuple((field,) for field in groups[0]) if split else tuple(groups)


def _is_bcd(layout: Alternative) -> bool:
    return all(field.wire.is_bcd for field in layout.before + layout.repeated + layout.after)


def _resolve(field: Field, spec: ItemSpec) -> Field:
    """The field with name, unit, sign and OBIS of its row where the layout leaves them to it."""
    wire = field.wire
    if spec.signed and wire.kind is Kind.AMOUNT and not wire.signed:
        wire = type(wire)(kind=wire.kind, size=wire.size, decimals=wire.decimals, signed=True, picture=wire.picture)
    unit = field.unit
    if unit is None:
        unit = {Kind.AMOUNT: spec.unit, Kind.BITS: Unit.BITS}.get(wire.kind, Unit.NONE)
    return Field(
        wire=wire,
        label=f"{spec.name}: {field.label}" if field.label else spec.name,
        unit=unit,
        obis=field.obis or (None if field.label else spec.obis),
    )


def _is_timed(field: Field) -> bool:
    """An amount with its time behind it: two raw values make one."""
    return field.wire.kind is Kind.AMOUNT and bool(field.wire.picture)


def _output(field: Field) -> _Output:
    return _Output(field.label, field.obis, field.unit or Unit.NONE, field.wire.kind, field.wire.picture)


def _expected(spec: ItemSpec) -> str:
    least, most = size_range(spec)
    return str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"


def _to_raw(value: Encodable, field: Field) -> Iterator[object]:
    at: datetime | None = None
    if isinstance(value, ItemValue):
        content: object = value.content
        at = value.at
    elif isinstance(value, tuple):
        content, at = value
    else:
        content = value
    yield content
    if _is_timed(field):
        # No maximum yet: zeros. No measurement at all: FFH, as in the amount.
        yield at if at is not None else None if content is None else "0" * len(field.wire.picture)


def _with_open_size(groups: tuple[tuple[Field, ...], ...], given: list[Encodable]) -> tuple[tuple[Field, ...], ...]:
    """RAW takes its size from the value it is given."""
    last = groups[-1][-1]
    if last.wire.kind is not Kind.RAW:
        return groups
    value = given[-1].content if isinstance(given[-1], ItemValue) else given[-1]
    if not isinstance(value, str):
        raise EncodeError(f"{last.label}: {value!r} is not hex")
    wire = type(last.wire)(kind=Kind.RAW, size=len(value) // 2)
    return (*groups[:-1], (*groups[-1][:-1], Field(wire=wire, label=last.label)))


def _decode_set(data: bytes, spec: ItemSpec) -> list[ItemValue]:
    """Every member block ends with AAH, which no BCD field can begin with."""
    values: list[ItemValue] = []
    at = 0
    for block in spec.members:
        start = at
        for member in block.members:
            if at >= len(data) or data[at] == SEPARATOR:
                break
            at += size_range(member)[0]
        if at >= len(data) or data[at] != SEPARATOR:
            raise BadSize(f"{spec.di} {spec.name}: no AAH behind {block.name}", data)
        if at > start:
            values += decode(data[start:at], block)
        at += 1
    if at != len(data):
        raise BadSize(f"{spec.di} {spec.name}: {len(data)} bytes, {at} make the whole set", data)
    return values
