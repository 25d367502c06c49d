"""Which reply belongs to which request: what both framings have in common."""

from functools import lru_cache

from protocols.errors import EncodeError
from protocols.modbus.pdu import (
    Bits,
    ReadBits,
    ReadRegisters,
    Registers,
    Reply,
    Request,
    WriteCoil,
    WriteCoils,
    WriteRegister,
    Written,
)

__all__ = ["Key", "beginning_of", "key_of", "mismatch", "reply_key", "start_of", "trimmed", "unit_of"]

# Unit, function, and what else a reply names: of a read the number of bytes, of a write where and what, nothing with an exception.
Key = tuple[int, int, tuple[int, ...]]

_COIL_WORDS = {True: 0xFF00, False: 0x0000}
_EXCEPTION: tuple[int, ...] = ()


@lru_cache(maxsize=256)
def unit_of(address: str, *, lowest: int, highest: int) -> int:
    """The unit that a request's address names. Raises EncodeError."""
    unit = int(address) if address.isascii() and address.isdecimal() and len(address) <= 3 else -1
    if not lowest <= unit <= highest:
        raise EncodeError(f"unit {address!r}, expected a number from {lowest} to {highest}")
    return unit


def key_of(unit: int, request: Request) -> Key:
    """What the reply to this request will name."""
    match request:
        case ReadRegisters(function, _, count):
            return unit, function, (2 * count,)
        case ReadBits(function, _, count):
            return unit, function, ((count + 7) // 8,)
        case WriteCoil(at, on):
            return unit, 5, (at, _COIL_WORDS[bool(on)])
        case WriteRegister(at, word):
            return unit, 6, (at, word)
        case WriteCoils(start, bits):
            return unit, 15, (start, len(bits))
        case _:
            return unit, 16, (request.start, len(request.words))


def start_of(request: Request) -> int:
    return request.address if isinstance(request, WriteCoil | WriteRegister) else request.start


def reply_key(unit: int, reply: Reply) -> Key:
    match reply:
        case Registers(function, content):
            return unit, function, (len(content),)
        case Bits(function, bits):
            return unit, function, (len(bits) // 8,)
        case Written(function, start, echoed):
            return unit, function, (start, echoed)
        case _:
            return unit, reply.function, _EXCEPTION


def beginning_of(key: Key) -> bytes:
    """The first bytes of the RTU reply with this key: all that is known of it."""
    unit, function, rest = key
    size = 1 if len(rest) == 1 else 2
    return bytes((unit, function)) + b"".join(part.to_bytes(size, "big") for part in rest)


def mismatch(asked: Key, came: Key) -> str | None:
    """Why a reply is not the one that was asked for; None when it may be."""
    if came == asked:
        return None
    (asked_unit, asked_function, asked_rest), (unit, function, rest) = asked, came
    if unit != asked_unit:
        return f"from unit {unit}, asked {asked_unit}"
    if function != asked_function:
        return f"function {function:02X}H, asked {asked_function:02X}H"
    if rest == _EXCEPTION:
        return None
    if len(rest) == 1:
        return f"{rest[0]} bytes, asked for {asked_rest[0]}"
    return f"wrote {rest[1]:04X}H at {rest[0]:04X}H, asked {asked_rest[1]:04X}H at {asked_rest[0]:04X}H"


def trimmed(asked: Request, reply: Reply) -> Reply:
    """Without the bits that only fill the last byte."""
    if isinstance(reply, Bits) and isinstance(asked, ReadBits):
        return Bits(reply.function, reply.bits[: asked.count])
    return reply
