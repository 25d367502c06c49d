"""Commands leave once or not at all, and what came of them is never guessed. In virtual time, without a broker."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from firmware_contracts.concentrator_contract import load_concentrator
from firmware_contracts.contract import load
from headend.concentrators.broker import MaybeLeft
from headend.concentrators.commands import PENDING_MAX, ConcentratorCommands
from headend.concentrators.errors import (
    BrokerDown,
    CommandExpired,
    CommandNotOffered,
    ConcentratorBusy,
    ConcentratorDown,
)
from headend.concentrators.forward import ForwardTransport, forward_url, forwarding
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import LineDown, NoAnswer
from headend.drivers.line import Line, Priority
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import Command, CommandAnswer, Op, Outgoing, Status
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest, decode, encode
from protocols.exchange import Timing
from simulators.virtual_time import VirtualClock, run
from tests.headend.concentrators.support import HES

METER = "000000000001"
TOTAL = load("dlt645/base_2007").find(Di("00010000"))
Answering = Callable[[Command, "FarEnd"], Awaitable[None]]


class FarEnd:
    """A concentrator at the other end of a broker that loses nothing: decodes what was published, and answers by its script."""

    def __init__(self, contract: ConcentratorContract, clock: VirtualClock, script: Answering) -> None:
        self.contract = contract
        self.clock = clock
        self.script = script
        self.published: list[Outgoing] = []
        self.commands: list[Command] = []
        self.fails: Exception | None = None
        self.head_end = ConcentratorCommands("C1", contract, publish=self.publish, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, message: Outgoing) -> None:
        if self.fails is not None and not isinstance(self.fails, MaybeLeft):
            raise self.fails
        assert message.retain is False
        self.published.append(message)
        command = self.contract.decode_command(message.topic, message.payload, now=self.clock.now())
        self.commands.append(command)
        task = asyncio.get_running_loop().create_task(self.answer_by_script(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.fails is not None:
            raise self.fails

    async def answer_by_script(self, command: Command) -> None:
        await self.script(command, self)

    def answer(self, command: Command, status: str, **others: Any) -> None:
        """Over the wire's own bytes."""
        for message in self.contract.encode_uplink(CommandAnswer.to("C1", command, status, **others)):
            for uplink in self.contract.decode(message.topic, message.payload, now=self.clock.now()):
                assert isinstance(uplink, CommandAnswer)
                self.head_end.received(uplink)


def a_command(
    clock: VirtualClock, *, id: str = "id-1", op: Op = Op.OPEN, ttl_s: float = 15, meter: str = METER
) -> Command:
    return Command(id=id, meter=meter, op=op, params={}, expires_at=clock.now() + timedelta(seconds=ttl_s))


def with_far_end(
    story: Callable[[FarEnd, VirtualClock], Awaitable[None]], script: Answering, contract: str = HES
) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        await story(FarEnd(load_concentrator(contract), clock, script), clock)

    run(main)


async def done_at_once(command: Command, far_end: FarEnd) -> None:
    far_end.answer(command, Status.DONE)


async def silent(command: Command, far_end: FarEnd) -> None:
    pass


def test_a_command_is_answered_by_its_id() -> None:
    async def script(command: Command, far_end: FarEnd) -> None:
        await asyncio.sleep(1.0 if command.id == "slow" else 0.1)
        far_end.answer(command, Status.DONE if command.id == "slow" else Status.FAILED, code="relay-stuck")

    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        slow, quick = await asyncio.gather(
            far_end.head_end.send(a_command(clock, id="slow")), far_end.head_end.send(a_command(clock, id="quick"))
        )
        assert (slow.id, slow.status) == ("slow", "done")
        assert (quick.id, quick.status, quick.code) == ("quick", "failed", "relay-stuck")
        [first, _] = far_end.published
        assert (first.topic, first.qos, first.expiry_s, first.retain) == ("hes/v1/C1/cmd/req", 1, 15, False)

    with_far_end(story, script)


def test_an_unanswered_command_is_unconfirmed_and_never_sent_again() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        began = clock.monotonic()
        answer = await far_end.head_end.send(a_command(clock, ttl_s=15))
        assert (answer.status, answer.code) == ("unconfirmed", "no-answer")
        assert clock.monotonic() - began == pytest.approx(20)
        assert len(far_end.published) == 1
        far_end.answer(far_end.commands[0], Status.DONE)
        assert far_end.head_end.counters.repeated_answers == 1
        with pytest.raises(CommandNotOffered, match="sent before"):
            await far_end.head_end.send(a_command(clock))
        assert len(far_end.published) == 1

    with_far_end(story, silent)


