"""Six households with ten weeks of prepaid supply behind them, on a spring morning; real office, simulated feed, meters and phones.

A1001  by bands; well; lets A1003; a day that is not charged; one reversed payment
A1002  flat, English; used up, warned for the last time
A1003  flat; disconnected
A1004  by steps; low; a stretch of two days that was charged as one; a bank agreement
A1005  began yesterday
A1006  waits for its agreement
"""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import pytest
from msgspec import Struct
from prometheus_client import CollectorRegistry
from sqlalchemy import event

from headend.api import ApiDeps, create_app, serve
from headend.api.payment_routes import payment_routes
from headend.api.prepaid import Prepaid
from headend.clock import Clock
from headend.database.engine import connect
from headend.feed.live import FeedSignal
from headend.pages.routes import page_routes
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.books.points_file import PointsRule, Tier
from headend.prepayment.days import LocalDays
from headend.prepayment.model import Payment, Premises
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import load_plan
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.office import Office, Outside, Settings
from headend.prepayment.ports import Debited, DebitOutcome
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.tables import metadata
from headend.store import Tokens, Writer
from headend.store.writer import inline
from tests.headend.api.test_api import Provider
from tests.headend.prepayment.example_tariffs import FLAT, STEPPED_MONTH, TOU
from tests.headend.prepayment.fleet import SHANGHAI, ListFeed, interval
from tests.headend.prepayment.office_world import Outbox
from tests.headend.prepayment.supply_world import Mail, Switch, Town, forget_the_disk
from tests.headend.support import new_store

__all__ = ["MORNING", "TODAY", "Site", "Village", "serving", "site_fixture", "village_fixture", "village_of"]

P = ParamSpec("P")
T = TypeVar("T")

DATABASE = "prepayment.db"
BEGAN = date(2026, 1, 15)
TODAY = date(2026, 3, 24)  # a Tuesday
MORNING = datetime.combine(TODAY, time(10, 30), SHANGHAI).astimezone(UTC)
DAY = timedelta(days=1)
WAITING, STRETCH = (
    date(2026, 3, 20),
    date(2026, 3, 12),
)  # a day that nobody read; one that was read with the day after it
_TARIFFS = {"flat": (FLAT,), "month": (STEPPED_MONTH,), "tou": (TOU,)}
# Points only: no balance depends on them.
_POINTS = PointsRule(
    name="spring",
    currency="CNY",
    applies_from=BEGAN,
    last_day=None,
    channels=("app", "bank"),
    tiers=(Tier(from_minor=10000, points=20),),
)
_FOLK = (
    # account, name, language, tariff, kWh a day, landlord
    ("A1001", "王小明", "zh", "tou", 9.0, ""),
    ("A1002", "Li Hua", "en", "flat", 7.0, ""),
    ("A1003", "陈静", "zh", "flat", 8.0, "C1001"),
    ("A1004", "欧阳建国", "zh", "month", 6.5, ""),
    ("A1005", "张伟", "zh", "flat", 5.0, ""),
    ("A1006", "<b>Ann & Bob</b>", "en", "flat", 5.0, ""),
)
_PAID: dict[str, tuple[tuple[date, str, int], ...]] = {
    "A1001": ((BEGAN, "counter", 30000), (date(2026, 2, 10), "app", 25000), (date(2026, 3, 5), "bank", 26000)),
    "A1002": ((BEGAN, "app", 10000), (date(2026, 2, 12), "collection-point", 13400)),
    "A1003": ((BEGAN, "counter", 21000),),
    "A1004": ((BEGAN, "app", 15000), (date(2026, 2, 20), "agent", 15600)),
    "A1005": ((date(2026, 3, 22), "counter", 5000),),
}


