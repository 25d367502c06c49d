"""The session: one request in flight, matching, deadlines, draining. Time is an argument; nothing sleeps."""

import pytest

from protocols.dlt645.control import Dialect, Function2007
from protocols.dlt645.frame import BROADCAST, WILDCARD
from protocols.dlt645.items import Di
from protocols.dlt645.messages import (
    Accepted,
    AddressReply,
    FollowUpReply,
    FollowUpRequest,
    Message,
    ReadAddressRequest,
    ReadReply,
    ReadRequest,
    Refused,
    TimeSync,
    WriteAddressRequest,
    encode,
)
from protocols.dlt645.session import Session
from protocols.errors import LineBusy
from protocols.exchange import NoReply, Replied, Request, Sent, Silence, Timing, Unmatched

METER = "000000000001"
TOTAL = Di("00010000")
TIMING = Timing(baud=2400, reply_timeout_s=0.5, quiet_s=0.1, drain_s_max=2.0, preamble=4)
READ = Request(METER, ReadRequest(di=TOTAL))
SENT_S = TIMING.wire_time_s(20)  # 4 wake-up bytes and a request of 16


def wire(message: Message, address: str = METER) -> bytes:
    return encode(message, address).to_bytes()


def reply(di: Di = TOTAL, data: str = "56341200") -> bytes:
    return wire(ReadReply(di=di, data=bytes.fromhex(data)))


def asked(request: Request = READ, timing: Timing = TIMING, now: float = 100.0) -> Session:
    session = Session(timing)
    session.request(request, now)
    session.take_output()
    return session


def test_the_reply_to_the_request_is_delivered_with_both_wires() -> None:
    session = Session(TIMING)
    session.request(READ, 100.0)
    assert session.take_output() == [b"\xfe" * 4 + wire(READ.message)]
    session.receive(b"\xfe\xfe" + reply(), 100.3)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.message == ReadReply(di=TOTAL, data=bytes.fromhex("56341200"))
    assert (event.wire_received, event.address) == (reply(), METER)
    assert event.elapsed_s == pytest.approx(0.3)
    assert session.idle
    assert session.deadline is None


def test_silent_meter_times_out_at_the_deadline() -> None:
    session = asked()
    assert session.deadline == pytest.approx(100.0 + SENT_S + 0.5)
    session.tick(100.0 + SENT_S + 0.49)
    assert session.take_events() == []
    session.tick(100.0 + SENT_S + 0.5)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.silence, event.heard) == (Silence.SILENT, b"")


def test_a_second_request_must_wait_for_the_first() -> None:
    session = asked()
    with pytest.raises(LineBusy):
        session.request(READ, 100.1)


def test_after_a_time_out_nothing_is_sent_until_the_line_is_silent() -> None:
    session = asked()
    end = 100.0 + SENT_S + 0.5
    session.tick(end)
    assert not session.idle
    session.receive(reply()[:5], end + 0.05)  # the late reply begins
    session.tick(end + 0.10)
    assert not session.idle
    session.receive(reply()[5:], end + 0.12)
    session.tick(end + 0.22)
    assert session.idle
    kinds = [type(event) for event in session.take_events()]
    assert kinds == [NoReply, Unmatched]


def test_draining_ends_although_a_device_babbles() -> None:
    session = asked()
    now = 100.0 + SENT_S + 0.5
    session.tick(now)
    end = now + TIMING.drain_s_max
    while now < end:
        now += 0.05
        session.receive(b"\x00\x55", now)
        session.tick(now)
    assert session.idle


def test_babble_does_not_carry_a_request_beyond_its_limit() -> None:
    session = asked()
    limit = 100.0 + SENT_S + 0.5 + TIMING.longest_reply_s
    now = 100.0
    while not any(isinstance(event, NoReply) for event in session.take_events()):
        now += 0.02
        session.receive(bytes.fromhex("68 00 00 00 00 00 00 68"), now)  # always looks like a frame that has begun
        session.tick(now)
        assert now <= limit + 0.02


