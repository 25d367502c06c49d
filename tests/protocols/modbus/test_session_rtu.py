"""The RTU session: matching, deadlines, draining, and who is owed which answer. Time is an argument; nothing sleeps."""

import pytest

from protocols.errors import EncodeError, LineBusy
from protocols.exchange import Event, NoReply, Replied, Request, Silence, Timing, Unmatched
from protocols.modbus.adu import RtuFrame
from protocols.modbus.pdu import (
    Bits,
    ModbusException,
    ReadBits,
    ReadRegisters,
    Registers,
    Reply,
    WriteCoil,
    WriteRegisters,
    Written,
    encode_reply,
    encode_request,
)
from protocols.modbus.rtu_session import RtuSession
from protocols.modbus.session import ModbusSession

TIMING = Timing(baud=9600, reply_timeout_s=0.5, quiet_s=0.1, drain_s_max=2.0, preamble=0, reply_bytes_max=256)
LATE_S_MAX = 6 * TIMING.reply_timeout_s
VOLTAGE = Request("1", ReadRegisters(4, 0x0000, 2))
CURRENT = Request("1", ReadRegisters(4, 0x0006, 2))
SENT_S = TIMING.wire_time_s(8)
TIMEOUT_S = SENT_S + TIMING.reply_timeout_s


def wire(reply: Reply, unit: int = 1) -> bytes:
    return RtuFrame(unit, encode_reply(reply)).to_bytes()


def registers(hex_: str = "43663333") -> Registers:
    return Registers(4, bytes.fromhex(hex_))


def again(request: Request, began_at: float) -> Request:
    return Request(request.address, request.message, began_at)


def new_session(timing: Timing = TIMING) -> ModbusSession:
    return ModbusSession(timing, framing="rtu")


def ask(session: ModbusSession, request: Request = VOLTAGE, now: float = 100.0) -> bytes:
    session.tick(now)  # the pause after the last reply is over
    session.request(request, now)
    (sent,) = session.take_output()
    return sent


def unanswered(session: ModbusSession, request: Request = VOLTAGE, now: float = 100.0) -> float:
    """Ask, hear nothing, drain; gives when the line is free again."""
    ask(session, request, now)
    session.tick(now + TIMEOUT_S)
    session.tick(now + TIMEOUT_S + 0.11)
    assert session.idle
    assert isinstance(session.take_events()[-1], NoReply)
    return now + TIMEOUT_S + 0.11


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def test_the_reply_is_delivered_with_both_wires() -> None:
    session = new_session()
    sent = ask(session)
    assert sent == bytes.fromhex("010400000002 71CB")
    session.receive(bytes.fromhex("010404436633341B38"), 100.05)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.request is VOLTAGE
    assert event.message == registers("43663334")
    assert (event.address, event.wire_sent, event.is_first) == ("1", sent, True)
    assert event.wire_received == bytes.fromhex("010404436633341B38")
    assert event.elapsed_s == pytest.approx(0.05)


def test_between_a_reply_and_the_next_request_lies_the_silence_of_the_specification() -> None:
    for baud, pause_s in ((9600, 3.5 * 11 / 9600), (1200, 3.5 * 11 / 1200), (115200, 0.00175), (None, 0.0)):
        session = new_session(Timing(baud=baud, reply_timeout_s=0.5))
        ask(session)
        session.receive(wire(registers()), 100.1)
        assert session.idle == (pause_s == 0)
        if pause_s:
            assert session.deadline == pytest.approx(100.1 + pause_s)
            session.tick(100.1 + pause_s)
        assert session.idle


def test_a_silent_meter_times_out_at_the_deadline() -> None:
    session = new_session()
    ask(session)
    assert session.deadline == pytest.approx(100.0 + TIMEOUT_S)
    session.tick(100.0 + TIMEOUT_S - 0.001)
    assert session.take_events() == []
    session.tick(100.0 + TIMEOUT_S)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.silence, event.heard) == (Silence.SILENT, b"")
    session = new_session()
    session.request(VOLTAGE, 100.0, reply_timeout_s=0.2)
    assert session.deadline == pytest.approx(100.2 + SENT_S)


