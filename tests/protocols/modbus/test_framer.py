"""Frames found in streams: whole, byte by byte, in noise, behind echoes; nothing waits for bytes that will not come."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.modbus.adu import RTU_SIZE_MAX, TCP_SIZE_MAX, RtuFrame, TcpFrame
from protocols.modbus.framer import RtuHeard, RtuReplyFramer, RtuRequestFramer, TcpFramer, TcpHeard
from protocols.modbus.pdu import ModbusException, ReadRegisters, Registers, encode_reply, encode_request
from tests.protocols.modbus.vectors import Vector, vectors

REQUEST = bytes.fromhex("010400000002 71CB")
REPLY = bytes.fromhex("010404436633341B38")
REFUSAL = bytes.fromhex("018402C2C1")
COIL_ON = bytes.fromhex("01050000FF008C3A")
NEVER = float("inf")

REPLIES = [vector for vector in vectors("rtu") if not vector.is_request]
REQUESTS = [vector for vector in vectors("rtu") if vector.is_request]


def asking(wire: bytes = REQUEST, beginning: bytes = REPLY[:3]) -> RtuReplyFramer:
    framer = RtuReplyFramer(gap_s=0.5)
    framer.expect(wire, beginning)
    return framer


def wires(found: list[RtuHeard]) -> list[bytes]:
    return [heard.wire for heard in found]


def rtu(unit: int, pdu: bytes) -> bytes:
    return RtuFrame(unit, pdu).to_bytes()


@pytest.mark.parametrize("vector", REPLIES, ids=lambda vector: vector.id)
def test_a_reply_is_found_whole_byte_by_byte_and_in_any_two_pieces(vector: Vector) -> None:
    wire = vector.wire
    assert wires(RtuReplyFramer().receive(wire, 0.0)) == [wire]
    framer = RtuReplyFramer()
    found = [heard for byte in wire for heard in framer.receive(bytes([byte]), 0.0)]
    assert wires(found) == [wire]
    for cut in range(1, len(wire)):
        framer = RtuReplyFramer()
        assert wires(framer.receive(wire[:cut], 0.0) + framer.receive(wire[cut:], 0.1)) == [wire]


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector.id)
def test_a_request_is_found_whole_byte_by_byte_and_in_any_two_pieces(vector: Vector) -> None:
    wire = vector.wire
    assert wires(RtuRequestFramer().receive(wire, 0.0)) == [wire]
    framer = RtuRequestFramer()
    assert wires([heard for byte in wire for heard in framer.receive(bytes([byte]), 0.0)]) == [wire]
    for cut in range(1, len(wire)):
        framer = RtuRequestFramer()
        assert wires(framer.receive(wire[:cut], 0.0) + framer.receive(wire[cut:], 0.1)) == [wire]


@pytest.mark.parametrize("noise", range(256))
def test_no_single_noise_byte_costs_the_reply_behind_it(noise: int) -> None:
    for wire in (REPLY, REFUSAL, rtu(3, encode_reply(Registers(4, bytes(range(80)))))):
        beginning = wire[:3] if wire != REFUSAL else REPLY[:3]
        framer = asking(beginning=beginning)
        found = [heard for byte in bytes([noise]) + wire for heard in framer.receive(bytes([byte]), 0.0)]
        assert wires(found) == [wire]
        assert framer.noise_bytes == 1


def test_noise_before_between_and_behind_costs_no_reply() -> None:
    dice = random.Random(1)
    lost = 0
    for _ in range(2000):
        framer = asking()
        noise = [dice.randbytes(dice.randint(0, 12)) for _ in range(3)]
        found = framer.receive(noise[0] + REPLY + noise[1] + REPLY + noise[2], 0.0)
        found += framer.tick(NEVER)
        lost += wires(found) != [REPLY, REPLY]
    assert lost == 0


def test_two_frames_back_to_back_are_two() -> None:
    assert wires(asking().receive(REPLY + REFUSAL + REPLY, 0.0)) == [REPLY, REFUSAL, REPLY]


def test_a_lying_byte_count_gives_up_one_byte_and_not_the_frame_inside() -> None:
    framer = asking(beginning=b"\x01\x04\xf0")
    assert framer.receive(b"\x01\x04\xf0" + REPLY, 0.0) == []
    assert framer.deadline == 0.5
    assert framer.tick(0.49) == []
    assert wires(framer.tick(0.5)) == [REPLY]
    assert framer.deadline is None


def test_the_reply_that_is_waited_for_is_found_behind_a_candidate_that_claims_more() -> None:
    framer = asking()
    assert wires(framer.receive(b"\x07\x03\xfa" + REPLY, 0.0)) == [REPLY]
    assert wires(asking().receive(b"\x07\x03\xfa" + REFUSAL, 0.0)) == [REFUSAL]


def test_what_lies_inside_the_reply_that_is_arriving_is_content() -> None:
    """A meter's registers may hold anything, also what looks like an exception."""
    wire = rtu(1, encode_reply(Registers(4, REFUSAL + b"\0" + bytes(54))))
    framer = asking(beginning=wire[:3])
    found = [heard for byte in wire for heard in framer.receive(bytes([byte]), 0.0)]
    assert wires(found) == [wire]


