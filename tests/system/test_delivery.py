"""Real servers, killed and started again in mid-delivery: what arrives is exactly the feed once equal ids are dropped."""

import asyncio
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client, MqttError, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from headend.clock import SystemClock
from headend.concentrators.settings import BrokerSettings, BrokerUrl
from headend.feed.live import FeedSignal
from headend.feed.pusher import Pusher
from headend.feed.pusher_book import CursorBook
from headend.feed.sinks.mqtt import MqttSink
from headend.feed.sinks.nats import NatsSink
from headend.feed.sinks.settings import MqttSettings, NatsSettings, PushSettings, WebhookSettings
from headend.feed.sinks.sink import Sink
from headend.feed.sinks.webhook import WebhookSink
from headend.store import Store
from headend.store.cursors import Cursors
from headend.store.writer import Execute, inline, own_thread
from tests.brokers import Broker, mosquitto
from tests.headend.support import a_read, new_store
from tests.servers import NatsServer, free_port, nats_server

ROOT = Path(__file__).parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
METERS = 50
BACKLOG = 2000  # events stored before the first push
KILLS = 4


class ConsumerProcess:
    """tests/system/consumer.py."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/reads"
        self.database = folder / "consumer.db"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.consumer", str(self.port), str(self.database), SECRET],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def events(self) -> dict[str, Any]:
        """By id, as they came."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            rows = database.execute("SELECT id, body FROM events").fetchall()
        return {identity: json.loads(body) for identity, body in rows}

    def count(self) -> int:
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            found: int = database.execute("SELECT count(*) FROM events").fetchone()[0]
        return found


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[ConsumerProcess]:
    process = ConsumerProcess(tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def a_webhook(consumer: ConsumerProcess) -> WebhookSink:
    settings = WebhookSettings(url=consumer.url, secret="env:S", timeout_s=5.0)
    return WebhookSink(settings, clock=SystemClock(), resolve=lambda _: SECRET)


def feed_of(store: Store) -> dict[str, Any]:
    """By id."""
    events = [json.loads(event) for event in store.events_after(0, 1_000_000)]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    return {event["id"]: event for event in events}


def store_reads(store: Store, count: int) -> None:
    first = store.last_sequence()
    numbers = range(first, first + count)
    store.commit([a_read(f"M{number % METERS:06d}", number // METERS, f"{number}.5") for number in numbers])


@asynccontextmanager
async def delivering(store: Store, sink: Sink) -> AsyncIterator[tuple[Pusher, Callable[[], Awaitable[None]]]]:
    """A pusher at work, and what makes the feed grow."""
    signal = FeedSignal()
    store_reads(store, BACKLOG)
    signal.advance(store.last_sequence())
    with own_thread() as write:

        async def grow() -> None:
            await write(lambda: store_reads(store, 20))
            signal.advance(store.last_sequence())

        async with own_pusher(store, signal, sink, write) as pusher:
            yield pusher, grow


@asynccontextmanager
async def own_pusher(store: Store, signal: FeedSignal, sink: Sink, write: Execute) -> AsyncIterator[Pusher]:
    settings = PushSettings(
        name="billing", kind="test", url="", batch_max=100, live_within=500, live_age_s=1e9, back_fill_per_s=2000
    )
    with own_thread() as read:
        book = CursorBook(Cursors(store.engine), write)
        pusher = Pusher(settings, sink, book=book, signal=signal, clock=SystemClock(), execute=read, seed=1)
        task = asyncio.ensure_future(pusher.run())
        try:
            yield pusher
        finally:
            pusher.stop()
            await task


async def kill_and_grow(
    pusher: Pusher,
    grow: Callable[[], Awaitable[None]],
    kill: Callable[[], None],
    start: Callable[[], None],
    *,
    seed: int,
) -> None:
    """The far end dies in mid-delivery, again and again, while the feed grows, and comes back after a while."""
    dice = random.Random(seed)

    async def go_on() -> None:
        while True:
            await grow()
            await asyncio.sleep(0.02)

    def delivered() -> int:
        return pusher.counters.live + pusher.counters.back_filled

    growing = asyncio.ensure_future(go_on())
    for _ in range(KILLS):
        before = delivered()
        await until(lambda: delivered() > before)  # noqa: B023  (awaited here)
        await asyncio.sleep(dice.uniform(0, 0.2))
        kill()
        await asyncio.sleep(dice.uniform(0.1, 0.8))
        await asyncio.to_thread(start)
    await asyncio.sleep(0.5)
    growing.cancel()
    await asyncio.gather(growing, return_exceptions=True)
    await grow()  # tells of what was stored while it was cancelled


async def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (several processes are looked at)
            await asyncio.sleep(0.05)


async def test_a_webhook_that_is_killed_gets_exactly_the_feed(store: Store, consumer: ConsumerProcess) -> None:
    async with delivering(store, a_webhook(consumer)) as (pusher, grow):
        await kill_and_grow(pusher, grow, consumer.kill, consumer.start, seed=1)
        await until(lambda: pusher.status().lag_events == 0)
        assert pusher.status().counters["failures"] >= KILLS / 2
    feed = feed_of(store)
    assert consumer.events() == feed
    assert len(feed) > BACKLOG + 100


async def test_a_stream_of_nats_whose_server_is_killed_holds_exactly_the_feed(store: Store, tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        nats = pytest.importorskip("nats")
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="READS", subjects=["headend.>"])
        await client.close()
        sink = NatsSink(
            NatsSettings(
                servers=(server.url,), subject="headend.{name}.{kind}.{subject}", stream="READS", timeout_s=5.0
            ),
            name="west",
            resolve=str,
        )
        async with delivering(store, sink) as (pusher, grow):
            await kill_and_grow(pusher, grow, server.kill, server.start, seed=2)
            await until(lambda: pusher.status().lag_events == 0)
            assert pusher.status().counters["failures"] >= KILLS / 2
        found = await in_stream(server)
    feed = feed_of(store)
    assert {event["id"]: event for event in found} == feed
    assert len(found) == len(feed)  # the stream itself has dropped the repeats


async def in_stream(server: NatsServer) -> list[Any]:
    import nats

    client = await nats.connect(server.url)
    context = client.jetstream()
    count = (await context.stream_info("READS")).state.messages
    subscription = await context.pull_subscribe("headend.>", durable="check")
    found: list[Any] = []
    while len(found) < count:
        for message in await subscription.fetch(500, timeout=10):
            found.append(json.loads(message.data))
            await message.ack()
    await client.close()
    return found


class Subscriber:
    """A billing system behind a broker: a session that outlives its absence, and a look at its own gaps.

    A broker that dies may lose what it has acknowledged and not yet passed on; no push can make up for that. What is missing is
    pulled, as the documentation says.
    """

    def __init__(self, broker: Broker) -> None:
        self.events: dict[int, Any] = {}
        self._broker = broker

    async def run(self) -> None:
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        while True:
            with contextlib.suppress(MqttError):
                async with Client(
                    self._broker.host,
                    self._broker.port,
                    identifier="billing",
                    protocol=ProtocolVersion.V5,
                    clean_start=False,
                    properties=session,
                    timeout=2,
                ) as client:
                    await client.subscribe("headend/#", qos=1)
                    async for message in client.messages:
                        event = json.loads(bytes(message.payload))
                        known = self.events.setdefault(int(event["sequence"]), event)
                        assert known == event
            await asyncio.sleep(0.05)

    def pull_gaps(self, store: Store) -> int:
        """How many were missing."""
        last = store.last_sequence()
        missing = [number for number in range(1, last + 1) if number not in self.events]
        for number in missing:
            self.events[number] = json.loads(store.events_after(number - 1, 1)[0])
        return len(missing)


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_behind_a_broker_that_dies_the_subscriber_has_exactly_the_feed(
    store: Store, tmp_path: Path, way: str
) -> None:
    with mosquitto(tmp_path, saves_each_change=way == "killed", settings=["max_inflight_messages 200"]) as broker:
        settings = BrokerSettings(
            name="upstream", url=BrokerUrl.parse(broker.url), client_id="headend-west-to-upstream", session_expiry_s=0
        )
        far = MqttSettings(broker=settings, topic="headend/{name}/{kind}/{subject}", timeout_s=5.0)
        subscriber = Subscriber(broker)
        listening = asyncio.ensure_future(subscriber.run())
        await asyncio.to_thread(broker.wait_for, "billing")
        sink = MqttSink(far, name="west", resolve=str)
        async with delivering(store, sink) as (pusher, grow):
            kill = broker.kill if way == "killed" else broker.stop
            await kill_and_grow(pusher, grow, kill, broker.start, seed=3)
            await until(lambda: pusher.status().lag_events == 0)
            assert pusher.status().counters["failures"] >= KILLS / 2
        feed = feed_of(store)
        with contextlib.suppress(TimeoutError):
            await until(lambda: len(subscriber.events) == len(feed), 5)
        missing = subscriber.pull_gaps(store)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    print(f"{way}: {len(feed)} events, {missing} lost by the broker and pulled")
    assert {event["id"]: event for event in subscriber.events.values()} == feed
    if way == "stopped":
        assert missing == 0


@pytest.mark.timeout(240)
def test_a_head_end_that_is_killed_skips_nothing_and_repeats_one_batch_per_life_at_most(
    tmp_path: Path, consumer: ConsumerProcess
) -> None:
    dice = random.Random(4)
    lives = 12
    for _ in range(lives):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.delivery_life", str(tmp_path), consumer.url, SECRET],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.7))
        process.kill()
        process.wait(timeout=20)
        process.stdout.close()
    store = new_store(tmp_path)
    progress = Cursors(store.engine).progress("billing")
    assert progress is not None
    came = {int(event["sequence"]) for event in consumer.events().values()}
    settled = set(range(1, progress.low + 1)) | {n for first, last in progress.ranges for n in range(first, last + 1)}
    assert settled <= came  # nothing is behind a cursor that the consumer has not got
    asyncio.run(delivered_to_the_end(store, consumer))
    feed = feed_of(store)
    store.close()
    assert consumer.events() == feed
    with contextlib.closing(sqlite3.connect(consumer.database)) as database:
        repeats: int = database.execute("SELECT sum(times - 1) FROM events").fetchone()[0]
    print(f"{lives} lives, {len(feed)} events, {repeats} repeated")
    assert repeats <= lives * 40
    assert len(came) > 500


async def delivered_to_the_end(store: Store, consumer: ConsumerProcess) -> None:
    signal = FeedSignal()
    signal.advance(store.last_sequence())
    async with own_pusher(store, signal, a_webhook(consumer), inline) as pusher:
        await until(lambda: pusher.status().state == "up" and pusher.status().lag_events == 0)
