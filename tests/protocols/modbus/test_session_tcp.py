"""The TCP session: transactions, several requests in flight, and streams that are no Modbus. Time is an argument."""

import random

import pytest

from protocols.errors import EncodeError, LineBusy
from protocols.exchange import NoReply, Replied, Request, Silence, Timing, Unmatched
from protocols.modbus.adu import TcpFrame
from protocols.modbus.pdu import ModbusException, ReadRegisters, Registers, Reply, encode_reply, encode_request
from protocols.modbus.session import ModbusSession

TIMING = Timing(reply_timeout_s=0.5)
READ = ReadRegisters(3, 0, 2)


def new_session(in_flight_max: int = 1) -> ModbusSession:
    return ModbusSession(TIMING, framing="tcp", in_flight_max=in_flight_max)


def ask(session: ModbusSession, now: float = 100.0, *, unit: str = "1", start: int = 0) -> TcpFrame:
    session.request(Request(unit, ReadRegisters(3, start, 2)), now)
    (wire,) = session.take_output()
    return TcpFrame.from_bytes(wire)


def answer(asked: TcpFrame, reply: Reply, unit: int | None = None) -> bytes:
    return TcpFrame(asked.transaction, asked.unit if unit is None else unit, encode_reply(reply)).to_bytes()


def number(value: int) -> Registers:
    return Registers(3, value.to_bytes(4, "big"))


def test_the_reply_with_the_transaction_is_delivered() -> None:
    session = new_session()
    asked = ask(session)
    assert asked.pdu == encode_request(READ)
    assert not session.idle
    session.receive(answer(asked, number(7)), 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.message == number(7)
    assert event.address == "1"
    assert event.is_first
    assert event.elapsed_s == pytest.approx(0.1)
    assert event.wire_sent == asked.to_bytes()
    assert event.wire_received == answer(asked, number(7))
    assert session.idle
    assert session.deadline is None


def test_every_request_has_a_number_of_its_own() -> None:
    session = new_session(16)
    numbers = set()
    for _ in range(16):
        numbers.add(ask(session).transaction)
    assert len(numbers) == 16
    with pytest.raises(LineBusy, match="16 requests are in flight"):
        ask(session)


def test_replies_in_any_order_go_to_who_asked() -> None:
    dice = random.Random(3)
    session = new_session(8)
    for _ in range(50):
        asked = {start: ask(session, start=start) for start in range(8)}
        order = list(asked)
        dice.shuffle(order)
        stream = b"".join(answer(asked[start], number(start)) for start in order)
        cuts = sorted(dice.sample(range(len(stream)), 3))
        for first, last in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            session.receive(stream[first:last], 100.1)
        events = session.take_events()
        assert len(events) == 8
        for event in events:
            assert isinstance(event, Replied)
            assert event.message == number(event.request.message.start)


def test_each_request_has_its_own_deadline() -> None:
    session = new_session(3)
    session.request(Request("1", READ), 100.0)
    session.request(Request("2", READ), 100.2, reply_timeout_s=0.1)
    session.request(Request("3", READ), 100.3)
    assert session.deadline == pytest.approx(100.3)
    session.tick(100.31)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.request.address, event.silence) == ("2", Silence.SILENT)
    assert session.deadline == pytest.approx(100.5)
    assert session.idle, "nothing has to be drained"


def test_a_late_reply_is_known_by_its_number_and_never_taken_for_another() -> None:
    session = new_session()
    old = ask(session)
    session.tick(100.5)
    asked = ask(session, 100.6)
    assert asked.transaction != old.transaction
    assert session.owed_s(Request("1", READ), 100.6) == 0
    session.receive(answer(old, number(1)), 100.7)
    session.receive(answer(asked, number(2)), 100.8)
    session.receive(answer(old, number(1)), 100.9)
    no_reply, late, replied, double = session.take_events()
    assert isinstance(no_reply, NoReply)
    assert isinstance(late, Unmatched)
    assert late.late_s == pytest.approx(0.7)
    assert isinstance(replied, Replied)
    assert replied.message == number(2)
    assert isinstance(double, Unmatched)
    assert double.late_s is None


