"""A town of prepaid accounts in virtual time: a switch and a messenger that watch what is asked, and a program that may die anywhere.

The switch keeps the contract of the command interface: keys are idempotent, an order whose fence is older than a payment's is void, a
payment makes a debt where the supply is off or an open is under way. The rules that must never be broken are checked here, where the
effect happens, and not by asking the program.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, event

from headend.database.engine import connect
from headend.prepayment.accounts.accounts import all_accounts, contact_of
from headend.prepayment.accounts.enrolment import Enrolment, confirm, enrol
from headend.prepayment.books.books import balance_of, post
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.model import Account, Cause, Entry, Payment, Premises, customer_book
from headend.prepayment.notices.mailroom import Mailroom
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import NoticePlan, load_plan
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.till import Till
from headend.prepayment.ports import Delivery, Message, OpenProof, OrderState, ProvenNotice, Supply
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.supply_tables import episodes
from headend.prepayment.storage.tables import metadata
from headend.prepayment.supply.desk import SupplyDesk
from headend.prepayment.supply.facts import Standing
from headend.prepayment.supply.store import touch
from tests.databases import database_url

__all__ = [
    "Crash",
    "Given",
    "Mail",
    "MortalDatabase",
    "Program",
    "Switch",
    "Town",
    "TownClock",
    "account_name",
    "forget_the_disk",
    "meter_of",
]

START = datetime(2026, 3, 2, 0, tzinfo=UTC)  # a Monday, 08:00 in Shanghai
PLAN = load_plan("cn-residential")
WARNINGS = ("first", "second", "final")


class Crash(BaseException):
    """The program dies here; what was durable stays."""


class Town:
    """Time and chance. now: the world's own; the program's clock may be off by `offset`. chance: of dying at one of the many places."""

    def __init__(self, seed: int, *, crashes: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.offset = timedelta(0)
        self.crashes = crashes
        self.interrupt: Callable[[], None] = lambda: None

    def program_now(self) -> datetime:
        return self.now + self.offset

    def place(self) -> None:
        """Somewhere between two effects: here the program may die, or somebody else may come first."""
        if self.crashes and self.random.random() < self.crashes:
            raise Crash
        self.interrupt()


class TownClock:
    def __init__(self, town: Town) -> None:
        self._town = town

    def now(self) -> datetime:
        return self._town.program_now()

    def monotonic(self) -> float:
        return (self._town.now - START).total_seconds()


class Given(Struct, frozen=True):
    """A message that reached a customer."""

    message: Message
    at: datetime
    reference: str


class Mail:
    """Every try may fail, for `unreachable` numbers always. The same key is the same message: it reaches the customer once."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self.given: dict[str, Given] = {}
        self.by_reference: dict[str, Given] = {}
        self.unreachable: set[str] = set()
        self.failing = 0.0
        self.watch: Callable[[Message], None] = lambda _: None

    def send(self, message: Message) -> Delivery:
        self._town.place()
        if message.to in self.unreachable or self._town.random.random() < self.failing:
            return Delivery(reference="", delivered=False, problem="the phone is off")
        if message.key not in self.given:
            self.watch(message)
            given = Given(message, self._town.now, f"sms-{len(self.given)}")
            self.given[message.key] = self.by_reference[given.reference] = given
        self._town.place()
        return Delivery(reference=self.given[message.key].reference, delivered=True)

    def kinds(self, account: str) -> list[str]:
        return [one.message.kind for one in self.given.values() if one.message.account == account]


class _Command(Struct):
    id: str
    meter: str
    proof: OpenProof
    notices: tuple[ProvenNotice, ...]
    due_at: datetime
    expires_at: datetime
    state: str = "scheduled"
    problem: str = ""

    @property
    def is_active(self) -> bool:
        return self.state in ("scheduled", "sent")


