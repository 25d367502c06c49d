"""Manifests, their key, and the collection rate over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, create_app, serve
from headend.api.ledger_routes import ledger_routes
from headend.feed.live import FeedSignal
from headend.ledger.signing import SigningKey
from headend.ledger.view import LedgerView
from headend.store import Tokens
from tests.headend.api.test_api import Provider, assert_problem
from tests.headend.ledger.support import CLOSING, DAY, MIDNIGHT, ZONE, Site, duty, read, slots


@asynccontextmanager
async def served(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    tokens = Tokens(site.store, site.clock)
    deps = ApiDeps(
        name="luoyang-west",
        store=site.store,
        tokens=tokens,
        signal=FeedSignal(),
        status=Provider(),
        writer_health=site.writer.health,
        registry=CollectorRegistry(),
        clock=site.clock,
    )
    view = LedgerView(site.book, zone=ZONE, clock=site.clock, key=site.key.public if site.key else None)
    headers = {"Authorization": f"Bearer {tokens.create_token('test', ['read'])}"}
    async with (
        serve(create_app(deps, routes=ledger_routes(view)), "127.0.0.1:0") as listening,
        httpx.AsyncClient(base_url=listening.url, headers=headers, timeout=10) as client,
    ):
        yield client


async def test_a_manifest_is_served_as_it_stands_in_the_feed(tmp_path: Path) -> None:
    many = [duty(f"M{number:04}") for number in range(300)]
    async with Site(tmp_path, many, key=SigningKey.new()).running() as site, served(site) as client:
        await site.put(read(one.meter, slots()[0]) for one in many)
        await site.close_at(MIDNIGHT + DAY + CLOSING)
        await site.put([read("M0000", slots()[1])])
        await site.close_at(MIDNIGHT + 2 * DAY + CLOSING)
        index = (await client.get("/v1/manifests")).json()
        assert [(one["day"], one["revision"]) for one in index["manifests"]] == [
            ("2026-02-01", 0),
            ("2026-02-02", 0),
            ("2026-02-01", 1),
        ]
        assert (await client.get("/v1/manifests", params={"after": index["next"]})).json()["manifests"] == []
        first = (await client.get("/v1/manifests/2026-02-01?revision=0")).json()
        events = {event["id"]: event for event in site.events()}
        assert first["manifest"] == events["manifest:2026-02-01:0"]
        assert [events[part["id"]] for part in first["parts"]] == first["parts"]
        newest = (await client.get("/v1/manifests/2026-02-01")).json()
        assert newest["manifest"]["data"]["revision"] == 1
        one = (await client.get("/v1/manifests/2026-02-01", params={"meter": "M0299"})).json()
        assert [part["data"]["part"] for part in one["parts"]] == [2]
        key = (await client.get("/v1/manifest-key")).json()
        assert (key["id"], key["algorithm"]) == (newest["manifest"]["data"]["signed_by"], "Ed25519")
        report = (await client.get("/v1/collection-rate?day=2026-02-01")).json()
        assert report["intervals"] == {
            "expected": 3600,
            "collected": 301,
            "rate": "0.0836",
            "states": {"measured": 301, "open": 3299},
            "reasons": {"unrecorded": 3299},
        }
        assert report["lines"][0]["name"] == "line-1"
        assert (await client.get("/v1/collection-rate")).json()["day"] == "2026-02-02"


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v1/manifests/2026-02-01", 404, "no manifest"),
        ("/v1/manifests/2026-02-01?revision=7", 404, "revision 7"),
        ("/v1/manifests/yesterday", 400, "2026-11-21"),
        ("/v1/manifests?limit=0", 400, "limit"),
        ("/v1/manifests?after=1000000000000000000000", 400, "after"),
        ("/v1/manifests/2026-02-01?revision=1000000000000000000000", 400, "revision"),
        ("/v1/collection-rate?day=0001-01-01", 400, "2000"),
        ("/v1/manifests/2026-02-01?metre=M1", 400, "metre"),
        ("/v1/manifest-key", 404, "not signed"),
        ("/v1/collection-rate?day=2027-01-01", 400, "not come yet"),
        ("/v1/collection-rate?date=2026-01-01", 400, "date"),
    ],
)
async def test_what_is_not_there_is_a_problem_document(tmp_path: Path, path: str, status: int, word: str) -> None:
    async with Site(tmp_path).running() as site, served(site) as client:
        assert_problem(await client.get(path), status, word)
        client.headers.pop("Authorization")
        assert_problem(await client.get(path), 401)


async def test_the_schema_describes_the_routes(tmp_path: Path) -> None:
    async with Site(tmp_path).running() as site, served(site) as client:
        paths = (await client.get("/schema/openapi.json")).json()["paths"]
        assert {"/v1/manifests", "/v1/manifests/{day}", "/v1/manifest-key", "/v1/collection-rate"} <= paths.keys()
        assert json.dumps(paths["/v1/collection-rate"]).count("CollectionReport") >= 1
        await asyncio.gather(*(client.get("/v1/collection-rate") for _ in range(10)))
