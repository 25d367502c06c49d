"""Names in payloads and what they mean: OBIS code, unit on the wire, factor; and the units that OBIS codes imply.

A name is looked up in the contract's names; a name that is itself an OBIS code means that quantity, in the unit that
IEC 62056-61 gives it. Amounts come out in our units: 321 W is 0.321 kW. All arithmetic is exact.
"""

import re
from collections.abc import Mapping
from decimal import Context, Decimal, Inexact

from msgspec import Struct

from protocols.concentrator.json_text import Mismatch
from protocols.concentrator.messages import PushedValue
from protocols.errors import BadLayout, BadObis, EncodeError
from protocols.values import Obis, Unit

__all__ = ["NamedQuantity", "Quantities", "unit_of_obis"]

# Units on wires, and the power of ten that brings them to those that OBIS codes imply here (1-0:1.7.0: kW, not W).
_WIRE_UNITS = {unit.value: (unit, 0) for unit in Unit} | {
    "Wh": (Unit.KWH, -3),
    "MWh": (Unit.KWH, 3),
    "varh": (Unit.KVARH, -3),
    "Varh": (Unit.KVARH, -3),
    "VArh": (Unit.KVARH, -3),
    "kVarh": (Unit.KVARH, 0),
    "kVArh": (Unit.KVARH, 0),
    "Mvarh": (Unit.KVARH, 3),
    "VAh": (Unit.KVAH, -3),
    "W": (Unit.KW, -3),
    "MW": (Unit.KW, 3),
    "var": (Unit.KVAR, -3),
    "Var": (Unit.KVAR, -3),
    "VAr": (Unit.KVAR, -3),
    "kVar": (Unit.KVAR, 0),
    "kVAr": (Unit.KVAR, 0),
    "Mvar": (Unit.KVAR, 3),
    "VA": (Unit.KVA, -3),
    "MVA": (Unit.KVA, 3),
    "mV": (Unit.V, -3),
    "kV": (Unit.V, 3),
    "mA": (Unit.A, -3),
    "kA": (Unit.A, 3),
    "°": (Unit.DEG, 0),
    "°C": (Unit.DEGC, 0),
    "℃": (Unit.DEGC, 0),
    "C": (Unit.DEGC, 0),
    "1": (Unit.NONE, 0),
}

# IEC 62056-61: value group C says what is measured, D how. 1 and 2 are active import and export, 3..8 reactive, 9 and 10
# apparent; the same for phases at 21.., 41.., 61.. . D: 8 and 9 are energies, 29 energy of an interval, 4..7 powers.
_ACTIVE = {1, 2, 15, 16, 21, 22, 35, 36, 41, 42, 55, 56, 61, 62, 75, 76}
_REACTIVE = {*range(3, 9), *range(23, 29), *range(43, 49), *range(63, 69)}
_APPARENT = {9, 10, 29, 30, 49, 50, 69, 70}
_ENERGIES = {8, 9, 29}
_POWERS = {4, 5, 6, 7, 14, 24, 25, 26}
_MOMENTARY = {4, 5, 6, 7, 14, 24, 25}
_CURRENTS = {11, 31, 51, 71, 90, 91}
_VOLTAGES = {12, 32, 52, 72, 92}
_POWER_FACTORS = {13, 33, 53, 73}
_ANGLES = 81
_FREQUENCIES = {14, 34, 54, 74}
_OBIS = re.compile(r"(\d+)-\d+:(\d+)\.(\d+)\.(\d+)(?:\*\d+)?")
_RELAY_STATES = ("0-0:96.3.10", "0-0:96.3.12")  # disconnect control: output state, control state
_EXACT = Context(prec=100, traps=[Inexact])


class NamedQuantity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """unit: as the payload has it, for example "W"; "?": not known, the message must tell it.

    scale: what the number on the wire is multiplied by to be in that unit.

    source: which document or device says so.
    """

    obis: str
    unit: str
    scale: Decimal = Decimal(1)
    source: str


class _Meaning(Struct, frozen=True):
    """factor: from the wire's number to `unit`. unit: None when neither the names nor the OBIS code tell it."""

    obis: Obis | None
    unit: Unit | None
    factor: Decimal
    scale: Decimal


