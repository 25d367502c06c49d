"""The audit log over HTTP."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, create_app, serve
from headend.api.audit_routes import audit_routes
from headend.audit.keeper import AuditKeeper
from headend.feed.live import FeedSignal
from headend.keys import SigningKey
from headend.store import Tokens
from headend.store.writer import Writer, inline
from tests.headend.api.test_api import Provider, assert_problem
from tests.headend.audit.support import Rig, a_record


@asynccontextmanager
async def served(rig: Rig, *roles: str) -> AsyncIterator[httpx.AsyncClient]:
    tokens = Tokens(rig.store, rig.clock)
    async with Writer(rig.store, inline, clock=rig.clock) as writer:
        keeper = AuditKeeper(rig.log, writer, rig.book, clock=rig.clock, execute=inline)
        deps = ApiDeps(
            name="luoyang-west",
            store=rig.store,
            tokens=tokens,
            signal=FeedSignal(),
            status=Provider(),
            writer_health=writer.health,
            registry=CollectorRegistry(),
            clock=rig.clock,
        )
        assert rig.key is not None
        routes = audit_routes(rig.book, rig.log, keeper.acknowledge, key=rig.key.public)
        headers = {"Authorization": f"Bearer {tokens.create_token('-'.join(roles), roles)}"}
        async with (
            serve(create_app(deps, routes=routes), "127.0.0.1:0") as listening,
            httpx.AsyncClient(base_url=listening.url, headers=headers, timeout=10) as client,
        ):
            yield client


async def test_records_come_page_by_page_as_they_were_hashed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, key=SigningKey.new())
    rig.story(25)
    async with served(rig, "admin") as client:
        first = (await client.get("/v1/audit", params={"limit": 20})).json()
        rest = (await client.get("/v1/audit", params={"after": first["next"], "limit": 20})).json()
        records = [*first["records"], *rest["records"]]
        assert [one["record"]["number"] for one in records] == list(range(1, 26))
        assert (await client.get("/v1/audit", params={"after": rest["next"]})).json() == {"records": [], "next": 25}
        mine = (await client.get("/v1/audit", params={"meter": "M000001"})).json()["records"]
        assert mine
        assert {one["record"]["meter"] for one in mine} == {"M000001"}
        body = json.dumps(records[0]["record"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        assert hashlib.sha256(f"{'0' * 64}\n{body}".encode()).hexdigest() == records[0]["hash"]
        page = (await client.get("/v1/audit/checkpoints")).json()
        assert (page["ok"], page["problem"], page["next"]) == (True, "", 25)
        assert page["key"] == rig.key.public.pem if rig.key else False
        assert [one["number"] for one in page["checkpoints"]] == [one.number for one in rig.checkpoints()]


async def test_only_an_administrator_sees_the_log_and_every_refusal_says_why(tmp_path: Path) -> None:
    rig = Rig(tmp_path, key=SigningKey.new())
    paths = ("/v1/audit", "/v1/audit/checkpoints")
    async with served(rig, "read", "operate", "disconnect", "approve", "cashier") as client:
        for path in paths:
            assert_problem(await client.get(path), 403)
        assert_problem(await client.post("/v1/audit/acknowledge", json={"reason": "x"}), 403)
    async with served(rig, "admin") as client:
        for path in paths:
            for parameters in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": -1}, {"aftr": 5}):
                assert_problem(await client.get(path, params=parameters), 400)


async def test_a_broken_log_is_told_and_acknowledged_with_a_reason(tmp_path: Path) -> None:
    rig = Rig(tmp_path, key=SigningKey.new())
    rig.story(5)
    rig.meddle("UPDATE audit_records SET hash = 'x', body = 'not json' WHERE number = 5")
    rig.append(a_record())
    async with served(rig, "admin") as client:
        page = (await client.get("/v1/audit/checkpoints")).json()
        assert not page["ok"]
        assert "record 5" in page["problem"]
        assert (await client.get("/v1/audit")).json()["records"][4]["record"] == "not json"
        bodies: tuple[object, ...] = (
            {"reason": " "},
            {"reason": "a\nb"},
            {"reason": "x" * 501},
            {"reson": "x"},
            {},
            [],
            {"reason": 7},
        )
        for bad in bodies:
            assert_problem(await client.post("/v1/audit/acknowledge", json=bad), 400)
        done = await client.post("/v1/audit/acknowledge", json={"reason": "a drill"})
        assert done.json() == {"number": rig.book.last_number()}
        assert json.loads(rig.book.records()[-1].body)["actor"] == "admin"
        assert (await client.get("/v1/audit/checkpoints")).json()["ok"]
        assert_problem(await client.post("/v1/audit/acknowledge", json={"reason": "again"}), 409)
