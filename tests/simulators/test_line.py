"""Lines: replies come when they are due, bytes take their time, and two speakers make noise. In virtual time."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from firmware_contracts.contract import load
from protocols.dlt645 import messages as m
from protocols.dlt645.frame import WILDCARD, Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import Di
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus, superpose
from simulators.dlt645_meter import Dlt645Meter
from simulators.line import SimulatedLine, serve_tcp
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock, run

START = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)
READ_TOTAL = m.ReadRequest(di=Di("00010000"))
BYTE_S = 11 / 2400


class Master(asyncio.Protocol):
    """What a driver would be: notes every chunk with its time."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.chunks: list[tuple[float, bytes]] = []
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.chunks.append((self.clock.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    @property
    def heard(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)

    def frames(self) -> list[Frame]:
        return [found.frame for found in Framer().receive(self.heard, 0.0) if isinstance(found, Heard)]


def bus(count: int = 3, *, delay_s: float | None = 0.1, baud: int | None = None) -> Dlt645Bus:
    contract = load("dlt645/base_2007")
    return Dlt645Bus(
        [
            Dlt645Meter(
                MeterModel(MeterAddress(f"{number:012}"), seed=number, clock_set_at=START),
                contract,
                reply_delay_s=delay_s,
            )
            for number in range(1, count + 1)
        ],
        baud=baud,
    )


def wire(address: int | str, request: m.Message = READ_TOTAL) -> bytes:
    return m.encode(request, address if isinstance(address, str) else f"{address:012}").to_bytes(4)


def play(scenario: Callable[[VirtualClock], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock, _: random.Random) -> None:
        await scenario(clock)

    run(main, start=START)


def test_a_reply_comes_after_the_meters_delay_in_one_chunk() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line, master = SimulatedLine(bus(), clock.world), Master(clock)
        transport = await line.connect(master)
        transport.write(wire(2))
        await asyncio.sleep(1)
        ((at, _),) = master.chunks
        assert at == pytest.approx(0.1)
        assert master.heard.startswith(b"\xfe" * 4)
        assert [frame.address for frame in master.frames()] == ["000000000002"]

    play(scenario)


def test_a_request_in_pieces_is_understood() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line, master = SimulatedLine(bus(), clock.world), Master(clock)
        transport = await line.connect(master)
        for byte in wire(1):
            transport.write(bytes([byte]))
            await asyncio.sleep(0.3)
        await asyncio.sleep(1)
        assert len(master.frames()) == 1

    play(scenario)


def test_a_meter_that_is_not_on_the_line_is_silence() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line, master = SimulatedLine(bus(), clock.world), Master(clock)
        (await line.connect(master)).write(wire(9))
        await asyncio.sleep(60)
        assert master.chunks == []

    play(scenario)


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_bytes_take_their_time_on_the_wire_in_both_directions(byte_by_byte: bool) -> None:
    async def scenario(clock: VirtualClock) -> None:
        line = SimulatedLine(bus(), clock.world, baud=2400, byte_by_byte=byte_by_byte)
        master = Master(clock)
        request = wire(1)
        (await line.connect(master)).write(request)
        await asyncio.sleep(5)
        reply_size = len(master.heard)
        heard_at = len(request) * BYTE_S + 0.1
        assert master.chunks[0][0] == pytest.approx(heard_at + (1 if byte_by_byte else reply_size) * BYTE_S)
        assert master.chunks[-1][0] == pytest.approx(heard_at + reply_size * BYTE_S)
        assert len(master.chunks) == (reply_size if byte_by_byte else 1)

    play(scenario)


def test_a_wildcard_that_several_meters_answer_is_garbled() -> None:
    async def scenario(clock: VirtualClock) -> None:
        street = bus(3)
        line, master = SimulatedLine(street, clock.world), Master(clock)
        transport = await line.connect(master)
        transport.write(wire(WILDCARD, m.ReadAddressRequest()))
        await asyncio.sleep(2)
        assert master.heard
        assert master.frames() == []
        assert street.collisions == 1
        transport.write(wire("AAAAAAAAAA02", m.ReadAddressRequest()))
        transport.write(wire("AAAAAAAAAA02"))
        await asyncio.sleep(2)
        assert [frame.address for frame in master.frames()] == ["000000000002"]

    play(scenario)


def test_replies_that_do_not_meet_stay_whole() -> None:
    first, second = b"\x68" * 20, b"\x16" * 20
    apart = superpose([(0.02, first), (0.30, second)], BYTE_S)
    assert [stretch for _, stretch in apart] == [first, second]
    assert [delay for delay, _ in apart] == [pytest.approx(delay, abs=BYTE_S) for delay in (0.02, 0.30)]
    ((_, both),) = superpose([(0.02, first), (0.02 + 10 * BYTE_S, second)], BYTE_S)
    assert both == b"\x68" * 10 + bytes([0x68 & 0x16]) * 10 + b"\x16" * 10


def test_a_request_while_a_reply_is_due_is_counted() -> None:
    async def scenario(clock: VirtualClock) -> None:
        street = bus(2)
        line, master = SimulatedLine(street, clock.world), Master(clock)
        transport = await line.connect(master)
        transport.write(wire(1))
        await asyncio.sleep(0.05)
        transport.write(wire(2))
        await asyncio.sleep(1)
        assert street.overlaps == 1
        assert street.requests == street.replies == 2

    play(scenario)


def test_a_meter_at_another_rate_hears_nothing() -> None:
    async def scenario(clock: VirtualClock) -> None:
        street = bus(2, baud=2400)
        street.meters[1].baud = 9600
        line, master = SimulatedLine(street, clock.world, baud=2400), Master(clock)
        transport = await line.connect(master)
        for number in (1, 2):
            transport.write(wire(number))
            await asyncio.sleep(2)
        assert [frame.address for frame in master.frames()] == ["000000000001"]

    play(scenario)


def test_every_master_on_the_line_hears_every_reply() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line = SimulatedLine(bus(), clock.world)
        asking, listening = Master(clock), Master(clock)
        transport = await line.connect(asking)
        await line.connect(listening)
        transport.write(wire(1))
        await asyncio.sleep(1)
        assert asking.heard == listening.heard != b""

    play(scenario)


def test_a_dropped_line_tells_its_masters_and_refuses_until_reachable() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line, master = SimulatedLine(bus(), clock.world), Master(clock)
        transport = await line.connect(master)
        line.reachable = False
        line.drop()
        await asyncio.sleep(0)
        assert transport.is_closing()
        assert isinstance(master.lost[0], ConnectionResetError)
        transport.write(wire(1))
        await asyncio.sleep(1)
        assert master.chunks == []
        with pytest.raises(ConnectionRefusedError):
            await line.connect(master)

    play(scenario)


def test_a_closed_transport_hears_nothing_more_and_says_so_once() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line, master = SimulatedLine(bus(), clock.world), Master(clock)
        transport = await line.connect(master)
        transport.write(wire(1))
        transport.close()
        transport.close()
        await asyncio.sleep(1)
        assert master.chunks == []
        assert master.lost == [None]

    play(scenario)


def test_a_paused_master_gets_its_bytes_when_it_resumes() -> None:
    async def scenario(clock: VirtualClock) -> None:
        line, master = SimulatedLine(bus(), clock.world), Master(clock)
        transport = await line.connect(master)
        transport.pause_reading()
        transport.write(wire(1))
        await asyncio.sleep(1)
        assert master.chunks == []
        transport.resume_reading()
        assert len(master.frames()) == 1

    play(scenario)


def test_the_same_seeds_give_the_same_bytes_at_the_same_times() -> None:
    def once() -> list[tuple[float, bytes]]:
        heard: list[tuple[float, bytes]] = []

        async def scenario(clock: VirtualClock) -> None:
            line, master = SimulatedLine(bus(20, delay_s=None), clock.world, baud=2400), Master(clock)
            transport = await line.connect(master)
            for number in range(1, 21):
                transport.write(wire(number))
                await asyncio.sleep(2)
            heard.extend(master.chunks)

        play(scenario)
        return heard

    first = once()
    assert len(first) == 20
    assert once() == first


async def test_over_tcp_two_clients_share_one_line() -> None:
    line = SimulatedLine(bus(delay_s=0.0), lambda: START)
    server = await serve_tcp(line, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire(1))
        reply = await reader.readuntil(b"\x16")
        assert await other_reader.readexactly(len(reply)) == reply
        other_writer.write(wire(2))
        assert await reader.readuntil(b"\x16") != reply
        for stream in (writer, other_writer):
            stream.close()
            await stream.wait_closed()
    line.close()
