"""A line that one task holds: what goes out meanwhile, what waits, and what ends it. In virtual time, over simulated meters."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from headend.drivers.errors import HoldOver, LineDown, StopOrder
from headend.drivers.hold import Hold
from headend.drivers.line import Line, Priority
from headend.drivers.protocols import session_of, timing_of
from headend.drivers.transport import LineUrl
from protocols.dlt645.items import Di
from protocols.dlt645.messages import ReadReply, ReadRequest
from protocols.exchange import Replied, Request, Sent, Timing
from protocols.modbus.adu import TcpFrame
from protocols.modbus.pdu import ReadRegisters, Registers, encode_reply
from simulators.virtual_time import VirtualClock, run
from tests.headend.drivers.operations_support import ADDRESS, Site, a_meter, on_site

LIVE, CLOSE, OPEN = Priority.LIVE, Priority.RECONNECT, Priority.DISCONNECT


def asking(di: str) -> Request:
    return Request(ADDRESS, ReadRequest(di=Di(di)))


def asked(site: Site) -> list[str]:
    """In the order in which they were on the wire."""
    return [frame.payload[::-1].hex().upper() for frame in site.wire.sent]


def di_of(found: Replied | Sent) -> str:
    assert isinstance(found, Replied)
    assert isinstance(found.message, ReadReply)
    return str(found.message.di)


def test_a_holder_has_several_exchanges_in_a_row_and_whoever_is_more_urgent_waits_for_one_hold() -> None:
    async def story(site: Site) -> None:
        line, order = site.line, list[str]()

        async def ask(di: str, priority: Priority) -> None:
            order.append(di_of(await line.exchange(asking(di), priority)))

        async def hold(name: str, priority: Priority) -> None:
            async with line.hold(priority) as held:
                order.append(name)
                assert di_of(await held.exchange(asking("04000402"))) == "04000402"
                await asyncio.sleep(0.2)  # as a commit takes
                assert di_of(await line.exchange(asking("04000503"), LIVE)) == "04000503"  # the holder's, by any method

        async with asyncio.TaskGroup() as group:
            group.create_task(hold("open 1", OPEN))
            await asyncio.sleep(0.01)
            group.create_task(ask("00010000", LIVE))
            group.create_task(hold("open 2", OPEN))
            group.create_task(hold("close", CLOSE))
            group.create_task(ask("02010100", CLOSE))
        assert order == ["open 1", "close", "02010100", "open 2", "00010000"]
        pair = ["04000402", "04000503"]
        assert asked(site) == [*pair, *pair, "02010100", *pair, "00010000"]

    on_site(story, a_meter())


def test_another_line_is_read_while_one_is_held() -> None:
    async def story(site: Site) -> None:
        async with site.line.hold(OPEN):
            began = site.clock.monotonic()
            line = Line("other", site.line.url, Timing(), connect=site.line._connect, clock=site.clock)
            await line.connect()
            await line.exchange(asking("00010000"), LIVE)
            assert site.clock.monotonic() - began < 0.5

    on_site(story, a_meter())


def test_what_is_asked_in_the_last_step_may_still_say_no_and_nothing_leaves() -> None:
    async def story(site: Site) -> None:
        def no() -> Request:
            raise StopOrder("a payment came")

        async with site.line.hold(OPEN) as held:
            with pytest.raises(StopOrder, match="a payment came"):
                await held.exchange(no)
        await site.line.exchange(asking("00010000"), LIVE)
        assert asked(site) == ["00010000"]

    on_site(story, a_meter())


def test_a_hold_ends_after_its_time_and_its_holder_sends_nothing_any_more() -> None:
    async def story(site: Site) -> None:
        async def read() -> float:
            await site.line.exchange(asking("00010000"), LIVE)
            return site.clock.monotonic()

        async with site.line.hold(OPEN, at_most_s=2.0) as held:
            reading = asyncio.create_task(read())
            await asyncio.sleep(5)
            assert 2.0 <= await reading < 2.5
            with pytest.raises(HoldOver, match="held for longer than 2 s"):
                await held.exchange(asking("04000402"))
        assert asked(site) == ["00010000"]

    on_site(story, a_meter())


def test_what_a_holder_has_queued_when_its_time_ends_does_not_leave_either() -> None:
    """The time ends while the holder's own request is on the wire and a second one waits behind it."""

    async def story(site: Site) -> None:
        async def both(held: Hold) -> list[Any]:
            first = asyncio.ensure_future(held.exchange(asking("04000402")))
            second = asyncio.ensure_future(held.exchange(asking("04000503")))
            return list(await asyncio.gather(first, second, return_exceptions=True))

        async with site.line.hold(OPEN, at_most_s=0.01) as held:
            first, second = await both(held)
        assert di_of(first) == "04000402"
        assert isinstance(second, HoldOver)
        assert asked(site) == ["04000402"]

    on_site(story, a_meter())


