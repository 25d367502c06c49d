"""The MQTT side as processes: killed at any moment it loses nothing, and the feed has nothing twice."""

import asyncio
import itertools
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiomqtt import Client, MqttError, ProtocolVersion

from tests.brokers import Broker, mosquitto
from tests.databases import database_url
from tests.system.lives import Life, Nursery
from tests.system.processes import HeadEndProcess, create_token, eventually, pull

TOPIC = "hes/v1/C1/meter/{:012d}/data"
START_MS = 1_780_000_000_000


def configured(folder: Path, broker: Broker) -> tuple[Path, str]:
    """A configuration, and a token for it."""
    config = folder / "headend.toml"
    config.write_text(one_concentrator(folder, broker, meters=3), encoding="utf-8")
    return config, create_token(config)


def one_concentrator(folder: Path, broker: Broker, *, meters: int) -> str:
    return f"""
[headend]
name = "under-test"
store = "{database_url(folder, "store")}"
[api]
listen = "127.0.0.1:0"
[[plans]]
name = "pushed"
period = "15m"
quantities = ["1-0:1.8.0"]
[[brokers]]
name = "b1"
url = "{broker.url}"
[[concentrators]]
name = "C1"
broker = "b1"
""" + "".join(
        f'[[meters]]\nid = "M{n:06d}"\nline = "C1"\naddress = "{n:012d}"\nplan = "pushed"\n'
        for n in range(1, meters + 1)
    )


def data(number: int) -> bytes:
    return json.dumps({"ts": START_MS + 1000 * number, "seq": number, "values": {"1-0:1.8.0": number}}).encode()


def wait_connected(client: httpx.Client) -> None:
    eventually(lambda: is_connected(client))


def is_connected(client: httpx.Client) -> bool:
    answer = client.get("/v1/concentrators").raise_for_status().json()
    return bool(answer["brokers"][0]["state"] == "up")


@contextmanager
def numbered_readings(broker: Broker, *, per_second: float) -> Iterator[list[int]]:
    """A concentrator of mosquitto's own make: QoS 1, numbers counting up. How many have gone out stands in the list."""
    process = subprocess.Popen(
        ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-l", "-t", TOPIC.format(1)],
        stdin=subprocess.PIPE,
    )
    sent = [0]
    ended = threading.Event()

    def write() -> None:
        assert process.stdin is not None
        with process.stdin as pipe:
            for number in itertools.count():
                if ended.wait(1 / per_second):
                    return
                pipe.write(data(number) + b"\n")
                pipe.flush()
                sent[0] = number + 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield sent
    finally:
        ended.set()
        thread.join()
        assert process.wait(timeout=60) == 0


@pytest.mark.both_databases
@pytest.mark.timeout(900)
def test_killed_while_readings_come_in_none_is_lost_and_none_is_twice_in_the_feed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--mqtt-kills")
    dice = random.Random(7)
    with (
        mosquitto(tmp_path, settings=["max_inflight_messages 100"]) as broker,
        closing(Nursery()) as nursery,
    ):
        config, token = configured(tmp_path, broker)
        life = Life(nursery, config)
        wait_connected(life.wait_ready(token))
        lives_with_reads = 0
        with numbered_readings(broker, per_second=400) as sent:
            for _ in range(kills):
                time.sleep(dice.uniform(0, 0.7))
                life.kill()
                life = Life(nursery, config)
                if dice.random() < 0.8:  # else it dies while it starts
                    wait_connected(life.wait_ready(token))
                    lives_with_reads += 1
            life.kill()
        life = Life(nursery, config)
        client = life.wait_ready(token)
        eventually(lambda: len(reads(client)) >= sent[0], 120)
        time.sleep(0.5)
        found = reads(client)
        counters = client.get("/v1/concentrators").json()["brokers"][0]["counters"]
        assert life.stop() == 0
    print(f"{kills} kills, {sent[0]} readings, {lives_with_reads} lives with connection; last life: {counters}")
    assert sorted(int(event["data"]["value"]) for event in found) == list(range(sent[0]))
    assert len({event["id"] for event in found}) == len(found)
    assert {event["data"]["revision"] for event in found} == {0}
    assert lives_with_reads > kills / 2


def reads(client: httpx.Client) -> list[dict[str, Any]]:
    events = list(pull(client, 0))
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    return [event for event in events if event["type"] == "headend.read.v1"]


