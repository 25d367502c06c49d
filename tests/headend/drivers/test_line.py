"""The line's owner: order, counters, time-outs, broken connections. The other end is a script in virtual time."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from firmware_contracts.contract import load
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import BadReply, LineDown, LineQueueFull, NoAnswer, RefusedByMeter
from headend.drivers.line import QUEUE_MAX, Line, Priority
from headend.drivers.transport import LineUrl
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import (
    FollowUpReply,
    FollowUpRequest,
    Message,
    ReadReply,
    ReadRequest,
    Refused,
    decode,
    encode,
)
from protocols.exchange import Replied, Request, Timing
from simulators.virtual_time import VirtualClock, run

METER = "000000000001"
TOTAL = load("dlt645/base_2007").find(Di("00010000"))
TARIFFS = load("dlt645/base_2007").find(Di("0001FF00"))
TIMING = Timing(reply_timeout_s=0.5)
URL = LineUrl.parse("tcp://far.end:1")
Script = Callable[[Frame, Message], list[tuple[float, bytes]]]


class FarEnd(asyncio.Transport):
    """Answers each request as the script says: (delay in seconds, bytes)."""

    def __init__(self, protocol: asyncio.Protocol, script: Script) -> None:
        super().__init__()
        self.protocol = protocol
        self.script = script
        self.asked: list[Message] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        frame = Frame.from_bytes(bytes(data))
        message = decode(frame)
        self.asked.append(message)
        for delay_s, wire in self.script(frame, message):
            asyncio.get_running_loop().call_later(delay_s, self.protocol.data_received, wire)

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def hang_up(self) -> None:
        self.protocol.connection_lost(None)


def total_of(frame: Frame, message: Message) -> bytes:
    assert isinstance(message, ReadRequest)
    return encode(ReadReply(di=message.di, data=bytes.fromhex("56341200")), frame.address).to_bytes()


def answers(frame: Frame, message: Message) -> list[tuple[float, bytes]]:
    return [(0.1, total_of(frame, message))]


def silent(_: Frame, __: Message) -> list[tuple[float, bytes]]:
    return []


def on_a_line(script: Script, story: Callable[[Line, "asyncio.Future[FarEnd]", VirtualClock], Awaitable[None]]) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        far_end: asyncio.Future[FarEnd] = asyncio.get_running_loop().create_future()

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            transport = FarEnd(protocol, script)
            protocol.connection_made(transport)
            if not far_end.done():
                far_end.set_result(transport)
            return transport

        line = Line("line", URL, TIMING, connect=connect, clock=clock)
        await line.connect()
        await story(line, far_end, clock)
        line.close()

    run(main)


def test_a_read_comes_back_with_value_and_wires() -> None:
    async def story(line: Line, _: Any, __: VirtualClock) -> None:
        reading = await Dlt645Driver(line).read(METER, TOTAL, Priority.LIVE)
        assert [str(value.content) for value in reading.values] == ["1234.56"]
        assert reading.elapsed_s == pytest.approx(0.1)
        assert reading.wire_sent[0].startswith(b"\xfe\xfe\xfe\xfe\x68")
        assert line.counters.replied == 1

    on_a_line(answers, story)


def test_urgent_requests_overtake_waiting_ones_and_equal_ones_keep_their_order() -> None:
    async def story(line: Line, far_end: Any, _: VirtualClock) -> None:
        async def ask(tariff: int, priority: Priority) -> None:
            await line.exchange(Request(METER, ReadRequest(di=Di(f"0001{tariff:02}00"))), priority)

        async with asyncio.TaskGroup() as group:
            for tariff, priority in (
                (1, Priority.LIVE),
                (2, Priority.BACK_FILL),
                (3, Priority.LIVE),
                (4, Priority.LIVE),
                (5, Priority.RECONNECT),
                (6, Priority.ON_DEMAND),
            ):
                group.create_task(ask(tariff, priority))
        assert [str(message.di)[2:6] for message in (await far_end).asked] == [
            "0101",
            "0105",
            "0106",
            "0103",
            "0104",
            "0102",
        ]

    on_a_line(answers, story)


def test_a_silent_meter_is_tried_again_and_then_said_to_be_silent() -> None:
    async def story(line: Line, far_end: Any, _: VirtualClock) -> None:
        with pytest.raises(NoAnswer, match=r"no byte came within 0\.50 s") as caught:
            await Dlt645Driver(line, retries=2).read(METER, TOTAL, Priority.LIVE)
        assert caught.value.kind == "silent"
        assert len((await far_end).asked) == 3
        assert line.counters.silent == 3

    on_a_line(silent, story)


def test_a_late_reply_is_never_the_answer_to_the_next_request() -> None:
    """The meter answers everything 0.6 s late: after the time-out, while the next request is in flight."""

    def late(frame: Frame, message: Message) -> list[tuple[float, bytes]]:
        assert isinstance(message, ReadRequest)
        data = bytes.fromhex("11111111") if str(message.di) == "00010000" else bytes.fromhex("22222222")
        return [(0.65, encode(ReadReply(di=message.di, data=data), frame.address).to_bytes())]

    async def story(line: Line, _: Any, __: VirtualClock) -> None:
        answered = 0
        for _number in range(10):
            for di, value in (("00010000", "11111111"), ("00020000", "22222222")):
                with contextlib.suppress(NoAnswer):
                    replied = await line.exchange(Request(METER, ReadRequest(di=Di(di))), Priority.LIVE)
                    assert isinstance(replied, Replied)
                    assert replied.message == ReadReply(di=Di(di), data=bytes.fromhex(value))
                    answered += 1
        assert line.counters.late_frames > 0
        assert answered > 10, "the line did not learn how slow this meter is"

    on_a_line(late, story)


def test_a_refusal_is_final_and_names_the_error_word() -> None:
    def refuses(frame: Frame, _: Message) -> list[tuple[float, bytes]]:
        return [(0.1, encode(Refused(dialect=Dialect.V2007, function=0x11, word=0x02), frame.address).to_bytes())]

    async def story(line: Line, far_end: Any, _: VirtualClock) -> None:
        with pytest.raises(RefusedByMeter, match=r"error word 02H \(no such data\)"):
            await Dlt645Driver(line).read(METER, TOTAL, Priority.LIVE)
        assert len((await far_end).asked) == 1

    on_a_line(refuses, story)


def test_a_right_frame_with_impossible_digits_is_corrupt_never_a_number() -> None:
    def bad_digits(frame: Frame, message: Message) -> list[tuple[float, bytes]]:
        return [(0.1, encode(ReadReply(di=TOTAL.di, data=bytes.fromhex("5A341200")), frame.address).to_bytes())]

    async def story(line: Line, _: Any, __: VirtualClock) -> None:
        with pytest.raises(BadReply, match="is not BCD"):
            await Dlt645Driver(line, retries=0).read(METER, TOTAL, Priority.LIVE)

    on_a_line(bad_digits, story)


def test_a_reply_in_parts_is_put_together() -> None:
    parts = [bytes.fromhex("0001000000000000"), bytes.fromhex("0002000000000000"), bytes.fromhex("00030000")]

    def in_parts(frame: Frame, message: Message) -> list[tuple[float, bytes]]:
        if isinstance(message, ReadRequest):
            reply: Message = ReadReply(di=message.di, data=parts[0], follow=True)
        else:
            assert isinstance(message, FollowUpRequest)
            assert message.sequence is not None
            reply = FollowUpReply(
                di=message.di, data=parts[message.sequence], sequence=message.sequence, follow=message.sequence < 2
            )
        return [(0.1, encode(reply, frame.address).to_bytes())]

    async def story(line: Line, _: Any, __: VirtualClock) -> None:
        reading = await Dlt645Driver(line).read(METER, TARIFFS, Priority.LIVE)
        assert [str(value.content) for value in reading.values] == ["1.00", "0.00", "2.00", "0.00", "3.00"]
        assert len(reading.wire_received) == 3

    on_a_line(in_parts, story)


def test_a_broken_connection_fails_what_is_waiting_and_what_is_in_flight() -> None:
    async def story(line: Line, far_end: Any, _: VirtualClock) -> None:
        tasks = [
            asyncio.ensure_future(line.exchange(Request(METER, ReadRequest(di=TOTAL.di)), Priority.LIVE))
            for _ in range(3)
        ]
        await asyncio.sleep(0.05)
        (await far_end).hang_up()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, LineDown) for error in found)
        assert line.counters.lost == 3
        with pytest.raises(LineDown, match="closed by the other side"):
            await line.exchange(Request(METER, ReadRequest(di=TOTAL.di)), Priority.LIVE)

    on_a_line(silent, story)


def test_a_caller_that_goes_away_does_not_disturb_the_line() -> None:
    async def story(line: Line, _: Any, __: VirtualClock) -> None:
        gone = asyncio.ensure_future(line.exchange(Request(METER, ReadRequest(di=TOTAL.di)), Priority.LIVE))
        await asyncio.sleep(0.05)
        gone.cancel()
        replied = await line.exchange(Request(METER, ReadRequest(di=Di("00020000"))), Priority.LIVE)
        assert isinstance(replied, Replied)
        assert replied.message.di == Di("00020000")
        assert line.counters.unmatched_frames == 0

    on_a_line(answers, story)


def test_the_queue_is_bounded() -> None:
    async def story(line: Line, _: Any, __: VirtualClock) -> None:
        request = Request(METER, ReadRequest(di=TOTAL.di))
        waiting = [asyncio.ensure_future(line.exchange(request, Priority.LIVE)) for _ in range(QUEUE_MAX + 1)]
        await asyncio.sleep(0)
        with pytest.raises(LineQueueFull, match="1000 requests are waiting"):
            await line.exchange(request, Priority.LIVE)
        line.close()
        await asyncio.gather(*waiting, return_exceptions=True)

    on_a_line(silent, story)


def test_a_line_that_does_not_open_is_tried_again_with_back_off() -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        tries: list[float] = []

        async def connect(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            tries.append(clock.monotonic())
            if len(tries) < 8:
                raise LineDown(url.text, "nobody is there")
            transport = FarEnd(protocol, answers)
            protocol.connection_made(transport)
            return transport

        line = Line("line", URL, TIMING, connect=connect, clock=clock)
        running = asyncio.create_task(line.run())
        await asyncio.sleep(5)
        assert (line.is_up, line.problem) == (False, "nobody is there")
        await line.wait_up()
        pauses = [after - before for before, after in itertools.pairwise(tries)]
        assert pauses == [1, 2, 4, 8, 15, 15, 15]
        assert line.problem == ""
        running.cancel()

    run(main)


def test_a_server_that_hangs_up_at_once_is_not_hammered() -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        tries = 0

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            nonlocal tries
            tries += 1
            transport = FarEnd(protocol, answers)
            protocol.connection_made(transport)
            asyncio.get_running_loop().call_soon(transport.hang_up)
            return transport

        running = asyncio.create_task(Line("line", URL, TIMING, connect=connect, clock=clock).run())
        await asyncio.sleep(600)
        assert tries < 50
        running.cancel()

    run(main)
