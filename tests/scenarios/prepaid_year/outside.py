"""What prepaid supply meets outside: time and chance, the command interface with its meters, the phones, the bank, and sudden death.

The switch keeps the contract of the command interface: a key is one order, an order whose fence is older than a payment's is void, a
payment makes a debt where the supply is off or an open is under way. What happens at it and at the phones is watched by the checker.
"""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, event, text

from headend.database.engine import connect
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.ports import (
    Debited,
    DebitOutcome,
    Delivery,
    Message,
    OpenProof,
    OrderState,
    ProvenNotice,
    Supply,
)
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.tables import metadata
from tests.databases import database_url
from tests.headend.prepayment.supply_world import Crash, Given, forget_the_disk
from tests.scenarios.prepaid_year.meters import YearFeed

__all__ = [
    "BankDesk",
    "Command",
    "Crash",
    "Given",
    "MortalDatabase",
    "NoEvents",
    "Phones",
    "Switch",
    "Town",
    "an_engine",
]

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Town:
    """now: the world's time. crashes: chance to die at each of the many places between two effects; dies_at: at just that one.
    places: how many there were."""

    def __init__(self, seed: int, now: datetime) -> None:
        self.random = random.Random(seed)
        self.fate = random.Random(seed + 1)  # apart, so that a world with other deaths is the same world
        self.now = now
        self.crashes = 0.0
        self.deaths = 0
        self.places = 0
        self.dies_at: int | None = None

    def place(self) -> None:
        self.places += 1
        if self.places == self.dies_at:
            raise Crash
        if self.crashes and self.fate.random() < self.crashes:
            self.deaths += 1
            raise Crash

    def clock(self) -> "TownClock":
        return TownClock(self)


class TownClock:
    def __init__(self, town: Town) -> None:
        self._town = town

    def now(self) -> datetime:
        return self._town.now

    def monotonic(self) -> float:
        return (self._town.now - EPOCH).total_seconds()


class MortalDatabase(Database):
    """Dies before or after a commit. At each one all books together are worth nothing: the sum is taken here."""

    def __init__(self, engine: Engine, town: Town) -> None:
        super().__init__(engine)
        self._town = town
        self.commits = 0

    @contextmanager
    def writing(self, doing: str) -> Iterator[Connection]:
        with super().writing(doing) as connection:
            yield connection
            for currency, total in connection.execute(_SUMS):
                assert total == 0, f"{doing}: the books of {currency} sum to {total}"
            self._town.place()
        self.commits += 1
        self._town.place()


_SUMS = text("SELECT currency, SUM(balance_minor) FROM books GROUP BY currency")


def an_engine(folder: Path) -> Engine:
    engine = connect(database_url(folder, "prepayment"))
    event.listen(engine, "connect", forget_the_disk)
    metadata.create_all(engine)
    return engine


class NoEvents:
    """Takes what is offered to the head-end's feed; a number is one event for ever."""

    def __init__(self) -> None:
        self.count = 0
        self._last: tuple[int, bytes] = (0, b"")

    def offer(self, number: int, type_: str, subject: str, at: datetime, data: bytes) -> None:
        assert type_ == "headend.account.v1"
        if number == self._last[0]:
            assert data == self._last[1]
            return
        if number > self._last[0]:
            self.count += 1
            self._last = (number, data)


# ------------------------------------------------------------------------------------------------ phones


class Phones:
    """The same key is the same message: it reaches the customer once. off: numbers that reach nobody."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self.known: set[str] = set()
        self.by_reference: dict[str, Given] = {}
        self._reference: dict[str, str] = {}
        self.off: set[str] = set()
        self.failing = 0.05
        self.watch: Callable[[Message], None] = lambda _: None
        self.counts: dict[str, int] = {}

    def send(self, message: Message) -> Delivery:
        town = self._town
        town.place()
        if message.to in self.off or town.random.random() < self.failing:
            return Delivery(reference="", delivered=False, problem="the phone is off")
        if message.key not in self._reference:
            self.watch(message)
            given = Given(message, town.now, f"sms-{len(self._reference)}")
            self._reference[message.key] = given.reference
            self.by_reference[given.reference] = given
            self.counts[message.kind] = self.counts.get(message.kind, 0) + 1
        town.place()
        return Delivery(reference=self._reference[message.key], delivered=True)


class BankDesk:
    """The same key draws once. Some answers are lost, some agreements have no money for a while."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self.drawn: dict[str, tuple[str, int, datetime]] = {}
        self.empty: set[str] = set()
        self.silent = 0.05
        self.failing = 0.03
        self.refusals = 0
        self.own: Callable[[str], str] = lambda agreement: agreement

    def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
        town = self._town
        town.place()
        if key not in self.drawn:
            if agreement in self.empty or town.random.random() < self.failing:
                self.refusals += 1
                return Debited(DebitOutcome.REFUSED, "no cover")
            self.drawn[key] = (agreement, amount_minor, town.now)
        town.place()
        if town.random.random() < self.silent:
            return Debited(DebitOutcome.UNKNOWN)
        return Debited(DebitOutcome.ACCEPTED)