def test_an_accepted_command_is_given_time_to_be_done() -> None:
    async def script(command: Command, far_end: FarEnd) -> None:
        await asyncio.sleep(2)
        far_end.answer(command, Status.ACCEPTED)
        await asyncio.sleep(60)
        far_end.answer(command, Status.DONE)

    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        answer = await far_end.head_end.send(a_command(clock))
        assert answer.status == "done"

    with_far_end(story, script)


def test_repeated_and_stray_answers_change_nothing() -> None:
    async def script(command: Command, far_end: FarEnd) -> None:
        far_end.answer(command, Status.DONE)
        far_end.answer(command, Status.FAILED)
        far_end.answer(a_command(far_end.clock, id="nobody's"), Status.DONE)

    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        assert (await far_end.head_end.send(a_command(clock))).status == "done"
        await asyncio.sleep(0)
        far_end.answer(far_end.commands[0], Status.FAILED)
        counters = far_end.head_end.counters
        assert (counters.answered, counters.repeated_answers, counters.stray_answers) == (1, 1, 2)

    with_far_end(story, script)


def test_an_expired_command_does_not_leave_whichever_clock_says_so() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        with pytest.raises(CommandExpired, match="order it again"):
            await far_end.head_end.send(a_command(clock, ttl_s=-0.5))
        assert far_end.published == []
        command = a_command(clock, ttl_s=30)
        clock.step(60)  # the wall clock was corrected after the command was given
        with pytest.raises(CommandExpired):
            await far_end.head_end.send(command)
        assert far_end.published == []
        assert far_end.head_end.counters.not_sent == 2

    with_far_end(story, silent)


def test_what_did_not_leave_is_an_error_and_what_may_have_left_is_waited_for() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        far_end.fails = BrokerDown("b1", "gone")
        with pytest.raises(BrokerDown):
            await far_end.head_end.send(a_command(clock))
        far_end.fails = MaybeLeft("connection lost meanwhile")
        assert (await far_end.head_end.send(a_command(clock))).status == "done"

    with_far_end(story, done_at_once)


def test_a_family_without_ids_has_one_command_at_a_time_and_a_pause_after_silence() -> None:
    answered: list[str] = []

    async def script(command: Command, far_end: FarEnd) -> None:
        await asyncio.sleep(0.5)
        if len(far_end.commands) != 2:
            far_end.answer(command, Status.DONE)
        else:  # answers far too late: without the pause, the third command would take it for its own
            await asyncio.sleep(12)
            far_end.answer(command, Status.DONE)

    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        async def send(number: int) -> None:
            answer = await far_end.head_end.send(
                a_command(clock, id=f"c{number}", meter="MT1", ttl_s=60 if number == 3 else 6)
            )
            answered.append(
                f"{number} {answer.status} after {clock.monotonic() - began:.1f} s, sent {len(far_end.published)}"
            )

        began = clock.monotonic()
        await asyncio.gather(send(1), send(2), send(3))
        assert far_end.head_end.counters.stray_answers == 1

    with_far_end(story, script, "concentrator/tasmota_sml")
    # 2: 0.5 s in the queue, given up 5 s after its end. 3: five more seconds of silence, and half a second of work.
    assert answered == [
        "1 done after 0.5 s, sent 1",
        "2 unconfirmed after 11.0 s, sent 2",
        "3 done after 16.5 s, sent 3",
    ]


def test_a_command_that_nobody_waits_for_any_more_leaves_no_answer_for_the_next_one() -> None:
    async def script(command: Command, far_end: FarEnd) -> None:
        await asyncio.sleep(2)
        far_end.answer(command, Status.DONE)

    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        given_up = asyncio.create_task(far_end.head_end.send(a_command(clock, id="c1", meter="MT1")))
        await asyncio.sleep(1)
        given_up.cancel()
        began = clock.monotonic()
        answer = await far_end.head_end.send(a_command(clock, id="c2", meter="MT1"))
        assert answer.status == "done"
        assert clock.monotonic() - began == pytest.approx(7), "five seconds of silence, and two of work"
        counters = far_end.head_end.counters
        assert (counters.sent, counters.answered, counters.unanswered, counters.stray_answers) == (2, 1, 1, 1)

    with_far_end(story, script, "concentrator/tasmota_sml")