@pytest.mark.parametrize(
    ("stray", "why"),
    [
        (
            encode(ReadReply(di=TOTAL, data=bytes(4)), "000000000002").to_bytes(),
            "from 000000000002, asked 000000000001",
        ),
        (wire(ReadReply(di=Di("00020000"), data=bytes(4))), "DI 00020000, asked 00010000"),
        (wire(ReadReply(di=Di("9010"), data=bytes(4))), "function 01H, asked 11H"),
        (wire(Accepted(Function2007.WRITE)), "function 14H, asked 11H"),
        (wire(Refused(dialect=Dialect.V2007, function=0x14, word=2)), "function 14H, asked 11H"),
        (wire(ReadRequest(di=Di("00020000"))), "a request, not a reply: an echo or a second master on the line"),
    ],
)
def test_what_answers_something_else_is_never_delivered(stray: bytes, why: str) -> None:
    session = asked()
    session.receive(stray, 100.2)
    (event,) = session.take_events()
    assert isinstance(event, Unmatched)
    assert event.why == why
    session.receive(reply(), 100.4)  # and the right reply still counts
    assert [type(event) for event in session.take_events()] == [Replied]


def test_only_foreign_frames_end_as_unmatched() -> None:
    session = asked()
    session.receive(encode(ReadReply(di=TOTAL, data=bytes(4)), "000000000002").to_bytes(), 100.2)
    session.tick(200.0)
    assert [event.silence for event in session.take_events() if isinstance(event, NoReply)] == [Silence.UNMATCHED]


def test_bytes_without_a_right_frame_end_as_corrupt_and_are_shown() -> None:
    session = asked()
    damaged = reply()[:-2] + b"\x00\x16"
    session.receive(damaged, 100.2)
    session.tick(200.0)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.silence, event.heard) == (Silence.CORRUPT, damaged)


def test_own_echo_in_pieces_is_silence() -> None:
    session = asked()
    echo = b"\xfe" * 4 + wire(READ.message)
    session.receive(echo[:7], 100.01)
    session.receive(echo[7:], 100.02)
    session.tick(200.0)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert event.silence is Silence.SILENT
    assert session.echoes == 1


def test_a_doubled_reply_is_delivered_once() -> None:
    session = asked()
    session.receive(reply() + reply(), 100.2)
    assert [type(event) for event in session.take_events()] == [Replied, Unmatched]


def test_a_slow_reply_that_has_begun_may_finish() -> None:
    session = asked()
    end = 100.0 + SENT_S + 0.5
    session.receive(reply()[:4], end - 0.01)
    session.tick(end)
    session.receive(reply()[4:], end + 0.2)
    assert [type(event) for event in session.take_events()] == [Replied]


def test_a_refusal_is_a_reply() -> None:
    session = asked()
    session.receive(wire(Refused(dialect=Dialect.V2007, function=0x11, word=2)), 100.2)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.message == Refused(dialect=Dialect.V2007, function=0x11, word=2)


def test_follow_up_replies_match_by_sequence() -> None:
    session = asked(Request(METER, FollowUpRequest(di=TOTAL, sequence=2)))
    session.receive(wire(FollowUpReply(di=TOTAL, data=b"\x01", sequence=1)), 100.1)
    session.receive(wire(FollowUpReply(di=TOTAL, data=b"\x02", sequence=2)), 100.2)
    kinds = session.take_events()
    assert [type(event) for event in kinds] == [Unmatched, Replied]


