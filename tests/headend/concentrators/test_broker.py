"""A real broker: what is acknowledged when, what comes back after a crash, and what is said when it does not let us in."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiomqtt import Client, ProtocolVersion, Will

from headend.clock import SystemClock
from headend.concentrators.broker import BrokerConnection, Incoming
from headend.concentrators.client import MqttClient
from headend.concentrators.errors import BadBrokerUrl, BrokerDown
from headend.concentrators.park import ConcentratorPark
from headend.concentrators.settings import BrokerUrl, ConcentratorSettings
from headend.errors import StoreUnavailable
from headend.store import Store, Writer
from protocols.concentrator.messages import Outgoing
from tests.brokers import Broker, make_certificates, make_password_file, mosquitto
from tests.headend.concentrators.support import (
    HES,
    broker_settings,
    data,
    events_of,
    eventually,
    meter,
    publisher,
    running_park,
    topic,
)
from tests.headend.support import a_guard, new_store

T = TypeVar("T")
START_MS = 1_780_000_000_000
versions = pytest.mark.parametrize("version", [5, 4])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


async def never(_: Sequence[Incoming]) -> None:
    await asyncio.Event().wait()


async def publish(broker: Broker, numbers: range) -> None:
    async with publisher(broker) as client:
        for start in range(numbers.start, numbers.stop, 200):
            some = range(start, min(start + 200, numbers.stop))
            await asyncio.gather(*(client.publish(topic(), data(START_MS + n, n), qos=1, timeout=60) for n in some))


def has(store: Store, count: int) -> bool:
    return len(values(store)) == count


def values(store: Store) -> list[int]:
    return [int(event["data"]["value"]) for event in events_of(store)]


@asynccontextmanager
async def crashing_head_end(
    broker: Broker, store: Store, *, commits: int, version: int
) -> AsyncIterator[ConcentratorPark]:
    """Its store takes that many groups and no more; at the end what waits in memory is lost, as in a crash."""
    left = commits

    async def execute(work: Callable[[], T], /) -> T:
        nonlocal left
        if left == 0:
            raise StoreUnavailable("disk full")
        left -= 1
        return work()

    writer = Writer(store, execute, clock=SystemClock(), group_max=20)
    park = ConcentratorPark(
        broker_settings(broker.url, version=version),
        [ConcentratorSettings(name="C1", broker="b1", contract=HES)],
        [meter(1)],
        writer=writer,
        clock=SystemClock(),
        secret=str,
        guard=a_guard(SystemClock()),
    )
    task = asyncio.create_task(park.run())
    try:
        yield park
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(StoreUnavailable):
            await writer.aclose(flush_s=0.0)


@versions
async def test_only_what_is_durable_is_acknowledged_and_the_rest_comes_again(
    broker: Broker, store: Store, version: int
) -> None:
    async with crashing_head_end(broker, store, commits=2, version=version) as park:
        await park.connection.wait_up()
        await publish(broker, range(200))
        await eventually(lambda: park.connection.counters.acknowledged > 0)
        await eventually(lambda: len(values(store)) >= 20)
        await asyncio.sleep(0.3)  # time for whatever would be acknowledged too early
        durable = values(store)
        # One of the events tells that the concentrator is there.
        assert park.connection.counters.acknowledged <= len(durable) < 200
    async with running_park(broker_settings(broker.url, version=version), store) as park:
        await eventually(lambda: len(values(store)) == 200)
        await eventually(lambda: park.connection.counters.acknowledged + len(durable) >= 200)
        assert park.connection.counters.lost_sessions == 0
    assert sorted(values(store)) == list(range(200))
    async with running_park(broker_settings(broker.url, version=version), store) as park:
        await park.connection.wait_up()
        await asyncio.sleep(0.3)
        assert park.connection.counters.messages == 0  # everything was acknowledged


@versions
async def test_a_broker_that_is_killed_and_returns_has_us_back_within_five_seconds(
    tmp_path: Path, store: Store, version: int
) -> None:
    with mosquitto(tmp_path, saves_each_change=True) as broker:
        async with running_park(broker_settings(broker.url, version=version), store) as park:
            await park.connection.wait_up()
            await publish(broker, range(50))
            await eventually(lambda: len(values(store)) == 50)
            for times in range(1, 4):
                broker.kill()
                await eventually(lambda: not park.connection.is_up)
                assert park.connection.problem
                await asyncio.sleep(1.0)  # long enough for the pauses between two tries to have grown
                broker.start()
                began = time.monotonic()
                await asyncio.wait_for(park.connection.wait_up(), 20)
                took_s = time.monotonic() - began
                print(f"MQTT {version}: back after {took_s:.2f} s")
                assert took_s < 5.0
                await publish(broker, range(40 * times + 10, 40 * times + 50))
                await eventually(partial(has, store, 50 + 40 * times))
            assert park.connection.problem == ""
    assert sorted(values(store)) == list(range(170))


async def test_a_broker_that_forgot_us_is_reported(tmp_path: Path, store: Store) -> None:
    with mosquitto(tmp_path, persistence=False) as broker:
        async with running_park(broker_settings(broker.url), store) as park:
            await park.connection.wait_up()
            broker.restart()
            await eventually(lambda: park.connection.counters.connects == 2)
            assert park.connection.counters.lost_sessions == 1


@versions
async def test_reading_stops_while_the_store_fails_and_nothing_is_lost(
    broker: Broker, store: Store, version: int
) -> None:
    """Messages of QoS 0 know no receive maximum: only unread sockets hold them back."""
    async with crashing_head_end(broker, store, commits=0, version=version) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            for number in range(6000):
                await client.publish(topic(), data(START_MS + number, number), qos=0)
        await eventually(lambda: park.connection.counters.pauses > 0)
        seen = park.connection.counters.messages
        await asyncio.sleep(0.3)
        assert park.connection.counters.messages == seen <= 2000


async def test_two_head_ends_with_one_client_id_throw_each_other_out_and_say_so(
    broker: Broker, store: Store, tmp_path: Path
) -> None:
    """This broker ends the older connection without a word; it is told by how often that happens."""
    (tmp_path / "other").mkdir()
    other = new_store(tmp_path / "other")
    async with (
        running_park(broker_settings(broker.url), store) as one,
        running_park(broker_settings(broker.url), other),
    ):
        await one.connection.wait_up()
        await eventually(lambda: "connected with our client id 'headend-test'" in one.connection.problem)
        assert one.connection.counters.connects < 20  # pauses grow between the tries
    other.close()


async def test_who_stops_in_the_moment_of_an_answer_stops(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio.wait_for of Python 3.11 gives the answer and forgets that it was cancelled; the head-end would go on for ever."""
    answered = asyncio.Event()
    hear = MqttClient._on_subscribe

    def stop(client: MqttClient, *answer: Any) -> None:
        hear(client, *answer)
        for task in asyncio.all_tasks():
            if task.get_name() == "keeps connected":
                task.cancel()
                answered.set()

    monkeypatch.setattr(MqttClient, "_on_subscribe", stop)
    connection = BrokerConnection(
        broker_settings(broker.url),
        topics=["x/#"],
        commands=[],
        clock=SystemClock(),
        secret=lambda reference: reference,
        take=never,
    )
    task = asyncio.create_task(connection._keep_connected(), name="keeps connected")
    done, _ = await asyncio.wait([task], timeout=20)
    assert answered.is_set()
    assert done, "it was cancelled, and goes on"
    assert task.cancelled()


