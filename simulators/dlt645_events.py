"""Events 03xxxxxx and 10xxxxxx..22xxxxxx of a simulated meter: counts, times and records.

What happened is in the model's journal. A record is written field by field after the names that the contract gives
them: one rule serves all families. What has not happened yet is a record of zeros.
"""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from protocols.dlt645.items import ItemSpec
from protocols.dlt645.layout import Field, Kind
from protocols.values import Unit
from simulators.dlt645_registers import Registers, displayed
from simulators.dlt645_values import NoSuchItem, Values, blank_field, fewest_fields, fields, whole
from simulators.event_journal import Event
from simulators.load_curve import Quantity, total
from simulators.meter import MeterModel, RelayRecord, display_energy
from simulators.prepayment import Prepayment

__all__ = ["Events"]

# The supplements' families, and the standard's that record the same events.
_SAME_AS = {
    "10": "01",
    "11": "02",
    "12": "03",
    "13": "04",
    "14": "07",
    "15": "08",
    "16": "09",
    "17": "0A",
    "18": "0B",
    "19": "0C",
    "1A": "0D",
    "1B": "0E",
    "1C": "0F",
}
_PHASES = {"phase a": 1, "phase b": 2, "phase c": 3}
# Words of a field's name, and the register or DI2 that it tells. Longer names first: "reactive" is in several.
_ENERGIES = (
    ("forward active energy", 0x01),
    ("reverse active energy", 0x02),
    ("combined reactive energy 1", 0x03),
    ("combined reactive energy 2", 0x04),
    ("quadrant iv", 0x08),
    ("quadrant iii", 0x07),
    ("quadrant ii", 0x06),
    ("quadrant i", 0x05),
)
_DEMANDS = (("forward active", 0x01), ("reverse active", 0x02), *_ENERGIES[4:])
_FIRST_OF_PHASE = {1: 0x15, 2: 0x29, 3: 0x3D}
_VARIABLES = {
    Unit.V: "0201{:02X}00",
    Unit.A: "0202{:02X}00",
    Unit.KW: "0203{:02X}00",
    Unit.KVAR: "0204{:02X}00",
}
_END = re.compile(r"\b(?:end|after)\b")