def test_a_wildcard_is_answered_under_the_real_address() -> None:
    session = asked(Request(WILDCARD, ReadAddressRequest()))
    session.receive(encode(AddressReply("000012345678"), "000012345678").to_bytes(), 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.address == "000012345678"


def test_a_new_address_answers_from_itself() -> None:
    session = asked(Request(WILDCARD, WriteAddressRequest(address="000000000042")))
    session.receive(encode(Accepted(Function2007.WRITE_ADDRESS), "000000000042").to_bytes(), 100.1)
    assert [type(event) for event in session.take_events()] == [Replied]


def test_a_broadcast_is_sent_and_waits_for_nobody() -> None:
    session = Session(TIMING)
    session.request(Request(BROADCAST, TimeSync(at="260101120000")), 10.0)
    (event,) = session.take_events()
    assert isinstance(event, Sent)
    assert not session.idle  # until its last byte has left
    session.tick(10.0 + TIMING.wire_time_s(22))
    assert session.idle


def test_the_turnaround_is_kept_between_reply_and_next_request() -> None:
    session = asked(timing=Timing(baud=2400, turnaround_s=0.05))
    session.receive(reply(), 100.2)
    assert not session.idle
    session.tick(100.25)
    assert session.idle


def test_a_reply_byte_by_byte_and_in_noise() -> None:
    for stream in (reply(), b"\x00\xff" + reply(), b"\x68" + reply() + b"\x68"):
        session = asked()
        now = 100.1
        for byte in stream:
            session.receive(bytes([byte]), now)
            now += 0.005
        while session.deadline is not None and now < 103:
            now = max(now, session.deadline)
            session.tick(now)
        assert [type(event) for event in session.take_events()] == [Replied], stream.hex()


def test_an_idle_session_reports_what_nobody_asked_for() -> None:
    session = Session(TIMING)
    session.receive(reply(), 1.0)
    assert [type(event) for event in session.take_events()] == [Unmatched]


def test_a_late_reply_to_an_older_read_is_not_the_answer_to_a_new_read_of_the_same_item() -> None:
    """The far end queues: every answer comes one asking late. Taken as it comes, each read would be one read old for ever."""
    session = asked(now=100.0)
    session.tick(100.0 + SENT_S + 0.5)
    session.tick(101.0)
    assert [type(event) for event in session.take_events()] == [NoReply]
    session.request(READ, 101.0)
    session.receive(reply(data="11111111"), 101.2)  # the answer of 100.0
    assert [event.why for event in session.take_events() if isinstance(event, Unmatched)] == [
        "may be the late answer to an older asking of the same question"
    ]
    session.receive(reply(data="22222222"), 101.3)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert isinstance(event.message, ReadReply)
    assert event.message.data == bytes.fromhex("22222222")


def test_a_late_reply_may_answer_the_retry_of_the_same_read() -> None:
    session = asked(Request(METER, ReadRequest(di=TOTAL), began_at=100.0))
    session.tick(100.0 + SENT_S + 0.5)
    session.tick(101.0)
    session.take_events()
    session.request(Request(METER, ReadRequest(di=TOTAL), began_at=100.0), 101.0)
    session.receive(reply(), 101.1)
    assert [type(event) for event in session.take_events()] == [Replied]


def test_a_late_reply_that_came_while_nothing_was_asked_is_owed_no_more() -> None:
    session = asked(now=100.0)
    session.tick(100.0 + SENT_S + 0.5)
    session.receive(reply(), 100.0 + SENT_S + 0.55)
    session.tick(101.0)
    session.take_events()
    session.request(READ, 101.0)
    session.receive(reply(data="57341200"), 101.2)
    assert [type(event) for event in session.take_events()] == [Replied]


def test_after_the_late_window_an_old_asking_is_forgotten() -> None:
    session = asked(now=100.0)
    session.tick(100.0 + SENT_S + 0.5)
    session.tick(101.0)
    session.take_events()
    session.request(READ, 103.1)  # six time-outs of 0.5 s have passed
    session.receive(reply(), 103.3)
    assert [type(event) for event in session.take_events()] == [Replied]


def test_a_known_pace_shortens_the_wait() -> None:
    session = Session(TIMING)
    session.request(READ, 100.0, reply_timeout_s=0.2)
    assert session.deadline == pytest.approx(100.0 + SENT_S + 0.2)


def test_a_late_refusal_of_one_item_is_not_the_answer_for_another() -> None:
    session = asked(now=100.0)
    session.tick(100.0 + SENT_S + 0.5)
    session.tick(101.0)
    session.take_events()
    session.request(Request(METER, ReadRequest(di=Di("00020000"))), 101.0)
    session.receive(wire(Refused(dialect=Dialect.V2007, function=0x11, word=2)), 101.1)  # a refusal names no item
    (event,) = session.take_events()
    assert isinstance(event, Unmatched)
    assert event.late_s == pytest.approx(1.1)
    session.receive(reply(Di("00020000")), 101.2)
    assert [type(event) for event in session.take_events()] == [Replied]


def doubling() -> Session:
    """A line on which a double has been seen, idle at 100.3."""
    session = asked(now=99.0)
    session.receive(reply(data="99999999"), 99.2)
    session.receive(reply(data="99999999"), 99.25)
    session.take_events()
    return session


def test_where_doubles_were_seen_one_is_not_the_answer_to_the_same_question_asked_again_at_once() -> None:
    session = doubling()
    session.request(READ, 100.0)
    session.receive(reply(), 100.2)
    session.request(READ, 100.21)
    session.receive(reply(), 100.25)  # the double; the register may have moved on since
    session.receive(reply(data="57341200"), 100.4)
    assert [type(event) for event in session.take_events()] == [Replied, Unmatched, Replied]


def test_where_none_were_seen_a_register_that_has_not_moved_is_read_again_at_once() -> None:
    session = asked(now=100.0)
    session.receive(reply(), 100.2)
    session.request(READ, 100.21)
    session.receive(reply(), 100.4)
    assert [type(event) for event in session.take_events()] == [Replied, Replied]


def test_even_then_an_answer_that_did_not_change_is_taken_when_it_comes_again() -> None:
    session = doubling()
    session.request(READ, 100.0)
    session.receive(reply(), 100.2)
    session.request(READ, 100.21)
    session.receive(reply(), 100.4)
    session.tick(102.0)
    session.tick(103.0)
    session.request(Request(METER, READ.message, began_at=100.21), 103.0)
    session.receive(reply(), 103.2)
    assert [type(event) for event in session.take_events()] == [Replied, Unmatched, NoReply, Replied]


def test_a_doubled_reply_does_not_settle_what_is_still_owed() -> None:
    """Asked at 100 (late), again at 101 (answered, doubled); then a new read must still expect the answer of 100."""
    session = asked(Request(METER, READ.message, began_at=100.0), now=100.0)
    session.tick(100.0 + SENT_S + 0.5)
    session.tick(101.0)
    session.request(Request(METER, READ.message, began_at=100.0), 101.0)
    session.receive(reply(data="22222222"), 101.1)
    session.receive(reply(data="22222222"), 101.15)
    session.take_events()
    session.request(READ, 102.0)
    session.receive(reply(data="11111111"), 102.1)
    session.receive(reply(data="33333333"), 102.2)
    last = session.take_events()[-1]
    assert isinstance(last, Replied)
    assert isinstance(last.message, ReadReply)
    assert last.message.data == bytes.fromhex("33333333")


def test_a_read_settled_by_a_double_is_still_owed_its_own_answer() -> None:
    """Asked, silent; the answer comes while nobody asks, its double meets the retry; the retry's own answer is still to come."""
    session = doubling()
    session.request(READ, 100.0)
    session.tick(100.0 + SENT_S + 0.5)
    session.receive(reply(data="11111111"), 100.0 + SENT_S + 0.55)
    session.tick(101.0)
    session.request(Request(METER, READ.message, began_at=100.0), 101.0)
    session.receive(reply(data="11111111"), 101.05)
    assert [type(event) for event in session.take_events()][-1] is Replied
    assert session.owed_s(READ, 101.1) > 2.5


def test_registers_that_do_not_move_are_read_as_fast_as_the_line_allows() -> None:
    session = Session(TIMING)
    for number in range(5):
        assert session.owed_s(READ, 100.0 + number / 10) == 0.0
        session.request(READ, 100.0 + number / 10)
        session.receive(reply(), 100.05 + number / 10)
    assert [type(event) for event in session.take_events()] == [Replied] * 5
