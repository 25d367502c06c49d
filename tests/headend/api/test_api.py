"""The HTTP interface over a real server on a free port: tokens, pages, the feed, problem documents, the stream."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, Health, LineStatus, Listening, MeterStatus, create_app, serve
from headend.api.metrics import StoreCollector
from headend.errors import ConfigError, ListenError, StoreUnavailable, UnknownMeter
from headend.feed.live import FeedSignal
from headend.model import MeterRecord
from headend.on_demand import OnDemandRead
from headend.quantities import BadQuantity
from headend.store import Tokens, Writer
from headend.store.writer import inline
from tests.headend.support import IMPORT, PERIOD, START, VOLTAGE, StillClock, a_read, an_event, new_store


class Provider:
    """A StatusProvider with what the test puts in."""

    def __init__(self) -> None:
        self.problems: tuple[str, ...] = ()

    def lines(self) -> Sequence[LineStatus]:
        return [LineStatus(name="transformer-12", protocol="dlt645", state="up", meters=3, counters={"replies": 7})]

    def meters(self) -> Mapping[str, MeterStatus]:
        return {"M000002": MeterStatus(last_problem="silent", last_problem_at=START)}

    def health(self) -> Health:
        return Health(problems=self.problems)


class Site:
    """A running head-end as far as the HTTP interface is concerned."""

    def __init__(self, folder: Path, subscribers_max: int = 100, heartbeat_s: float = 15.0) -> None:
        self.store = new_store(folder)
        self.clock = StillClock()
        self.signal = FeedSignal(subscribers_max=subscribers_max)
        self.writer = Writer(self.store, inline, clock=self.clock, on_commit=self.signal.advance)
        self.tokens = Tokens(self.store, self.clock)
        self.provider = Provider()
        self.asked: list[tuple[str, list[str]]] = []
        registry = CollectorRegistry()
        registry.register(StoreCollector(self.writer, self.signal))
        self.deps = ApiDeps(
            name="luoyang-west",
            store=self.store,
            tokens=self.tokens,
            signal=self.signal,
            status=self.provider,
            writer_health=self.writer.health,
            registry=registry,
            clock=self.clock,
            read_now=self.read_now,
            heartbeat_s=heartbeat_s,
        )
        self.app = create_app(self.deps)

    async def read_now(self, meter_id: str, quantities: Sequence[str]) -> Sequence[OnDemandRead]:
        self.asked.append((meter_id, list(quantities)))
        if meter_id == "M000003":
            raise RuntimeError("secret inner state")
        if meter_id == "M000004":
            raise BadQuantity("'volts' is not an OBIS code")
        if meter_id == "M000005":
            raise UnknownMeter("no meter 'M000005' is served here")
        return [on_demand(meter_id, IMPORT, "123456.78"), on_demand(meter_id, VOLTAGE, None)]

    def token(self, *roles: str) -> dict[str, str]:
        plain = self.tokens.create_token(f"test {'+'.join(roles)} {len(self.tokens.list_tokens())}", roles)
        return {"Authorization": f"Bearer {plain}"}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            self.writer,
            serve(self.app, "127.0.0.1:0") as listening,
            httpx.AsyncClient(base_url=listening.url, headers=self.token("read"), timeout=10) as client,
        ):
            yield client


def on_demand(meter: str, obis: str, value: str | None) -> OnDemandRead:
    told = {} if value is not None else {"problem": "no byte came within 1.00 s", "kind": "silent"}
    return OnDemandRead(
        meter=meter,
        quantity=obis,
        obis=obis,
        name="a quantity",
        value=value,
        unit="kWh" if value is not None else None,
        received_at="2026-01-31T16:00:00Z",
        quality=["missing" if value is None else "measured"],
        wire_sent="68",
        wire_received="",
        elapsed_ms=1000.0,
        **told,
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.store.upsert_meters(
        MeterRecord(
            id=f"M{number:06d}",
            line="transformer-12",
            address=f"{number:012d}",
            contract="dlt645/base_2007",
            plan="residential",
            protocol="dlt645",
        )
        for number in range(1, 6)
    )
    return made


def assert_problem(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert {"type", "title", "status", "detail", "next_step"} <= document.keys()
    assert document["status"] == status
    assert document["type"].startswith("urn:headend:problem:")
    assert document["next_step"]
    for word in words:
        assert word in document["detail"], document


ROUTES = [
    ("GET", "/metrics"),
    ("GET", "/v1/meters"),
    ("GET", "/v1/meters/M000001"),
    ("GET", "/v1/meters/M000001/reads"),
    ("POST", "/v1/meters/M000001/reads"),
    ("GET", "/v1/lines"),
    ("GET", "/v1/feed"),
    ("GET", "/v1/feed/stream"),
    ("GET", "/schema"),
    ("GET", "/schema/openapi.json"),
    ("GET", "/schema/nothing"),
    ("GET", "/nothing"),
    ("GET", "/"),
    ("DELETE", "/v1/feed"),
    ("OPTIONS", "/v1/feed"),
    ("OPTIONS", "/schema"),
    ("HEAD", "/v1/feed"),
    ("OPTIONS", "/nothing"),
    ("GET", "/v1/feed?limit=nonsense"),
]


async def test_without_a_token_nothing_answers_but_healthz(site: Site) -> None:
    async with site.running() as client:
        client.headers.pop("Authorization")
        for method, path in ROUTES:
            for header in ({}, {"Authorization": "Bearer hdt_wrong"}, {"Authorization": "Basic eDp5"}):
                response = await client.request(method, path, headers=header)
                assert response.status_code == 401, (method, path, response.text)
                assert response.headers["www-authenticate"].startswith("Bearer")
                if method != "HEAD":
                    assert_problem(response, 401)
        assert (await client.get("/healthz")).json() == {"status": "ok", "name": "luoyang-west", "last_sequence": 0}


async def test_roles_decide_and_revoked_tokens_stop_at_once(site: Site) -> None:
    async with site.running() as client:
        cashier, admin = site.token("cashier"), site.token("admin")
        assert_problem(await client.get("/v1/lines", headers=cashier), 403, "role read", "cashier")
        assert_problem(await client.get("/schema", headers=cashier), 403)
        assert (await client.get("/v1/lines", headers=admin)).status_code == 200
        site.tokens.revoke_token("test admin 2")
        assert_problem(await client.get("/v1/lines", headers=admin), 401, "revoked")


async def test_every_error_is_a_problem_document(site: Site) -> None:
    async with site.running() as client:
        assert_problem(await client.get("/nothing"), 404)
        assert_problem(await client.get("/schema/nothing"), 404)
        assert_problem(await client.get("/schema/nothing.json"), 404)
        response = await client.delete("/v1/feed")
        assert_problem(response, 405)
        assert "GET" in response.headers["allow"]
        assert_problem(await client.get("/v1/meters/M999999"), 404, "M999999")
        assert_problem(await client.get("/v1/meters/M999999/reads"), 404, "M999999")
        assert_problem(await client.post("/v1/meters/M999999/reads", json={}), 404, "M999999")
        assert_problem(await client.get("/v1/feed?after=many"), 400, "after")
        assert_problem(await client.post("/v1/meters/M000001/reads", content=b"{"), 400)
        assert_problem(await client.post("/v1/meters/M000001/reads", json={"quantity": ["x"]}), 400, "quantity")
        assert_problem(await client.post("/v1/meters/M000001/reads", json={"quantities": ["x"] * 51}), 400, "50")
        assert_problem(await client.post("/v1/meters/M000001/reads", content=b" " * 2_000_000), 413)
        for path in (
            "/v1/meters?limit=0",
            "/v1/meters?limit=1001",
            "/v1/meters/M000001/reads?limit=0",
            "/v1/meters/M000001/reads?obis=energy",
            "/v1/meters/M000001/reads?since=2026-01-31T00:00:00",
            "/v1/meters/M000001/reads?since=yesterday",
        ):
            assert_problem(await client.get(path), 400)


async def test_a_mistake_of_ours_shows_nothing_of_the_inside(site: Site) -> None:
    async with site.running() as client:
        response = await client.post("/v1/meters/M000003/reads", json={})
        assert_problem(response, 500)
        assert "secret" not in response.text
        assert "Traceback" not in response.text


async def test_meters_are_paged(site: Site) -> None:
    async with site.running() as client:
        page = (await client.get("/v1/meters?limit=3")).json()
        assert [meter["id"] for meter in page["meters"]] == ["M000001", "M000002", "M000003"]
        page = (await client.get(f"/v1/meters?limit=3&after={page['next']}")).json()
        assert [meter["id"] for meter in page["meters"]] == ["M000004", "M000005"]
        assert page["next"] is None


async def test_a_meter_shows_its_newest_read_and_its_problem(site: Site) -> None:
    async with site.running() as client:
        await site.writer.submit(a_read("M000002", slot=3))
        assert (await client.get("/v1/meters/M000002")).json() == {
            "id": "M000002",
            "line": "transformer-12",
            "address": "000000000002",
            "contract": "dlt645/base_2007",
            "plan": "residential",
            "protocol": "dlt645",
            "last_read_at": "2026-01-31T16:45:02.250000Z",
            "last_problem": "silent",
            "last_problem_at": "2026-01-31T16:00:00Z",
            "clock": None,
        }
        assert (await client.get("/v1/meters/M000004")).json()["last_read_at"] is None


async def test_lines_show_state_and_counters(site: Site) -> None:
    async with site.running() as client:
        [line] = (await client.get("/v1/lines")).json()["lines"]
        assert (line["name"], line["state"], line["meters"]) == ("transformer-12", "up", 3)
        assert line["counters"] == {"replies": 7}


async def test_stored_reads_look_as_in_the_feed(site: Site) -> None:
    async with site.running() as client:
        for item in (a_read(slot=0), a_read(slot=1, amount=None), a_read(slot=1, revision=1), a_read("M000002")):
            await site.writer.submit(item)
        events = (await client.get("/v1/feed")).json()["events"]
        path = "/v1/meters/M000001/reads"
        assert (await client.get(path)).json() == {
            "reads": [event["data"] for event in events[:3]],
            "truncated": False,
        }
        until = (START + PERIOD).isoformat()
        assert len((await client.get(path, params={"until": until})).json()["reads"]) == 1
        beijing = (START + PERIOD + timedelta(hours=8)).isoformat().replace("+00:00", "+08:00")
        assert len((await client.get(path, params={"since": beijing})).json()["reads"]) == 2
        limited = (await client.get(path, params={"limit": 1, "obis": f"{IMPORT}*255"})).json()
        assert (len(limited["reads"]), limited["truncated"]) == (1, True)


async def test_reading_now_asks_the_line_and_names_what_is_missing(site: Site) -> None:
    async with site.running() as client:
        body = (await client.post("/v1/meters/M000001/reads", json={"quantities": [IMPORT, VOLTAGE]})).json()
        assert [read["value"] for read in body["reads"]] == ["123456.78", None]
        assert list(body["reads"][0]) == [
            "meter",
            "quantity",
            "obis",
            "name",
            "value",
            "unit",
            "at",
            "read_at",
            "received_at",
            "quality",
            "wire_sent",
            "wire_received",
            "elapsed_ms",
        ]
        assert (body["reads"][1]["kind"], body["reads"][1]["problem"]) == ("silent", "no byte came within 1.00 s")
    assert site.asked == [("M000001", [IMPORT, VOLTAGE])]


async def test_a_quantity_or_meter_that_cannot_be_read_is_the_askers_mistake(site: Site) -> None:
    async with site.running() as client:
        assert_problem(await client.post("/v1/meters/M000004/reads", json={"quantities": ["volts"]}), 400, "volts")
        assert_problem(await client.post("/v1/meters/M000005/reads", json={}), 404, "M000005")


@pytest.mark.both_databases
async def test_a_name_that_no_database_can_hold_is_an_error_of_the_caller(site: Site, database_kind: str) -> None:
    """A file looks for it and finds nothing; a server does not take a text with a NUL at all."""
    async with site.running() as client:
        for path in ("/v1/meters/M%00", "/v1/meters/M%00/reads"):
            assert_problem(await client.get(path), 404 if database_kind == "sqlite" else 422)


async def test_unknown_query_parameters_are_refused(site: Site) -> None:
    async with site.running() as client:
        for path in (
            "/v1/feed?aftre=5",
            "/v1/feed/stream?after=0&limit=1",
            "/v1/meters?page=2",
            "/v1/meters/M000001/reads?form=2026-01-31T00:00:00Z",
        ):
            response = await client.get(path)
            assert_problem(response, 400, "unknown parameter", "expected")


async def test_stored_reads_are_found_by_di_in_any_spelling(site: Site) -> None:
    async with site.running() as client:
        await site.writer.submit(a_read(obis="di:0280000A"))
        await site.writer.submit(a_read())
        for spelling in ("di:0280000A", "di:0280000a"):
            reads = (await client.get("/v1/meters/M000001/reads", params={"obis": spelling})).json()["reads"]
            assert [read["obis"] for read in reads] == ["di:0280000A"]
        assert_problem(await client.get("/v1/meters/M000001/reads?obis=di:028"), 400, "028")


async def test_healthz_answers_head_with_the_status_alone(site: Site) -> None:
    async with site.running() as client:
        client.headers.pop("Authorization")
        response = await client.head("/healthz")
        assert (response.status_code, response.content) == (200, b"")
        site.provider.problems = ("The store fails.",)
        response = await client.head("/healthz")
        assert (response.status_code, response.content) == (503, b"")


async def test_the_feed_is_pulled_by_cursor(site: Site) -> None:
    async with site.running() as client:
        assert (await client.get("/v1/feed")).json() == {"events": [], "next": 0}
        for slot in range(25):
            await site.writer.submit(a_read(slot=slot))
        page = (await client.get("/v1/feed?after=3&limit=10")).json()
        assert [event["sequence"] for event in page["events"]] == [str(number) for number in range(4, 14)]
        assert page["next"] == 13
        assert (await client.get("/v1/feed?after=25")).json() == {"events": [], "next": 25}
        response = await client.get("/v1/feed?after=26")
        assert_problem(response, 400, "26", "25")
        assert response.json()["type"] == "urn:headend:problem:cursor-ahead"
        for query in ("after=-1", "limit=0", "limit=10001", "after=1.5"):
            assert_problem(await client.get(f"/v1/feed?{query}"), 400)
        for query in ("after=-1", "after=26"):
            assert_problem(await client.get(f"/v1/feed/stream?{query}"), 400)


async def test_events_are_passed_on_byte_by_byte(site: Site) -> None:
    async with site.running() as client:
        await site.writer.submit(a_read())
        await site.writer.submit(an_event())
        stored = site.store.events_after(0, 10)
        assert (await client.get("/v1/feed")).content == b'{"events":[' + b",".join(stored) + b'],"next":2}'


async def next_events(lines: AsyncIterator[str], count: int) -> list[tuple[int, dict[str, object]]]:
    found = []
    identity = 0
    async for line in lines:
        if line.startswith("id: "):
            identity = int(line[4:])
        if line.startswith("data: "):
            found.append((identity, json.loads(line[6:])))
            if len(found) == count:
                break
    return found


async def test_the_stream_continues_from_the_cursor_and_then_as_the_feed_grows(site: Site) -> None:
    async with site.running() as client:
        for slot in range(5):
            await site.writer.submit(a_read(slot=slot))
        async with client.stream("GET", "/v1/feed/stream?after=2") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            old = await next_events(lines, 3)
            assert [identity for identity, _ in old] == [3, 4, 5]
            await site.writer.submit(a_read(slot=5))
            await site.writer.submit(an_event())
            new = await next_events(lines, 2)
            assert [(identity, event["sequence"]) for identity, event in new] == [(6, "6"), (7, "7")]
        async with client.stream("GET", "/v1/feed/stream?after=0", headers={"Last-Event-ID": "6"}) as response:
            assert [identity for identity, _ in await next_events(response.aiter_lines(), 1)] == [7]


async def test_stopping_the_service_ends_open_streams(site: Site) -> None:
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(headers=site.token("read"), timeout=10) as client:
        async with site.writer, serve(site.app, "127.0.0.1:0") as listening:
            response = await client.send(client.build_request("GET", f"{listening.url}/v1/feed/stream"), stream=True)
            begun = loop.time()
        assert loop.time() - begun < 3
        assert [line async for line in response.aiter_lines() if line] == [": headend feed"]
        await response.aclose()
    assert site.signal.subscribers == 0


async def test_places_on_the_stream_are_limited_and_given_back(tmp_path: Path) -> None:
    site = Site(tmp_path, subscribers_max=1)
    async with site.running() as client:
        async with client.stream("GET", "/v1/feed/stream") as response:
            lines = response.aiter_lines()  # kept, since the connection closes with it
            await anext(lines)
            refused = await client.get("/v1/feed/stream")
            assert_problem(refused, 503, "at most 1")
            assert refused.headers["retry-after"]
        async with asyncio.timeout(5):
            # The server has to notice first that we are gone.
            while await status_of_stream(client) == 503:
                pass


async def status_of_stream(client: httpx.AsyncClient) -> int:
    async with client.stream("GET", "/v1/feed/stream") as response:
        return response.status_code


async def test_a_silent_stream_says_that_it_lives(tmp_path: Path) -> None:
    site = Site(tmp_path, heartbeat_s=0.01)
    async with site.running() as client, client.stream("GET", "/v1/feed/stream") as response:
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(6)] == [": headend feed", "", ": heartbeat", "", ": heartbeat", ""]


async def test_healthz_says_what_is_wrong_and_no_more(site: Site) -> None:
    async with site.running() as client:
        client.headers.pop("Authorization")
        site.provider.problems = ("The store fails: database or disk is full.", "2 of 3 lines are down.")
        response = await client.get("/healthz")
        assert_problem(response, 503, "disk is full")
        assert response.json()["problems"] == list(site.provider.problems)
        assert response.json()["last_sequence"] == 0
        site.provider.problems = ()
        assert (await client.get("/healthz")).status_code == 200


async def test_a_store_that_cannot_be_read_is_a_503(site: Site) -> None:
    async with site.running() as client:
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE feed_batches RENAME TO gone")
        assert_problem(await client.get("/v1/feed"), 503)
        assert_problem(await client.get("/healthz"), 503, "store")
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO feed_batches")


async def test_a_store_that_cannot_be_written_is_on_healthz_and_nothing_is_lost(site: Site) -> None:
    async with site.running() as client:
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON reads BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
        waiting = asyncio.ensure_future(site.writer.submit(a_read()))
        while (response := await client.get("/healthz")).status_code == 200:
            pass
        assert_problem(response, 503, "disk is full", "1 are kept")
        assert "M000001" not in response.text
        with site.store.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER full")
        assert await waiting == 1
        assert (await client.get("/healthz")).status_code == 200


async def test_metrics_are_prometheus_text_without_meters(site: Site) -> None:
    async with site.running() as client:
        await site.writer.submit(a_read())
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        assert "headend_store_stored_items_total 1.0" in response.text
        assert "headend_feed_sequence 1.0" in response.text
        assert "M000001" not in response.text


async def test_the_schema_names_every_route_and_the_bearer_token(site: Site) -> None:
    async with site.running() as client:
        document = (await client.get("/schema/openapi.json")).json()
        assert (await client.get("/schema")).json() == document
    assert document["openapi"].startswith("3.1")
    assert {
        "/healthz",
        "/metrics",
        "/v1/meters",
        "/v1/meters/{meter_id}",
        "/v1/meters/{meter_id}/reads",
        "/v1/lines",
        "/v1/feed",
        "/v1/feed/stream",
    } == document["paths"].keys()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["paths"]["/healthz"]["get"]["security"] == [{}]


async def test_a_port_in_use_is_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=address):
            async with serve(site.app, address):
                pass


@pytest.mark.parametrize("listen", ["8645", ":8645", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000"])
async def test_an_address_of_the_wrong_form_is_refused(site: Site, listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        async with serve(site.app, listen):
            pass


async def test_the_error_of_the_block_leaves_it_unchanged(site: Site) -> None:
    async def fail() -> None:
        async with serve(site.app, "127.0.0.1:0") as listening:
            assert listening == Listening("127.0.0.1", listening.port)
            raise StoreUnavailable("as it was")

    with pytest.raises(StoreUnavailable, match="as it was"):
        await fail()
