"""A whole prepaid supply behind its office in virtual time: a feed that is told, a switch and phones that obey, a bank, a program that
may die. Meters count `daily_kwh`, and each day's interval comes ten minutes after midnight."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from msgspec.structs import replace
from sqlalchemy import event

from headend.database.engine import connect
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.books.books import balance_of, check_books
from headend.prepayment.books.points_file import PointsRule
from headend.prepayment.days import LocalDays
from headend.prepayment.model import Payment, Premises
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import NoticePlan, load_plan, parse_plan
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.office import Office, Outside, Settings
from headend.prepayment.office.service import Duty
from headend.prepayment.ports import Bank
from headend.prepayment.storage.tables import metadata
from headend.prepayment.supply.store import load
from tests.databases import database_url
from tests.headend.prepayment.example_tariffs import FLAT, STEPPED_TOU, TOU
from tests.headend.prepayment.fleet import SHANGHAI, ListFeed, interval
from tests.headend.prepayment.supply_world import Mail, MortalDatabase, Switch, Town, TownClock, forget_the_disk

__all__ = ["DAY", "HOUR", "PLAN", "TRIAL", "A", "M", "OfficeWorld", "Outbox"]

A, M = "A0001", "M0001"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_SLOW = load_plan("cn-residential")
# As the plan of the program, with shorter waits and for a smaller debt: a story of three days and not of weeks.
PLAN = replace(_SLOW, pay_within=DAY, low=replace(_SLOW.low, before=DAY), owed_more_than_minor=0)
TRIAL = parse_plan(
    """
id = "trial"
version = "1"
timezone = "Asia/Shanghai"
trial = true
count_today = true
quiet = "none"
rest = "1s"
pay_within = "20s"
order_valid = "30s"
order_pause = "5s"
again = "30s"
back_within = "10m"
pause_first = "2s"
order_hours = { start = "00:00", end = "00:00" }
low = { name = "first", before = "30s", valid = "1d" }
used_up = { name = "second", before = "20s", after_previous = "10s", valid = "1d" }
last_warning = { name = "final", before = "10s", after_previous = "10s", valid = "1h" }
""",
    "trial",
)


class Outbox:
    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes]] = []

    def offer(self, number: int, type_: str, subject: str, at: datetime, data: bytes) -> None:
        self.taken.append((number, data))


class OfficeWorld:
    """office: made anew by `start`, as after a crash; nothing but the database is left then."""

    def __init__(
        self, folder: Path, *, plan: NoticePlan = PLAN, rule: PointsRule | None = None, bank: Bank | None = None
    ) -> None:
        self.town, self.feed, self.outbox = Town(1), ListFeed(), Outbox()
        self.mail = Mail(self.town)
        self.engine = connect(database_url(folder, "prepayment"))
        event.listen(self.engine, "connect", forget_the_disk)
        metadata.create_all(self.engine)
        self.database = MortalDatabase(self.engine, self.town)
        self.switch = Switch(self.town, self.balance)
        self.days = LocalDays(SHANGHAI)
        self.meters = {f"M{number:04}" for number in range(1, 10)}
        self.daily_kwh: dict[str, Decimal | None] = {}
        self.settings = Settings(
            plan=plan,
            texts=load_texts(SHANGHAI),
            tariffs={
                "flat": (FLAT,),
                "tou": (TOU,),
                "both": (STEPPED_TOU,),
                "yen": (replace(FLAT, name="yen", currency="JPY"),),
            },
            rule=rule,
            salt=b"salt",
        )
        self.outside = Outside(
            feed=self.feed,
            switch=self.switch,
            outbox=self.outbox,
            channels=[Channel("sms", self.mail)],
            bank=bank,
            our_meters=lambda: self.meters,
        )
        self._receipts = 0
        self.start()

    def start(self) -> None:
        self.office = Office(self.database, self.settings, self.outside, days=self.days, clock=TownClock(self.town))
        self.duties: Sequence[Duty] = self.office.duties()
        self._next: dict[str, datetime] = {}

    def aclose(self) -> None:
        with self.database.reading("checking") as connection:
            problems = check_books(connection)
        self.engine.dispose()
        assert problems == []

    # -------------------------------------------------------------------------------------------- people

    def enrolment(self, account: str = A, meter: str = M, **more: object) -> Enrolment:
        wanted = Enrolment(
            account=account,
            customer=f"C{account}",
            name="Li Hua",
            identity=f"11010519491231{account[1:]}",
            premises=Premises(id=f"P{account}", address="1 Nanjing Road"),
            meters=(meter,),
            phone=f"138{account[1:]:0>8}",
            currency="CNY",
            tariff="flat",
            reminder_minor=1000,
            language="en",
        )
        return replace(wanted, **more)

    def open(self, account: str = A, meter: str = M, *, kwh: str | None = "10", **more: object) -> None:
        """Enrolled and agreed; kwh: of each day, None where the meter is not heard."""
        self.office.enrol(self.enrolment(account, meter, **more), by="clerk")
        self.office.confirm(account, by="clerk")
        self.daily_kwh[meter] = None if kwh is None else Decimal(kwh)

    def payment(self, amount_minor: int, account: str = A, **more: object) -> Payment:
        self._receipts += 1
        now = self.town.program_now()
        paid = Payment(
            channel="app",
            receipt=f"R{self._receipts}",
            account=account,
            amount_minor=amount_minor,
            currency="CNY",
            paid_at=now,
            received_at=now,
        )
        return replace(paid, **more)

    def pay(self, amount_minor: int, account: str = A, **more: object) -> Payment:
        return self.office.take(self.payment(amount_minor, account, **more))

    # -------------------------------------------------------------------------------------------- time

    @property
    def today(self) -> date:
        return self.days.today(self.town.now)

    def tick(self) -> None:
        """Every duty has its turn, as the service gives it to them."""
        now = self.town.program_now()
        for duty in self.duties:
            if now >= self._next.get(duty.name, now):
                self._next[duty.name] = now + timedelta(seconds=duty.every_s)
                duty.tick(now)

    def pass_time(self, length: timedelta, *, step: timedelta = HOUR) -> None:
        end = self.town.now + length
        while self.town.now < end:
            before, self.town.now = self.today, min(end, self.town.now + step)
            for place in range((self.today - before).days):
                self.tell_day(before + place * DAY)
            self.switch.pass_time()
            self.tick()

    def tell_day(self, day: date) -> None:
        for meter, kwh in self.daily_kwh.items():
            if kwh is not None:
                self.feed.tell(interval(meter, day, kwh))

    def tell_minutes(self, kwh: str, *, minutes: int = 1, meter: str = M) -> None:
        """An interval that ends now."""
        length = timedelta(minutes=minutes)
        self.feed.tell(interval(meter, self.today, kwh, start=self.town.now - length, length=length))

    def until(self, state: str, account: str = A, *, days_max: int = 20, step: timedelta = HOUR) -> None:
        end = self.town.now + days_max * DAY
        while self.town.now < end:
            if self.state(account) == state:
                return
            self.pass_time(step, step=step)
        raise AssertionError(f"{self.state(account)}: {self.office.why_not(account)}")

    # -------------------------------------------------------------------------------------------- looking

    def state(self, account: str = A) -> str:
        with self.database.reading("looking") as connection:
            return load(connection, account, self.town.now).episode.state.value

    def balance(self, account: str = A) -> int:
        with self.database.reading("looking") as connection:
            return balance_of(connection, account, "CNY")

    def kinds(self, account: str = A) -> list[str]:
        """Of the messages, oldest first."""
        return [one.kind for one in self.office.letters(account)][::-1]
