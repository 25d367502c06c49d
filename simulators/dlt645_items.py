"""What a simulated meter answers for a data identifier, both editions.

One function for each family of identifiers, found by the first byte (2007) or digit (1997). Each knows single items
only; blocks are put together from the members that the contract names, as far as this meter has them. Where a family
has no answer it raises NoSuchItem, and the meter refuses.

What is written stays in an overlay: writing a tariff table changes what is read back, not how the meter counts.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from functools import lru_cache
from math import isqrt
from typing import Any

from firmware_contracts.contract import Contract
from protocols.dlt645.items import Di, Encodable, ItemSpec, Separators, encode, fields_of
from protocols.dlt645.layout import Kind as FieldKind
from protocols.dlt645.load_record import encode_curve
from simulators.load_curve import TARIFFS, Quantity, total
from simulators.measurement import Instant, Phases
from simulators.meter import MeterModel, RelayRecord, display_energy

__all__ = ["Counters", "ItemSource", "NoSuchItem"]

SEPARATOR = b"\xaa"
TOTAL_AND_TARIFFS = range(TARIFFS + 1)

# DI2 of energies and demands; combined items for the default combination words 05H, 05H and 50H.
_KINDS: dict[int, tuple[Quantity, ...]] = {
    0x00: (Quantity.FORWARD, Quantity.REVERSE),
    0x01: (Quantity.FORWARD,),
    0x02: (Quantity.REVERSE,),
    0x03: (Quantity.Q1, Quantity.Q2),
    0x04: (Quantity.Q3, Quantity.Q4),
    0x05: (Quantity.Q1,),
    0x06: (Quantity.Q2,),
    0x07: (Quantity.Q3,),
    0x08: (Quantity.Q4,),
}
# 1997: (reactive, DI0 high digit). Quadrants are not in order there: 3 I, 4 IV, 5 II, 6 III.
_KINDS_97: dict[tuple[bool, int], tuple[Quantity, ...]] = {
    (False, 1): _KINDS[0x01],
    (False, 2): _KINDS[0x02],
    (True, 1): _KINDS[0x03],
    (True, 2): _KINDS[0x04],
    (True, 3): _KINDS[0x05],
    (True, 4): _KINDS[0x08],
    (True, 5): _KINDS[0x06],
    (True, 6): _KINDS[0x07],
}
_DAY_TABLES = 8
NEVER = "9999"
_CURVE_TIME_SIZE = 5
# Load curve 0610cckk: the momentary item, or present register, that a point records.
_CURVE_ITEMS = {
    "01": "0201{}00",
    "02": "0202{}00",
    "03": "0203{}00",
    "04": "0204{}00",
    "05": "0206{}00",
    "06": "00{}0000",
    "08": "0280{}",
}
_CURVE_DEMANDS = {"01": "0004", "02": "0005"}
_fields = lru_cache(maxsize=4096)(fields_of)

Values = list[Encodable]


class NoSuchItem(LookupError):
    """This meter has no such item, although its contract may know what it would mean."""


class Counters:
    """How often somebody has programmed, set or cleared something."""

    def __init__(self) -> None:
        self.programmings = 0
        self.meter_clears = 0
        self.demand_clears = 0
        self.event_clears = 0
        self.clock_sets = 0
        self.last_programming: datetime | None = None
        self.last_demand_clear: datetime | None = None


class ItemSource:
    """Answers for one meter.

    written: DATA of items that were written, by DI text; it answers before anything else.
    rate_word: Z of the port's rate.
    """

    def __init__(self, model: MeterModel, contract: Contract, counters: Counters) -> None:
        self._model = model
        self._contract = contract
        self._counters = counters
        self.written: dict[str, bytes] = {}
        self.rate_word = 0x08
        self._measured: Instant | None = None  # once for all phases of one reply
        self._fixed = _fixed_2007(model) if contract.protocol == "dlt645-2007" else _fixed_1997(model)
        self._families: dict[str, Callable[[str, datetime], Values]] = {
            "00": self._energy,
            "01": self._demand,
            "02": self._variable,
            "03": self._event,
            "04": self._parameter,
            "05": self._freeze,
            "1D": self._relay_event,
            "1E": self._relay_event,
            "9": self._energy_97,
            "A": self._demand_97,
            "B": self._demand_or_variable_97,
            "C": self._parameter_97,
        }

    def read(self, di: Di, now: datetime) -> list[bytes]:
        """DATA of the item in pieces that a split reply keeps whole. Raises UnknownItem, NoSuchItem."""
        self._measured = None
        return self._pieces(self._contract.find(di), now)

    def read_curve(self, di: Di, count: int, start: str, now: datetime) -> list[bytes]:
        """Points of a load curve, the first with its time; none when nothing was recorded then.

        count: N as sent, BCD. start: YYMMDDhhmm digits. Raises UnknownItem, NoSuchItem.
        """
        spec = self._contract.find(di)
        try:
            year, month, day, hour, minute = (int(start[at : at + 2]) for at in range(0, 10, 2))
            begin = datetime(2000 + year, month, day, hour, minute)  # noqa: DTZ001 - meter time has no zone
            wanted = int(f"{count:02X}")
        except ValueError as error:
            raise NoSuchItem(di.text) from error
        if spec.series != "curve":
            raise NoSuchItem(di.text)
        pieces: list[bytes] = []
        for local, at in self._model.curve_points(begin, wanted, now):
            self._measured = None
            values = [
                value
                for item in spec.members or (spec,)
                for value in self._fitting(self._values(_recorded_by(item.di.text), at), item)
            ]
            wire = encode_curve(local, values, spec)
            pieces.append(wire[_CURVE_TIME_SIZE:] if pieces else wire)
        return pieces

    def _pieces(self, spec: ItemSpec, now: datetime) -> list[bytes]:
        if spec.di.text in self.written:
            return [self.written[spec.di.text]]
        if not spec.members:
            return [encode(self._fitting(self._values(spec.di.text, now), spec), spec)]
        pieces: list[bytes] = []
        for member in spec.members:
            try:
                piece = b"".join(self._pieces(member, now))
            except NoSuchItem:
                if spec.terminated:
                    pieces.append(SEPARATOR)  # an empty block of a data set
                    continue
                if spec.partial and pieces:
                    break
                raise
            pieces.append(piece + SEPARATOR if spec.terminated or self._separators is Separators.EACH else piece)
        if self._separators is Separators.END and not spec.terminated:
            pieces[-1] += SEPARATOR
        return pieces

    @property
    def _separators(self) -> Separators:
        return self._contract.separators

    def _values(self, di: str, now: datetime) -> Values:
        family = self._families.get(di[:2] if len(di) == 8 else di[:1])
        if family is None:
            raise NoSuchItem(di)
        return family(di, now)

    def _fitting(self, values: Values, spec: ItemSpec) -> Any:
        """Amounts cut to the decimals of the layout, and without sign where it has none, as a display would."""
        fields = _fields(spec)
        fitted: Values = []
        for index, value in enumerate(values):
            wire = fields[min(index, len(fields) - 1)].wire
            if wire.kind is FieldKind.AMOUNT and isinstance(value, Decimal):
                value = value.quantize(Decimal(1).scaleb(-wire.decimals), ROUND_DOWN)
                value = value if wire.signed else abs(value)
            fitted.append(value)
        return fitted

    def _instant(self, now: datetime) -> Instant:
        if self._measured is None:
            self._measured = self._model.instant(now)
        return self._measured

    # ------------------------------------------------------------------------------------------ 2007

    def _energy(self, di: str, now: datetime) -> Values:
        _, kind, tariff, settlement = bytes.fromhex(di)
        return [self._one_energy(_KINDS.get(kind), tariff, settlement, now, di)]

    def _one_energy(
        self, kind: tuple[Quantity, ...] | None, tariff: int, settlement: int, now: datetime, di: str
    ) -> Decimal:
        if kind is None or tariff not in TOTAL_AND_TARIFFS or settlement > 12:
            raise NoSuchItem(di)
        at = now if settlement == 0 else self._model.settlement_at(settlement, now)
        return Decimal("0.00") if at is None else self._energy_at(kind, tariff, at)

    def _energy_at(self, kind: tuple[Quantity, ...], tariff: int, at: datetime) -> Decimal:
        counted = self._model.energies(at)
        amount = 0
        for quantity in kind:
            first = quantity * TARIFFS
            amount += sum(counted[first : first + TARIFFS]) if tariff == 0 else counted[first + tariff - 1]
        return display_energy(amount)

    def _demand(self, di: str, now: datetime) -> Values:
        _, kind, tariff, settlement = bytes.fromhex(di)
        amount, at = self._one_demand(_KINDS.get(kind, ()), tariff, settlement, now, di)
        return [(amount, at)]

    def _one_demand(
        self, kind: tuple[Quantity, ...], tariff: int, settlement: int, now: datetime, di: str
    ) -> tuple[Decimal, datetime | None]:
        if len(kind) != 1 or tariff not in TOTAL_AND_TARIFFS or settlement > 12:
            raise NoSuchItem(di)
        demand = self._model.max_demand(kind[0], tariff, settlement, now)
        return (Decimal("0.0000"), None) if demand is None else (demand.kilo, _whole(demand.at))

    def _variable(self, di: str, now: datetime) -> Values:
        instant = self._instant(now)
        by_phase: dict[str, tuple[Phases, int]] = {
            "01": (instant.voltage_v, 1),
            "02": (instant.current_a, 1),
            "03": (instant.active_kw, 0),
            "04": (instant.reactive_kvar, 0),
            "05": (instant.apparent_kva, 0),
            "06": (instant.power_factor, 0),
            "07": (instant.angle_deg, 1),
        }
        if di[2:4] in by_phase and di[6:] == "00":
            amounts, first = by_phase[di[2:4]]
            phase = int(di[4:6], 16) - first
            if not 0 <= phase < len(amounts):
                raise NoSuchItem(di)
            return [amounts[phase]]
        if not di.startswith("0280"):
            raise NoSuchItem(di)
        active = self._model.present_demand(Quantity.FORWARD, now)
        reactive = self._model.present_demand(Quantity.Q1, now)
        others: dict[str, Decimal] = {
            "02800001": instant.neutral_a,
            "02800002": instant.frequency_hz,
            "02800003": instant.active_kw[0] or Decimal("0.0000"),
            "02800004": active,
            "02800005": reactive,
            "02800006": Decimal(isqrt(int(active.scaleb(4)) ** 2 + int(reactive.scaleb(4)) ** 2)).scaleb(-4),
            "02800007": instant.temperature_c,
            "02800008": Decimal("3.60"),
            "02800009": Decimal("6.05"),
            "0280000A": Decimal(0),
        }
        if di not in others:
            raise NoSuchItem(di)
        return [others[di]]

    def _event(self, di: str, now: datetime) -> Values:
        """Counts and accumulated times; nothing but what people did has ever happened to this meter."""
        counters = self._counters
        counts = {
            "03300000": counters.programmings,
            "03300100": counters.meter_clears,
            "03300200": counters.demand_clears,
            "03300300": counters.event_clears,
            "03300400": counters.clock_sets,
        }
        if di in counts:
            return [counts[di]]
        if di.endswith("0000") or (di.startswith("0330") and di.endswith("00")):
            fields = fields_of(self._contract.find(Di(di)))
            if all(field.wire.kind is FieldKind.AMOUNT for field in fields):
                return [0] * len(fields)
        raise NoSuchItem(di)

    def _relay_event(self, di: str, now: datetime) -> Values:
        self._model.relay_open(now)  # a timed restore may be due
        trips = di.startswith("1D")
        if di[2:] == "000001":
            return [self._model.trip_count if trips else self._model.close_count]
        records = self._model.trips if trips else self._model.closes
        item, back = int(di[4:6], 16), int(di[6:], 16)
        if di[2:4] != "00" or not 1 <= back <= 10 or not (1 <= item <= 8 or item == 0xFF):
            raise NoSuchItem(di)
        record = records[-back] if back <= len(records) else None
        values = _record_values(record)
        return values if item == 0xFF else [values[item - 1]]

    def _parameter(self, di: str, now: datetime) -> Values:
        clock = self._model.clock(now)
        if di in ("04000101", "04000102", "0400010C"):
            return [_clock_digits(clock, di)]
        if di.startswith("040005") and 1 <= int(di[6:], 16) <= 7:
            return [f"{self._model.status_words(now)[int(di[6:], 16) - 1]:04X}"]
        if di.startswith("040007") and 1 <= int(di[6:], 16) <= 5:
            return [f"{self.rate_word:02X}"]
        if di == "04000401":
            return [self._model.address.digits]
        if di not in self._fixed:
            raise NoSuchItem(di)
        return list(self._fixed[di])

    def _freeze(self, di: str, now: datetime) -> Values:
        _, kind, item, back = bytes.fromhex(di)
        model = self._model
        kept = {
            0x00: model.timed_freeze,
            0x01: model.instant_freeze,
            0x04: model.hourly_freeze,
            0x06: model.daily_freeze,
        }
        at = kept[kind](back, now) if kind in kept else None
        if at is None:
            raise NoSuchItem(di)
        if item == 0x00:
            return [_whole(model.clock(at))]
        if kind == 0x04:
            return [self._energy_at(_KINDS[item], 0, at)] if item in (1, 2) else self._none(di)
        if 0x01 <= item <= 0x08:
            return [self._energy_at(_KINDS[item], tariff, at) for tariff in TOTAL_AND_TARIFFS]
        if item in (0x09, 0x0A):
            quantity = Quantity.FORWARD if item == 0x09 else Quantity.REVERSE
            demands = [model.demand_at(quantity, tariff, at) for tariff in TOTAL_AND_TARIFFS]
            return [(demand.kilo, _whole(demand.at)) for demand in demands]
        if item == 0x10:
            instant = model.instant(at)
            return [*instant.active_kw, *instant.reactive_kvar]
        return self._none(di)

    def _none(self, di: str) -> Values:
        raise NoSuchItem(di)

    # ------------------------------------------------------------------------------------------ 1997

    def _energy_97(self, di: str, now: datetime) -> Values:
        kind, tariff, settlement = _place_97(di)
        return [self._one_energy(kind, tariff, settlement, now, di)]

    def _demand_97(self, di: str, now: datetime) -> Values:
        kind, tariff, settlement = _place_97(di)
        return [self._one_demand(kind or (), tariff, settlement, now, di)[0]]

    def _demand_or_variable_97(self, di: str, now: datetime) -> Values:
        if int(di[1], 16) & 2 == 0:
            kind, tariff, settlement = _place_97(di)
            return [_month_time(self._one_demand(kind or (), tariff, settlement, now, di)[1])]
        instant = self._instant(now)
        by_phase: dict[str, tuple[Phases, int]] = {
            "B61": (instant.voltage_v, 1),
            "B62": (instant.current_a, 1),
            "B63": (instant.active_kw, 0),
            "B64": (instant.reactive_kvar, 0),
            "B65": (instant.power_factor, 0),
        }
        if di[:3] in by_phase:
            amounts, first = by_phase[di[:3]]
            phase = int(di[3], 16) - first
            return [amounts[phase]] if 0 <= phase < len(amounts) else self._none(di)
        counters = self._counters
        others: dict[str, Encodable] = {
            "B210": _month_time(counters.last_programming),
            "B211": _month_time(counters.last_demand_clear),
            "B212": counters.programmings,
            "B213": counters.demand_clears,
            "B214": 0,
        }
        if di in others:
            return [others[di]]
        if di[:3] in ("B31", "B32") and di[3] in "0123":
            return [0]
        if di[:3] in ("B33", "B34") and di[3] in "0123":
            return ["00000000"]
        raise NoSuchItem(di)

    def _parameter_97(self, di: str, now: datetime) -> Values:
        clock = self._model.clock(now)
        if di == "C010":
            return [_clock_digits(clock, "04000101")]
        if di == "C011":
            return [_clock_digits(clock, "04000102")]
        if di == "C020":
            return [f"{self._model.status_words(now)[0] & 0x36:02X}"]  # the bits both editions share
        if di not in self._fixed:
            raise NoSuchItem(di)
        return list(self._fixed[di])


def _place_97(di: str) -> tuple[tuple[Quantity, ...] | None, int, int]:
    """Kind, tariff and settlement: DI1 low digit is month (bits 3-2) and active or reactive (bits 1-0)."""
    where = int(di[1], 16)
    if where & 2 or where >> 2 > 2:
        raise NoSuchItem(di)
    return _KINDS_97.get((bool(where & 1), int(di[2], 16))), int(di[3], 16), where >> 2


def _recorded_by(di: str) -> str:
    """The item whose values make the curve `di`."""
    kind, item = di[4:6], di[6:]
    if kind == "07":
        return f"00{int(item, 16) + 4:02X}0000"
    if di[:4] != "0610" or kind not in _CURVE_ITEMS or (kind == "08" and item not in _CURVE_DEMANDS):
        raise NoSuchItem(di)
    return _CURVE_ITEMS[kind].format(_CURVE_DEMANDS[item] if kind == "08" else item)


def _record_values(record: RelayRecord | None) -> Values:
    """Time, operator, forward, reverse, Q1..Q4; a record that is not there yet is all zero."""
    if record is None:
        return ["000000000000", "00000000", *[Decimal("0.00")] * 6]
    energies = [display_energy(total(record.energies, quantity)) for quantity in Quantity]
    return [_whole(record.at), record.operator.hex().upper(), *energies]


def _clock_digits(clock: datetime, di: str) -> str:
    day = f"{clock:%y%m%d}{clock.isoweekday() % 7:02}"
    time = f"{clock:%H%M%S}"
    return {"04000101": day, "04000102": time, "0400010C": day + time}[di]


def _whole(at: datetime | None) -> Any:
    """To the second: going back and forth through the drifting clock leaves microseconds that would show as 23:59."""
    return None if at is None else (at + timedelta(milliseconds=500)).replace(microsecond=0)


def _month_time(at: datetime | None) -> str:
    return "00000000" if at is None else f"{_whole(at):%m%d%H%M}"


def _fixed_2007(model: MeterModel) -> dict[str, Values]:
    """Parameters of the factory, as an ordinary meter of this kind has them."""
    three = model.phases == 3
    slots: Values = [f"{start // 3600:02}{start % 3600 // 60:02}{tariff:02}" for start, tariff in model.curve.slots]
    zones: Values = ["010101"]
    fixed: dict[str, Values] = {
        "04000103": [15],
        "04000104": [15],
        "04000105": [80],
        "04000106": ["0000000000"],
        "04000107": ["0000000000"],
        "04000201": [len(zones)],
        "04000202": [1],
        "04000203": [len(slots)],
        "04000204": [TARIFFS],
        "04000205": [0],
        "04000206": [21],
        "04000207": [0],
        "04000208": [0],
        "04000301": [5],
        "04000302": [5],
        "04000303": [2],
        "04000304": [4],
        "04000305": [10],
        "04000306": [1],
        "04000307": [1],
        "04000402": [model.address.digits],
        "04000403": [f"SIM-{model.address.digits}"],
        "04000404": ["3*220V" if three else "220V"],
        "04000405": ["10A" if three else "5A"],
        "04000406": ["100A" if three else "60A"],
        "04000407": ["1.0"],
        "04000408": ["2.0"],
        "04000409": [400 if three else 1200],
        "0400040A": [400 if three else 1200],
        "0400040B": ["DTZY-SIM" if three else "DDZY-SIM"],
        "0400040C": ["2025-01-01"],
        "0400040D": ["DLT645-2007"],
        "0400040E": ["000000000000"],
        "04000601": ["05"],
        "04000602": ["05"],
        "04000603": ["50"],
        "04000801": ["7F"],
        "04000802": [1],
        "04000901": ["00"],
        "04000902": ["FF"],
        "04000903": ["FF"],
        "04000904": ["FF"],
        "04000905": ["03"],
        "04000906": ["FF"],
        "04000A01": ["01010000"],
        "04000B01": ["0100"],
        "04000B02": [NEVER],
        "04000B03": [NEVER],
        "04001201": ["0000000000"],
        "04001202": [60],
        "04001203": ["0000"],
        "04001204": ["99999999"],
        "04001401": [0],
        "04001402": [0],
        "04001403": [0],
        "04010000": zones,
        "04020000": zones,
        "04800001": ["meter-sim"],
        "04800002": ["virtual"],
        "04800003": ["SIM"],
    }
    fixed |= {f"04000A{record:02}": [15] for record in range(2, 8)}
    fixed |= {f"04{table:02}00{day:02}": slots for table in (1, 2) for day in range(1, _DAY_TABLES + 1)}
    return fixed


def _fixed_1997(model: MeterModel) -> dict[str, Values]:
    slots = [f"{start // 3600:02}{start % 3600 // 60:02}{tariff:02}" for start, tariff in model.curve.slots]
    fixed: dict[str, Values] = {
        "C021": ["00"],
        "C022": ["7F"],
        "C030": [1200],
        "C031": [1200],
        "C032": [model.address.digits],
        "C033": ["000000000000"],
        "C034": ["000000000000"],
        "C111": [15],
        "C112": [15],
        "C113": [5],
        "C114": [30],
        "C115": [2],
        "C116": [4],
        "C117": ["0100"],
        "C118": [1],
        "C211": [80],
        "C310": [1],
        "C311": [1],
        "C312": [len(slots)],
        "C313": [TARIFFS],
        "C314": [0],
        "C321": ["010101"],
        "C41E": [1],
        "C510": ["01010000"],
        "C511": [15],
    }
    fixed |= {f"C33{index:X}": [slot] for index, slot in enumerate(slots, 1)}
    return fixed