async def test_a_private_authority_is_trusted_and_a_wrong_one_refused_with_a_reason(
    tmp_path: Path, store: Store
) -> None:
    certificates = make_certificates(tmp_path)
    with mosquitto(tmp_path, tls=certificates) as broker:
        async with running_park(broker_settings(broker.url, ca=certificates.ca), store) as park:
            await asyncio.wait_for(park.connection.wait_up(), 10)
        for wrong in (certificates.other_ca, None):
            async with running_park(broker_settings(broker.url, ca=wrong), store) as park:
                await eventually(lambda: park.connection.counters.failed_connects > 0)
                assert "certificate is not accepted" in park.connection.problem
                assert "is `ca` the authority that signed it" in park.connection.problem
                with pytest.raises(BrokerDown, match="certificate is not accepted"):
                    await park.connection.publish(Outgoing(topic="x", payload=b"", qos=1))
        plain = broker.url.replace("mqtts", "mqtt")
        async with running_park(broker_settings(plain), store) as park:
            await eventually(lambda: park.connection.counters.failed_connects > 0, 30)
            assert "TLS" in park.connection.problem


async def test_a_certificate_of_ours_is_shown_when_the_broker_wants_one(tmp_path: Path, store: Store) -> None:
    certificates = make_certificates(tmp_path)
    with mosquitto(tmp_path, tls=certificates, client_certificates=True) as broker:
        mine = {"certificate": certificates.client_certificate, "key": certificates.client_key}
        async with running_park(broker_settings(broker.url, ca=certificates.ca, **mine), store) as park:
            await asyncio.wait_for(park.connection.wait_up(), 10)
        async with running_park(broker_settings(broker.url, ca=certificates.ca), store) as park:
            await eventually(lambda: park.connection.counters.failed_connects > 0)
            assert "wants a certificate from us" in park.connection.problem


