"""Draining what gathered while a destination was away: a day of 1,000 meters, to a webhook, an MQTT broker and a NATS stream.

The pusher, its cursor and the store are the real ones, and so are the broker and the server; there is no limit on the rate. The day
is measured with one quantity of each meter, 96,000 events; the figure in minutes is for eight.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
from headend.store.cursors import Cursors
from headend.store.store import Store, open_store
from headend.store.writer import own_thread
from tests.bench.far_end import REPOSITORY
from tests.bench.figures import Figure, Goal, spread
from tests.brokers import mosquitto
from tests.headend.support import day_of_reads
from tests.servers import nats_server

__all__ = ["measure_drain"]

METERS = 1_000
SLOTS = 96
REGISTERS = 8
GROUP = 1_000
MINUTES = Goal(most=15)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WAIT_S = 600.0


def measure_drain(
    *, rounds: int, meters: int = METERS, slots: int = SLOTS, note: Callable[[str], None] = lambda _: None
) -> list[Figure]:
    ways = {"webhook": _to_webhook, "MQTT": _to_mqtt, "NATS JetStream": _to_nats}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as name:
        store = open_store(f"sqlite:///{name}/headend.db", "bench")
        reads = [read for read in day_of_reads(meters=meters, slots=slots, seed=1) if read.obis == "1-0:1.8.0"]
        for start in range(0, len(reads), GROUP):
            store.commit(reads[start : start + GROUP])
        for number in range(rounds):
            for way, sink in ways.items():
                note(f"drain, round {number + 1} of {rounds}: {way}")
                with sink(Path(name) / f"{number}-{way}") as far_end:
                    found[way].append(asyncio.run(_drain(store, f"{way}-{number}", far_end)))
        store.close()
    rates = [spread(f"drain: {way}", "events/s", rates) for way, rates in found.items()]
    day = METERS * SLOTS * REGISTERS
    return [
        *rates,
        *(
            spread(
                f"drain: {way}, a day of 1,000 meters, 8 quantities",
                "min",
                (day / rate / 60 for rate in found[way]),
                MINUTES,
            )
            for way in ways
        ),
    ]


async def _drain(store: Store, name: str, sink: Sink) -> float:
    """Events per second until all are acknowledged and the cursor is durable."""
    signal, clock = FeedSignal(), SystemClock()
    last = store.last_sequence()
    signal.advance(last)
    settings = PushSettings(name=name, kind="bench", url="", back_fill_per_s=0)
    with own_thread() as write, own_thread() as read:
        book = CursorBook(Cursors(store.engine), write)
        pusher = Pusher(settings, sink, book=book, signal=signal, clock=clock, execute=read, seed=1)
        began = time.perf_counter()
        task = asyncio.ensure_future(pusher.run())
        async with asyncio.timeout(WAIT_S):
            while pusher.status().delivered_up_to < last:  # noqa: ASYNC110  (nobody tells when it has come to the end)
                await asyncio.sleep(0.01)
        took_s = time.perf_counter() - began
        pusher.stop()
        await task
    assert pusher.status().counters["failures"] == 0, pusher.status()
    return last / took_s


@contextmanager
def _to_webhook(_: Path) -> Iterator[Sink]:
    command = [sys.executable, "-m", "tests.bench.drain_receiver"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            settings = WebhookSettings(url=url, secret="env:S")
            yield WebhookSink(settings, clock=SystemClock(), resolve=lambda _: SECRET)
            process.stdin.close()
            assert int(process.stdout.readline()) > 0
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait(timeout=20)


@contextmanager
def _to_mqtt(folder: Path) -> Iterator[Sink]:
    """Somebody is subscribed, so that the broker has to pass on what it takes."""
    folder.mkdir()
    with mosquitto(folder, persistence=False, settings=["max_inflight_messages 200"]) as broker:
        command = [
            "mosquitto_sub",
            "-p",
            str(broker.port),
            "-V",
            "mqttv5",
            "-i",
            "billing",
            "-q",
            "1",
            "-t",
            "headend/#",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as subscriber:
            try:
                broker.wait_for("billing")
                settings = BrokerSettings(
                    name="bench", url=BrokerUrl.parse(broker.url), client_id="headend-bench", session_expiry_s=0
                )
                yield MqttSink(
                    MqttSettings(broker=settings, topic="headend/{name}/{kind}/{subject}"), name="bench", resolve=str
                )
            finally:
                subscriber.terminate()


@contextmanager
def _to_nats(folder: Path) -> Iterator[Sink]:
    """Into a stream on disk."""
    folder.mkdir()
    with nats_server(folder) as server:
        asyncio.run(_add_stream(server.url))
        yield NatsSink(
            NatsSettings(servers=(server.url,), subject="headend.{name}.{kind}.{subject}", stream="READS"),
            name="bench",
            resolve=str,
        )


async def _add_stream(url: str) -> None:
    import nats  # an extra

    client = await nats.connect(url)
    await client.jetstream().add_stream(name="READS", subjects=["headend.>"])
    await client.close()
