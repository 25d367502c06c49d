"""Intervals, exchanges and accepted amounts over HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, create_app, serve
from headend.api.fact_routes import fact_routes
from headend.api.interval_routes import interval_routes
from headend.feed.live import FeedSignal
from headend.intervals.fact_desk import FactDesk
from headend.intervals.guard import Guard, GuardedMeter
from headend.intervals.view import IntervalView
from headend.model import Quality
from headend.ratios import Ratios
from headend.store import Tokens
from headend.store.writer import inline
from tests.headend.api.test_api import Provider, assert_problem
from tests.headend.intervals.told_support import EXPORT, Site, read, register_of
from tests.headend.support import IMPORT, PERIOD, START, VOLTAGE, a_read

AT = "2026-01-31T16:20:00Z"
EXCHANGES, ACCEPTANCES = "/v1/meters/M1/exchanges", "/v1/meters/M1/acceptances"


def an_exchange(**changes: Any) -> dict[str, Any]:
    return {
        "idempotency_key": "order-77",
        "at": AT,
        "registers": {IMPORT: {"final": "50001.40", "first": "2.50"}},
        "told_by": "fitter 12",
        "new_serial": "2026-000123",
    } | changes


def an_acceptance(**changes: Any) -> dict[str, Any]:
    return {
        "idempotency_key": "call-5",
        "obis": IMPORT,
        "interval_end": "2026-01-31T16:15:00Z",
        "told_by": "customer service",
    } | changes


def guard_of(site: Site) -> Guard:
    return Guard(
        [GuardedMeter(id="M1", contract="dlt645/base_2007", period_s=900)],
        histories=site.store.histories(["M1"]),
        clock=site.clock,
        clocks={},
        ratios=Ratios(()),
    )


@asynccontextmanager
async def served(site: Site, guard: Guard | None = None) -> AsyncIterator[httpx.AsyncClient]:
    def period_of(meter: str) -> int | None:
        return site.period_s if meter.startswith("M") else None

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
    desk = FactDesk(
        site.book,
        site.writer,
        register_of=register_of,
        period_of=period_of,
        clock=site.clock,
        execute=inline,
        baselines=guard,
    )
    view = IntervalView(site.book, zone=site.zone, register_of=register_of)
    routes = (*interval_routes(view, period_of=period_of), *fact_routes(desk, period_of=period_of))
    headers = {"Authorization": f"Bearer {tokens.create_token('desk', ['read', 'operate'])}"}
    async with (
        serve(create_app(deps, routes=routes), "127.0.0.1:0") as listening,
        httpx.AsyncClient(base_url=listening.url, headers=headers, timeout=10) as client,
    ):
        yield client


async def filled(folder: Path) -> Site:
    site = Site(folder)
    for slot in range(6):
        shown = f"{50000 + slot}.00" if slot < 2 else f"{slot + 1}.00"
        site.put(a_read("M1", slot, shown), read(START + slot * PERIOD, f"{slot}.5", obis=EXPORT))
        site.put(a_read("M1", slot, "230.0", obis=VOLTAGE))
    site.clock._now = START + timedelta(hours=2)
    await site.tell()
    return site


async def test_intervals_are_served_as_they_stand_in_the_feed_page_by_page(tmp_path: Path) -> None:
    site = await filled(tmp_path)
    async with served(site) as client:
        whole = (await client.get("/v1/intervals?meter=M1")).json()
        told = sorted([*site.newest(), *site.newest(obis=EXPORT)], key=lambda one: (one["end"], one["obis"]))
        assert whole == {"intervals": told, "next": None}
        found, after = [], None
        while True:
            page = (
                await client.get(
                    "/v1/intervals", params={"meter": "M1", "limit": 5, "after": after or START.isoformat() + "/"}
                )
            ).json()
            found += page["intervals"]
            after = page["next"]
            if after is None:
                break
        assert found == told
        some = await client.get(
            "/v1/intervals",
            params={"meter": "M1", "obis": IMPORT, "since": "2026-01-31T16:15:00Z", "until": "2026-01-31T16:45:00Z"},
        )
        assert some.json()["intervals"] == site.newest()[2:4]
        assert (await client.get("/v1/intervals?meter=M2")).json() == {"intervals": [], "next": None}
    site.close()


async def test_an_exchange_is_recorded_once_told_in_the_feed_and_revises_its_interval(tmp_path: Path) -> None:
    site = await filled(tmp_path)
    assert site.newest()[2]["reason"] == "backward-step"
    async with served(site) as client:
        made = await client.post(EXCHANGES, json=an_exchange())
        assert made.status_code == 201, made.text
        assert not made.json()["is_applied"]
        await site.tell()
        again = await client.post(EXCHANGES, json=an_exchange())
        assert (again.status_code, again.json()) == (200, made.json() | {"is_applied": True})
        await site.tell()
        assert (await client.get(EXCHANGES)).json() == {"exchanges": [again.json()]}
        assert_problem(await client.post(EXCHANGES, json=an_exchange(told_by="another")), 409, "order-77")
        served_now = (await client.get(f"/v1/intervals?meter=M1&obis={IMPORT}")).json()["intervals"]
    assert served_now == site.newest()
    assert (served_now[2]["amount"], served_now[2]["revision"]) == ("0.90", 1)
    export = site.newest(obis=EXPORT)[2]  # nobody wrote down what this register showed
    assert (export["reason"], export["revision"]) == ("exchange-without-readings", 1)
    events = [json.loads(event) for event in site.store.events_after(0, 1000)]
    (told,) = [event for event in events if event["type"] == "headend.meter-event.v1"]
    assert (told["id"], told["data"]["name"]) == ("exchange:M1:order-77", "meter-exchanged")
    assert told["data"]["detail"]["registers"] == {IMPORT: {"final": "50001.40", "first": "2.50"}}
    site.close()


async def test_an_accepted_amount_is_a_read_that_is_not_suspect_and_the_new_baseline(tmp_path: Path) -> None:
    site = Site(tmp_path)
    guard = guard_of(site)
    site.clock._now = START + timedelta(hours=2)

    def seen(slot: int, amount: str) -> None:
        site.put(*guard.examine([a_read("M1", slot, amount)]).items)

    seen(0, "50000.00")
    seen(1, "2.00")  # the meter was exchanged, and nobody told
    await site.tell()
    assert site.newest()[1]["reason"] == "suspect-boundary"
    async with served(site, guard) as client:
        made = await client.post(ACCEPTANCES, json=an_acceptance())
        assert made.status_code == 201, made.text
        assert made.json()["value"] == "2.00"
        assert (await client.post(ACCEPTANCES, json=an_acceptance())).status_code == 200
        assert_problem(await client.post(ACCEPTANCES, json=an_acceptance(idempotency_key="b")), 422, "suspect")
        assert (await client.get(ACCEPTANCES)).json() == {"acceptances": [made.json()]}
    seen(2, "2.40")
    await site.tell()
    newest = site.store.reads("M1", IMPORT)
    assert [(one.revision, one.amount, Quality.SUSPECT in one.quality) for one in newest[1:]] == [
        (0, Decimal("2.00"), True),
        (1, Decimal("2.00"), False),
        (0, Decimal("2.40"), False),
    ]
    assert [one.get("reason", one["amount"]) for one in site.newest()] == ["before-first-read", "backward-step", "0.40"]
    restarted = guard_of(site).history("M1", IMPORT)
    assert restarted is not None
    assert restarted.suspicion is None
    site.close()


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v1/intervals", 400, "meter is missing"),
        ("/v1/intervals?meter=X9", 404, "X9"),
        ("/v1/intervals?meter=M1&limit=0", 400, "limit"),
        ("/v1/intervals?meter=M1&limit=abc", 400, "limit"),
        ("/v1/intervals?meter=M1&since=2026-01-31T00:00:00", 400, "zone"),
        ("/v1/intervals?meter=M1&since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", 400, "later"),
        ("/v1/intervals?meter=M1&until=soon", 400, "until"),
        ("/v1/intervals?meter=M1&since=0001-01-01T00:00:00%2B10:00&until=0001-01-01T00:00:00%2B10:00", 400, "later"),
        ("/v1/intervals?meter=M1&obis=energy", 400, "energy"),
        ("/v1/intervals?meter=M1&after=yesterday", 400, "yesterday"),
        ("/v1/intervals?meter=M1&metre=2", 400, "metre"),
        ("/v1/meters/X9/exchanges", 404, "X9"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_a_problem_document(
    tmp_path: Path, path: str, status: int, word: str
) -> None:
    site = Site(tmp_path)
    async with served(site) as client:
        assert_problem(await client.get(path), status, word)
        client.headers.pop("Authorization")
        assert_problem(await client.get(path), 401)
    site.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        (EXCHANGES, an_exchange(idempotency_key=""), 400, "idempotency_key"),
        (EXCHANGES, an_exchange(idempotency_key="k" * 101), 400, "idempotency_key"),
        (EXCHANGES, an_exchange(told_by=" "), 400, "told_by"),
        (EXCHANGES, an_exchange(note="n" * 501), 400, "500"),
        (EXCHANGES, an_exchange(at="2026-01-31T16:20:00"), 400, "zone"),
        (EXCHANGES, an_exchange(at="2026-01-31T18:06:00Z"), 422, "has happened"),
        (EXCHANGES, an_exchange(at="0001-01-01T00:00:00Z"), 400, "2000"),
        (EXCHANGES, an_exchange(at="9999-12-31T23:59:59-10:00"), 400, "2199"),
        (ACCEPTANCES, an_acceptance(interval_end="0001-01-01T00:00:00+10:00"), 400, "2000"),
        (EXCHANGES, an_exchange(registers={"energy": {}}), 400, "energy"),
        (EXCHANGES, an_exchange(registers={VOLTAGE: {}}), 422, "1-0:1.8.0, 1-0:2.8.0"),
        (EXCHANGES, an_exchange(registers={IMPORT: {"final": "1e5"}}), 400, "123456.78"),
        (EXCHANGES, an_exchange(registers={IMPORT: {"final": "NaN"}}), 400, "123456.78"),
        (EXCHANGES, an_exchange(registers={IMPORT: {"last": "5"}}), 400, "last"),
        (EXCHANGES, an_exchange(extra=1), 400, "extra"),
        (EXCHANGES, {"at": AT}, 400, "idempotency_key"),
        (ACCEPTANCES, an_acceptance(interval_end="2026-01-31T16:16:00Z"), 422, "no read"),
        (ACCEPTANCES, an_acceptance(), 422, "suspect"),
        (ACCEPTANCES, an_acceptance(obis="energy"), 400, "energy"),
        ("/v1/meters/X9/acceptances", an_acceptance(), 404, "X9"),
    ],
)
async def test_a_fact_that_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, path: str, body: dict[str, Any], status: int, word: str
) -> None:
    site = await filled(tmp_path)
    last = site.store.last_sequence()
    async with served(site) as client:
        assert_problem(await client.post(path, json=body), status, word)
        assert (site.store.last_sequence(), site.book.facts()) == (last, [])
        reader = Tokens(site.store, site.clock).create_token("reader", ["read"])
        client.headers["Authorization"] = f"Bearer {reader}"
        assert_problem(await client.post(path, json=body), 403, "operate")
    site.close()
