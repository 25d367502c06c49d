"""NATS JetStream against a real nats-server."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headend.feed.sinks.nats import NatsSink
from headend.feed.sinks.settings import NatsSettings
from headend.feed.sinks.sink import DestinationAway
from tests.headend.sinks.support import a_batch, resolve
from tests.servers import NatsServer, free_port, nats_server

nats = pytest.importorskip("nats", reason="nats-py is not installed: the extra headend[nats]")
SUBJECT = "headend.{name}.{kind}.{subject}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


@asynccontextmanager
async def a_sink(url: str, *, stream: str = "", username: str = "", timeout_s: float = 5.0) -> AsyncIterator[NatsSink]:
    settings = NatsSettings(
        servers=(url,),
        subject=SUBJECT,
        stream=stream,
        username=username,
        password="env:PASSWORD" if username else "",
        timeout_s=timeout_s,
    )
    sink = NatsSink(settings, name="west", resolve=resolve)
    try:
        yield sink
    finally:
        await sink.aclose()


@asynccontextmanager
async def a_stream(server: NatsServer, **limits: Any) -> AsyncIterator[Any]:
    client = await nats.connect(server.url)
    try:
        context = client.jetstream()
        await context.add_stream(name="READS", subjects=["headend.>"], **limits)
        yield context
    finally:
        await client.close()


async def stored(context: Any, count: int) -> list[Any]:
    subscription = await context.pull_subscribe("headend.>", durable=None)
    found: list[Any] = []
    while len(found) < count:
        found += await subscription.fetch(count - len(found), timeout=10)
    return found


async def test_every_event_is_in_the_stream_once_however_often_it_was_sent(server: NatsServer) -> None:
    batch = a_batch(500)
    async with a_stream(server) as context, a_sink(server.url, stream="READS") as sink:
        assert await sink.push(batch) == []
        assert await sink.push(batch) == []
        assert (await context.stream_info("READS")).state.messages == 500
        messages = await stored(context, 500)
    assert [message.data for message in messages] == list(batch.events)
    first = messages[0]
    assert first.subject == "headend.west.read.M000001"
    assert first.headers["Nats-Msg-Id"] == json.loads(batch.events[0])["id"]
    assert first.headers["Content-Type"].startswith("application/cloudevents+json")


async def test_without_a_stream_it_waits_and_says_so(server: NatsServer) -> None:
    async with a_sink(server.url) as sink:
        with pytest.raises(DestinationAway, match="no stream takes our subjects"):
            await sink.push(a_batch(3))
        async with a_stream(server):
            assert await sink.push(a_batch(3)) == []


async def test_a_subscriber_that_answers_is_not_taken_for_a_stream(server: NatsServer) -> None:
    client = await nats.connect(server.url)

    async def answer(message: Any) -> None:
        await message.respond(b"thank you")

    await client.subscribe("headend.>", cb=answer)
    await client.flush()
    async with a_sink(server.url) as sink:
        with pytest.raises(DestinationAway, match="no stream of JetStream"):
            await sink.push(a_batch(3))
    await client.close()


async def test_the_wrong_stream_and_a_full_one_wait(server: NatsServer) -> None:
    async with a_stream(server, max_msgs=10, discard="new"):
        async with a_sink(server.url, stream="OTHER") as sink:
            with pytest.raises(DestinationAway, match="expected stream"):
                await sink.push(a_batch(1))
        async with a_sink(server.url) as sink:
            assert await sink.push(a_batch(10)) == []
            with pytest.raises(DestinationAway, match="maximum messages"):
                await sink.push(a_batch(1, first=11))


async def test_an_event_that_the_stream_finds_too_large_is_named(server: NatsServer) -> None:
    async with a_stream(server, max_msg_size=1000) as context, a_sink(server.url) as sink:
        batch = a_batch(3)
        large = batch.events[1].replace(b'"kWh"', b'"' + b"k" * 2000 + b'"')
        (bad,) = await sink.push(type(batch)(1, [batch.events[0], large, batch.events[2]]))
        assert bad.index == 1
        larger = batch.events[1].replace(b'"kWh"', b'"' + b"k" * 2_000_000 + b'"')
        (bad,) = await sink.push(type(batch)(1, [batch.events[0], larger, batch.events[2]]))
        assert (bad.index, "more than the server takes" in bad.reason) == (1, True)
        assert (await context.stream_info("READS")).state.messages == 2


async def test_a_server_that_is_down_is_waited_for_and_found_again(server: NatsServer) -> None:
    async with a_sink(f"nats://127.0.0.1:{free_port()}") as sink:
        with pytest.raises(DestinationAway, match="no server answers"):
            await sink.push(a_batch(1))
    async with a_sink(server.url) as sink:
        async with a_stream(server):
            assert await sink.push(a_batch(30)) == []
        server.kill()
        with pytest.raises(DestinationAway):
            await sink.push(a_batch(30, first=31))
        server.start()
        assert await sink.push(a_batch(30, first=31)) == []


async def test_a_wrong_password_is_named(tmp_path: Path) -> None:
    with nats_server(tmp_path, settings=["authorization { user: headend, password: right }"]) as locked:
        async with a_sink(locked.url, username="headend") as sink:
            with pytest.raises(DestinationAway, match="`password`"):
                await sink.push(a_batch(1))
