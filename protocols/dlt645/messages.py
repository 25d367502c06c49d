"""Frames to messages and back: what the DATA field says, function by function, both editions and both directions.

A message knows how to write itself (`requests`, `replies`); this module reads. The head-end and a simulated meter are two ends of
the same code. Reading is tolerant about what carries no meaning for the function (`extra` keeps surplus bytes), and strict about
what does: a reply without its DI or an address that is not six bytes raises BadMessage.
"""

from typing import Any

from construct import Byte, Bytes, Construct, ConstructError, GreedyBytes, Struct
from msgspec import Struct as Value

from protocols.dlt645.control import Control, Dialect, Function1997, Function2007
from protocols.dlt645.fields import Password, digits_of
from protocols.dlt645.frame import BROADCAST, Frame
from protocols.dlt645.items import Di
from protocols.dlt645.replies import (
    Accepted,
    AddressReply,
    FollowUpReply,
    PasswordReply,
    RateReply,
    ReadReply,
    Refused,
    RelayReply,
    SecurityReply,
    TerminalReply,
)
from protocols.dlt645.requests import (
    ClearRequest,
    FollowUpRequest,
    FreezeRequest,
    PasswordRequest,
    RateRequest,
    ReadAddressRequest,
    ReadRequest,
    RelayRequest,
    RepeatRequest,
    SecurityRequest,
    TerminalRequest,
    TimeSync,
    WriteAddressRequest,
    WriteRequest,
)
from protocols.errors import BadMessage

__all__ = [
    "Accepted",
    "AddressReply",
    "ClearRequest",
    "FollowUpReply",
    "FollowUpRequest",
    "FreezeRequest",
    "Message",
    "Password",
    "PasswordReply",
    "PasswordRequest",
    "Private",
    "RateReply",
    "RateRequest",
    "ReadAddressRequest",
    "ReadReply",
    "ReadRequest",
    "Refused",
    "RelayReply",
    "RelayRequest",
    "RepeatRequest",
    "SecurityReply",
    "SecurityRequest",
    "TerminalReply",
    "TerminalRequest",
    "TimeSync",
    "WriteAddressRequest",
    "WriteRequest",
    "decode",
    "dialect_of",
    "encode",
    "expects_reply",
]

F07 = Function2007
F97 = Function1997
V07 = Dialect.V2007
V97 = Dialect.V1997
_PLAIN_READ_REPLY = 0x91
_ONLY_1997 = frozenset(int(function) for function in F97) - {F97.REPEAT, F97.TIME_SYNC}


class Private(Value, frozen=True, kw_only=True):
    """A function code or a form of DATA that neither edition defines, kept whole."""

    control: Control
    payload: bytes
    dialect: Dialect = V07

    @property
    def from_meter(self) -> bool:
        return self.control.from_meter

    def to_payload(self) -> bytes:
        return self.payload


Message = (
    Accepted
    | AddressReply
    | ClearRequest
    | FollowUpReply
    | FollowUpRequest
    | FreezeRequest
    | PasswordReply
    | PasswordRequest
    | Private
    | RateReply
    | RateRequest
    | ReadAddressRequest
    | ReadReply
    | ReadRequest
    | Refused
    | RelayReply
    | RelayRequest
    | RepeatRequest
    | SecurityReply
    | SecurityRequest
    | TerminalReply
    | TerminalRequest
    | TimeSync
    | WriteAddressRequest
    | WriteRequest
)


def encode(message: Message, address: str) -> Frame:
    """The frame that carries `message` to or from `address` (12 hex digits). Raises EncodeError."""
    return Frame(address, message.control.to_byte(), message.to_payload())


def dialect_of(frame: Frame) -> Dialect:
    """Which edition a frame speaks. One shell serves both; the function code tells, except for 03H, where the length does."""
    parts = frame.control_parts
    if parts.function == F97.REPEAT:
        # 1997 repeat: nothing asked, DI of 2 answered, one error byte. 2007 security: DI of the 07xxxxxx family, two error bytes.
        if parts.error:
            return V97 if len(frame.payload) == 1 else V07
        is_security = len(frame.payload) >= 4 and frame.payload[3] == 0x07
        return V07 if is_security else V97
    return V97 if parts.function in _ONLY_1997 else V07


def expects_reply(message: Message, address: str) -> bool:
    """False for what is broadcast. 1997 masters address the only meter on a line with 99..99 and do get an answer.

    Where the text has no reply but some meters give one (10H of 1997), it must be waited for: it would meet the next request.
    """
    return address != BROADCAST or not isinstance(message, TimeSync | FreezeRequest | TerminalRequest)