def test_a_half_frame_from_before_a_request_is_given_up_with_it() -> None:
    framer = asking()
    assert framer.receive(REPLY[:5], 0.0) == []
    assert framer.flush() == []
    assert framer.receive(REPLY[5:], 0.1) + framer.tick(NEVER) == []
    assert framer.deadline is None


def test_a_byte_with_a_parity_error_is_never_part_of_a_frame() -> None:
    for at in range(len(REPLY)):
        framer = asking()
        assert framer.receive(REPLY, 0.0, [at]) + framer.tick(NEVER) == []
        assert wires(framer.receive(REPLY, 1.0)) == [REPLY]
    framer = asking()
    assert wires(framer.receive(b"\x55" + REPLY, 0.0, [0])) == [REPLY]
    assert framer.receive(REPLY[:4], 1.0, [1]) + framer.receive(REPLY[4:], 1.0) + framer.tick(NEVER) == []
    device = RtuRequestFramer()
    assert device.receive(REQUEST, 0.0, [3]) + device.tick(NEVER) == []
    assert wires(device.receive(REQUEST, 1.0)) == [REQUEST]


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector.id)
def test_the_echo_of_a_read_is_dropped_and_counted(vector: Vector) -> None:
    if vector.wire[1] == 5:
        return
    reply = rtu(1, bytes([vector.wire[1] | 0x80, 2]))
    for pieces in ([vector.wire + reply], [bytes([byte]) for byte in vector.wire + reply]):
        framer = asking(vector.wire, b"\x01" + vector.wire[1:2] + b"\x04")
        found = [heard for piece in pieces for heard in framer.receive(piece, 0.0)]
        assert wires(found) == [reply]
        assert (framer.echoes, framer.noise_bytes) == (1, 0)


def test_an_echo_that_could_be_a_reply_to_a_read_of_coils_is_an_echo() -> None:
    """Reading coils from 03xxH: the request is, byte for byte, a right reply with three bytes of bits."""
    request = rtu(1, bytes.fromhex("01 03 10 00 14"))
    framer = asking(request, b"\x01\x01\x03")
    reply = rtu(1, bytes.fromhex("01 03 AA BB 0C"))
    assert wires(framer.receive(request + reply, 0.0)) == [reply]
    assert framer.echoes == 1


def test_the_reply_to_a_write_of_one_coil_is_told_from_its_echo_on_a_line_that_has_echoed() -> None:
    framer = asking(COIL_ON, COIL_ON[:6])
    assert wires(framer.receive(COIL_ON, 0.0)) == [COIL_ON], "where no echo was seen, the copy is the reply"
    framer.expect(REQUEST, REPLY[:3])
    assert wires(framer.receive(REQUEST + REPLY, 1.0)) == [REPLY]
    framer.expect(COIL_ON, COIL_ON[:6])
    assert framer.receive(COIL_ON, 2.0) == []
    assert wires(framer.receive(COIL_ON, 2.1)) == [COIL_ON]
    for _ in range(8):  # another adapter
        framer.expect(REQUEST, REPLY[:3])
        assert wires(framer.receive(REPLY, 3.0)) == [REPLY]
    framer.expect(COIL_ON, COIL_ON[:6])
    assert wires(framer.receive(COIL_ON, 4.0)) == [COIL_ON]


