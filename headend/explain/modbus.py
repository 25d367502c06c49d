"""Modbus frames, byte by byte: what can be said of them without knowing which meter sent them.

Neither a reply's registers nor, over RTU, the direction of a frame stand on the wire. The direction follows from the size, which
requests and replies share in one case only: three bytes of bits, told as the request it most likely is.
"""

from collections.abc import Sequence

from headend.explain.explanation import ExplainedItem, Explanation, Meanings
from protocols.errors import FrameError, WireError
from protocols.modbus.adu import HEADER_SIZE, RTU_SIZE_MIN, RtuFrame, TcpFrame
from protocols.modbus.pdu import (
    Bits,
    ModbusException,
    ReadBits,
    ReadRegisters,
    Registers,
    Reply,
    Request,
    WriteCoil,
    WriteCoils,
    WriteRegister,
    WriteRegisters,
    Written,
    decode_reply,
    decode_request,
)
from protocols.modbus.points import Point, PointType, decode_point
from protocols.values import Unit

__all__ = ["explain_modbus"]

DLT645_START = 0x68
EXCEPTION = 0x80
FUNCTIONS = {
    0x01: "read coils",
    0x02: "read discrete inputs",
    0x03: "read holding registers",
    0x04: "read input registers",
    0x05: "write one coil",
    0x06: "write one register",
    0x0F: "write coils",
    0x10: "write registers",
}
_ECHOED = (0x05, 0x06)  # their reply is the request again
_WIDE = (PointType.FLOAT32, PointType.UINT32, PointType.INT32)


def explain_modbus(wire: bytes) -> Explanation | None:
    """None for what is no Modbus frame: a wrong CRC cannot be told from other bytes."""
    meanings = Meanings(0)
    if len(wire) >= RTU_SIZE_MIN and wire[0] != DLT645_START:
        try:
            rtu = RtuFrame.from_bytes(wire)
        except FrameError:
            pass
        else:
            meanings.add(wire[:1], _unit_meaning(rtu.unit))
            found = _explain("modbus-rtu", rtu.unit, rtu.pdu, meanings)
            meanings.add(wire[-2:], "CRC, right, low byte first")
            return found
    if len(wire) > HEADER_SIZE and wire[2:4] == b"\0\0" and int.from_bytes(wire[4:6], "big") == len(wire) - 6:
        try:
            tcp = TcpFrame.from_bytes(wire)
        except FrameError:
            return None
        meanings.add(wire[:2], f"transaction {tcp.transaction}")
        meanings.add(wire[2:4], "protocol 0: Modbus")
        meanings.add(wire[4:6], f"length of what follows: {len(wire) - 6}")
        meanings.add(wire[6:7], _unit_meaning(tcp.unit))
        return _explain("modbus-tcp", tcp.unit, tcp.pdu, meanings)
    return None


def _unit_meaning(unit: int) -> str:
    return "unit 0: broadcast" if unit == 0 else f"unit {unit}"


def _explain(protocol: str, unit: int, pdu: bytes, meanings: Meanings) -> Explanation:
    refused = bool(pdu[0] & EXCEPTION)
    function = pdu[0] & ~EXCEPTION
    name = FUNCTIONS.get(function, f"function {function:02X}H")
    message, problem = _message(pdu)
    echo = ", or the reply to it, which looks the same" if function in _ECHOED and message is not None else ""
    meanings.add(pdu[:1], f"function: {'refused: ' if refused else ''}{name}{echo}")
    at = 1
    for size, meaning in _pieces(message):
        meanings.add(pdu[at : at + size], meaning)
        at += size
    meanings.add(pdu[at:], "content")
    is_reply = isinstance(message, Bits | Registers | Written | ModbusException)
    return Explanation(
        protocol=protocol,
        valid=problem is None,
        problem=problem,
        dir=None if message is None else "s2m" if is_reply else "m2s",
        addr=str(unit),
        c=f"{pdu[0]:02X}",
        fn=name,
        error=refused,
        len=len(pdu) - 1,
        payload=pdu[1:].hex().upper(),
        items=_items(message),
        bytes=meanings.found,
    )


def _message(pdu: bytes) -> tuple[Request | Reply | None, str | None]:
    """As a request where it can be one, else as a reply; None and what is wrong where it is neither."""
    try:
        return decode_request(pdu), None
    except WireError:
        pass
    try:
        return decode_reply(pdu), None
    except WireError as error:
        return None, f"a right frame whose content does not fit its function: {error}"


def _pieces(message: Request | Reply | None) -> Sequence[tuple[int, str]]:
    """Sizes and meanings of what stands behind the function."""
    match message:
        case ReadRegisters(_, start, count):
            return [(2, f"from register {start} ({start:04X}H)"), (2, f"{count} registers")]
        case ReadBits(_, start, count):
            return [(2, f"from bit {start} ({start:04X}H)"), (2, f"{count} bits")]
        case WriteCoil(address, on):
            return [(2, f"coil {address} ({address:04X}H)"), (2, "on" if on else "off")]
        case WriteRegister(address, word):
            return [(2, f"register {address} ({address:04X}H)"), (2, f"value {word} ({word:04X}H)")]
        case WriteRegisters(start, words):
            content = b"".join(word.to_bytes(2, "big") for word in words)
            return [
                (2, f"from register {start} ({start:04X}H)"),
                (2, f"{len(words)} registers"),
                (1, f"{len(content)} bytes follow"),
                (len(content), _registers_meaning(content)),
            ]
        case WriteCoils(start, bits):
            size = (len(bits) + 7) // 8
            return [
                (2, f"from coil {start} ({start:04X}H)"),
                (2, f"{len(bits)} coils"),
                (1, f"{size} bytes follow"),
                (size, f"lowest first: {_bits_text(bits)}"),
            ]
        case Registers(_, content):
            return [(1, f"{len(content)} bytes follow"), (len(content), _registers_meaning(content))]
        case Bits(_, bits):
            return [(1, f"{len(bits) // 8} bytes follow"), (len(bits) // 8, f"lowest first: {_bits_text(bits)}")]
        case Written(_, start, echoed):
            return [(2, f"from address {start} ({start:04X}H)"), (2, f"{echoed} written")]
        case ModbusException(_, code):
            return [(1, f"exception {code:02X}H: {message.meaning}")]
        case _:
            return []


def _registers_meaning(content: bytes) -> str:
    words = [str(int.from_bytes(content[at : at + 2], "big")) for at in range(0, len(content), 2)]
    wide = ""
    if len(words) == 2:
        wide = "; as " + ", as ".join(f"{kind.value} {_wide(kind, content)}" for kind in _WIDE)
    return f"registers: {' '.join(words)}{wide}"


def _wide(kind: PointType, content: bytes) -> str:
    point = Point(name="", function=3, address=0, type=kind, unit=Unit.NONE)
    amount = decode_point(point, content)
    return "not a number" if amount is None else f"{amount:f}"


def _bits_text(bits: Sequence[bool]) -> str:
    return "".join(str(int(bit)) for bit in bits)


def _items(message: Request | Reply | None) -> list[ExplainedItem]:
    """Registers as they came. What they mean is the contract's to say: `headend read` with --contract does."""
    if not isinstance(message, Registers):
        return []
    words = [int.from_bytes(message.content[at : at + 2], "big") for at in range(0, len(message.content), 2)]
    return [
        ExplainedItem(f"register {place + 1} of {len(words)}", None, str(word), "", None)
        for place, word in enumerate(words)
    ]
