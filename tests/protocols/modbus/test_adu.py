"""Frames of both framings: published ones byte for byte, and pymodbus's framers as second witness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU

from protocols.errors import BadChecksum, BadLength, BadStart, EncodeError, FrameError, TooShort
from protocols.modbus.adu import RTU_LAYOUT, TCP_LAYOUT, RtuFrame, TcpFrame
from protocols.modbus.pdu import decode_reply, decode_request, encode_reply, encode_request
from tests.protocols.modbus.vectors import Vector, vectors

PDUS = st.binary(min_size=1, max_size=253)


@pytest.mark.parametrize("vector", vectors("rtu"), ids=lambda vector: vector.id)
def test_the_published_rtu_frames_byte_for_byte_in_both_directions(vector: Vector) -> None:
    frame = RtuFrame.from_bytes(vector.wire)
    assert frame.unit == vector.unit
    assert (decode_request if vector.is_request else decode_reply)(frame.pdu) == vector.message
    pdu = encode_request(vector.message) if vector.is_request else encode_reply(vector.message)
    assert RtuFrame(frame.unit, pdu).to_bytes() == vector.wire


@pytest.mark.parametrize("vector", vectors("tcp"), ids=lambda vector: vector.id)
def test_the_published_tcp_frames_byte_for_byte_in_both_directions(vector: Vector) -> None:
    frame = TcpFrame.from_bytes(vector.wire)
    assert (frame.transaction, frame.unit) == (0x1501, vector.unit)
    assert decode_request(frame.pdu) == vector.message
    assert TcpFrame(0x1501, frame.unit, encode_request(vector.message)).to_bytes() == vector.wire


@given(st.integers(0, 255), PDUS)
def test_pymodbus_builds_and_takes_apart_the_same_rtu_frames(unit: int, pdu: bytes) -> None:
    framer = FramerRTU(DecodePDU(is_server=False))
    wire = RtuFrame(unit, pdu).to_bytes()
    assert wire == framer.encode(pdu, unit, 0)
    assert RtuFrame.from_bytes(wire) == RtuFrame(unit, pdu)


@given(st.integers(0, 0xFFFF), st.integers(0, 255), PDUS)
def test_pymodbus_builds_and_takes_apart_the_same_tcp_frames(transaction: int, unit: int, pdu: bytes) -> None:
    framer = FramerSocket(DecodePDU(is_server=False))
    wire = TcpFrame(transaction, unit, pdu).to_bytes()
    assert wire == framer.encode(pdu, unit, transaction)
    assert framer.decode(wire) == (len(wire), unit, transaction, pdu)
    assert TcpFrame.from_bytes(wire) == TcpFrame(transaction, unit, pdu)


@given(st.integers(0, 0xFFFF), st.integers(0, 255), PDUS)
def test_what_is_taken_by_position_equals_the_declared_layouts(transaction: int, unit: int, pdu: bytes) -> None:
    wire = TcpFrame(transaction, unit, pdu).to_bytes()
    declared = TCP_LAYOUT.parse(wire)
    assert (declared.transaction, declared.length, declared.unit, declared.pdu) == (
        transaction,
        1 + len(pdu),
        unit,
        pdu,
    )
    wire = RtuFrame(unit, pdu).to_bytes()
    declared = RTU_LAYOUT.parse(wire, size=len(wire))
    assert (declared.unit, declared.pdu) == (unit, pdu)
    assert declared.crc.to_bytes(2, "little") == wire[-2:]


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        ("", TooShort),
        ("0184C2", TooShort),
        ("018402C2C0", BadChecksum),
        ("018402C1C2", BadChecksum),
        ("01" + "00" * 256, BadLength),
    ],
)
def test_a_wrong_rtu_frame_says_what_is_wrong(wire: str, error: type[FrameError]) -> None:
    with pytest.raises(error) as caught:
        RtuFrame.from_bytes(bytes.fromhex(wire))
    assert caught.value.wire == bytes.fromhex(wire)


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        ("000100000006", TooShort),
        ("0001000000060103", TooShort),
        ("000100010006010300000001", BadStart),
        ("000100000001010300000001", BadLength),
        ("0001000000FF010300000001", BadLength),
        ("00010000000601030000000100", BadLength),
    ],
)
def test_a_wrong_tcp_frame_says_what_is_wrong(wire: str, error: type[FrameError]) -> None:
    with pytest.raises(error) as caught:
        TcpFrame.from_bytes(bytes.fromhex(wire))
    assert caught.value.wire == bytes.fromhex(wire)


def test_no_frame_is_built_that_cannot_be_read() -> None:
    for frame in (
        RtuFrame(256, b"\3"),
        RtuFrame(-1, b"\3"),
        RtuFrame(1, b""),
        RtuFrame(1, bytes(254)),
        TcpFrame(0x10000, 1, b"\3"),
        TcpFrame(-1, 1, b"\3"),
        TcpFrame(0, 256, b"\3"),
        TcpFrame(0, 1, bytes(254)),
    ):
        with pytest.raises(EncodeError):
            frame.to_bytes()
