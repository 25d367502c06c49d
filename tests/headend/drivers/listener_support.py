"""What the tests of listeners share: an owner that writes down what happens, and a caller's end of the wire."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from headend.clock import SystemClock
from headend.drivers.listener import DialIn
from headend.drivers.listener_settings import ListenerSettings
from headend.drivers.transport import LineUrl

__all__ = ["CLOCK", "WAIT_S", "A", "B", "C", "Modem", "Owner", "listening", "modem", "owned", "until", "url"]

A, B, C = "860000000000001", "860000000000002", "860000000000003"
CLOCK = SystemClock()
WAIT_S = 10.0  # at most; what is awaited happens in milliseconds


class Owner(asyncio.Protocol):
    """What a line is to its connection: it writes down what happens."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")


@asynccontextmanager
async def listening(settings: ListenerSettings | None = None) -> AsyncIterator[DialIn]:
    dial_in = DialIn("127.0.0.1", 0, settings, clock=CLOCK)
    await dial_in.start()
    try:
        yield dial_in
    finally:
        await dial_in.aclose()


def url(dial_in: DialIn, dtu: str = "") -> LineUrl:
    return LineUrl.parse(f"listen://127.0.0.1:{dial_in.port}" + (f"?dtu={dtu}" if dtu else ""))


class Modem:
    """A caller's end of the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, wire: bytes) -> None:
        self.writer.write(wire)
        await self.writer.drain()

    async def is_hung_up_on(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(1), WAIT_S) == b""
        except ConnectionError:
            return True

    def hang_up(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def modem(dial_in: DialIn, *say: bytes, source: str = "127.0.0.1") -> AsyncIterator[Modem]:
    reader, writer = await asyncio.open_connection("127.0.0.1", dial_in.port, local_addr=(source, 0))
    caller = Modem(reader, writer)
    try:
        for wire in say:
            await caller.say(wire)
        yield caller
    finally:
        caller.hang_up()


async def until(condition: Callable[[], object]) -> None:
    """The loop turns until it is so; the limit is for a test that fails."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 -- what is waited for is the state of the object under test
            await asyncio.sleep(0.002)


async def owned(dial_in: DialIn, dtu: str, owner: Owner) -> None:
    await asyncio.wait_for(dial_in.connect(url(dial_in, dtu), owner), WAIT_S)
