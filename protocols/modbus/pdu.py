"""Modbus requests and replies, without their frames (MODBUS Application Protocol V1.1b3, §6 and §7).

Every PDU begins with its function; numbers go high byte first. Five layouts carry the eight functions we speak:

    01–04 read        function · start · count              reply  function · size · content
    05, 06 write one  function · start · word               reply  the request again
    0F, 10 write many function · start · count · size · content    reply  function · start · count
    any                                                     reply  function + 80H · code

Addresses are those on the wire, counted from 0. The reply to a read names neither its start nor, with bits, their count: what it
answers is known only from the request, which is why the session is strict about late ones.
"""

from construct import Byte, Bytes, ConstructError, Int16ub, Struct, this
from msgspec import Struct as Value

from protocols.errors import BadMessage, EncodeError, UnknownFunction

__all__ = [
    "BITS_MAX",
    "EXCEPTIONS",
    "PDU_SIZE_MAX",
    "REGISTERS_MAX",
    "WRITE_BITS_MAX",
    "WRITE_REGISTERS_MAX",
    "Bits",
    "ModbusException",
    "ReadBits",
    "ReadRegisters",
    "Registers",
    "Reply",
    "Request",
    "WriteCoil",
    "WriteCoils",
    "WriteRegister",
    "WriteRegisters",
    "Written",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

READ_COILS = 0x01
READ_INPUTS = 0x02
READ_HOLDING = 0x03
READ_INPUT_REGISTERS = 0x04
WRITE_COIL = 0x05
WRITE_REGISTER = 0x06
WRITE_COILS = 0x0F
WRITE_REGISTERS = 0x10
REFUSED = 0x80  # added to the function of an exception reply

PDU_SIZE_MAX = 253  # 256 bytes of RTU less unit and CRC, §4.1
BITS_MAX = 2000  # §6.1
REGISTERS_MAX = 125  # §6.3
WRITE_BITS_MAX = 1968  # §6.11
WRITE_REGISTERS_MAX = 123  # §6.12
ADDRESSES = 0x10000
COIL_ON, COIL_OFF = 0xFF00, 0x0000  # §6.5: nothing else is a coil's word

EXCEPTIONS = {
    0x01: "illegal function",
    0x02: "illegal data address",
    0x03: "illegal data value",
    0x04: "device failure",
    0x05: "acknowledged, still at work",
    0x06: "device busy",
    0x07: "negative acknowledgement",
    0x08: "memory parity error",
    0x0A: "no path through the concentrator",
    0x0B: "the meter behind the concentrator does not answer",
}
"""What the codes mean, §7; 07 is from older editions."""

# The layouts as the specification draws them. Reads go by position below, being nearly all the traffic; tests hold both equal.
READ_LAYOUT = Struct("function" / Byte, "start" / Int16ub, "count" / Int16ub).compile()
CONTENT_LAYOUT = Struct("function" / Byte, "size" / Byte, "content" / Bytes(this.size)).compile()
WRITE_ONE_LAYOUT = Struct("function" / Byte, "start" / Int16ub, "word" / Int16ub).compile()
WRITE_MANY_LAYOUT = Struct(
    "function" / Byte, "start" / Int16ub, "count" / Int16ub, "size" / Byte, "content" / Bytes(this.size)
).compile()
EXCEPTION_LAYOUT = Struct("function" / Byte, "code" / Byte).compile()

READ_SIZE = WRITE_ONE_SIZE = 5
CONTENT_AT = 2
WRITE_MANY_HEADER_SIZE = 6
EXCEPTION_SIZE = 2


class ReadBits(Value, frozen=True):
    """function: 1 coils, 2 discrete inputs."""

    function: int
    start: int
    count: int


class ReadRegisters(Value, frozen=True):
    """function: 3 holding registers, 4 input registers."""

    function: int
    start: int
    count: int


class WriteCoil(Value, frozen=True):
    address: int
    on: bool


class WriteRegister(Value, frozen=True):
    address: int
    word: int


class WriteRegisters(Value, frozen=True):
    start: int
    words: tuple[int, ...]


class WriteCoils(Value, frozen=True):
    start: int
    bits: tuple[bool, ...]


class Bits(Value, frozen=True):
    """bits: lowest address first. The wire has whole bytes, so a reply as it comes may hold up to 7 more than were asked for."""

    function: int
    bits: tuple[bool, ...]


class Registers(Value, frozen=True):
    """content: as on the wire, 2 bytes a register, high byte first."""

    function: int
    content: bytes


class Written(Value, frozen=True):
    """The reply to a write. echoed: the word as it was written (05, 06; a coil's is FF00H or 0), or how many were (0F, 10)."""

    function: int
    start: int
    echoed: int


class ModbusException(Value, frozen=True):
    """The device refused. function: of the request, without the 80H; code: see EXCEPTIONS."""

    function: int
    code: int

    @property
    def meaning(self) -> str:
        return EXCEPTIONS.get(self.code, "not in the specification")


Request = ReadBits | ReadRegisters | WriteCoil | WriteRegister | WriteRegisters | WriteCoils
Reply = Bits | Registers | Written | ModbusException


def encode_request(request: Request) -> bytes:
    """Raises EncodeError when a number does not fit its field or the count is beyond the specification's limit."""
    match request:
        case ReadRegisters(function, start, count):
            _check_function(function, READ_HOLDING, READ_INPUT_REGISTERS)
            _check_stretch(start, count, REGISTERS_MAX, "registers")
            return bytes((function, start >> 8, start & 0xFF, count >> 8, count & 0xFF))
        case ReadBits(function, start, count):
            _check_function(function, READ_COILS, READ_INPUTS)
            _check_stretch(start, count, BITS_MAX, "bits")
            return bytes((function, start >> 8, start & 0xFF, count >> 8, count & 0xFF))
        case WriteCoil(address, on):
            return _write_one(WRITE_COIL, address, COIL_ON if on else COIL_OFF)
        case WriteRegister(address, word):
            return _write_one(WRITE_REGISTER, address, word)
        case WriteRegisters(start, words):
            _check_stretch(start, len(words), WRITE_REGISTERS_MAX, "registers")
            for word in words:
                _check_word(word)
            content = b"".join(word.to_bytes(2, "big") for word in words)
            return _write_many(WRITE_REGISTERS, start, len(words), content)
        case WriteCoils(start, bits):
            _check_stretch(start, len(bits), WRITE_BITS_MAX, "coils")
            return _write_many(WRITE_COILS, start, len(bits), _pack(bits))


def decode_request(pdu: bytes) -> Request:
    """Take apart what a device was asked.

    Raises UnknownFunction (a device answers exception 01) and BadMessage (exception 03: wrong size, or a count beyond the
    specification's limit). A stretch that leaves the address space comes through: refusing it, with 02, is the device's affair.
    """
    if not pdu:
        raise BadMessage("an empty PDU, expected at least the function", pdu)
    function = pdu[0]
    if READ_COILS <= function <= READ_INPUT_REGISTERS:
        _check_size(pdu, READ_SIZE)
        start, count = pdu[1] << 8 | pdu[2], pdu[3] << 8 | pdu[4]
        is_bits = function <= READ_INPUTS
        _check_count(count, BITS_MAX if is_bits else REGISTERS_MAX, pdu)
        return ReadBits(function, start, count) if is_bits else ReadRegisters(function, start, count)
    if function in (WRITE_COIL, WRITE_REGISTER):
        _check_size(pdu, WRITE_ONE_SIZE)
        one = WRITE_ONE_LAYOUT.parse(pdu)
        if function == WRITE_REGISTER:
            return WriteRegister(one.start, one.word)
        if one.word not in (COIL_ON, COIL_OFF):
            raise BadMessage(f"a coil's word is {one.word:04X}H, expected FF00H or 0000H", pdu)
        return WriteCoil(one.start, one.word == COIL_ON)
    if function in (WRITE_COILS, WRITE_REGISTERS):
        return _decode_write_many(pdu)
    raise UnknownFunction(f"function {function:02X}H, expected one of 01–06, 0F, 10", pdu)


def encode_reply(reply: Reply) -> bytes:
    """Raises EncodeError when a number does not fit its field."""
    match reply:
        case Registers(function, content):
            _check_function(function, READ_HOLDING, READ_INPUT_REGISTERS)
            if not content or len(content) % 2 or len(content) > 2 * REGISTERS_MAX:
                raise EncodeError(f"{len(content)} bytes of registers, expected an even number from 2 to 250")
            return bytes((function, len(content))) + content
        case Bits(function, bits):
            _check_function(function, READ_COILS, READ_INPUTS)
            if not 1 <= len(bits) <= BITS_MAX:
                raise EncodeError(f"{len(bits)} bits, expected 1 to {BITS_MAX}")
            packed = _pack(bits)
            return bytes((function, len(packed))) + packed
        case Written(function, start, echoed):
            _check_function(function, WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS)
            _check_word(start)
            _check_word(echoed)
            return bytes(WRITE_ONE_LAYOUT.build({"function": function, "start": start, "word": echoed}))
        case ModbusException(function, code):
            if not (0 < function < REFUSED and 0 <= code <= 0xFF):
                raise EncodeError(f"exception {code} to function {function}, expected a byte and 1..127")
            return bytes(EXCEPTION_LAYOUT.build({"function": function | REFUSED, "code": code}))


def decode_reply(pdu: bytes) -> Reply:
    """Take apart what a device answered. Raises UnknownFunction and BadMessage; bytes behind the announced ones are never taken."""
    if len(pdu) < EXCEPTION_SIZE:
        raise BadMessage(f"{len(pdu)} bytes, expected at least the function and one more", pdu)
    function = pdu[0]
    if READ_COILS <= function <= READ_INPUT_REGISTERS:
        size = pdu[1]
        if len(pdu) != CONTENT_AT + size or not size:
            raise BadMessage(f"{len(pdu) - CONTENT_AT} bytes of content, announced {size}", pdu)
        if function <= READ_INPUTS:
            return Bits(function, _unpack(pdu[CONTENT_AT:], 8 * size))
        if size % 2:
            raise BadMessage(f"{size} bytes of registers, expected an even number", pdu)
        return Registers(function, pdu[CONTENT_AT:])
    if function & REFUSED:
        _check_size(pdu, EXCEPTION_SIZE)
        refused = EXCEPTION_LAYOUT.parse(pdu)
        return ModbusException(refused.function & ~REFUSED, refused.code)
    if function in (WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS):
        _check_size(pdu, WRITE_ONE_SIZE)
        one = WRITE_ONE_LAYOUT.parse(pdu)
        return Written(function, one.start, one.word)
    raise UnknownFunction(f"function {function:02X}H, expected one of 01–06, 0F, 10 or their exceptions", pdu)


def _decode_write_many(pdu: bytes) -> WriteRegisters | WriteCoils:
    if len(pdu) <= WRITE_MANY_HEADER_SIZE:
        raise BadMessage(f"{len(pdu)} bytes, expected more than {WRITE_MANY_HEADER_SIZE}", pdu)
    _check_size(pdu, WRITE_MANY_HEADER_SIZE + pdu[WRITE_MANY_HEADER_SIZE - 1])
    try:
        many = WRITE_MANY_LAYOUT.parse(pdu)
    except ConstructError as error:
        raise BadMessage(str(error), pdu) from error
    is_bits = many.function == WRITE_COILS
    _check_count(many.count, WRITE_BITS_MAX if is_bits else WRITE_REGISTERS_MAX, pdu)
    expected = (many.count + 7) // 8 if is_bits else 2 * many.count
    if many.size != expected:
        raise BadMessage(f"{many.size} bytes of content for {many.count}, expected {expected}", pdu)
    if is_bits:
        return WriteCoils(many.start, _unpack(many.content, many.count))
    return WriteRegisters(
        many.start, tuple(int.from_bytes(many.content[at : at + 2], "big") for at in range(0, many.size, 2))
    )


def _write_one(function: int, address: int, word: int) -> bytes:
    _check_stretch(address, 1, 1, "addresses")
    _check_word(word)
    return bytes(WRITE_ONE_LAYOUT.build({"function": function, "start": address, "word": word}))


def _write_many(function: int, start: int, count: int, content: bytes) -> bytes:
    fields = {"function": function, "start": start, "count": count, "size": len(content), "content": content}
    return bytes(WRITE_MANY_LAYOUT.build(fields))


def _pack(bits: tuple[bool, ...]) -> bytes:
    """Lowest address in the lowest bit of the first byte; what is left of the last byte is 0."""
    packed = sum(1 << at for at, bit in enumerate(bits) if bit)
    return packed.to_bytes((len(bits) + 7) // 8, "little")


def _unpack(content: bytes, count: int) -> tuple[bool, ...]:
    packed = int.from_bytes(content, "little")
    return tuple(bool(packed >> at & 1) for at in range(count))


def _check_function(function: int, *known: int) -> None:
    if function not in known:
        raise EncodeError(f"function {function}, expected one of {', '.join(map(str, known))}")


def _check_stretch(start: int, count: int, count_max: int, what: str) -> None:
    if not 1 <= count <= count_max:
        raise EncodeError(f"{count} {what}, expected 1 to {count_max}")
    if start < 0 or start + count > ADDRESSES:
        raise EncodeError(f"{count} {what} from {start}: addresses go from 0 to {ADDRESSES - 1}")


def _check_word(word: int) -> None:
    if not 0 <= word <= 0xFFFF:
        raise EncodeError(f"{word} does not fit a register (0..65535)")


def _check_size(pdu: bytes, size: int) -> None:
    if len(pdu) != size:
        raise BadMessage(f"{len(pdu)} bytes, function {pdu[0]:02X}H has {size}", pdu)


def _check_count(count: int, count_max: int, pdu: bytes) -> None:
    if not 1 <= count <= count_max:
        raise BadMessage(f"a count of {count}, expected 1 to {count_max}", pdu)
