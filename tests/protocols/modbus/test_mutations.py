"""Mutated frames: nothing but the documented errors leaves the codec, and memory stays bounded. A tenth of `--mutations N` are fed."""

import random

import pytest

from protocols.errors import EncodeError, FrameError, ItemError, MessageError
from protocols.modbus.adu import RTU_SIZE_MAX, TCP_SIZE_MAX, RtuFrame, TcpFrame, crc
from protocols.modbus.framer import RtuReplyFramer, RtuRequestFramer, TcpFramer
from protocols.modbus.pdu import (
    ReadBits,
    ReadRegisters,
    Registers,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from protocols.modbus.points import Point, PointType, WordOrder, decode_point
from protocols.values import Unit
from tests.protocols.modbus.vectors import vectors

POINTS = [
    Point(name=kind.value, function=3, address=0, type=kind, word_order=order, unit=Unit.NONE)
    for kind in PointType
    for order in WordOrder
]


def mutated(wire: bytes, dice: random.Random) -> bytes:
    """One to four edits; half of the time the CRC is put right again, so that the damage gets past the frame."""
    frame = bytearray(wire)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(frame))
        match dice.randrange(4):
            case 0:
                frame[at] = dice.randrange(256)
            case 1:
                frame[at] ^= 1 << dice.randrange(8)
            case 2 if len(frame) > 4:
                del frame[at]
            case _:
                frame[at:at] = bytes([dice.randrange(256)])
    if dice.random() < 0.5:
        frame[-2:] = crc(bytes(frame[:-2])).to_bytes(2, "little")
    return bytes(frame)


def understood(pdu: bytes) -> int:
    """How far a PDU gets: 1 message, 2 amounts."""
    depth = 0
    try:
        asked = decode_request(pdu)
        if not (isinstance(asked, ReadBits | ReadRegisters) and asked.start + asked.count > 0x10000):
            assert decode_request(encode_request(asked)) == asked
        depth = 1
    except MessageError as error:
        assert error.wire == pdu
    except EncodeError as error:  # a stretch to be written that leaves the address space: the device refuses it
        assert "addresses go from" in str(error)
    try:
        reply = decode_reply(pdu)
    except MessageError as error:
        assert error.wire == pdu
        return depth
    if not isinstance(reply, Registers):
        return 1
    assert encode_reply(reply) == pdu
    for point in POINTS:
        try:
            decode_point(point, reply.content[: 2 * point.width])
        except ItemError as error:
            assert error.wire
    return 2


@pytest.mark.timeout(900)
def test_mutated_frames_give_documented_errors_only(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--mutations") // 10
    dice = random.Random(20502)
    wires = [vector.wire for vector in vectors("rtu")]
    replies, requests, stream = RtuReplyFramer(), RtuRequestFramer(), TcpFramer()
    replies.expect(wires[0], wires[1][:3])
    depths = [0, 0, 0]
    for _ in range(count):
        wire = mutated(dice.choice(wires), dice)
        marked = [dice.randrange(len(wire))] if dice.random() < 0.1 else []
        for framer in (replies, requests):
            for heard in framer.receive(wire, 0.0, marked) + framer.tick(float("inf")):
                depths[understood(heard.frame.pdu)] += 1
            assert len(framer._buffer.bytes) <= RTU_SIZE_MAX
        try:
            depths[understood(RtuFrame.from_bytes(wire).pdu)] += 1
        except FrameError as error:
            assert error.wire == wire
        tcp = mutated(TcpFrame(dice.randrange(65536), 1, wire[1:-2]).to_bytes(), dice)
        try:
            depths[understood(TcpFrame.from_bytes(tcp).pdu)] += 1
        except FrameError as error:
            assert error.wire == tcp
        for found in stream.receive(tcp):
            depths[understood(found.frame.pdu)] += 1
        assert len(stream.half) < TCP_SIZE_MAX
        if stream.broken:
            stream.clear()
    assert min(depths) > count / 2000, f"too few mutations reached some depth: {depths}"
    print(f"{count} mutated frames reached depths {depths}")