class Quantities:
    """What the names of one contract mean."""

    def __init__(self, names: Mapping[str, NamedQuantity]) -> None:
        """Raises BadLayout for a row that cannot be: no such unit, no OBIS code, a unit that contradicts it."""
        self._known: dict[str, _Meaning] = {}
        self._name_by_obis: dict[str, str] = {}
        for name, row in names.items():
            self._known[name] = meaning = _meaning(name, row)
            if meaning.obis is not None:
                self._name_by_obis.setdefault(meaning.obis.text, name)

    def value(self, name: str, amount: Decimal | None, unit: str | None, problem: str) -> PushedValue:
        """As it came: amount and unit (None: it came without). Raises Mismatch for a unit that is unknown or contradicts."""
        meaning = self._find(name)
        ours, factor = meaning.unit, meaning.factor
        if unit is not None:
            if unit not in _WIRE_UNITS:
                raise Mismatch("a unit such as kWh, W or V", unit, fault="unit").under(name)
            named, exponent = _WIRE_UNITS[unit]
            implied = ours if ours is not None or meaning.obis is None else unit_of_obis(meaning.obis)
            if implied is not None and implied is not named:
                expected = f"a unit that can be made {implied.value}" if implied.value else "no unit"
                raise Mismatch(expected, unit, fault="unit").under(name)
            ours, factor = named, meaning.scale.scaleb(exponent)
        if amount is not None:
            amount = amount if factor == 1 else _EXACT.multiply(amount, factor)
            if ours is None:
                problem = ",".join(filter(None, [problem, "unit unknown"]))
        elif not problem:
            problem = "missing"
        return PushedValue(name=name, obis=meaning.obis, amount=amount, unit=ours or Unit.NONE, problem=problem)

    def wire(self, value: PushedValue) -> tuple[str, Decimal | None, str | None]:
        """Name, number and unit to write; unit None: the one that goes without saying. Raises EncodeError."""
        name = value.name
        if name not in self._known and value.obis is not None:
            name = self._name_by_obis.get(value.obis.text, value.obis.text)
        meaning = self._find(name)
        if value.amount is None:
            return name, None, None
        ours, exponent = _WIRE_UNITS[value.unit.value]
        if meaning.unit is None:
            return name, self._divided(value, meaning.scale), value.unit.value
        if meaning.unit is not ours:
            raise EncodeError(f"{name} is in {meaning.unit.value or 'no unit'}, not in {value.unit.value or 'none'}")
        return name, self._divided(value, meaning.factor.scaleb(-exponent)), None

    @staticmethod
    def _divided(value: PushedValue, factor: Decimal) -> Decimal | None:
        if value.amount is None or factor == 1:
            return value.amount
        try:
            return _EXACT.divide(value.amount, factor)
        except Inexact as error:
            raise EncodeError(
                f"{value.amount} {value.unit.value} of {value.name} is no multiple of {factor}"
            ) from error

    def name_of(self, quantity: str) -> str:
        """What to ask for on the wire when `quantity`, usually an OBIS code, is wanted."""
        try:
            return self._name_by_obis.get(Obis(quantity).text, quantity)
        except BadObis:
            return quantity

    def quantity_of(self, name: str) -> str:
        """The OBIS code of a wire name, or the name itself where there is none."""
        obis = self._find(name).obis
        return obis.text if obis is not None else name

    def _find(self, name: str) -> _Meaning:
        known = self._known.get(name)
        if known is not None:
            return known
        if ":" not in name or len(name) > 40:
            return _UNKNOWN
        try:
            obis = Obis(name)
        except BadObis:
            return _UNKNOWN
        return _Meaning(obis, unit_of_obis(obis), Decimal(1), Decimal(1))


def unit_of_obis(obis: Obis) -> Unit | None:
    """The unit we give the quantity; None when its OBIS code does not tell."""
    if obis.text in _RELAY_STATES:
        return Unit.NONE
    match = _OBIS.fullmatch(obis.text)
    if match is None or match[1] != "1":
        return None
    measured, how, tariff = int(match[2]), int(match[3]), int(match[4])
    for group, energy, power in (
        (_ACTIVE, Unit.KWH, Unit.KW),
        (_REACTIVE, Unit.KVARH, Unit.KVAR),
        (_APPARENT, Unit.KVAH, Unit.KVA),
    ):
        if measured in group:
            return energy if how in _ENERGIES else power if how in _POWERS else None
    if how not in _MOMENTARY:
        return None
    if measured == _ANGLES:
        return Unit.DEG
    if tariff != 0:
        return None  # harmonics and the like, in percent here and in volts there
    for group, unit in (
        (_CURRENTS, Unit.A),
        (_VOLTAGES, Unit.V),
        (_POWER_FACTORS, Unit.NONE),
        (_FREQUENCIES, Unit.HZ),
    ):
        if measured in group:
            return unit
    return None


def _meaning(name: str, row: NamedQuantity) -> _Meaning:
    try:
        obis = Obis(row.obis) if row.obis else None
    except BadObis as error:
        raise BadLayout(name, str(error)) from error
    if row.unit == "?":
        return _Meaning(obis, None, row.scale, row.scale)
    if row.unit not in _WIRE_UNITS:
        raise BadLayout(name, f"unit {row.unit!r}: expected one of {', '.join(filter(None, _WIRE_UNITS))}")
    if not row.scale.is_finite() or row.scale == 0:
        raise BadLayout(name, f"scale {row.scale}")
    unit, exponent = _WIRE_UNITS[row.unit]
    implied = unit_of_obis(obis) if obis else None
    if implied not in (None, unit):
        raise BadLayout(
            name, f"unit {row.unit!r} contradicts {row.obis}, which is in {implied.value if implied else ''}"
        )
    return _Meaning(obis, unit, row.scale.scaleb(exponent), row.scale)


_UNKNOWN = _Meaning(None, None, Decimal(1), Decimal(1))