class Events:
    def __init__(self, model: MeterModel, registers: Registers, prepayment: Prepayment) -> None:
        self._model = model
        self._registers = registers
        self._prepayment = prepayment

    def value(self, spec: ItemSpec, now: datetime) -> Values:
        di = spec.di.text
        if di.startswith(("1D", "1E")):
            return self._relay(di, now)
        if di.startswith(("0332", "0333")):
            return self._purchase(di, now)
        if di.startswith("0310"):
            return self._statistics(spec, now)
        if not di.startswith("03"):
            return self._of_supplement(spec, now)
        if di.endswith("00"):
            return self._counts(spec, now)
        return self._record(spec, self._model.events.last(di[:6], int(di[6:], 16)))

    def _counts(self, spec: ItemSpec, now: datetime) -> Values:
        """How often and how long, of all phases or of one family; never of a family's record."""
        di = spec.di.text
        if not (di.endswith("0000") or di.startswith("0330")):
            raise NoSuchItem(di)
        values: Values = []
        for index, field in enumerate(fields(spec)):
            if field.wire.kind is not Kind.AMOUNT:
                raise NoSuchItem(di)
            label = _label(field)
            phase = next((number for name, number in _PHASES.items() if name in label), 0)
            kind = f"{di[:4]}{index + 1:02X}" if di.startswith("0312") else f"{di[:4]}{phase:02X}"
            kind = di[:6] if di.startswith("0330") else kind
            values.append(self._minutes(kind, now) if "time" in label else self._model.events.count(kind))
        return values

    def _of_supplement(self, spec: ItemSpec, now: datetime) -> Values:
        di = spec.di.text
        family = _SAME_AS.get(di[:2])
        kind = f"03{family}{di[2:4]}" if family else ""
        if di[4:6] == "00":
            return [self._minutes(kind, now) if di.endswith("02") else self._model.events.count(kind)]
        event = self._model.events.last(kind, int(di[6:], 16)) if kind else None
        return self._record(spec, event)

    def _minutes(self, kind: str, now: datetime) -> int:
        return int(self._model.events.lasted(kind, now) // timedelta(minutes=1))

    # ------------------------------------------------------------------------------------------ records

    def _record(self, spec: ItemSpec, event: Event | None) -> Values:
        items = iter(event.items if event else ())
        values: Values = []
        for field in fewest_fields(spec):
            if event is None:
                values.append("F" * 8 if field.wire.kind is Kind.DI else blank_field(field))
            elif field.wire.kind is Kind.DI:
                values.append(next(items, "F" * 8))
            else:
                values.append(self._field(field, event))
        return values

    def _field(self, field: Field, event: Event) -> Any:
        """One value of a record, by what it is called."""
        label = _label(field)
        at_end = _END.search(label) is not None
        if field.wire.kind is Kind.TIME and set(field.wire.picture) <= set("YMDhms"):
            shown = event.shown_end if at_end else event.shown
            return blank_field(field) if shown is None else whole(shown)
        if field.wire.kind is Kind.BYTES and field.wire.size == 4:
            return event.operator.hex().upper()
        if field.wire.kind is not Kind.AMOUNT:
            return blank_field(field)
        at = event.end if at_end else event.start
        if at is None:
            return blank_field(field)
        return self._amount(field, label, at)

    def _amount(self, field: Field, label: str, at: datetime) -> Any:
        phase = next((number for name, number in _PHASES.items() if name in label), 0)
        names = _DEMANDS if "demand" in label else _ENERGIES
        kind = next((number for words, number in names if words in label), None)
        if kind is not None and phase:
            kind = _FIRST_OF_PHASE[phase] + kind - 1
        try:
            if kind is not None and "demand" in label:
                return self._registers.one_demand(kind, 0, 0, at, f"01{kind:02X}0000")
            if kind is not None:
                return displayed(self._registers.counted(kind, 0, at))
            pattern = _VARIABLES.get(field.unit or Unit.NONE, "0206{:02X}00" if "power factor" in label else "")
            if pattern and phase:
                return self._registers.variable(pattern.format(phase), at)[0]
        except NoSuchItem:
            return None  # this phase is not there
        return blank_field(field)

    # ------------------------------------------------------------------------------------------ families of their own

    def _relay(self, di: str, now: datetime) -> Values:
        model = self._model
        model.relay_open(now)  # a timed restore may be due
        trips = di.startswith("1D")
        if di[2:] == "000001":
            return [model.trip_count if trips else model.close_count]
        records = model.trips if trips else model.closes
        item, back = int(di[4:6], 16), int(di[6:], 16)
        if di[2:4] != "00" or not 1 <= back <= 10 or not (1 <= item <= 8 or item == 0xFF):
            raise NoSuchItem(di)
        values = _relay_values(records[-back] if back <= len(records) else None)
        return values if item == 0xFF else [values[item - 1]]

    def _purchase(self, di: str, now: datetime) -> Values:
        """0333 in money; 0332 is the same purchase in energy at the price of then."""
        purchase = self._prepayment.purchase(int(di[6:], 16), now)
        item = int(di[4:6], 16)
        if purchase is None:
            return ["0000000000" if item == 1 else 0]
        price = Decimal(1) if di.startswith("0333") else self._prepayment.price
        amounts = (purchase.amount, purchase.before, purchase.after, purchase.total)
        if item == 1:
            return [whole(self._model.clock(purchase.at))]
        if item == 2:
            return [purchase.number % 10_000]
        if not 3 <= item <= 6:
            raise NoSuchItem(di)
        return [(amounts[item - 3] / price) % 1_000_000]

    def _statistics(self, spec: ItemSpec, now: datetime) -> Values:
        """Voltage 0310pphh of one month: it has always been within its limits."""
        di = spec.di.text
        phase, back = int(di[4:6], 16), int(di[6:], 16)
        if phase > self._model.phases:
            raise NoSuchItem(di)
        clock = self._model.clock(now)
        begin = clock.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = clock
        for _ in range(back):
            begin, end = (begin - timedelta(days=1)).replace(day=1), begin
        monitored = (end - begin) // timedelta(minutes=1)
        least, most = begin, max(begin, end - timedelta(minutes=1))
        return [
            monitored,
            Decimal("100.00"),
            Decimal("0.00"),
            0,
            0,
            Decimal("223.0"),
            f"{most:%m%d%H%M}",
            Decimal("216.5"),
            f"{least:%m%d%H%M}",
        ]


def _label(field: Field) -> str:
    """What the value is called within its record."""
    return field.label.lower().rpartition(": ")[2]


def _relay_values(record: RelayRecord | None) -> Values:
    """Time, operator, forward, reverse, Q1..Q4."""
    if record is None:
        return ["0" * 12, "0" * 8, *[Decimal("0.00")] * 6]
    energies = [display_energy(total(record.energies, quantity)) for quantity in Quantity]
    return [whole(record.at), record.operator.hex().upper(), *energies]