@versions
async def test_a_wrong_password_is_said_to_be_one(tmp_path: Path, store: Store, version: int) -> None:
    passwords = make_password_file(tmp_path, {"headend": "right"})
    with mosquitto(tmp_path, password_file=passwords) as broker:
        good = broker_settings(broker.url, version=version, username="headend", password="env:right")
        async with running_park(good, store) as park:
            await asyncio.wait_for(park.connection.wait_up(), 10)
        wrong = broker_settings(broker.url, version=version, username="headend", password="env:wrong")
        async with running_park(wrong, store) as park:
            await eventually(lambda: park.connection.counters.failed_connects > 0)
            assert "user name or password" in park.connection.problem or "not authorised" in park.connection.problem
            assert "wrong" not in park.connection.problem.replace("wrong one", "")


async def test_nobody_there_and_no_such_name_are_told_apart(store: Store) -> None:
    for url, expected in (
        ("mqtt://127.0.0.1:1", "nothing listens there"),
        ("mqtt://no-such-host.invalid", "name cannot be resolved"),
    ):
        async with running_park(broker_settings(url), store) as park:
            await eventually(lambda: park.connection.counters.failed_connects > 1, 30)
            assert expected in park.connection.problem


@pytest.mark.parametrize(
    "url", ["http://x", "mqtt://", "mqtt://x:0", "mqtt://x:99999", "mqtt://x/topic", "mqtt://me:secret@x", "x"]
)
def test_urls_that_are_no_broker_s_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(BadBrokerUrl) as caught:
        BrokerUrl.parse(url)
    assert "secret" not in str(caught.value)


def test_ports_have_their_defaults() -> None:
    assert (BrokerUrl.parse("mqtt://x").port, BrokerUrl.parse("mqtts://[::1]").port) == (1883, 8883)


