"""What the meters of the year tell: yesterday's reads, most of them in time, and what is found out about days before."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.scenarios.prepaid_year.household import use_of
from tests.scenarios.prepaid_year.meters import DAY, Meter, midnight

if TYPE_CHECKING:
    from tests.scenarios.prepaid_year.world import Year

__all__ = ["Reads"]


class Reads:
    """Of all meters of one year."""

    def __init__(self, year: "Year") -> None:
        self._year = year

    def note_change(self, meter: Meter, place: int) -> None:
        self._year.changed[meter.name] = min(place, self._year.changed.get(meter.name, place))
        for household in self._year.homes.get(meter.name, ()):
            household.touch(meter.day_of(max(0, place - 1)))

    def tell(self, *, is_last: bool) -> None:
        """Yesterday's of every meter that counts, and what is found out about days before."""
        chance = self._year.random
        yesterday = self._year.today - DAY
        for meter in self._year.meters.values():
            is_there = meter.first <= yesterday < self._year.gone.get(meter.name, date.max)
            if is_there and len(meter.used) < meter.place_of(self._year.today):
                self._read(meter, yesterday, is_good=is_last)
            if not is_last and chance.random() < 0.06:
                self._find_out(meter)
        names = list(self._year.changed)
        chance.shuffle(names)
        for name in names:
            self._year.meters[name].tell(self._year.feed, self._year.changed[name])
        self._year.changed.clear()

    def _read(self, meter: Meter, day: date, *, is_good: bool) -> None:
        chance = self._year.random
        home = self._year.of_meter.get(meter.name)
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
        self.note_change(meter, first)

    def _part_on(self, meter: str, begin: datetime, end: datetime) -> float:
        stretches = list(self._year.switch.was_off.get(meter, ())[-3:])
        if meter in self._year.switch.off_since:
            stretches.append((self._year.switch.off_since[meter], self._year.town.now))
        dark = sum((max(timedelta(0), min(end, off_end) - max(begin, off)) for off, off_end in stretches), timedelta(0))
        return 1 - dark / (end - begin)

    def _find_out(self, meter: Meter) -> None:
        """A read comes late, turns out to be wrong, or a ratio was."""
        chance = self._year.random
        newest = len(meter.used)
        place = (
            chance.randrange(max(meter.start + 1, newest - 20 * meter.slots), newest + 1) if newest > meter.start else 0
        )
        if (
            not place
            or {place - 1, place} & (meter.lost | meter.exchanged)
            or meter.day_of(place - 1) < self._year.first
        ):
            return
        kind = chance.random()
        since = place - 1
        if kind < 0.6 and not meter.good[place]:
            meter.good[place] = True
            self._year.count("read back-filled")
        elif kind < 0.75 and meter.good[place] and meter.slots == 1:
            if not all(meter.good[place + one] for one in (-1, 1) if 0 <= place + one < len(meter.good)):
                return
            meter.good[place] = False
            self._year.count("read found suspect")
        elif kind < 0.9:
            more = Decimal(chance.randrange(1, 200)) / 100
            register = meter.registers[-1]
            meter.used[place - 1][register] += more
            self._year.count("day revised")
        else:
            return
        while since > meter.start and not meter.good[since]:
            since -= 1
        self.note_change(meter, since)