def test_a_device_hears_a_request_behind_noise_and_an_unknown_function_before_a_pause() -> None:
    for noise in range(256):
        framer = RtuRequestFramer(gap_s=0.05)
        found = framer.receive(bytes([noise]) + REQUEST, 0.0)
        assert wires(found + framer.tick(1.0)) == [REQUEST], noise
    unknown = rtu(1, bytes.fromhex("41 00 01 02"))
    framer = RtuRequestFramer(gap_s=0.05)
    assert framer.receive(unknown, 0.0) == []
    assert wires(framer.tick(0.05)) == [unknown]
    assert wires(framer.receive(unknown + REQUEST, 1.0)) == [REQUEST]


def test_what_is_written_into_registers_is_no_request() -> None:
    wire = rtu(1, bytes.fromhex("10 0000 0004 08") + COIL_ON)
    framer = RtuRequestFramer()
    assert wires([heard for byte in wire for heard in framer.receive(bytes([byte]), 0.0)]) == [wire]


@given(st.lists(st.binary(max_size=400), max_size=8), st.randoms(use_true_random=False))
def test_any_bytes_leave_bounded_memory_and_only_right_frames(chunks: list[bytes], dice: random.Random) -> None:
    for framer in (RtuReplyFramer(), asking(), RtuRequestFramer()):
        for number, chunk in enumerate(chunks):
            marked = sorted(dice.sample(range(len(chunk)), min(len(chunk), dice.randint(0, 2))))
            for heard in framer.receive(chunk, float(number), marked):
                assert RtuFrame.from_bytes(heard.wire) == heard.frame
            assert len(framer._buffer.bytes) <= RTU_SIZE_MAX
        framer.tick(NEVER)
        assert not framer._buffer.bytes
        assert framer.deadline is None
        assert wires(framer.receive(REFUSAL + REQUEST, 1e6))[-1:] in ([REQUEST], [REFUSAL])


def test_tcp_frames_are_found_in_any_pieces() -> None:
    frames = [TcpFrame(number, 1, encode_request(ReadRegisters(3, number, 60))) for number in range(5)]
    frames.append(TcpFrame(9, 255, encode_reply(Registers(3, bytes(250)))))
    stream = b"".join(frame.to_bytes() for frame in frames)
    for size in (1, 2, 7, 11, len(stream)):
        framer = TcpFramer()
        found = [heard for at in range(0, len(stream), size) for heard in framer.receive(stream[at : at + size])]
        assert [heard.frame for heard in found] == frames
        assert b"".join(heard.wire for heard in found) == stream
        assert framer.half == b""


@pytest.mark.parametrize(
    "header", ["0001 0001 0006 01", "0001 0000 0001 01", "0001 0000 FFFF 01", "0001 0000 00FF 01", "0001 0000 0000 01"]
)
def test_a_tcp_stream_that_is_no_modbus_is_given_up_with_a_reason(header: str) -> None:
    framer = TcpFramer()
    good = TcpFrame(1, 1, encode_reply(ModbusException(3, 2))).to_bytes()
    found = framer.receive(good + bytes.fromhex(header) + bytes(1_000_000))
    assert wires_tcp(found) == [good]
    assert "this is not Modbus TCP" in framer.broken
    assert framer.half == bytes.fromhex(header)
    assert framer.receive(good) == []
    framer.clear()
    assert wires_tcp(framer.receive(good)) == [good]


def wires_tcp(found: list[TcpHeard]) -> list[bytes]:
    return [heard.wire for heard in found]


@given(st.lists(st.binary(max_size=600), max_size=6))
def test_a_tcp_framer_keeps_less_than_one_frame(chunks: list[bytes]) -> None:
    framer = TcpFramer()
    for chunk in chunks:
        for heard in framer.receive(chunk):
            assert TcpFrame.from_bytes(heard.wire) == heard.frame
        assert len(framer.half) < TCP_SIZE_MAX
