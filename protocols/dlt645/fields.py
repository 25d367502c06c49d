"""Pieces that requests and replies share: passwords, and digits high byte first for what the wire carries low byte first."""

from msgspec import Struct

from protocols.dlt645.items import Di
from protocols.errors import EncodeError

__all__ = ["Password", "credentials", "digits_of", "hiding_repr", "is_1997", "operator_code", "wire_of"]


class Password(Struct, frozen=True):
    """PA P0 P1 P2. The secret never shows in a repr, so it cannot reach a log by accident.

    level: PA; 00 is the highest, 09 the lowest; 96H..99H name the grid companies' secure classes.
    secret: P0 P1 P2 as sent.
    """

    level: int
    secret: bytes

    def __repr__(self) -> str:
        return f"Password(level={self.level:02X}H, secret=***)"

    @property
    def wire(self) -> bytes:
        if len(self.secret) != 3:
            raise EncodeError(f"a password has 3 bytes, got {len(self.secret)}")
        return bytes([self.level]) + self.secret

    @classmethod
    def from_wire(cls, wire: bytes) -> "Password":
        return cls(wire[0], wire[1:4])


def hiding_repr(value: Struct, *hidden: str) -> str:
    """What repr would give, with *** for the fields named."""
    shown = (f"{name}={'***' if name in hidden else repr(getattr(value, name))}" for name in value.__struct_fields__)
    return f"{type(value).__name__}({', '.join(shown)})"


def digits_of(wire: bytes) -> str:
    """Hex digits, high byte first."""
    return wire[::-1].hex().upper()


def wire_of(digits: str, size: int, what: str) -> bytes:
    try:
        wire = bytes.fromhex(digits)
    except ValueError:
        wire = b""
    if len(wire) != size:
        raise EncodeError(f"{what} {digits!r}, expected {2 * size} digits")
    return wire[::-1]


def is_1997(di: Di) -> bool:
    return len(di.text) == 4


def operator_code(operator: bytes) -> bytes:
    if len(operator) != 4:
        raise EncodeError(f"an operator code has 4 bytes, got {len(operator)}")
    return operator


def credentials(password: Password | None, operator: bytes) -> bytes:
    if password is None:
        raise EncodeError("this 2007 function needs a password")
    return password.wire + operator_code(operator)
