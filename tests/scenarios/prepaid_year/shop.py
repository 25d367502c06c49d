"""A prepaid supply small enough to be told about: a few homes, a clock that is set by hand, and everything outside as in the year.

It can be copied at any moment, with its database, so that the same thing may happen to it in many ways.
"""

import copy
import sqlite3
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.books.books import check_books
from headend.prepayment.books.points_file import RULES, PointsRule, load_points_rule
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.model import Payment, Premises
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import NoticePlan, load_plan
from headend.prepayment.notices.texts import NoticeTexts, load_texts
from headend.prepayment.office.office import Office, Outside, Settings
from headend.prepayment.office.service import Duty
from headend.prepayment.storage.database import Database
from headend.prepayment.tariffs.tariff import Tariff
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariffs
from tests.scenarios.prepaid_year.meters import ZONE, YearFeed
from tests.scenarios.prepaid_year.outside import (
    BankDesk,
    Crash,
    MortalDatabase,
    NoEvents,
    Phones,
    Switch,
    Town,
    an_engine,
)

__all__ = ["Shop"]

DAY = timedelta(days=1)
TURNS = ((8, 10), (10, 50), (12, 30))  # local times of a day at which something can be due
FILES = (*sorted((Path(__file__).parent / "tariffs").glob("*.toml")), *sorted(TARIFFS.glob("*.toml")))


