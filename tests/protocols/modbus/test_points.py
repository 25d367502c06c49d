"""Registers to amounts and back: published values, pymodbus as second witness, and the shortest decimal of a float32."""

import struct
from decimal import ROUND_DOWN, ROUND_UP, Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.client.mixin import ModbusClientMixin

from protocols.errors import BadDigit, BadLayout, BadSize, EncodeError
from protocols.modbus.points import Point, PointType, WordOrder, decode_point, encode_point, nearest
from protocols.values import Unit

FOREIGN = {
    kind: getattr(ModbusClientMixin.DATATYPE, kind.value.upper())
    for kind in PointType
    if not kind.value.startswith("bcd")
}
INTEGERS = [kind for kind in FOREIGN if not kind.is_float]


def point(kind: PointType, **fields: object) -> Point:
    return Point(name="p", function=3, address=0x10, type=kind, unit=Unit.V, **fields)  # type: ignore[arg-type]


def amount(kind: PointType, hex_: str, **fields: object) -> Decimal | None:
    return decode_point(point(kind, **fields), bytes.fromhex(hex_))


@pytest.mark.parametrize(
    ("kind", "fields", "hex_", "expected"),
    [
        (PointType.FLOAT32, {}, "43663333", "230.2"),
        (PointType.FLOAT32, {}, "43663334", "230.20001"),
        (PointType.FLOAT32, {}, "3F800000", "1"),
        (PointType.FLOAT32, {}, "80000000", "0"),
        (PointType.FLOAT32, {}, "00000001", "1E-45"),
        (PointType.FLOAT32, {}, "501502F9", "10000000000"),
        (PointType.FLOAT32, {"scale": Decimal("0.1")}, "450FE000", "230.2"),
        (PointType.FLOAT32, {"word_order": WordOrder.LITTLE}, "33334366", "230.2"),
        (PointType.FLOAT64, {}, "406CC66666666666", "230.2"),
        (PointType.INT32, {"scale": Decimal("0.1"), "word_order": WordOrder.LITTLE}, "08FE0000", "230.2"),
        (PointType.INT32, {"scale": Decimal("0.1"), "word_order": WordOrder.LITTLE}, "FFFFFFFF", "-0.1"),
        (PointType.UINT64, {"scale": Decimal("0.01")}, "00000000000C0DE1", "7899.85"),
        (PointType.UINT64, {"scale": Decimal("0.01")}, "FFFFFFFFFFFFFFFE", "184467440737095516.14"),
        (PointType.UINT64, {"word_order": WordOrder.LITTLE}, "0004000300020001", "281483566841860"),
        (PointType.INT16, {"scale": Decimal("0.001")}, "FC18", "-1.000"),
        (PointType.UINT16, {"scale": Decimal("1E+3")}, "0002", "2000"),
        (PointType.BCD16, {}, "1234", "1234"),
        (PointType.BCD32, {"scale": Decimal("0.01")}, "00123456", "1234.56"),
    ],
)
def test_registers_are_amounts(kind: PointType, fields: dict[str, object], hex_: str, expected: str) -> None:
    found = amount(kind, hex_, **fields)
    assert str(found) == expected
    back = encode_point(point(kind, **fields), found)
    assert back == bytes.fromhex("00000000" if hex_ == "80000000" else hex_)


@pytest.mark.parametrize(
    ("kind", "fields", "hex_"),
    [
        (PointType.FLOAT32, {}, "7FC00000"),
        (PointType.FLOAT32, {}, "FFC00000"),
        (PointType.FLOAT32, {}, "7F800000"),
        (PointType.FLOAT32, {}, "FF800000"),
        (PointType.FLOAT64, {}, "7FF8000000000000"),
        (PointType.UINT32, {"invalid": (0xFFFFFFFF,)}, "FFFFFFFF"),
        (PointType.INT32, {"invalid": (0x7FFFFFFF,), "word_order": WordOrder.LITTLE}, "FFFF7FFF"),
        (PointType.INT16, {"invalid": (0x7FFF, 0x8000)}, "8000"),
    ],
)
def test_what_the_device_marks_as_not_measured_is_no_number(
    kind: PointType, fields: dict[str, object], hex_: str
) -> None:
    assert amount(kind, hex_, **fields) is None


def test_nothing_measured_is_written_as_the_mark_or_nan() -> None:
    marked = point(PointType.INT32, invalid=(0x7FFFFFFF,), word_order=WordOrder.LITTLE)
    assert encode_point(marked, None).hex() == "ffff7fff"
    assert decode_point(point(PointType.FLOAT32), encode_point(point(PointType.FLOAT32), None)) is None
    with pytest.raises(EncodeError, match="no mark"):
        encode_point(point(PointType.UINT16), None)