def test_room_is_waited_for_before_anything_is_written_and_before_the_last_look_and_not_behind_it() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        steps: list[str] = []
        began, full_until = clock.monotonic(), clock.monotonic() + 3.0

        def step(name: str) -> None:
            steps.append(f"{name} {clock.monotonic() - began:g}")

        async def on_sending(message: Outgoing) -> None:
            step("sending")

        async def room() -> None:
            await asyncio.sleep(max(0.0, full_until - clock.monotonic()))
            step("room")

        async def publish(message: Outgoing) -> None:
            step("published")
            await far_end.publish(message)

        head_end = ConcentratorCommands("C1", far_end.contract, publish=publish, clock=clock, room=room)
        far_end.head_end = head_end
        await head_end.send(a_command(clock), on_sending=on_sending, look=lambda: step("look"))
        assert steps == ["room 3", "sending 3", "room 3", "look 3", "published 3"]
        [message] = far_end.published
        assert message.expiry_s == 12, "what is left of fifteen seconds"

    with_far_end(story, done_at_once)


def test_a_command_whose_time_passes_while_there_is_no_room_is_not_written_down_as_sent() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        written: list[Outgoing] = []

        async def on_sending(message: Outgoing) -> None:
            written.append(message)

        async def room() -> None:
            await asyncio.sleep(20)

        head_end = ConcentratorCommands("C1", far_end.contract, publish=far_end.publish, clock=clock, room=room)
        with pytest.raises(CommandExpired):
            await head_end.send(a_command(clock, ttl_s=15), on_sending=on_sending)
        assert written == far_end.published == []
        assert head_end.counters.not_sent == 1

    with_far_end(story, silent)


def test_what_a_family_cannot_say_is_refused_before_anything_leaves() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        with pytest.raises(CommandNotOffered, match="has no message for permit-close"):
            await far_end.head_end.send(a_command(clock, op=Op.PERMIT_CLOSE))
        with pytest.raises(CommandNotOffered, match="id"):
            await far_end.head_end.send(a_command(clock, id=""))
        assert far_end.published == []

    with_far_end(story, silent, "concentrator/tasmota_sml")


def test_more_commands_than_a_concentrator_can_do_are_refused() -> None:
    async def story(far_end: FarEnd, clock: VirtualClock) -> None:
        sends = [far_end.head_end.send(a_command(clock, id=f"c{number}")) for number in range(PENDING_MAX + 1)]
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(result) for result in results if isinstance(result, Exception)] == [ConcentratorBusy]

    with_far_end(story, done_at_once)


# ------------------------------------------------------------------------------------------------ a line through it


def forwarded(
    script: Answering, story: Callable[[Line, FarEnd, VirtualClock], Awaitable[None]], *, down: Callable[[], str] = str
) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        far_end = FarEnd(load_concentrator(HES), clock, script)
        numbers = iter(range(1000))
        connect = forwarding(
            "C1",
            far_end.head_end.send,
            why_down=down,
            new_id=lambda: f"f{next(numbers)}",
            reply_timeout_s=2.0,
            clock=clock,
        )
        line = Line("C1", forward_url("C1"), Timing(reply_timeout_s=3.0, preamble=4), connect=connect, clock=clock)
        await line.connect()
        await story(line, far_end, clock)
        line.close()

    run(main)


def reply_to(command: Command) -> dict[str, str]:
    frame = Frame.from_bytes(bytes.fromhex(str(command.params["frame"])))
    request = decode(frame)
    assert isinstance(request, ReadRequest)
    reply = encode(ReadReply(di=request.di, data=bytes.fromhex("56341200")), frame.address)
    return {"frame": reply.to_bytes().hex()}


async def the_meter_answers(command: Command, far_end: FarEnd) -> None:
    await asyncio.sleep(0.3)
    far_end.answer(command, Status.DONE, detail=reply_to(command))