def test_after_a_time_out_nothing_is_sent_until_the_line_is_silent() -> None:
    session = new_session()
    ask(session)
    end = 100.0 + TIMEOUT_S
    session.tick(end)
    with pytest.raises(LineBusy, match="draining"):
        session.request(VOLTAGE, end)
    session.receive(wire(registers())[:4], end + 0.05)
    session.tick(end + 0.10)
    assert not session.idle
    session.receive(wire(registers())[4:], end + 0.12)
    session.tick(end + 0.21)
    assert not session.idle
    session.tick(end + 0.23)
    assert session.idle
    first, late = session.take_events()
    assert isinstance(first, NoReply)
    assert isinstance(late, Unmatched)
    assert late.late_s == pytest.approx(TIMEOUT_S + 0.12)


def test_silence_shorter_than_a_tunnel_s_steps_is_no_silence() -> None:
    session = new_session(Timing(reply_timeout_s=0.5, quiet_s=0.001))
    ask(session)
    session.tick(100.5)
    assert session.deadline == pytest.approx(100.55)


def test_draining_and_waiting_end_although_a_device_babbles() -> None:
    session = new_session()
    ask(session)
    now, events = 100.0, []
    while not session.idle:
        now += 0.02
        session.receive(b"\x07\x03\xfa\x01", now)  # always looks like a frame that has begun
        session.tick(now)
        events += session.take_events()
        assert now < 100.0 + TIMEOUT_S + TIMING.longest_reply_s + TIMING.drain_s_max + 0.1
    assert NoReply in kinds(events)


def test_a_reply_that_has_begun_before_the_deadline_may_finish() -> None:
    session = new_session()
    ask(session)
    session.receive(wire(registers())[:4], 100.0 + TIMEOUT_S - 0.01)
    session.tick(100.0 + TIMEOUT_S)
    session.receive(wire(registers())[4:], 100.0 + TIMEOUT_S + 0.1)
    assert kinds(session.take_events()) == [Replied]


@pytest.mark.parametrize(
    ("stray", "why"),
    [
        (wire(registers(), 2), "from unit 2, asked 1"),
        (wire(Registers(3, bytes(4))), "function 03H, asked 04H"),
        (wire(Registers(4, bytes(6))), "6 bytes, asked for 4"),
        (wire(Written(6, 0, 2)), "function 06H, asked 04H"),
        (wire(ModbusException(3, 2)), "function 03H, asked 04H"),
        (wire(ModbusException(4, 2), 9), "from unit 9, asked 1"),
    ],
)
def test_what_answers_something_else_is_never_delivered(stray: bytes, why: str) -> None:
    session = new_session()
    ask(session)
    session.receive(stray, 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Unmatched)
    assert event.why == why
    session.receive(wire(registers()), 100.2)  # and the right reply still counts
    assert kinds(session.take_events()) == [Replied]
    ask(session, now=101.0)
    session.receive(stray, 101.1)
    session.tick(101.0 + TIMEOUT_S)
    no_reply = session.take_events()[-1]
    assert isinstance(no_reply, NoReply)
    assert no_reply.silence is Silence.UNMATCHED


def test_a_write_is_answered_by_the_echo_of_what_was_written_only() -> None:
    session = new_session()
    ask(session, Request("1", WriteCoil(0, True)))
    session.receive(wire(Written(5, 0, 0x0000)), 100.1)
    session.receive(wire(Written(5, 1, 0xFF00)), 100.1)
    first, second = session.take_events()
    assert isinstance(first, Unmatched)
    assert isinstance(second, Unmatched)
    assert first.why == "wrote 0000H at 0000H, asked FF00H at 0000H"
    session.receive(wire(Written(5, 0, 0xFF00)), 100.2)
    assert kinds(session.take_events()) == [Replied]
    ask(session, Request("1", WriteRegisters(0x2A, (0x3F80, 0))), now=101.0)
    session.receive(bytes.fromhex("0110002A00026000"), 101.1)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.message == Written(16, 0x2A, 2)


