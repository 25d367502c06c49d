"""Any frame, byte by byte, with the code that runs in production.

Pure: bytes in, an explanation out. What is no frame is explained, too: why not, and what it looks like instead. What could be a
password is never spelled out: only the bytes as they were given, and `payload`, hold it.
"""

import binascii

from headend.explain.explanation import ByteMeaning, ExplainedItem, Explanation, Meanings
from headend.explain.items import item_name, items_of, pieces_of
from headend.explain.modbus import explain_modbus
from protocols.dlt645.control import (
    ERROR,
    Control,
    Dialect,
    Function1997,
    Function2007,
    function_name,
)
from protocols.dlt645.frame import BROADCAST, FRAME_SIZE_MIN, HEADER_SIZE, LENGTH_AT, SECOND_START_AT, START, Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import Di
from protocols.dlt645.masking import mask_payload
from protocols.dlt645.messages import (
    FollowUpReply,
    Message,
    dialect_of,
)
from protocols.dlt645.messages import decode as decode_message
from protocols.errors import FrameError, MessageError

__all__ = ["ByteMeaning", "ExplainedItem", "Explanation", "NotHex", "explain", "parse_hex"]

CONTROL_AT = SECOND_START_AT + 1
# (function, from the meter) of frames whose DATA begins with a DI.
_WITH_DI: dict[Dialect, set[tuple[int, bool]]] = {
    Dialect.V2007: {
        *((function, True) for function in (Function2007.READ, Function2007.FOLLOW_UP, Function2007.SECURITY)),
        *((function, False) for function in (Function2007.READ, Function2007.FOLLOW_UP, Function2007.SECURITY)),
        (Function2007.WRITE, False),
        (Function2007.CHANGE_PASSWORD, False),
    },
    Dialect.V1997: {
        *((function, True) for function in (Function1997.READ, Function1997.FOLLOW_UP, Function1997.REPEAT)),
        *((function, False) for function in (Function1997.READ, Function1997.FOLLOW_UP, Function1997.WRITE)),
    },
}


