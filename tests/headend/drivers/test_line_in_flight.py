"""Several requests under way on one line: they leave together, and not one of them leaves on a connection that has gone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headend.drivers.errors import LineDown
from headend.drivers.line import Line, Priority
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl
from protocols.exchange import Replied, Request, Sent
from protocols.modbus.adu import TcpFrame
from protocols.modbus.pdu import ReadRegisters, Registers, decode_request, encode_reply
from simulators.virtual_time import VirtualClock, run

URL = LineUrl.parse("tcp://far.end:1")
REQUEST_SIZE = 12


class FarEnd(asyncio.Transport):
    """Keeps what was written, write by write; a reply holds the unit that was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    @property
    def frames(self) -> list[TcpFrame]:
        wires = b"".join(self.writes)
        return [TcpFrame.from_bytes(wires[at : at + REQUEST_SIZE]) for at in range(0, len(wires), REQUEST_SIZE)]

    def replies(self) -> bytes:
        return b"".join(
            TcpFrame(frame.transaction, frame.unit, encode_reply(Registers(3, bytes((0, frame.unit))))).to_bytes()
            for frame in self.frames
        )

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False


def on_a_line(
    story: Callable[[Line, FarEnd], Awaitable[None]], *, protocol: str = "modbus-tcp", **options: int
) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        far_end = FarEnd()

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            protocol.connection_made(far_end)
            return far_end

        session = session_of(protocol, **options)
        line = Line("line", URL, timing_of(URL, protocol), connect=connect, clock=clock, session=session)
        await line.connect()
        await story(line, far_end)
        line.close()

    run(main)


def ask(line: Line, unit: int) -> "asyncio.Task[Replied | Sent]":
    return asyncio.create_task(line.exchange(Request(str(unit), ReadRegisters(3, 0, 1)), Priority.LIVE))


def test_requests_of_one_turn_of_the_loop_leave_in_one_write_and_each_gets_its_reply() -> None:
    async def story(line: Line, far_end: FarEnd) -> None:
        asked = [ask(line, unit) for unit in (1, 2, 3)]
        await asyncio.sleep(0)  # each has asked
        await asyncio.sleep(0)  # and the line has sent
        assert [len(write) for write in far_end.writes] == [3 * REQUEST_SIZE]
        assert [decode_request(frame.pdu) for frame in far_end.frames] == [ReadRegisters(3, 0, 1)] * 3
        line.data_received(far_end.replies())
        assert [(await task).message for task in asked] == [Registers(3, bytes((0, unit))) for unit in (1, 2, 3)]  # type: ignore[union-attr]
        assert line.counters.bytes_sent == 3 * REQUEST_SIZE

    on_a_line(story, in_flight=16)


def test_the_last_request_that_may_be_under_way_sends_all_of_them_at_once() -> None:
    async def story(line: Line, far_end: FarEnd) -> None:
        asked = [ask(line, unit) for unit in (1, 2, 3)]
        await asyncio.sleep(0)
        assert [len(write) for write in far_end.writes] == [2 * REQUEST_SIZE]
        line.data_received(far_end.replies())
        assert [frame.unit for frame in far_end.frames] == [1, 2]
        await asyncio.sleep(0)
        assert [frame.unit for frame in far_end.frames] == [1, 2, 3]
        line.data_received(far_end.replies())
        await asyncio.gather(*asked)

    on_a_line(story, in_flight=2)


@pytest.mark.parametrize("protocol", ["modbus-rtu", "modbus-tcp"])
def test_where_one_request_may_be_under_way_it_leaves_at_once(protocol: str) -> None:
    async def story(line: Line, far_end: FarEnd) -> None:
        asked = ask(line, 1)
        await asyncio.sleep(0)
        assert len(far_end.writes) == 1
        line.close()
        with pytest.raises(LineDown):
            await asked

    on_a_line(story, protocol=protocol)


def test_what_had_not_left_when_the_line_went_down_never_leaves() -> None:
    async def story(line: Line, far_end: FarEnd) -> None:
        asked = ask(line, 1)
        await asyncio.sleep(0)
        line.close("lost")
        await line.connect()
        again = ask(line, 2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [frame.unit for frame in far_end.frames] == [2]
        with pytest.raises(LineDown):
            await asked
        again.cancel()

    on_a_line(story, in_flight=16)
