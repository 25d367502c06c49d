"""What can be known of a register before it is read: how it counts, where it rolls over, how fast it can run at most.

A register of 8 digits XXXXXX.XX goes from 999999.99 to 0.00: its modulus is 1000000.00. How fast it can run follows from the
connection: rated current x voltage x phases, and the transformers' ratio where the meter counts the primary side.
"""

import enum
import re
from decimal import Decimal
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import force_setattr

from protocols.values import Unit

__all__ = [
    "SLACK_S",
    "TICKS",
    "Connection",
    "Kind",
    "Register",
    "kind_of",
    "modulus_of_bits",
    "modulus_of_layout",
    "movement_max",
    "rolled_over",
    "ticks_of",
]

TICKS = Decimal(1_000_000)  # amounts are compared in whole millionths of their unit: exact for every register we know
EXPONENT_MAX = 30
BEYOND: int = 10**37
SLACK_S = 60  # a register may lag behind what it counts, and a reply may be late
SLACK_STEPS = 2
OVERLOAD = Decimal("1.2")  # a meter counts on beyond its rated current, and grids are above their rated voltage
ROLLOVER_SHARE = 10  # without a known connection, a rollover crosses at most a tenth of the register

_OBIS = re.compile(r"1-\d+:(\d+)\.(\d+)\.\d+")
_NET = frozenset((16, 36, 56, 76))  # |+A| - |-A|: a balance, which goes both ways
_ENERGY = frozenset((Unit.KWH, Unit.KVARH, Unit.KVAH))


class Kind(enum.Enum):
    """CUMULATIVE only counts up. BALANCE counts both ways. MOMENTARY is measured anew each time. OTHER: demands, settled registers."""

    CUMULATIVE = "cumulative"
    BALANCE = "balance"
    MOMENTARY = "momentary"
    OTHER = "other"


class Connection(Struct, frozen=True, kw_only=True):
    """current_max_a: the meter's Imax, or of its transformers' secondary side. voltage_v: of a phase.

    ratio: 1 where the meter counts the secondary side, CT x PT where it counts the primary side.
    """

    current_max_a: Decimal
    voltage_v: Decimal = Decimal(220)
    phases: int = 1
    ratio: Decimal = Decimal(1)

    @property
    def power_max_w(self) -> int:
        return int(self.current_max_a * self.voltage_v * self.phases * self.ratio * OVERLOAD)


class Register(Struct, frozen=True, kw_only=True, gc=False):
    """What one channel promises; one object for all meters of a contract and connection.

    step: the last digit, 0.01. modulus: where it starts again at 0; None: not known, then no step back is a rollover.
    power_max_w: of what it counts or measures, W, var or VA; None: not known. most: of a momentary quantity, in its unit.
    tariffs: how many registers make up the total; 0: not known, then a sum below the total proves nothing.
    marks: amounts that this register's type has for "no value" (65535 of an uint16, scaled).
    slack_ticks, most_ticks: reckoned from `step` and `most`; the first is what rounding may add to any movement.
    """

    kind: Kind
    unit: Unit
    step: Decimal = Decimal("0.01")
    modulus: Decimal | None = None
    power_max_w: int | None = None
    most: Decimal | None = None
    tariffs: int = 0
    marks: tuple[Decimal, ...] = ()
    slack_ticks: int = 0
    most_ticks: int | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "slack_ticks", SLACK_STEPS * ticks_of(self.step))
        force_setattr(self, "most_ticks", None if self.most is None else ticks_of(self.most))


@lru_cache(maxsize=4096)
def kind_of(obis: str, unit: Unit, *, signed: bool = False) -> Kind:
    """By the OBIS code's C and D; what has none, or belongs to a settled period (*1..), is OTHER."""
    match = _OBIS.fullmatch(obis)
    if match is None:
        return Kind.OTHER
    quantity, measure = int(match[1]), match[2]
    if measure == "8" and unit in _ENERGY:
        return Kind.BALANCE if signed or quantity in _NET else Kind.CUMULATIVE
    return Kind.MOMENTARY if measure == "7" else Kind.OTHER


def modulus_of_layout(layout: str) -> tuple[Decimal, Decimal] | None:
    """Step and modulus of a layout of decimal digits: "XXXXXX.XX" is 0.01 and 1000000. None for any other layout."""
    whole, _, fraction = layout.partition(".")
    if not layout or set(whole + fraction) != {"X"}:
        return None
    return Decimal(1).scaleb(-len(fraction)), Decimal(1).scaleb(len(whole))


def modulus_of_bits(bits: int, scale: Decimal) -> tuple[Decimal, Decimal]:
    """Step and modulus of a binary counter: 32 bits of 0.01 kWh roll over at 42949672.96 kWh."""
    return scale, scale * 2**bits


def ticks_of(amount: Decimal) -> int:
    """Beyond what any register holds the size is of no matter, and an amount of 1E+999999 must not fill the memory."""
    if amount.adjusted() > EXPONENT_MAX:
        return -BEYOND if amount < 0 else BEYOND
    return int(amount * TICKS)


def movement_max(register: Register, seconds: float) -> Decimal | None:
    """The most the register can count in that time; None where the connection is not known."""
    if register.power_max_w is None:
        return None
    kilo_hours = Decimal(register.power_max_w * (int(seconds) + SLACK_S)) / 3_600_000
    return kilo_hours + SLACK_STEPS * register.step


def rolled_over(before: Decimal, after: Decimal, register: Register, most: Decimal | None) -> Decimal | None:
    """What was counted when a register that stands lower than before has started again; None when that cannot be.

    most: what it can have counted at most.
    """
    modulus = register.modulus
    if modulus is None or not 0 <= after < before < modulus:
        return None
    counted = after - before + modulus
    limit = modulus / ROLLOVER_SHARE if most is None else most
    return counted if counted <= limit else None