async def test_presence_is_told_by_status_last_will_and_silence(broker: Broker, store: Store) -> None:
    status = "hes/v1/C1/status"
    quick = [ConcentratorSettings(name="C1", broker="b1", contract=HES, silent_after_s=0.8)]
    async with running_park(broker_settings(broker.url), store, concentrators=quick) as park:
        await park.connection.wait_up()
        will = Will(status, b'{"online":false}', qos=1, retain=True)
        async with publisher(broker) as control:
            lost = Client(broker.host, broker.port, will=will, protocol=ProtocolVersion.V5)
            await lost.__aenter__()
            await lost.publish(status, b'{"online":true,"ts":1780000000000,"sw":"1.2","meters":3}', qos=1, retain=True)
            await eventually(lambda: state(park) == ("online", "said"))
            assert park.statuses()[0].software == "1.2"
            lost._client.socket().close()  # type: ignore[union-attr]  # no DISCONNECT
            await eventually(lambda: state(park) == ("offline", "last-will"))
            assert "offline since" in park.statuses()[0].problem
            await control.publish(topic(), data(START_MS, 1), qos=1)
            await eventually(lambda: state(park) == ("online", "heard"))
            await eventually(lambda: state(park) == ("offline", "silence"))
    told = events_of(store, "headend.meter-status.v1")
    assert [(event["data"]["state"], event["data"]["reason"]) for event in told] == [
        ("online", "said"),
        ("offline", "last-will"),
        ("online", "heard"),
        ("offline", "silence"),
    ]
    assert {(event["subject"], event["data"]["meter"], event["data"]["kind"]) for event in told} == {
        ("C1", None, "presence")
    }


def state(park: ConcentratorPark) -> tuple[str, str]:
    [status] = park.statuses()
    return status.state, status.reason


async def test_a_connection_that_is_started_again_while_reading_was_paused_connects(broker: Broker) -> None:
    """What starts tasks again after an error of ours uses the same object."""

    connection = BrokerConnection(
        broker_settings(broker.url), topics=["hes/#"], commands=[], clock=SystemClock(), secret=str, take=never
    )
    for times in (1, 2):
        before = asyncio.all_tasks()
        running = asyncio.create_task(connection.run())
        await asyncio.wait_for(connection.wait_up(), 10)
        async with publisher(broker) as client:
            for number in range(2100):
                await client.publish(topic(), data(START_MS + number, number), qos=0)
        await eventually(partial(_has_paused, connection, times))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() - before if not task.done()]


class SlowThreads(ThreadPoolExecutor):
    """As on a machine that has much to do: that they have connected is known when `goes_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        def slowly() -> T:
            done = work(*arguments, **named)
            if not isinstance(work, partial):  # as `to_thread` gives what makes the settings of TLS
                self.goes_on.wait(20)
            return done

        return super().submit(slowly)


@asynccontextmanager
async def hasty_broker(first: bytes) -> AsyncIterator[tuple[str, bytearray]]:
    """It has kept our session, and sends `first` together with its CONNACK. Its URL, and what it was sent after CONNECT."""
    sent = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(bytes.fromhex("20 03 01 00 00") + first)
        while chunk := await reader.read(1000):
            sent.extend(chunk)
            if (at := chunk.find(b"\x82")) >= 0:
                writer.write(b"\x90\x04" + chunk[at + 2 : at + 4] + b"\x00\x01")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent
    server.close()


async def test_what_comes_before_the_connection_is_ready_is_acknowledged_and_read_to_its_end() -> None:
    threads, is_paused, taken = SlowThreads(), asyncio.Event(), list[Incoming]()
    asyncio.get_running_loop().set_default_executor(threads)

    async def take(messages: Sequence[Incoming]) -> None:
        await is_paused.wait()
        taken.extend(messages)

    one_of_qos_1 = bytes.fromhex("32 08 00 01 74 00 07 00 68 69")
    one_of_qos_0 = bytes.fromhex("30 06 00 01 74 00 68 69")
    async with hasty_broker(one_of_qos_1 + 2500 * one_of_qos_0) as (url, sent):
        connection = BrokerConnection(
            broker_settings(url), topics=["t"], commands=[], clock=SystemClock(), secret=str, take=take
        )
        running = asyncio.create_task(connection.run())
        try:
            await eventually(lambda: connection.counters.pauses, 10)
            is_paused.set()
            await eventually(lambda: connection.counters.acknowledged == 1, 10)
            await eventually(lambda: len(taken) == 2501, 10)
            assert not connection.is_up
            threads.goes_on.set()
            await asyncio.wait_for(connection.wait_up(), 10)
            assert bytes.fromhex("40 02 00 07") in sent
        finally:
            threads.goes_on.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _has_paused(connection: BrokerConnection, times: int) -> bool:
    return connection.counters.pauses >= times
