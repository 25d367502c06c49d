"""What a meter measures at one moment, from the power that flows: voltages, currents, power factors, frequency.

Pure, in integers: the same power, seed and minute give the same digits on every machine.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from math import isqrt

from msgspec import Struct

from simulators.load_curve import Power, mix

__all__ = ["Instant", "kilo", "measure"]

Phases = tuple[Decimal | None, ...]
NOMINAL_DV = 2200  # 220 V, the phase voltage


class Instant(Struct, frozen=True, kw_only=True):
    """Phases A, B, C, None where there is no phase; powers and power factor have the total first.

    Signs: power, current and power factor are negative while energy flows back to the grid.
    """

    voltage_v: Phases
    current_a: Phases
    active_kw: Phases
    reactive_kvar: Phases
    apparent_kva: Phases
    power_factor: Phases
    angle_deg: Phases
    frequency_hz: Decimal
    neutral_a: Decimal
    temperature_c: Decimal


def measure(power: Power, seed: int, now: datetime) -> Instant:
    """seed: the meter's, for its place on the grid."""
    ten_s = int(now.timestamp()) // 10
    minute = ten_s // 6
    volts, amps, apparent = [], [], []
    for phase, (watts, reactive) in enumerate(zip(power.watts, power.vars, strict=True)):
        # Grid noise of three volts either way, and a fall of one tenth of a volt for each kilowatt of the phase.
        tenths = NOMINAL_DV + mix(seed + phase, minute) % 61 - 30 - watts // 1000
        product = isqrt(watts * watts + reactive * reactive)
        volts.append(tenths)
        amps.append(product * 10_000 // tenths * (-1 if watts < 0 else 1))
        apparent.append(product)
    pairs = [(sum(power.watts), sum(apparent)), *zip(power.watts, apparent, strict=True)]
    factors = [1000 if product == 0 else watts * 1000 // product for watts, product in pairs]
    return Instant(
        voltage_v=_phases(volts, 1),
        current_a=_phases(amps, 3),
        active_kw=_with_total(power.watts),
        reactive_kvar=_with_total(power.vars),
        apparent_kva=_with_total(apparent),
        power_factor=(Decimal(factors[0]).scaleb(-3), *_phases(factors[1:], 3)),
        angle_deg=_phases([_angle(*pair) for pair in zip(power.watts, power.vars, strict=True)], 1),
        frequency_hz=Decimal(5000 + mix(0, ten_s) % 9 - 4).scaleb(-2),  # one grid: the same for all meters
        neutral_a=Decimal(amps[0] if len(amps) == 1 else max(amps) - min(amps)).scaleb(-3),
        temperature_c=Decimal(250 + mix(seed, minute // 30) % 40 - 20).scaleb(-1),
    )


def kilo(tenths: int) -> Decimal:
    """Tenths of a watt (var, VA) as kW with four decimals."""
    return Decimal(tenths).scaleb(-4)


def _phases(amounts: Sequence[int], decimals: int) -> Phases:
    values: list[Decimal | None] = [Decimal(amount).scaleb(-decimals) for amount in amounts]
    return tuple(values + [None] * (3 - len(values)))


def _with_total(amounts: Sequence[int]) -> Phases:
    return (kilo(sum(amounts) * 10), *_phases([amount * 10 for amount in amounts], 4))


# Tangents of 0.5°, 1.5°, …, 89.5° in thousandths: an angle is a look-up, and no float rounds differently elsewhere.
_TANGENTS = (
    9,
    26,
    44,
    61,
    79,
    96,
    114,
    132,
    149,
    167,
    185,
    203,
    222,
    240,
    259,
    277,
    296,
    315,
    335,
    354,
    374,
    394,
    414,
    435,
    456,
    477,
    499,
    521,
    543,
    566,
    589,
    613,
    637,
    662,
    687,
    713,
    740,
    767,
    795,
    824,
    854,
    885,
    916,
    949,
    983,
    1018,
    1054,
    1091,
    1130,
    1171,
    1213,
    1257,
    1303,
    1351,
    1402,
    1455,
    1511,
    1570,
    1632,
    1698,
    1767,
    1842,
    1921,
    2006,
    2097,
    2194,
    2300,
    2414,
    2539,
    2675,
    2824,
    2989,
    3172,
    3376,
    3606,
    3867,
    4165,
    4511,
    4915,
    5396,
    5976,
    6691,
    7596,
    8777,
    10385,
    12706,
    16350,
    22904,
    38188,
    114589,
)


def _angle(watts: int, reactive: int) -> int:
    """Tenths of a degree from voltage to current, 0..359.9, to whole degrees."""
    if watts == 0:
        return 0 if reactive == 0 else 900 if reactive > 0 else 2700
    degrees = bisect_right(_TANGENTS, abs(reactive) * 1000 // abs(watts))
    if watts < 0:
        degrees = 180 - degrees if reactive >= 0 else 180 + degrees
    elif reactive < 0:
        degrees = 360 - degrees
    return degrees % 360 * 10
