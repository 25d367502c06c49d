"""Messages: every function, both editions, both directions; bytes on one side, fields on the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dlt645.control import Control, Dialect, Function1997, Function2007, error_phrases, function_name
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import (
    Accepted,
    AddressReply,
    ClearRequest,
    FollowUpReply,
    FollowUpRequest,
    FreezeRequest,
    Message,
    Password,
    PasswordReply,
    PasswordRequest,
    RateReply,
    RateRequest,
    ReadAddressRequest,
    ReadReply,
    ReadRequest,
    Refused,
    RelayReply,
    RelayRequest,
    RepeatRequest,
    SecurityReply,
    SecurityRequest,
    TerminalReply,
    TerminalRequest,
    TimeSync,
    WriteAddressRequest,
    WriteRequest,
    decode,
    dialect_of,
    encode,
    expects_reply,
)
from protocols.errors import BadMessage, EncodeError, MessageError
from tests.protocols.dlt645.test_frame import frames
from tests.vectors import constructed_vectors, dlt645_vectors

METER = "123456789012"
V97 = Dialect.V1997
F07, F97 = Function2007, Function1997
PA02 = Password(0x02, bytes(3))
OP = bytes.fromhex("01020304")

# control byte, DATA after −33H, message; from the fact sheets of both editions, low byte first.
SHAPES: list[tuple[int, str, Message]] = [
    (0x11, "00000100", ReadRequest(di=Di("00010000"))),
    (0x11, "0001000602", ReadRequest(di=Di("06000100"), count=2)),
    (0x11, "01000106020013250822", ReadRequest(di=Di("06010001"), count=2, start="2208251300")),
    (0x91, "0000010056341200", ReadReply(di=Di("00010000"), data=bytes.fromhex("56341200"))),
    (0xB1, "00FF010056341200", ReadReply(di=Di("0001FF00"), data=bytes.fromhex("56341200"), follow=True)),
    (0x12, "00FF010001", FollowUpRequest(di=Di("0001FF00"), sequence=1)),
    (0x92, "00FF0100785602", FollowUpReply(di=Di("0001FF00"), data=bytes.fromhex("7856"), sequence=2)),
    (0xB2, "00FF0100785601", FollowUpReply(di=Di("0001FF00"), data=bytes.fromhex("7856"), sequence=1, follow=True)),
    (0x13, "", ReadAddressRequest()),
    (0x93, "129078563412", AddressReply(METER)),
    (
        0x14,
        "01010004020000000102030401110116",
        WriteRequest(di=Di("04000101"), password=PA02, operator=OP, data=bytes.fromhex("01110116")),
    ),
    (0x94, "", Accepted(F07.WRITE)),
    (0x15, "129078563412", WriteAddressRequest(address=METER)),
    (0x95, "", Accepted(F07.WRITE_ADDRESS)),
    (0x08, "170001070921", TimeSync(at="210907010017")),
    (0x88, "", Accepted(F07.TIME_SYNC)),
    (0x16, "99999999", FreezeRequest("99999999")),
    (0x16, "30009999", FreezeRequest("99990030")),
    (0x96, "", Accepted(F07.FREEZE)),
    (0x17, "08", RateRequest(word=0x08)),
    (0x97, "08", RateReply(word=0x08)),
    (
        0x18,
        "050C00040400000004111111",
        PasswordRequest(di=Di("04000C05"), old=Password(4, bytes(3)), new=Password(4, b"\x11\x11\x11")),
    ),
    (0x98, "04111111", PasswordReply(new=Password(4, b"\x11\x11\x11"))),
    (0x19, "0200000001020304", ClearRequest(function=F07.CLEAR_DEMAND, password=PA02, operator=OP)),
    (0x99, "", Accepted(F07.CLEAR_DEMAND)),
    (0x1A, "0200000001020304", ClearRequest(function=F07.CLEAR_METER, password=PA02, operator=OP)),
    (0x9A, "", Accepted(F07.CLEAR_METER)),
    (
        0x1B,
        "0200000001020304FFFFFFFF",
        ClearRequest(function=F07.CLEAR_EVENTS, password=PA02, operator=OP, events=Di("FFFFFFFF")),
    ),
    (0x9B, "", Accepted(F07.CLEAR_EVENTS)),
    (
        0x1C,
        "02000000010203041A00595923311299",
        RelayRequest(password=PA02, operator=OP, order=0x1A, delay=0, expires="991231235959"),
    ),
    (
        0x1C,
        "02111111545341451A",
        RelayRequest(password=Password(2, b"\x11\x11\x11"), operator=bytes.fromhex("54534145"), order=0x1A, delay=None),
    ),
    (0x9C, "", RelayReply()),
    (0x9C, "0400", RelayReply(state_word=4)),
    (0x1D, "01", TerminalRequest(1)),
    (0x9D, "01", TerminalReply(1)),
    (0x03, "FF00000701020304AABB", SecurityRequest(di=Di("070000FF"), operator=OP, data=b"\xaa\xbb")),
    (0x83, "FF000007AABB", SecurityReply(di=Di("070000FF"), data=b"\xaa\xbb")),
    (0xC3, "0800", Refused(dialect=Dialect.V2007, function=3, word=8, size=2)),
    (0xD1, "02", Refused(dialect=Dialect.V2007, function=0x11, word=2)),
    (0xDC, "2000", Refused(dialect=Dialect.V2007, function=0x1C, word=0x20, size=2)),
    (0x01, "1090", ReadRequest(di=Di("9010"))),
    (0x81, "109048632400", ReadReply(di=Di("9010"), data=bytes.fromhex("48632400"))),
    (0xA1, "FF9048632400", ReadReply(di=Di("90FF"), data=bytes.fromhex("48632400"), follow=True)),
    (0x02, "FF90", FollowUpRequest(di=Di("90FF"))),
    (0x82, "FF9048632400", FollowUpReply(di=Di("90FF"), data=bytes.fromhex("48632400"))),
    (0x03, "", RepeatRequest()),
    (0x83, "109048632400", ReadReply(di=Di("9010"), data=bytes.fromhex("48632400"), repeated=True)),
    (0x04, "10C006060719", WriteRequest(di=Di("C010"), data=bytes.fromhex("06060719"))),
    (0x84, "", Accepted(F97.WRITE)),
    (0x0A, "129078563412", WriteAddressRequest(address=METER, dialect=V97)),
    (0x8A, "", Accepted(F97.WRITE_ADDRESS)),
    (0x0C, "10", RateRequest(word=0x10, dialect=V97)),
    (0x8C, "FF", RateReply(word=0xFF, dialect=V97)),
    (0x0F, "0133221102332211", PasswordRequest(old=Password(1, b"\x33\x22\x11"), new=Password(2, b"\x33\x22\x11"))),
    (0x8F, "02332211", PasswordReply(new=Password(2, b"\x33\x22\x11"), dialect=V97)),
    (0x10, "", ClearRequest(function=F97.CLEAR_DEMAND)),
    (0xC1, "02", Refused(dialect=V97, function=1, word=2)),
    (0xC3, "02", Refused(dialect=V97, function=3, word=2)),
]


@pytest.mark.parametrize(
    ("control", "payload", "message"), SHAPES, ids=lambda part: part if isinstance(part, str) else None
)
def test_every_function_both_ways(control: int, payload: str, message: Message) -> None:
    frame = Frame(METER, control, bytes.fromhex(payload))
    assert encode(message, METER) == frame
    assert decode(frame) == message


def test_every_function_of_both_editions_is_covered_in_both_directions() -> None:
    covered = {
        (dialect_of(Frame(METER, control, bytes.fromhex(payload))), control & 0x1F, bool(control & 0x80))
        for control, payload, _ in SHAPES
    }
    unanswered = {(V97, int(F97.CLEAR_DEMAND), True), (V97, int(F97.TIME_SYNC), False), (V97, int(F97.TIME_SYNC), True)}
    wanted = {
        (dialect, int(function), from_meter)
        for dialect, functions in ((Dialect.V2007, F07), (V97, F97))
        for function in functions
        for from_meter in (False, True)
    }
    assert wanted - unanswered <= covered


@pytest.mark.parametrize("vector", [*dlt645_vectors(), *constructed_vectors()], ids=lambda vector: vector["id"])
def test_vector_messages_both_ways(vector: dict[str, object]) -> None:
    if not vector.get("valid", True):
        return  # a wrong checksum never becomes a message
    frame = Frame.from_bytes(bytes.fromhex(str(vector["hex"])))
    message = decode(frame)
    assert encode(message, frame.address) == frame
    if "di" in vector and not isinstance(message, WriteRequest | PasswordRequest | Refused | ClearRequest):
        assert getattr(message, "di", None) == (Di(str(vector["di"])) if vector["di"] else None)
    if vector.get("ver") in ("2007", "1997"):
        assert dialect_of(frame).value == vector["ver"]
        assert function_name(dialect_of(frame), frame.control_parts.function) == vector["fn"]


@given(frames)
def test_any_right_frame_is_a_message_or_a_message_error(frame: Frame) -> None:
    try:
        message = decode(frame)
    except MessageError:
        return
    assert encode(message, frame.address) == frame


@pytest.mark.parametrize(
    ("control", "payload"),
    [
        (0x11, "000001"),
        (0x91, ""),
        (0x92, "00000100"),
        (0x93, "0102030405"),
        (0x94, "00"),
        (0x08, "17000107"),
        (0x16, "999999"),
        (0x17, ""),
        (0x18, "00"),
        (0x1A, "02000000"),
        (0x1C, "0200000001020304"),
        (0x9C, "00"),
        (0x81, "10"),
        (0xD1, ""),
        (0xD1, "010203"),
    ],
)
def test_data_that_do_not_fit_the_function_are_refused(control: int, payload: str) -> None:
    with pytest.raises(BadMessage):
        decode(Frame(METER, control, bytes.fromhex(payload)))


def test_a_password_never_shows() -> None:
    request = WriteRequest(di=Di("04000101"), password=Password(2, b"\x12\x34\x56"), operator=OP, data=b"")
    assert "123456" not in repr(request)
    assert "\\x124V" not in repr(request)
    assert "secret=***" in repr(request)


def test_2007_writes_need_password_and_operator() -> None:
    with pytest.raises(EncodeError, match="needs a password"):
        encode(WriteRequest(di=Di("04000101"), data=b""), METER)
    with pytest.raises(EncodeError, match="operator code has 4 bytes"):
        encode(WriteRequest(di=Di("04000101"), password=PA02, data=b""), METER)


def test_who_answers_what() -> None:
    assert not expects_reply(TimeSync(at="210907010017"), BROADCAST)
    assert not expects_reply(FreezeRequest("99999999"), BROADCAST)
    assert expects_reply(TimeSync(at="210907010017"), METER)
    assert expects_reply(ReadRequest(di=Di("9010")), BROADCAST)  # the 1997 trick for the only meter on a line
    assert expects_reply(ReadAddressRequest(), WILDCARD)


def test_error_words_say_every_bit() -> None:
    assert error_phrases(Dialect.V2007, 0x11, 0x06, 1) == ["no such data", "password wrong / not authorised"]
    assert error_phrases(V97, 0x01, 0x03, 1) == ["illegal data", "DI error"]
    assert error_phrases(Dialect.V2007, 0x1C, 0x20, 2) == ["trip refused: supply protected"]
    assert error_phrases(Dialect.V2007, 0x03, 0x0008, 2) == ["identity authentication failed or timed out"]
    assert error_phrases(Dialect.V2007, 0x11, 0, 1) == ["no reason given"]


@given(st.integers(0, 255))
def test_control_bytes_come_back_as_they_were(byte: int) -> None:
    assert Control.from_byte(byte).to_byte() == byte
