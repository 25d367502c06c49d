"""PDUs both ways: against published examples, against pymodbus, and against the layouts as the specification draws them."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    ReadDiscreteInputsResponse,
    WriteMultipleCoilsRequest,
    WriteMultipleCoilsResponse,
    WriteSingleCoilRequest,
    WriteSingleCoilResponse,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

from protocols.errors import BadMessage, EncodeError, MessageError, UnknownFunction
from protocols.modbus.pdu import (
    CONTENT_LAYOUT,
    EXCEPTIONS,
    READ_LAYOUT,
    Bits,
    ModbusException,
    ReadBits,
    ReadRegisters,
    Registers,
    Reply,
    Request,
    WriteCoil,
    WriteCoils,
    WriteRegister,
    WriteRegisters,
    Written,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from tests.protocols.modbus.vectors import Vector, vectors

ADDRESSES = st.integers(0, 0xFFFF)
WORDS = st.integers(0, 0xFFFF)
REQUESTS = st.one_of(
    st.builds(ReadRegisters, st.sampled_from((3, 4)), st.integers(0, 0xFFFF - 125), st.integers(1, 125)),
    st.builds(ReadBits, st.sampled_from((1, 2)), st.integers(0, 0xFFFF - 2000), st.integers(1, 2000)),
    st.builds(WriteCoil, ADDRESSES, st.booleans()),
    st.builds(WriteRegister, ADDRESSES, WORDS),
    st.builds(WriteRegisters, st.integers(0, 0xFFFF - 123), st.lists(WORDS, min_size=1, max_size=123).map(tuple)),
    st.builds(WriteCoils, st.integers(0, 0xFFFF - 1968), st.lists(st.booleans(), min_size=1, max_size=1968).map(tuple)),
)
REPLIES = st.one_of(
    st.builds(
        Registers,
        st.sampled_from((3, 4)),
        st.lists(WORDS, min_size=1, max_size=125).map(lambda words: b"".join(w.to_bytes(2, "big") for w in words)),
    ),
    st.builds(
        Bits,
        st.sampled_from((1, 2)),
        st.binary(min_size=1, max_size=250).map(lambda data: tuple(bool(b >> i & 1) for b in data for i in range(8))),
    ),
    st.builds(WriteCoil, ADDRESSES, st.booleans()).map(lambda one: Written(5, one.address, 0xFF00 if one.on else 0)),
    st.builds(Written, st.just(6), ADDRESSES, WORDS),
    st.builds(Written, st.just(15), ADDRESSES, st.integers(1, 1968)),
    st.builds(Written, st.just(16), ADDRESSES, st.integers(1, 123)),
    st.builds(ModbusException, st.sampled_from((1, 2, 3, 4, 5, 6, 15, 16)), st.integers(1, 0x7F)),
)


def foreign_request(request: Request) -> Any:
    match request:
        case ReadRegisters(function, start, count):
            kind = ReadHoldingRegistersRequest if function == 3 else ReadInputRegistersRequest
            return kind(address=start, count=count)
        case ReadBits(function, start, count):
            return (ReadCoilsRequest if function == 1 else ReadDiscreteInputsRequest)(address=start, count=count)
        case WriteCoil(address, on):
            return WriteSingleCoilRequest(address=address, bits=[on])
        case WriteRegister(address, word):
            return WriteSingleRegisterRequest(address=address, registers=[word])
        case WriteRegisters(start, words):
            return WriteMultipleRegistersRequest(address=start, registers=list(words))
        case WriteCoils(start, bits):
            return WriteMultipleCoilsRequest(address=start, bits=list(bits))


def foreign_reply(reply: Reply) -> Any:
    match reply:
        case Registers(function, content):
            words = [int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2)]
            kind = ReadHoldingRegistersResponse if function == 3 else ReadInputRegistersResponse
            return kind(registers=words)
        case Bits(function, bits):
            return (ReadCoilsResponse if function == 1 else ReadDiscreteInputsResponse)(bits=list(bits))
        case Written(5, start, word):
            return WriteSingleCoilResponse(address=start, bits=[word == 0xFF00])
        case Written(6, start, word):
            return WriteSingleRegisterResponse(address=start, registers=[word])
        case Written(15, start, count):
            return WriteMultipleCoilsResponse(address=start, count=count)
        case Written(_, start, count):
            return WriteMultipleRegistersResponse(address=start, count=count)
    raise AssertionError(reply)


def essence(foreign: Any) -> tuple[Any, ...]:
    return (
        type(foreign).__name__,
        foreign.function_code,
        foreign.address,
        list(foreign.registers),
        list(foreign.bits),
        foreign.exception_code,
    )


@pytest.mark.parametrize("vector", vectors("pdu"), ids=lambda vector: vector.id)
def test_the_examples_of_the_specification_byte_for_byte_in_both_directions(vector: Vector) -> None:
    if vector.is_request:
        assert decode_request(vector.wire) == vector.message
        assert encode_request(vector.message) == vector.wire
    else:
        assert decode_reply(vector.wire) == vector.message
        assert encode_reply(vector.message) == vector.wire


@given(REQUESTS)
def test_pymodbus_writes_and_reads_the_same_requests(request: Request) -> None:
    pdu = encode_request(request)
    foreign = foreign_request(request)
    assert pdu == bytes([foreign.function_code]) + foreign.encode()
    understood = DecodePDU(is_server=True).decode(pdu)
    name, function, address, registers, bits, _ = essence(understood)
    assert (name, function, address, registers) == essence(foreign)[:4]
    count = len(request.bits) if isinstance(request, WriteCoils) else 1
    assert bits[:count] == list(foreign.bits)[:count]
    assert decode_request(pdu) == request


@given(REPLIES)
def test_pymodbus_writes_and_reads_the_same_replies(reply: Reply) -> None:
    pdu = encode_reply(reply)
    assert decode_reply(pdu) == reply
    understood = DecodePDU(is_server=False).decode(pdu)
    assert understood is not None
    if isinstance(reply, ModbusException):
        assert (understood.function_code, understood.exception_code) == (reply.function | 0x80, reply.code)
        return
    foreign = foreign_reply(reply)
    assert pdu == bytes([foreign.function_code]) + foreign.encode()
    assert essence(understood) == essence(foreign)


@given(st.sampled_from((1, 2, 3, 4)), ADDRESSES, st.integers(1, 125), st.binary(min_size=2, max_size=250))
def test_what_is_read_by_position_equals_the_declared_layout(
    function: int, start: int, count: int, content: bytes
) -> None:
    request = bytes([function]) + start.to_bytes(2, "big") + count.to_bytes(2, "big")
    declared, taken = READ_LAYOUT.parse(request), decode_request(request)
    assert isinstance(taken, ReadBits | ReadRegisters)
    assert (declared.function, declared.start, declared.count) == (taken.function, taken.start, taken.count)
    content = content[: len(content) // 2 * 2]
    reply = bytes([function, len(content)]) + content
    declared = CONTENT_LAYOUT.parse(reply)
    assert (declared.function, declared.size, declared.content) == (function, len(content), content)
    heard = decode_reply(reply)
    if isinstance(heard, Registers):
        assert heard.content == declared.content
    else:
        assert isinstance(heard, Bits)
        assert heard.bits == tuple(bool(byte >> at & 1) for byte in declared.content for at in range(8))
    assert READ_LAYOUT.build({"function": function, "start": start, "count": count}) == request


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ReadRegisters(4, 0, 126), "126 registers, expected 1 to 125"),
        (ReadRegisters(4, 0, 0), "0 registers, expected 1 to 125"),
        (ReadRegisters(1, 0, 1), "function 1, expected one of 3, 4"),
        (ReadBits(3, 0, 1), "function 3, expected one of 1, 2"),
        (ReadRegisters(3, 0xFFFF, 2), "addresses go from 0 to 65535"),
        (ReadRegisters(3, -1, 2), "addresses go from 0 to 65535"),
        (ReadBits(1, 0, 2001), "2001 bits, expected 1 to 2000"),
        (WriteRegister(0, 0x10000), "65536 does not fit a register"),
        (WriteRegister(0x10000, 0), "addresses go from 0 to 65535"),
        (WriteRegisters(0, ()), "0 registers, expected 1 to 123"),
        (WriteRegisters(0, (0,) * 124), "124 registers, expected 1 to 123"),
        (WriteRegisters(0, (-1,)), "-1 does not fit a register"),
        (WriteCoils(0, (True,) * 1969), "1969 coils, expected 1 to 1968"),
    ],
)
def test_what_the_wire_cannot_carry_is_not_sent(request_: Request, expected: str) -> None:
    with pytest.raises(EncodeError, match=expected):
        encode_request(request_)


@pytest.mark.parametrize(
    "reply",
    [
        Registers(3, b""),
        Registers(3, b"\0"),
        Registers(3, bytes(252)),
        Registers(5, bytes(2)),
        Bits(1, ()),
        Bits(1, (True,) * 2001),
        Written(3, 0, 0),
        Written(6, 0, 0x10000),
        ModbusException(0, 1),
        ModbusException(0x84, 1),
        ModbusException(4, 256),
    ],
)
def test_no_reply_is_built_that_the_specification_does_not_know(reply: Reply) -> None:
    with pytest.raises(EncodeError):
        encode_reply(reply)


@pytest.mark.parametrize(
    ("pdu", "kind"),
    [
        ("", BadMessage),
        ("04", BadMessage),
        ("0400000000", BadMessage),
        ("040000007E", BadMessage),
        ("04000000010000", BadMessage),
        ("0500000001", BadMessage),
        ("10000000020400000000FF", BadMessage),
        ("1000000003040000 0000", BadMessage),
        ("10000000000000", BadMessage),
        ("1000000001", BadMessage),
        ("0F00000009 0100", BadMessage),
        ("1100", UnknownFunction),
        ("84 02", UnknownFunction),
        ("00", UnknownFunction),
    ],
)
def test_a_device_can_tell_a_wrong_request_from_an_unknown_function(pdu: str, kind: type[MessageError]) -> None:
    with pytest.raises(kind) as caught:
        decode_request(bytes.fromhex(pdu))
    assert caught.value.wire == bytes.fromhex(pdu)


@pytest.mark.parametrize(
    "pdu",
    ["", "04", "0400", "0404436633", "04044366333400", "0403436633", "0500FF", "8402FF", "1101", "0004", "9102FF"],
)
def test_a_reply_is_built_from_bytes_that_came_only(pdu: str) -> None:
    with pytest.raises(MessageError):
        decode_reply(bytes.fromhex(pdu))


def test_any_bytes_give_a_message_or_a_documented_error() -> None:
    dice = random.Random(502)
    for _ in range(20_000):
        pdu = bytes([dice.choice((1, 2, 3, 4, 5, 6, 15, 16, dice.randrange(256)))]) + dice.randbytes(
            dice.randint(0, 12)
        )
        for decode in (decode_request, decode_reply):
            try:
                decode(pdu)
            except MessageError as error:
                assert error.wire == pdu


def test_every_exception_code_has_a_meaning() -> None:
    assert ModbusException(4, 2).meaning == "illegal data address"
    assert ModbusException(4, 0x63).meaning == "not in the specification"
    assert all(ModbusException(3, code).meaning == said for code, said in EXCEPTIONS.items())
