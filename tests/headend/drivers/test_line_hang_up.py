"""A line that goes down in the middle of things: everybody who waits hears of it, and of what has left."""

import asyncio
from typing import Any

import pytest

from headend.drivers.errors import DriverError, LineDown, NoAnswer
from headend.drivers.line import Line, Priority
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadRequest
from protocols.exchange import Replied, Request, Timing
from protocols.modbus.adu import TcpFrame
from protocols.modbus.pdu import ReadRegisters, Registers, encode_reply
from simulators.virtual_time import VirtualClock, run

from .test_line import METER, URL, FarEnd, answers

IN_FLIGHT = 8


def test_a_chain_of_requests_that_waits_for_its_pause_is_failed_too() -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        made: list[FarEnd] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            made.append(FarEnd(protocol, answers))
            protocol.connection_made(made[0])
            return made[0]

        line = Line("line", URL, Timing(reply_timeout_s=0.5, turnaround_s=0.2), connect=connect, clock=clock)
        await line.connect()
        asked = Request(METER, ReadRequest(di=Di("00010000")))
        chain = asyncio.ensure_future(line.exchange_all(asked, Priority.LIVE, lambda _: Request(METER, asked.message)))
        await asyncio.sleep(0.25)  # the first is answered, the second waits until the line may speak again
        assert len(made[0].asked) == 1
        idle = asyncio.ensure_future(line.wait_idle())
        await asyncio.sleep(0)
        assert not idle.done()
        made[0].hang_up()
        with pytest.raises(LineDown):
            await asyncio.wait_for(chain, 1.0)
        await asyncio.wait_for(idle, 1.0)

    run(main)


class OnceThere(asyncio.Transport):
    """Answers the first `count` requests at once, and then nothing."""

    def __init__(self, protocol: asyncio.Protocol, count: int) -> None:
        super().__init__()
        self.protocol = protocol
        self.left = count
        self.is_closed = False

    def write(self, data: Any) -> None:
        wires = bytes(data)
        for at in range(0, len(wires), 12):
            if self.left:
                self.left -= 1
                asked = TcpFrame.from_bytes(wires[at : at + 12])
                reply = TcpFrame(asked.transaction, asked.unit, encode_reply(Registers(3, b"\0\1"))).to_bytes()
                asyncio.get_running_loop().call_soon(self.protocol.data_received, reply)

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def test_hanging_up_on_silence_tells_each_of_those_that_were_under_way_what_has_left() -> None:
    """A far end that is gone leaves all of them unanswered in the same moment; the sixth makes the line hang up."""

    async def main(clock: VirtualClock, _: object) -> None:
        url = LineUrl.parse("tcp://far.end:1")
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            transport = OnceThere(protocol, IN_FLIGHT)
            protocol.connection_made(transport)
            return transport

        line = Line(
            "line",
            url,
            timing_of(url, "modbus-tcp"),
            connect=connect,
            clock=clock,
            session=session_of("modbus-tcp", in_flight=IN_FLIGHT),
        )
        await line.connect()

        def ask(unit: int) -> "asyncio.Task[Any]":
            return asyncio.create_task(line.exchange(Request(str(unit), ReadRegisters(3, 0, 1)), Priority.LIVE))

        first = await asyncio.gather(*(ask(unit) for unit in range(1, IN_FLIGHT + 1)))
        assert all(isinstance(one, Replied) for one in first)
        ended = await asyncio.gather(*(ask(unit) for unit in range(1, IN_FLIGHT + 1)), return_exceptions=True)
        assert not failures
        assert not line.is_up
        assert all(isinstance(one, NoAnswer | LineDown) for one in ended)
        assert all(isinstance(one, DriverError) and one.wire_sent for one in ended)
        counters = line.counters
        assert counters.requests == counters.replied + counters.silent + counters.lost

    run(main)
