"""One electricity meter, whatever protocol it speaks: registers, clock, relay, settlements and freezes.

Registers follow a load curve, so that any of them can be told for any instant: nothing runs in the background, and
every method takes `now`, the true time (aware UTC). What happens to the meter (relay, power cuts, clock, clearing) is
kept as a history beside the curve: energy that would have flowed without supply is taken off again.

Displayed energies are truncated to 0.01 kWh, each register for itself, as real meters do. The sum of the four tariffs
may therefore stay up to 0.03 kWh below the total; inside, in watt-seconds, they are equal.

The meter's own clock runs off by some parts per million. Settlements and freezes happen at its midnight, not at ours.
Tariff slots and demand blocks keep to true local time: seconds of drift would not show there.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import islice
from operator import add, sub
from zoneinfo import ZoneInfo

from msgspec import Struct

from protocols.values import MeterAddress
from simulators.event_journal import POWER_FAILURE, RELAY_MALFUNCTION, Event, EventJournal
from simulators.load_curve import BLOCK_S, TARIFFS, Energies, Kind, LoadCurve, Power, Quantity, total
from simulators.measurement import Instant, kilo, measure
from simulators.meter_calendar import moments_back, settlements_back
from simulators.meter_clock import STOPPED_PPM, MeterClock
from simulators.relay import Relay, RelayRefused, Span

__all__ = [
    "DAILY_FREEZES",
    "DISPLAY_WS",
    "HOURLY_FREEZES",
    "INSTANT_FREEZES",
    "RECORD_DAYS",
    "RELAY_RECORDS",
    "SETTLEMENTS",
    "SWITCH_FREEZES",
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
RECORD_DAYS = 62  # of load records kept, as most makers promise two months
HOURLY_FREEZES = 254
TIMED_FREEZES = 12
INSTANT_FREEZES = 3
SWITCH_FREEZES = 2
CLEARS_KEPT = 10
RELAY_RECORDS = 10
DISPLAY_WS = 36_000  # 0.01 kWh
ROLLOVER = 10**8  # 999999.99 kWh and the next hundredth is 0
DAY_BLOCKS = 86_400 // BLOCK_S
NO_ENERGY: Energies = (0,) * (len(Quantity) * TARIFFS)

# Register totals at the start of 2025, in kWh: enough behind it that settlements before that date stay above zero.
_START_KWH = {Kind.HOUSEHOLD: (6_000, 60_000), Kind.SHOP: (40_000, 300_000), Kind.FACTORY: (150_000, 700_000)}
_TARIFF_SHARES = (15, 30, 30, 25)  # per cent of the start value: sharp, peak, flat, valley


class Demand(Struct, frozen=True):
    """kilo: kW or kvar, to 0.0001. at: end of the quarter hour, local time; None: nothing drawn yet."""

    kilo: Decimal
    at: datetime | None


class RelayRecord(Struct, frozen=True):
    """One operation. at: the meter's clock. operator: C0..C3 of the order. energies: as counted then."""

    at: datetime
    operator: bytes
    energies: Energies


class _Outage(Span):
    """No supply, for whatever reason; lost: what would have flowed, once it is over."""

    lost: Energies = NO_ENERGY