class VillageClock:
    """Its monotonic seconds begin before the village does: they are never negative, as on a real machine."""

    def __init__(self, town: Town) -> None:
        self._town = town

    def now(self) -> datetime:
        return self._town.now

    def monotonic(self) -> float:
        return (self._town.now - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds()


class _PoorBank:
    def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
        return Debited(DebitOutcome.REFUSED, "余额不足")


class _Past(Struct, frozen=True):
    """What ten weeks left behind: database, feed, and what the meters and the phones know."""

    database: bytes
    events: list[bytes]
    switch: dict[str, Any]
    mail: dict[str, Any]


@cache
def _past() -> _Past:
    """Lived once in a process."""
    with TemporaryDirectory() as folder:
        village = Village(Path(folder), past=None)
        village.aclose()
        return _Past(
            (Path(folder) / DATABASE).read_bytes(), village.feed.events, _known(village.switch), _known(village.mail)
        )


def village_of(folder: Path) -> "Village":
    """On MORNING."""
    return Village(folder, past=_past())


class Village:
    """`supply` of the pages: office, zone, ask. past: None for living it."""

    zone = SHANGHAI

    def __init__(self, folder: Path, *, past: _Past | None) -> None:
        self.random = random.Random(7)
        self.town = Town(7)
        self.town.now = datetime.combine(BEGAN, time(8), SHANGHAI).astimezone(UTC)
        self.clock = VillageClock(self.town)
        if past is not None:
            (folder / DATABASE).write_bytes(past.database)
        self.engine = connect(f"sqlite:///{folder}/{DATABASE}")
        event.listen(self.engine, "connect", forget_the_disk)
        metadata.create_all(self.engine)
        self.feed, self.mail = ListFeed(), Mail(self.town)
        self.switch = Switch(self.town, lambda _: 0)
        plan = load_plan("cn-residential")
        self.office = Office(
            Database(self.engine),
            Settings(plan=plan, texts=load_texts(plan.zone), tariffs=_TARIFFS, salt=b"village", rule=_POINTS),
            Outside(
                feed=self.feed,
                switch=self.switch,
                outbox=Outbox(),
                channels=[Channel("sms", self.mail)],
                bank=_PoorBank(),
                our_meters=lambda: {_meter(one[0]) for one in _FOLK} | {"M9999"},
            ),
            days=LocalDays(SHANGHAI),
            clock=self.clock,
        )
        self._duties = self.office.duties()
        self._desks = ThreadPoolExecutor(4, thread_name_prefix="village-desk")
        if past is None:
            self._live()
        else:
            self.town.now = MORNING
            self.feed.events = list(past.events)
            self.switch.__dict__.update(deepcopy(past.switch))
            self.mail.__dict__.update(deepcopy(past.mail))

    def aclose(self) -> None:
        self._desks.shutdown(wait=True)
        with self.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()

    async def ask(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._desks, partial(work, *args, **kwargs))

    async def pay(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.ask(work, *args, **kwargs)

    def turn(self, rounds: int = 4) -> None:
        """Of the duties."""
        for _ in range(rounds):
            self.switch.pass_time()
            for duty in self._duties:
                duty.tick(self.town.now)

    def pays(self, account: str, channel: str, amount_minor: int) -> Payment:
        now = self.town.now
        return self.office.take(
            Payment(
                channel=channel,
                receipt=f"{channel[0].upper()}{now:%y%m%d}{account[1:]}",
                account=account,
                amount_minor=amount_minor,
                currency="CNY",
                paid_at=now,
                received_at=now,
            )
        )

    # ---------------------------------------------------------------------------------------- ten weeks

    def _live(self) -> None:
        for account, *_ in _FOLK[:4]:
            self._enrol(account)
            for on, channel, amount in _PAID[account]:
                if on == BEGAN:
                    self.pays(account, channel, amount)
        self.turn(2)
        day = BEGAN
        while day <= TODAY:
            self._at(day, 8)
            if day == TODAY - 2 * DAY:
                self._enrol("A1005")
            if day == TODAY - DAY:
                self._enrol("A1006", confirmed=False)
            for account, paid in _PAID.items():
                for on, channel, amount in paid:
                    if on == day > BEGAN:
                        self.pays(account, channel, amount)
            if day > BEGAN:
                self._reads(day - DAY)
            if day == date(2026, 3, 8):
                taken = self.pays("A1001", "collection-point", 5000)
                self.office.reverse(taken.channel, taken.receipt, reason="重复交费", by="clerk")
            # Notices begin in March: before it there is nothing for the desk to find.
            for hour in (9, 11, 14) if day >= date(2026, 2, 24) else (9,) if day.day <= 2 else ():
                self._at(day, hour)
                if self.town.now < MORNING:
                    self.turn(2)
            day += DAY
        self.town.now = MORNING
        self.turn()

    def _at(self, day: date, hour: int) -> None:
        self.town.now = datetime.combine(day, time(hour), SHANGHAI).astimezone(UTC)

    def enrolment(
        self,
        account: str,
        *,
        meter: str,
        name: str = "赵敏",
        language: str = "zh",
        tariff: str = "flat",
        landlord: str = "",
    ) -> Enrolment:
        return Enrolment(
            account=account,
            customer=f"C{account[1:]}",
            name=name,
            identity=f"11010519491231{account[1:]}",
            premises=Premises(id=f"P{account[1:]}", address=f"洛阳市涧西区南昌路{account[3:]}号院2单元301"),
            meters=(meter,),
            phone=f"1380000{account[1:]}",
            currency="CNY",
            tariff=tariff,
            reminder_minor=2000,
            topup_minor=5000 if account == "A1004" else 0,
            bank="6217-0001" if account == "A1004" else "",
            language=language,
            landlord=landlord,
        )

    def tell_zero(self, meter: str) -> None:
        """Nothing was used today."""
        self.feed.tell(interval(meter, self.town.now.astimezone(SHANGHAI).date(), "0.00"))

    def _enrol(self, account: str, *, confirmed: bool = True) -> None:
        _, name, language, tariff, _, landlord = next(one for one in _FOLK if one[0] == account)
        wanted = self.enrolment(
            account, meter=_meter(account), name=name, language=language, tariff=tariff, landlord=landlord
        )
        self.office.enrol(wanted, by="clerk")
        if confirmed:
            self.office.confirm(account, by="clerk")

    def _reads(self, day: date) -> None:
        for account, _, _, tariff, daily, _ in _FOLK:
            meter, since = _meter(account), TODAY - 2 * DAY if account == "A1005" else BEGAN
            if day < since or account == "A1006":
                continue
            if self.switch.contact.get(meter) == "off":
                self.feed.tell(interval(meter, day, "0.00"))
                continue
            kwh = Decimal(round(daily * self.random.uniform(0.7, 1.3) + (2 if day.weekday() >= 5 else 0), 2)).quantize(
                Decimal("0.01")
            )
            if (account, day) == ("A1001", WAITING):
                for register in range(1, 5):
                    self.feed.tell(interval(meter, day, None, register=register))
            elif (account, day) == ("A1004", STRETCH):
                self.feed.tell(interval(meter, day, None))
            elif (account, day) == ("A1004", STRETCH + DAY):
                self.feed.tell(interval(meter, day, None, reason="missing-start", span=(STRETCH, 2 * kwh)))
            elif tariff == "tou":
                for register, share in enumerate(("0.1", "0.35", "0.3", "0.25"), 1):
                    self.feed.tell(interval(meter, day, kwh * Decimal(share), register=register))
            else:
                self.feed.tell(interval(meter, day, kwh))


class Served(Prepaid, Protocol):
    """What the pages stand on, and its clock."""

    @property
    def clock(self) -> Clock: ...


class Site:
    """The village behind the HTTP interface, on a free port of loopback. cashier, office, reader, customers: tokens in plain text."""

    def __init__(self, folder: Path, village: Served) -> None:
        self.village = village
        self.store = new_store(folder)
        clock = village.clock
        self.tokens = Tokens(self.store, clock)
        self.signal = FeedSignal(subscribers_max=10)
        writer = Writer(self.store, inline, clock=clock, on_commit=self.signal.advance)
        deps = ApiDeps(
            name="village",
            store=self.store,
            tokens=self.tokens,
            signal=self.signal,
            status=Provider(),
            writer_health=writer.health,
            registry=CollectorRegistry(),
            clock=clock,
        )
        self.app = create_app(deps, routes=(*page_routes(village, self.tokens, clock), *payment_routes(village)))
        self.url = ""
        self.cashier = self.tokens.create_token("till-1", ["cashier"])
        self.office = self.tokens.create_token("office", ["admin"])
        self.reader = self.tokens.create_token("billing", ["read"])
        self.customers = {
            one[0]: self.tokens.create_token(f"customer {one[0]}", ["customer"], account=one[0]) for one in _FOLK
        }

    def aclose(self) -> None:
        self.store.close()


@contextmanager
def serving(folder: Path, village: Served) -> Iterator[Site]:
    """In a thread with an event loop of its own, so that whoever drives a browser may block."""
    site = Site(folder, village)
    ready: Future[str] = Future()
    stopping: list[Callable[[], Any]] = []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            async with serve(site.app, "127.0.0.1:0") as listening:
                ready.set_result(listening.url)
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="village-http")
    thread.start()
    try:
        site.url = ready.result(timeout=20)
        yield site
    finally:
        for stop in stopping:
            stop()
        thread.join(20)
        site.aclose()


def village_fixture(scope: Literal["module", "package"]) -> Callable[[pytest.TempPathFactory], Iterator[Village]]:
    @pytest.fixture(scope=scope)
    def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
        lived = village_of(tmp_path_factory.mktemp("village"))
        yield lived
        lived.aclose()

    return village


def site_fixture(scope: Literal["module", "package"]) -> Callable[[pytest.TempPathFactory, Village], Iterator[Site]]:
    @pytest.fixture(scope=scope)
    def site(tmp_path_factory: pytest.TempPathFactory, village: Village) -> Iterator[Site]:
        with serving(tmp_path_factory.mktemp("site"), village) as running:
            yield running

    return site


def _known(part: Switch | Mail) -> dict[str, Any]:
    """All but who told it."""
    return {name: known for name, known in part.__dict__.items() if isinstance(known, dict | list | set)}


def _meter(account: str) -> str:
    return f"M{account[1:]}"
