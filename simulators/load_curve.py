"""What a customer draws, as a pure function of (seed, time).

A day is a list of steps: at these seconds the active and reactive power change, as appliances are switched. A few such
day shapes are drawn from the seed for each two months of the year, apart for working days and weekends; every calendar
day picks one of them by a hash of the seed and its number. So any day of any year costs the same, nothing has to be
simulated up to now, and a meter that is restarted goes on where it was.

Energy is the exact integral of the steps in integer watt-seconds (var-seconds), counted from the start of 2025: energy
between two instants is a difference of two such counts, so any split adds up. Instants are taken to whole seconds,
downwards. Half-open slots of the local day say which tariff counts. "Local" is a fixed offset from UTC, because habits
and tariff tables of a simulated street need no daylight saving.
"""

import enum
import random
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from operator import add, sub

from msgspec import Struct

__all__ = ["BLOCK_S", "SLOTS", "TARIFFS", "Energies", "Kind", "LoadCurve", "Power", "Quantity", "mix", "total"]

DAY_S = 86_400
BLOCK_S = 900  # demand period, 15 min
TARIFFS = 4
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = (date(2025, 1, 1) - date(1970, 1, 1)).days
SECOND = timedelta(seconds=1)

# (second of the local day, tariff): 1 sharp, 2 peak, 3 flat, 4 valley, as most Chinese tables number them.
SLOTS = tuple(
    (hour * 3600, tariff) for hour, tariff in ((0, 4), (7, 3), (10, 2), (12, 3), (17, 2), (19, 1), (21, 2), (23, 4))
)

WORKDAY_SHAPES = 3
WEEKEND_SHAPES = 2
DAYS_CACHED_MAX = 64

# Watt-seconds and var-seconds, by quantity and tariff: index = quantity * TARIFFS + tariff - 1.
Energies = tuple[int, ...]


class Kind(enum.Enum):
    HOUSEHOLD = "household"
    SHOP = "shop"
    FACTORY = "factory"


class Quantity(enum.IntEnum):
    """What a meter counts separately.

    Quadrants: I import inductive, II export inductive, III export capacitive, IV import capacitive.
    """

    FORWARD = 0
    REVERSE = 1
    Q1 = 2
    Q2 = 3
    Q3 = 4
    Q4 = 5


ZERO: Energies = (0,) * (len(Quantity) * TARIFFS)


def total(energies: Energies, quantity: Quantity) -> int:
    """All tariffs of one quantity."""
    return sum(energies[quantity * TARIFFS : (quantity + 1) * TARIFFS])


class Power(Struct, frozen=True):
    """Per phase, A first: one for household and shop, three for the factory. Negative watts are export."""

    watts: tuple[int, ...]
    vars: tuple[int, ...]


