"""Who lives behind which meter: built, moved in, and the next one after a move-out."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.model import Premises
from tests.scenarios.prepaid_year.household import HABITS, Household, use_of
from tests.scenarios.prepaid_year.known import Measure
from tests.scenarios.prepaid_year.meters import DAY, Meter
from tests.scenarios.prepaid_year.oracle import Reckoning

if TYPE_CHECKING:
    from tests.scenarios.prepaid_year.world import Year

__all__ = ["Tenants"]

HOUR = timedelta(hours=1)


class Tenants:
    """Of one year; they come by its chances."""

    def __init__(self, year: "Year") -> None:
        self._year = year

    def tariff_for(self, number: int) -> str:
        names = ("flat", "month-step", "residential-step", "bands", "bands-step")
        if number % 10 == 7:
            return ("commercial-tou", "residential-step-tou")[number // 10 % 2]
        return names[number % len(names)]

    def build(self, number: int) -> None:
        """A meter, with two days of history; every fifteenth home has two."""
        name = self.tariff_for(number)
        meter = Meter(
            f"M{number:04}",
            self._year.first - 2 * DAY,
            self._year.book.registers(name),
            by_time=self._year.book.is_by_time(name),
        )
        self._year.meters[meter.name] = meter
        for _ in range(2):
            used = [use_of(self._year.random, 8 / meter.slots, meter.registers, 1.0) for _ in range(meter.slots)]
            meter.live(used, good=[True] * meter.slots)
        self._year.reads.note_change(meter, 0)
        if self._year.random.random() < 0.02:
            self._year.switch.protected.add(meter.name)

    def move_in(self, meter: str, tariff: str, *, landlord: str = "") -> Household:
        number = len(self._year.households)
        chance = self._year.random
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
        with self._year.calm():
            self._year.office.enrol(wanted, by="clerk")
            card = self._year.office.confirm(wanted.account, by="clerk")
        opened = self._year.today
        assert card.account.opened_on == opened
        reckoning = Reckoning(self._year.book, opened, is_large=wanted.is_large_household)
        reckoning.tariffs.append((date.min, tariff))
        household = Household(
            account=wanted.account, habit=habit, tariff=tariff, opened=opened,
            daily_kwh=chance.uniform(3, 16), phone=f"+86{wanted.phone}", agreement=agreement,
            measures=[Measure(self._year.meters[meter], opened)], reckoning=reckoning,
        )  # fmt: skip
        household.touch(opened)
        household.not_owing_at = self._year.town.now
        self._year.households[wanted.account] = household
        self._year.of_meter[meter] = household
        self._year.homes.setdefault(meter, []).append(household)
        if habit != "by-debit":
            self._year.purses.pay(household, chance.randrange(5000, 40000), delay=HOUR)
        self._year.count("moved in")
        return household

    def next_tenant(self, household: Household) -> None:
        meter = household.meter.meter.name

        def come() -> None:
            with self._year.calm():
                self.move_in(meter, household.tariff)

        del self._year.of_meter[meter]
        self._year.after(3 * DAY, come, least=HOUR)