class Switch:
    """Meters and the command interface before them. balance: what an account really has at this moment."""

    def __init__(self, town: Town, balance: Callable[[str], int]) -> None:
        self._town = town
        self._balance = balance
        self.contact: dict[str, Supply] = {}
        self.fence: dict[str, int] = {}
        self.paid_at: dict[str, datetime] = {}
        self.commands: dict[str, _Command] = {}
        self.by_key: dict[str, tuple[str, bytes]] = {}
        self.references: dict[str, tuple[object, ...]] = {}
        self.debts: dict[str, datetime] = {}  # by meter: when the close comes
        self.opened: list[tuple[str, datetime]] = []
        self.closed: list[tuple[str, datetime]] = []
        self.refusing = 0.0
        self.away = 0.0
        self.watch_open: Callable[[_Command], None] = lambda _: None

    def order_open(
        self,
        meter: str,
        *,
        key: str,
        reason: str,
        proof: OpenProof,
        notices: Sequence[ProvenNotice],
        expires_at: datetime,
    ) -> OrderState:
        self._reach()
        content = msgspec.json.encode([meter, reason, proof, list(notices), expires_at])
        if key in self.by_key:
            known, before = self.by_key[key]
            assert before == content, f"{key} was used with other content"
            return self.state(known)
        town = self._town
        command = _Command(
            f"c{len(self.commands)}", meter, proof, tuple(notices), town.now + self._delay(240), expires_at
        )
        if proof.fence < self.fence.get(meter, 0):
            command.state, command.problem = "refused", "fence: a payment has raised it"
        elif any(one.is_active and one.meter == meter for one in self.commands.values()):
            command.state, command.problem = "refused", "one-active-command: another is under way"
        elif town.random.random() < self.refusing:
            command.state, command.problem = "refused", "weather: too cold"
        self.commands[command.id] = command
        self.by_key[key] = (command.id, content)
        town.place()
        return self.state(command.id)

    def state(self, command: str) -> OrderState:
        self._reach()
        found = self.commands[command]
        return OrderState(command=command, state=found.state, is_final=not found.is_active, problem=found.problem)

    def payment(
        self, meter: str, *, reference: str, paid_at: datetime, amount_minor: int, currency: str, fence: int
    ) -> None:
        self._reach()
        content = (meter, paid_at, amount_minor, currency, fence)
        reference = f"{reference}@{meter}#{fence}"
        if reference in self.references:
            assert self.references[reference] == content, f"{reference} was told with other content"
            return
        self.references[reference] = content
        self.fence[meter] = max(self.fence.get(meter, 0), fence)
        under_way = False
        for command in self.commands.values():
            if command.meter == meter and command.state == "scheduled":
                command.state, command.problem = "cancelled", "a payment came first"
            under_way = under_way or (command.meter == meter and command.state == "sent")
        if self.contact.get(meter) == "off" or under_way:
            self.debts.setdefault(meter, self._town.now + self._delay(3600))
        self._town.place()

    def supply(self, meter: str) -> Supply:
        self._reach()
        return self.contact.get(meter, "on")

    def pass_time(self) -> None:
        """What is due at the meters happens."""
        now = self._town.now
        for command in self.commands.values():
            if command.state == "scheduled" and now >= command.due_at and command.due_at < command.expires_at:
                command.state = "sent"
                self.watch_open(command)
                self.contact[command.meter] = "off"
                self.opened.append((command.meter, now))
            elif command.state == "scheduled" and now >= command.expires_at:
                command.state = "expired"
            elif command.state == "sent":
                command.state = "verified"
        for meter, due_at in list(self.debts.items()):
            if now >= due_at and not any(one.is_active and one.meter == meter for one in self.commands.values()):
                del self.debts[meter]
                if self.contact.get(meter) == "off":
                    self.contact[meter] = "on"
                    self.closed.append((meter, now))

    def _delay(self, most_s: float) -> timedelta:
        return timedelta(seconds=self._town.random.uniform(0, most_s))

    def _reach(self) -> None:
        self._town.place()
        if self.away and self._town.random.random() < self.away:
            raise SwitchboardUnavailable("it does not answer")


class MortalDatabase(Database):
    """Dies before or after a commit."""

    def __init__(self, engine: Engine, town: Town) -> None:
        super().__init__(engine)
        self._town = town

    @contextmanager
    def writing(self, doing: str) -> Iterator[Connection]:
        with super().writing(doing) as connection:
            yield connection
            if self._town.crashes and self._town.random.random() < self._town.crashes:
                raise Crash
        self._town.place()


def account_name(number: int) -> str:
    return f"A{number:04}"


def meter_of(account: str) -> str:
    return f"M{account[1:]}"


