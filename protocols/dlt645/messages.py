"""What the DATA field says, function by function, both editions and both directions.

One class per shape; each knows how to write itself and how to be read, so that the head-end and a simulated meter are two
ends of the same code. Multi-byte fields are kept as the fact sheets print them: digits and hex high byte first, although
the wire carries them low byte first. The edition follows from the DI's length where there is one.

Decoding is tolerant about what carries no meaning for the function (`extra` keeps surplus bytes), and strict about what does:
a reply without its DI or an address that is not six bytes raises BadMessage.

Layouts: DL/T 645-2007 §7, grid-company addenda for 03H, 1CH, 1DH; DL/T 645-1997 §6.
"""

from typing import Any, ClassVar

from construct import Byte, Bytes, Construct, ConstructError, GreedyBytes, Struct
from msgspec import Struct as Value

from protocols.dlt645.control import Control, Dialect, Function1997, Function2007
from protocols.dlt645.frame import BROADCAST, Frame
from protocols.dlt645.items import Di
from protocols.errors import BadMessage, EncodeError

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


# ------------------------------------------------------------------------------------------------ values


class Password(Value, frozen=True):
    """PA P0 P1 P2. The secret never shows in a repr, so it cannot reach a log by accident.

    level: PA; 00 is the highest, 09 the lowest; 96H..99H name the grid companies' secure classes.
    secret: P0 P1 P2 as sent.
    """

    level: int
    secret: bytes

    def __repr__(self) -> str:
        return f"Password(level={self.level:02X}H, secret=***)"

    @property
    def wire(self) -> bytes:
        if len(self.secret) != 3:
            raise EncodeError(f"a password has 3 bytes, got {len(self.secret)}")
        return bytes([self.level]) + self.secret

    @classmethod
    def from_wire(cls, wire: bytes) -> "Password":
        return cls(wire[0], wire[1:4])


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


def _digits(wire: bytes) -> str:
    """Hex digits, high byte first."""
    return wire[::-1].hex().upper()


def _wire(digits: str, size: int, what: str) -> bytes:
    try:
        wire = bytes.fromhex(digits)
    except ValueError:
        wire = b""
    if len(wire) != size:
        raise EncodeError(f"{what} {digits!r}, expected {2 * size} digits")
    return wire[::-1]


def _sized(payload: bytes, size: int, expected: str) -> bytes:
    if len(payload) != size:
        raise BadMessage(f"DATA of {len(payload)} bytes, expected {size}: {expected}", payload)
    return payload


def _is_97(di: Di) -> bool:
    return len(di.wire) == 2


# ------------------------------------------------------------------------------------------------ reading


class ReadRequest(Value, frozen=True, kw_only=True):
    """11H or 01H. 2007 load records add the number of blocks and a start time.

    count: N as sent; BCD in some firmware, plain in others, the same below ten.
    start: YYMMDDhhmm digits, meter local time.
    extra: surplus bytes of private forms.
    """

    from_meter: ClassVar[bool] = False
    di: Di
    count: int | None = None
    start: str | None = None
    extra: bytes = b""

    @property
    def control(self) -> Control:
        return Control(function=F97.READ if _is_97(self.di) else F07.READ)

    def to_payload(self) -> bytes:
        count = b"" if self.count is None else bytes([self.count])
        start = b"" if self.start is None else _wire(self.start, 5, "start time")
        return self.di.wire + count + start + self.extra

    @classmethod
    def from_payload_2007(cls, payload: bytes) -> "ReadRequest":
        parts = _parse(_DI07, payload, "at least a DI of 4")
        di, rest = Di.from_wire(parts.di), parts.rest
        if len(rest) == 1:
            return cls(di=di, count=rest[0])
        if len(rest) == 6:
            return cls(di=di, count=rest[0], start=_digits(rest[1:]))
        return cls(di=di, extra=rest)

    @classmethod
    def from_payload_1997(cls, payload: bytes) -> "ReadRequest":
        parts = _parse(_DI97, payload, "at least a DI of 2")
        return cls(di=Di.from_wire(parts.di), extra=parts.rest)


class ReadReply(Value, frozen=True, kw_only=True):
    """91H or 81H (B1H, A1H when more follows; 83H when it repeats). data: what stands after the DI."""

    from_meter: ClassVar[bool] = True
    di: Di
    data: bytes
    follow: bool = False
    repeated: bool = False

    @property
    def control(self) -> Control:
        function = (F97.REPEAT if self.repeated else F97.READ) if _is_97(self.di) else F07.READ
        return Control(function=function, from_meter=True, follow=self.follow)

    def to_payload(self) -> bytes:
        return self.di.wire + self.data


