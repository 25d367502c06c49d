"""The running head-end is killed (`kill -9`) at random moments while it reads and pushes: what its consumers hold is the truth.

A webhook and an MQTT subscriber with a session keep what they acknowledge, and a third consumer pulls while the head-end lives; the
meters are simulated, read over TCP as fast as the machine goes. In the end both copies have every event once, every value is one that
the meter's register had, every interval end has its read, and the day's signed manifest proves both copies. What was pulled once was
served again as it was, without gap or repeat.
"""

import asyncio
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from typer.testing import CliRunner

from headend.app import COMMIT_LINGER_S
from headend.assembly.guarding import guard_of
from headend.assembly.upstream import Threads, Upstream
from headend.cli.main import app
from headend.clock import SystemClock
from headend.config import load_config
from headend.feed.live import FeedSignal
from headend.ledger.signing import make_keys
from headend.ratios import Ratios
from headend.store import Store
from headend.store.store import open_store
from headend.store.writer import Writer, inline
from tests.brokers import Broker, mosquitto
from tests.system.lives import Life, Nursery
from tests.system.mqtt_consumer import MqttConsumer
from tests.system.processes import create_token, eventually, simulated_lines
from tests.system.pull_consumer import PullConsumer
from tests.system.street_truth import StreetTruth, differences, id_of
from tests.system.test_delivery import SECRET, ConsumerProcess

METERS = 700  # so many that the lives of one minute do not run out of reads
LINES = 8
SEED = 3
QUANTITIES = ["1-0:1.8.0", "1-0:1.8.1", "1-0:1.8.2", "1-0:1.8.3", "1-0:1.8.4", "1-0:2.8.0"]
STARTING_SHARE = 0.2  # of the lives end before the head-end is ready
STARTING_S = 0.35
# The others end within so many times what it took to be ready: a busy machine needs longer for everything. With less, few lives on a
# fast one would outlast the fifth of a second after which reads are committed.
BUSY_FACTOR = 2.0
ANEW_EVERY = 5  # lives: then the third consumer pulls everything again
ABSENT_EVERY = 10  # lives: then the MQTT subscriber is away for one
COMPLETE_S = 120.0
NEVER = datetime.min.replace(tzinfo=UTC)


class Shifted:
    """A Clock that is ahead by so much: the day of the kills is over there."""

    def __init__(self, by: timedelta) -> None:
        self._clock, self._by = SystemClock(), by

    def now(self) -> datetime:
        return self._clock.now() + self._by

    def monotonic(self) -> float:
        return self._clock.monotonic()


class Site(Struct, frozen=True):
    """All parts of a run. store_file: looked into beside the head-end."""

    config: Path
    nursery: Nursery
    webhook: ConsumerProcess
    mqtt: MqttConsumer
    truth: StreetTruth

    @property
    def store_file(self) -> Path:
        return self.config.with_name("store.db")

    def ask(self, statement: str, *parameters: object) -> Any:
        """One value of the store; None when there is none, or no table yet."""
        with contextlib.closing(sqlite3.connect(self.store_file, timeout=10)) as database:
            try:
                found = database.execute(statement, parameters).fetchone()
            except sqlite3.OperationalError:
                return None
        return None if found is None else found[0]

    def last_sequence(self) -> int:
        return self.ask("SELECT max(first + count - 1) FROM feed_batches") or 0

    def copies(self) -> dict[str, Mapping[str, Any]]:
        return {"webhook": self.webhook.events(), "mqtt": self.mqtt.events}


@contextmanager
def a_site(folder: Path, *of_nursery: str, meters: int = METERS) -> Iterator[Site]:
    street = ("--meters", str(meters), "--lines", str(LINES), "--seed", str(SEED), "--quirk", "reply_delay_s=0")
    webhook = ConsumerProcess(folder)
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(simulated_lines("--listen", "tcp://127.0.0.1:0", *street))
        broker = stack.enter_context(mosquitto(folder, settings=["max_inflight_messages 200"]))
        webhook.start()
        stack.callback(webhook.kill)
        mqtt = MqttConsumer(broker.host, broker.port, "headend/#")
        mqtt.come()
        stack.callback(mqtt.go)
        make_keys(folder)
        (folder / "billing.secret").write_text(SECRET)
        config = folder / "headend.toml"
        config.write_text(config_text(folder, lines, webhook, broker))
        nursery = Nursery(*of_nursery)
        stack.callback(nursery.close)
        yield Site(config, nursery, webhook, mqtt, StreetTruth(count=meters, seed=SEED, quantities=QUANTITIES))


