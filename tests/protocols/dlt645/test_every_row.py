"""Every row of the contracts, not a sample of them: random values of every field go over the wire and come back themselves."""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from firmware_contracts.contract import load
from protocols.dlt645.items import ItemSpec, ItemValue, decode, encode, fields_of, size_range
from protocols.dlt645.layout import Field, Kind, parse_layout
from protocols.dlt645.load_record import decode_curve, encode_curve
from protocols.values import Unit

ROUNDS = 3
EDITIONS = ["dlt645/base_2007", "dlt645/base_1997"]
START = datetime(2025, 6, 1, 0, 15)


def value_of(field: Field, dice: random.Random) -> ItemValue:
    """Anything the field can carry; every tenth time nothing, where nothing can be said."""
    wire = field.wire
    top = 8 * 10 ** (2 * wire.size - 1) - 1 if wire.signed else 10 ** (2 * wire.size) - 1
    content: Any
    at = None
    match wire.kind:
        case Kind.AMOUNT:
            content = Decimal(dice.randint(-top if wire.signed else 0, top)).scaleb(-wire.decimals)
            if wire.picture:
                at = START + timedelta(minutes=dice.randrange(500_000))
        case Kind.DIGITS | Kind.TIME:
            content = str(dice.randint(0, top)).zfill(2 * wire.size)
        case Kind.ASCII:
            content = "".join(dice.choice("ABC019.-/") for _ in range(dice.randint(0, wire.size)))
        case Kind.RAW:
            content = dice.randbytes(dice.randint(0, 8)).hex().upper()
        case _:
            content = dice.randbytes(wire.size).hex().upper()
    if wire.kind in (Kind.AMOUNT, Kind.DIGITS, Kind.TIME) and dice.random() < 0.1:
        content, at = None, None
    return ItemValue(name=field.label, obis=field.obis, content=content, unit=field.unit or Unit.NONE, at=at)


def values_of(spec: ItemSpec, dice: random.Random) -> list[ItemValue]:
    """As many values as a meter may send: open lists of a block are all of one length, and a block may end early."""
    if not spec.members:
        layout = parse_layout(spec.layout)[0]
        repetitions = dice.randint(layout.least, min(layout.most, 20)) if layout.repeated else 0
        count = layout.fixed_count + repetitions * layout.step_count
        return [value_of(field, dice) for field in fields_of(spec)[:count]]
    count = dice.randint(1, min(len(spec.members), 20)) if spec.partial else len(spec.members)
    values = []
    for member in spec.members[:count]:
        layout = parse_layout(member.layout)[0]
        width = layout.fixed_count + 3 * layout.step_count
        values += [value_of(field, dice) for field in fields_of(member)[:width]]
    return values


def told(values: list[ItemValue]) -> list[tuple[Any, ...]]:
    """All that an amount says, and of other kinds all but the date, which follows from the content."""
    return [
        (value.name, value.obis, value.content, value.unit, value.at if isinstance(value.content, Decimal) else None)
        for value in values
    ]


@pytest.mark.parametrize("name", EDITIONS)
def test_every_row_writes_and_reads_back_random_values(name: str) -> None:
    dice = random.Random(name)
    tried = 0
    for spec in load(name).samples():
        if spec.series or spec.terminated:
            continue
        for _ in range(ROUNDS):
            values = values_of(spec, dice)
            wire = encode(list(values), spec)
            least, most = size_range(spec)
            assert least <= len(wire) <= (most if most is not None else len(wire)), spec.di
            read = decode(wire, spec)
            assert told(read) == told(values), spec.di
            assert encode(list(read), spec) == wire, spec.di
        tried += 1
    assert tried > (200 if name.endswith("2007") else 50)


@pytest.mark.parametrize("name", EDITIONS)
def test_every_data_set_writes_and_reads_back_with_any_of_its_blocks_absent(name: str) -> None:
    dice = random.Random(name)
    sets = [spec for spec in load(name).samples() if spec.terminated]
    assert bool(sets) == name.endswith("1997")
    for spec in sets:
        for _ in range(ROUNDS):
            blocks = [values_of(member, dice) if dice.random() < 0.7 else [] for member in spec.members]
            wire = encode(list(blocks), spec)
            assert told(decode(wire, spec)) == told([value for block in blocks for value in block]), spec.di


def test_every_curve_writes_and_reads_back_its_points() -> None:
    dice = random.Random(6)
    curves = [spec for spec in load("dlt645/base_2007").samples() if spec.series == "curve"]
    assert len(curves) >= 8
    for spec in curves:
        point = ItemSpec(
            di=spec.di, name=spec.name, layout=spec.layout, unit=spec.unit, signed=spec.signed, obis=spec.obis
        )
        one = values_of(point, dice) if not spec.members else [value_of(f, dice) for f in fields_of(spec)]
        values = [value.content for _ in range(5) for value in one]
        wire = encode_curve(START, list(values), spec)
        read = decode_curve(wire, spec, period_s=900)
        assert [value.content for value in read] == values, spec.di
        assert {value.at for value in read} == {START + timedelta(minutes=15 * number) for number in range(5)}