class FollowUpRequest(Value, frozen=True, kw_only=True):
    """12H with SEQ 1..255, or 02H without. sequence is None in 1997 and in malformed 2007 requests."""

    from_meter: ClassVar[bool] = False
    di: Di
    sequence: int | None = None

    @property
    def control(self) -> Control:
        return Control(function=F97.FOLLOW_UP if _is_97(self.di) else F07.FOLLOW_UP)

    def to_payload(self) -> bytes:
        return self.di.wire + (b"" if self.sequence is None else bytes([self.sequence]))


class FollowUpReply(Value, frozen=True, kw_only=True):
    """92H DI data SEQ, or 82H DI data. The 2007 meter repeats the request's SEQ at the end."""

    from_meter: ClassVar[bool] = True
    di: Di
    data: bytes
    sequence: int | None = None
    follow: bool = False

    @property
    def control(self) -> Control:
        return Control(
            function=F97.FOLLOW_UP if _is_97(self.di) else F07.FOLLOW_UP, from_meter=True, follow=self.follow
        )

    def to_payload(self) -> bytes:
        return self.di.wire + self.data + (b"" if self.sequence is None else bytes([self.sequence]))


class RepeatRequest(Value, frozen=True):
    """03H of 1997: send the last reply again."""

    from_meter: ClassVar[bool] = False

    @property
    def control(self) -> Control:
        return Control(function=F97.REPEAT)

    def to_payload(self) -> bytes:
        return b""


class ReadAddressRequest(Value, frozen=True):
    """13H, sent to AA..AA: the only meter on a line tells its address."""

    from_meter: ClassVar[bool] = False

    @property
    def control(self) -> Control:
        return Control(function=F07.READ_ADDRESS)

    def to_payload(self) -> bytes:
        return b""


class AddressReply(Value, frozen=True):
    """93H. address: 12 digits, high byte first."""

    from_meter: ClassVar[bool] = True
    address: str

    @property
    def control(self) -> Control:
        return Control(function=F07.READ_ADDRESS, from_meter=True)

    def to_payload(self) -> bytes:
        return _wire(self.address, 6, "address")


# ------------------------------------------------------------------------------------------------ writing


class WriteRequest(Value, frozen=True, kw_only=True):
    """14H DI PW OP data, or 04H DI data.

    1997 knows no password field, but real meters want four bytes of it in front of the data: give `password` to send it;
    when a 1997 frame is decoded it stands in `data`, because nothing in the frame tells the two apart.
    operator: C0..C3 as sent, recorded by the meter.
    """

    from_meter: ClassVar[bool] = False
    di: Di
    data: bytes
    password: Password | None = None
    operator: bytes = b""

    @property
    def control(self) -> Control:
        return Control(function=F97.WRITE if _is_97(self.di) else F07.WRITE)

    def to_payload(self) -> bytes:
        if _is_97(self.di):
            return self.di.wire + (self.password.wire if self.password else b"") + self.data
        return self.di.wire + _credentials(self.password, self.operator) + self.data


class WriteAddressRequest(Value, frozen=True, kw_only=True):
    """15H to AA..AA, or 0AH to 99..99. The reply comes from the new address."""

    from_meter: ClassVar[bool] = False
    address: str
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.WRITE_ADDRESS if self.dialect is V07 else F97.WRITE_ADDRESS)

    def to_payload(self) -> bytes:
        return _wire(self.address, 6, "address")


class TimeSync(Value, frozen=True, kw_only=True):
    """08H. at: YYMMDDhhmmss digits, meter local time (sent seconds first). Both editions send the same frame."""

    from_meter: ClassVar[bool] = False
    at: str

    @property
    def control(self) -> Control:
        return Control(function=F07.TIME_SYNC)

    def to_payload(self) -> bytes:
        return _wire(self.at, 6, "time")


class FreezeRequest(Value, frozen=True):
    """16H. moment: MMDDhhmm digits; 99 fills from the month side: 99DDhhmm monthly, 9999hhmm daily, 999999mm hourly, 99999999 now."""

    from_meter: ClassVar[bool] = False
    moment: str

    @property
    def control(self) -> Control:
        return Control(function=F07.FREEZE)

    def to_payload(self) -> bytes:
        return _wire(self.moment, 4, "freeze moment")


