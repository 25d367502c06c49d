"""What contract and connection promise of a register, in the words of the truth checks. Pure.

A DL/T 645 register has decimal digits and rolls over behind the last of them. A Modbus register of whole numbers rolls over with its
type; one of floating point promises nothing. Of what a concentrator pushes only quantity, unit and digits are known.
"""

import re
from decimal import Decimal

from headend.intervals.registers import Connection, Kind, Register, kind_of, modulus_of_bits, modulus_of_layout
from protocols.dlt645.items import ItemSpec
from protocols.modbus.points import Point, PointType
from protocols.values import Unit

__all__ = ["pushed_register", "register_of"]

FLOAT32_STEP = Decimal("0.25")  # 24 bits: what is left of a register of two million kWh
FLOAT64_STEP = Decimal("0.01")
STEP_DIGITS_MAX = 6
BEYOND_USUAL = (
    2  # a phase without its neutral has almost twice its voltage, and motors start with more than their rated current
)
HERTZ_MAX = Decimal(70)

_PICTURE = re.compile(r"(?:.*[:*])?(±?)([XN]+(?:\.[XN]+)?)")
_ENERGIES = frozenset((Unit.KWH, Unit.KVARH, Unit.KVAH))
_POWERS = frozenset((Unit.KW, Unit.KVAR, Unit.KVA))


def register_of(
    found: ItemSpec | Point, obis: str, unit: Unit, *, tariffs: int, connection: Connection | None
) -> Register:
    """found: an item of one amount, or a point. tariffs: how many registers make up a total; 0: not known.

    connection: with the ratio where the register counts the primary side; None: not known.
    """
    if isinstance(found, Point):
        return _of_point(found, obis, unit, connection)
    kind = kind_of(obis, unit, signed=found.signed)
    step, modulus = Decimal("0.01"), None
    if (match := _PICTURE.match(found.layout)) is not None:
        step = Decimal(1).scaleb(-len(match[2].partition(".")[2]))
        if (
            not match[1]
            and not found.signed
            and (promised := modulus_of_layout(match[2].replace("N", "X"))) is not None
        ):
            modulus = promised[1]
    return _register(kind, unit, step, modulus, tariffs, connection)


def pushed_register(obis: str, unit: Unit, amount: Decimal, connection: Connection | None) -> Register:
    """Its step is taken from the digits that were sent: a device that leaves zeros out is given more room, never less."""
    exponent = amount.as_tuple().exponent
    digits = min(max(0, -exponent), STEP_DIGITS_MAX) if isinstance(exponent, int) else 0
    return _register(kind_of(obis, unit), unit, Decimal(1).scaleb(-digits), None, 0, connection)


def _of_point(point: Point, obis: str, unit: Unit, connection: Connection | None) -> Register:
    kind, type_ = kind_of(obis, unit, signed=point.type.is_signed and unit in _ENERGIES), point.type
    if type_.is_float:
        step = FLOAT32_STEP if type_ is PointType.FLOAT32 else FLOAT64_STEP
        return _register(kind, unit, step if unit in _ENERGIES else Decimal("0.001"), None, 0, connection)
    step, scale, bits = abs(point.scale), point.scale, 16 * type_.width
    if type_.is_signed:
        # Signed because its maker has no other type, mostly: it is a register that counts up until it goes back.
        kind, modulus = kind_of(obis, unit), None
    elif type_.is_bcd:
        modulus = step.scaleb(4 * type_.width)
    else:
        modulus = modulus_of_bits(bits, step)[1]
    marks: tuple[Decimal, ...] = ()
    if kind is Kind.MOMENTARY and not type_.is_bcd:
        # A counter passes through all of its numbers; what is measured is at the end of its type only when it is a mark.
        ends = (2 ** (bits - 1) - 1, -(2 ** (bits - 1))) if type_.is_signed else (2**bits - 1,)
        marks = tuple(end * scale for end in ends)
    return _register(kind, unit, step, modulus, 0, connection, marks)


def _register(
    kind: Kind,
    unit: Unit,
    step: Decimal,
    modulus: Decimal | None,
    tariffs: int,
    connection: Connection | None,
    marks: tuple[Decimal, ...] = (),
) -> Register:
    is_counted = kind in (Kind.CUMULATIVE, Kind.BALANCE)
    return Register(
        kind=kind,
        unit=unit,
        step=step,
        modulus=modulus if is_counted else None,
        power_max_w=None if connection is None else connection.power_max_w,
        most=_most(unit, connection) if kind is Kind.MOMENTARY else None,
        tariffs=tariffs,
        marks=marks,
    )


def _most(unit: Unit, connection: Connection | None) -> Decimal | None:
    if unit is Unit.HZ:
        return HERTZ_MAX
    if connection is None:
        return None
    if unit in _POWERS:
        return Decimal(connection.power_max_w) / 1000
    if unit is Unit.A:
        return BEYOND_USUAL * connection.current_max_a * connection.ratio
    return BEYOND_USUAL * connection.voltage_v * connection.ratio if unit is Unit.V else None