def display_energy(watt_seconds: int) -> Decimal:
    """kWh (or kvarh) as the display has it: truncated to 0.01, rolling over at 999999.99."""
    return Decimal(watt_seconds // DISPLAY_WS % ROLLOVER).scaleb(-2)


class MeterModel:
    """A meter and the customer behind it.

    clock_set_at: when its clock was last right; `drift_ppm` has worked on it since. Drift and `clock_offset_s` come
    from the seed when not given (within 20 ppm and 20 s).
    press_after_s: a customer who presses the key so long after closing was permitted; None: nobody does.
    number: the meter number on its plate, 12 digits; its address when not given.
    faults: seven status words or-ed into what the meter finds itself, for tests that need a fault shown.
    constant_w: what the customer draws day and night, beside what the seed decides. haste: from clock_set_at on the registers count
    so many times what flows, so that minutes use up what hours would; power is shown as it is.
    settlement_days: (day 1..28, hour) of every month. clock_lost: it stood still without power and was not set since.
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
        number: str | None = None,
        constant_w: int = 0,
        haste: int = 1,
    ) -> None:
        traits = random.Random(f"{seed}/meter")
        self.address = address
        self.number = address.digits if number is None else number
        self.seed = seed
        self.timezone = timezone
        self.faults = [0] * 7
        offset = clock_set_at.astimezone(timezone).utcoffset() or timedelta()
        self.curve = LoadCurve(kind, seed, utc_offset_s=int(offset.total_seconds()), solar=solar, constant_w=constant_w)
        self._haste = haste
        self._hurried_since = clock_set_at
        self._start = _start_values(traits, kind, export=self.curve.solar)
        self._clock = MeterClock(
            timezone,
            drift_ppm=traits.randint(-20, 20) if drift_ppm is None else drift_ppm,
            offset=timedelta(seconds=traits.randint(-20, 20) if clock_offset_s is None else clock_offset_s),
            set_at=clock_set_at,
        )
        self.clock_lost = False
        self._began_at = datetime.min.replace(tzinfo=UTC)  # energies and history before this are cleared
        self._clears: list[tuple[datetime, Energies]] = []
        self._demand_cleared_at = self._began_at
        self._outages: list[_Outage] = []
        self._power_cuts: list[Span] = []
        self._clock_ppm = self._clock.drift_ppm  # outside power cuts
        self._instant_freezes: list[datetime] = []
        self._freeze_pattern: tuple[str, datetime] | None = None
        self._switches: dict[int, list[tuple[datetime, datetime]]] = {}
        self.settlement_days: list[tuple[int, int]] = [(1, 0)]
        self.events = EventJournal()
        self.relay = Relay(self._switched, press_after_s=press_after_s)
        self.cover_open = self.terminal_cover_open = False
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
        return self._clock.shown(now)

    def set_clock(self, local: datetime, now: datetime) -> None:
        """Make the clock show `local` now; it drifts on from there."""
        self._clock.set(local, now)
        self.clock_lost = False

    def step_clock(self, by: timedelta, now: datetime) -> None:
        self._clock.step(by, now)

    def drift_clock(self, ppm: int | None, now: datetime) -> None:
        """Gain `ppm` from now on; None: what the meter was made with."""
        self._clock_ppm = self._clock.drift_ppm if ppm is None else ppm
        if not (self.power_off(now) and self.clock_lost):
            self._clock.drift(self._clock_ppm, now)

    def true_time(self, local: datetime) -> datetime:
        """When the meter's clock showed, or will show, `local`."""
        return self._clock.true_time(local)

    # ------------------------------------------------------------------------------------------ power

    def power_off(self, at: datetime) -> bool:
        """Now, or at a moment that is past."""
        return any(span.has(at) for span in self._power_cuts)

    def cut_power(self, now: datetime, *, clock_stops: bool = False) -> None:
        """The meter is dead until `restore_power`; its clock goes on from its battery, or stands still."""
        if self.power_off(now):
            return
        self.relay.advance(now)
        self._power_cuts.append(Span(now))
        self._follow_supply(now)
        if clock_stops:
            self._clock.drift(STOPPED_PPM, now)
            self.clock_lost = True
        self.events.add(POWER_FAILURE, Event(start=now, end=None, shown=self.clock(now), shown_end=None))

    def restore_power(self, now: datetime) -> None:
        if not self.power_off(now):
            return
        self._power_cuts[-1].end = now
        self._follow_supply(now)
        if self.clock_lost:
            self._clock.drift(self._clock_ppm, now)
        self.events.end(POWER_FAILURE, now, self.clock(now))

    # ------------------------------------------------------------------------------------------ energy

    def energies(self, at: datetime) -> Energies:
        """Watt-seconds and var-seconds counted by `at`, which may be past."""
        cleared = next((base for since, base in reversed(self._clears) if since <= at), NO_ENERGY)
        return tuple(map(sub, self._uncleared(at), cleared))

    def energy(self, quantity: Quantity, tariff: int, at: datetime) -> Decimal:
        """As displayed; tariff 0 is the total."""
        counted = self.energies(at)
        return display_energy(total(counted, quantity) if tariff == 0 else counted[quantity * TARIFFS + tariff - 1])

    def clear_energies(self, now: datetime) -> None:
        """Registers, demands, settlements and freezes start from nothing."""
        self._clears = [*self._clears, (now, self._uncleared(now))][-CLEARS_KEPT:]
        self._began_at = self._demand_cleared_at = now
        self._instant_freezes.clear()
        self._switches.clear()

    def clear_demand(self, now: datetime) -> None:
        self._demand_cleared_at = now

    def settlement_at(self, back: int, now: datetime) -> datetime | None:
        """True time of the `back`-th last settlement; None where none is kept."""
        if not 1 <= back <= SETTLEMENTS or not self.settlement_days:
            return None
        local = next(islice(settlements_back(self.settlement_days, self.clock(now)), back - 1, None))
        at = self.true_time(local)
        return at if at >= self._began_at else None

    def max_demand(
        self,
        quantities: Quantity | Sequence[Quantity],
        tariff: int,
        period: int,
        now: datetime,
        combine: Callable[[Sequence[int]], int] = sum,
    ) -> Demand | None:
        """Of the running period (0) or the `period`-th last settled one; None where none is kept.

        quantities, combine: what flowed in a quarter hour, and how it makes the amount: their sum, or another.
        """
        end = now if period == 0 else self.settlement_at(period, now)
        return None if end is None else self.demand_at(quantities, tariff, end, combine)

    def demand_at(
        self,
        quantities: Quantity | Sequence[Quantity],
        tariff: int,
        at: datetime,
        combine: Callable[[Sequence[int]], int] = sum,
    ) -> Demand:
        """The maximum of the settlement period that was running at `at`."""
        several = (quantities,) if isinstance(quantities, Quantity) else quantities
        return self._max_demand(several, tariff, self._demand_since(at), at, combine)

    def present_demand(self, quantity: Quantity, now: datetime) -> Decimal:
        """Average of the last whole quarter hour, kW or kvar."""
        local = now + timedelta(seconds=self.curve.utc_offset_s)
        end = now - timedelta(seconds=(local.minute * 60 + local.second) % BLOCK_S, microseconds=local.microsecond)
        start = max(end - timedelta(seconds=BLOCK_S), self._began_at)
        flowed = 0 if end <= start else total(self.energies(end), quantity) - total(self.energies(start), quantity)
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
        local = next(islice(moments_back(pattern, self.clock(now)), back - 1, None))
        at = self._kept(local)
        return None if at is None or at < since else at

    def freeze_now(self, now: datetime) -> None:
        self._instant_freezes = [*self._instant_freezes, now][-INSTANT_FREEZES:]

    def set_freeze_pattern(self, pattern: str, now: datetime) -> None:
        """pattern: MMDDhhmm digits with 99 from the month side for "every"."""
        self._freeze_pattern = (pattern, now)

    def plan_switch(self, kind: int, local: datetime | None, now: datetime) -> None:
        """Tables are to be switched at the meter's time `local` (None: not at all), with a freeze of that kind then."""
        done = [(at, since) for at, since in self._switches.get(kind, []) if self.true_time(at) <= now]
        planned = [] if local is None else [(local, now)]
        self._switches[kind] = [*done, *planned][-SWITCH_FREEZES - 1 :]

    def switch_freeze(self, kind: int, back: int, now: datetime) -> datetime | None:
        """True time of the `back`-th last switch of tables, which froze the registers."""
        happened = [at for at, since in self._switches.get(kind, []) if since <= self.true_time(at) <= now]
        return self._kept(happened[-back]) if 1 <= back <= min(len(happened), SWITCH_FREEZES) else None

    def recorded(self, local: datetime) -> datetime | None:
        """True time of a load record made when the meter's clock showed `local`.

        None where there is none: the meter was without power, was cleared since, or its clock never showed that time.
        """
        at = self._kept(local)
        return None if at is None or self.power_off(at) or not self._clock.showed(local, at) else at

    # ------------------------------------------------------------------------------------------ relay

    def relay_open(self, at: datetime) -> bool:
        """Now, or at a moment that is past."""
        return self.relay.is_open(at)

    def open_relay(
        self,
        now: datetime,
        operator: bytes = bytes(4),
        *,
        restore_after: timedelta | None = None,
        restore_permits: bool = False,
    ) -> None:
        """Cut the supply, for good or for a time. Raises RelayRefused while the supply is protected."""
        self.relay.open(now, operator, restore_after=restore_after, restore_permits=restore_permits)

    def permit_close(self, now: datetime) -> None:
        self.relay.permit_close(now)

    def close_relay(self, now: datetime, operator: bytes = bytes(4)) -> None:
        self.relay.close(now, operator)

    def press_key(self, now: datetime) -> bool:
        """The customer's key; True when the supply is on afterwards."""
        return self.relay.press_key(now)

    def protect(self, now: datetime, operator: bytes = bytes(4)) -> None:
        self.relay.protect(now, operator)

    def unprotect(self, now: datetime) -> None:
        self.relay.unprotect(now)

    # ------------------------------------------------------------------------------------------ measured now

    def power(self, now: datetime) -> Power:
        """Nothing while the relay is open or the street is dark."""
        if self.relay_open(now) or self.power_off(now):
            nothing = (0,) * self.phases
            return Power(nothing, nothing)
        return self.curve.power(now)

    def tariff(self, now: datetime) -> int:
        """1..4, by the slot table."""
        return self.curve.tariff_at((now - self.curve.midnight(self.curve.day_of(now))) // timedelta(seconds=1))

    def instant(self, now: datetime) -> Instant:
        return measure(self.power(now), self.seed, now)

    def status_words(self, now: datetime, *, cover_bit: int = 9) -> tuple[int, ...]:
        """Words 1..7 of DL/T 645-2007; other protocols pick their bits from them.

        cover_bit: of word 7 for the meter's cover, 9 or 10; the terminal cover has the other one.
        """
        self.relay_open(now)
        relay, power = self.relay, self.power(now)
        exports = sum(power.watts) < 0
        words = [0] * 7
        words[0] = 1 << 1 | self.clock_lost << 2 | exports << 4 | (sum(power.vars) < 0) << 5  # demand by blocks
        words[0] |= (relay.is_contrary and relay.senses) << 8
        for phase, (watts, reactive) in enumerate(zip(power.watts, power.vars, strict=True)):
            words[1] |= (watts < 0) << phase | (reactive < 0) << phase + 4
        words[2] = relay.shows_open << 4 | relay.commanded_open << 6 | relay.alarm << 7 | relay.protected << 12
        words[6] = self.cover_open << cover_bit | self.terminal_cover_open << 19 - cover_bit
        return tuple(word | fault for word, fault in zip(words, self.faults, strict=True))

    # ------------------------------------------------------------------------------------------ inside

    def _uncleared(self, at: datetime) -> Energies:
        counted = tuple(map(add, self._start, self.curve.count(at)))
        if self._haste > 1:
            counted = tuple(map(add, counted, self._hurried(self._hurried_since, at)))
        for outage in self._outages:
            if outage.start >= at:
                break
            over = outage.end is not None and outage.end <= at
            lost = outage.lost if over else self._flowing(outage.start, at)
            counted = tuple(map(sub, counted, lost))
        return counted

    def _flowing(self, start: datetime, end: datetime) -> Energies:
        """What the registers would count with the supply on."""
        return tuple(map(add, self.curve.energy(start, end), self._hurried(start, end)))

    def _hurried(self, start: datetime, end: datetime) -> Energies:
        """What they count beyond what flows."""
        since = max(start, self._hurried_since)
        if self._haste == 1 or end <= since:
            return NO_ENERGY
        return tuple((self._haste - 1) * amount for amount in self.curve.energy(since, end))

    def _switched(self, at: datetime, to_open: bool, operator: bytes) -> None:
        self._follow_supply(at)
        if to_open:
            self.trip_count += 1
            self.trips = [*self.trips, self._record(at, operator)][-RELAY_RECORDS:]
        else:
            self.close_count += 1
            self.closes = [*self.closes, self._record(at, operator)][-RELAY_RECORDS:]
        if self.relay.is_contrary and self.relay.senses:
            self.events.add(RELAY_MALFUNCTION, Event(start=at, end=None, shown=self.clock(at), shown_end=None))
        else:
            self.events.end(RELAY_MALFUNCTION, at, self.clock(at))

    def _follow_supply(self, now: datetime) -> None:
        """Begin or end an outage: relay and power cuts may overlap, and energy is lost only once."""
        off = any(span.has(now) for span in (*self.relay.spans[-1:], *self._power_cuts[-1:]))
        last = self._outages[-1] if self._outages else None
        lasts = last is not None and last.end is None
        if off and not lasts:
            self._outages.append(_Outage(now))
        elif last is not None and lasts and not off:
            last.end = now
            last.lost = self._flowing(last.start, now)

    def _record(self, now: datetime, operator: bytes) -> RelayRecord:
        return RelayRecord(self.clock(now), operator, self.energies(now))

    def _kept(self, local: datetime) -> datetime | None:
        at = self.true_time(local)
        return at if at >= self._began_at else None

    def _demand_since(self, end: datetime) -> datetime:
        local = self.clock(end) - timedelta(microseconds=1)  # at the settlement itself the period is the one that ends
        start = self.true_time(next(settlements_back(self.settlement_days, local)))
        return max(start, self._demand_cleared_at) if self._demand_cleared_at <= end else max(start, self._began_at)

    def _max_demand(
        self,
        quantities: Sequence[Quantity],
        tariff: int,
        start: datetime,
        end: datetime,
        combine: Callable[[Sequence[int]], int],
    ) -> Demand:
        curve = self.curve
        best, best_end = 0, None
        for day in range(curve.day_of(start), curve.day_of(end) + 1):
            midnight = curve.midnight(day)
            first = max(0, -((midnight - start) // timedelta(seconds=BLOCK_S)))
            last = min(DAY_BLOCKS, (end - midnight) // timedelta(seconds=BLOCK_S))
            each = [curve.blocks(day, quantity) for quantity in quantities]
            blocks = list(each[0] if len(each) == 1 else map(combine, zip(*each, strict=True)))
            for index in self._touched(midnight, last):
                begin = midnight + timedelta(seconds=index * BLOCK_S)
                flowed = tuple(map(sub, self.energies(begin + timedelta(seconds=BLOCK_S)), self.energies(begin)))
                blocks[index] = combine([total(flowed, quantity) for quantity in quantities])
            for index in range(first, last):
                if blocks[index] > best and (tariff == 0 or curve.tariff_at(index * BLOCK_S) == tariff):
                    best, best_end = blocks[index], midnight + timedelta(seconds=(index + 1) * BLOCK_S)
        at = None if best_end is None else best_end.astimezone(self.timezone).replace(tzinfo=None)
        return Demand(kilo(best * 10 // BLOCK_S), at)

    def _touched(self, midnight: datetime, last: int) -> Iterator[int]:
        """Quarter hours of a day in which the supply was off for a while."""
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
