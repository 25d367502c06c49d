"""What a scan asks, and what an exchange means. Pure.

Only reads. 13H is defined for all-AA alone, so narrower patterns are asked with ordinary reads; whatever the meter answers, a
refusal included, its frame carries the real address. 1997 knows no command for the address: 9010 to 99..99 is answered by the
only meter on a line, and AA fill by those that keep to the address rule.
"""

from msgspec import Struct

from headend.scanning.ear import Heed
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame, address_matches
from protocols.dlt645.items import Di
from protocols.dlt645.messages import (
    AddressReply,
    Message,
    ReadAddressRequest,
    ReadReply,
    ReadRequest,
    Refused,
    decode,
    dialect_of,
    encode,
)
from protocols.dlt645.narrowing import Ask, Clean, Damaged, Outcome, Several, Silent
from protocols.errors import MessageError

__all__ = [
    "Question",
    "contract_hint",
    "direct_question",
    "is_meter_address",
    "late_addresses",
    "outcome_of",
    "question_for",
]

STRAY_NOISE_MAX = 3  # fewer bytes than this are no reply, not even half of one
STRAY_REPLY_MIN = 12  # the smallest frame: so much beside a right frame may be the ruins of a second

_ADDRESS_DI = Di("04000401")  # the communication address: the reply holds it twice
_ENERGY_07, _ENERGY_97 = Di("00010000"), Di("9010")
_NUMBER_97 = Di("C032")
_VOLTAGE_07, _VOLTAGE_97 = Di("02010100"), Di("B611")  # like time of day, it differs between meters fresh from one box
_TIME_07, _TIME_97 = Di("04000102"), Di("C011")


class Question(Struct, frozen=True):
    """name: how it is called in evidence."""

    name: str
    message: Message
    address: str = ""  # instead of the pattern

    def frame(self, pattern: str) -> Frame:
        return encode(self.message, self.address or pattern)

    def evidence(self, pattern: str) -> str:
        return f"{self.name} to {self.address or pattern} answered"


_13H = Question("13H", ReadAddressRequest())
_READ_ENERGY_07 = Question("11H 00010000", ReadRequest(di=_ENERGY_07))
_READ_ADDRESS_07 = Question("11H 04000401", ReadRequest(di=_ADDRESS_DI))
_READ_ENERGY_97 = Question("01H 9010", ReadRequest(di=_ENERGY_97))
_READ_NUMBER_97 = Question("01H C032", ReadRequest(di=_NUMBER_97))
_READ_VOLTAGE_07 = Question("11H 02010100", ReadRequest(di=_VOLTAGE_07))
_READ_TIME_07 = Question("11H 04000102", ReadRequest(di=_TIME_07))
_READ_VOLTAGE_97 = Question("01H B611", ReadRequest(di=_VOLTAGE_97))
_READ_TIME_97 = Question("01H C011", ReadRequest(di=_TIME_97))
_TO_ALL_97 = Question("01H 9010", ReadRequest(di=_ENERGY_97), BROADCAST)

# By dialect and depth; the index is the narrowing's question number.
_AT_ROOT = {
    Dialect.V2007: (_13H, _READ_ADDRESS_07, _READ_ENERGY_07, _READ_VOLTAGE_07, _READ_TIME_07),
    Dialect.V1997: (_TO_ALL_97, _READ_NUMBER_97, _READ_ENERGY_97, _READ_VOLTAGE_97, _READ_TIME_97),
}
_BELOW = {
    Dialect.V2007: (_READ_ENERGY_07, _READ_ADDRESS_07),
    Dialect.V1997: (_READ_ENERGY_97, _READ_NUMBER_97),
}


def question_for(dialect: Dialect, ask: Ask) -> Question:
    return (_AT_ROOT if ask.pattern == WILDCARD else _BELOW)[dialect][ask.question]


def direct_question(dialect: Dialect) -> Question:
    """For one full address: every meter knows this one, or refuses it."""
    return _BELOW[dialect][0]


def contract_hint(dialect: Dialect) -> str:
    """A contract that fits any meter of the edition; the address alone does not tell the model."""
    return f"dlt645/base_{dialect.value}"


def is_meter_address(address: str) -> bool:
    """12 digits, or AA for high pairs that a short 1997 address leaves unused."""
    digits = address
    while digits.startswith("AA"):
        digits = digits[2:]
    return bool(digits) and digits.isdecimal() and address != BROADCAST


def outcome_of(heed: Heed, pattern: str, dialect: Dialect) -> Outcome:
    """What one exchange says about one pattern.

    Frames from outside the pattern or in the other dialect are late answers to something else and say nothing about it.
    """
    within: list[str] = []
    is_contradicted = False
    for frame in heed.frames:
        if dialect_of(frame) is not dialect or not is_meter_address(frame.address):
            continue
        if not address_matches(pattern, frame.address):
            continue
        is_contradicted = is_contradicted or not _agrees(frame)
        if frame.address not in within:
            within.append(frame.address)
    if is_contradicted:
        return Damaged()
    if len(within) > 1:
        return Several(tuple(within))
    if within:
        is_exact = pattern == within[0]
        return Clean(within[0]) if is_exact or heed.stray < STRAY_REPLY_MIN else Damaged()
    return Damaged() if heed.stray > STRAY_NOISE_MAX else Silent()


def late_addresses(heed: Heed, pattern: str, dialect: Dialect) -> list[str]:
    """Who of this dialect answered from outside the pattern: to an earlier one, too late."""
    return [
        frame.address
        for frame in heed.frames
        if dialect_of(frame) is dialect
        and is_meter_address(frame.address)
        and not address_matches(pattern, frame.address)
    ]


def _agrees(frame: Frame) -> bool:
    """Whether a reply that holds the meter's address holds the one its frame comes from."""
    try:
        message = decode(frame)
    except MessageError:
        return False
    if isinstance(message, AddressReply):
        return message.address == frame.address
    if isinstance(message, ReadReply) and message.di == _ADDRESS_DI:
        return message.data[::-1].hex().upper() == frame.address
    return not isinstance(message, Refused) or message.size in (1, 2)