def config_text(folder: Path, lines: list[dict[str, Any]], webhook: ConsumerProcess, broker: Broker) -> str:
    numbered = [(number, int(address)) for number, line in enumerate(lines) for address in line["meters"]]
    rows = [f"{id_of(meter)},line-{line},{meter:012d},dlt645/base_2007,plan" for line, meter in numbered]
    (folder / "meters.csv").write_text("\n".join(["id,line,address,contract,plan", *rows]))
    head = f"""
meters = "meters.csv"
[headend]
name = "under-test"
timezone = "Asia/Shanghai"
store = "sqlite:///{folder}/store.db"
[api]
listen = "127.0.0.1:0"
[ledger]
signing_key = "file:manifest-key.pem"
[[plans]]
name = "plan"
period = "1m"
quantities = {json.dumps(QUANTITIES)}
# Little is "far", so that both lanes are at work in most lives.
[[sinks]]
name = "billing"
kind = "webhook"
url = "{webhook.url}"
secret = "file:billing.secret"
batch = 100
live_within = 300
back_fill_rate = 0
[[sinks]]
name = "broker"
kind = "mqtt"
url = "{broker.url}"
batch = 100
live_within = 300
back_fill_rate = 0
"""
    return head + "".join(
        f'[[lines]]\nname = "line-{number}"\nurl = "{line["url"]}"\n' for number, line in enumerate(lines)
    )


def kill_often(site: Site, kills: int, dice: random.Random, consumer: PullConsumer | None = None) -> int:
    """How many of the lives have added to the feed. consumer: pulls while there is somebody to pull from."""
    fruitful = 0
    before = site.last_sequence()
    token = ""
    is_absent = False
    for number in range(kills):
        if number % ABSENT_EVERY == ABSENT_EVERY - 1:
            site.mqtt.go()
            is_absent = True
        began = time.monotonic()
        life = Life(site.nursery, site.config)
        if dice.random() < STARTING_SHARE:
            time.sleep(dice.uniform(0, STARTING_S))
        else:
            client = life.wait_ready(token)
            lives_until = time.monotonic() + dice.uniform(0, BUSY_FACTOR * (time.monotonic() - began))
            if consumer is not None:
                if not token:  # not before: the first lives make the store, and are killed at it
                    token = create_token(site.config)
                    client.headers["Authorization"] = f"Bearer {token}"
                consumer.take(client, from_start=number % ANEW_EVERY == 0)
                while time.monotonic() < lives_until:
                    consumer.take(client)
                    time.sleep(0.02)
            else:
                time.sleep(max(0.0, lives_until - time.monotonic()))
        life.kill()
        if is_absent:
            site.mqtt.come()
            is_absent = False
        now = site.last_sequence()
        fruitful += now > before
        before = now
    return fruitful


def live_to_the_end(site: Site, consumer: PullConsumer) -> datetime:
    """A last life that completes the interval ends that have begun; the last of them. It is stopped in order."""
    life = Life(site.nursery, site.config)
    client = life.wait_ready(create_token(site.config))
    eventually(lambda: bool(site.ask("SELECT count(*) FROM reads")), 30)
    last, expected = site.ask("SELECT max(slot) FROM reads"), len(site.truth.expected)
    owed = "SELECT sum((? - first) / 60000 + 1) FROM (SELECT min(slot) AS first FROM reads GROUP BY channel)"
    there = "SELECT count(*) FROM reads WHERE slot <= ? AND revision = 0"
    eventually(lambda: site.ask("SELECT count(DISTINCT channel) FROM reads") == expected, COMPLETE_S)
    eventually(lambda: site.ask(there, last) == site.ask(owed, last), COMPLETE_S)
    consumer.take(client, from_start=True)
    assert life.stop() == 0
    return datetime.fromtimestamp(last / 1000, UTC)


async def close_the_day(site: Site) -> Store:
    """What the head-end does on the next morning: the day's manifest, and both destinations get all there is."""
    config = load_config(site.config)
    store, signal_ = open_store(config.store, config.name), FeedSignal()
    signal_.advance(store.last_sequence())
    clock = Shifted(timedelta(hours=30))
    async with Writer(store, inline, clock=clock, linger_s=COMMIT_LINGER_S, on_commit=signal_.advance) as writer:
        guard = guard_of(config, store, clock=clock, clocks=store.clocks(), ratios=Ratios(config.ratios))
        threads = Threads.all_in(inline)
        upstream = Upstream(config, store, writer, guard=guard, signal=signal_, clock=clock, threads=threads)
        tasks = [asyncio.ensure_future(run()) for name, run in upstream.tasks() if name != "retention"]

        def is_done() -> bool:
            statuses = upstream.deliveries.statuses()
            return upstream.ledger.issued > 0 and all(one.state == "up" and not one.lag_events for one in statuses)

        async with asyncio.timeout(60):
            while not is_done():  # noqa: ASYNC110  (a server and a thread are waited for)
                await asyncio.sleep(0.05)
        upstream.stop()
        await asyncio.gather(*tasks)
    return store


