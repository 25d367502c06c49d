"""What a meter can tell over Modbus, by OBIS: amounts of its secondary side at one moment, at the best resolution there is.

The model is what flows through the meter itself, behind current and voltage transformers where there are any: Side says by
which ratios an amount of the primary side is larger.

Energies are exact to the watt-hour; how many of those digits a register can hold is the affair of its point.
"""

import enum
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from msgspec import Struct

from protocols.values import Obis, Unit
from simulators.load_curve import TARIFFS, Energies, mix, total
from simulators.load_curve import Quantity as Counted
from simulators.measurement import Instant
from simulators.meter import MeterModel

__all__ = ["Measured", "Quantity", "Side", "quantity_of"]

C = Counted
WS_PER_WH = 3600
PHASES = 3


class Side(enum.Enum):
    """Which transformer ratios stand between the two sides."""

    NONE = ""
    CURRENT = "ct"
    VOLTAGE = "pt"
    BOTH = "ct*pt"

    def factor(self, ct: Decimal, pt: Decimal) -> Decimal:
        return {Side.NONE: Decimal(1), Side.CURRENT: ct, Side.VOLTAGE: pt, Side.BOTH: ct * pt}[self]


class Measured:
    """One meter at one moment; what nobody asks for is not computed."""

    def __init__(self, model: MeterModel, now: datetime) -> None:
        self.model = model
        self.now = now

    @cached_property
    def instant(self) -> Instant:
        return self.model.instant(self.now)

    @cached_property
    def energies(self) -> Energies:
        return self.model.energies(self.now)

    def energy(self, counted: tuple[Counted, ...], tariff: int, phase: int | None = None) -> Decimal | None:
        """kWh or kvarh; tariff 0 is the total; None: there is no such phase."""
        sums = [
            total(self.energies, each) if tariff == 0 else self.energies[each * TARIFFS + tariff - 1]
            for each in counted
        ]
        flowed = sum(sums)
        if phase is not None:
            shares = self.model.curve.by_phase(flowed)
            if phase >= len(shares):
                return None
            flowed = shares[phase]
        return Decimal(flowed // WS_PER_WH).scaleb(-3)

    def distortion(self, phase: int) -> Decimal | None:
        """Of the voltage, in per cent: one to three and a half, another in every minute."""
        if phase >= self.model.phases:
            return None
        drawn = mix(self.model.seed ^ 0x7D, int(self.now.timestamp()) // 60 * PHASES + phase)
        return Decimal(100 + drawn % 251).scaleb(-2)


class Quantity(Struct, frozen=True, kw_only=True):
    """One of the things a meter measures. amount: None where this meter has no such phase."""

    unit: Unit
    side: Side = Side.NONE
    amount: Callable[[Measured], Decimal | None]


def quantity_of(obis: Obis | None, name: str) -> Quantity | None:
    """By OBIS, or by the name of the point for what has no OBIS code; None: not modelled."""
    return _BY_NAME.get(name) if obis is None else _BY_OBIS.get(obis.text)


def _energy(unit: Unit, counted: tuple[Counted, ...], tariff: int = 0, phase: int | None = None) -> Quantity:
    return Quantity(unit=unit, side=Side.BOTH, amount=lambda at: at.energy(counted, tariff, phase))


def _power(unit: Unit, choose: Callable[[Instant], Decimal | None], sign: int = 0) -> Quantity:
    """sign: 1 or -1 for what flows in one direction only."""

    def amount(at: Measured) -> Decimal | None:
        power = choose(at.instant)
        return power if power is None or not sign else max(power * sign, Decimal(0))

    return Quantity(unit=unit, side=Side.BOTH, amount=amount)


def _demand(unit: Unit, counted: tuple[Counted, ...], *, maximum: bool) -> Quantity:
    """Of the last whole quarter hour, or the maximum since the last settlement."""

    def amount(at: Measured) -> Decimal | None:
        if not maximum:
            return sum((at.model.present_demand(each, at.now) for each in counted), Decimal(0))
        found = at.model.max_demand(counted, 0, 0, at.now)
        return None if found is None else found.kilo

    return Quantity(unit=unit, side=Side.BOTH, amount=amount)


_ACTIVE = {1: (C.FORWARD,), 2: (C.REVERSE,), 15: (C.FORWARD, C.REVERSE)}
_REACTIVE = {3: (C.Q1, C.Q2), 4: (C.Q3, C.Q4), 5: (C.Q1,), 6: (C.Q2,), 7: (C.Q3,), 8: (C.Q4,)}


def _energies() -> dict[str, Quantity]:
    found = {}
    for unit, registers in ((Unit.KWH, _ACTIVE), (Unit.KVARH, _REACTIVE)):
        for group, counted in registers.items():
            for tariff in range(TARIFFS + 1):
                found[f"1-0:{group}.8.{tariff}"] = _energy(unit, counted, tariff)
            for phase in range(PHASES if group != 15 else 0):
                found[f"1-0:{group + 20 * (phase + 1)}.8.0"] = _energy(unit, counted, 0, phase)
            unit_now = Unit.KW if unit is Unit.KWH else Unit.KVAR
            if group <= 4:
                for kind, maximum in ((4, False), (5, False), (6, True)):
                    found[f"1-0:{group}.{kind}.0"] = _demand(unit_now, counted, maximum=maximum)
    return found


def _at(choose: Callable[[Instant], tuple[Decimal | None, ...]], place: int) -> Callable[[Instant], Decimal | None]:
    return lambda instant: choose(instant)[place]


def _shown(unit: Unit, side: Side, choose: Callable[[Instant], Decimal | None]) -> Quantity:
    return Quantity(unit=unit, side=side, amount=lambda at: choose(at.instant))


def _strength(choose: Callable[[Instant], Decimal | None]) -> Quantity:
    """Meters show how strong a current is; which way the energy goes is for the powers to say."""

    def amount(at: Measured) -> Decimal | None:
        current = choose(at.instant)
        return None if current is None else abs(current)

    return Quantity(unit=Unit.A, side=Side.CURRENT, amount=amount)


def _distortion(phase: int) -> Quantity:
    return Quantity(unit=Unit.PERCENT, amount=lambda at: at.distortion(phase))


def _momentary() -> dict[str, Quantity]:
    """Powers and power factor have the total first; groups of the phases follow each other by twenty."""
    found: dict[str, Quantity] = {}
    for place in range(PHASES + 1):
        first = 20 * place
        active, reactive = _at(lambda now: now.active_kw, place), _at(lambda now: now.reactive_kvar, place)
        found[f"1-0:{first + 16}.7.0"] = _power(Unit.KW, active)
        found[f"1-0:{first + 1}.7.0"] = _power(Unit.KW, active, 1)
        found[f"1-0:{first + 2}.7.0"] = _power(Unit.KW, active, -1)
        found[f"1-0:{first + 131}.7.0"] = _power(Unit.KVAR, reactive)
        found[f"1-0:{first + 3}.7.0"] = _power(Unit.KVAR, reactive, 1)
        found[f"1-0:{first + 4}.7.0"] = _power(Unit.KVAR, reactive, -1)
        found[f"1-0:{first + 9}.7.0"] = _power(Unit.KVA, _at(lambda now: now.apparent_kva, place))
        found[f"1-0:{first + 13}.7.0"] = _shown(Unit.NONE, Side.NONE, _at(lambda now: now.power_factor, place))
    for phase in range(PHASES):
        group = 20 * (phase + 1)
        found[f"1-0:{group + 12}.7.0"] = _shown(Unit.V, Side.VOLTAGE, _at(lambda now: now.voltage_v, phase))
        found[f"1-0:{group + 11}.7.0"] = _strength(_at(lambda now: now.current_a, phase))
        found[f"1-0:{group + 12}.7.124"] = _distortion(phase)
    found["1-0:12.7.0"], found["1-0:11.7.0"] = found["1-0:32.7.0"], found["1-0:31.7.0"]
    found["1-0:14.7.0"] = _shown(Unit.HZ, Side.NONE, lambda now: now.frequency_hz)
    found["1-0:81.7.0"] = _shown(Unit.DEG, Side.NONE, lambda now: now.angle_deg[0])
    found["1-0:91.7.0"] = _strength(lambda now: now.neutral_a)
    return found


_BY_OBIS = _energies() | _momentary()
_BY_NAME = {"total_reactive_energy": _energy(Unit.KVARH, (C.Q1, C.Q2, C.Q3, C.Q4))}
