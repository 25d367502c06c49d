"""A running head-end with supply switches behind its HTTP interface; its one line never answers."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, create_app, serve
from headend.app import HeadEnd
from headend.clock import SystemClock
from headend.commands.policy_file import POLICIES
from headend.config import load_config
from headend.database.engine import writing
from headend.drivers.errors import LineDown
from headend.drivers.transport import LineUrl
from headend.keys import make_key_files
from headend.store.governor_protections import set_person
from headend.store.store import open_store
from headend.store.tokens import Tokens
from headend.store.writer import inline
from tests.headend.support import with_tables

__all__ = ["MORNING", "RelaySite", "site_of"]

MORNING = datetime(2025, 6, 4, 1, 30, tzinfo=UTC)  # a Wednesday, half past nine in China
METERS = 40


class MorningClock:
    """The machine's clocks, on a morning on which supplies may be opened."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._behind = self._clock.now() - MORNING

    def now(self) -> datetime:
        return self._clock.now() - self._behind

    def monotonic(self) -> float:
        return self._clock.monotonic()


class RelaySite:
    """url: of the HTTP interface. client(): with a token of these roles."""

    def __init__(self, head_end: HeadEnd, clock: MorningClock, tokens: Tokens, url: str) -> None:
        self.head_end = head_end
        self.clock = clock
        self.tokens = tokens
        self.url = url
        self.headers: dict[tuple[str, ...], dict[str, str]] = {}
        self._keys = 0

    def token(self, *roles: str, person: str = "") -> dict[str, str]:
        """The same headers each time it is asked for."""
        key = (*roles, person)
        if key not in self.headers:
            name = f"token {len(self.tokens.list_tokens())}"
            plain = self.tokens.create_token(name, roles)
            if person:
                with writing(self.head_end._store.engine, "naming a person") as connection:
                    set_person(connection, name, person)
            self.headers[key] = {"Authorization": f"Bearer {plain}"}
        return self.headers[key]

    def order(self, kind: str, meter: str = "M000001", **more: Any) -> dict[str, Any]:
        """An order that every rule allows, as JSON."""
        self._keys += 1
        now = self.clock.now()
        made: dict[str, Any] = {
            "kind": kind,
            "meter": meter,
            "reason": "arrears since April" if kind == "open" else "paid at the counter",
            "idempotency_key": f"key-{self._keys}",
            "expires_at": (now + timedelta(hours=2)).isoformat(),
        }
        if kind == "open":
            made |= {"proof": self.proof(meter), "notices": self.notices()}
        return made | more

    def proof(self, meter: str, **more: Any) -> dict[str, Any]:
        made = {
            "account": f"A-{meter}",
            "balance_minor": -12000,
            "currency": "CNY",
            "as_of": self.clock.now().isoformat(),
            "fence": 0,
        }
        return made | more

    def notices(self) -> list[dict[str, str]]:
        now = self.clock.now()
        ago = {"first": timedelta(days=8), "second": timedelta(days=3), "final": timedelta(hours=1)}
        return [
            {
                "step": step,
                "sent_at": (now - before).isoformat(),
                "delivered_at": (now - before).isoformat(),
                "channel": "sms",
                "reference": f"sms-{step}",
            }
            for step, before in ago.items()
        ]

    def payment(self, *meters: str, reference: str = "P1", fence: int = 1) -> dict[str, Any]:
        return {
            "cause": "payment",
            "meters": list(meters),
            "reference": reference,
            "paid_at": self.clock.now().isoformat(),
            "amount_minor": 15000,
            "currency": "CNY",
            "fence": fence,
        }

    def forecast(self) -> dict[str, Any]:
        now = self.clock.now()
        return {
            "issued_at": now.isoformat(),
            "reaches": (now + timedelta(hours=48)).isoformat(),
            "lowest_c": "18",
            "highest_c": "29",
            "source": "weather service",
        }

    async def make_ready(self, client: httpx.AsyncClient, **limits: Any) -> None:
        """Limits by two people, and the weather."""
        given = {"per_hour": 20, "of_fleet_per_day": "1", "of_feeder_per_day": "1", "raise_delay_s": 0} | limits
        ann, bob = self.token("disconnect", person="Ann"), self.token("approve", person="Bob")
        asked = (await client.put("/v1/limits", json=given, headers=ann)).json()["approval"]
        done = await client.post(f"/v1/approvals/{asked['id']}/approve", json={"digest": asked["digest"]}, headers=bob)
        assert done.status_code == 200, done.text
        told = await client.post("/v1/forecast", json=self.forecast(), headers=self.token("operate"))
        assert told.status_code == 200, told.text


@asynccontextmanager
async def site_of(
    folder: Path, *, enabled: bool = True, more: str = "", has_key: bool = True
) -> AsyncIterator[tuple[RelaySite, httpx.AsyncClient]]:
    path = folder / "headend.toml"
    if has_key and not (folder / "audit-key.pem").exists():
        make_key_files(folder, "audit-key")
    (folder / "password.txt").write_text("02000000")
    (folder / "ann.txt").write_text("00000017")
    signing = 'signing_key = "file:audit-key.pem"' if has_key else ""
    rows = "\n".join(f"M{number:06},line-1,{number:012},plan,resident,F1" for number in range(1, METERS + 1))
    (folder / "meters.csv").write_text(f"id,line,address,plan,customer_class,feeder\n{rows}\n")
    path.write_text(
        f'meters = "meters.csv"\n[headend]\nname = "site"\nstore = "sqlite:///{folder}/site.db"\n'
        '[[lines]]\nname = "line-1"\nurl = "tcp://far.end:1"\n'
        '[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = ["1-0:1.8.0"]\n'
        f'[secrets]\npassword = "file:password.txt"\n[audit]\n{signing}\n'
        f'[control]\nenabled = {str(enabled).lower()}\npolicy = "{POLICIES / "cn-residential.toml"}"\n'
        f'[control.operators]\nAnn = "file:ann.txt"\n{more}\n'
    )
    config = load_config(path)
    assert config.problems == ()
    store, clock = open_store(with_tables(config.store), config.name), MorningClock()
    head_end = HeadEnd(
        config,
        store,
        clock=clock,
        connect=_nobody,
        execute=inline,
        synchronised=lambda: True,
        random_=random.Random(1),
    )
    registry = CollectorRegistry()
    for collector in head_end.switchgear.collectors():
        registry.register(collector)
    deps = ApiDeps(
        name=config.name,
        store=store,
        tokens=Tokens(store, clock),
        signal=head_end.signal,
        status=head_end,
        writer_health=head_end.writer.health,
        registry=registry,
        clock=clock,
    )
    stop = asyncio.Event()
    app = create_app(deps, routes=tuple(head_end.switchgear.routes()))
    try:
        async with serve(app, "127.0.0.1:0") as listening:
            running = asyncio.create_task(head_end.run(stop))
            async with httpx.AsyncClient(base_url=listening.url, timeout=20) as client:
                site = RelaySite(head_end, clock, deps.tokens, listening.url)
                for _ in range(500):
                    if (await client.get("/v1/stop-switch", headers=site.token("read"))).status_code == 200:
                        break
                    await asyncio.sleep(0.01)
                yield site, client
            stop.set()
            await running
    finally:
        store.close()


async def _nobody(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
    raise LineDown(url.text, "there is nobody")
