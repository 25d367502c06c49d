"""DTUs that dial in, over real sockets: which line owns which connection, from the first call to the next."""

import asyncio
import socket
from typing import cast

import pytest

from firmware_contracts.contract import load
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import LineDown
from headend.drivers.line import Line, Priority
from headend.drivers.listener import DialIn
from headend.drivers.listener_connect import DialInConnect
from headend.drivers.listener_settings import BadListener, ListenerSettings, bytes_of, networks
from headend.drivers.transport import LineUrl
from protocols.dlt645.items import Di
from protocols.exchange import Timing
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.dtu import DtuSettings, SimulatedDtu
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from tests.headend.drivers.listener_support import (
    CLOCK,
    WAIT_S,
    A,
    B,
    Owner,
    listening,
    modem,
    owned,
    until,
    url,
)

PROMPT = ListenerSettings(register_within_s=0.3)
CONTRACT = load("dlt645/base_2007")


# ------------------------------------------------------------------------------------------------ handing over


async def test_a_line_gets_the_connection_of_its_dtu_whoever_came_first() -> None:
    async with listening() as dial_in:
        first, second = Owner(), Owner()
        waits = asyncio.create_task(owned(dial_in, A, first))
        await asyncio.sleep(0)
        async with modem(dial_in, A.encode()) as one, modem(dial_in, B.encode()) as other:
            await waits
            await owned(dial_in, B, second)  # this one was here before its line was
            await one.say(b"from one")
            await other.say(b"from other")
            await until(lambda: first.received and second.received)
            assert (first.received, second.received) == (b"from one", b"from other")
            assert first.transport is not None
            first.transport.write(b"to one")
            assert await one.reader.readexactly(6) == b"to one"
        await until(lambda: first.events == second.events == ["made", "lost"])
        assert (dial_in.counters.accepted, dial_in.counters.registered) == (2, 2)
        await until(lambda: dial_in.connected == 0)


async def test_registration_and_heartbeats_never_reach_the_line_and_everything_else_does() -> None:
    async with listening(ListenerSettings(heartbeat_reply=b"pong", registration_reply=b"OK\r\n")) as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, A, owner))
        async with modem(dial_in, A[:6].encode()) as caller:
            await caller.say(A[6:].encode() + b"\r\n" + b"\x68early")
            await waits
            assert await caller.reader.readexactly(4) == b"OK\r\n"
            await until(lambda: owner.received)
            await caller.say(b"\xfe\x68half" + b"ping")
            await caller.say(b"other half\x16" + A.encode())
            assert await caller.reader.readexactly(8) == b"pongpong"
            await caller.say(b"www.us")
            await caller.say(b"r.cn")
            assert await caller.reader.readexactly(4) == b"pong"
            await caller.say(b"end")
            await until(lambda: owner.received.endswith(b"end"))
            assert owner.received == b"\x68early" + b"\xfe\x68halfother half\x16" + b"end"
            assert dial_in.counters.heartbeats == 3


async def test_a_dtu_that_dials_in_anew_replaces_its_older_connection_and_its_line_hears_of_it_once() -> None:
    async with listening() as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, A, owner))
        async with modem(dial_in, A.encode()) as older:
            await waits
            async with modem(dial_in, A.encode()) as newer:
                await until(lambda: owner.events == ["made", "lost"])
                await owned(dial_in, A, owner)
                assert await older.is_hung_up_on()
                await newer.say(b"here")
                await until(lambda: owner.received == b"here")
                assert owner.events == ["made", "lost", "made"]
                assert dial_in.counters.replaced == 1
                assert dial_in.connected == 1


async def test_a_line_that_hung_up_itself_gets_the_next_connection_and_not_the_end_of_the_last() -> None:
    async with listening() as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, A, owner))
        async with modem(dial_in, A.encode()), modem(dial_in) as again:
            await waits
            assert owner.transport is not None
            waiting = asyncio.create_task(dial_in.connect(url(dial_in, A), owner))  # runs before the loss is told
            owner.transport.abort()
            await asyncio.sleep(0)
            await again.say(A.encode())
            await asyncio.wait_for(waiting, WAIT_S)
            assert owner.events == ["made", "made"]