# ------------------------------------------------------------------------------------------------ switch


class Command(Struct):
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
    """away_until: it does not answer before. protected: meters that its own policy never opens."""

    def __init__(self, town: Town, feed: YearFeed) -> None:
        self._town = town
        self._feed = feed
        self.off_since: dict[str, datetime] = {}
        self.was_off: dict[str, list[tuple[datetime, datetime]]] = {}
        self.fence: dict[str, int] = {}
        self.commands: dict[str, Command] = {}
        self.active: dict[str, Command] = {}  # by meter
        self.by_key: dict[str, tuple[str, bytes]] = {}
        self.references: dict[str, tuple[object, ...]] = {}
        self.debts: dict[str, datetime] = {}  # by meter: when the close comes
        self.protected: set[str] = set()
        self.gone: Collection[str] = ()  # meters that were taken off the wall
        self.opened = 0
        self.closed = 0
        self.refused: dict[str, int] = {}
        self.refusing = 0.05
        self.sleeping = 0.03  # of meters that are heard to close only after hours
        self.away = 0.01
        self.away_until = town.now
        self.watch_open: Callable[[Command], None] = lambda _: None
        self.watch_close: Callable[[str], None] = lambda _: None

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
        # Nobody hears an order at a meter that was taken off the wall.
        due_at = expires_at if meter in self.gone else town.now + self._delay(240)
        command = Command(f"c{len(self.commands)}", meter, proof, tuple(notices), due_at, expires_at)
        if meter in self.protected:
            command.state, command.problem = "refused", "protected: life support"
        elif proof.fence < self.fence.get(meter, 0):
            command.state, command.problem = "refused", "fence: a payment has raised it"
        elif meter in self.active:
            command.state, command.problem = "refused", "one-active-command: another is under way"
        elif town.random.random() < self.refusing:
            command.state, command.problem = "refused", "weather: too cold"
        else:
            self.active[meter] = command
        if command.problem:
            rule = command.problem.partition(":")[0]
            self.refused[rule] = self.refused.get(rule, 0) + 1
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
        reference = f"{reference}@{meter}#{fence}"
        content = (meter, paid_at, amount_minor, currency, fence)
        if reference in self.references:
            assert self.references[reference] == content, f"{reference} was told with other content"
            return
        self.references[reference] = content
        self.fence[meter] = max(self.fence.get(meter, 0), fence)
        command = self.active.get(meter)
        if command is not None and command.state == "scheduled":
            command.state, command.problem = "cancelled", "a payment came first"
            del self.active[meter]
        elif command is not None or meter in self.off_since:
            hours = 9 if self._town.random.random() < self.sleeping else 1
            self.debts.setdefault(meter, self._town.now + self._delay(hours * 3600))
        self._town.place()

    def supply(self, meter: str) -> Supply:
        self._reach()
        return "off" if meter in self.off_since else "on"

    def next_at(self) -> datetime | None:
        """When something is due at the meters."""
        times = [
            one.due_at if one.state == "scheduled" else one.due_at + timedelta(seconds=20)
            for one in self.active.values()
        ]
        times += [due_at for meter, due_at in self.debts.items() if meter not in self.active]
        return min(times, default=None)

    def pass_time(self) -> None:
        """What is due at the meters happens."""
        now = self._town.now
        for meter, command in list(self.active.items()):
            if command.state == "scheduled" and now >= command.due_at:
                if command.due_at >= command.expires_at:
                    command.state = "expired"
                    del self.active[meter]
                    continue
                command.state = "sent"
                self.watch_open(command)
                self.off_since[meter] = now
                self.opened += 1
            elif command.state == "sent" and now >= command.due_at + timedelta(seconds=20):
                command.state = "verified"
                del self.active[meter]
                self._tell(meter, command.id, "open", "verified")
        for meter, due_at in list(self.debts.items()):
            if now >= due_at and meter not in self.active:
                del self.debts[meter]
                if meter in self.off_since:
                    self.was_off.setdefault(meter, []).append((self.off_since.pop(meter), now))
                    self.closed += 1
                    self.watch_close(meter)
                    self._tell(meter, "", "close", "verified")

    def _tell(self, meter: str, command: str, kind: str, state: str) -> None:
        data = {"about": "command", "meter": meter, "command": command, "kind": kind, "state": state}
        self._feed.tell("headend.relay.v1", meter, data)

    def _delay(self, most_s: float) -> timedelta:
        return timedelta(seconds=self._town.random.uniform(1, most_s))

    def _reach(self) -> None:
        self._town.place()
        if self._town.now < self.away_until or (self.away and self._town.random.random() < self.away):
            raise SwitchboardUnavailable("it does not answer")
