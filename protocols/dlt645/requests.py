"""What a master asks: one class per shape of DATA, both editions. The edition follows from the DI's length where there is one.

Layouts: DL/T 645-2007 §7, grid-company addenda for 03H, 1CH, 1DH; DL/T 645-1997 §6.
"""

from typing import ClassVar

from msgspec import Struct

from protocols.dlt645.control import Control, Dialect, Function1997, Function2007
from protocols.dlt645.fields import Password, credentials, hiding_repr, is_1997, operator_code, wire_of
from protocols.dlt645.items import Di

__all__ = [
    "ClearRequest",
    "FollowUpRequest",
    "FreezeRequest",
    "PasswordRequest",
    "RateRequest",
    "ReadAddressRequest",
    "ReadRequest",
    "RelayRequest",
    "RepeatRequest",
    "SecurityRequest",
    "TerminalRequest",
    "TimeSync",
    "WriteAddressRequest",
    "WriteRequest",
]

F07 = Function2007
F97 = Function1997
V07 = Dialect.V2007


class ReadRequest(Struct, frozen=True, kw_only=True):
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
        return Control(function=F97.READ if is_1997(self.di) else F07.READ)

    @property
    def is_long(self) -> bool:
        """Whether its reply fills frames: pages of a load record."""
        return self.count is not None

    def to_payload(self) -> bytes:
        count = b"" if self.count is None else bytes([self.count])
        start = b"" if self.start is None else wire_of(self.start, 5, "start time")
        return self.di.wire + count + start + self.extra


class FollowUpRequest(Struct, frozen=True, kw_only=True):
    """12H with SEQ 1..255, or 02H without. sequence is None in 1997 and in malformed 2007 requests."""

    from_meter: ClassVar[bool] = False
    is_long: ClassVar[bool] = True  # what has a further part fills a frame
    di: Di
    sequence: int | None = None

    @property
    def control(self) -> Control:
        return Control(function=F97.FOLLOW_UP if is_1997(self.di) else F07.FOLLOW_UP)

    def to_payload(self) -> bytes:
        return self.di.wire + (b"" if self.sequence is None else bytes([self.sequence]))


class RepeatRequest(Struct, frozen=True):
    """03H of 1997: send the last reply again."""

    from_meter: ClassVar[bool] = False

    @property
    def control(self) -> Control:
        return Control(function=F97.REPEAT)

    def to_payload(self) -> bytes:
        return b""


class ReadAddressRequest(Struct, frozen=True):
    """13H, sent to AA..AA: the only meter on a line tells its address."""

    from_meter: ClassVar[bool] = False

    @property
    def control(self) -> Control:
        return Control(function=F07.READ_ADDRESS)

    def to_payload(self) -> bytes:
        return b""


class WriteRequest(Struct, frozen=True, kw_only=True):
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

    def __repr__(self) -> str:
        # In 1997 the password may stand in `data`; 04000Cll and C212 are passwords themselves.
        hides_data = is_1997(self.di) or self.di.text.startswith("04000C")
        return hiding_repr(self, "operator", *(["data"] if hides_data else []))

    @property
    def control(self) -> Control:
        return Control(function=F97.WRITE if is_1997(self.di) else F07.WRITE)

    def to_payload(self) -> bytes:
        if is_1997(self.di):
            return self.di.wire + (self.password.wire if self.password else b"") + self.data
        return self.di.wire + credentials(self.password, self.operator) + self.data


class WriteAddressRequest(Struct, frozen=True, kw_only=True):
    """15H to AA..AA, or 0AH to 99..99. The reply comes from the new address."""

    from_meter: ClassVar[bool] = False
    address: str
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.WRITE_ADDRESS if self.dialect is V07 else F97.WRITE_ADDRESS)

    def to_payload(self) -> bytes:
        return wire_of(self.address, 6, "address")


class TimeSync(Struct, frozen=True, kw_only=True):
    """08H. at: YYMMDDhhmmss digits, meter local time (sent seconds first). Both editions send the same frame."""

    from_meter: ClassVar[bool] = False
    at: str

    @property
    def control(self) -> Control:
        return Control(function=F07.TIME_SYNC)

    def to_payload(self) -> bytes:
        return wire_of(self.at, 6, "time")


class FreezeRequest(Struct, frozen=True):
    """16H. moment: MMDDhhmm digits; 99 fills from the month side: 99DDhhmm monthly, 9999hhmm daily, 999999mm hourly, 99999999 now."""

    from_meter: ClassVar[bool] = False
    moment: str

    @classmethod
    def now(cls) -> "FreezeRequest":
        return cls("99999999")

    @classmethod
    def hourly(cls, minute: int = 0) -> "FreezeRequest":
        return cls(f"999999{minute:02}")

    @classmethod
    def daily(cls, hour: int = 0, minute: int = 0) -> "FreezeRequest":
        return cls(f"9999{hour:02}{minute:02}")

    @classmethod
    def monthly(cls, day: int, hour: int = 0, minute: int = 0) -> "FreezeRequest":
        """Days above 28 are not in every month, and some firmware refuses them."""
        return cls(f"99{day:02}{hour:02}{minute:02}")

    @property
    def control(self) -> Control:
        return Control(function=F07.FREEZE)

    def to_payload(self) -> bytes:
        return wire_of(self.moment, 4, "freeze moment")


class RateRequest(Struct, frozen=True, kw_only=True):
    """17H or 0CH. word: the rate word Z, one bit set, see `control.RATES`."""

    from_meter: ClassVar[bool] = False
    word: int
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.CHANGE_RATE if self.dialect is V07 else F97.CHANGE_RATE)

    def to_payload(self) -> bytes:
        return bytes([self.word])


class PasswordRequest(Struct, frozen=True, kw_only=True):
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


class ClearRequest(Struct, frozen=True, kw_only=True):
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

    def __repr__(self) -> str:
        return hiding_repr(self, "operator")

    @property
    def control(self) -> Control:
        return Control(function=self.function)

    def to_payload(self) -> bytes:
        if self.function is F97.CLEAR_DEMAND:
            return b""
        return credentials(self.password, self.operator) + (self.events.wire if self.events else b"") + self.secure


class RelayRequest(Struct, frozen=True, kw_only=True):
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

    def __repr__(self) -> str:
        return hiding_repr(self, "operator")

    @property
    def control(self) -> Control:
        return Control(function=F07.RELAY)

    def to_payload(self) -> bytes:
        head = credentials(self.password, self.operator) + bytes([self.order])
        if self.delay is None or self.expires is None:
            return head + self.secure
        return head + bytes([self.delay]) + wire_of(self.expires, 6, "expiry") + self.secure


class TerminalRequest(Struct, frozen=True):
    """1DH. output: 00H second pulse, 01H demand period, 02H tariff slot switching."""

    from_meter: ClassVar[bool] = False
    output: int

    @property
    def control(self) -> Control:
        return Control(function=F07.TERMINAL_OUTPUT)

    def to_payload(self) -> bytes:
        return bytes([self.output])


class SecurityRequest(Struct, frozen=True, kw_only=True):
    """03H DI OP data (ESAM: authentication, keys, recharge). data is opaque without the security chip."""

    from_meter: ClassVar[bool] = False
    di: Di
    operator: bytes
    data: bytes = b""

    def __repr__(self) -> str:
        return hiding_repr(self, "operator")

    @property
    def control(self) -> Control:
        return Control(function=F07.SECURITY)

    def to_payload(self) -> bytes:
        return self.di.wire + operator_code(self.operator) + self.data