class NotHex(ValueError):
    """Text that is no hex at all."""


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
    data = body[HEADER_SIZE : HEADER_SIZE + len(frame.payload)]
    shown = mask_payload(frame.control, frame.payload).split()
    items, item_problem = items_of(message, shown) if message is not None else ([], None)
    di = _di_of(message)
    meanings = Meanings(offset)
    noise = before.rstrip(b"\xfe")
    meanings.add(noise, "noise, no part of a frame")
    meanings.add(before[len(noise) :], "wake-up bytes, no part of the frame")
    _shell(meanings, body, frame.address, parts, dialect)
    _data(meanings, data, shown, message, items, len(di or "") // 2)
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


def _shell(meanings: Meanings, body: bytes, address: str, parts: Control, dialect: Dialect) -> None:
    meanings.add(body[:1], "start")
    meanings.add(body[1:7], _address_meaning(address))
    meanings.add(body[7:8], "second start")
    flags = "error reply" if parts.error else "reply" if parts.from_meter else "request"
    more = ", more frames follow" if parts.follow else ""
    meanings.add(body[8:9], f"control: {flags}, {function_name(dialect, parts.function)}{more}")
    meanings.add(body[9:10], f"length of DATA: {body[9]}" if len(body) > LENGTH_AT else "")


def _address_meaning(address: str) -> str:
    if address == BROADCAST:
        return "address: broadcast 999999999999"
    if address.startswith("AA"):
        return f"address: wildcard {address}"
    return f"address: {address}, low byte first"


def _di_of(message: Message | None) -> str | None:
    di = getattr(message, "di", None)
    return str(di) if isinstance(di, Di) else None


def _data(
    meanings: Meanings,
    data: bytes,
    shown: list[str],
    message: Message | None,
    items: list[ExplainedItem],
    di_size: int,
) -> None:
    """DATA as it came; what each piece says is told after −33H, as far as it may be shown."""
    if di_size:
        name = item_name(getattr(message, "di", None))
        meanings.add(data[:di_size], f"DI {_minus_33(data[:di_size])[::-1].hex().upper()}{': ' + name if name else ''}")
    rest = data[di_size:]
    sequence = rest[-1:] if isinstance(message, FollowUpReply) and message.sequence is not None else b""
    rest = rest[: len(rest) - len(sequence)]
    for size, meaning in pieces_of(rest, message, items):
        meanings.add(rest[:size], meaning)
        rest = rest[size:]
    end = len(data) - len(sequence)
    meanings.add(rest, f"DATA after -33H: {' '.join(shown[end - len(rest) : end])}")
    meanings.add(sequence, f"SEQ {_minus_33(sequence).hex().upper()}H")


def _minus_33(data: bytes) -> bytes:
    return bytes((byte - 0x33) & 0xFF for byte in data)


# ------------------------------------------------------------------------------------------------ no right frame


def _explain_damaged(wire: bytes) -> Explanation:
    """The most frame-like thing in bytes that hold no right frame."""
    if other := _other_protocol(wire):
        return other
    start = _frame_like(wire)
    if start is None:
        return Explanation(problem=_no_frame(wire), bytes=[ByteMeaning(0, wire.hex(" ").upper(), "no frame")])
    body = wire[start:]
    if len(body) <= LENGTH_AT or len(body) < FRAME_SIZE_MIN + body[LENGTH_AT]:
        return _explain_cut(wire[:start], body)
    try:
        Frame.from_bytes(body)
        raise AssertionError("a right frame was overlooked")
    except FrameError as error:
        problem = str(error)
    size = FRAME_SIZE_MIN + body[LENGTH_AT]
    frame = Frame(body[1:7][::-1].hex().upper(), body[8], _minus_33(body[HEADER_SIZE : HEADER_SIZE + body[LENGTH_AT]]))
    return _explain_frame(frame, wire[:start], body[:size], body[size:], 0, problem)


def _explain_cut(before: bytes, body: bytes) -> Explanation:
    """A frame that ends too early: what its first bytes tell all the same."""
    has_control = len(body) > CONTROL_AT
    parts = Control.from_byte(body[CONTROL_AT]) if has_control else None
    address = body[1:7][::-1].hex().upper()
    data = body[HEADER_SIZE:]
    frame = Frame(address, body[CONTROL_AT] if has_control else 0, _minus_33(data))
    dialect = dialect_of(frame)
    di = _cut_di(frame, dialect)
    size = FRAME_SIZE_MIN + body[LENGTH_AT] if len(body) > LENGTH_AT else None
    meanings = Meanings(0)
    meanings.add(before, "before the frame")
    if parts is None:
        meanings.add(body, "start of a frame, cut off behind its second start")
    else:
        _shell(meanings, body, address, parts, dialect)
        di_size = len(di or "") // 2
        meanings.add(data[:di_size], f"DI {di}")
        shown = " ".join(mask_payload(frame.control, frame.payload).split()[di_size:])
        meanings.add(data[di_size:], f"DATA after -33H, cut off: {shown}")
    return Explanation(
        protocol=dialect.protocol,
        problem=f"incomplete frame: {len(body)} of {size or f'at least {FRAME_SIZE_MIN}'} bytes",
        dir=None if parts is None else "s2m" if parts.from_meter else "m2s",
        addr=address,
        c=f"{frame.control:02X}" if has_control else None,
        fn=function_name(dialect, parts.function) if parts is not None else None,
        error=parts is not None and parts.error,
        follow=parts is not None and parts.follow,
        len=body[LENGTH_AT] if len(body) > LENGTH_AT else None,
        di=di,
        bytes=meanings.found,
    )


def _cut_di(frame: Frame, dialect: Dialect) -> str | None:
    """The DI of a frame that is not whole, when the function has one and all of it came."""
    parts = frame.control_parts
    size = 4 if dialect is Dialect.V2007 else 2
    if parts.error or len(frame.payload) < size or (parts.function, parts.from_meter) not in _WITH_DI[dialect]:
        return None
    return str(Di.from_wire(frame.payload[:size]))


def _frame_like(wire: bytes) -> int | None:
    """Where 68H stands with another 68H seven bytes later; whole frames first, then those with a length byte."""
    starts = [
        at for at in range(len(wire) - SECOND_START_AT) if wire[at] == START and wire[at + SECOND_START_AT] == START
    ]
    headed = [at for at in starts if at + LENGTH_AT < len(wire)]
    whole = [at for at in headed if at + FRAME_SIZE_MIN + wire[at + LENGTH_AT] <= len(wire)]
    return next(iter(whole or headed or starts), None)


def _no_frame(wire: bytes) -> str:
    if not wire.strip(b"\xfe"):
        return "only wake-up bytes FEH; expected 68H and a frame behind them"
    if START not in wire:
        return f"no 68H in these {len(wire)} bytes; a DL/T 645 frame starts with 68H"
    if len(wire) < FRAME_SIZE_MIN:
        return f"{len(wire)} bytes; the shortest DL/T 645 frame has {FRAME_SIZE_MIN}"
    return "68H is there, but no second 68H seven bytes later; a DL/T 645 frame is 68 A0..A5 68 C L DATA CS 16"


def _other_protocol(wire: bytes) -> Explanation | None:
    """Frames of the neighbours that people paste."""
    if found := explain_modbus(wire):
        return found
    if len(wire) >= 8 and wire[0] == START and wire[5] == START and wire[1:3] == wire[3:5]:
        return Explanation(
            problem="no DL/T 645 frame: 68 L L 68 is the shell of Q/GDW 376.1 (concentrator to master station)",
            bytes=[ByteMeaning(0, wire.hex(" ").upper(), "Q/GDW 376.1 frame")],
        )
    return None