@given(st.sampled_from(INTEGERS), st.sampled_from(WordOrder), st.integers(-(2**63), 2**64 - 1))
def test_pymodbus_reads_the_same_integers(kind: PointType, order: WordOrder, number: int) -> None:
    size = 2 * kind.width
    content = (number % 256**size).to_bytes(size, "big")
    words = [int.from_bytes(content[at : at + 2], "big") for at in range(0, size, 2)]
    expected = ModbusClientMixin.convert_from_registers(words, FOREIGN[kind], word_order=order.value)
    row = point(kind, word_order=order)
    assert decode_point(row, content) == expected
    assert encode_point(row, Decimal(str(expected))) == content


POWERS_OF_TWO = st.integers(-149, 127).map(lambda exponent: 2.0**exponent)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False) | POWERS_OF_TWO, st.sampled_from(WordOrder))
def test_a_float32_is_the_shortest_decimal_that_becomes_it(value: float, order: WordOrder) -> None:
    row = point(PointType.FLOAT32, word_order=order)
    words = ModbusClientMixin.convert_to_registers(value, ModbusClientMixin.DATATYPE.FLOAT32, word_order=order.value)
    content = b"".join(word.to_bytes(2, "big") for word in words)
    found = decode_point(row, content)
    assert found is not None
    assert struct.pack(">f", float(found)) == struct.pack(">f", value + 0.0)
    digits = len(found.normalize().as_tuple().digits)
    # Of the decimals with fewer digits, the two next to the float become others; hence all of them do.
    for fewer in range(1, min(digits, 9)):
        for rounding in (ROUND_DOWN, ROUND_UP):
            shorter = Context(prec=fewer, rounding=rounding).create_decimal(Decimal(value))
            try:
                assert struct.pack(">f", float(shorter)) != struct.pack(">f", value)
            except OverflowError:
                continue
    if value:
        assert encode_point(row, found) == content


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float64_is_what_python_prints(value: float) -> None:
    found = decode_point(point(PointType.FLOAT64), struct.pack(">d", value))
    assert found == Decimal(repr(value))


@given(st.decimals(min_value="0", max_value="42949672.95", places=2))
def test_amounts_survive_the_wire_exactly(number: Decimal) -> None:
    row = point(PointType.UINT32, scale=Decimal("0.01"))
    assert decode_point(row, encode_point(row, number)) == number


@pytest.mark.parametrize(
    ("kind", "fields", "number", "expected"),
    [
        (PointType.UINT16, {}, "65536", "does not fit uint16"),
        (PointType.UINT16, {}, "-1", "does not fit uint16"),
        (PointType.INT16, {}, "32768", "does not fit int16"),
        (PointType.UINT16, {"scale": Decimal("0.1")}, "0.15", "more decimals than the scale 0.1"),
        (PointType.UINT16, {"invalid": (0xFFFF,)}, "65535", "would read as not measured"),
        (PointType.FLOAT32, {}, "1E+39", "does not fit float32"),
        (PointType.BCD16, {}, "10000", "does not fit bcd16"),
        (PointType.BCD16, {}, "-1", "does not fit bcd16"),
        (PointType.UINT16, {}, "NaN", "is no amount"),
        (PointType.UINT16, {}, "Infinity", "is no amount"),
    ],
)
def test_what_the_registers_cannot_hold_is_refused(
    kind: PointType, fields: dict[str, object], number: str, expected: str
) -> None:
    with pytest.raises(EncodeError, match=expected):
        encode_point(point(kind, **fields), Decimal(number))


def test_a_measurement_is_fitted_to_the_decimals_of_its_point() -> None:
    tenths = point(PointType.UINT16, scale=Decimal("0.1"))
    assert nearest(tenths, Decimal("230.25")) == Decimal("230.2")
    assert nearest(tenths, Decimal("230.26")) == Decimal("230.3")
    assert str(nearest(tenths, Decimal("-0.01"))) == "0.0"
    assert encode_point(tenths, nearest(tenths, Decimal("230.26"))).hex() == "08ff"
    assert nearest(point(PointType.FLOAT32), Decimal("230.26123")) == Decimal("230.26123")


def test_wrong_sizes_digits_and_scales_are_named() -> None:
    with pytest.raises(BadSize, match="2 bytes for p, expected 4"):
        amount(PointType.UINT32, "0000")
    with pytest.raises(BadDigit, match="12 3A is not BCD"):
        amount(PointType.BCD16, "123A")
    for scale in ("0", "NaN", "Infinity"):
        with pytest.raises(BadLayout, match="makes no amount"):
            point(PointType.UINT16, scale=Decimal(scale))


def test_a_point_knows_its_place() -> None:
    assert [(kind.value, kind.width) for kind in PointType] == [
        ("uint16", 1),
        ("int16", 1),
        ("uint32", 2),
        ("int32", 2),
        ("uint64", 4),
        ("int64", 4),
        ("float32", 2),
        ("float64", 4),
        ("bcd16", 1),
        ("bcd32", 2),
    ]
    assert (point(PointType.UINT64).width, point(PointType.UINT64).end) == (4, 0x14)
