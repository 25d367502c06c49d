"""The households' money: what they pay after which message, how a channel tells it, and what is taken back."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.ports import Message
from tests.scenarios.prepaid_year.household import Household
from tests.scenarios.prepaid_year.meters import DAY, ZONE
from tests.scenarios.prepaid_year.outside import Crash

if TYPE_CHECKING:
    from tests.scenarios.prepaid_year.world import Year

__all__ = ["Purses"]

CHANNELS = ("app", "bank", "counter", "collection-point", "agent")
HOUR = timedelta(hours=1)


class Purses:
    """Of all households of one year. Payments are told while the program may die."""

    def __init__(self, year: "Year") -> None:
        self._year = year

    def pay(self, household: Household, amount: int, *, delay: timedelta | None = None) -> None:
        """At the channel now; told to us when the channel comes to it. A few are told for an account that nobody knows."""
        chance, now = self._year.random, self._year.town.now
        channel = chance.choice(CHANNELS)
        if delay is None:
            delay = (
                timedelta(hours=chance.uniform(0, 5))
                if channel in ("counter", "collection-point")
                else timedelta(minutes=1)
            )
        is_astray = chance.random() < 0.01 and delay > timedelta(0)
        number = self._year.next_number()
        payment = Payment(
            channel=channel, receipt=f"{channel}-{number}", account=household.account, amount_minor=amount,
            currency="CNY", paid_at=now, received_at=now,
        )  # fmt: skip
        if is_astray:
            payment = Payment(
                channel=channel, receipt=payment.receipt, account=f"{household.account}X", amount_minor=min(amount, 9000),
                currency="CNY", paid_at=now, received_at=now,
            )  # fmt: skip
        self._year.count(f"paid by {channel}")
        self._year.at(now + delay, lambda: self._deliver(household, payment))

    def _deliver(self, household: Household, payment: Payment) -> None:
        """As a channel does: the same again until it has an answer, and now and then once more."""
        chance = self._year.random
        self._year.town.crashes = self._year.crashes
        try:
            while True:
                try:
                    taken = self._year.office.take(payment)
                    break
                except Crash:
                    self._year.count("died in a payment")
                    self._year.start()
        except SwitchboardUnavailable:
            if payment.account == household.account:
                household.pending[payment.receipt] = payment.amount_minor
            self._year.count("payment told again")
            self._year.after(HOUR, lambda: self._deliver(household, payment), least=timedelta(minutes=3))
            return
        finally:
            self._year.town.crashes = 0.0
        self._taken(household, payment, taken)
        if chance.random() < 0.1:
            self._year.count("payment told twice")
            self._year.after(5 * DAY, lambda: self._deliver(household, payment))

    def _taken(self, household: Household, payment: Payment, taken: Payment) -> None:
        household.pending.pop(payment.receipt, None)
        if payment.receipt in self._year.booked:
            return
        self._year.booked.add(payment.receipt)
        if taken.state is PaymentState.UNMATCHED:
            self._year.count("payment unmatched")
            self._year.after(3 * DAY, lambda: self._assign(household, payment), least=HOUR)
            return
        assert taken.state is PaymentState.BOOKED, taken
        bonus = self._bonus(household, payment)
        self.credit(household, payment.amount_minor + bonus, paid_at=payment.paid_at)
        if self._year.random.random() < 0.012:
            self._year.after(9 * DAY, lambda: self._reverse(household, payment), least=timedelta(minutes=20))

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
        with self._year.calm():
            self._year.office.assign(payment.channel, payment.receipt, household.account, by="clerk")
        self.credit(household, payment.amount_minor, paid_at=self._year.town.now)
        self._year.count("payment assigned")

    def _reverse(self, household: Household, payment: Payment) -> None:
        if household.is_closed:
            return
        self._year.town.crashes = self._year.crashes
        while True:
            try:
                self._year.office.reverse(payment.channel, payment.receipt, reason="no cover", by=payment.channel)
                break
            except Crash:
                self._year.start()
        self._year.town.crashes = 0.0
        self.credit(household, -payment.amount_minor - household.bonus_of.get(payment.receipt, 0))
        self._year.count("payment reversed")

    def credit(self, household: Household, amount: int, *, paid_at: datetime | None = None) -> None:
        """Acknowledged; from now on whoever owes nothing by it must not be disconnected."""
        household.credit += amount
        self.note_truth(household, paid_at)

    def note_truth(self, household: Household, paid_at: datetime | None = None) -> None:
        if household.truth() >= 0:
            if household.dark_since is not None and household.enough_at is None:
                household.enough_at = (paid_at or self._year.town.now, self._year.town.now)
        else:
            household.enough_at = None

    def hear(self, message: Message) -> None:
        self._year.checker.watch_message(message)
        household, chance = self._year.households[message.account], self._year.random
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
        self._year.after(timedelta(hours=wait[1]), lambda: self._pay_up(household), least=timedelta(hours=wait[0]))

    def _pay_up(self, household: Household) -> None:
        """Most pay well beyond what they owe; some too little, and the rest of it later."""
        chance = self._year.random
        household.is_planning = False
        if household.is_closed:
            return
        owed = max(0, int(-household.truth()))
        if owed > 500 and chance.random() < 0.15:
            self.pay(household, owed // 3)
            household.is_planning = True
            self._year.after(30 * HOUR, lambda: self._pay_up(household), least=2 * HOUR)
            return
        self.pay(household, owed + chance.choice((1, 6000, 15_000, 25_000, 40_000, 60_000)))
