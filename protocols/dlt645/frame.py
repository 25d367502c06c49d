"""One complete DL/T 645 frame, the same shell in both editions.

    68 | A0..A5 | 68 | C | L | DATA (L bytes, each +33H) | CS | 16

CS is the sum modulo 256 of everything from the first 68H through the last DATA byte as sent. Wake-up bytes FEH before
the frame belong neither to the frame nor to CS. Address and multi-byte items go low byte first (DL/T 645-2007 §5.2).
"""

from construct import Byte, Bytes, Const, Struct, this
from msgspec import Struct as Value

from protocols.dlt645.control import Control
from protocols.errors import BadChecksum, BadEnd, BadLength, BadStart, EncodeError, TooShort

__all__ = ["BROADCAST", "FRAME_SIZE_MAX", "FRAME_SIZE_MIN", "PREAMBLE", "WILDCARD", "Frame", "address_matches"]

START = 0x68
END = 0x16
PREAMBLE = 0xFE
SECOND_START_AT = 7
CONTROL_AT = 8
LENGTH_AT = 9
HEADER_SIZE = 10  # through the length byte
TRAILER_SIZE = 2  # CS and 16H
FRAME_SIZE_MIN = HEADER_SIZE + TRAILER_SIZE
FRAME_SIZE_MAX = FRAME_SIZE_MIN + 255  # the text says 200 in reads, 50 in writes; secure writes exceed that in practice
PREAMBLE_DEFAULT = 4  # DL/T 645-2007: the master should send four

BROADCAST = "999999999999"
WILDCARD = "AAAAAAAAAAAA"

_START = bytes([START])
_PREAMBLE = bytes([PREAMBLE])
_ADD_OFFSET = bytes((byte + 0x33) & 0xFF for byte in range(256))
_REMOVE_OFFSET = bytes((byte - 0x33) & 0xFF for byte in range(256))

# The layout as the standard draws it. `Frame` takes the same fields by position; a test holds the two against each other.
LAYOUT = Struct(
    "start" / Const(bytes([START])),
    "address" / Bytes(6),
    "second_start" / Const(bytes([START])),
    "control" / Byte,
    "length" / Byte,
    "data" / Bytes(this.length),
    "checksum" / Byte,
    "end" / Byte,
).compile()


class Frame(Value, frozen=True):
    """A frame whose checksum was right.

    address: 12 hex digits, high byte first; a meter's are decimal, AA pads a wildcard, 999999999999 is broadcast.
    control: the byte C.
    payload: DATA after −33H, in wire order.
    """

    address: str
    control: int
    payload: bytes

    @classmethod
    def from_bytes(cls, wire: bytes) -> "Frame":
        """Take apart exactly one frame, leading FEH allowed.

        Raises TooShort, BadStart, BadLength, BadChecksum or BadEnd; the length byte leads, delimiters only agree,
        because 68H and 16H are legal DATA bytes.
        """
        body = wire.lstrip(b"\xfe")
        if len(body) >= 1 and body[0] != START:
            raise BadStart(f"frame starts with {body[0]:02X}H, expected 68H", wire)
        if len(body) > SECOND_START_AT and body[SECOND_START_AT] != START:
            raise BadStart(f"byte 7 is {body[SECOND_START_AT]:02X}H, expected the second 68H", wire)
        if len(body) < FRAME_SIZE_MIN:
            raise TooShort(f"{len(body)} bytes, expected at least {FRAME_SIZE_MIN}", wire)
        size = FRAME_SIZE_MIN + body[LENGTH_AT]
        if len(body) < size:
            raise TooShort(f"{len(body)} bytes, expected {size} by the length byte {body[LENGTH_AT]:02X}H", wire)
        if len(body) > size:
            raise BadLength(f"{len(body)} bytes, expected {size} by the length byte {body[LENGTH_AT]:02X}H", wire)
        expected = sum(body[:-TRAILER_SIZE]) & 0xFF
        if body[-TRAILER_SIZE] != expected:
            raise BadChecksum(wire, expected=expected, found=body[-TRAILER_SIZE])
        if body[-1] != END:
            raise BadEnd(f"last byte is {body[-1]:02X}H, expected 16H", wire)
        # Slices, not LAYOUT.parse: every condition is checked above, and a head-end does this thousands of times a second.
        data = body[HEADER_SIZE:-TRAILER_SIZE].translate(_REMOVE_OFFSET)
        return cls(body[6:0:-1].hex().upper(), body[CONTROL_AT], data)

    def to_bytes(self, preamble: int = 0) -> bytes:
        """The wire, with `preamble` FEH bytes before it. Raises EncodeError for a payload over 255 bytes."""
        if len(self.payload) > 255:
            raise EncodeError(f"payload of {len(self.payload)} bytes, expected at most 255")
        head = bytes((START, self.control, len(self.payload)))
        body = _START + self.address_wire + head + self.payload.translate(_ADD_OFFSET)
        return _PREAMBLE * preamble + body + bytes((sum(body) & 0xFF, END))

    def __repr__(self) -> str:
        from protocols.dlt645.masking import mask_payload  # it builds on this module

        payload = mask_payload(self.control, self.payload)
        return f"Frame(address={self.address!r}, control={self.control:#04x}, payload={payload!r})"

    @property
    def address_wire(self) -> bytes:
        """Raises EncodeError when the address is not 12 hex digits."""
        try:
            wire = bytes.fromhex(self.address)
        except ValueError:
            wire = b""
        if len(wire) != 6:
            raise EncodeError(f"address {self.address!r}, expected 12 hex digits")
        return wire[::-1]

    @property
    def control_parts(self) -> Control:
        return Control.from_byte(self.control)


def address_matches(pattern: str, address: str) -> bool:
    """Whether `address` answers a request sent to `pattern`: equal, or AA at the high end stands for anything.

    99..99 is matched by any address: 1997 meters alone on a line answer a read sent to it.
    """
    if pattern in (address, WILDCARD, BROADCAST):
        return True
    fixed = pattern
    while fixed.startswith("AA"):
        fixed = fixed[2:]
    return len(fixed) < 12 and address.endswith(fixed)
