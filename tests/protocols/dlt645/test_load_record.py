"""Load records of both generations. The two constructed replies are examples made from the standard's annex B, not
captures: DATA after −33H of a class 1 record, and what stands around it."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_contracts.contract import load
from protocols.dlt645.items import Di, ItemSpec, ItemValue, decode, encode, fields_of
from protocols.dlt645.layout import Kind
from protocols.dlt645.load_record import (
    CLASSES,
    LoadBlock,
    decode_blocks,
    decode_curve,
    encode_blocks,
    encode_curve,
)
from protocols.errors import BadChecksum, BadSize, EncodeError
from protocols.values import Unit

# Reply of meter 123456789012, DI 06010001, one block; wire bytes with their +33H.
REPLY = bytes.fromhex(
    "68 12 90 78 56 34 12 68 91 25 34 33 34 39 D3 D3 4F 33 46 58 3B 55 63 55 CB 55 33 33 34 53 33 33 "
    "33 33 33 33 33 33 83 DD DD DD DD DD DD 6A 18 F6 16"
)
DATA = bytes((byte - 0x33) & 0xFF for byte in REPLY[10:-2])
AT = datetime(2022, 8, 25, 13, 0)


def spec_of(di: str) -> ItemSpec:
    return load("dlt645/base_2007").find(Di(di))


def test_the_example_block_decodes_and_encodes_byte_for_byte() -> None:
    assert Di.from_wire(DATA[:4]) == Di("06010001")
    (block,) = decode_blocks(DATA[4:])
    assert (block.at, block.damaged, list(block.classes)) == (AT, False, [1])
    assert [(value.name, value.content, value.unit) for value in block.classes[1]] == [
        ("Load record: voltage phase A", Decimal("223.0"), Unit.V),
        ("Load record: voltage phase B", Decimal("229.8"), Unit.V),
        ("Load record: voltage phase C", Decimal("0.0"), Unit.V),
        ("Load record: current phase A", Decimal("2.001"), Unit.A),
        ("Load record: current phase B", Decimal("0.000"), Unit.A),
        ("Load record: current phase C", Decimal("0.000"), Unit.A),
        ("Load record: frequency", Decimal("50.00"), Unit.HZ),
    ]
    assert {value.at for value in block.classes[1]} == {AT}
    assert encode_blocks([block]) == DATA[4:]


def test_load_record_item_decodes_to_a_flat_list() -> None:
    values = decode(DATA[4:], spec_of("06010001"))
    assert len(values) == 7
    assert decode(b"", spec_of("06010001")) == []
    with pytest.raises(EncodeError, match="encode_blocks"):
        encode(list(values), spec_of("06010001"))


def test_a_meter_without_records_answers_with_no_blocks() -> None:
    assert decode_blocks(b"") == []
    assert encode_blocks([]) == b""


def test_classes_have_the_sizes_of_the_standard() -> None:
    assert [sum(field.wire.whole_size for field in fields_of(spec)) for spec in CLASSES] == [17, 24, 8, 16, 16, 6]


def test_a_block_marked_damaged_gives_no_values() -> None:
    damaged = encode_blocks([LoadBlock(at=AT, classes={}, damaged=True)])
    assert damaged[:2] == b"\xe0\xe0"
    blocks = decode_blocks(DATA[4:] + damaged + DATA[4:])
    assert [block.damaged for block in blocks] == [False, True, False]
    assert blocks[1].classes == {}
    (value,) = decode(damaged, spec_of("06000002"))
    assert value.content is None


@pytest.mark.parametrize("at", range(len(DATA) - 4))
def test_no_damaged_byte_passes_for_a_record(at: int) -> None:
    wire = bytearray(DATA[4:])
    wire[at] ^= 0x01
    with pytest.raises((BadChecksum, BadSize)):
        decode_blocks(bytes(wire))


def test_a_block_cut_short_is_refused() -> None:
    for size in range(1, len(DATA) - 4):
        with pytest.raises((BadChecksum, BadSize)):
            decode_blocks(DATA[4 : 4 + size])


def test_classes_that_do_not_end_with_the_block_are_refused() -> None:
    body = encode_blocks([LoadBlock(at=AT, classes={})])[3:-2]
    for changed in (body + b"\xaa", body[:-1], body[:-1] + b"\x00"):
        wire = b"\xa0\xa0" + bytes([len(changed)]) + changed
        with pytest.raises(BadSize):
            decode_blocks(wire + bytes([sum(wire) & 0xFF, 0xE5]))


def _values(spec: ItemSpec) -> st.SearchStrategy[list[ItemValue]]:
    def amount(wire: Any) -> st.SearchStrategy[Decimal | None]:
        top = 8 * 10 ** (2 * wire.size - 1) - 1
        return st.none() | st.integers(-top if wire.signed else 0, top).map(lambda n: Decimal(n).scaleb(-wire.decimals))

    return st.tuples(*(amount(field.wire) for field in fields_of(spec))).map(
        lambda contents: [
            ItemValue(name=field.label, content=content, unit=field.unit or Unit.NONE, at=AT)
            for field, content in zip(fields_of(spec), contents, strict=True)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={n: _values(c) for n, c in enumerate(CLASSES, 1)}), max_size=4))
def test_blocks_write_and_read_back_themselves(classes: list[dict[int, list[ItemValue]]]) -> None:
    blocks = [LoadBlock(at=AT, classes=dict(sorted(one.items()))) for one in classes]
    assert decode_blocks(encode_blocks(blocks)) == blocks


# Second generation


def test_curve_spaces_its_points_from_the_first_time() -> None:
    spec = spec_of("06100101")
    values = decode_curve(bytes.fromhex("0013250822 3022 9822 FFFF"), spec, period_s=900)
    assert [(value.content, value.at) for value in values] == [
        (Decimal("223.0"), AT),
        (Decimal("229.8"), datetime(2022, 8, 25, 13, 15)),
        (None, datetime(2022, 8, 25, 13, 30)),
    ]
    assert encode_curve(AT, values, spec) == bytes.fromhex("0013250822 3022 9822 FFFF")


def test_curve_without_a_period_times_its_first_point_only() -> None:
    values = decode(bytes.fromhex("0013250822 3022 9822"), spec_of("06100101"))
    assert [value.at for value in values] == [AT, None]


def test_curve_of_a_block_has_all_phases_in_every_point() -> None:
    spec = spec_of("061002FF")
    wire = bytes.fromhex("0013250822 010080 020000 030000 040000 050000 060000")
    values = decode_curve(wire, spec, period_s=900)
    assert [value.content for value in values][:3] == [Decimal("-0.001"), Decimal("0.002"), Decimal("0.003")]
    assert [value.name for value in values][3] == "Load curve: current, phase A"
    assert encode_curve(AT, values, spec) == wire


def test_curve_without_data_is_empty_and_a_broken_one_is_refused() -> None:
    spec = spec_of("06100101")
    assert decode_curve(b"", spec, period_s=900) == []
    assert encode_curve(AT, [], spec) == b""
    for size in (1, 4, 6, 8):
        with pytest.raises(BadSize):
            decode_curve(bytes(size), spec, period_s=900)
    with pytest.raises(EncodeError):
        encode_curve(AT, [Decimal(1)] * 2, spec_of("061001FF"))


def test_all_values_of_the_classes_are_amounts() -> None:
    assert {field.wire.kind for spec in CLASSES for field in fields_of(spec)} == {Kind.AMOUNT}
