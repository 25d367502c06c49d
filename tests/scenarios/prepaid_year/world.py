"""The year itself: who moves in and out, pays, is exchanged, changed and reversed; and a program that has its turns and dies at random.

The world's chances and the program's deaths are seeded apart. Clerks and fitters work undisturbed; payments, messages, orders and
settlement do not.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

from headend.prepayment.accounts import Enrolment
from headend.prepayment.autopay import Limits
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.heard import LocalDays
from headend.prepayment.model import Payment, PaymentState, Premises
from headend.prepayment.notice_plan import load_plan
from headend.prepayment.notice_texts import load_texts
from headend.prepayment.notices import Channel
from headend.prepayment.office import Office, Outside, Settings
from headend.prepayment.points_file import RULES, load_points_rule
from headend.prepayment.ports import Message
from headend.prepayment.service import Duty
from headend.prepayment.tariff_file import TARIFFS, load_tariffs
from tests.scenarios.prepaid_year.checker import Checker
from tests.scenarios.prepaid_year.household import HABITS, Household, use_of
from tests.scenarios.prepaid_year.known import Measure
from tests.scenarios.prepaid_year.meters import DAY, ZONE, Meter, YearFeed, midnight
from tests.scenarios.prepaid_year.oracle import PriceBook, Reckoning
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

__all__ = ["FIRST", "Year"]

FIRST = date(2028, 1, 1)  # a leap year
HOUR = timedelta(hours=1)
# Local times at which the program has its turn; the day's reads have come by the first of them.
TURNS = tuple(time(*at) for at in ((0, 40), (8, 10), (9, 30), (11, 30), (13, 50), (18, 0)))
CHANNELS = ("app", "bank", "counter", "collection-point", "agent")
OWN = Path(__file__).parent / "tariffs"
FILES = (*sorted(OWN.glob("*.toml")), *sorted(TARIFFS.glob("*.toml")))
OTHER = {
    "flat": "month-step",
    "month-step": "residential-step",
    "residential-step": "flat",
    "bands": "bands-step",
    "bands-step": "bands",
}


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
        self.receipts: dict[str, Payment] = {}
        self.untold: dict[str, Payment] = {}
        self.booked: set[str] = set()
        self.counts: dict[str, int] = {}
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = 0
        self.switch.gone = self.gone.keys()
        self.checker = Checker(self)
        self.phones.watch = self._message
        self.switch.watch_open = self.checker.watch_open
        self.switch.watch_close = self.checker.watch_close
        self.start()
        for number in range(accounts):
            self._build(number)
        for number, meter in enumerate(list(self.meters)):
            name = self._tariff_for(number)
            self.move_in(meter, name, landlord="" if number < 20 or self.random.random() < 0.7 else "C0000")

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

    def at(self, moment: datetime, work: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._agenda, (moment, self._numbers, work))

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
                self._reads(is_last=is_last)
                self._turn()
                if self.crashes:
                    with self.calm():
                        self._turn()
                self.checker.check_day()
                self.feed.forget_a_day()
            else:
                if at == TURNS[1]:
                    self._something_happens()
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
            while (done := duty.tick(self.town.now)) and total < 20_000:
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
                self._note_change(meter, 0)
        for household in list(self.households.values()):
            household.is_planning = True
        self._day(is_last=True)
        for household in list(self.households.values()):
            if not household.is_closed and household.truth() < 0:
                self.pay(household, int(-household.truth()) + 20_000, delay=timedelta(0))
        self._day(is_last=True)
        self._day(is_last=True)

    # ---------------------------------------------------------------------------------------- households

    def _tariff_for(self, number: int) -> str:
        names = ("flat", "month-step", "residential-step", "bands", "bands-step")
        if number % 10 == 7:
            return ("commercial-tou", "residential-step-tou")[number // 10 % 2]
        return names[number % len(names)]

    def _build(self, number: int) -> None:
        """A meter, with two days of history; every fifteenth home has two."""
        name = self._tariff_for(number)
        meter = Meter(
            f"M{number:04}", self.first - 2 * DAY, self.book.registers(name), by_time=self.book.is_by_time(name)
        )
        self.meters[meter.name] = meter
        for _ in range(2):
            used = [use_of(self.random, 8 / meter.slots, meter.registers, 1.0) for _ in range(meter.slots)]
            meter.live(used, good=[True] * meter.slots)
        self._note_change(meter, 0)
        if self.random.random() < 0.02:
            self.switch.protected.add(meter.name)

    def move_in(self, meter: str, tariff: str, *, landlord: str = "") -> Household:
        number = len(self.households)
        chance = self.random
        habit = chance.choices(list(HABITS), list(HABITS.values()))[0]
        agreement = f"B{number:04}" if habit == "by-debit" else ""
        wanted = Enrolment(
            account=f"A{number:04}",
            customer=f"C{number:04}",
            name=f"Li {number}",
            identity=f"11010519491231{number:04}",
            premises=Premises(id=f"P{meter}", address=f"{number} Nanjing Road"),
            meters=(meter,),
            phone=f"138{number:08}",
            currency="CNY",
            tariff=tariff,
            reminder_minor=chance.choice((1000, 2000, 3000)),
            topup_minor=chance.choice((5000, 10000, 20000)) if agreement else 0,
            bank=agreement,
            language=chance.choice(("zh", "en")),
            is_large_household=chance.random() < 0.1,
            landlord=landlord,
        )
        with self.calm():
            self.office.enrol(wanted, by="clerk")
            card = self.office.confirm(wanted.account, by="clerk")
        opened = self.today
        assert card.account.opened_on == opened
        reckoning = Reckoning(self.book, opened, is_large=wanted.is_large_household)
        reckoning.tariffs.append((date.min, tariff))
        household = Household(
            account=wanted.account, habit=habit, tariff=tariff, opened=opened,
            daily_kwh=chance.uniform(3, 16), phone=f"+86{wanted.phone}", agreement=agreement,
            measures=[Measure(self.meters[meter], opened)], reckoning=reckoning,
        )  # fmt: skip
        household.touch(opened)
        household.not_owing_at = self.town.now
        self.households[wanted.account] = household
        self.of_meter[meter] = household
        self.homes.setdefault(meter, []).append(household)
        if habit != "by-debit":
            self.pay(household, chance.randrange(5000, 40000), delay=HOUR)
        self.count("moved in")
        return household

    def next_tenant(self, household: Household) -> None:
        meter = household.meter.meter.name

        def come() -> None:
            with self.calm():
                self.move_in(meter, household.tariff)

        del self.of_meter[meter]
        self.after(3 * DAY, come, least=HOUR)

    # ---------------------------------------------------------------------------------------- reads

    def _note_change(self, meter: Meter, place: int) -> None:
        self.changed[meter.name] = min(place, self.changed.get(meter.name, place))
        for household in self.homes.get(meter.name, ()):
            household.touch(meter.day_of(max(0, place - 1)))

    def _reads(self, *, is_last: bool) -> None:
        """Yesterday's of every meter that counts, and what is found out about days before."""
        chance = self.random
        yesterday = self.today - DAY
        for meter in self.meters.values():
            is_there = meter.first <= yesterday < self.gone.get(meter.name, date.max)
            if is_there and len(meter.used) < meter.place_of(self.today):
                self._read(meter, yesterday, is_good=is_last)
            if not is_last and chance.random() < 0.06:
                self._find_out(meter)
        names = list(self.changed)
        chance.shuffle(names)
        for name in names:
            self.meters[name].tell(self.feed, self.changed[name])
        self.changed.clear()

    def _read(self, meter: Meter, day: date, *, is_good: bool) -> None:
        chance = self.random
        home = self.of_meter.get(meter.name)
        kwh = (home.daily_kwh if home is not None else 1.0) / meter.slots
        if 6 <= day.month <= 8:
            kwh *= 1.4
        used, good = [], []
        length = DAY / meter.slots
        for slot in range(meter.slots):
            begin = midnight(day) + slot * length
            used.append(use_of(chance, kwh, meter.registers, self._part_on(meter.name, begin, begin + length)))
            good.append(is_good or chance.random() > (0.04 if meter.slots == 1 else 0.004))
        first = len(meter.used)
        meter.live(used, good=good)
        if all(not one for one in meter.good[-5 * meter.slots :]):
            meter.good[-1] = True  # nobody lets a meter be silent for so long
        self._note_change(meter, first)

    def _part_on(self, meter: str, begin: datetime, end: datetime) -> float:
        stretches = list(self.switch.was_off.get(meter, ())[-3:])
        if meter in self.switch.off_since:
            stretches.append((self.switch.off_since[meter], self.town.now))
        dark = sum((max(timedelta(0), min(end, off_end) - max(begin, off)) for off, off_end in stretches), timedelta(0))
        return 1 - dark / (end - begin)

    def _find_out(self, meter: Meter) -> None:
        """A read comes late, turns out to be wrong, or a ratio was."""
        chance = self.random
        newest = len(meter.used)
        place = (
            chance.randrange(max(meter.start + 1, newest - 20 * meter.slots), newest + 1) if newest > meter.start else 0
        )
        if not place or {place - 1, place} & (meter.lost | meter.exchanged) or meter.day_of(place - 1) < self.first:
            return
        kind = chance.random()
        since = place - 1
        if kind < 0.6 and not meter.good[place]:
            meter.good[place] = True
            self.count("read back-filled")
        elif kind < 0.75 and meter.good[place] and meter.slots == 1:
            if not all(meter.good[place + one] for one in (-1, 1) if 0 <= place + one < len(meter.good)):
                return
            meter.good[place] = False
            self.count("read found suspect")
        elif kind < 0.9:
            more = Decimal(chance.randrange(1, 200)) / 100
            register = meter.registers[-1]
            meter.used[place - 1][register] += more
            self.count("day revised")
        else:
            return
        while since > meter.start and not meter.good[since]:
            since -= 1
        self._note_change(meter, since)

    # ---------------------------------------------------------------------------------------- what happens

    def _something_happens(self) -> None:
        chance = self.random
        if chance.random() < 0.1:
            self.switch.away_until = self.town.now + timedelta(hours=chance.uniform(1, 5))
            self.count("switch away for hours")
        for household in list(self.households.values()):
            if household.is_closed:
                continue
            if household.habit == "whenever" and chance.random() < 0.06:
                self.pay(household, chance.randrange(1000, 25000))
            if chance.random() < 0.008:
                with self.calm():
                    chance.choices(
                        (
                            self._new_phone, self._phone_off, self._hold, self._other_tariff, self._exchange_same,
                            self._exchange_other, self._leave, self._adjust, self._other_amounts, self._no_cover, self._clear,
                        ),
                        (4, 6, 3, 4, 6, 4, 4, 2, 2, 2, 4),
                    )[0](household)  # fmt: skip

    def _new_phone(self, household: Household) -> None:
        phone = f"139{self.random.randrange(10**8):08}"
        self.office.change_contact(household.account, phone, language=None, by="clerk")
        household.phone = f"+86{phone}"
        self.count("contact changed")

    def _phone_off(self, household: Household) -> None:
        phone = household.phone
        self.phones.off.add(phone)
        self.count("phone unreachable")
        self.after(12 * DAY, lambda: self.phones.off.discard(phone), least=2 * DAY)

    def _hold(self, household: Household) -> None:
        if household.held_since is not None:
            return
        self.office.hold(household.account, "somebody is ill", by="clerk")
        household.held_since = self.town.now
        self.count("held")

        def end() -> None:
            household.held_since = None
            self._clear_flags(household, "hold")

        self.after(25 * DAY, end, least=5 * DAY)

    def _clear(self, household: Household) -> None:
        self._clear_flags(household, "disconnection-refused", "warned-in-vain")

    def _clear_flags(self, household: Household, *kinds: str) -> None:
        with self.calm():
            held = self.office.card(household.account).flags
            for kind in kinds:
                if kind in held:
                    self.office.clear_flag(household.account, kind, by="clerk")

    def _other_tariff(self, household: Household) -> None:
        """From the first day that is not charged yet."""
        name = OTHER.get(household.tariff)
        if name is None or household.leaves is not None:
            return
        last = household.charged_to
        self.office.change_tariff(household.account, name, by="clerk")
        if last is None:
            household.reckoning.tariffs = [(date.min, name)]
        else:
            kept = [one for one in household.reckoning.tariffs if one[0] <= last]
            household.reckoning.tariffs = [*kept, (last + DAY, name)]
        household.tariff = name
        household.touch(household.opened if last is None else last + DAY)
        self.count("tariff changed")

    def _exchange_same(self, household: Household) -> None:
        """The registers jump today. Its readings are told days later, or never, and then a person tells what was used."""
        meter, today = household.meter.meter, self.today
        place = meter.place_of(today) + (0 if meter.slots == 1 else 5)
        if place < len(meter.used) or not meter.good[-1] or household.leaves is not None:
            return
        meter.lost.add(place)
        self.count("meter exchanged, same number")
        is_by_person = meter.slots == 1 and self.random.random() < 0.35

        def tell() -> None:
            if place not in meter.lost:
                return
            if is_by_person and not household.is_closed:
                meter.good[place] = meter.good[place + 1] = True
                self._note_change(meter, place - 1)
                used = use_of(self.random, household.daily_kwh, meter.registers, 1.0)
                self._tell_use(household, meter, today, used)
                return
            meter.lost.discard(place)
            meter.exchanged.add(place)
            self._note_change(meter, place - 1)

        self.after(7 * DAY, tell, least=1.5 * DAY)

    def _tell_use(self, household: Household, meter: Meter, day: date, used: dict[int, Decimal]) -> None:
        if household.is_closed:
            return
        names = {f"1-0:1.8.{register}": kwh for register, kwh in used.items()}
        with self.calm():
            self.office.tell_use(meter.name, day, names, by="fitter 12", note="read on the old meter")
        household.told = household.told | {(meter.name, day): used}
        household.touch(day - DAY)
        self.count("use told by a person")

    def _exchange_other(self, household: Household) -> None:
        """Another asset number from the afternoon of today on; the office hears of it up to three days later."""
        old, today = household.meter, self.today
        if old.since >= today or household.leaves is not None or household.dark_since is not None or old.meter.lost:
            return
        if old.meter.name in self.switch.active or old.meter.name in self.switch.debts:
            return
        at = self.town.now + timedelta(hours=self.random.uniform(0.5, 6))
        at -= timedelta(seconds=at.second, microseconds=at.microsecond)
        meter = Meter(f"X{len(self.meters):04}", today, old.meter.registers, by_time=old.meter.slots > 1, since=at)
        self.meters[meter.name] = meter
        del self.of_meter[old.meter.name]
        self.of_meter[meter.name] = household
        self.homes[meter.name] = [household]
        self.gone[old.meter.name] = today
        place = old.meter.place_of(today)
        old.meter.good[place] = True
        self._note_change(old.meter, max(0, place - 1))

        def enter() -> None:
            if self.entering.pop(household.account, None) is None:
                return
            with self.calm():
                self.office.exchange_meter(household.account, old.meter.name, meter.name, today, by="clerk")
            old.until = today - DAY
            household.measures.append(Measure(meter, today))
            household.touch(today - DAY)
            self.count("meter exchanged, other number")

        self.entering[household.account] = enter

        def tell() -> None:
            if old.until is None:
                self.after(DAY, tell, least=HOUR)
                return
            registers = meter.registers if meter.slots == 1 else (2, 4)
            used = use_of(self.random, household.daily_kwh / 2, registers, 1.0)
            if meter.slots > 1 and household.tariff == "commercial-tou":
                used = {2: Decimal("0.75"), 3: Decimal("1.20")}
            self._tell_use(household, old.meter, today, used)

        self.after(3 * DAY, enter)
        self.after(9 * DAY, tell, least=4 * DAY)

    def _leave(self, household: Household) -> None:
        """Told some days before or after; the next tenant comes when the account is closed."""
        if (
            household.leaves is not None
            or household.account in self.entering
            or self.today - household.opened < 20 * DAY
        ):
            return
        household.leaves = self.today + self.random.randrange(-2, 6) * DAY
        self.office.move_out(household.account, household.leaves, by="clerk")
        household.reckoning.closes = household.leaves
        household.touch(household.leaves)
        self.count("moved out")

    def _adjust(self, household: Household) -> None:
        amount = self.random.choice((-1, 1)) * self.random.randrange(100, 3000)
        self._numbers += 1
        self.office.adjust(household.account, amount, key=f"adjust-{self._numbers}", note="by the board", by="clerk")
        self.credit(household, amount)
        self.count("adjusted")

    def _other_amounts(self, household: Household) -> None:
        if household.agreement:
            topup = self.random.choice((5000, 10000, 20000))
            self.office.change_amounts(
                household.account, reminder_minor=1500, topup_minor=topup, bank=household.agreement, by="clerk"
            )
            self.count("amounts changed")

    def _no_cover(self, household: Household) -> None:
        if household.agreement:
            self.bank.empty.add(household.agreement)
            self.count("bank without cover")
            self.after(40 * DAY, lambda: self.bank.empty.discard(household.agreement), least=5 * DAY)

    # ---------------------------------------------------------------------------------------- money

    def pay(self, household: Household, amount: int, *, delay: timedelta | None = None) -> None:
        """At the channel now; told to us when the channel comes to it. A few are told for an account that nobody knows."""
        chance, now = self.random, self.town.now
        channel = chance.choice(CHANNELS)
        if delay is None:
            delay = (
                timedelta(hours=chance.uniform(0, 5))
                if channel in ("counter", "collection-point")
                else timedelta(minutes=1)
            )
        is_astray = chance.random() < 0.01 and delay > timedelta(0)
        self._numbers += 1
        payment = Payment(
            channel=channel, receipt=f"{channel}-{self._numbers}", account=household.account, amount_minor=amount,
            currency="CNY", paid_at=now, received_at=now,
        )  # fmt: skip
        if is_astray:
            payment = Payment(
                channel=channel, receipt=payment.receipt, account=f"{household.account}X", amount_minor=min(amount, 9000),
                currency="CNY", paid_at=now, received_at=now,
            )  # fmt: skip
        self.receipts[payment.receipt] = payment
        self.count(f"paid by {channel}")
        self.at(now + delay, lambda: self._deliver(household, payment))

    def _deliver(self, household: Household, payment: Payment) -> None:
        """As a channel does: the same again until it has an answer, and now and then once more."""
        chance = self.random
        self.town.crashes = self.crashes
        try:
            while True:
                try:
                    taken = self.office.take(payment)
                    break
                except Crash:
                    self.count("died in a payment")
                    self.start()
        except SwitchboardUnavailable:
            if payment.account == household.account:
                household.pending[payment.receipt] = payment.amount_minor
            self.count("payment told again")
            self.after(HOUR, lambda: self._deliver(household, payment), least=timedelta(minutes=3))
            return
        finally:
            self.town.crashes = 0.0
        self._taken(household, payment, taken)
        if chance.random() < 0.1:
            self.count("payment told twice")
            self.after(5 * DAY, lambda: self._deliver(household, payment))

    def _taken(self, household: Household, payment: Payment, taken: Payment) -> None:
        household.pending.pop(payment.receipt, None)
        if payment.receipt in self.booked:
            return
        self.booked.add(payment.receipt)
        if taken.state is PaymentState.UNMATCHED:
            self.count("payment unmatched")
            self.after(3 * DAY, lambda: self._assign(household, payment), least=HOUR)
            return
        assert taken.state is PaymentState.BOOKED, taken
        bonus = self._bonus(household, payment)
        self.credit(household, payment.amount_minor + bonus, paid_at=payment.paid_at)
        if self.random.random() < 0.012:
            self.after(9 * DAY, lambda: self._reverse(household, payment), least=timedelta(minutes=20))

    def _bonus(self, household: Household, payment: Payment) -> int:
        """The rule in the tests' own words: the first one of a local month from 100 yuan on counts, from 500 it earns two yuan."""
        month = f"{payment.paid_at.astimezone(ZONE):%Y-%m}"
        if payment.amount_minor < 10_000 or month in household.bonus_months:
            return 0
        household.bonus_months = household.bonus_months | {month}
        bonus = 200 if payment.amount_minor >= 50_000 else 0
        household.bonus_of = household.bonus_of | {payment.receipt: bonus}
        return bonus

    def _assign(self, household: Household, payment: Payment) -> None:
        if household.is_closed:
            return
        with self.calm():
            self.office.assign(payment.channel, payment.receipt, household.account, by="clerk")
        self.credit(household, payment.amount_minor, paid_at=self.town.now)
        self.count("payment assigned")

    def _reverse(self, household: Household, payment: Payment) -> None:
        if household.is_closed:
            return
        self.town.crashes = self.crashes
        while True:
            try:
                self.office.reverse(payment.channel, payment.receipt, reason="no cover", by=payment.channel)
                break
            except Crash:
                self.start()
        self.town.crashes = 0.0
        self.credit(household, -payment.amount_minor - household.bonus_of.get(payment.receipt, 0))
        self.count("payment reversed")

    def credit(self, household: Household, amount: int, *, paid_at: datetime | None = None) -> None:
        """Acknowledged; from now on whoever owes nothing by it must not be disconnected."""
        household.credit += amount
        self.note_truth(household, paid_at)

    def note_truth(self, household: Household, paid_at: datetime | None = None) -> None:
        if household.truth() >= 0:
            if household.dark_since is not None and household.enough_at is None:
                household.enough_at = (paid_at or self.town.now, self.town.now)
        else:
            household.enough_at = None

    def _message(self, message: Message) -> None:
        self.checker.watch_message(message)
        household, chance = self.households[message.account], self.random
        kind, habit = message.kind, household.habit
        if household.is_planning or household.is_closed:
            return
        waits: dict[tuple[str, str], tuple[float, float]] = {
            ("on-reminder", "low"): (1, 60), ("on-second", "used-up"): (1, 72), ("on-last", "last-warning"): (0.1, 5),
            ("on-last", "disconnected"): (0.1, 3), ("on-second", "last-warning"): (0.1, 3),
            ("on-reminder", "used-up"): (1, 48), ("when-dark", "disconnected"): (0.2, 40),
            ("whenever", "last-warning"): (0.1, 30), ("whenever", "disconnected"): (0.2, 30),
            ("by-debit", "disconnected"): (0.2, 30), ("by-debit", "last-warning"): (0.1, 30),
        }  # fmt: skip
        wait = waits.get((habit, kind))
        if wait is None or chance.random() < 0.1:
            if kind == "disconnected":
                wait = (20.0, 90.0)
            else:
                return
        household.is_planning = True
        self.after(timedelta(hours=wait[1]), lambda: self._pay_up(household), least=timedelta(hours=wait[0]))

    def _pay_up(self, household: Household) -> None:
        """Most pay well beyond what they owe; some too little, and the rest of it later."""
        chance = self.random
        household.is_planning = False
        if household.is_closed:
            return
        owed = max(0, int(-household.truth()))
        if owed > 500 and chance.random() < 0.15:
            self.pay(household, owed // 3)
            household.is_planning = True
            self.after(30 * HOUR, lambda: self._pay_up(household), least=2 * HOUR)
            return
        self.pay(household, owed + chance.choice((1, 6000, 15_000, 25_000, 40_000, 60_000)))