async def test_a_connection_that_is_lost_before_its_line_takes_a_turn_is_a_line_down() -> None:
    class Hasty(Owner):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            cast(asyncio.Transport, transport).abort()

    async with listening() as dial_in:
        waits = asyncio.create_task(owned(dial_in, A, Hasty()))
        async with modem(dial_in, A.encode()):
            with pytest.raises(LineDown, match="gone at once"):
                await waits


async def test_a_dtu_has_one_owner() -> None:
    async with listening() as dial_in:
        waits = asyncio.create_task(owned(dial_in, A, Owner()))
        await asyncio.sleep(0)
        with pytest.raises(LineDown, match="another line waits"):
            await owned(dial_in, A, Owner())
        async with modem(dial_in, A.encode()):
            await waits
            with pytest.raises(LineDown, match="connected to another line"):
                await owned(dial_in, A, Owner())


async def test_a_cancelled_line_waits_no_more_and_another_may() -> None:
    async with listening() as dial_in:
        waits = asyncio.create_task(owned(dial_in, A, Owner()))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        owner = Owner()
        async with modem(dial_in, A.encode()):
            await owned(dial_in, A, owner)
        assert owner.events[0] == "made"


# ------------------------------------------------------------------------------------------------ lines without an id


async def test_a_line_without_an_id_takes_the_first_caller_whether_it_registers_or_not() -> None:
    async with listening() as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, "", owner))
        async with modem(dial_in) as caller:
            await waits
            await caller.say(b"\xfe\xfe\x68reply\x16")
            await until(lambda: owner.received)
            assert owner.received == b"\xfe\xfe\x68reply\x16"
        await until(lambda: owner.events == ["made", "lost"])
        waits = asyncio.create_task(owned(dial_in, "", owner))
        async with modem(dial_in, A.encode()) as caller:
            await waits
            await until(lambda: dial_in.counters.registered)
            await caller.say(b"\x68" + A.encode() + b"\x16")
            await until(lambda: owner.received == b"\xfe\xfe\x68reply\x16" + b"\x68\x16")
            assert dial_in.unknown() == []


async def test_a_line_without_an_id_gets_the_new_connection_of_a_dtu_that_dialled_in_anew() -> None:
    async with listening() as dial_in:
        owner = Owner()
        waits = asyncio.create_task(owned(dial_in, "", owner))
        async with modem(dial_in, A.encode()):
            await waits
            await until(lambda: dial_in.counters.registered)
            async with modem(dial_in, B.encode()), modem(dial_in, A.encode()):
                await until(lambda: owner.events == ["made", "lost"])
                await owned(dial_in, "", owner)
                assert [entry.dtu for entry in dial_in.unknown()] == [B]


async def test_lines_with_and_without_an_id_do_not_share_a_port() -> None:
    async with listening() as dial_in:
        dial_in.expect("street-1", url(dial_in, A))
        with pytest.raises(LineDown, match=r"each needs its \?dtu=ID"):
            await owned(dial_in, "", Owner())
    async with listening() as dial_in:
        dial_in.expect("street-1", url(dial_in))
        with pytest.raises(BadListener, match=r"each needs its \?dtu=ID"):
            dial_in.expect("street-2", url(dial_in, A))


async def test_a_one_shot_command_says_who_came_instead_when_its_dtu_did_not() -> None:
    async with listening() as dial_in, modem(dial_in, B.encode()):
        await until(dial_in.unknown)
        with pytest.raises(LineDown, match=f"within 0.05 s; callers that nobody waits for: {B}"):
            await dial_in.connect(url(dial_in, A), Owner(), wait_s=0.05)
    async with listening() as dial_in:
        with pytest.raises(LineDown, match="set in the DTU as its server"):
            await dial_in.connect(url(dial_in, A), Owner(), wait_s=0.01)


# ------------------------------------------------------------------------------------------------ settings and places


async def test_a_port_that_is_taken_is_a_line_down_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"listen://127.0.0.1:{taken.getsockname()[1]}?dtu={A}"
        connect = DialInConnect(clock=CLOCK)
        with pytest.raises(LineDown, match=r"cannot listen on .* in use; expected a free port"):
            await connect(LineUrl.parse(place), Owner())
        await connect.aclose()


