"""Which unit an OBIS code calls for, and what a transformer ratio may apply to (IEC 62056-61, electricity).

Group C says what is measured, D how it is processed. Quantities of the phases stand 20, 40 and 60 above those of the
sum: 1 is import of active power, 21, 41 and 61 the same of L1, L2 and L3. The net reactive power has no code in the
standard; 131, 151, 171 and 191 are what readers of meters use for it.
"""

import enum

from protocols.values import Obis, Unit

__all__ = ["Dimension", "dimension_of_obis", "dimension_of_unit", "ratios_of"]


class Dimension(enum.Enum):
    """What a unit measures, whatever its prefix; the text is for people."""

    ACTIVE_POWER = "active power (kW)"
    REACTIVE_POWER = "reactive power (kvar)"
    APPARENT_POWER = "apparent power (kVA)"
    ACTIVE_ENERGY = "active energy (kWh)"
    REACTIVE_ENERGY = "reactive energy (kvarh)"
    APPARENT_ENERGY = "apparent energy (kVAh)"
    VOLTAGE = "a voltage (V)"
    CURRENT = "a current (A)"
    FREQUENCY = "a frequency (Hz)"
    ANGLE = "an angle (deg)"
    PERCENT = "a percentage (%)"
    NUMBER = "a number without unit"


_UNITS = {
    Unit.W: Dimension.ACTIVE_POWER,
    Unit.KW: Dimension.ACTIVE_POWER,
    Unit.VAR: Dimension.REACTIVE_POWER,
    Unit.KVAR: Dimension.REACTIVE_POWER,
    Unit.VA: Dimension.APPARENT_POWER,
    Unit.KVA: Dimension.APPARENT_POWER,
    Unit.KWH: Dimension.ACTIVE_ENERGY,
    Unit.KVARH: Dimension.REACTIVE_ENERGY,
    Unit.KVAH: Dimension.APPARENT_ENERGY,
    Unit.V: Dimension.VOLTAGE,
    Unit.A: Dimension.CURRENT,
    Unit.HZ: Dimension.FREQUENCY,
    Unit.DEG: Dimension.ANGLE,
    Unit.PERCENT: Dimension.PERCENT,
    Unit.NONE: Dimension.NUMBER,
}
_ABOUT_THE_METER = 0  # settings, counts, times: each has a unit of its own
_ACTIVE = frozenset({1, 2, *range(15, 21)})
_REACTIVE = frozenset(range(3, 9))
_APPARENT = frozenset({9, 10})
_NET_REACTIVE = frozenset({131, 151, 171, 191})
_DEMAND_SUMS, _MAXIMUM, _INSTANTANEOUS, _INTEGRAL = 2, 6, 7, 8
_AVERAGES = frozenset({4, 5})
_ANGLES = 81
_DISTORTION = 124  # group E of a total harmonic distortion
_OF_POWER = {
    Dimension.ACTIVE_POWER: Dimension.ACTIVE_ENERGY,
    Dimension.REACTIVE_POWER: Dimension.REACTIVE_ENERGY,
    Dimension.APPARENT_POWER: Dimension.APPARENT_ENERGY,
}
_MOMENTARY = {11: Dimension.CURRENT, 12: Dimension.VOLTAGE, 13: Dimension.NUMBER, 14: Dimension.FREQUENCY}
_BOTH = frozenset({"", "ct", "pt", "ct*pt"})
_RATIOS = {
    Dimension.VOLTAGE: frozenset({"", "pt"}),
    Dimension.CURRENT: frozenset({"", "ct"}),
    **dict.fromkeys((*_OF_POWER, *_OF_POWER.values()), _BOTH),
}


def dimension_of_unit(unit: Unit) -> Dimension | None:
    """None for units that no electrical quantity of ours has, such as CNY."""
    return _UNITS.get(unit)


def dimension_of_obis(obis: Obis) -> Dimension | None:
    """What the code calls for; None where it leaves that open, or is none of the codes that we know."""
    medium, _, rest = obis.text.partition("-")
    measured, processed, tariff = (int(part) for part in rest.partition(":")[2].partition("*")[0].split("."))
    if medium != "1" or measured == _ABOUT_THE_METER:
        return None
    if processed == _INSTANTANEOUS and tariff == _DISTORTION:
        return Dimension.PERCENT
    if measured == _ANGLES:
        return Dimension.ANGLE if processed == _INSTANTANEOUS else None
    power = _power(measured)
    if power is not None:
        if processed == _INTEGRAL:
            return _OF_POWER[power]
        return power if processed in (_DEMAND_SUMS, _MAXIMUM, _INSTANTANEOUS, *_AVERAGES) else None
    if processed in (_MAXIMUM, _INSTANTANEOUS) and measured <= 80 and tariff == 0:
        return _MOMENTARY.get(_of_sum(measured))
    return None  # also harmonics (E from 1), which one meter has in volts and another in percent


def ratios_of(unit: Unit) -> frozenset[str]:
    """The ratios that make sense for a value of this unit: none but "" for a frequency or a power factor."""
    dimension = dimension_of_unit(unit)
    return _RATIOS.get(dimension, frozenset({""})) if dimension else frozenset({""})


def _power(measured: int) -> Dimension | None:
    if measured in _NET_REACTIVE:
        return Dimension.REACTIVE_POWER
    if measured > 80:
        return None
    of_sum = _of_sum(measured)
    for group, power in (
        (_ACTIVE, Dimension.ACTIVE_POWER),
        (_REACTIVE, Dimension.REACTIVE_POWER),
        (_APPARENT, Dimension.APPARENT_POWER),
    ):
        if of_sum in group:
            return power
    return None


def _of_sum(measured: int) -> int:
    """The code of the sum for that of a phase: 21, 41 and 61 become 1."""
    return (measured - 1) % 20 + 1