class LoadCurve:
    """One customer.

    utc_offset_s: what "local" means for habits and slots.
    slots: (second of the day, tariff 1..4), ascending, the first at 0.
    solar: a roof that exports on sunny days; None lets the seed decide (one household in eight).
    constant_w: drawn day and night beside all that, a heater left on.
    """

    def __init__(
        self,
        kind: Kind,
        seed: int,
        *,
        utc_offset_s: int = 8 * 3600,
        slots: Sequence[tuple[int, int]] = SLOTS,
        solar: bool | None = None,
        constant_w: int = 0,
    ) -> None:
        if not slots or slots[0][0] != 0 or list(slots) != sorted(slots):
            raise ValueError(f"slots {slots!r}, expected ascending and the first at second 0")
        self.kind = kind
        self.seed = seed
        self.slots = tuple(slots)
        traits = random.Random(f"{seed}/traits")
        has_roof = traits.randrange(8) == 0
        self.solar = kind is Kind.HOUSEHOLD and (has_roof if solar is None else solar)
        self._size = traits.randrange(600, 1500)  # per mille of the typical customer of the kind
        share = traits.randrange(310, 350)
        self._constant_w = constant_w
        self._shares = (share, traits.randrange(310, 350)) if kind is Kind.FACTORY else ()
        self.utc_offset_s = utc_offset_s
        self._shapes: dict[tuple[int, bool, int], _Shape] = {}
        self._days: dict[int, Energies] = {EPOCH_DAY: ZERO}
        self._months: dict[int, Energies] = {EPOCH_DAY: ZERO}

    @property
    def phases(self) -> int:
        return len(self._shares) + 1

    def power(self, at: datetime) -> Power:
        day, second = self._split(at)
        shape = self._shape(day)
        index = bisect_right(shape.starts, second) - 1
        return Power(self.by_phase(shape.watts[index]), self.by_phase(shape.vars[index]))

    def energy(self, start: datetime, end: datetime) -> Energies:
        """What flowed in [start, end). Any split adds up exactly; swapped bounds give the negative."""
        return tuple(map(sub, self.count(end), self.count(start)))

    def count(self, at: datetime) -> Energies:
        """The integral from the start of 2025, local; negative before it."""
        day, second = self._split(at)
        before = self._at_midnight(day)
        return tuple(map(add, before, self._shape(day).until(second))) if second else before

    def blocks(self, day: int, quantity: Quantity) -> tuple[int, ...]:
        """Watt-seconds of the 96 quarter hours of a local day, counted from 1970-01-01."""
        return self._shape(day).blocks(quantity)

    def day_of(self, at: datetime) -> int:
        """Local days since 1970-01-01."""
        return self._split(at)[0]

    def midnight(self, day: int) -> datetime:
        return EPOCH + timedelta(seconds=day * DAY_S - self.utc_offset_s)

    def tariff_at(self, second_of_day: int) -> int:
        return self.slots[bisect_right(self.slots, (second_of_day, TARIFFS)) - 1][1]

    def _split(self, at: datetime) -> tuple[int, int]:
        return divmod((at - EPOCH) // SECOND + self.utc_offset_s, DAY_S)

    def by_phase(self, amount: int) -> tuple[int, ...]:
        """The share of each phase; together the whole."""
        parts = [amount * share // 1000 for share in self._shares]
        return (*parts, amount - sum(parts))

    def _shape(self, day: int) -> "_Shape":
        weekend = (day + 3) % 7 >= 5  # 1970-01-01 was a Thursday
        season = (date.fromordinal(719_163 + day).month - 1) // 2
        key = (season, weekend, mix(self.seed, day) % (WEEKEND_SHAPES if weekend else WORKDAY_SHAPES))
        shape = self._shapes.get(key)
        if shape is None:
            generator = random.Random(f"{self.seed}/{season}/{weekend}/{key[2]}")
            steps = _DRAW[self.kind](generator, season, weekend)
            if self.solar:
                steps += _solar(generator, season)
            shape = self._shapes[key] = _Shape(steps, self._size, self.slots, self._constant_w)
        return shape

    def _at_midnight(self, day: int) -> Energies:
        """The count at the start of a local day. Months are kept for ever, days for a while."""
        known = self._days.get(day)
        if known is not None:
            return known
        first = date.fromordinal(719_163 + day).replace(day=1).toordinal() - 719_163
        count = self._days.get(day - 1)
        count, since = (self._at_month(first), first) if count is None else (count, day - 1)
        for past in range(since, day):
            count = tuple(map(add, count, self._shape(past).whole))
        if len(self._days) >= DAYS_CACHED_MAX:
            self._days.clear()
        self._days[day] = count
        return count

    def _at_month(self, first: int) -> Energies:
        """The count at the start of a month whose first day is `first`, reached month by month from what is known."""
        step = -1 if first < EPOCH_DAY else 1
        path = []
        while first not in self._months:
            path.append(first)
            first = _neighbour(first, -step)
        count = self._months[first]
        for target in reversed(path):
            span = range(first, target) if step > 0 else range(target, first)
            for day in span:
                count = tuple(map(add if step > 0 else sub, count, self._shape(day).whole))
            self._months[target] = count
            first = target
        return count


class _Shape:
    """One day: steps merged into segments of constant power, cut at the slot borders."""

    def __init__(
        self, steps: Sequence["_Step"], size: int, slots: tuple[tuple[int, int], ...], constant_w: int
    ) -> None:
        deltas: dict[int, list[int]] = {start: [0, 0] for start, _ in slots}
        deltas[0][0] = constant_w
        for start, stop, watts, permille in steps:
            amount = watts * size // 1000
            reactive = amount * permille // 1000
            for second, sign in ((max(0, start), 1), (min(stop, DAY_S), -1)):
                delta = deltas.setdefault(second, [0, 0])
                delta[0] += sign * amount
                delta[1] += sign * reactive
        deltas.pop(DAY_S, None)
        self.starts = sorted(deltas)
        self.watts: list[int] = []
        self.vars: list[int] = []
        watts = reactive = 0
        for second in self.starts:
            watts += deltas[second][0]
            reactive += deltas[second][1]
            self.watts.append(watts)
            self.vars.append(reactive)
        self._tariffs = [tariff for _, tariff in slots]
        self._slot_starts = [start for start, _ in slots]
        self._slot_counts: list[Energies] = []
        self._blocks: dict[Quantity, tuple[int, ...]] = {}
        count = ZERO
        for slot in range(len(slots)):
            self._slot_counts.append(count)
            end = self._slot_starts[slot + 1] if slot + 1 < len(slots) else DAY_S
            count = self._within(slot, end)
        self.whole = count

    def until(self, second: int) -> Energies:
        """Energies from midnight to `second`."""
        return self._within(bisect_right(self._slot_starts, second) - 1, second)

    def blocks(self, quantity: Quantity) -> tuple[int, ...]:
        if quantity not in self._blocks:
            counts = [total(self.until(second), quantity) for second in range(0, DAY_S, BLOCK_S)]
            counts.append(total(self.whole, quantity))
            self._blocks[quantity] = tuple(map(sub, counts[1:], counts))
        return self._blocks[quantity]

    def _within(self, slot: int, end: int) -> Energies:
        count = list(self._slot_counts[slot])
        column = self._tariffs[slot] - 1
        start = self._slot_starts[slot]
        index = bisect_right(self.starts, start) - 1
        last = len(self.starts) - 1
        while start < end:
            stop = min(self.starts[index + 1], end) if index < last else end
            watts, reactive, span = self.watts[index], self.vars[index], stop - start
            if watts >= 0:
                count[column] += watts * span
                quadrant = Quantity.Q1 if reactive >= 0 else Quantity.Q4
            else:
                count[TARIFFS + column] -= watts * span
                quadrant = Quantity.Q2 if reactive >= 0 else Quantity.Q3
            count[quadrant * TARIFFS + column] += abs(reactive) * span
            start, index = stop, index + 1
        return tuple(count)


# Start and stop second of the day, watts, and vars per thousand watts (negative: capacitive).
_Step = tuple[int, int, int, int]


def _household(generator: random.Random, season: int, weekend: bool) -> list[_Step]:
    draw = generator.randrange
    steps: list[_Step] = [(0, DAY_S, draw(25, 60), -600)]  # standby electronics are capacitive
    minute = draw(0, 60)
    while minute < 1440:  # refrigerator
        steps.append((minute * 60, (minute + draw(12, 20)) * 60, 110, 450))
        minute += draw(45, 70)
    rise = draw(7 * 60, 9 * 60) if weekend else draw(6 * 60, 7 * 60 + 30)
    steps.append((rise * 60, (rise + draw(5, 9)) * 60, 1800, 0))  # kettle
    steps.append(((rise + 12) * 60, (rise + draw(20, 35)) * 60, 900, 100))  # breakfast
    if weekend:
        noon = draw(11 * 60 + 20, 12 * 60 + 20)
        steps.append((noon * 60, (noon + draw(25, 50)) * 60, 1500, 50))
        wash = draw(9 * 60, 16 * 60)
        steps.append((wash * 60, (wash + 20) * 60, 1900, 50))  # washing machine heats, then turns
        steps.append(((wash + 20) * 60, (wash + draw(60, 90)) * 60, 250, 700))
    dinner = draw(17 * 60 + 30, 19 * 60)
    steps.append((dinner * 60, (dinner + draw(30, 60)) * 60, 1700, 60))
    evening = draw(18 * 60, 19 * 60 + 30)
    night = draw(22 * 60, 23 * 60 + 40)
    steps.append((evening * 60, night * 60, draw(150, 320), 80))  # lights, television
    heater = draw(20 * 60, 22 * 60)
    steps.append((heater * 60, (heater + draw(25, 55)) * 60, 2000, 0))  # water heater
    if season in (3,) or (season in (2, 4) and draw(3)):  # cooling, July and August for sure
        cool = draw(13 * 60, 15 * 60) if weekend else draw(18 * 60, 19 * 60)
        while cool < 1440:
            steps.append((cool * 60, (cool + draw(12, 22)) * 60, draw(850, 1100), 400))
            cool += draw(28, 40)
    if season in (0, 5):  # electric heating
        warm = draw(17 * 60, 18 * 60)
        while warm < night:
            steps.append((warm * 60, (warm + draw(15, 30)) * 60, 1200, 0))
            warm += draw(35, 60)
    return steps


def _shop(generator: random.Random, season: int, weekend: bool) -> list[_Step]:
    draw = generator.randrange
    opens, closes = draw(8 * 60, 9 * 60), draw(20 * 60 + 30, 22 * 60)
    steps: list[_Step] = [(0, DAY_S, draw(180, 320), 300)]  # cold shelves, sign
    steps.append((opens * 60, closes * 60, draw(900, 1500) + 300 * weekend, 150))
    minute = draw(0, 40)
    while minute < 1440:  # compressors
        steps.append((minute * 60, (minute + draw(15, 25)) * 60, 700, 600))
        minute += draw(35, 60)
    if season in (2, 3):
        minute = opens + draw(30, 90)
        while minute < closes:
            steps.append((minute * 60, (minute + draw(20, 35)) * 60, 2600, 480))
            minute += draw(40, 55)
    return steps


def _factory(generator: random.Random, season: int, weekend: bool) -> list[_Step]:
    draw = generator.randrange
    # At night the fixed compensation is too much for what still runs, and the whole turns capacitive.
    steps: list[_Step] = [(0, DAY_S, draw(1200, 2500), 350)]
    steps += [(0, 6 * 3600, 300, -4000), (22 * 3600, DAY_S, 300, -4000)]
    if weekend and draw(2):
        return steps
    start = draw(7 * 60 + 30, 8 * 60 + 15)
    for begin, end in ((start, 12 * 60), (13 * 60, draw(17 * 60, 19 * 60))):
        steps.append((begin * 60, end * 60, draw(7000, 11000), 550))  # line drive, air
        minute = begin + draw(5, 20)
        while minute < end:  # machines and furnace
            steps.append((minute * 60, min(end, minute + draw(10, 30)) * 60, draw(5000, 16000), draw(200, 700)))
            minute += draw(20, 45)
    return steps


def _solar(generator: random.Random, season: int) -> list[_Step]:
    """Half-hour steps of a parabola over the day's light, dimmed by that day's cloud."""
    peak = (2200, 3000, 3600, 3800, 3000, 2200)[season] * generator.randrange(250, 1000) // 1000
    rise, fall = ((14, 34), (12, 36), (11, 38), (11, 38), (12, 36), (14, 34))[season]  # half hours
    middle, reach = (rise + fall) // 2, (fall - rise) // 2
    steps: list[_Step] = []
    for half_hour in range(rise, fall):
        watts = peak * max(0, reach * reach - (half_hour - middle) ** 2) // (reach * reach)
        steps.append((half_hour * 1800, (half_hour + 1) * 1800, -watts, 0))
    return steps


_DRAW = {Kind.HOUSEHOLD: _household, Kind.SHOP: _shop, Kind.FACTORY: _factory}


def _neighbour(first: int, step: int) -> int:
    """The first day of the next (step 1) or previous (step −1) month."""
    day = date.fromordinal(719_163 + first)
    day = (day + timedelta(days=32)).replace(day=1) if step > 0 else (day - timedelta(days=1)).replace(day=1)
    return day.toordinal() - 719_163


def mix(seed: int, number: int) -> int:
    """A well-spread 64-bit number from two others (splitmix64), cheaper than seeding a generator for every day."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return mixed ^ mixed >> 31
