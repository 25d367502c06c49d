"""What a meter answers: one class per shape of DATA, both editions. The edition follows from the DI's length where there is one.

Layouts: DL/T 645-2007 §7, grid-company addenda for 03H, 1CH, 1DH; DL/T 645-1997 §6.
"""

from typing import ClassVar

from msgspec import Struct

from protocols.dlt645.control import Control, Dialect, Function1997, Function2007
from protocols.dlt645.fields import Password, is_1997, wire_of
from protocols.dlt645.items import Di

__all__ = [
    "Accepted",
    "AddressReply",
    "FollowUpReply",
    "PasswordReply",
    "RateReply",
    "ReadReply",
    "Refused",
    "RelayReply",
    "SecurityReply",
    "TerminalReply",
]

F07 = Function2007
F97 = Function1997
V07 = Dialect.V2007


class ReadReply(Struct, frozen=True, kw_only=True):
    """91H or 81H (B1H, A1H when more follows; 83H when it repeats). data: what stands after the DI."""

    from_meter: ClassVar[bool] = True
    di: Di
    data: bytes
    follow: bool = False
    repeated: bool = False

    @property
    def control(self) -> Control:
        function = (F97.REPEAT if self.repeated else F97.READ) if is_1997(self.di) else F07.READ
        return Control(function=function, from_meter=True, follow=self.follow)

    def to_payload(self) -> bytes:
        return self.di.wire + self.data


class FollowUpReply(Struct, frozen=True, kw_only=True):
    """92H DI data SEQ, or 82H DI data. The 2007 meter repeats the request's SEQ at the end."""

    from_meter: ClassVar[bool] = True
    di: Di
    data: bytes
    sequence: int | None = None
    follow: bool = False

    @property
    def control(self) -> Control:
        return Control(
            function=F97.FOLLOW_UP if is_1997(self.di) else F07.FOLLOW_UP, from_meter=True, follow=self.follow
        )

    def to_payload(self) -> bytes:
        return self.di.wire + self.data + (b"" if self.sequence is None else bytes([self.sequence]))


class AddressReply(Struct, frozen=True):
    """93H. address: 12 digits, high byte first."""

    from_meter: ClassVar[bool] = True
    address: str

    @property
    def control(self) -> Control:
        return Control(function=F07.READ_ADDRESS, from_meter=True)

    def to_payload(self) -> bytes:
        return wire_of(self.address, 6, "address")


class RateReply(Struct, frozen=True, kw_only=True):
    """97H or 8CH with the same Z, still at the old rate. A 1997 meter refuses with FFH."""

    from_meter: ClassVar[bool] = True
    word: int
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.CHANGE_RATE if self.dialect is V07 else F97.CHANGE_RATE, from_meter=True)

    def to_payload(self) -> bytes:
        return bytes([self.word])


class PasswordReply(Struct, frozen=True, kw_only=True):
    """98H or 8FH: the new password comes back in clear."""

    from_meter: ClassVar[bool] = True
    new: Password
    dialect: Dialect = V07

    @property
    def control(self) -> Control:
        return Control(function=F07.CHANGE_PASSWORD if self.dialect is V07 else F97.CHANGE_PASSWORD, from_meter=True)

    def to_payload(self) -> bytes:
        return self.new.wire


class RelayReply(Struct, frozen=True, kw_only=True):
    """9CH: accepted. state_word: two bytes in the secure class, else None. Acceptance proves nothing about the contact."""

    from_meter: ClassVar[bool] = True
    state_word: int | None = None

    @property
    def control(self) -> Control:
        return Control(function=F07.RELAY, from_meter=True)

    def to_payload(self) -> bytes:
        return b"" if self.state_word is None else self.state_word.to_bytes(2, "little")


class TerminalReply(Struct, frozen=True):
    """9DH: the same byte back."""

    from_meter: ClassVar[bool] = True
    output: int

    @property
    def control(self) -> Control:
        return Control(function=F07.TERMINAL_OUTPUT, from_meter=True)

    def to_payload(self) -> bytes:
        return bytes([self.output])


class SecurityReply(Struct, frozen=True, kw_only=True):
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


class Accepted(Struct, frozen=True):
    """A normal reply without DATA. Accepted is not verified: the meter only says that it took the request."""

    from_meter: ClassVar[bool] = True
    function: Function2007 | Function1997

    @property
    def control(self) -> Control:
        return Control(function=self.function, from_meter=True)

    def to_payload(self) -> bytes:
        return b""


class Refused(Struct, frozen=True, kw_only=True):
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