def test_no_number_is_used_again_while_its_answer_may_still_come() -> None:
    session = new_session()
    old = ask(session)
    session.tick(100.5)
    session.take_events()
    for count in range(70_000):
        asked = ask(session, 101.0)
        assert asked.transaction != old.transaction, count
        session.receive(answer(asked, number(1)), 101.0)
        session.take_events()
    again = {ask_and_answer(session, 200.0) for _ in range(65_536)}
    assert old.transaction in again


def ask_and_answer(session: ModbusSession, now: float) -> int:
    asked = ask(session, now)
    session.receive(answer(asked, number(1)), now)
    session.take_events()
    return asked.transaction


@pytest.mark.parametrize(
    ("unit", "reply", "why"),
    [
        (2, number(1), "from unit 2, asked 1"),
        (1, Registers(4, bytes(4)), "function 04H, asked 03H"),
        (1, Registers(3, bytes(2)), "2 bytes, asked for 4"),
        (1, ModbusException(4, 2), "function 04H, asked 03H"),
    ],
)
def test_the_right_number_is_not_enough(unit: int, reply: Reply, why: str) -> None:
    session = new_session()
    asked = ask(session)
    session.receive(answer(asked, reply, unit), 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Unmatched)
    assert event.why == why
    session.tick(100.5)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert event.silence is Silence.UNMATCHED
    assert event.heard == answer(asked, reply, unit)


def test_a_reply_whose_count_lies_is_unmatched_and_its_number_still_waits() -> None:
    session = new_session()
    asked = ask(session)
    session.receive(TcpFrame(asked.transaction, 1, bytes.fromhex("03FA0000")).to_bytes(), 100.1)
    session.receive(answer(asked, number(5)), 100.2)
    first, second = session.take_events()
    assert isinstance(first, Unmatched)
    assert first.why == "2 bytes of content, announced 250"
    assert isinstance(second, Replied)


def test_an_exception_answers_by_its_number() -> None:
    session = new_session()
    asked = ask(session)
    session.receive(answer(asked, ModbusException(3, 0x0B)), 100.1)
    (event,) = session.take_events()
    assert isinstance(event, Replied)
    assert event.message == ModbusException(3, 0x0B)


def test_a_stream_that_is_no_modbus_asks_for_the_connection_to_be_closed() -> None:
    session = new_session(2)
    ask(session)
    ask(session)
    assert session.broken == ""
    session.receive(b"HTTP/1.1 400 Bad Request\r\n", 100.1)
    assert "this is not Modbus TCP" in session.broken
    assert not session.idle
    with pytest.raises(LineBusy, match="not Modbus TCP"):
        ask(session)
    lost = session.interrupted_all(100.2)
    assert [(event.silence, event.heard) for event in lost] == [(Silence.CORRUPT, b"HTTP/1.")] * 2
    assert session.interrupted(100.2) == lost[0]
    session.reset()
    assert (session.broken, session.idle, session.deadline) == ("", True, None)
    asked = ask(session, 101.0)
    session.receive(answer(asked, number(5)), 101.1)
    assert isinstance(session.take_events()[-1], Replied)


def test_half_a_reply_is_corrupt() -> None:
    session = new_session()
    asked = ask(session)
    session.receive(answer(asked, number(5))[:-1], 100.1)
    session.tick(100.5)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert (event.silence, event.heard) == (Silence.CORRUPT, answer(asked, number(5))[:-1])


def test_units_0_and_255_are_the_device_that_was_dialled() -> None:
    session = new_session(3)
    assert [ask(session, unit=unit).unit for unit in ("0", "255", "17")] == [0, 255, 17]
    session.reset()
    with pytest.raises(EncodeError, match="expected a number from 0 to 255"):
        session.request(Request("256", READ), 100.0)
    assert session.idle


def test_a_far_end_that_answers_what_nobody_asked_costs_no_memory() -> None:
    session = new_session()
    ask(session)
    for transaction in range(20_000):
        session.receive(TcpFrame(transaction, 9, encode_reply(number(1))).to_bytes(), 100.1)
        assert isinstance(session.take_events()[-1], Unmatched)
    session.tick(100.5)
    (event,) = session.take_events()
    assert isinstance(event, NoReply)
    assert len(event.heard) == 512
    assert session.noise_bytes == session.echoes == 0
