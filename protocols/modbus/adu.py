"""One complete Modbus frame: RTU (serial line, or serial line tunnelled in TCP) and TCP.

    RTU   unit | PDU | CRC low, CRC high                                   (MODBUS over Serial Line V1.02, §2.5.1)
    TCP   transaction (2) | protocol 0 (2) | length (2) | unit | PDU       (MODBUS Messaging on TCP/IP V1.0b, §3.1.3)

CRC-16: polynomial 8005H reflected, start FFFFH, over unit and PDU. The length of a TCP frame counts unit and PDU.
"""

from struct import Struct as Packing

from construct import Byte, Bytes, Const, Int16ub, Int16ul, Struct, this
from crcmod.predefined import mkPredefinedCrcFun
from msgspec import Struct as Value

from protocols.errors import BadChecksum, BadLength, BadStart, EncodeError, TooShort
from protocols.modbus.pdu import PDU_SIZE_MAX

__all__ = [
    "HEADER_SIZE",
    "LENGTH_MAX",
    "LENGTH_MIN",
    "RTU_SIZE_MAX",
    "RTU_SIZE_MIN",
    "TCP_SIZE_MAX",
    "RtuFrame",
    "TcpFrame",
    "crc",
]

CRC_SIZE = 2
RTU_SIZE_MIN = 4  # unit, function, CRC
RTU_SIZE_MAX = 1 + PDU_SIZE_MAX + CRC_SIZE
HEADER_SIZE = 7  # of a TCP frame, through the unit
LENGTH_MIN = 2  # unit and function
LENGTH_MAX = 1 + PDU_SIZE_MAX
TCP_SIZE_MAX = HEADER_SIZE - 1 + LENGTH_MAX

HEADER = Packing(">HHHB")  # transaction, protocol, length, unit

# The layouts as the specifications draw them. The frames below take the same fields by position; tests hold both equal.
RTU_LAYOUT = Struct("unit" / Byte, "pdu" / Bytes(lambda this: this._.size - 1 - CRC_SIZE), "crc" / Int16ul)
TCP_LAYOUT = Struct(
    "transaction" / Int16ub,
    "protocol" / Const(0, Int16ub),
    "length" / Int16ub,
    "unit" / Byte,
    "pdu" / Bytes(this.length - 1),
).compile()

_crc = mkPredefinedCrcFun("modbus")


def crc(content: bytes) -> int:
    """CRC-16 of unit and PDU; the low byte goes first on the wire."""
    return int(_crc(content))


class RtuFrame(Value, frozen=True):
    """A frame whose CRC was right. unit: 0 is broadcast, 1..247 are devices."""

    unit: int
    pdu: bytes

    @classmethod
    def from_bytes(cls, wire: bytes) -> "RtuFrame":
        """Take apart exactly one frame; its length is that of `wire`. Raises TooShort, BadLength, BadChecksum."""
        if len(wire) < RTU_SIZE_MIN:
            raise TooShort(f"{len(wire)} bytes, expected at least {RTU_SIZE_MIN}", wire)
        if len(wire) > RTU_SIZE_MAX:
            raise BadLength(f"{len(wire)} bytes, expected at most {RTU_SIZE_MAX}", wire)
        expected, found = _crc(wire[:-CRC_SIZE]), wire[-2] | wire[-1] << 8
        if found != expected:
            raise BadChecksum(wire, expected=expected, found=found)
        return cls(wire[0], wire[1:-CRC_SIZE])

    def to_bytes(self) -> bytes:
        """Raises EncodeError for a unit or a PDU that no frame can carry."""
        body = _unit_byte(self.unit) + _checked(self.pdu)
        return body + int(_crc(body)).to_bytes(CRC_SIZE, "little")


class TcpFrame(Value, frozen=True):
    """transaction: the asker's number, which the answer repeats. unit: 0 or 255 is the device that was dialled itself."""

    transaction: int
    unit: int
    pdu: bytes

    @classmethod
    def from_bytes(cls, wire: bytes) -> "TcpFrame":
        """Take apart exactly one frame. Raises TooShort, BadStart (protocol id is not 0), BadLength."""
        if len(wire) < HEADER_SIZE:
            raise TooShort(f"{len(wire)} bytes, expected at least {HEADER_SIZE}", wire)
        transaction, protocol, length, unit = HEADER.unpack_from(wire)
        if protocol:
            raise BadStart(f"protocol id is {protocol:04X}H, expected 0000H: this is not Modbus TCP", wire)
        if not LENGTH_MIN <= length <= LENGTH_MAX:
            raise BadLength(f"a length of {length}, expected {LENGTH_MIN} to {LENGTH_MAX}", wire)
        size = HEADER_SIZE - 1 + length
        if len(wire) < size:
            raise TooShort(f"{len(wire)} bytes, expected {size} by the length field", wire)
        if len(wire) > size:
            raise BadLength(f"{len(wire)} bytes, expected {size} by the length field", wire)
        return cls(transaction, unit, wire[HEADER_SIZE:])

    def to_bytes(self) -> bytes:
        """Raises EncodeError for a transaction, unit or PDU that no frame can carry."""
        if not 0 <= self.transaction <= 0xFFFF:
            raise EncodeError(f"transaction {self.transaction}, expected 0..65535")
        _unit_byte(self.unit)
        return HEADER.pack(self.transaction, 0, 1 + len(_checked(self.pdu)), self.unit) + self.pdu


def _unit_byte(unit: int) -> bytes:
    if not 0 <= unit <= 0xFF:
        raise EncodeError(f"unit {unit}, expected 0..255")
    return bytes((unit,))


def _checked(pdu: bytes) -> bytes:
    if not 1 <= len(pdu) <= PDU_SIZE_MAX:
        raise EncodeError(f"a PDU of {len(pdu)} bytes, expected 1 to {PDU_SIZE_MAX}")
    return pdu