def test_an_exception_is_a_reply() -> None:
    session = new_session()
    ask(session)
    session.receive(bytes.fromhex("018402C2C1"), 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.message == ModbusException(4, 2)


def test_bits_come_without_those_that_fill_the_last_byte() -> None:
    session = new_session()
    ask(session, Request("1", ReadBits(1, 0x13, 0x13)))
    session.receive(RtuFrame(1, bytes.fromhex("0103CD6B05")).to_bytes(), 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert isinstance(event.message, Bits)
    assert "".join("1" if bit else "0" for bit in event.message.bits) == "1011001111010110101"


def test_noise_is_corrupt_and_an_echo_alone_is_silence() -> None:
    session = new_session()
    sent = ask(session)
    session.receive(sent[:3], 100.01)
    session.receive(sent[3:], 100.02)
    session.tick(100.6)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.silence, event.heard, session.echoes) == (Silence.SILENT, b"", 1)
    session.tick(101.0)
    ask(session, now=102.0)
    session.receive(b"\xff\x00\xff", 102.1)
    session.tick(102.0 + TIMEOUT_S)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.silence, event.heard) == (Silence.CORRUPT, b"\xff\x00\xff")
    assert session.noise_bytes == 3


def test_a_damaged_byte_makes_the_reply_corrupt() -> None:
    session = new_session()
    ask(session)
    session.receive(wire(registers()), 100.1, [4])
    session.tick(103.0)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert event.silence is Silence.CORRUPT


@pytest.mark.parametrize("address", ["0", "248", "-1", "x", "", "1 ", "١"])
def test_only_units_of_a_line_are_asked(address: str) -> None:
    session = new_session()
    with pytest.raises(EncodeError, match="expected a number from 1 to 247"):
        session.request(Request(address, VOLTAGE.message), 100.0)
    assert session.idle
    assert session.take_output() == []


def test_a_message_that_cannot_be_sent_leaves_the_line_free() -> None:
    session = new_session()
    with pytest.raises(EncodeError):
        session.request(Request("1", ReadRegisters(4, 0, 126)), 100.0)
    assert session.idle
    assert session.deadline is None


def test_the_late_reply_to_an_address_is_not_taken_for_that_of_another_with_the_same_size() -> None:
    session = new_session()
    free_at = unanswered(session)
    assert session.owed_s(CURRENT, free_at) == pytest.approx(100.0 + LATE_S_MAX - free_at)
    assert session.owed_s(Request("1", ReadRegisters(4, 6, 4)), free_at) == 0
    assert session.owed_s(Request("2", ReadRegisters(4, 6, 2)), free_at) == 0
    assert session.owed_s(again(VOLTAGE, 100.0), free_at) == 0
    ask(session, CURRENT, free_at)  # all the same
    session.receive(wire(registers("43663333")), free_at + 0.05)
    session.receive(wire(registers("40A00000")), free_at + 0.10)
    session.tick(free_at + TIMEOUT_S)
    late, own, no_reply = session.take_events()
    assert isinstance(late, Unmatched)
    assert late.late_s == pytest.approx(free_at + 0.05 - 100.0)
    assert isinstance(own, Unmatched)
    assert own.late_s is None
    assert isinstance(no_reply, NoReply)
    assert no_reply.silence is Silence.UNMATCHED
    session.tick(free_at + TIMEOUT_S + 0.2)
    assert session.owed_s(VOLTAGE, free_at + 1) == 0, "two questions, two frames: nothing is owed any more"


def test_its_own_answer_may_come_before_the_late_one_and_neither_is_delivered() -> None:
    """Two frames that fit, in either order: nobody can tell which is which."""
    session = new_session()
    free_at = unanswered(session)
    ask(session, CURRENT, free_at)
    session.receive(wire(registers("40A00000")), free_at + 0.05)
    session.receive(wire(registers("43663333")), free_at + 0.10)
    assert kinds(session.take_events()) == [Unmatched, Unmatched]


def test_a_retry_does_not_take_what_another_question_may_still_be_owed() -> None:
    """Its own answer came first and was counted off; what comes next is the older question's."""
    session = new_session()
    free_at = unanswered(session)
    ask(session, CURRENT, free_at)
    session.receive(wire(registers("40A00000")), free_at + 0.05)
    session.tick(free_at + TIMEOUT_S)
    session.tick(free_at + TIMEOUT_S + 0.2)
    retry_at = free_at + TIMEOUT_S + 0.2
    assert session.owed_s(again(CURRENT, free_at), retry_at) > 0
    ask(session, again(CURRENT, free_at), retry_at)
    session.receive(wire(registers("43663333")), retry_at + 0.05)
    assert Replied not in kinds(session.take_events())


