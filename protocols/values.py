"""The words all packages share: OBIS codes, meter addresses, units and amounts."""

import enum
import re
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import force_setattr

from protocols.errors import BadAddress, BadObis, UnknownUnit

__all__ = ["MeterAddress", "Obis", "RegisterValue", "Unit"]

BROADCAST = "999999999999"  # DL/T 645-2007 §5.2.3: every meter listens, none answers
_OBIS = re.compile(r"(\d{1,3})-(\d{1,3}):(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:\*(\d{1,3}))?")
_ADDRESS = re.compile(r"[0-9]{12}")


class Unit(enum.Enum):
    """Units as they are printed in the feed; NONE is a pure number (power factor, counts of nothing in particular).

    Power is kept in kW, kvar and kVA, whatever a device says: W, VAR and VA stand in contracts and payloads only.
    """

    NONE = ""
    KWH = "kWh"
    KVARH = "kvarh"
    KVAH = "kVAh"
    KW = "kW"
    KVAR = "kvar"
    KVA = "kVA"
    W = "W"
    VAR = "var"
    VA = "VA"
    V = "V"
    A = "A"
    AH = "Ah"
    HZ = "Hz"
    DEG = "deg"
    DEGC = "degC"
    PERCENT = "%"
    MINUTE = "min"
    SECOND = "s"
    MILLISECOND = "ms"
    TIMES = "times"
    CNY = "CNY"
    CNY_PER_KWH = "CNY/kWh"
    IMP_PER_KWH = "imp/kWh"
    IMP_PER_KVARH = "imp/kvarh"
    BITS = "bits"

    @classmethod
    def from_text(cls, text: str) -> "Unit":
        """Raises UnknownUnit, naming the units there are."""
        try:
            return cls(text)
        except ValueError as error:
            raise UnknownUnit(text, [unit.value for unit in cls if unit.value]) from error


class Obis(Struct, frozen=True, order=True):
    """Identity of a quantity, A-B:C.D.E*F (IEC 62056-61). `*255` is the default and is dropped: both spellings are equal.

    Raises BadObis.
    """

    text: str

    def __post_init__(self) -> None:
        match = _OBIS.fullmatch(self.text)
        if match is None or any(int(group) > 255 for group in match.groups() if group is not None):
            raise BadObis(self.text)
        groups = [str(int(group)) for group in match.groups() if group is not None]
        suffix = f"*{groups[5]}" if len(groups) == 6 and groups[5] != "255" else ""
        force_setattr(self, "text", f"{groups[0]}-{groups[1]}:{groups[2]}.{groups[3]}.{groups[4]}{suffix}")

    def __str__(self) -> str:
        return self.text


class MeterAddress(Struct, frozen=True, order=True):
    """Wire address of one meter (表号): 12 decimal digits, most significant first, as printed on the meter.

    The broadcast address and wildcards are not meters and cannot be expressed. Raises BadAddress.
    """

    digits: str

    def __post_init__(self) -> None:
        if _ADDRESS.fullmatch(self.digits) is None or self.digits == BROADCAST:
            raise BadAddress(self.digits)

    def __str__(self) -> str:
        return self.digits


class RegisterValue(Struct, frozen=True):
    """An amount with its unit, scaled as the contract row says."""

    amount: Decimal
    unit: Unit

    def __str__(self) -> str:
        return f"{self.amount} {self.unit.value}".rstrip()
