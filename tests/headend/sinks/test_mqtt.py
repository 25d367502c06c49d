"""MQTT against a real mosquitto."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiomqtt import Client, Message, ProtocolVersion

from headend.concentrators.settings import BrokerSettings, BrokerUrl
from headend.feed.sinks.mqtt import MqttSink
from headend.feed.sinks.settings import MqttSettings
from headend.feed.sinks.sink import Bad, Batch, DestinationAway
from tests.brokers import Broker, make_password_file, mosquitto
from tests.headend.sinks.support import a_batch, resolve
from tests.servers import free_port

TOPIC = "headend/{name}/{kind}/{subject}"


@asynccontextmanager
async def a_sink(
    url: str, *, topic: str = TOPIC, username: str = "", timeout_s: float = 5.0
) -> AsyncIterator[MqttSink]:
    settings = BrokerSettings(
        name="upstream",
        url=BrokerUrl.parse(url),
        client_id="headend-west-to-upstream",
        username=username,
        password="env:PASSWORD" if username else "",
        session_expiry_s=0,
    )
    far = MqttSettings(broker=settings, topic=topic, timeout_s=timeout_s)
    sink = MqttSink(far, name="west", resolve=resolve)
    try:
        yield sink
    finally:
        await sink.aclose()


@asynccontextmanager
async def subscriber(broker: Broker) -> AsyncIterator[Client]:
    async with Client(broker.host, broker.port, protocol=ProtocolVersion.V5, identifier="billing") as client:
        await client.subscribe("headend/#", qos=1)
        yield client


async def received(client: Client, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(20):
        async for message in client.messages:
            found.append(message)
            if len(found) == count:
                return found
    raise AssertionError


async def test_every_event_is_a_message_of_its_own_in_order_with_its_id_beside_it(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        async with subscriber(broker) as client, a_sink(broker.url) as sink:
            batch = a_batch(500)
            assert await sink.push(batch) == []
            messages = await received(client, 500)
    assert [message.payload for message in messages] == list(batch.events)
    first = messages[0]
    event = json.loads(batch.events[0])
    assert str(first.topic) == "headend/west/read/M000001"
    assert first.properties is not None
    told = first.properties.json()  # type: ignore[no-untyped-call]
    assert told["ContentType"].startswith("application/cloudevents+json")
    assert dict(told["UserProperty"]) == {"id": event["id"], "sequence": "1"}


async def test_a_broker_that_is_down_is_waited_for_and_found_again(tmp_path: Path) -> None:
    async with a_sink(f"mqtt://127.0.0.1:{free_port()}") as sink:
        with pytest.raises(DestinationAway, match="nothing listens there"):
            await sink.push(a_batch(1))
    with mosquitto(tmp_path) as broker:
        async with a_sink(broker.url) as sink:
            assert await sink.push(a_batch(30)) == []
            broker.kill()
            with pytest.raises(DestinationAway):
                await sink.push(a_batch(30))
            broker.start()
            assert await sink.push(a_batch(30)) == []


async def test_a_user_who_may_not_publish_is_not_taken_for_success(tmp_path: Path) -> None:
    access = tmp_path / "access"
    access.write_text("topic read headend/#\n")
    with mosquitto(tmp_path, settings=[f"acl_file {access}"]) as broker:
        async with a_sink(broker.url) as sink:
            with pytest.raises(DestinationAway, match="may not publish"):
                await sink.push(a_batch(3))


async def test_a_wrong_password_is_named(tmp_path: Path) -> None:
    users = make_password_file(tmp_path, {"headend": "right"})
    with mosquitto(tmp_path, password_file=users) as broker:
        async with a_sink(broker.url, username="headend") as sink:
            with pytest.raises(DestinationAway, match="`password`"):
                await sink.push(a_batch(1))


async def test_an_event_that_is_larger_than_the_broker_takes_is_named(tmp_path: Path) -> None:
    batch = a_batch(30)
    large = batch.events[10].replace(b'"kWh"', b'"' + b"k" * 2000 + b'"')
    events = [*batch.events[:10], large, *batch.events[11:]]
    with mosquitto(tmp_path, settings=["max_packet_size 1000"]) as broker:
        async with subscriber(broker) as client, a_sink(broker.url) as sink:
            bad = await sink.push(Batch(1, events))
            assert bad == [Bad(10, "it is larger than the broker takes")]
            assert len(await received(client, 29)) == 29


async def test_what_was_acknowledged_before_the_connection_broke_is_told(tmp_path: Path) -> None:
    batch = a_batch(20_000)
    with mosquitto(tmp_path, verbose=True) as broker:

        def kill_in_the_middle() -> None:
            while sum("Sending PUBACK" in line for line in list(broker.log)) < 3000:
                time.sleep(0.01)
            broker.kill()

        async with a_sink(broker.url, timeout_s=20.0) as sink:
            assert await sink.push(a_batch(1)) == []
            killing = threading.Thread(target=kill_in_the_middle, daemon=True)
            killing.start()
            with pytest.raises(DestinationAway) as raised:
                await sink.push(batch)
            killing.join()
    assert 100 < raised.value.taken < 20_000
