"""Any frame, byte by byte, with the code that runs in production.

Pure: bytes in, an explanation out. What is no frame is explained, too: why not, and what it looks like instead.
"""

import binascii
from collections.abc import Iterable

import crcmod.predefined
from msgspec import Struct

from firmware_contracts.contract import load
from firmware_contracts.errors import ContractError
from protocols.dlt645.control import ERROR, RATES, Control, Dialect, RelayOrder, error_phrases, function_name
from protocols.dlt645.frame import BROADCAST, FRAME_SIZE_MIN, HEADER_SIZE, LENGTH_AT, SECOND_START_AT, START, Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import Di, ItemValue, decode
from protocols.dlt645.messages import (
    Accepted,
    AddressReply,
    ClearRequest,
    FollowUpReply,
    FollowUpRequest,
    FreezeRequest,
    Message,
    PasswordRequest,
    RateReply,
    RateRequest,
    ReadReply,
    ReadRequest,
    Refused,
    RelayReply,
    RelayRequest,
    SecurityRequest,
    TerminalReply,
    TerminalRequest,
    TimeSync,
    WriteAddressRequest,
    WriteRequest,
    dialect_of,
)
from protocols.dlt645.messages import decode as decode_message
from protocols.errors import FrameError, MessageError, ProtocolError
from protocols.values import Unit

__all__ = ["ByteMeaning", "ExplainedItem", "Explanation", "NotHex", "explain", "parse_hex"]

_CONTRACTS = {Dialect.V2007: "dlt645/base_2007", Dialect.V1997: "dlt645/base_1997"}
_crc_modbus = crcmod.predefined.mkCrcFun("modbus")

RELAY_ORDERS = {
    RelayOrder.TRIP: "trip",
    RelayOrder.PERMIT_CLOSE: "close permitted",
    RelayOrder.CLOSE: "direct close",
    RelayOrder.TRIP_THEN_CLOSE: "trip, then direct close after N2 × 5 min",
    RelayOrder.TRIP_THEN_PERMIT: "trip, then close permitted after N2 × 5 min",
    RelayOrder.ALARM_ON: "alarm on",
    RelayOrder.ALARM_OFF: "alarm off",
    RelayOrder.PROTECT: "protect supply",
    RelayOrder.PROTECT_OFF: "protect off",
}
OUTPUTS = {0: "clock second pulse", 1: "demand period pulse", 2: "tariff slot switching pulse"}


class NotHex(ValueError):
    """Text that is no hex at all."""


class ExplainedItem(Struct, frozen=True):
    """value: decimal string, digits as the standard prints them, or text; None when the meter has no such measurement."""

    name: str
    obis: str | None
    value: str | None
    unit: str
    at: str | None


class ByteMeaning(Struct, frozen=True):
    """offset: in the bytes given; hex: those bytes as they came."""

    offset: int
    hex: str
    meaning: str


class Explanation(Struct, frozen=True, kw_only=True):
    """One frame, or what was no frame. Names as in design 5.2; `error` and `follow` are the control byte's flags."""

    protocol: str | None = None
    valid: bool = False
    problem: str | None = None
    dir: str | None = None
    addr: str | None = None
    c: str | None = None
    fn: str | None = None
    error: bool = False
    follow: bool = False
    len: int | None = None
    di: str | None = None
    payload: str | None = None
    items: list[ExplainedItem] = []
    bytes: list[ByteMeaning] = []


def parse_hex(text: str) -> bytes:
    """Bytes of "68 11 …", "6811…", "0x68,0x11" or "68:11". Raises NotHex saying what was expected."""
    cleaned = text.replace("0x", " ").replace("0X", " ")
    for separator in ",;:-_[](){}\"'\t\r\n":
        cleaned = cleaned.replace(separator, " ")
    parts = cleaned.split()
    if not parts:
        raise NotHex(
            "nothing to explain: expected a frame in hex, for example 68 01 00 00 00 00 00 68 11 04 33 33 34 33 B3 16"
        )
    # "1 2 A" is three bytes; an odd run of digits anywhere else is a lost digit.
    digits = "".join(part.zfill(2) if len(parts) > 1 and len(part) == 1 else part for part in parts)
    try:
        return binascii.unhexlify(digits)
    except (binascii.Error, ValueError) as error:
        if len(digits) % 2 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise NotHex(
                f"{len(digits)} hex digits: expected an even number, one is missing or one too many"
            ) from error
        wrong = next((digit for digit in digits if digit not in "0123456789abcdefABCDEF"), "")
        raise NotHex(
            f"{wrong!r} is no hex digit; expected a frame in hex, for example 68 01 00 00 00 00 00 68 11 04 …"
        ) from error