def decode(frame: Frame) -> Message:
    """What a right frame says. Raises BadMessage when DATA does not fit the function."""
    payload = frame.payload
    if frame.control == _PLAIN_READ_REPLY and len(payload) >= 4:  # nine frames of ten; the same as the table would give
        return ReadReply(di=Di.from_wire(payload[:4]), data=payload[4:])
    parts = frame.control_parts
    dialect = dialect_of(frame)
    if parts.error and parts.from_meter and not parts.follow:
        if len(payload) not in (1, 2):
            # A parser test in public code shows an error reply that carries data: no meter does, nothing can be read from it.
            raise BadMessage(
                f"error reply with {len(payload)} bytes of DATA, expected an error word of 1 or 2", payload
            )
        return Refused(
            dialect=dialect, function=parts.function, word=int.from_bytes(payload, "little"), size=len(payload)
        )
    reader = _READERS.get((dialect, parts.function, parts.from_meter))
    odd_flags = parts.error or (parts.follow and (dialect, parts.function, parts.from_meter) not in _MAY_FOLLOW)
    if reader is None or odd_flags:
        return Private(control=parts, payload=payload, dialect=dialect)
    message: Message = reader(parts, payload)
    return message


# ------------------------------------------------------------------------------------------------ layouts


class _Layout:
    """A compiled construct layout that begins with fields of fixed size.

    construct's compiled code reads past the end without complaint, so the fixed part's size is checked here.
    """

    def __init__(self, *fields: Any) -> None:
        fixed = [field for field in fields if field is not _REST]
        self.size = Struct(*fixed).sizeof()
        self.has_rest = len(fixed) < len(fields)
        self.compiled: Construct = Struct(*fields).compile()


_REST = "rest" / GreedyBytes
_DI07 = _Layout("di" / Bytes(4), _REST)
_DI97 = _Layout("di" / Bytes(2), _REST)
_WRITE = _Layout("di" / Bytes(4), "password" / Bytes(4), "operator" / Bytes(4), _REST)
_CLEAR = _Layout("password" / Bytes(4), "operator" / Bytes(4), _REST)
_RELAY = _Layout("password" / Bytes(4), "operator" / Bytes(4), "order" / Byte, _REST)
_RELAY_TAIL = _Layout("delay" / Byte, "expires" / Bytes(6), _REST)
_SECURITY = _Layout("di" / Bytes(4), "operator" / Bytes(4), _REST)
_CHANGE_PASSWORD = _Layout("di" / Bytes(4), "old" / Bytes(4), "new" / Bytes(4))
_CHANGE_PASSWORD_97 = _Layout("old" / Bytes(4), "new" / Bytes(4))


def _parse(layout: _Layout, payload: bytes, expected: str) -> Any:
    if len(payload) < layout.size or (len(payload) > layout.size and not layout.has_rest):
        raise BadMessage(f"DATA of {len(payload)} bytes, expected {expected}", payload)
    try:
        return layout.compiled.parse(payload)
    except ConstructError as error:
        raise BadMessage(f"DATA of {len(payload)} bytes, expected {expected}", payload) from error


def _sized(payload: bytes, size: int, expected: str) -> bytes:
    if len(payload) != size:
        raise BadMessage(f"DATA of {len(payload)} bytes, expected {size}: {expected}", payload)
    return payload


# ------------------------------------------------------------------------------------------------ readers of DATA


def _read_request_2007(_: Control, payload: bytes) -> Message:
    parts = _parse(_DI07, payload, "at least a DI of 4")
    di, rest = Di.from_wire(parts.di), parts.rest
    if len(rest) == 1:
        return ReadRequest(di=di, count=rest[0])
    if len(rest) == 6:
        return ReadRequest(di=di, count=rest[0], start=digits_of(rest[1:]))
    return ReadRequest(di=di, extra=rest)


def _read_request_1997(_: Control, payload: bytes) -> Message:
    parts = _parse(_DI97, payload, "at least a DI of 2")
    return ReadRequest(di=Di.from_wire(parts.di), extra=parts.rest)


def _follow_up_request_2007(_: Control, payload: bytes) -> Message:
    parts = _parse(_DI07, payload, "a DI of 4 and SEQ")
    if len(parts.rest) > 1:
        raise BadMessage(f"DATA of {len(payload)} bytes, expected a DI of 4 and SEQ", payload)
    return FollowUpRequest(di=Di.from_wire(parts.di), sequence=parts.rest[0] if parts.rest else None)


def _follow_up_reply_2007(control: Control, payload: bytes) -> Message:
    parts = _parse(_DI07, payload, "a DI of 4, data and SEQ")
    if not parts.rest:
        raise BadMessage("follow-up reply without SEQ", payload)
    return FollowUpReply(
        di=Di.from_wire(parts.di), data=parts.rest[:-1], sequence=parts.rest[-1], follow=control.follow
    )