class RateRequest(Value, frozen=True, kw_only=True):
    """17H or 0CH. word: the rate word Z, one bit set (see `rates`)."""

    from_meter: ClassVar[bool] = False
    word: int
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.CHANGE_RATE if self.dialect is V07 else F97.CHANGE_RATE)

    def to_payload(self) -> bytes:
        return bytes([self.word])


class RateReply(Value, frozen=True, kw_only=True):
    """97H or 8CH with the same Z, still at the old rate. A 1997 meter refuses with FFH."""

    from_meter: ClassVar[bool] = True
    word: int
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.CHANGE_RATE if self.dialect is V07 else F97.CHANGE_RATE, from_meter=True)

    def to_payload(self) -> bytes:
        return bytes([self.word])


class PasswordRequest(Value, frozen=True, kw_only=True):
    """18H DI PWold PWnew, or 0FH PWold PWnew. di names the password slot and is None in 1997."""

    from_meter: ClassVar[bool] = False
    old: Password
    new: Password
    di: Di | None = None

    @property
    def control(self) -> Control:
        return Control(function=F97.CHANGE_PASSWORD if self.di is None else F07.CHANGE_PASSWORD)

    def to_payload(self) -> bytes:
        return (b"" if self.di is None else self.di.wire) + self.old.wire + self.new.wire


class PasswordReply(Value, frozen=True, kw_only=True):
    """98H or 8FH: the new password comes back in clear."""

    from_meter: ClassVar[bool] = True
    new: Password
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.CHANGE_PASSWORD if self.dialect is V07 else F97.CHANGE_PASSWORD, from_meter=True)

    def to_payload(self) -> bytes:
        return self.new.wire


class ClearRequest(Value, frozen=True, kw_only=True):
    """19H demand, 1AH meter, 1BH events; 10H clears the demand in 1997 and carries nothing.

    events: for 1BH the DI whose records go, FFFFFFFF for all, xxxxxxFF for one family; None elsewhere.
    secure: ciphertext and MAC of the secure class (PA 98H), as sent.
    """

    from_meter: ClassVar[bool] = False
    function: Function2007 | Function1997
    password: Password | None = None
    operator: bytes = b""
    events: Di | None = None
    secure: bytes = b""

    @property
    def control(self) -> Control:
        return Control(function=self.function)

    def to_payload(self) -> bytes:
        if self.function is F97.CLEAR_DEMAND:
            return b""
        return _credentials(self.password, self.operator) + (self.events.wire if self.events else b"") + self.secure


class RelayRequest(Value, frozen=True, kw_only=True):
    """1CH, layout only: PW OP N1 N2 N3..N8.

    order: N1, for example 1AH trip, 1BH close permitted, 1CH direct close, 3AH protect.
    delay: N2, 00H unless the order is timed; None in the vendor short form that ends after N1.
    expires: N3..N8 as YYMMDDhhmmss digits; a meter whose clock is past it refuses.
    secure: what follows in the secure class.
    """

    from_meter: ClassVar[bool] = False
    password: Password
    operator: bytes
    order: int
    delay: int | None = 0
    expires: str | None = None
    secure: bytes = b""

    @property
    def control(self) -> Control:
        return Control(function=F07.RELAY)

    def to_payload(self) -> bytes:
        head = _credentials(self.password, self.operator) + bytes([self.order])
        if self.delay is None or self.expires is None:
            return head + self.secure
        return head + bytes([self.delay]) + _wire(self.expires, 6, "expiry") + self.secure


class RelayReply(Value, frozen=True, kw_only=True):
    """9CH: accepted. state_word: two bytes in the secure class, else None. Acceptance proves nothing about the contact."""

    from_meter: ClassVar[bool] = True
    state_word: int | None = None

    @property
    def control(self) -> Control:
        return Control(function=F07.RELAY, from_meter=True)

    def to_payload(self) -> bytes:
        return b"" if self.state_word is None else self.state_word.to_bytes(2, "little")


class TerminalRequest(Value, frozen=True):
    """1DH. output: 00H second pulse, 01H demand period, 02H tariff slot switching."""

    from_meter: ClassVar[bool] = False
    output: int

    @property
    def control(self) -> Control:
        return Control(function=F07.TERMINAL_OUTPUT)

    def to_payload(self) -> bytes:
        return bytes([self.output])


