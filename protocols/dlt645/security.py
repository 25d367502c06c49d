"""Security function 03H: what stands behind DI and operator code, and what a security module must be able to do.

Layouts follow the grid companies' addenda (identity authentication 070000FF, its validity 070001FF, its end 070002FF); multi-byte
fields go low byte first like everything else. The cryptography (SM1, SM7 in the meter's chip, its counterpart at the grid
company) is in no public document: here it is an interface. Whoever has the hardware implements `SecurityModule`.
"""

from typing import Protocol, runtime_checkable

from construct import Bytes, Int16ul
from construct import Struct as Layout
from msgspec import Struct

from protocols.dlt645.items import Di
from protocols.errors import BadMessage, EncodeError

__all__ = [
    "AUTHENTICATE",
    "INVALIDATE",
    "SET_VALIDITY",
    "Authenticated",
    "Challenge",
    "SecurityModule",
    "Validity",
]

AUTHENTICATE = Di("070000FF")
SET_VALIDITY = Di("070001FF")
INVALIDATE = Di("070002FF")

_CHALLENGE = Layout("cipher" / Bytes(8), "random" / Bytes(8), "factor" / Bytes(8)).compile()
_AUTHENTICATED = Layout("random" / Bytes(4), "chip_number" / Bytes(8)).compile()
_VALIDITY = Layout("minutes" / Int16ul, "mac" / Bytes(4)).compile()


class Challenge(Struct, frozen=True, kw_only=True):
    """DATA of 070000FF behind the operator code. Fields as sent.

    cipher: `random` enciphered with the key that `factor` (usually from the meter's address) disperses.
    """

    cipher: bytes
    random: bytes
    factor: bytes

    def to_data(self) -> bytes:
        return _sized(self.cipher, 8, "cipher") + _sized(self.random, 8, "random") + _sized(self.factor, 8, "factor")

    @classmethod
    def from_data(cls, data: bytes) -> "Challenge":
        """Raises BadMessage."""
        parts = _CHALLENGE.parse(_whole(data, 24, "cipher, random number and dispersion factor"))
        return cls(cipher=parts.cipher, random=parts.random, factor=parts.factor)


class Authenticated(Struct, frozen=True, kw_only=True):
    """Reply to 070000FF. random: for the MAC of the commands to come. chip_number: of the meter's ESAM. Fields as sent."""

    random: bytes
    chip_number: bytes

    def to_data(self) -> bytes:
        return _sized(self.random, 4, "random") + _sized(self.chip_number, 8, "chip number")

    @classmethod
    def from_data(cls, data: bytes) -> "Authenticated":
        """Raises BadMessage."""
        parts = _AUTHENTICATED.parse(_whole(data, 12, "random number and ESAM number"))
        return cls(random=parts.random, chip_number=parts.chip_number)


class Validity(Struct, frozen=True, kw_only=True):
    """DATA of 070001FF: how long an authentication lasts, under a MAC."""

    minutes: int
    mac: bytes

    def to_data(self) -> bytes:
        if not 0 <= self.minutes <= 0xFFFF:
            raise EncodeError(f"validity of {self.minutes} minutes, expected 0 to 65535")
        return self.minutes.to_bytes(2, "little") + _sized(self.mac, 4, "MAC")

    @classmethod
    def from_data(cls, data: bytes) -> "Validity":
        """Raises BadMessage."""
        parts = _VALIDITY.parse(_whole(data, 6, "minutes and MAC"))
        return cls(minutes=parts.minutes, mac=parts.mac)


@runtime_checkable
class SecurityModule(Protocol):
    """The head-end's side of the cryptography; keys never leave it. address: 12 digits."""

    def challenge(self, address: str) -> Challenge:
        """A fresh challenge for one meter."""

    def mac(self, address: str, random: bytes, plain: bytes) -> bytes:
        """Four bytes over `plain`, after an authentication that gave `random`."""

    def encipher(self, address: str, random: bytes, plain: bytes) -> bytes:
        """Ciphertext and MAC, as 14H and 1AH to 1CH of the secure class carry them."""


def _sized(field: bytes, size: int, what: str) -> bytes:
    if len(field) != size:
        raise EncodeError(f"{what} of {len(field)} bytes, expected {size}")
    return field


def _whole(data: bytes, size: int, what: str) -> bytes:
    if len(data) != size:
        raise BadMessage(f"security DATA of {len(data)} bytes, expected {size}: {what}", data)
    return data