def _read_reply_2007(control: Control, payload: bytes) -> Message:
    parts = _parse(_DI07, payload, "at least a DI of 4")
    return ReadReply(di=Di.from_wire(parts.di), data=parts.rest, follow=control.follow)


def _read_reply_1997(control: Control, payload: bytes) -> Message:
    parts = _parse(_DI97, payload, "at least a DI of 2")
    return ReadReply(
        di=Di.from_wire(parts.di), data=parts.rest, follow=control.follow, repeated=control.function == F97.REPEAT
    )


def _follow_up_reply_1997(control: Control, payload: bytes) -> Message:
    parts = _parse(_DI97, payload, "at least a DI of 2")
    return FollowUpReply(di=Di.from_wire(parts.di), data=parts.rest, follow=control.follow)


def _follow_up_request_1997(_: Control, payload: bytes) -> Message:
    return FollowUpRequest(di=Di.from_wire(_sized(payload, 2, "a DI")))


def _write_2007(_: Control, payload: bytes) -> Message:
    parts = _parse(_WRITE, payload, "DI, password, operator (12) and data")
    return WriteRequest(
        di=Di.from_wire(parts.di), password=Password.from_wire(parts.password), operator=parts.operator, data=parts.rest
    )


def _write_1997(_: Control, payload: bytes) -> Message:
    parts = _parse(_DI97, payload, "at least a DI of 2")
    return WriteRequest(di=Di.from_wire(parts.di), data=parts.rest)


def _write_address(dialect: Dialect) -> Any:
    return lambda _, payload: WriteAddressRequest(
        address=digits_of(_sized(payload, 6, "the new address")), dialect=dialect
    )


def _time_sync(_: Control, payload: bytes) -> Message:
    return TimeSync(at=digits_of(_sized(payload, 6, "ss mm hh DD MM YY")))


def _freeze(_: Control, payload: bytes) -> Message:
    return FreezeRequest(digits_of(_sized(payload, 4, "mm hh DD MM")))


def _rate(kind: Any, dialect: Dialect) -> Any:
    return lambda _, payload: kind(word=_sized(payload, 1, "the rate word")[0], dialect=dialect)


def _change_password_2007(_: Control, payload: bytes) -> Message:
    parts = _parse(_CHANGE_PASSWORD, payload, "DI, old and new password (12)")
    return PasswordRequest(
        di=Di.from_wire(parts.di), old=Password.from_wire(parts.old), new=Password.from_wire(parts.new)
    )


def _change_password_1997(_: Control, payload: bytes) -> Message:
    parts = _parse(_CHANGE_PASSWORD_97, payload, "old and new password (8)")
    return PasswordRequest(old=Password.from_wire(parts.old), new=Password.from_wire(parts.new))


def _password_reply(dialect: Dialect) -> Any:
    return lambda _, payload: PasswordReply(
        new=Password.from_wire(_sized(payload, 4, "the new password")), dialect=dialect
    )


def _clear(function: Function2007) -> Any:
    def read(_: Control, payload: bytes) -> Message:
        parts = _parse(_CLEAR, payload, "password and operator (8)")
        plain_events = function is F07.CLEAR_EVENTS and len(parts.rest) == 4
        return ClearRequest(
            function=function,
            password=Password.from_wire(parts.password),
            operator=parts.operator,
            events=Di.from_wire(parts.rest) if plain_events else None,
            secure=b"" if plain_events else parts.rest,
        )

    return read


def _clear_demand_1997(_: Control, payload: bytes) -> Message:
    _sized(payload, 0, "nothing")
    return ClearRequest(function=F97.CLEAR_DEMAND)


def _relay(_: Control, payload: bytes) -> Message:
    head = _parse(_RELAY, payload, "password, operator (8) and N1")
    password = Password.from_wire(head.password)
    if len(head.rest) < 7:  # vendor short form, L = 9
        return RelayRequest(password=password, operator=head.operator, order=head.order, delay=None, secure=head.rest)
    tail = _parse(_RELAY_TAIL, head.rest, "N2 and N3..N8")
    return RelayRequest(
        password=password,
        operator=head.operator,
        order=head.order,
        delay=tail.delay,
        expires=digits_of(tail.expires),
        secure=tail.rest,
    )


def _relay_reply(_: Control, payload: bytes) -> Message:
    if len(payload) not in (0, 2):
        raise BadMessage(f"DATA of {len(payload)} bytes, expected none or a state word of 2", payload)
    return RelayReply(state_word=int.from_bytes(payload, "little") if payload else None)


def _security(_: Control, payload: bytes) -> Message:
    parts = _parse(_SECURITY, payload, "DI, operator (8) and data")
    return SecurityRequest(di=Di.from_wire(parts.di), operator=parts.operator, data=parts.rest)


def _security_reply(control: Control, payload: bytes) -> Message:
    parts = _parse(_DI07, payload, "at least a DI of 4")
    return SecurityReply(di=Di.from_wire(parts.di), data=parts.rest, follow=control.follow)