def test_a_late_reply_that_came_frees_the_next_question_at_once() -> None:
    session = new_session()
    free_at = unanswered(session)
    session.receive(wire(registers()), free_at + 0.2)
    (late,) = session.take_events()
    assert isinstance(late, Unmatched)
    assert late.late_s is not None
    assert session.owed_s(CURRENT, free_at + 0.2) == 0
    ask(session, CURRENT, free_at + 0.2)
    session.receive(wire(registers("40A00000")), free_at + 0.3)
    assert kinds(session.take_events()) == [Replied]


def test_a_retry_of_the_same_read_may_take_the_answer_to_its_own_first_asking() -> None:
    session = new_session()
    free_at = unanswered(session)
    ask(session, again(VOLTAGE, 100.0), free_at)
    session.receive(wire(registers()), free_at + 0.01)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert not event.is_first
    assert session.owed_s(CURRENT, free_at + 0.02) > 0, "the second answer is still to come"
    session.tick(free_at + 0.1)
    session.receive(wire(registers()), free_at + 1.5)
    assert kinds(session.take_events()) == [Unmatched]
    assert session.owed_s(CURRENT, free_at + 1.5) == 0


def test_a_new_read_of_the_same_registers_does_not_take_the_answer_to_an_older_read() -> None:
    session = new_session()
    free_at = unanswered(session)
    assert session.owed_s(VOLTAGE, free_at) > 0
    ask(session, VOLTAGE, free_at)
    session.receive(wire(registers()), free_at + 0.01)
    assert kinds(session.take_events()) == [Unmatched]


def test_debts_are_forgotten_when_no_answer_can_come_any_more() -> None:
    session = new_session()
    unanswered(session)
    later = 100.0 + LATE_S_MAX + 0.01
    assert session.owed_s(CURRENT, later) == 0
    ask(session, CURRENT, later)
    session.receive(wire(registers()), later + 0.05)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.is_first


def test_half_a_late_frame_from_before_a_request_never_completes_into_its_reply() -> None:
    session = new_session()
    free_at = unanswered(session)
    session.receive(wire(registers())[:5], free_at + 0.01)
    ask(session, Request("1", VOLTAGE.message, 100.0), free_at + 0.02)
    session.receive(wire(registers())[5:], free_at + 0.03)
    assert session.take_events() == []


def test_a_whole_late_frame_hidden_behind_noise_counts_as_late_before_the_next_request() -> None:
    session = new_session()
    free_at = unanswered(session)
    session.receive(b"\x07\x03\xfa" + wire(registers()), free_at + 0.01)
    assert session.take_events() == []
    ask(session, CURRENT, free_at + 0.02)
    (late,) = session.take_events()
    assert isinstance(late, Unmatched)
    assert late.late_s is not None
    session.receive(wire(registers("40A00000")), free_at + 0.1)
    assert kinds(session.take_events()) == [Replied]


def test_an_exception_does_not_say_what_it_refuses() -> None:
    session = new_session()
    refusal = wire(ModbusException(4, 2))
    free_at = unanswered(session)
    other = Request("1", ReadRegisters(4, 0x100, 4))
    ask(session, other, free_at)
    session.receive(refusal, free_at + 0.05)
    assert kinds(session.take_events()) == [Unmatched]
    session.tick(free_at + TIMEOUT_S)
    session.tick(free_at + TIMEOUT_S + 0.2)
    session.take_events()
    ask(session, again(other, free_at), free_at + 1.0)
    session.receive(refusal, free_at + 1.05)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert not event.is_first
    for request in (VOLTAGE, other):  # any of them may have been meant: all stay owed
        assert session.owed_s(request, free_at + 1.1) > 0


def test_an_exception_that_only_one_question_can_have_brought_settles_it() -> None:
    session = new_session()
    free_at = unanswered(session)
    session.receive(wire(ModbusException(4, 4)), free_at + 0.1)
    (event,) = session.take_events()
    assert isinstance(event, Unmatched)
    assert event.late_s == pytest.approx(free_at + 0.1 - 100.0)
    assert session.owed_s(VOLTAGE, free_at + 0.1) == 0


def test_where_doubles_were_seen_the_same_frame_again_is_one() -> None:
    session = new_session(Timing(reply_timeout_s=0.5))
    ask(session)
    session.receive(wire(registers()) * 2, 100.1)
    assert kinds(session.take_events()) == [Replied, Unmatched]
    ask(session, CURRENT, 100.11)
    session.receive(wire(registers()), 100.12)
    (double,) = session.take_events()
    assert isinstance(double, Unmatched)
    assert "double" in double.why
    session.receive(wire(registers("40A00000")), 100.2)
    assert kinds(session.take_events()) == [Replied]