class Shop:
    """start: local midnight of that day. Nothing fails by chance here."""

    def __init__(
        self, folder: Path, *, start: date, zone: ZoneInfo = ZONE, plan: NoticePlan | None = None, seed: int = 1
    ) -> None:
        self.folder = folder
        self.zone = zone
        self.plan = load_plan("cn-residential") if plan is None else plan
        self.town = Town(seed, self.at(start))
        self.feed = YearFeed()
        self.switch, self.phones = Switch(self.town, self.feed), Phones(self.town)
        self.bank, self.events = BankDesk(self.town), NoEvents()
        self.switch.refusing = self.switch.away = self.switch.sleeping = self.phones.failing = self.bank.silent = (
            self.bank.failing
        ) = 0.0
        self.meters: set[str] = {f"M{number}" for number in range(1, 10)}
        self.start()

    def start(self) -> None:
        """Also again, after it has died."""
        folder = self.folder
        if not (folder / "prepayment.db").exists() or not hasattr(self, "engine"):
            folder.mkdir(exist_ok=True, parents=True)
            self.engine = an_engine(folder)
        self.database = MortalDatabase(self.engine, self.town)
        outside = Outside(
            feed=self.feed,
            switch=self.switch,
            outbox=self.events,
            channels=[Channel("sms", self.phones)],
            bank=self.bank,
            our_meters=lambda: self.meters,
        )
        self.office = Office(
            self.database, _settings(self.plan), outside, days=LocalDays(self.zone), clock=self.town.clock()
        )
        self.duties = self.office.duties()
        self._asked: dict[str, datetime] = {}  # duties that have their turn only now and then

    def copied(self, folder: Path) -> "Shop":
        """The same shop, in the same moment, with a database of its own."""
        folder.mkdir(parents=True)
        other = Shop.__new__(Shop)
        other.folder, other.zone, other.plan = folder, self.zone, self.plan
        parts = (self.town, self.feed, self.switch, self.phones, self.bank, self.events, self.meters)
        other.town, other.feed, other.switch, other.phones, other.bank, other.events, other.meters = copy.deepcopy(
            parts
        )
        source, target = (sqlite3.connect(one / "prepayment.db") for one in (self.folder, folder))
        source.backup(target)
        source.close()
        target.close()
        other.start()
        return other

    def aclose(self) -> None:
        self.engine.dispose()

    # ---------------------------------------------------------------------------------------- time

    def at(self, day: date, hour: int = 0, minute: int = 0) -> datetime:
        return datetime.combine(day, time(hour, minute), self.zone).astimezone(UTC)

    @property
    def today(self) -> date:
        return self.town.now.astimezone(self.zone).date()

    def run(self) -> None:
        """All duties, until none has anything to do. A death goes on to the caller."""
        for _ in range(30):
            done = 0
            for duty in self.duties:
                if not self._is_due(duty):
                    continue
                try:
                    while piece := duty.tick(self.town.now):
                        done += piece if duty.name in ("bank", "desk", "mailroom") else 0
                except SwitchboardUnavailable:
                    continue
            if not done:
                return

    def _is_due(self, duty: Duty) -> bool:
        """As the service asks them: no sooner than `every_s` after the last time; a clock that was set back is no reason to wait."""
        now, asked = self.town.now, self._asked.get(duty.name)
        if duty.every_s and asked is not None and timedelta(0) <= now - asked < timedelta(seconds=duty.every_s):
            return False
        self._asked[duty.name] = now
        return True

    def run_or_die(self) -> None:
        try:
            self.run()
        except Crash:
            self.town.dies_at = None
            self.start()
            self.run()

    def pass_time(self, until: datetime | timedelta, *, step: timedelta = timedelta(minutes=30)) -> None:
        end = until if isinstance(until, datetime) else self.town.now + until
        while self.town.now < end:
            due = self.switch.next_at()
            self.town.now = max(self.town.now, min(end, self.town.now + step, end if due is None else due))
            self.switch.pass_time()
            self.run_or_die()

    # ---------------------------------------------------------------------------------------- what happens

    def open(
        self,
        account: str = "A1",
        meters: Sequence[str] = ("M1",),
        *,
        tariff: str = "plain",
        reminder_minor: int = 1000,
        topup_minor: int = 0,
        bank: str = "",
        phone: str = "",
        landlord: str = "",
    ) -> None:
        number = account[1:]
        wanted = Enrolment(
            account=account,
            customer=f"C{number}",
            name="Li Hua",
            identity=f"11010519491231{number:0>4}",
            premises=Premises(id=f"P{account}", address="1 Nanjing Road"),
            meters=tuple(meters),
            phone=phone or f"1380000{number:0>4}",
            currency="CNY",
            tariff=tariff,
            reminder_minor=reminder_minor,
            topup_minor=topup_minor,
            bank=bank,
            language="en",
            landlord=landlord,
        )
        self.office.enrol(wanted, by="clerk")
        self.office.confirm(account, by="clerk")

    def tell(
        self,
        day: date,
        kwh: Decimal | str | None,
        *,
        meter: str = "M1",
        register: int = 0,
        revision: int = 0,
        span: tuple[date, str] | None = None,
        reason: str = "missing-boundary",
    ) -> None:
        """What the feed tells of a meter's local day."""
        start, end = self.at(day), self.at(day + DAY)
        data: dict[str, object] = {
            "meter": meter, "obis": f"1-0:1.8.{register}", "start": _iso(start), "end": _iso(end), "period_s": 86400,
            "amount": None if kwh is None else str(kwh), "unit": "kWh", "quality": ["measured"], "revision": revision,
        }  # fmt: skip
        if kwh is None:
            data |= {"reason": reason, "quality": ["missing"], "evidence": {"end": "silent"}}
        if span is not None:
            data["span"] = {"start": _iso(self.at(span[0])), "end": _iso(end), "amount": span[1]}
        self.feed.tell("headend.interval.v1", meter, data)

    def use(self, days: int, kwh: str, *, meter: str = "M1") -> None:
        """So many days pass; each one's use is known on the morning after it."""
        for _ in range(days):
            day = self.today
            for hour, minute in TURNS:
                if self.town.now < self.at(day, hour, minute):
                    self.pass_time(self.at(day, hour, minute), step=DAY)
            self.town.now = self.at(day + DAY, 0, 10)
            self.tell(day, kwh, meter=meter)
            self.pass_time(timedelta(minutes=20), step=DAY)

    def payment(
        self,
        amount_minor: int,
        *,
        account: str = "A1",
        channel: str = "app",
        receipt: str = "R1",
        paid_at: datetime | None = None,
        currency: str = "CNY",
    ) -> Payment:
        now = self.town.now
        return Payment(
            channel=channel, receipt=receipt, account=account, amount_minor=amount_minor, currency=currency,
            paid_at=now if paid_at is None else paid_at, received_at=now,
        )  # fmt: skip

    def balance(self, account: str = "A1") -> int:
        return self.office.standing(account).available_minor

    def messages(self, account: str = "A1") -> list[str]:
        """Kinds that reached the customer, in order."""
        return [one.message.kind for one in self.phones.by_reference.values() if one.message.account == account]

    def texts(self, kind: str, account: str = "A1") -> list[str]:
        given = self.phones.by_reference.values()
        return [one.message.text for one in given if one.message.kind == kind and one.message.account == account]

    def is_dark(self, meter: str = "M1") -> bool:
        return meter in self.switch.off_since

    def books(self) -> list[str]:
        with Database(self.engine).reading("checking") as connection:
            return check_books(connection)


@cache
def _files() -> dict[str, tuple[Tariff, ...]]:
    return load_tariffs(FILES)


@cache
def _texts(zone: ZoneInfo) -> NoticeTexts:
    return load_texts(zone)


@cache
def _rule() -> PointsRule:
    return load_points_rule(RULES / "top-up-bonus.toml")


def _settings(plan: NoticePlan) -> Settings:
    return Settings(
        plan=plan,
        texts=_texts(plan.zone),
        tariffs=_files(),
        rule=_rule(),
        salt=b"a shop",
    )


def _iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
