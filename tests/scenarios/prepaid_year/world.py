"""The year itself: its time, and a program that has its turns and dies at random.

Who lives there is in tenants.py, what happens to them in happenings.py, their money in purses.py, and what meters tell in reads.py.
The world's chances and the program's deaths are seeded apart. Clerks and fitters work undisturbed; payments, messages, orders and
settlement do not.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path

from headend.prepayment.books.autopay import Limits
from headend.prepayment.books.points_file import RULES, load_points_rule
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.notices.notices import Channel
from headend.prepayment.notices.plan import load_plan
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.office.office import Office, Outside, Settings
from headend.prepayment.office.service import Duty
from headend.prepayment.tariffs.tariff_file import TARIFFS, load_tariffs
from tests.scenarios.prepaid_year.checker import Checker
from tests.scenarios.prepaid_year.happenings import Happenings
from tests.scenarios.prepaid_year.household import Household
from tests.scenarios.prepaid_year.meters import DAY, ZONE, Meter, YearFeed, midnight
from tests.scenarios.prepaid_year.oracle import PriceBook
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
from tests.scenarios.prepaid_year.purses import Purses
from tests.scenarios.prepaid_year.reads import Reads
from tests.scenarios.prepaid_year.tenants import Tenants

__all__ = ["FIRST", "Year"]

FIRST = date(2028, 1, 1)  # a leap year
# Local times at which the program has its turn; the day's reads have come by the first of them.
TURNS = tuple(time(*at) for at in ((0, 40), (8, 10), (9, 30), (11, 30), (13, 50), (18, 0)))
MOST = {"intake": 5_000_000}  # events: at the end every read that was bad is told anew
OWN = Path(__file__).parent / "tariffs"
FILES = (*sorted(OWN.glob("*.toml")), *sorted(TARIFFS.glob("*.toml")))


class Year:
    """accounts: households at the beginning. crashes: chance to die at each place between two effects. first: its first day."""

    def __init__(self, folder: Path, accounts: int, *, seed: int, crashes: float, first: date = FIRST) -> None:
        self.first = first
        self.town = Town(seed, midnight(first) + timedelta(minutes=10))
        self.random = self.town.random
        self.crashes = crashes
        self.feed = YearFeed()
        self.switch, self.phones = Switch(self.town, self.feed), Phones(self.town)
        self.bank, self.events = BankDesk(self.town), NoEvents()
        self.book = PriceBook(FILES)
        self.days = LocalDays(ZONE)
        self.engine = an_engine(folder)
        self.database = MortalDatabase(self.engine, self.town)
        self.plan = load_plan("cn-residential")
        self.settings = Settings(
            plan=self.plan,
            texts=load_texts(self.plan.zone),
            tariffs=load_tariffs(FILES),
            rule=load_points_rule(RULES / "top-up-bonus.toml"),
            limits=Limits(),
            salt=b"a year",
        )
        self.households: dict[str, Household] = {}
        self.of_meter: dict[str, Household] = {}  # whose supply it is
        self.homes: dict[str, list[Household]] = {}  # all that it measures or measured
        self.gone: dict[str, date] = {}  # meters that were taken off the wall
        self.entering: dict[str, Callable[[], None]] = {}  # exchanges that the office has not heard of, by account
        self.meters: dict[str, Meter] = {}
        self.changed: dict[str, int] = {}  # by meter: the first place that may say something else
        self.booked: set[str] = set()
        self.counts: dict[str, int] = {}
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = 0
        self.switch.gone = self.gone.keys()
        self.tenants, self.reads = Tenants(self), Reads(self)
        self.happenings, self.purses = Happenings(self), Purses(self)
        self.checker = Checker(self)
        self.phones.watch = self.purses.hear
        self.switch.watch_open = self.checker.watch_open
        self.switch.watch_close = self.checker.watch_close
        self.start()
        for number in range(accounts):
            self.tenants.build(number)
        for number, meter in enumerate(list(self.meters)):
            name = self.tenants.tariff_for(number)
            self.tenants.move_in(meter, name, landlord="" if number < 20 or self.random.random() < 0.7 else "C0000")

    def start(self) -> None:
        """Also again, after it has died: nothing but the database is left."""
        outside = Outside(
            feed=self.feed,
            switch=self.switch,
            outbox=self.events,
            channels=[Channel("sms", self.phones)],
            bank=self.bank,
            our_meters=lambda: self.meters.keys(),
        )
        self.office = Office(self.database, self.settings, outside, days=self.days, clock=self.town.clock())
        self.duties = self.office.duties()

    def aclose(self) -> None:
        self.engine.dispose()

    @property
    def today(self) -> date:
        return self.town.now.astimezone(ZONE).date()

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def next_number(self) -> int:
        """Of whatever needs a name of its own, in the order in which it came to be."""
        self._numbers += 1
        return self._numbers

    def at(self, moment: datetime, work: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (moment, self.next_number(), work))

    def after(self, most: timedelta, work: Callable[[], None], *, least: timedelta = timedelta(0)) -> None:
        self.at(self.town.now + least + (most - least) * self.random.random(), work)

    # ---------------------------------------------------------------------------------------- time

    def live(self, days: int) -> None:
        """So many days, then what is still open comes to its end."""
        for _ in range(days):
            self._day(is_last=False)
        self._come_to_rest()

    def _day(self, *, is_last: bool) -> None:
        today = self.today
        for at in TURNS:
            self._pass_time(datetime.combine(today, at, ZONE))
            if at == TURNS[0]:
                self.reads.tell(is_last=is_last)
                self._turn()
                if self.crashes:
                    with self.calm():
                        self._turn()
                self.checker.check_day()
                self.feed.forget_a_day()
            else:
                if at == TURNS[1] and not is_last:
                    self.happenings.happen()
                self.checker.reckon()
                self._turn()
            self.checker.check_turn()
        self._pass_time(midnight(today + DAY) + timedelta(minutes=10))

    def _pass_time(self, until: datetime) -> None:
        """All that is due happens at its own moment: at the meters, and in the town."""
        town = self.town
        while True:
            due = self.switch.next_at()
            on_agenda = self._agenda[0][0] if self._agenda else until
            moment = min(until, on_agenda, until if due is None else due)
            town.now = max(town.now, moment)
            self.switch.pass_time()
            if self._agenda and self._agenda[0][0] <= town.now:
                heapq.heappop(self._agenda)[2]()
            elif moment >= until:
                return

    def _turn(self) -> None:
        """Every duty until it has nothing to do, and again while that made work for others. The program may die, and starts anew."""
        self.town.crashes = self.crashes
        for _ in range(4):
            try:
                if not sum(self._finish(duty) for duty in self.duties):
                    break
            except Crash:
                self.start()
        self.town.crashes = 0.0

    def _finish(self, duty: Duty) -> int:
        """Gives what is to be followed up: settled accounts are not, since those who have work by it come behind."""
        total = 0
        try:
            while (done := duty.tick(self.town.now)) and total < MOST.get(duty.name, 20_000):
                total += done
        except SwitchboardUnavailable:
            self.count("duty without switch")
        return total if duty.name in ("desk", "mailroom", "bank") else 0

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Nobody dies, and the switch answers."""
        crashes, away, until = self.crashes, self.switch.away, self.switch.away_until
        self.crashes = self.town.crashes = 0.0
        self.switch.away, self.switch.away_until = 0.0, self.town.now
        try:
            yield
        finally:
            self.crashes, self.switch.away, self.switch.away_until = crashes, away, until

    def _come_to_rest(self) -> None:
        """Every read is back-filled, every lost day told, everybody pays what is owed: nothing is left open."""
        self.crashes = self.switch.away = self.switch.refusing = self.bank.silent = self.phones.failing = 0.0
        self.switch.away_until = self.town.now
        self.phones.off.clear()
        for enter in list(self.entering.values()):
            enter()
        told = {key for household in self.households.values() for key in household.told}
        for meter in self.meters.values():
            late = {place for place in meter.lost if (meter.name, meter.day_of(place)) not in told}
            if not all(meter.good) or late:
                meter.good = [True] * len(meter.good)
                meter.exchanged |= late
                meter.lost -= late
                self.reads.note_change(meter, 0)
        for household in list(self.households.values()):
            household.is_planning = True
        self._day(is_last=True)
        for household in list(self.households.values()):
            if not household.is_closed and household.truth() < 0:
                self.purses.pay(household, int(-household.truth()) + 20_000, delay=timedelta(0))
        self._day(is_last=True)
        self._day(is_last=True)
        self.checker.reckon()  # what was told since the last turn is charged, too
        self._turn()
        self.checker.check_turn()