class Program:
    """Prepaid supply over one database, with days that are charged by hand: `use` books, `pay` takes money through the till."""

    def __init__(
        self, folder: Path, town: Town, accounts: int, *, plan: NoticePlan = PLAN, daily_minor: int = 500
    ) -> None:
        self.town, self.plan = town, plan
        self.engine = connect(database_url(folder, "prepayment"))
        event.listen(self.engine, "connect", forget_the_disk)
        metadata.create_all(self.engine)
        self.mail = Mail(town)
        self.switch = Switch(town, self.balance)
        self.daily_minor = dict.fromkeys((account_name(one) for one in range(accounts)), daily_minor)
        self.settled_until: dict[str, date] = {}
        self.receipts: dict[str, Payment] = {}
        self._charges = 0
        calm, town.crashes = town.crashes, 0.0
        self.start()
        with self.database.writing("enrolling") as connection:
            for number in range(accounts):
                self._enrol(connection, account_name(number), f"138{number:08}")
        town.crashes = calm

    def start(self) -> None:
        """Also again, after it has died: nothing but the database is left."""
        self.database = MortalDatabase(self.engine, self.town)
        texts = load_texts(self.plan.zone)
        self.desk = SupplyDesk(self.database, self.switch, plan=self.plan, texts=texts, outlook=self._outlook)
        self.mailroom = Mailroom(
            self.database,
            [Channel("sms", self.mail)],
            plan=self.plan,
            still=self.desk.still,
            settled=touch,
            clock=TownClock(self.town),
        )
        self.till = Till(
            self.database, self.switch, LocalDays(self.plan.zone), TownClock(self.town), reversed_=self.desk.reversed
        )

    def aclose(self) -> None:
        self.engine.dispose()

    def tick(self) -> None:
        """One turn of the program; it may die in it and come back."""
        now = self.town.program_now()
        try:
            self.desk.tick(now)
            self.mailroom.tick(now)
        except Crash:
            self.start()

    def pass_time(self, length: timedelta, *, step: timedelta = timedelta(minutes=10)) -> None:
        end = self.town.now + length
        while self.town.now < end:
            self.town.now = min(end, self.town.now + step)
            self.switch.pass_time()
            self.tick()

    def pay(self, account: str, amount_minor: int, *, receipt: str = "") -> Payment:
        """As a channel does: told again until it is taken. The program may die on the way."""
        payment = Payment(
            channel="app",
            receipt=receipt or f"R{len(self.receipts)}",
            account=account,
            amount_minor=amount_minor,
            currency="CNY",
            paid_at=self.town.program_now(),
            received_at=self.town.program_now(),
        )
        self.receipts[payment.receipt] = payment
        while True:
            try:
                return self.till.take(payment)
            except SwitchboardUnavailable:
                continue
            except Crash:
                self.start()

    def use(self, account: str, minor: int) -> None:
        """A day's charge."""
        self._charges += 1
        entry = Entry(
            from_book=customer_book(account),
            to_book="revenue:energy",
            amount_minor=minor,
            currency="CNY",
            cause=Cause.DAILY_CHARGE,
            key=f"charge:{self._charges}",
            day=self.town.now.date(),
            at=self.town.now,
        )
        with Database(self.engine).writing("charging") as connection:
            post(connection, [entry])
        self.settled_until[account] = self.town.now.astimezone(self.plan.zone).date()

    def balance(self, account: str) -> int:
        with Database(self.engine).reading("looking") as connection:
            return balance_of(connection, account, "CNY")

    def state(self, account: str) -> str:
        with Database(self.engine).reading("looking") as connection:
            found = connection.execute(episodes.select().where(episodes.c.account == account)).first()
            return "well" if found is None else str(found.state)

    def is_reachable(self, account: str) -> bool:
        with Database(self.engine).reading("looking") as connection:
            return contact_of(connection, account).is_reachable

    def accounts(self) -> list[Account]:
        with Database(self.engine).reading("looking") as connection:
            return list(all_accounts(connection))

    def _outlook(
        self, connection: Connection, accounts: Sequence[Account], balances: Mapping[str, int], now: datetime
    ) -> dict[str, Standing]:
        return {
            one.id: Standing(
                days_left=Decimal(balances.get(one.id, 0)) / self.daily_minor[one.id],
                settled_until=self.settled_until.get(one.id),
            )
            for one in accounts
        }

    def _enrol(self, connection: Connection, account: str, phone: str) -> None:
        meter = meter_of(account)
        wanted = Enrolment(
            account=account,
            customer=f"C{account}",
            name="Li Hua",
            identity=f"11010519491231{account[1:]}",
            premises=Premises(id=f"P{account}", address="1 Nanjing Road"),
            meters=(meter,),
            phone=phone,
            currency="CNY",
            tariff="flat",
            reminder_minor=1000,
            language=self.town.random.choice(("zh", "en")),
        )
        enrol(
            connection,
            wanted,
            START - timedelta(days=30),
            START.date(),
            our_meters=(meter,),
            tariffs=("flat",),
            salt=b"salt",
            by="clerk",
        )
        confirm(connection, account, START.date())


def forget_the_disk(connection: Any, _: object) -> None:
    """These deaths are the program's own; the power stays on."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")