def explain(wire: bytes) -> list[Explanation]:
    """One explanation per right frame in `wire`; when there is none, one that says why."""
    found = _right_frames(wire)
    if not found:
        return [_explain_damaged(wire)]
    explained = []
    before = 0
    for index, (start, heard) in enumerate(found):
        end = start + len(heard.wire)
        tail = wire[end:] if index == len(found) - 1 else b""
        explained.append(_explain_frame(heard.frame, wire[before:start], heard.wire, tail, before))
        before = end
    return explained


def _right_frames(wire: bytes) -> list[tuple[int, Heard]]:
    framer = Framer()
    heard = [item for item in framer.receive(wire, 0.0) + framer.tick(float("inf")) if isinstance(item, Heard)]
    placed, start = [], 0
    for item in heard:
        start = wire.index(item.wire, start)
        placed.append((start, item))
        start += len(item.wire)
    return placed


# ------------------------------------------------------------------------------------------------ a right frame


def _explain_frame(
    frame: Frame, before: bytes, body: bytes, tail: bytes, offset: int, problem: str | None = None
) -> Explanation:
    parts = frame.control_parts
    dialect = dialect_of(frame)
    message, misfit = _message(frame)
    problem = problem or misfit
    items, item_problem = _items(message) if message is not None else ([], None)
    di = _di_of(message, frame, dialect)
    meanings = _Meanings(offset)
    noise = before.rstrip(b"\xfe")
    meanings.add(noise, "noise, no part of a frame")
    meanings.add(before[len(noise) :], "wake-up bytes, no part of the frame")
    _shell(meanings, body, frame, parts, dialect)
    _data(meanings, body[HEADER_SIZE : HEADER_SIZE + len(frame.payload)], message, items, len(di or "") // 2)
    expected = sum(body[:-2]) & 0xFF
    right = body[-2] == expected
    meanings.add(body[-2:-1], "checksum, right" if right else f"checksum, wrong: expected {expected:02X}H")
    meanings.add(body[-1:], "end" if body[-1] == 0x16 else "end, wrong: expected 16H")
    meanings.add(tail, "after the frame, no part of it")
    return Explanation(
        protocol=dialect.protocol,
        valid=problem is None,
        problem=problem or item_problem,
        dir="s2m" if parts.from_meter else "m2s",
        addr=frame.address,
        c=f"{frame.control:02X}",
        fn=function_name(dialect, parts.function),
        error=parts.error,
        follow=parts.follow,
        len=len(frame.payload),
        di=di,
        payload=frame.payload.hex().upper(),
        items=items,
        bytes=meanings.found,
    )


def _message(frame: Frame) -> tuple[Message | None, str | None]:
    """The frame's message, or the nearest thing to one and what is wrong with it."""
    try:
        return decode_message(frame), None
    except MessageError as error:
        misfit = f"DATA does not fit the function: {error}"
    try:  # an error reply that carries data, as a parser test in public code has it, is read as the reply it would be
        return decode_message(Frame(frame.address, frame.control & ~ERROR, frame.payload)), misfit
    except MessageError:
        return None, misfit


class _Meanings:
    def __init__(self, offset: int) -> None:
        self.found: list[ByteMeaning] = []
        self._offset = offset

    def add(self, piece: bytes, meaning: str) -> None:
        if piece:
            self.found.append(ByteMeaning(self._offset, piece.hex(" ").upper(), meaning))
            self._offset += len(piece)


def _shell(meanings: _Meanings, body: bytes, frame: Frame, parts: Control, dialect: Dialect) -> None:
    meanings.add(body[:1], "start")
    meanings.add(body[1:7], _address_meaning(frame.address))
    meanings.add(body[7:8], "second start")
    flags = "error reply" if parts.error else "reply" if parts.from_meter else "request"
    more = ", more frames follow" if parts.follow else ""
    meanings.add(body[8:9], f"control: {flags}, {function_name(dialect, parts.function)}{more}")
    meanings.add(body[9:10], f"length of DATA: {body[9]}")


def _address_meaning(address: str) -> str:
    if address == BROADCAST:
        return "address: broadcast 999999999999"
    if address.startswith("AA"):
        return f"address: wildcard {address}"
    return f"address: {address}, low byte first"


def _di_of(message: Message | None, frame: Frame, dialect: Dialect) -> str | None:
    di = getattr(message, "di", None)
    return str(di) if isinstance(di, Di) else None


def _data(meanings: _Meanings, data: bytes, message: Message | None, items: list[ExplainedItem], di_size: int) -> None:
    """DATA as it came; what each piece says is told after −33H."""
    if di_size:
        name = _item_name(getattr(message, "di", None))
        meanings.add(data[:di_size], f"DI {_minus_33(data[:di_size])[::-1].hex().upper()}{': ' + name if name else ''}")
    rest = data[di_size:]
    sequence = rest[-1:] if isinstance(message, FollowUpReply) and message.sequence is not None else b""
    rest = rest[: len(rest) - len(sequence)]
    for size, meaning in _pieces(rest, message, items):
        meanings.add(rest[:size], meaning)
        rest = rest[size:]
    meanings.add(rest, f"DATA after −33H: {_minus_33(rest).hex(' ').upper()}")
    meanings.add(sequence, f"SEQ {_minus_33(sequence).hex().upper()}H")


def _pieces(data: bytes, message: Message | None, items: list[ExplainedItem]) -> list[tuple[int, str]]:
    if isinstance(message, WriteRequest) and message.password:
        return [
            (4, f"password level {message.password.level:02X}H and password (not shown)"),
            (4, "operator code (not shown)"),
        ]
    if isinstance(message, ClearRequest) and message.password:
        return [
            (4, f"password level {message.password.level:02X}H and password (not shown)"),
            (4, "operator code (not shown)"),
        ]
    if isinstance(message, RelayRequest):
        return [
            (4, f"password level {message.password.level:02X}H and password (not shown)"),
            (4, "operator code (not shown)"),
            *([(1, f"{item.name}: {item.value}") for item in items[:2]]),
            (6, "N3..N8: expiry of the order"),
        ]
    if isinstance(message, SecurityRequest):
        return [(4, "operator code (not shown)")]
    if isinstance(message, PasswordRequest):
        return [(4, "old password (not shown)"), (4, "new password (not shown)")]
    if isinstance(message, ReadRequest) and message.count is not None:
        pieces = [(1, f"number of blocks N = {message.count:02X}H")]
        return pieces + ([(5, f"from {_picture(message.start)}")] if message.start else [])
    if isinstance(message, Refused):
        return [(message.size, items[0].name)]
    if items and len(data) % len(items) == 0:
        size = len(data) // len(items)
        return [(size, _item_meaning(item)) for item in items]
    return []


def _item_meaning(item: ExplainedItem) -> str:
    value = "not measured (FF fill)" if item.value is None else f"{item.value} {item.unit}".rstrip()
    return f"{item.name}: {value}" + (f" at {item.at}" if item.at and item.value is not None else "")


def _minus_33(data: bytes) -> bytes:
    return bytes((byte - 0x33) & 0xFF for byte in data)


# ------------------------------------------------------------------------------------------------ what it says


def _items(message: Message) -> tuple[list[ExplainedItem], str | None]:
    """The values in a message; the second part says why a reply's data could not be read."""
    if isinstance(message, ReadReply | FollowUpReply):
        return _reply_items(message)
    if isinstance(message, Refused):
        phrases = ", ".join(error_phrases(message.dialect, message.function, message.word, message.size))
        word = f"{message.word:0{2 * message.size}X}"
        return [_item(f"error word {word}H: {phrases}", word)], None
    if isinstance(message, AddressReply):
        return [_item("communication address", message.address)], None
    if isinstance(message, WriteAddressRequest):
        return [_item("new communication address", message.address)], None
    if isinstance(message, TimeSync):
        return [ExplainedItem("time", None, _picture(message.at), "", None)], None
    if isinstance(message, FreezeRequest):
        return [_item("freeze moment MMDDhhmm, 99 = any", message.moment)], None
    if isinstance(message, RateRequest | RateReply):
        rates = RATES[message.dialect]
        name = f"rate {rates[message.word]} baud" if message.word in rates else "rate word that is no standard rate"
        return [_item(name, f"{message.word:02X}")], None
    if isinstance(message, RelayRequest):
        return _relay_items(message), None
    if isinstance(message, RelayReply) and message.state_word is not None:
        return [_item("relay state word", f"{message.state_word:04X}")], None
    if isinstance(message, TerminalRequest | TerminalReply):
        return [_item(OUTPUTS.get(message.output, "unknown output"), f"{message.output:02X}")], None
    if isinstance(message, FollowUpRequest) and message.sequence is not None:
        return [_item("SEQ", f"{message.sequence:02X}")], None
    if isinstance(message, WriteRequest):
        return [
            _item(
                f"data to write ({_item_name(message.di) or 'private DI'}), low byte first", message.data.hex().upper()
            )
        ], None
    if isinstance(message, Accepted):
        return [], None
    return [], None


def _order_name(order: int) -> str:
    return RELAY_ORDERS[RelayOrder(order)] if order in RelayOrder.__members__.values() else "unknown order"


def _relay_items(message: RelayRequest) -> list[ExplainedItem]:
    items = [_item(f"N1 {_order_name(message.order)}", f"{message.order:02X}")]
    if message.delay is not None:
        items.append(_item("N2", f"{message.delay:02X}"))
    if message.expires is not None:
        items.append(_item("expires", _picture(message.expires)))
    return items


def _reply_items(message: ReadReply | FollowUpReply) -> tuple[list[ExplainedItem], str | None]:
    contract = load(_CONTRACTS[Dialect(message.di.dialect)])
    try:
        spec = contract.find(message.di)
    except ContractError:
        return [], None  # a private DI: bytes are shown, nothing is claimed
    if not message.data:
        return [], None
    try:
        values = decode(message.data, spec)
    except ProtocolError as error:
        if message.follow or isinstance(message, FollowUpReply):
            return [], None  # one part of a longer reply cannot be read by itself
        return [], f"the frame is right, but its data do not fit DI {message.di}: {error}"
    return [_explained(value) for value in values], None


def _explained(value: ItemValue) -> ExplainedItem:
    return ExplainedItem(
        value.name,
        str(value.obis) if value.obis else None,
        None if value.content is None else str(value.content),
        "" if value.unit is Unit.BITS else value.unit.value,
        value.at.isoformat() if value.at else None,
    )


def _item(name: str, value: str) -> ExplainedItem:
    return ExplainedItem(name, None, value, "", None)


def _item_name(di: object) -> str:
    if not isinstance(di, Di):
        return ""
    try:
        return load(_CONTRACTS[Dialect(di.dialect)]).find(di).name
    except ContractError:
        return ""


def _picture(digits: str) -> str:
    """YYMMDDhhmmss or YYMMDDhhmm as a person writes it; digits that are no date are shown all the same."""
    date = f"20{digits[0:2]}-{digits[2:4]}-{digits[4:6]} {digits[6:8]}:{digits[8:10]}"
    return date + (f":{digits[10:12]}" if len(digits) == 12 else "")


# ------------------------------------------------------------------------------------------------ no right frame


def _explain_damaged(wire: bytes) -> Explanation:
    """The most frame-like thing in bytes that hold no right frame."""
    if other := _other_protocol(wire):
        return other
    start = _frame_like(wire)
    if start is None:
        return Explanation(problem=_no_frame(wire), bytes=[ByteMeaning(0, wire.hex(" ").upper(), "no frame")])
    body = wire[start:]
    try:
        Frame.from_bytes(body)
        raise AssertionError("a right frame was overlooked")
    except FrameError as error:
        problem = str(error)
    size = FRAME_SIZE_MIN + body[LENGTH_AT]
    if len(body) < size:
        meanings = _Meanings(0)
        meanings.add(wire[:start], "before the frame")
        meanings.add(body, f"incomplete frame: {len(body)} of {size} bytes")
        return Explanation(
            protocol="dlt645-2007",
            problem=problem,
            addr=body[1:7][::-1].hex().upper(),
            c=f"{body[8]:02X}",
            len=body[LENGTH_AT],
            bytes=meanings.found,
        )
    frame = Frame(body[1:7][::-1].hex().upper(), body[8], _minus_33(body[HEADER_SIZE : HEADER_SIZE + body[LENGTH_AT]]))
    return _explain_frame(frame, wire[:start], body[:size], body[size:], 0, problem)


def _frame_like(wire: bytes) -> int | None:
    """Where 68H stands with another 68H seven bytes later and a length byte behind it; whole ones first."""
    starts = [at for at in range(len(wire) - LENGTH_AT) if wire[at] == START and wire[at + SECOND_START_AT] == START]
    whole = [at for at in starts if at + FRAME_SIZE_MIN + wire[at + LENGTH_AT] <= len(wire)]
    return next(iter(whole or starts), None)


def _no_frame(wire: bytes) -> str:
    if not wire.strip(b"\xfe"):
        return "only wake-up bytes FEH; expected 68H and a frame behind them"
    if START not in wire:
        return f"no 68H in these {len(wire)} bytes; a DL/T 645 frame starts with 68H"
    if len(wire) < FRAME_SIZE_MIN:
        return f"{len(wire)} bytes; the shortest DL/T 645 frame has {FRAME_SIZE_MIN}"
    return "68H is there, but no second 68H seven bytes later; a DL/T 645 frame is 68 A0..A5 68 C L DATA CS 16"


def _other_protocol(wire: bytes) -> Explanation | None:
    """Frames of the neighbours that people paste: said to be what they are, not taken apart."""
    if len(wire) >= 4 and wire[0] != START and _crc_modbus(wire[:-2]) == int.from_bytes(wire[-2:], "little"):
        return Explanation(
            protocol="modbus-rtu",
            c=f"{wire[1]:02X}",
            fn=f"Modbus function {wire[1] & 0x7F:02X}H",
            error=bool(wire[1] & 0x80),
            addr=str(wire[0]),
            problem=f"no DL/T 645 frame: its last two bytes are a right Modbus CRC; "
            f"Modbus RTU, unit {wire[0]}, function {wire[1] & 0x7F:02X}H",
            bytes=_named(wire, ((1, "unit"), (1, "function"), (len(wire) - 4, "data"), (2, "CRC, right"))),
        )
    if len(wire) >= 8 and wire[2:4] == b"\0\0" and int.from_bytes(wire[4:6], "big") == len(wire) - 6:
        return Explanation(
            protocol="modbus-tcp",
            c=f"{wire[7]:02X}",
            fn=f"Modbus function {wire[7] & 0x7F:02X}H",
            error=bool(wire[7] & 0x80),
            addr=str(wire[6]),
            problem=f"no DL/T 645 frame: a Modbus TCP header, unit {wire[6]}, function {wire[7] & 0x7F:02X}H",
            bytes=_named(
                wire,
                (
                    (2, "transaction"),
                    (2, "protocol 0"),
                    (2, "length"),
                    (1, "unit"),
                    (1, "function"),
                    (len(wire) - 8, "data"),
                ),
            ),
        )
    if len(wire) >= 8 and wire[0] == START and wire[5] == START and wire[1:3] == wire[3:5]:
        return Explanation(
            problem="no DL/T 645 frame: 68 L L 68 is the shell of Q/GDW 376.1 (concentrator to master station)",
            bytes=[ByteMeaning(0, wire.hex(" ").upper(), "Q/GDW 376.1 frame")],
        )
    return None


def _named(wire: bytes, pieces: Iterable[tuple[int, str]]) -> list[ByteMeaning]:
    meanings = _Meanings(0)
    at = 0
    for size, meaning in pieces:
        meanings.add(wire[at : at + size], meaning)
        at += size
    return meanings.found