def test_a_meter_behind_a_concentrator_is_read_by_the_driver_of_serial_lines() -> None:
    async def story(line: Line, far_end: FarEnd, _: VirtualClock) -> None:
        reading = await Dlt645Driver(line).read(METER, TOTAL, Priority.ON_DEMAND)
        assert [str(value.content) for value in reading.values] == ["1234.56"]
        [command] = far_end.commands
        assert (command.op, command.meter) == (Op.FORWARD, METER)
        frame = str(command.params["frame"])
        assert frame.startswith("6801000000000068")  # the concentrator sends its own wake-up bytes

    forwarded(the_meter_answers, story)


def test_a_failed_forward_is_silence_on_the_line() -> None:
    async def script(command: Command, far_end: FarEnd) -> None:
        if len(far_end.commands) == 1:
            far_end.answer(command, Status.FAILED, code="silent")
        elif len(far_end.commands) == 2:
            far_end.answer(command, Status.DONE, detail={"frame": "no hex"})
        else:
            await the_meter_answers(command, far_end)

    async def story(line: Line, far_end: FarEnd, _: VirtualClock) -> None:
        driver = Dlt645Driver(line, retries=0)
        for _time in range(2):
            with pytest.raises(NoAnswer) as caught:
                await driver.read(METER, TOTAL, Priority.ON_DEMAND)
            assert caught.value.kind == "silent"
        assert [str(v.content) for v in (await driver.read(METER, TOTAL, Priority.ON_DEMAND)).values] == ["1234.56"]
        assert len(far_end.commands) == 3

    forwarded(script, story)


def test_an_answer_to_an_older_frame_is_never_the_reply_to_a_newer_one() -> None:
    """Both are the same question, so that nothing in the frame tells them apart; the ids do."""

    async def script(command: Command, far_end: FarEnd) -> None:
        first = len(far_end.commands) == 1
        await asyncio.sleep(4.0 if first else 1.0)
        detail = reply_to(command)
        if first:
            detail["frame"] = (
                encode(ReadReply(di=Di("00010000"), data=bytes.fromhex("99999900")), METER).to_bytes().hex()
            )
        far_end.answer(command, Status.DONE, detail=detail)

    async def story(line: Line, far_end: FarEnd, _: VirtualClock) -> None:
        driver = Dlt645Driver(line, retries=0)
        with pytest.raises(NoAnswer):
            await driver.read(METER, TOTAL, Priority.ON_DEMAND)
        assert [str(v.content) for v in (await driver.read(METER, TOTAL, Priority.ON_DEMAND)).values] == ["1234.56"]

    forwarded(script, story)


def test_the_line_is_down_while_the_concentrator_cannot_be_reached() -> None:
    problem = "its broker b1 is not connected: nothing listens there"

    async def main(clock: VirtualClock, _: object) -> None:
        far_end = FarEnd(load_concentrator(HES), clock, the_meter_answers)
        why = [""]

        async def send(command: Command) -> CommandAnswer:
            if why[0]:
                raise ConcentratorDown("C1", why[0])
            return await far_end.head_end.send(command)

        numbers = iter(range(100))
        connect = forwarding(
            "C1", send, why_down=lambda: why[0], new_id=lambda: f"f{next(numbers)}", reply_timeout_s=2.0, clock=clock
        )
        line = Line("C1", forward_url("C1"), Timing(reply_timeout_s=3.0), connect=connect, clock=clock)
        running = asyncio.create_task(line.run())
        await line.wait_up()
        why[0] = problem
        with pytest.raises(LineDown, match="nothing listens there"):
            await Dlt645Driver(line).read(METER, TOTAL, Priority.ON_DEMAND)
        await asyncio.sleep(5)
        assert not line.is_up
        assert line.problem == problem
        why[0] = ""
        await line.wait_up()
        await Dlt645Driver(line).read(METER, TOTAL, Priority.ON_DEMAND)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(main)


def test_frames_beyond_what_may_be_under_way_are_not_forwarded() -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        far_end = FarEnd(load_concentrator(HES), clock, silent)
        numbers = iter(range(1000))
        transport = ForwardTransport(
            asyncio.Protocol(),
            far_end.head_end.send,
            name="C1",
            new_id=lambda: f"f{next(numbers)}",
            reply_timeout_s=2.0,
            clock=clock,
        )
        for _number in range(50):
            transport.write(encode(ReadRequest(di=Di("00010000")), METER).to_bytes())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(far_end.commands) == 16
        assert transport.counters.failures == 34
        transport.abort()
        assert transport.is_closing()
        await asyncio.sleep(0)

    run(main)
