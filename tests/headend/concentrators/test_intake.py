"""What a broker's messages become, with a real broker in between: nothing twice, nothing lost, nothing from strangers."""

import asyncio
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiomqtt import Client

from headend.store import Store
from tests.brokers import Broker, mosquitto
from tests.headend.concentrators.support import (
    broker_settings,
    data,
    events_of,
    eventually,
    publisher,
    running_park,
    topic,
)
from tests.headend.support import new_store

START_MS = 1_780_000_000_000
SEED = 4
TOO_MANY = b'{"ts":1780000000000,"values":' + json.dumps({f"n{n}": n for n in range(3000)}).encode() + b"}"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


async def send(client: Client, messages: list[tuple[str, bytes]], *, at_once: int = 200) -> None:
    for start in range(0, len(messages), at_once):
        await asyncio.gather(
            *(
                client.publish(topic, payload, qos=1, timeout=120)
                for topic, payload in messages[start : start + at_once]
            )
        )


def test_mosquitto_s_own_client_feeds_a_documented_message_in(broker: Broker, store: Store) -> None:
    message = '{"ts":1780000000250,"seq":7,"values":{"1-0:1.8.0":123.40,"1-0:32.7.0":"230.1"},"quality":{"1-0:32.7.0":["invalid"]}}'

    async def story() -> None:
        async with running_park(broker_settings(broker.url), store) as park:
            await park.connection.wait_up()
            for _ in range(2):  # the second one is a repeat
                done = await asyncio.to_thread(
                    subprocess.run,
                    ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-q", "1",
                     "-t", "hes/v1/C1/meter/000000000001/data", "-m", message],
                    capture_output=True, check=True, timeout=30,
                )  # fmt: skip
                assert done.returncode == 0
            await eventually(lambda: park.connection.counters.acknowledged == 2)

    asyncio.run(story())
    energy, voltage = (event["data"] for event in events_of(store))
    assert energy == {
        "meter": "M000001",
        "obis": "1-0:1.8.0",
        "value": "123.40",
        "unit": "kWh",
        "interval_end": "2026-05-28T20:26:40.250Z",
        "read_at": "2026-05-28T20:26:40.250Z",
        "received_at": energy["received_at"],
        "quality": ["measured"],
        "source": "concentrator/hes_v1:1-0:1.8.0",
        "revision": 0,
    }
    assert (voltage["value"], voltage["unit"], voltage["quality"]) == ("230.1", "V", ["measured", "suspect"])
    assert len(events_of(store)) == 2


