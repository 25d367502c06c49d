"""What is published leaves at once or never. A broker played by hand: it takes and acknowledges only what a test lets it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from headend.concentrators.client import UNDER_WAY_MAX, MqttClient, MqttError, NotSent
from tests.headend.concentrators.support import broker_settings, eventually

CONNACK = bytes.fromhex("20 03 00 00 00")
ONE_AT_A_TIME = bytes.fromhex("20 06 00 00 03 21 00 01")
PUBLISH, PUBACK = 3, 0x40
MANY_BYTES = 32 * 1024 * 1024  # more than two sockets keep between them


class HandBroker:
    """Takes one connection. published: packet numbers in the order in which they came. reads: cleared, it takes nothing more."""

    def __init__(self, connack: bytes) -> None:
        self.connack = connack
        self.published: list[int] = []
        self.bytes = 0
        self.ended = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            await self._packet(reader)
            writer.write(self.connack)
            while True:
                await self.reads.wait()
                kind, body = await self._packet(reader)
                if kind == PUBLISH:
                    at = 2 + int.from_bytes(body[:2], "big")
                    self.published.append(int.from_bytes(body[at : at + 2], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended.set()
            writer.close()

    async def _packet(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        [kind] = await reader.readexactly(1)
        size = place = 0
        while True:
            [byte] = await reader.readexactly(1)
            size |= (byte & 0x7F) << place
            place += 7
            if byte < 0x80:
                break
        body = b""
        while len(body) < size:
            chunk = await reader.read(size - len(body))
            if not chunk:
                raise asyncio.IncompleteReadError(body, size)
            self.bytes += len(chunk)
            body += chunk
        return kind >> 4, body

    def acknowledge(self, number: int) -> None:
        assert self._writer is not None
        self._writer.write(bytes([PUBACK, 2]) + number.to_bytes(2, "big"))


@asynccontextmanager
async def talking(
    *, connack: bytes = CONNACK, answer_timeout_s: float = 20.0
) -> AsyncIterator[tuple[MqttClient, HandBroker]]:
    broker = HandBroker(connack)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = MqttClient(
        broker_settings(f"mqtt://127.0.0.1:{port}"),
        password=None,
        tls=None,
        take=lambda message: None,
        answer_timeout_s=answer_timeout_s,
    )
    await client.connect()
    try:
        yield client, broker
    finally:
        await client.aclose()
        server.close()
        broker.reads.set()
        await asyncio.wait_for(broker.ended.wait(), 20)


def publishing(client: MqttClient, count: int) -> list["asyncio.Task[object]"]:
    async def one(number: int) -> object:
        return await client.send("t", b"%d" % number, qos=1, expiry_s=10)

    return [asyncio.create_task(one(number)) for number in range(count)]


async def test_what_is_published_waits_for_no_acknowledgement_of_what_went_before() -> None:
    async with talking() as (client, broker):
        sending = publishing(client, 30)
        await eventually(lambda: len(broker.published) == 30, 5)
        for number in broker.published:
            broker.acknowledge(number)
        await asyncio.gather(*sending)


@pytest.mark.parametrize(
    ("connack", "most"),
    [(CONNACK, UNDER_WAY_MAX), (bytes.fromhex("20 06 00 00 03 21 00 02"), 2)],
    ids=["no limit", "two"],
)
async def test_no_more_is_under_way_than_the_broker_allows_and_who_asks_for_room_waits_for_it(
    connack: bytes, most: int
) -> None:
    async with talking(connack=connack) as (client, broker):
        sending = publishing(client, most)
        await eventually(lambda: len(broker.published) == most, 5)
        room = asyncio.create_task(client.room())
        late = publishing(client, 1)
        await asyncio.sleep(0.1)
        assert not room.done()
        assert len(broker.published) == most
        broker.acknowledge(broker.published[0])
        await asyncio.wait_for(room, 5)
        await eventually(lambda: len(broker.published) == most + 1, 5)
        for number in broker.published[1:]:
            broker.acknowledge(number)
        await asyncio.gather(*sending, *late)


async def ended_for_good(client: MqttClient, broker: HandBroker, why: str) -> None:
    assert why in await asyncio.wait_for(client.wait_lost(), 5)
    for ask in (client.room, lambda: client.send("t", b"", qos=1, expiry_s=None)):
        asked: Callable[[], Awaitable[object]] = ask
        with pytest.raises(NotSent):
            await asyncio.wait_for(asked(), 5)


async def test_what_is_not_acknowledged_in_time_ends_the_connection() -> None:
    async with talking(answer_timeout_s=0.3) as (client, broker):
        with pytest.raises(MqttError, match="thrown away") as lost:
            await client.send("t", b"open", qos=1, expiry_s=10)
        assert not isinstance(lost.value, NotSent), "it may have it all the same"
        await asyncio.wait_for(broker.ended.wait(), 5)
        assert len(broker.published) == 1
        await ended_for_good(client, broker, "thrown away")


async def test_what_the_broker_does_not_take_never_reaches_it_later() -> None:
    async with talking() as (client, broker):
        broker.reads.clear()
        await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(MqttError, match="thrown away"):
            await client.send("t", bytes(MANY_BYTES), qos=1, expiry_s=10)
        assert time.monotonic() - began < 5, "nobody waits for an answer to half a message"
        broker.reads.set()
        await asyncio.wait_for(broker.ended.wait(), 20)
        assert broker.published == []
        assert broker.bytes < MANY_BYTES
        await ended_for_good(client, broker, "thrown away")


async def is_there(client: MqttClient) -> bool:
    waiting = asyncio.create_task(client.wait_lost())
    await asyncio.wait((waiting,), timeout=0.1)
    waiting.cancel()
    return not waiting.done()


def has_published(broker: HandBroker, count: int) -> bool:
    return len(broker.published) == count


@pytest.mark.parametrize("connack", [CONNACK, ONE_AT_A_TIME], ids=["no limit", "one"])
async def test_a_connection_that_is_not_read_lives_on_and_takes_the_next_message(connack: bytes) -> None:
    async with talking(connack=connack, answer_timeout_s=0.3) as (client, broker):
        client.pause_reading()
        for count in (1, 2):
            sending = asyncio.create_task(client.send("t", b"close", qos=1, expiry_s=10))
            await eventually(partial(has_published, broker, count), 5)
            broker.acknowledge(broker.published[-1])
            with pytest.raises(MqttError, match="is not read in time") as unknown:
                await asyncio.wait_for(sending, 5)
            assert not isinstance(unknown.value, NotSent), "the broker has it"
        assert await is_there(client)
        client.resume_reading()
        sending = asyncio.create_task(client.send("t", b"close", qos=1, expiry_s=10))
        await eventually(lambda: len(broker.published) == 3, 5)
        broker.acknowledge(broker.published[-1])
        assert not (await asyncio.wait_for(sending, 5)).is_failure


async def test_a_broker_that_was_read_only_part_of_the_time_is_not_blamed_and_the_next_time_it_is() -> None:
    async with talking(answer_timeout_s=0.4) as (client, _):
        client.pause_reading()
        sending = asyncio.create_task(client.send("t", b"close", qos=1, expiry_s=10))
        await asyncio.sleep(0.2)
        client.resume_reading()
        with pytest.raises(MqttError, match="is not read in time"):
            await asyncio.wait_for(sending, 5)
        assert await is_there(client)
        with pytest.raises(MqttError, match="thrown away"):
            await asyncio.wait_for(client.send("t", b"close", qos=1, expiry_s=10), 5)


async def test_half_a_message_is_thrown_away_although_nothing_is_read() -> None:
    async with talking() as (client, broker):
        client.pause_reading()
        broker.reads.clear()
        await asyncio.sleep(0.05)
        with pytest.raises(MqttError, match="thrown away"):
            await asyncio.wait_for(client.send("t", bytes(MANY_BYTES), qos=1, expiry_s=10), 5)


async def left_alone(client: MqttClient, broker: HandBroker) -> None:
    """A message has left, and its sender is cancelled."""
    [sending] = publishing(client, 1)
    await eventually(lambda: len(broker.published) == 1, 5)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert sending.cancelled()


async def test_a_message_whose_sender_was_cancelled_is_timed_all_the_same() -> None:
    async with talking(connack=ONE_AT_A_TIME, answer_timeout_s=0.3) as (client, broker):
        await left_alone(client, broker)
        with pytest.raises(NotSent, match="thrown away"):
            await asyncio.wait_for(client.room(), 5)
        await asyncio.wait_for(broker.ended.wait(), 5)
        assert len(broker.published) == 1


async def test_a_message_whose_sender_was_cancelled_and_that_is_acknowledged_ends_nothing() -> None:
    async with talking(connack=ONE_AT_A_TIME, answer_timeout_s=0.2) as (client, broker):
        await left_alone(client, broker)
        broker.acknowledge(broker.published[0])
        await asyncio.wait_for(client.room(), 5)
        await asyncio.sleep(0.3)
        assert await is_there(client)


async def test_a_message_whose_sender_was_cancelled_gives_its_place_up_while_nothing_is_read() -> None:
    async with talking(connack=ONE_AT_A_TIME, answer_timeout_s=0.2) as (client, broker):
        client.pause_reading()
        await left_alone(client, broker)
        await asyncio.wait_for(client.room(), 5)
        assert await is_there(client)