def test_where_none_were_seen_equal_registers_are_just_equal() -> None:
    session = new_session(Timing(reply_timeout_s=0.5))
    for number, request in enumerate((VOLTAGE, CURRENT, VOLTAGE)):
        ask(session, request, 100.0 + number / 10)
        session.receive(wire(registers("00000000")), 100.05 + number / 10)
        assert kinds(session.take_events()) == [Replied]


def test_two_equal_late_answers_do_not_make_the_line_a_doubling_one() -> None:
    session = new_session()
    free_at = unanswered(session, VOLTAGE)
    free_at = unanswered(session, CURRENT, free_at)
    session.receive(wire(registers()) * 2, free_at + 0.1)
    session.take_events()
    assert session.owed_s(Request("1", ReadRegisters(4, 8, 2)), free_at + 0.1) > 0, "the second may be a double"
    later = free_at + 0.1 + LATE_S_MAX + 0.01  # the late answer says that the far end is behind
    ask(session, VOLTAGE, later)
    session.receive(wire(registers()), later + 0.05)
    session.tick(later + 0.1)
    ask(session, CURRENT, later + 0.2)
    session.receive(wire(registers()), later + 0.25)
    assert kinds(session.take_events()) == [Replied, Replied]


def test_an_interrupted_request_says_what_it_has_come_to() -> None:
    session = new_session()
    unanswered(session)
    ask(session, again(VOLTAGE, 100.0), 101.0)
    lost = session.interrupted(101.2)
    assert lost is not None
    assert lost.silence is Silence.SILENT
    assert lost.elapsed_s == pytest.approx(0.2)
    assert session.interrupted_all(101.2) == [lost]
    session.reset()
    assert session.idle
    assert session.interrupted(101.3) is None
    assert session.interrupted_all(101.3) == []
    assert session.take_events() == []


def test_what_a_broken_connection_left_unanswered_is_not_taken_for_the_answer_to_the_next_question() -> None:
    """A serial server goes on asking its meter when the TCP connection breaks, and hands the reply to the next connection."""
    session = new_session()
    ask(session, VOLTAGE, 100.0)
    session.reset()
    assert session.owed_s(CURRENT, 101.0) == pytest.approx(LATE_S_MAX - 1.0)
    assert session.owed_s(again(VOLTAGE, 100.0), 101.0) == 0, "a retry of the same read may take it"
    ask(session, CURRENT, 101.0)
    session.receive(wire(registers()), 101.05)
    session.tick(103.0)
    assert kinds(session.take_events()) == [Unmatched, NoReply]
    session.reset()
    assert session.owed_s(CURRENT, 200.0) == 0


def test_a_changed_rate_counts_from_the_next_request() -> None:
    session = new_session()
    session.retime(Timing(baud=1200, reply_timeout_s=1.0))
    assert session.timing.baud == 1200
    ask(session)
    assert session.deadline == pytest.approx(101.0 + 8 * 11 / 1200)


def test_debts_stay_few_however_many_questions_remain_unanswered() -> None:
    session = new_session(Timing(reply_timeout_s=0.5, late_s_max=1e6))
    now = 100.0
    for number in range(3000):
        session.request(Request(str(number % 247 + 1), ReadRegisters(4, number, number % 125 + 1)), now)
        session.tick(now + 1)
        session.tick(now + 2)
        now += 3
        session.take_events()
        session.take_output()
    assert isinstance(session._inner, RtuSession)
    assert len(list(session._inner._debts)) <= 1024


def test_one_request_at_a_time_is_all_that_a_line_can_carry() -> None:
    with pytest.raises(ValueError, match="RTU has exactly 1"):
        ModbusSession(TIMING, framing="rtu", in_flight_max=2)
    with pytest.raises(ValueError, match="TCP 1 or more"):
        ModbusSession(TIMING, framing="tcp", in_flight_max=0)


def test_what_is_sent_is_what_the_codec_makes() -> None:
    session = new_session()
    for request in (VOLTAGE.message, WriteCoil(7, False), ReadBits(2, 5, 9)):
        assert ask(session, Request("247", request), 100.0) == RtuFrame(247, encode_request(request)).to_bytes()
        session.reset()
