"""How the supply behind a Modbus meter is switched, and where it shows: section `[relay]` of a contract.

Modbus has no common way. A maker gives a coil or a register that takes one word to close the contact and another to
open it, and a bit somewhere that tells what the contact does:

    [relay]
    kind = "holding"
    address = 0x0100
    on = 0x0055
    off = 0x00AA
    source = "maker's manual of 2024-05, p. 12"

    [relay.status]
    kind = "input"
    address = 0x0050
    mask = 0x0003
    on = 0x0001

The reply to a write is an echo and proves nothing: several meters send it before the contact has moved. So a contract
cannot name a relay without a status.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocols.modbus.pdu import (
    Bits,
    ReadBits,
    ReadRegisters,
    Registers,
    WriteCoil,
    WriteCoils,
    WriteRegister,
    WriteRegisters,
)

__all__ = ["ModbusRelay", "ModbusRelayStatus"]

COIL_ON = 0xFF00  # what FC05 writes for on; 0000H is off, anything else is refused
_STATUS_FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_Word = Annotated[int, Meta(ge=0, le=0xFFFF)]


class ModbusRelayStatus(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the meter says what its contact does. Closed when the word, masked, is `on`; a bit is a word of 0 or 1."""

    kind: Literal["coil", "discrete", "holding", "input"]
    address: _Word
    mask: _Word = 1
    on: _Word = 1

    def __post_init__(self) -> None:
        if self.mask == 0 or self.on & ~self.mask:
            raise ValueError(f"status: on {self.on:04X}H cannot come out of mask {self.mask:04X}H")
        if self.kind in ("coil", "discrete") and self.mask != 1:
            raise ValueError(f"status: a {self.kind} is one bit, mask must be 1")

    def request(self) -> ReadBits | ReadRegisters:
        function = _STATUS_FUNCTIONS[self.kind]
        if self.kind in ("coil", "discrete"):
            return ReadBits(function, self.address, 1)
        return ReadRegisters(function, self.address, 1)

    def is_closed(self, reply: Bits | Registers) -> bool:
        """Whether the contact is closed, by the reply to `request`."""
        word = int(reply.bits[0]) if isinstance(reply, Bits) else int.from_bytes(reply.content[:2], "big")
        return word & self.mask == self.on


class ModbusRelay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the supply is switched: `on` closes the contact, `off` opens it. The reply to either proves nothing; `status` does.

    on, off: words; a coil has FF00H and 0000H, in this order or, where 1 means open, the other way round.
    function: 5, 6, 15 or 16; 0: 5 for a coil and 6 for a register.
    """

    kind: Literal["coil", "holding"]
    address: _Word
    on: _Word
    off: _Word
    status: ModbusRelayStatus
    source: Annotated[str, Meta(min_length=1)]
    function: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        if self.on == self.off:
            raise ValueError("on and off are the same word")
        if self.kind == "coil" and {self.on, self.off} != {COIL_ON, 0}:
            raise ValueError("a coil is written with 0xFF00 and 0x0000")
        if self.function not in (0, *((5, 15) if self.kind == "coil" else (6, 16))):
            raise ValueError(f"function {self.function} does not write a {self.kind}")

    @property
    def write_function(self) -> int:
        return self.function or (5 if self.kind == "coil" else 6)

    def command(self, *, closed: bool) -> WriteCoil | WriteCoils | WriteRegister | WriteRegisters:
        """The request that closes the contact, or opens it."""
        word = self.on if closed else self.off
        match self.write_function:
            case 5:
                return WriteCoil(self.address, word == COIL_ON)
            case 15:
                return WriteCoils(self.address, (word == COIL_ON,))
            case 6:
                return WriteRegister(self.address, word)
            case _:
                return WriteRegisters(self.address, (word,))