def test_bad_settings_are_refused_with_their_reason() -> None:
    with pytest.raises(BadListener, match="has no group 'id'"):
        ListenerSettings().with_patterns(registration="[0-9]{15}")
    with pytest.raises(BadListener, match="heartbeat 'ping\\(': no regular expression"):
        ListenerSettings().with_patterns(heartbeat="ping(")
    with pytest.raises(BadListener, match=r"allow '10.0.0.1/8': .*expected a network"):
        networks(["10.0.0.1/8"])
    with pytest.raises(BadListener, match="expected pairs of hex digits"):
        bytes_of("hex:7")
    with pytest.raises(BadListener, match="needs a certificate"):
        DialIn("127.0.0.1", 0, clock=CLOCK, is_tls=True)
    assert bytes_of("hex:7B 01 7D") == b"\x7b\x01\x7d"
    assert bytes_of("OK\r\n") == b"OK\r\n"
    changed = ListenerSettings().with_patterns(registration=r"LOGIN:(?P<id>\d+)", heartbeat="")
    assert changed.heartbeat is None


async def test_ports_have_their_own_settings_and_other_lines_connect_out() -> None:
    asked: list[str] = []

    async def otherwise(line: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
        asked.append(line.text)
        raise LineDown(line.text, "not today")

    connect = DialInConnect({("127.0.0.1", 9): PROMPT}, clock=CLOCK, otherwise=otherwise)
    connect.expect("street-1", LineUrl.parse("listen://127.0.0.1:9?dtu=A2345678"))
    connect.expect("street-2", LineUrl.parse("tcp://127.0.0.1:7"))
    assert connect.listeners[0].settings is PROMPT
    with pytest.raises(LineDown, match="not today"):
        await connect(LineUrl.parse("tcp://127.0.0.1:7"), Owner())
    assert asked == ["tcp://127.0.0.1:7"]
    assert not connect.adopt("B2345678", "street-1")
    with pytest.raises(BadListener, match="no line 'street-2' is dialled in to"):
        connect.adopt("C2345678", "street-2")
    with pytest.raises(BadListener, match="without TLS by another line"):
        connect.expect("street-3", LineUrl.parse("listens://127.0.0.1:9?dtu=D2345678"))
    await connect.aclose()


# ------------------------------------------------------------------------------------------------ a line and its meters


def simulated_dtu(dial_in: DialIn, dtu: str, meter: str) -> SimulatedDtu:
    began = CLOCK.now()
    model = MeterModel(MeterAddress(meter), seed=1, kind=Kind.HOUSEHOLD, clock_set_at=began)
    line = SimulatedLine(Dlt645Bus([Dlt645Meter(model, CONTRACT)]), CLOCK.now)
    settings = DtuSettings(
        host="127.0.0.1",
        port=dial_in.port,
        registration=dtu.encode(),
        heartbeat=b"www.usr.cn",
        heartbeat_s=0.02,
        redial_s=(0.05, 0.1),
    )
    return SimulatedDtu(dtu, settings, line, seed=1)


async def test_a_line_reads_the_meter_behind_a_dtu_that_beats_all_the_time_and_redials() -> None:
    async with listening() as dial_in:
        line = Line("street-1", url(dial_in, A), Timing(reply_timeout_s=2.0), connect=dial_in.connect, clock=CLOCK)
        dtu = simulated_dtu(dial_in, A, "000000000001")
        tasks = [asyncio.create_task(line.run()), asyncio.create_task(dtu.run())]
        try:
            for attempt in range(3):
                await asyncio.wait_for(line.wait_up(), WAIT_S)
                for _ in range(5):
                    reading = await Dlt645Driver(line).read(
                        "000000000001", CONTRACT.find(Di("00010000")), Priority.LIVE
                    )
                    assert len(reading.values) == 1
                await until(lambda: dtu.counters.heartbeats >= 3)
                assert line.noise_bytes == 0
                assert dtu.counters.connected == attempt + 1
                dtu.hang_up()
                await until(lambda: not line.is_up)
                assert line.problem
            assert line.counters.silent == line.counters.corrupt == 0
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