def test_a_line_that_is_lost_ends_the_hold_and_a_new_connection_does_not_bring_it_back() -> None:
    async def story(site: Site) -> None:
        async with site.line.hold(OPEN) as held:
            site.line.connection_lost(ConnectionResetError("reset"))
            await site.line.connect()
            with pytest.raises(LineDown, match="lost while it was held"):
                await held.exchange(asking("04000402"))
        await site.line.exchange(asking("00010000"), LIVE)  # everybody's again

    on_site(story, a_meter())


def test_who_waits_for_a_line_that_is_lost_is_told() -> None:
    async def story(site: Site) -> None:
        async def wait() -> None:
            async with site.line.hold(CLOSE):
                raise AssertionError("it was never granted")

        async with site.line.hold(OPEN):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            site.line.close("gone")
            with pytest.raises(LineDown, match="gone"):
                await waiting
        with pytest.raises(LineDown):
            await wait()

    on_site(story, a_meter())


@pytest.mark.parametrize("when", ["waiting", "holding", "granted in this moment"])
def test_a_cancelled_holder_leaves_the_line_to_everybody(when: str) -> None:
    async def story(site: Site) -> None:
        line = site.line
        inside = asyncio.Event()

        async def hold() -> None:
            async with line.hold(OPEN):
                inside.set()
                await asyncio.sleep(100)

        if when == "waiting":
            async with line.hold(OPEN):
                task = asyncio.create_task(hold())
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.wait([task])
                assert not inside.is_set()
        elif when == "holding":
            task = asyncio.create_task(hold())
            await inside.wait()
            task.cancel()
            await asyncio.wait([task])
        else:
            async with line.hold(OPEN):
                task = asyncio.create_task(hold())
                await asyncio.sleep(0.1)
            assert line._hold is not None  # granted to the task, which has not run since
            task.cancel()
            await asyncio.wait([task])
            assert not inside.is_set()
        assert line._hold is None
        await line.exchange(asking("00010000"), LIVE)

    on_site(story, a_meter())


def test_what_a_cancelled_holder_has_sent_is_waited_for_before_anybody_else_speaks() -> None:
    async def story(site: Site) -> None:
        async def hold() -> None:
            async with site.line.hold(OPEN) as held:
                await held.exchange(asking("04000402"))

        task = asyncio.create_task(hold())
        await asyncio.sleep(0)
        assert asked(site) == ["04000402"]
        task.cancel()
        await asyncio.wait([task])
        reading = asyncio.create_task(site.line.exchange(asking("00010000"), LIVE))
        await asyncio.sleep(0)
        assert asked(site) == ["04000402"]
        assert di_of(await reading) == "00010000"
        assert site.line.counters.unmatched_frames == 0

    on_site(story, a_meter())


def test_a_line_with_several_requests_under_way_drains_before_it_is_held_and_sends_at_once() -> None:
    """Modbus TCP: what the holder asks leaves in the step in which it was made, and not together with others a turn later."""

    class Far(asyncio.Transport):
        def __init__(self, protocol: asyncio.Protocol) -> None:
            super().__init__()
            self.protocol = protocol
            self.units: list[int] = []

        def write(self, data: Any) -> None:
            while data:
                size = 6 + int.from_bytes(data[4:6], "big")
                frame, data = TcpFrame.from_bytes(bytes(data[:size])), data[size:]
                self.units.append(frame.unit)
                reply = TcpFrame(frame.transaction, frame.unit, encode_reply(Registers(3, bytes(2)))).to_bytes()
                asyncio.get_running_loop().call_later(0.1 * frame.unit, self.protocol.data_received, reply)

        def abort(self) -> None: ...

        def is_closing(self) -> bool:
            return False

    async def main(clock: VirtualClock, _: object) -> None:
        made: list[Far] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            made.append(Far(protocol))
            protocol.connection_made(made[0])
            return made[0]

        url = LineUrl.parse("tcp://far.end:1")
        line = Line(
            "line",
            url,
            timing_of(url, "modbus-tcp"),
            connect=connect,
            clock=clock,
            session=session_of("modbus-tcp", in_flight=8),
        )
        await line.connect()

        def read(unit: int) -> Awaitable[Replied | Sent]:
            return line.exchange(Request(str(unit), ReadRegisters(3, 0, 1)), LIVE)

        reads = [asyncio.ensure_future(read(unit)) for unit in (1, 2, 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert made[0].units == [1, 2, 3]
        async with line.hold(CLOSE) as held:
            assert clock.monotonic() == pytest.approx(0.3)
            assert all(one.done() for one in reads)
            late = asyncio.ensure_future(read(5))
            steps: list[Callable[[], Request] | int] = []

            def last() -> Request:
                steps.append(len(made[0].units))
                return Request("4", ReadRegisters(3, 0, 1))

            asking = asyncio.ensure_future(held.exchange(last))
            await asyncio.sleep(0)
            assert made[0].units == [1, 2, 3, 4]
            await asking
        await late
        assert made[0].units == [1, 2, 3, 4, 5]
        line.close()

    run(main)


def test_a_holder_that_is_waited_for_is_not_idle() -> None:
    async def story(site: Site) -> None:
        async with site.line.hold(OPEN):
            waiting = asyncio.create_task(site.line.wait_idle())
            await asyncio.sleep(1)
            assert not waiting.done()
        await waiting

    on_site(story, a_meter())
