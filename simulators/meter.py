"""One electricity meter, whatever protocol it speaks: registers, clock, relay, settlements and freezes.

Registers follow a load curve, so that any of them can be told for any instant: nothing runs in the background, and
every method takes `now`, the true time (aware UTC). What people do to the meter (relay, clock, clearing) is kept as a
history beside the curve: energy that would have flowed while the relay was open is taken off again.

Displayed energies are truncated to 0.01 kWh, each register for itself, as real meters do. The sum of the four tariffs
may therefore stay up to 0.03 kWh below the total; inside, in watt-seconds, they are equal.

The meter's own clock runs off by some parts per million. Settlements and freezes happen at its midnight, not at ours.
Tariff slots and demand blocks keep to true local time: seconds of drift would not show there.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from operator import add, sub
from zoneinfo import ZoneInfo

from msgspec import Struct

from protocols.values import MeterAddress
from simulators.load_curve import BLOCK_S, TARIFFS, Energies, Kind, LoadCurve, Power, Quantity, total
from simulators.measurement import Instant, kilo, measure

__all__ = [
    "CURVE_DAYS",
    "DAILY_FREEZES",
    "HOURLY_FREEZES",
    "INSTANT_FREEZES",
    "RELAY_RECORDS",
    "SETTLEMENTS",
    "TIMED_FREEZES",
    "Demand",
    "MeterModel",
    "RelayRecord",
    "RelayRefused",
    "display_energy",
]

CHINA = ZoneInfo("Asia/Shanghai")
SETTLEMENTS = 12
DAILY_FREEZES = 62
CURVE_DAYS = 62  # of load curve kept, as most makers promise two months
HOURLY_FREEZES = 254
TIMED_FREEZES = 12
INSTANT_FREEZES = 3
RELAY_RECORDS = 10
DISPLAY_WS = 36_000  # 0.01 kWh
ROLLOVER = 10**8  # 999999.99 kWh and the next hundredth is 0
DAY_BLOCKS = 86_400 // BLOCK_S
NO_ENERGY: Energies = (0,) * (len(Quantity) * TARIFFS)

# Register totals at the start of 2025, in kWh: enough behind it that settlements before that date stay above zero.
_START_KWH = {Kind.HOUSEHOLD: (6_000, 60_000), Kind.SHOP: (40_000, 300_000), Kind.FACTORY: (150_000, 700_000)}
_TARIFF_SHARES = (15, 30, 30, 25)  # per cent of the start value: sharp, peak, flat, valley


class RelayRefused(Exception):
    """The relay does not obey now; the message says why."""


class Demand(Struct, frozen=True):
    """kilo: kW or kvar, to 0.0001. at: end of the quarter hour, local time; None: nothing drawn yet."""

    kilo: Decimal
    at: datetime | None


class RelayRecord(Struct, frozen=True):
    """One operation. at: the meter's clock. operator: C0..C3 of the order. energies: as counted then."""

    at: datetime
    operator: bytes
    energies: Energies


class _Outage(Struct):
    """The relay was open from `start` until `end` (None: still); lost: what would have flowed, once it is over."""

    start: datetime
    end: datetime | None = None
    lost: Energies = NO_ENERGY


