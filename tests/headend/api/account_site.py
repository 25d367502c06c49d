"""Prepaid accounts behind the real HTTP interface: a real office on SQLite, and a switch and a messenger that watch what is asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from zoneinfo import ZoneInfo

import httpx
from prometheus_client import CollectorRegistry

from headend.api import ApiDeps, create_app, serve
from headend.api.account_changes import account_changes
from headend.api.account_routes import account_routes
from headend.api.deps import Health, LineStatus, MeterStatus
from headend.api.payment_routes import payment_routes
from headend.api.tariff_routes import tariff_routes
from headend.feed.live import FeedSignal
from headend.prepayment.books.points_file import PointsRule, Tier
from headend.prepayment.days import LocalDays
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.office import Office, Outside, Settings
from headend.prepayment.storage.database import Database, open_database
from headend.store.tokens import Tokens
from headend.store.writer import Writer, inline
from tests.databases import database_url
from tests.headend.prepayment.books.test_autopay import BankBook
from tests.headend.prepayment.example_tariffs import FLAT, STEPPED_YEAR
from tests.headend.prepayment.fleet import ListFeed, interval
from tests.headend.prepayment.office_world import Outbox
from tests.headend.prepayment.supply_world import PLAN, Mail, Switch, Town, TownClock
from tests.headend.support import new_store, with_account_tables

__all__ = ["METERS", "SPRING", "TODAY", "AccountSite", "enrolled", "site_of"]

P = ParamSpec("P")
T = TypeVar("T")

# A hundred yuan or more earn twenty points and fifty fen.
SPRING = PointsRule(
    name="spring",
    currency="CNY",
    applies_from=date(2026, 1, 1),
    last_day=None,
    channels=("app", "counter"),
    tiers=(Tier(from_minor=10000, points=20, bonus_minor=50),),
)
METERS = tuple(f"M{number}" for number in range(1, 10))
TODAY = date(2026, 3, 2)


class _NoLines:
    def lines(self) -> Sequence[LineStatus]:
        return []

    def meters(self) -> dict[str, MeterStatus]:
        return {}

    def health(self) -> Health:
        return Health()


class _Supply:
    """As `PrepaidSupply`, with the outside of a test."""

    def __init__(self, office: Office, zone: ZoneInfo) -> None:
        self.office, self.zone = office, zone
        self.threads = ThreadPoolExecutor(4)

    async def ask(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, partial(work, *args, **kwargs))

    async def pay(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.ask(work, *args, **kwargs)


def enrolled(account: str = "A1", meter: str = "M1", **more: Any) -> dict[str, Any]:
    """An enrolment that is all right, as JSON."""
    made: dict[str, Any] = {
        "account": account,
        "customer": f"C-{account}",
        "name": "Wang Fang",
        "identity": f"41030319800101{account}",
        "premises": f"P-{account}",
        "address": "1 Jian She Lu",
        "meters": [meter],
        "phone": "138 1234 5678",
        "currency": "CNY",
        "tariff": "flat",
        "reminder_minor": 2000,
    }
    return made | more


class AccountSite:
    """app: the HTTP interface. pass_time: the world goes on, and every duty has its turn."""

    def __init__(self, folder: Path, *, rule: PointsRule | None = None) -> None:
        self.town = Town(1)
        self.clock = TownClock(self.town)
        self.store = new_store(folder)
        self.tokens = Tokens(self.store, self.clock)
        self.database: Database = open_database(with_account_tables(database_url(folder, "prepayment")))
        self.feed = ListFeed()
        self.switch = Switch(self.town, lambda account: self.supply.office.standing(account).available_minor)
        self.mail = Mail(self.town)
        office = Office(
            self.database,
            Settings(
                plan=PLAN,
                texts=load_texts(PLAN.zone),
                tariffs={"flat": (FLAT,), "year": (STEPPED_YEAR,)},
                salt=b"s" * 16,
                rule=rule,
            ),
            Outside(
                feed=self.feed,
                switch=self.switch,
                outbox=Outbox(),
                channels=[Channel("sms", self.mail)],
                bank=BankBook(),
                our_meters=lambda: METERS,
            ),
            days=LocalDays(PLAN.zone),
            clock=self.clock,
        )
        self.supply = _Supply(office, PLAN.zone)
        writer = Writer(self.store, inline, clock=self.clock)
        deps = ApiDeps(
            name="site",
            store=self.store,
            tokens=self.tokens,
            signal=FeedSignal(),
            status=_NoLines(),
            writer_health=writer.health,
            registry=CollectorRegistry(),
            clock=self.clock,
        )
        self.app = create_app(
            deps,
            routes=(
                *account_routes(self.supply),
                *account_changes(self.supply),
                *payment_routes(self.supply),
                *tariff_routes(self.supply),
            ),
        )
        self._headers: dict[tuple[str, ...], dict[str, str]] = {}

    def token(self, *roles: str, account: str = "") -> dict[str, str]:
        """The same headers each time it is asked for."""
        key = (*roles, account)
        if key not in self._headers:
            plain = self.tokens.create_token(f"token {len(self._headers)}", roles, account=account)
            self._headers[key] = {"Authorization": f"Bearer {plain}"}
        return self._headers[key]

    def payment(self, receipt: str = "R1", **more: Any) -> dict[str, Any]:
        """Ten yuan for A1, as JSON."""
        made: dict[str, Any] = {
            "channel": "app",
            "receipt": receipt,
            "account": "A1",
            "amount_minor": 1000,
            "currency": "CNY",
            "paid_at": self.town.now.isoformat(),
        }
        return made | more

    async def enrol(self, client: httpx.AsyncClient, account: str = "A1", meter: str = "M1", **more: Any) -> None:
        """An account whose agreement is confirmed."""
        admin = self.token("admin")
        made = await client.post("/v1/accounts", json=enrolled(account, meter, **more), headers=admin)
        assert made.status_code == 201, made.text
        done = await client.post(f"/v1/accounts/{account}/confirm", headers=admin)
        assert done.status_code == 200, done.text

    def use(self, meter: str, day: date, kwh: str) -> None:
        self.feed.tell(interval(meter, day, kwh))

    def pass_time(self, length: timedelta, *, step: timedelta = timedelta(hours=1)) -> None:
        end = self.town.now + length
        duties = self.supply.office.duties()
        while self.town.now < end:
            self.town.now = min(end, self.town.now + step)
            self.switch.pass_time()
            for duty in duties:
                duty.tick(self.town.now)

    def aclose(self) -> None:
        self.supply.threads.shutdown()
        self.database.dispose()
        self.store.close()


@asynccontextmanager
async def site_of(
    folder: Path, *, listens: bool = False, rule: PointsRule | None = None
) -> AsyncIterator[tuple[AccountSite, httpx.AsyncClient]]:
    """listens: on a port, for what is another process or thread. rule: what top-ups earn."""
    site = AccountSite(folder, rule=rule)
    try:
        if listens:
            async with (
                serve(site.app, "127.0.0.1:0") as listening,
                httpx.AsyncClient(base_url=listening.url, timeout=20) as client,
            ):
                yield site, client
        else:
            asgi: Any = site.app  # the same interface, in other words
            transport = httpx.ASGITransport(app=asgi)
            async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
                yield site, client
    finally:
        site.aclose()