def disturbed(told: list[tuple[str, bytes]], seed: int) -> list[tuple[str, bytes]]:
    """A fifth of them twice, and each up to a thousand places from where it belongs."""
    random_ = random.Random(seed)
    twice = told + random_.sample(told, len(told) // 5)
    places = sorted((index % len(told) + random_.uniform(-500, 500), index) for index in range(len(twice)))
    return [twice[index] for _, index in places]


async def test_repeats_and_any_order_end_in_the_same_reads_and_ids(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = new_store(tmp_path / "other")
    told = [(topic(1 + n % 3), data(START_MS + n // 3 * 1000, f"{n}.25", sequence=n)) for n in range(6000)]
    for target, messages, client_id in ((store, told, "a"), (other, disturbed(told, SEED), "b")):
        async with running_park(broker_settings(broker.url, client_id=client_id), target) as park:
            await park.connection.wait_up()
            async with publisher(broker) as client:
                await send(client, messages)
            await eventually(lambda: park.connection.counters.acknowledged == len(messages), 60)  # noqa: B023
    straight, shuffled = events_of(store), events_of(other)
    assert len(straight) == len(told)
    assert {event["id"] for event in straight} == {event["id"] for event in shuffled}
    assert len(shuffled) == len(told)
    for number in (1, 2, 3):
        both = [
            [
                (read.interval_end, read.obis, read.amount, read.revision, read.quality)
                for read in one.reads(f"M{number:06d}")
            ]
            for one in (store, other)
        ]
        assert both[0] == both[1]
    other.close()


def garbage(random_: random.Random, number: int) -> tuple[str, bytes]:
    """What a broken or hostile concentrator sends: topics that MQTT allows, payloads of any kind."""
    payloads: list[bytes] = [
        b"",
        b"\xff\xfe{}",
        b"{",
        b"[" * 5000,
        b'{"a":' * 500,
        b'{"ts":NaN,"values":{"1-0:1.8.0":Infinity}}',
        b'{"ts":1780000000000,"values":{"1-0:1.8.0":' + b"9" * 4000 + b"}}",
        b'{"ts":1780000000000,"values":{"1-0:1.8.0":1e999999999}}',
        b'{"ts":99999999999999999999,"values":{}}',
        b'{"ts":"yesterday","values":[1,2,3]}',
        b'{"ts":1780000000000,"values":{"1-0:1.8.0":{"value":"1","unit":"bananas"}}}',
        TOO_MANY if random_.random() < 0.02 else b"{}",
        random_.randbytes(random_.randrange(2000)),
    ]
    topics = [
        topic(1),
        topic(random_.randrange(10**9)),
        topic(1, concentrator=f"X{random_.randrange(10**9)}"),
        "hes/v1/C1/status",
        "hes/v1/C1/meters",
        "hes/v1/C1/cmd/resp",
        "hes/v1/C1/meter/%00%ff/event",
        f"hes/v1/C1/meter/{'9' * 3000}/data",
        f"hes/v1/{'ü' * 200}/status",
        topic(1, "event"),
    ]
    if number % 4 == 0:  # right messages of somebody unknown
        return random_.choice(topics[1:3]), data(START_MS, 1)
    return random_.choice(topics), random_.choice(payloads)


async def test_malformed_messages_are_counted_and_hold_up_nothing_and_nobody(
    broker: Broker, store: Store, request: pytest.FixtureRequest
) -> None:
    """10 MB bodies among them; MQTT 5 keeps those at the broker."""
    count: int = request.config.getoption("--malformed")
    random_ = random.Random(SEED)
    good = 0
    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:

            async def some(number: int) -> None:
                nonlocal good
                messages = [garbage(random_, start) for start in range(number)]
                for _ in range(10):
                    messages.insert(random_.randrange(len(messages)), (topic(1), data(START_MS + good, good)))
                    good += 1
                messages.insert(random_.randrange(len(messages)), (topic(1), b'"' + b"x" * 10_000_000 + b'"'))
                await send(client, messages)

            await some(count // 20)
            await eventually(lambda: len(events_of(store)) == good, 60)
            process = psutil.Process()
            before = process.memory_info().rss
            for _ in range(19):
                await some(count // 20)
            await eventually(lambda: len(events_of(store)) == good, 120)
            grown = process.memory_info().rss - before
        refused = park.broker_status().refused
        unknown = park.unknown()
        print(f"\n{count} malformed, {good} good; memory {grown / 1e6:+.1f} MB; refused {refused}")
        assert sum(refused.values()) >= count * 0.9
        assert {"json", "unknown-meter", "unknown-concentrator"} <= set(refused)
        assert "internal-error" not in refused
        assert park.unknown_overflow() > 0
        assert len(unknown) <= 1200
        assert park.connection.counters.connects == 1
        assert grown < 30e6
    assert sorted(int(event["data"]["value"]) for event in events_of(store)) == list(range(good))


async def test_a_giant_is_refused_by_us_where_the_broker_cannot(broker: Broker, store: Store) -> None:
    async with running_park(broker_settings(broker.url, version=4), store) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            await send(client, [(topic(1), b"x" * 10_000_000), (topic(1), data(START_MS, 1))])
        await eventually(lambda: park.connection.counters.acknowledged == 2)
        assert park.broker_status().refused == {"too-large": 1}
    assert len(events_of(store)) == 1


async def test_strangers_are_listed_so_that_they_can_be_adopted(broker: Broker, store: Store) -> None:
    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            listed = b'[{"address":"000000000001","protocol":"dlt645"},{"address":"000000000044","protocol":"dlt645"}]'
            await send(
                client,
                [
                    (topic(9), data(START_MS, 1)),
                    (topic(9), data(START_MS, 2)),
                    (topic(1, concentrator="C7"), data(START_MS, 1)),
                    ("hes/v1/C1/meters", listed),
                ],
            )
        await eventually(lambda: park.connection.counters.acknowledged == 4)
        found = [(one.concentrator, one.meter, one.messages) for one in park.unknown()]
        assert found[0] == ("C7", "", 1)
        assert sorted(found[1:]) == [("C1", "000000000009", 2), ("C1", "000000000044", 0)]
        [status] = park.statuses()
        assert (status.meters, status.listed, status.counters["unknown_meters"]) == (3, 2, 2)
    assert events_of(store) == []


async def test_more_quantities_than_a_meter_can_have_are_refused(broker: Broker, store: Store) -> None:
    """Each would be a series in the store for ever."""
    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            for tariff in range(5):
                many = {f"1-0:{n}.8.{tariff}": n for n in range(1, 201)}
                await send(client, [(topic(1), json.dumps({"ts": START_MS, "values": many}).encode())])
        await eventually(lambda: park.connection.counters.acknowledged == 5)
        assert park.broker_status().refused == {"too-many-quantities": 3}
    assert len(events_of(store)) == 500


async def test_events_enter_the_feed_once(broker: Broker, store: Store) -> None:
    told = b'{"ts":1780000000000,"event":"relay","detail":{"state":"open","amps":1.50}}'
    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            await send(client, [(topic(2, "event"), told)] * 3)
        await eventually(lambda: park.connection.counters.acknowledged == 3)
    [event] = events_of(store, "headend.meter-event.v1")
    assert (event["subject"], event["data"]["name"], event["data"]["detail"]) == (
        "M000002",
        "relay",
        {"state": "open", "amps": "1.50"},
    )


@pytest.mark.parametrize("version", [5, 4])
async def test_a_retained_command_is_reported_and_left_or_cleared_as_configured(
    broker: Broker, store: Store, version: int
) -> None:
    command = b'{"id":"old","meter":"000000000001","op":"open","params":{},"ttl_ms":1000,"ts":1780000000000}'
    there = "hes/v1/C1/cmd/req"
    async with publisher(broker) as client:
        await client.publish(there, command, qos=1, retain=True)
        for clears in (False, True):
            settings = broker_settings(broker.url, version=version, clear_retained_commands=clears)
            async with running_park(settings, store) as park:
                await eventually(lambda: park.broker_status().refused.get("retained-command"))
                assert park.statuses()[0].counters["retained_commands"] >= 1
                if clears:
                    await eventually(lambda: park.connection.counters.acknowledged >= 1)
    assert await retained(broker, there) == []
    told = events_of(store, "headend.meter-status.v1")
    assert {(event["subject"], event["data"]["kind"], event["data"]["topic"]) for event in told} == {
        ("C1", "retained-command", there)
    }


async def test_what_others_say_on_a_command_topic_is_noticed(broker: Broker, store: Store) -> None:
    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            await client.publish("hes/v1/C1/cmd/req", b"{}", qos=1)
            await eventually(lambda: park.broker_status().refused.get("foreign-command") == 1)
            await client.publish("hes/v1/C1/cmd/req", b"{}", qos=1, retain=True)
            await eventually(lambda: park.broker_status().refused.get("retained-command") == 1)


async def retained(broker: Broker, topic: str) -> list[Any]:
    """What a newcomer is given."""
    async with publisher(broker) as client:
        await client.subscribe(topic, qos=1)
        await client.publish("done/with/it", b"", qos=1)
        await client.subscribe("done/with/it", qos=1)
        found = []
        try:
            async with asyncio.timeout(0.5):
                async for message in client.messages:
                    found.append(message)
        except TimeoutError:
            pass
        return found