class TerminalReply(Value, frozen=True):
    """9DH: the same byte back."""

    from_meter: ClassVar[bool] = True
    output: int

    @property
    def control(self) -> Control:
        return Control(function=F07.TERMINAL_OUTPUT, from_meter=True)

    def to_payload(self) -> bytes:
        return bytes([self.output])


class SecurityRequest(Value, frozen=True, kw_only=True):
    """03H DI OP data (ESAM: authentication, keys, recharge). data is opaque without the security chip."""

    from_meter: ClassVar[bool] = False
    di: Di
    operator: bytes
    data: bytes = b""

    @property
    def control(self) -> Control:
        return Control(function=F07.SECURITY)

    def to_payload(self) -> bytes:
        return self.di.wire + _operator(self.operator) + self.data


class SecurityReply(Value, frozen=True, kw_only=True):
    """83H DI data (A3H when more follows)."""

    from_meter: ClassVar[bool] = True
    di: Di
    data: bytes = b""
    follow: bool = False

    @property
    def control(self) -> Control:
        return Control(function=F07.SECURITY, from_meter=True, follow=self.follow)

    def to_payload(self) -> bytes:
        return self.di.wire + self.data


# ------------------------------------------------------------------------------------------------ verdicts


class Accepted(Value, frozen=True):
    """A normal reply without DATA. Accepted is not verified: the meter only says that it took the request."""

    from_meter: ClassVar[bool] = True
    function: Function2007 | Function1997

    @property
    def control(self) -> Control:
        return Control(function=self.function, from_meter=True)

    def to_payload(self) -> bytes:
        return b""


class Refused(Value, frozen=True, kw_only=True):
    """The meter said no. word: ERR (size 1) or SERR / relay state (size 2, low byte first on the wire)."""

    from_meter: ClassVar[bool] = True
    dialect: Dialect
    function: int
    word: int
    size: int = 1

    @property
    def control(self) -> Control:
        return Control(function=self.function, from_meter=True, error=True)

    def to_payload(self) -> bytes:
        return self.word.to_bytes(self.size, "little")


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


def _operator(operator: bytes) -> bytes:
    if len(operator) != 4:
        raise EncodeError(f"an operator code has 4 bytes, got {len(operator)}")
    return operator


def _credentials(password: Password | None, operator: bytes) -> bytes:
    if password is None:
        raise EncodeError("this 2007 function needs a password")
    return password.wire + _operator(operator)


# ------------------------------------------------------------------------------------------------ frame <-> message


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
    only_97 = {
        F97.READ,
        F97.FOLLOW_UP,
        F97.WRITE,
        F97.WRITE_ADDRESS,
        F97.CHANGE_RATE,
        F97.CHANGE_PASSWORD,
        F97.CLEAR_DEMAND,
    }
    return V97 if parts.function in only_97 else V07


def expects_reply(message: Message, address: str) -> bool:
    """False for what is broadcast. 1997 masters address the only meter on a line with 99..99 and do get an answer."""
    if address != BROADCAST:
        return not (isinstance(message, ClearRequest) and message.function is F97.CLEAR_DEMAND)
    return not isinstance(message, TimeSync | FreezeRequest | TerminalRequest)


def decode(frame: Frame) -> Message:
    """What a right frame says. Raises BadMessage when DATA does not fit the function."""
    parts = frame.control_parts
    dialect = dialect_of(frame)
    payload = frame.payload
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
        address=_digits(_sized(payload, 6, "the new address")), dialect=dialect
    )


def _time_sync(_: Control, payload: bytes) -> Message:
    return TimeSync(at=_digits(_sized(payload, 6, "ss mm hh DD MM YY")))


def _freeze(_: Control, payload: bytes) -> Message:
    return FreezeRequest(_digits(_sized(payload, 4, "mm hh DD MM")))


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
        expires=_digits(tail.expires),
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
    (V07, F07.READ, False): lambda _, payload: ReadRequest.from_payload_2007(payload),
    (V07, F07.READ, True): _read_reply_2007,
    (V07, F07.FOLLOW_UP, False): _follow_up_request_2007,
    (V07, F07.FOLLOW_UP, True): _follow_up_reply_2007,
    (V07, F07.READ_ADDRESS, False): _empty(ReadAddressRequest()),
    (V07, F07.READ_ADDRESS, True): lambda _, payload: AddressReply(_digits(_sized(payload, 6, "an address"))),
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
    (V97, F97.READ, False): lambda _, payload: ReadRequest.from_payload_1997(payload),
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
