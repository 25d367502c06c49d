"""What happens to households of the year: contacts, holds, tariffs, exchanges, move-outs, adjustments.

Clerks and fitters work undisturbed.
"""

from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.scenarios.prepaid_year.household import Household, use_of
from tests.scenarios.prepaid_year.known import Measure
from tests.scenarios.prepaid_year.meters import DAY, Meter

if TYPE_CHECKING:
    from tests.scenarios.prepaid_year.world import Year

__all__ = ["Happenings"]

HOUR = timedelta(hours=1)
OTHER = {
    "flat": "month-step",
    "month-step": "residential-step",
    "residential-step": "flat",
    "bands": "bands-step",
    "bands-step": "bands",
}


class Happenings:
    """At most one a day and household; `happen` draws them."""

    def __init__(self, year: "Year") -> None:
        self._year = year

    def happen(self) -> None:
        chance = self._year.random
        if chance.random() < 0.1:
            self._year.switch.away_until = self._year.town.now + timedelta(hours=chance.uniform(1, 5))
            self._year.count("switch away for hours")
        for household in list(self._year.households.values()):
            if household.is_closed:
                continue
            if household.habit == "whenever" and chance.random() < 0.06:
                self._year.purses.pay(household, chance.randrange(1000, 25000))
            if chance.random() < 0.008:
                with self._year.calm():
                    chance.choices(
                        (
                            self._new_phone, self._phone_off, self._hold, self._other_tariff, self._exchange_same,
                            self._exchange_other, self._leave, self._adjust, self._other_amounts, self._no_cover, self._clear,
                        ),
                        (4, 6, 3, 4, 6, 4, 4, 2, 2, 2, 4),
                    )[0](household)  # fmt: skip

    def _new_phone(self, household: Household) -> None:
        phone = f"139{self._year.random.randrange(10**8):08}"
        self._year.office.change_contact(household.account, phone, language=None, by="clerk")
        household.phone = f"+86{phone}"
        self._year.count("contact changed")

    def _phone_off(self, household: Household) -> None:
        phone = household.phone
        self._year.phones.off.add(phone)
        self._year.count("phone unreachable")
        self._year.after(12 * DAY, lambda: self._year.phones.off.discard(phone), least=2 * DAY)

    def _hold(self, household: Household) -> None:
        if household.held_since is not None:
            return
        self._year.office.hold(household.account, "somebody is ill", by="clerk")
        household.held_since = self._year.town.now
        self._year.count("held")

        def end() -> None:
            household.held_since = None
            self._clear_flags(household, "hold")

        self._year.after(25 * DAY, end, least=5 * DAY)

    def _clear(self, household: Household) -> None:
        self._clear_flags(household, "disconnection-refused", "warned-in-vain")

    def _clear_flags(self, household: Household, *kinds: str) -> None:
        with self._year.calm():
            held = self._year.office.card(household.account).flags
            for kind in kinds:
                if kind in held:
                    self._year.office.clear_flag(household.account, kind, by="clerk")

    def _other_tariff(self, household: Household) -> None:
        """From the first day that is not charged yet."""
        name = OTHER.get(household.tariff)
        if name is None or household.leaves is not None:
            return
        last = household.charged_to
        self._year.office.change_tariff(household.account, name, by="clerk")
        if last is None:
            household.reckoning.tariffs = [(date.min, name)]
        else:
            kept = [one for one in household.reckoning.tariffs if one[0] <= last]
            household.reckoning.tariffs = [*kept, (last + DAY, name)]
        household.tariff = name
        household.touch(household.opened if last is None else last + DAY)
        self._year.count("tariff changed")

    def _exchange_same(self, household: Household) -> None:
        """The registers jump today. Its readings are told days later, or never, and then a person tells what was used."""
        meter, today = household.meter.meter, self._year.today
        place = meter.place_of(today) + (0 if meter.slots == 1 else 5)
        if place < len(meter.used) or not meter.good[-1] or household.leaves is not None:
            return
        meter.lost.add(place)
        self._year.count("meter exchanged, same number")
        is_by_person = meter.slots == 1 and self._year.random.random() < 0.35

        def tell() -> None:
            if place not in meter.lost:
                return
            if is_by_person and not household.is_closed:
                meter.good[place] = meter.good[place + 1] = True
                self._year.reads.note_change(meter, place - 1)
                used = use_of(self._year.random, household.daily_kwh, meter.registers, 1.0)
                self._tell_use(household, meter, today, used)
                return
            meter.lost.discard(place)
            meter.exchanged.add(place)
            self._year.reads.note_change(meter, place - 1)

        self._year.after(7 * DAY, tell, least=1.5 * DAY)

    def _tell_use(self, household: Household, meter: Meter, day: date, used: dict[int, Decimal]) -> None:
        if household.is_closed:
            return
        names = {f"1-0:1.8.{register}": kwh for register, kwh in used.items()}
        with self._year.calm():
            self._year.office.tell_use(meter.name, day, names, by="fitter 12", note="read on the old meter")
        household.told = household.told | {(meter.name, day): used}
        household.touch(day - DAY)
        self._year.count("use told by a person")

    def _exchange_other(self, household: Household) -> None:
        """Another asset number from the afternoon of today on; the office hears of it up to three days later."""
        old, today = household.meter, self._year.today
        if old.since >= today or household.leaves is not None or household.dark_since is not None or old.meter.lost:
            return
        if old.meter.name in self._year.switch.active or old.meter.name in self._year.switch.debts:
            return
        at = self._year.town.now + timedelta(hours=self._year.random.uniform(0.5, 6))
        at -= timedelta(seconds=at.second, microseconds=at.microsecond)
        meter = Meter(
            f"X{len(self._year.meters):04}", today, old.meter.registers, by_time=old.meter.slots > 1, since=at
        )
        self._year.meters[meter.name] = meter
        del self._year.of_meter[old.meter.name]
        self._year.of_meter[meter.name] = household
        self._year.homes[meter.name] = [household]
        self._year.gone[old.meter.name] = today
        place = old.meter.place_of(today)
        old.meter.good[place] = True
        self._year.reads.note_change(old.meter, max(0, place - 1))

        def enter() -> None:
            if self._year.entering.pop(household.account, None) is None:
                return
            with self._year.calm():
                self._year.office.exchange_meter(household.account, old.meter.name, meter.name, today, by="clerk")
            old.until = today - DAY
            household.measures.append(Measure(meter, today))
            household.touch(today - DAY)
            self._year.count("meter exchanged, other number")

        self._year.entering[household.account] = enter

        def tell() -> None:
            if old.until is None:
                self._year.after(DAY, tell, least=HOUR)
                return
            registers = meter.registers if meter.slots == 1 else (2, 4)
            used = use_of(self._year.random, household.daily_kwh / 2, registers, 1.0)
            if meter.slots > 1 and household.tariff == "commercial-tou":
                used = {2: Decimal("0.75"), 3: Decimal("1.20")}
            self._tell_use(household, old.meter, today, used)

        self._year.after(3 * DAY, enter)
        self._year.after(9 * DAY, tell, least=4 * DAY)

    def _leave(self, household: Household) -> None:
        """Told some days before or after; the next tenant comes when the account is closed."""
        if (
            household.leaves is not None
            or household.account in self._year.entering
            or self._year.today - household.opened < 20 * DAY
        ):
            return
        household.leaves = self._year.today + self._year.random.randrange(-2, 6) * DAY
        self._year.office.move_out(household.account, household.leaves, by="clerk")
        household.reckoning.closes = household.leaves
        household.touch(household.leaves)
        self._year.count("moved out")

    def _adjust(self, household: Household) -> None:
        amount = self._year.random.choice((-1, 1)) * self._year.random.randrange(100, 3000)
        number = self._year.next_number()
        self._year.office.adjust(household.account, amount, key=f"adjust-{number}", note="by the board", by="clerk")
        self._year.purses.credit(household, amount)
        self._year.count("adjusted")

    def _other_amounts(self, household: Household) -> None:
        if household.agreement:
            topup = self._year.random.choice((5000, 10000, 20000))
            self._year.office.change_amounts(
                household.account, reminder_minor=1500, topup_minor=topup, bank=household.agreement, by="clerk"
            )
            self._year.count("amounts changed")

    def _no_cover(self, household: Household) -> None:
        if household.agreement:
            self._year.bank.empty.add(household.agreement)
            self._year.count("bank without cover")
            self._year.after(40 * DAY, lambda: self._year.bank.empty.discard(household.agreement), least=5 * DAY)