@pytest.mark.timeout(300)
def test_a_broker_that_dies_again_and_again_loses_nothing_that_the_concentrator_still_held(
    tmp_path: Path,
) -> None:
    """What a broker acknowledged and had not saved when it died is its own loss: brokers do that, and ours is told apart from it."""
    dice = random.Random(8)
    with mosquitto(tmp_path, saves_each_change=True) as broker:
        head_end = HeadEndProcess(*configured(tmp_path, broker))
        client = head_end.wait_ready()
        wait_connected(client)
        acknowledged: set[int] = set()
        count, ended = 2000, threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(hold_and_repeat(broker, count, acknowledged, ended)))
        thread.start()
        try:
            for _ in range(4):
                time.sleep(dice.uniform(0.3, 0.8))
                broker.kill()
                time.sleep(dice.uniform(0, 1.0))
                broker.start()
                began = time.monotonic()
                eventually(lambda: is_connected(client), 10)
                print(f"back {time.monotonic() - began:.2f} s after the broker")
            thread.join(timeout=120)
        finally:
            ended.set()
            thread.join()
        assert len(acknowledged) == count
        eventually(lambda: len(reads(client)) >= count - 50)
        time.sleep(0.3)
        found = [int(event["data"]["value"]) for event in reads(client)]
        assert head_end.stop() == 0
    lost = sorted(set(range(count)) - set(found))
    print(f"{count} readings, acknowledged by the broker and lost with it: {lost}")
    assert len(found) == len(set(found))
    assert len(lost) <= 4 * 20  # at most what was between the broker and its disk at four deaths


async def hold_and_repeat(broker: Broker, count: int, acknowledged: set[int], ended: threading.Event) -> None:
    """A concentrator that holds each reading until the broker has acknowledged it."""
    while len(acknowledged) < count and not ended.is_set():
        try:
            async with Client(broker.host, broker.port, protocol=ProtocolVersion.V5, timeout=2) as client:
                client.pending_calls_threshold = 1000
                for start in range(0, count, 20):
                    held = [number for number in range(start, start + 20) if number not in acknowledged]

                    async def push(number: int, client: Client = client) -> None:
                        await client.publish(TOPIC.format(1), data(number), qos=1)
                        acknowledged.add(number)

                    await asyncio.gather(*(push(number) for number in held))
                    if ended.is_set():
                        return
        except MqttError:
            await asyncio.sleep(0.1)


def test_the_interface_tells_of_brokers_concentrators_and_strangers(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        head_end = HeadEndProcess(*configured(tmp_path, broker))
        client = head_end.wait_ready()
        wait_connected(client)

        def say(topic: str, message: bytes, *options: str) -> None:
            subprocess.run(
                ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", topic, "-s", *options],
                input=message,
                check=True,
                timeout=30,
            )

        say("hes/v1/C1/status", b'{"online":true,"ts":1780000000000,"sw":"2.1","meters":3}', "-r")
        say(TOPIC.format(1), data(1))
        say(TOPIC.format(44), data(1))
        say(TOPIC.format(1).replace("C1", "C9"), data(1))
        say(TOPIC.format(1), b"\xff")
        eventually(lambda: len(client.get("/v1/concentrators/unknown").json()["unknown"]) == 2)
        eventually(lambda: client.get("/v1/concentrators").json()["brokers"][0]["counters"]["acknowledged"] == 5)
        answer = client.get("/v1/concentrators").json()
        [told] = answer["brokers"]
        assert (told["name"], told["url"], told["state"], told["problem"]) == ("b1", broker.url, "up", "")
        assert told["refused"] == {"json": 1, "unknown-concentrator": 1, "unknown-meter": 1}
        [one] = answer["concentrators"]
        assert (one["name"], one["state"], one["reason"], one["software"]) == ("C1", "online", "said", "2.1")
        assert (one["meters"], one["contract"], one["problem"]) == (3, "concentrator/hes_v1", "")
        assert one["counters"]["values"] == 1
        assert one["last_data_at"] >= one["since"]
        assert client.get("/v1/concentrators/C1").json() == one
        assert client.get("/v1/concentrators/C2").status_code == 404
        assert client.get("/v1/concentrators/unknown", params={"limit": 0}).status_code == 400
        page = client.get("/v1/concentrators/unknown", params={"limit": 1}).json()
        assert [(found["concentrator"], found["meter"]) for found in page["unknown"]] == [("C9", "")]
        assert httpx.get(f"{client.base_url}/v1/concentrators").status_code == 401
        schema = client.get("/schema/openapi.json").json()
        assert "/v1/concentrators" in schema["paths"]
        broker.kill()
        eventually(lambda: not is_connected(client))
        answer = client.get("/v1/concentrators").json()
        assert "is not connected" in answer["concentrators"][0]["problem"]
        assert head_end.stop() == 0
        assert "Traceback" not in head_end.log.read_text()