def _accepted(function: Function2007 | Function1997) -> Any:
    def read(_: Control, payload: bytes) -> Message:
        _sized(payload, 0, "nothing")
        return Accepted(function)

    return read


def _empty(message: Message) -> Any:
    def read(_: Control, payload: bytes) -> Message:
        _sized(payload, 0, "nothing")
        return message

    return read


# Replies that may come in several frames; on anything else the flag means nothing that we know.
_MAY_FOLLOW = {
    (V07, F07.READ, True),
    (V07, F07.FOLLOW_UP, True),
    (V07, F07.SECURITY, True),
    (V97, F97.READ, True),
    (V97, F97.FOLLOW_UP, True),
    (V97, F97.REPEAT, True),
}

# (edition, function, from the meter) -> reader of DATA. What is not here is Private.
_READERS: dict[tuple[Dialect, int, bool], Any] = {
    (V07, F07.READ, False): _read_request_2007,
    (V07, F07.READ, True): _read_reply_2007,
    (V07, F07.FOLLOW_UP, False): _follow_up_request_2007,
    (V07, F07.FOLLOW_UP, True): _follow_up_reply_2007,
    (V07, F07.READ_ADDRESS, False): _empty(ReadAddressRequest()),
    (V07, F07.READ_ADDRESS, True): lambda _, payload: AddressReply(digits_of(_sized(payload, 6, "an address"))),
    (V07, F07.WRITE, False): _write_2007,
    (V07, F07.WRITE, True): _accepted(F07.WRITE),
    (V07, F07.WRITE_ADDRESS, False): _write_address(V07),
    (V07, F07.WRITE_ADDRESS, True): _accepted(F07.WRITE_ADDRESS),
    (V07, F07.TIME_SYNC, False): _time_sync,
    (V07, F07.TIME_SYNC, True): _accepted(F07.TIME_SYNC),
    (V07, F07.FREEZE, False): _freeze,
    (V07, F07.FREEZE, True): _accepted(F07.FREEZE),
    (V07, F07.CHANGE_RATE, False): _rate(RateRequest, V07),
    (V07, F07.CHANGE_RATE, True): _rate(RateReply, V07),
    (V07, F07.CHANGE_PASSWORD, False): _change_password_2007,
    (V07, F07.CHANGE_PASSWORD, True): _password_reply(V07),
    (V07, F07.CLEAR_DEMAND, False): _clear(F07.CLEAR_DEMAND),
    (V07, F07.CLEAR_DEMAND, True): _accepted(F07.CLEAR_DEMAND),
    (V07, F07.CLEAR_METER, False): _clear(F07.CLEAR_METER),
    (V07, F07.CLEAR_METER, True): _accepted(F07.CLEAR_METER),
    (V07, F07.CLEAR_EVENTS, False): _clear(F07.CLEAR_EVENTS),
    (V07, F07.CLEAR_EVENTS, True): _accepted(F07.CLEAR_EVENTS),
    (V07, F07.RELAY, False): _relay,
    (V07, F07.RELAY, True): _relay_reply,
    (V07, F07.TERMINAL_OUTPUT, False): lambda _, payload: TerminalRequest(_sized(payload, 1, "the output")[0]),
    (V07, F07.TERMINAL_OUTPUT, True): lambda _, payload: TerminalReply(_sized(payload, 1, "the output")[0]),
    (V07, F07.SECURITY, False): _security,
    (V07, F07.SECURITY, True): _security_reply,
    (V97, F97.READ, False): _read_request_1997,
    (V97, F97.READ, True): _read_reply_1997,
    (V97, F97.FOLLOW_UP, False): _follow_up_request_1997,
    (V97, F97.FOLLOW_UP, True): _follow_up_reply_1997,
    (V97, F97.REPEAT, False): _empty(RepeatRequest()),
    (V97, F97.REPEAT, True): _read_reply_1997,
    (V97, F97.WRITE, False): _write_1997,
    (V97, F97.WRITE, True): _accepted(F97.WRITE),
    (V97, F97.WRITE_ADDRESS, False): _write_address(V97),
    (V97, F97.WRITE_ADDRESS, True): _accepted(F97.WRITE_ADDRESS),
    (V97, F97.CHANGE_RATE, False): _rate(RateRequest, V97),
    (V97, F97.CHANGE_RATE, True): _rate(RateReply, V97),
    (V97, F97.CHANGE_PASSWORD, False): _change_password_1997,
    (V97, F97.CHANGE_PASSWORD, True): _password_reply(V97),
    (V97, F97.CLEAR_DEMAND, False): _clear_demand_1997,
    (V97, F97.CLEAR_DEMAND, True): _accepted(F97.CLEAR_DEMAND),
}