def display_energy(watt_seconds: int) -> Decimal:
    """kWh (or kvarh) as the display has it: truncated to 0.01, rolling over at 999999.99."""
    return Decimal(watt_seconds // DISPLAY_WS % ROLLOVER).scaleb(-2)


class MeterModel:
    """A meter and the customer behind it.

    clock_set_at: when its clock was last right; `drift_ppm` has worked on it since. Drift and `clock_offset_s` come
    from the seed when not given (within 20 ppm and 20 s).
    press_after_s: a customer who presses the key so long after closing was permitted; None: nobody does.
    faults: seven status words or-ed into what the meter finds itself, for tests that need a fault shown.
    """

    def __init__(
        self,
        address: MeterAddress,
        *,
        seed: int,
        kind: Kind = Kind.HOUSEHOLD,
        timezone: tzinfo = CHINA,
        clock_set_at: datetime,
        drift_ppm: int | None = None,
        clock_offset_s: int | None = None,
        solar: bool | None = None,
        press_after_s: float | None = None,
    ) -> None:
        traits = random.Random(f"{seed}/meter")
        self.address = address
        self.seed = seed
        self.timezone = timezone
        self.press_after_s = press_after_s
        self.faults = [0] * 7
        offset = clock_set_at.astimezone(timezone).utcoffset() or timedelta()
        self.curve = LoadCurve(kind, seed, utc_offset_s=int(offset.total_seconds()), solar=solar)
        self._start = _start_values(traits, kind, export=self.curve.solar)
        self._drift_ppm = traits.randint(-20, 20) if drift_ppm is None else drift_ppm
        self._clock_offset = timedelta(seconds=traits.randint(-20, 20) if clock_offset_s is None else clock_offset_s)
        self._clock_set_at = clock_set_at
        self._began_at = datetime.min.replace(tzinfo=UTC)  # energies and history before this are cleared
        self._cleared = NO_ENERGY
        self._demand_cleared_at = self._began_at
        self._outages: list[_Outage] = []
        self._restore_at: datetime | None = None
        self._restore_permits = False
        self._press_at: datetime | None = None
        self._instant_freezes: list[datetime] = []
        self._freeze_pattern: tuple[str, datetime] | None = None
        self.commanded_open = False
        self.protected = False
        self.close_permitted = False
        self.alarm = False
        self.trips: list[RelayRecord] = []
        self.closes: list[RelayRecord] = []
        self.trip_count = 0
        self.close_count = 0

    @property
    def phases(self) -> int:
        return self.curve.phases

    # ------------------------------------------------------------------------------------------ clock

    def clock(self, now: datetime) -> datetime:
        """The meter's wall time, without zone."""
        elapsed = now - self._clock_set_at
        local = now.astimezone(self.timezone).replace(tzinfo=None)
        return local + self._clock_offset + elapsed * self._drift_ppm // 1_000_000

    def set_clock(self, local: datetime, now: datetime) -> None:
        """Make the clock show `local` now; it drifts on from there."""
        self._clock_set_at = now
        self._clock_offset = local - now.astimezone(self.timezone).replace(tzinfo=None)

    def true_time(self, local: datetime) -> datetime:
        """When the meter's clock shows `local`; as it is set now, also for the past."""
        shown = (local - self._clock_offset).replace(tzinfo=self.timezone).astimezone(UTC)
        at = shown
        for _ in range(2):  # each turn leaves some millionths of the error before it
            at = shown - (at - self._clock_set_at) * self._drift_ppm // 1_000_000
        return at

    # ------------------------------------------------------------------------------------------ energy

    def energies(self, at: datetime) -> Energies:
        """Watt-seconds and var-seconds counted by `at`, which may be past."""
        if at < self._began_at:
            return NO_ENERGY
        return tuple(map(sub, self._uncleared(at), self._cleared))

    def energy(self, quantity: Quantity, tariff: int, at: datetime) -> Decimal:
        """As displayed; tariff 0 is the total."""
        counted = self.energies(at)
        return display_energy(total(counted, quantity) if tariff == 0 else counted[quantity * TARIFFS + tariff - 1])

    def clear_energies(self, now: datetime) -> None:
        """Registers, demands, settlements and freezes start from nothing."""
        self._cleared = self._uncleared(now)
        self._began_at = self._demand_cleared_at = now
        self._instant_freezes.clear()

    def clear_demand(self, now: datetime) -> None:
        self._demand_cleared_at = now

    def settlement_at(self, back: int, now: datetime) -> datetime | None:
        """True time of the `back`-th last settlement, the first of a month at 00:00; None where none is kept."""
        if not 1 <= back <= SETTLEMENTS:
            return None
        local = self.clock(now)
        months = local.year * 12 + local.month - back
        at = self.true_time(datetime(months // 12, months % 12 + 1, 1))  # noqa: DTZ001 - meter time has no zone
        return at if at >= self._began_at else None

    def max_demand(self, quantity: Quantity, tariff: int, period: int, now: datetime) -> Demand | None:
        """Of the running month (period 0) or the `period`-th last settled one; None where none is kept."""
        end = now if period == 0 else self.settlement_at(period, now)
        if end is None:
            return None
        return self._max_demand(quantity, tariff, self._demand_since(end), end)

    def demand_at(self, quantity: Quantity, tariff: int, at: datetime) -> Demand:
        """The maximum of the month that was running at `at`."""
        return self._max_demand(quantity, tariff, self._demand_since(at), at)

    def present_demand(self, quantity: Quantity, now: datetime) -> Decimal:
        """Average of the last whole quarter hour, kW or kvar."""
        local = now + timedelta(seconds=self.curve.utc_offset_s)
        end = now - timedelta(seconds=(local.minute * 60 + local.second) % BLOCK_S, microseconds=local.microsecond)
        start = end - timedelta(seconds=BLOCK_S)
        flowed = total(self.energies(end), quantity) - total(self.energies(start), quantity)
        return kilo(flowed * 10 // BLOCK_S)

    # ------------------------------------------------------------------------------------------ freezes

    def daily_freeze(self, back: int, now: datetime) -> datetime | None:
        """True time of the meter's `back`-th last midnight, for `energies`; None where none is kept."""
        local = self.clock(now).replace(hour=0, minute=0, second=0, microsecond=0)
        return self._kept(local - timedelta(days=back - 1)) if 1 <= back <= DAILY_FREEZES else None

    def hourly_freeze(self, back: int, now: datetime) -> datetime | None:
        local = self.clock(now).replace(minute=0, second=0, microsecond=0)
        return self._kept(local - timedelta(hours=back - 1)) if 1 <= back <= HOURLY_FREEZES else None

    def instant_freeze(self, back: int, now: datetime) -> datetime | None:
        return self._instant_freezes[-back] if 1 <= back <= len(self._instant_freezes) else None

    def timed_freeze(self, back: int, now: datetime) -> datetime | None:
        """By the pattern set last, as far back as it has been set."""
        if self._freeze_pattern is None or not 1 <= back <= TIMED_FREEZES:
            return None
        pattern, since = self._freeze_pattern
        for local in _moments_back(pattern, self.clock(now)):
            at = self._kept(local)
            if at is None or at < since:
                return None
            back -= 1
            if back == 0:
                return at
        return None

    def freeze_now(self, now: datetime) -> None:
        self._instant_freezes = [*self._instant_freezes, now][-INSTANT_FREEZES:]

    def set_freeze_pattern(self, pattern: str, now: datetime) -> None:
        """pattern: MMDDhhmm digits with 99 from the month side for "every"."""
        self._freeze_pattern = (pattern, now)

    def curve_points(self, start: datetime, count: int, now: datetime) -> list[tuple[datetime, datetime]]:
        """Quarter hours recorded from the meter's time `start` on, rounded up: (meter's time, true time)."""
        period = timedelta(seconds=BLOCK_S)
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
        local = midnight - period * ((midnight - start) // period)
        oldest = self.clock(now) - timedelta(days=CURVE_DAYS)
        points = []
        for moment in (local + period * index for index in range(count)):
            at = self._kept(moment)
            if at is not None and at <= now and moment >= oldest:
                points.append((moment, at))
        return points

    # ------------------------------------------------------------------------------------------ relay

    def relay_open(self, at: datetime) -> bool:
        """Now, or at a moment that is past."""
        self._advance(at)
        return any(outage.start <= at and (outage.end is None or at < outage.end) for outage in self._outages)

    def open_relay(
        self,
        now: datetime,
        operator: bytes = bytes(4),
        *,
        restore_after: timedelta | None = None,
        restore_permits: bool = False,
    ) -> None:
        """Cut the supply, for good or for a time. Raises RelayRefused while the supply is protected."""
        is_open = self.relay_open(now)
        if self.protected:
            raise RelayRefused("the supply is protected")
        self.commanded_open = True
        self.close_permitted = False
        self._press_at = None
        self._restore_at = None if restore_after is None else now + restore_after
        self._restore_permits = restore_permits
        if not is_open:
            self._outages.append(_Outage(now))
            self.trip_count += 1
            self.trips = [*self.trips, self._record(now, operator)][-RELAY_RECORDS:]

    def permit_close(self, now: datetime) -> None:
        """Arm: the customer may close with the key. Without an open relay it does nothing."""
        is_open = self.relay_open(now)
        self.commanded_open = False
        self._restore_at = None
        if is_open:
            self.close_permitted = True
            self._press_at = None if self.press_after_s is None else now + timedelta(seconds=self.press_after_s)

    def close_relay(self, now: datetime, operator: bytes = bytes(4)) -> None:
        self._advance(now)
        self._close(now, operator)

    def press_key(self, now: datetime) -> bool:
        """The customer's key; True when the supply is on afterwards."""
        if self.relay_open(now) and self.close_permitted:
            self._close(now, bytes(4))
        return not self.relay_open(now)

    def protect(self, now: datetime, operator: bytes = bytes(4)) -> None:
        """Keep the supply (保电): close, and refuse every order to open."""
        self.close_relay(now, operator)
        self.protected = True

    def unprotect(self, now: datetime) -> None:
        self._advance(now)
        self.protected = False

    # ------------------------------------------------------------------------------------------ measured now

    def power(self, now: datetime) -> Power:
        """Nothing while the relay is open."""
        if self.relay_open(now):
            nothing = (0,) * self.phases
            return Power(nothing, nothing)
        return self.curve.power(now)

    def instant(self, now: datetime) -> Instant:
        return measure(self.power(now), self.seed, now)

    def status_words(self, now: datetime) -> tuple[int, ...]:
        """Words 1..7 of DL/T 645-2007; other protocols pick their bits from them."""
        is_open = self.relay_open(now)
        power = self.power(now)
        exports = sum(power.watts) < 0
        words = [0] * 7
        words[0] = 1 << 1 | exports << 4 | (sum(power.vars) < 0) << 5  # demand by blocks; directions
        for phase, (watts, reactive) in enumerate(zip(power.watts, power.vars, strict=True)):
            words[1] |= (watts < 0) << phase | (reactive < 0) << phase + 4
        words[2] = is_open << 4 | self.commanded_open << 6 | self.alarm << 7 | self.protected << 12
        return tuple(word | fault for word, fault in zip(words, self.faults, strict=True))

    # ------------------------------------------------------------------------------------------ inside

    def _uncleared(self, at: datetime) -> Energies:
        counted = tuple(map(add, self._start, self.curve.count(at)))
        for outage in self._outages:
            if outage.start >= at:
                break
            over = outage.end is not None and outage.end <= at
            lost = outage.lost if over else self.curve.energy(outage.start, at)
            counted = tuple(map(sub, counted, lost))
        return counted

    def _advance(self, now: datetime) -> None:
        """Let happen what was due by now: timed restoring, the customer's key."""
        if self._restore_at is not None and now >= self._restore_at:
            due, self._restore_at = self._restore_at, None
            if self._restore_permits:
                self.commanded_open = False
                self.close_permitted = True
                self._press_at = None if self.press_after_s is None else due + timedelta(seconds=self.press_after_s)
            else:
                self._close(due, bytes(4))
        if self._press_at is not None and now >= self._press_at:
            self._close(self._press_at, bytes(4))

    def _close(self, now: datetime, operator: bytes) -> None:
        self.commanded_open = self.close_permitted = False
        self._press_at = self._restore_at = None
        if self._outages and self._outages[-1].end is None:
            outage = self._outages[-1]
            outage.end = now
            outage.lost = self.curve.energy(outage.start, now)
            self.close_count += 1
            self.closes = [*self.closes, self._record(now, operator)][-RELAY_RECORDS:]

    def _record(self, now: datetime, operator: bytes) -> RelayRecord:
        return RelayRecord(self.clock(now), operator, self.energies(now))

    def _kept(self, local: datetime) -> datetime | None:
        at = self.true_time(local)
        return at if at >= self._began_at else None

    def _demand_since(self, end: datetime) -> datetime:
        local = self.clock(end) - timedelta(microseconds=1)  # at the settlement itself the month is the one that ends
        start = self.true_time(local.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
        return max(start, self._demand_cleared_at) if self._demand_cleared_at <= end else max(start, self._began_at)

    def _max_demand(self, quantity: Quantity, tariff: int, start: datetime, end: datetime) -> Demand:
        curve = self.curve
        best, best_end = 0, None
        for day in range(curve.day_of(start), curve.day_of(end) + 1):
            midnight = curve.midnight(day)
            first = max(0, -((midnight - start) // timedelta(seconds=BLOCK_S)))
            last = min(DAY_BLOCKS, (end - midnight) // timedelta(seconds=BLOCK_S))
            blocks = list(curve.blocks(day, quantity))[:last]
            for index in self._touched(midnight, last):
                begin = midnight + timedelta(seconds=index * BLOCK_S)
                flowed = map(sub, self.energies(begin + timedelta(seconds=BLOCK_S)), self.energies(begin))
                blocks[index] = total(tuple(flowed), quantity)
            for index in range(first, last):
                if blocks[index] > best and (tariff == 0 or curve.tariff_at(index * BLOCK_S) == tariff):
                    best, best_end = blocks[index], midnight + timedelta(seconds=(index + 1) * BLOCK_S)
        at = None if best_end is None else best_end.astimezone(self.timezone).replace(tzinfo=None)
        return Demand(kilo(best * 10 // BLOCK_S), at)

    def _touched(self, midnight: datetime, last: int) -> Iterator[int]:
        """Quarter hours of a day in which the relay was open for a while."""
        period = timedelta(seconds=BLOCK_S)
        for outage in self._outages:
            stop = last if outage.end is None else min(last, -((midnight - outage.end) // period))
            yield from range(max(0, (outage.start - midnight) // period), stop)


def _start_values(traits: random.Random, kind: Kind, *, export: bool) -> Energies:
    kwh = traits.randrange(*_START_KWH[kind])
    forward = kwh * 3_600_000 + traits.randrange(3_600_000)
    shares = {Quantity.FORWARD: 1000, Quantity.Q1: 320, Quantity.Q4: 40}
    if export:
        shares |= {Quantity.REVERSE: 300, Quantity.Q2: 30}
    counted = list(NO_ENERGY)
    for quantity, permille in shares.items():
        for column, share in enumerate(_TARIFF_SHARES):
            counted[quantity * TARIFFS + column] = forward * permille // 1000 * share // 100
    return tuple(counted)


def _moments_back(pattern: str, local: datetime) -> Iterator[datetime]:
    """Moments of an MMDDhhmm pattern (99: every) at or before `local`, latest first."""
    month, day, hour, minute = (int(pattern[at : at + 2]) for at in range(0, 8, 2))
    at = local.replace(minute=minute, second=0, microsecond=0)
    back: Callable[[datetime], datetime]
    if hour == 99:
        back = _hour_before
    elif day == 99:
        at, back = at.replace(hour=hour), _day_before
    elif month == 99:
        at, back = at.replace(hour=hour, day=day), _month_before
    else:
        at, back = at.replace(hour=hour, day=day, month=month), _year_before
    if at > local:
        at = back(at)
    for _ in range(TIMED_FREEZES):
        yield at
        at = back(at)


def _hour_before(moment: datetime) -> datetime:
    return moment - timedelta(hours=1)


def _day_before(moment: datetime) -> datetime:
    return moment - timedelta(days=1)


def _month_before(moment: datetime) -> datetime:
    return (moment.replace(day=1) - timedelta(days=1)).replace(day=moment.day)


def _year_before(moment: datetime) -> datetime:
    return moment.replace(year=moment.year - 1)
