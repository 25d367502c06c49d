"""When a concentrator reads its meters: at even moments of their own clocks, or counting up to find losses. Pure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from heapq import heapify, heappop, heappush

from msgspec import Struct

from protocols.concentrator.messages import PushedValue
from protocols.values import Obis, Unit
from simulators.concentrator_reader import NoQuantity, read_quantity
from simulators.concentrator_store import UnsentStore
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter

__all__ = ["AT_ONCE", "MADE", "Numbered", "Readings"]

DAY_S = 86_400
METERS_AT_ONCE = 20  # read in one turn, so that commands need not wait for a whole fleet
AT_ONCE = 500  # numbered readings made in one turn
MADE = "made"  # under this name the store keeps how many


class Numbered(Struct, frozen=True, kw_only=True):
    """Readings whose value counts up, for loss tests: 1, 2, 3 … of `obis`, `rate` a second over all meters.

    most: how many in all, None for ever. Each has a time of its own, a whole number of milliseconds.
    """

    rate: float
    obis: Obis = Obis("1-0:1.8.0")
    unit: Unit = Unit.KWH
    most: int | None = None


class Readings:
    """push: told meter, time and values of each reading. period_s: None for none by itself. The rest as the concentrator."""

    def __init__(
        self,
        meters: Mapping[str, Dlt645Meter],
        bus: Dlt645Bus,
        store: UnsentStore,
        push: Callable[[str, datetime, tuple[PushedValue, ...]], None],
        *,
        period_s: int | None,
        quantities: tuple[Obis, ...],
        numbered: Numbered | None,
    ) -> None:
        self._meters = meters
        self._bus = bus
        self._store = store
        self._push = push
        self._period_s = period_s
        self._quantities = quantities
        self._numbered = numbered
        self._numbered_from: tuple[float, datetime, int] | None = None
        self._due: list[tuple[datetime, str, datetime]] = []  # true time, meter, its own time

    def reschedule(self) -> None:
        """The meters' clocks were put otherwise."""
        self._due.clear()

    def tick(self, monotonic: float, now: datetime) -> float | None:
        """Read what is due; when the next is."""
        moments = (self._collect(monotonic, now), self._count_up(monotonic, now))
        return min((moment for moment in moments if moment is not None), default=None)

    def _collect(self, monotonic: float, now: datetime) -> float | None:
        """Read the meters whose moment has come; when the next one comes."""
        period_s = self._period_s
        if period_s is None:
            return None
        if not self._due and self._meters:
            self._due = [self._next(address, now) for address in self._meters]
            heapify(self._due)
        if not self._due:
            return None
        if self._due[0][0] <= now:
            with self._store.together():
                self._read_due(period_s, now)
        return monotonic + max(0.0, (self._due[0][0] - now).total_seconds())

    def _read_due(self, period_s: int, now: datetime) -> None:
        for _ in range(METERS_AT_ONCE):
            if self._due[0][0] > now:
                break
            at, address, local = heappop(self._due)
            model = self._bus.device(self._meters[address]).model
            late = model.clock(at) - local
            if abs(late) > timedelta(seconds=1):  # somebody has set the clock since
                heappush(self._due, self._next(address, now))
                continue
            self._read(address, at, local)
            following = local + timedelta(seconds=period_s)
            heappush(self._due, (model.true_time(following), address, following))

    def _next(self, address: str, now: datetime) -> tuple[datetime, str, datetime]:
        """The next even moment of the meter's clock."""
        assert self._period_s is not None
        model = self._bus.device(self._meters[address]).model
        shown = model.clock(now)
        midnight = shown.replace(hour=0, minute=0, second=0, microsecond=0)
        periods = (shown - midnight) // timedelta(seconds=self._period_s) + 1
        local = min(midnight + timedelta(seconds=periods * self._period_s), midnight + timedelta(seconds=DAY_S))
        return model.true_time(local), address, local

    def _read(self, address: str, at: datetime, local: datetime) -> None:
        meter = self._bus.device(self._meters[address])
        if meter.model.power_off(at):
            return
        values = []
        for obis in self._quantities:
            try:
                amount, unit = read_quantity(meter, obis, at)
            except NoQuantity:
                continue
            if amount is not None:
                values.append(PushedValue(name=obis.text, obis=obis, amount=amount, unit=unit))
        told = local.replace(tzinfo=meter.model.timezone).astimezone(UTC)
        self._push(address, told, tuple(values))

    def _count_up(self, monotonic: float, now: datetime) -> float | None:
        """Numbered readings that are due; when the next one is. A full store makes it wait: none is given up."""
        numbered = self._numbered
        if numbered is None or not self._meters:
            return None
        made = self._store.number(MADE)
        if self._numbered_from is None:
            # Times go on behind those of an earlier run, even one that was faster than its clock.
            began = max(now, datetime.fromtimestamp(self._store.number("last_ms") / 1000, UTC))
            self._numbered_from = (monotonic, began.replace(microsecond=began.microsecond // 1000 * 1000), made)
        began_s, began, before = self._numbered_from
        wanted = before + int((monotonic - began_s) * numbered.rate) + 1
        wanted = min(wanted, made + AT_ONCE, made + self._store.capacity - len(self._store))
        if numbered.most is not None:
            wanted = min(wanted, numbered.most)
        if wanted > made:
            with self._store.together():
                self._make(numbered, began, before, made, wanted)
            made = wanted
        if numbered.most is not None and made >= numbered.most:
            return None
        if self._store.is_full:
            return monotonic + 0.05
        return max(monotonic, began_s + (made - before) / numbered.rate)

    def _make(self, numbered: Numbered, began: datetime, before: int, made: int, wanted: int) -> None:
        addresses = list(self._meters)
        step_ms = 1000 / numbered.rate
        ahead_ms = 0
        for number in range(made + 1, wanted + 1):
            ahead_ms = int((number - before) * step_ms) + 1
            value = PushedValue(name=numbered.obis.text, obis=numbered.obis, amount=Decimal(number), unit=numbered.unit)
            at = began + timedelta(milliseconds=ahead_ms)
            self._push(addresses[number % len(addresses)], at, (value,))
        self._store.set_number(MADE, wanted)
        self._store.set_number("last_ms", round(began.timestamp() * 1000) + ahead_ms)
