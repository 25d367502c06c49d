"""`/v1/sinks` and `headend sink` over a real server: what an operator sees, and what he can do about it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import typer
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from headend.api import ApiDeps, Health, LineStatus, MeterStatus, create_app, serve
from headend.api.sink_routes import sink_routes
from headend.cli import sink as sink_command
from headend.clock import SystemClock
from headend.feed.live import FeedSignal
from headend.feed.pusher_deliveries import Deliveries
from headend.feed.pusher_progress import Progress
from headend.feed.pusher_retention import RetentionKeeper, RetentionPolicy
from headend.feed.pusher_status import DeliveryCollector
from headend.feed.sinks.settings import PushSettings, SinkConfig, WebhookSettings
from headend.store import Tokens, Writer
from headend.store.cursors import Cursors, Saved
from headend.store.cursors_retention import Retention
from headend.store.writer import inline
from tests.headend.support import a_read, new_store
from tests.servers import Answer, HttpEndpoint, http_endpoint


class Quiet:
    """A StatusProvider without lines."""

    def lines(self) -> Sequence[LineStatus]:
        return []

    def meters(self) -> Mapping[str, MeterStatus]:
        return {}

    def health(self) -> Health:
        return Health()


class Site:
    def __init__(self, folder: Path, endpoint: HttpEndpoint) -> None:
        self.store = new_store(folder)
        self.clock = SystemClock()
        self.signal = FeedSignal()
        cursors = Cursors(self.store.engine)
        cursors.save({"old": Saved(progress=Progress(0))})
        push = PushSettings(name="billing", kind="webhook", url=endpoint.url, batch_max=100)
        self.deliveries = Deliveries(
            [SinkConfig(push=push, far_end=WebhookSettings(url=endpoint.url))],
            cursors,
            name="west",
            signal=self.signal,
            clock=self.clock,
            read=inline,
            write=inline,
            files=inline,
            secret=lambda reference: reference,
        )
        self.keeper = RetentionKeeper(
            RetentionPolicy(),
            name="west",
            cursors=cursors,
            retention=Retention(self.store.engine),
            clock=self.clock,
            execute=inline,
            write=inline,
        )
        self.registry = CollectorRegistry()
        self.registry.register(DeliveryCollector(self.deliveries.statuses, lambda: self.keeper.capacity))
        tokens = Tokens(self.store, self.clock)
        writer = Writer(self.store, inline, clock=self.clock)
        deps = ApiDeps(
            name="west",
            store=self.store,
            tokens=tokens,
            signal=self.signal,
            status=Quiet(),
            writer_health=writer.health,
            registry=self.registry,
            clock=self.clock,
        )
        self.app = create_app(deps, routes=sink_routes(self.deliveries, self.keeper))
        self.admin = tokens.create_token("admin", ["admin"])
        self.reader = tokens.create_token("reader", ["read"])

    def store_reads(self, count: int) -> None:
        first = self.store.last_sequence()
        self.store.commit([a_read(f"M{number:06d}") for number in range(first, first + count)])
        self.signal.advance(self.store.last_sequence())


@asynccontextmanager
async def a_site(folder: Path) -> AsyncIterator[tuple[Site, HttpEndpoint, httpx.AsyncClient]]:
    with http_endpoint() as endpoint:
        site = Site(folder, endpoint)
        async with serve(site.app, "127.0.0.1:0") as listening:
            pusher = site.deliveries.pushers["billing"]
            task = asyncio.ensure_future(pusher.run())
            headers = {"Authorization": f"Bearer {site.admin}"}
            async with httpx.AsyncClient(base_url=listening.url, headers=headers) as client:
                yield site, endpoint, client
            site.deliveries.stop()
            await task
        site.store.close()


async def eventually(client: httpx.AsyncClient, **expected: object) -> dict[str, object]:
    """The status of billing once it is so."""
    async with asyncio.timeout(20):
        while True:
            status: dict[str, object] = (await client.get("/v1/sinks/billing")).json()
            if all(status[key] == value for key, value in expected.items()):
                return status
            await asyncio.sleep(0.02)


async def test_what_was_refused_is_listed_released_and_dropped(tmp_path: Path) -> None:
    async with a_site(tmp_path) as (site, endpoint, client):
        endpoint.answers += [Answer(status=422, body=b"value is odd")] * 3  # the batch of two, then each of them
        site.store_reads(2)
        await eventually(client, parked=2, lag_events=0)
        page = (await client.get("/v1/sinks/billing/parked")).json()
        assert [(one["sequence"], one["tries"], one["released"]) for one in page["parked"]] == [
            (1, 1, False),
            (2, 1, False),
        ]
        assert "value is odd" in page["parked"][0]["reason"]
        assert page["parked"][0]["event"]["subject"] == "M000000"
        assert page["next"] == 2
        rest = (await client.get("/v1/sinks/billing/parked", params={"after": 1, "limit": 1})).json()
        assert [one["sequence"] for one in rest["parked"]] == [2]

        answer = await client.post("/v1/sinks/billing/parked/1/release")
        assert (answer.status_code, answer.json()) == (200, {"count": 1})
        await eventually(client, parked=1)
        assert json.loads(endpoint.requests[-1].body)[0]["sequence"] == "1"
        assert (await client.delete("/v1/sinks/billing/parked/2")).json() == {"count": 1}
        assert (await client.delete("/v1/sinks/billing/parked/2")).status_code == 404
        assert (await client.post("/v1/sinks/billing/parked/release")).json() == {"count": 0}
        assert (await client.delete("/v1/sinks/billing/parked")).json() == {"count": 0}
        await eventually(client, parked=0)


async def test_destinations_are_listed_with_those_nobody_configures_any_more(tmp_path: Path) -> None:
    async with a_site(tmp_path) as (site, _, client):
        site.store_reads(30)
        await eventually(client, lag_events=0)
        await site.keeper.look()
        body = (await client.get("/v1/sinks")).json()
        billing, old = body["sinks"]
        assert (billing["name"], billing["state"], billing["delivered_up_to"]) == ("billing", "up", 30)
        assert billing["counters"]["back_filled"] == 30  # they are of another year than the clock
        assert (old["name"], old["state"], old["lag_events"]) == ("old", "unconfigured", 30)
        assert body["capacity"]["used_bytes"] > 0
        assert (await client.delete("/v1/sinks/billing")).status_code == 409
        assert (await client.delete("/v1/sinks/old")).json() == {"count": 1}
        assert (await client.delete("/v1/sinks/old")).status_code == 404
        for path in ("/v1/sinks/none", "/v1/sinks/none/parked"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert (await client.post("/v1/sinks/none/parked/release")).status_code == 404
        assert (await client.get("/v1/sinks/billing/parked", params={"limit": 0})).status_code == 400


async def test_it_takes_an_admin(tmp_path: Path) -> None:
    async with a_site(tmp_path) as (site, _, client):
        headers = {"Authorization": f"Bearer {site.reader}"}
        for method, path in (
            ("GET", "/v1/sinks"),
            ("GET", "/v1/sinks/billing"),
            ("GET", "/v1/sinks/billing/parked"),
            ("POST", "/v1/sinks/billing/parked/release"),
            ("POST", "/v1/sinks/billing/parked/1/release"),
            ("DELETE", "/v1/sinks/billing/parked"),
            ("DELETE", "/v1/sinks/billing/parked/1"),
            ("DELETE", "/v1/sinks/old"),
        ):
            assert (await client.request(method, path, headers=headers)).status_code == 403


async def test_the_figures_are_there_for_prometheus(tmp_path: Path) -> None:
    async with a_site(tmp_path) as (site, endpoint, client):
        endpoint.answers.append(Answer(status=503))
        site.store_reads(30)
        await eventually(client, lag_events=0)
        await site.keeper.look()
        text = generate_latest(site.registry).decode()
        assert 'headend_sink_up{sink="billing"} 1.0' in text
        assert 'headend_sink_lag_events{sink="billing"} 0.0' in text
        assert 'headend_sink_delivered_events_total{lane="back_filled",sink="billing"} 30.0' in text
        assert 'headend_sink_failures_total{sink="billing"} 1.0' in text
        assert "headend_store_free_bytes" in text


async def test_the_command_shows_and_does_the_same(tmp_path: Path) -> None:
    app = typer.Typer()
    sink_command.register(app)

    async with a_site(tmp_path) as (site, endpoint, client):

        async def headend(*arguments: str) -> str:
            command = [*arguments, "--url", str(client.base_url), "--token", site.admin]
            done = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert done.exit_code == 0, (done.output, done.exception)
            return done.output

        endpoint.answers += [Answer(status=422, body=b"value is odd")] * 3
        site.store_reads(2)
        await eventually(client, parked=2)
        assert "billing" in await headend("sink", "list")
        assert json.loads(await headend("sink", "list", "--json"))["sinks"][0]["parked"] == 2
        assert "delivered up to" in await headend("sink", "status", "billing")
        assert "value is odd" in await headend("sink", "parked", "billing")
        assert len(json.loads(await headend("sink", "parked", "billing", "--json"))["parked"]) == 2
        assert "1 event(s) are offered" in await headend("sink", "release", "billing", "1")
        await eventually(client, parked=1)
        assert "1 event(s) given up" in await headend("sink", "drop", "billing", "--all")
        assert "everything" in await headend("sink", "parked", "billing")
        assert "forgotten" in await headend("sink", "forget", "old")
        for wrong in (["drop", "billing"], ["release", "billing", "1", "--all"]):
            command = ["sink", *wrong, "--url", str(client.base_url), "--token", site.admin]
            assert (await asyncio.to_thread(CliRunner().invoke, app, command)).exit_code == 2