def verified(copy: Mapping[str, Any], folder: Path) -> tuple[int, str]:
    """`headend feed verify` over a copy, with the manifests that are in it."""
    path = folder / "copy.ndjson"
    events = sorted(copy.values(), key=lambda event: int(event["sequence"]))
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    words = ["feed", "verify", str(path), "--key", str(folder / "manifest-key.pub.pem")]
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


@pytest.mark.timeout(3600)
def test_killed_at_random_moments_both_consumers_hold_what_the_meters_had(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = request.config.getoption("--kills")
    consumer = PullConsumer()
    with a_site(tmp_path) as site:
        fruitful = kill_often(site, kills, random.Random(SEED), consumer)
        pulled = len(consumer.served)
        complete_until = live_to_the_end(site, consumer)
        store = asyncio.run(close_the_day(site))
        last = store.last_sequence()
        eventually(lambda: len(site.mqtt.events) >= last, 20)
        copies = site.copies()
        feed = {event["id"]: event for event in map(json.loads, store.events_after(0, last))}
        store.close()
        consumer.check()
        assert all(feed[event["id"]] == event for event in consumer.served.values())
        for name, copy in copies.items():
            assert differences(copy, site.truth, last=last, complete_until=complete_until) == [], name
            assert copy == feed, name
            code, told = verified(copy, tmp_path)
            assert code == 0, f"{name}: {told}"
        with contextlib.closing(sqlite3.connect(site.webhook.database)) as database:
            repeats, changed = database.execute("SELECT sum(times - 1), sum(changed) FROM events").fetchone()
        assert changed == 0
        assert site.mqtt.changed == []
        assert fruitful >= kills / 5, "too few lives read anything to prove something"
        assert pulled > 0
        show_that_the_checks_can_fail(copies["webhook"], site.truth, last, complete_until, tmp_path)
    print(
        f"{kills} kills, {last} events, {pulled} pulled before the last life, {fruitful} lives added some; "
        f"repeated: webhook {repeats}, mqtt {site.mqtt.repeats}"
    )


def show_that_the_checks_can_fail(
    good: Mapping[str, Any], truth: StreetTruth, last: int, complete_until: datetime, folder: Path
) -> None:
    """The same copy with one thing wrong, in the ways that a crash could make it wrong."""

    def found(copy: Mapping[str, Any]) -> str:
        return "; ".join(differences(copy, truth, last=last, complete_until=complete_until))

    reads = [event for event in good.values() if event["type"] == "headend.read.v1" and event["data"]["value"]]
    one, other = reads[len(reads) // 2], reads[len(reads) // 3]
    lost = {identity: event for identity, event in good.items() if identity != one["id"]}
    assert f"lost: [{one['sequence']}]" in found(lost)
    assert f"read: [('{one['data']['meter']}', '{one['data']['obis']}'" in found(lost)
    code, told = verified(lost, folder)
    assert code == 6, told
    twice = {**good, "read:again": {**one, "id": "read:again", "sequence": str(last + 1)}}
    assert f"never sent: [{last + 1}]" in found(twice)
    assert "read twice" in found(twice)
    swapped = {**good, one["id"]: {**one, "data": {**one["data"], "value": other["data"]["value"]}}}
    assert "never shown by the meter" in found(swapped)


@pytest.mark.timeout(300)
def test_a_head_end_that_moves_its_cursor_too_early_is_found_out(tmp_path: Path) -> None:
    """The same run with a head-end that is broken on purpose: kills must cost it events, and the checks must say which."""
    dice = random.Random(SEED)
    with a_site(tmp_path, "--forgetful", meters=400) as site:
        for _ in range(40):
            kill_often(site, 1, dice)
            came = {int(event["sequence"]) for event in site.webhook.events().values()}
            settled = site.ask("SELECT sequence FROM cursors WHERE destination = 'billing'") or 0
            if lost := set(range(1, settled + 1)) - came:
                break
        assert lost, "forty kills never hit a batch that was under way"
        told = differences(
            site.webhook.events(),
            site.truth,
            last=settled,
            complete_until=NEVER,
        )
        assert any(f"lost: [{min(lost)}" in one for one in told), told
