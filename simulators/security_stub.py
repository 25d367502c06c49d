"""A soft stand-in for the security chips on both ends of function 03H. It proves nothing about real security.

Real meters have SM1 or SM7 in hardware, with keys that nobody outside the grid company sees. Here a keyed hash takes that
place, so that the way of the bytes can be exercised: challenge, answer, validity, MAC, and what a meter says to a wrong one.
"""

import hashlib
import hmac
import random
from datetime import datetime, timedelta

from protocols.dlt645 import messages as m
from protocols.dlt645.control import Dialect, Function2007
from protocols.dlt645.frame import Frame
from protocols.dlt645.security import AUTHENTICATE, INVALIDATE, SET_VALIDITY, Authenticated, Challenge, Validity
from protocols.errors import BadMessage
from simulators.dlt645_meter import Dlt645Meter
from simulators.meter import MeterModel

__all__ = ["SecureMeter", "StubSecurityModule"]

SERR_OTHER = 0x0001
SERR_VERIFICATION = 0x0004
SERR_AUTHENTICATION = 0x0008
VALIDITY_MINUTES = 5
STUB_KEY = b"not a secret"


class StubSecurityModule:
    """The head-end's end, a SecurityModule. Random numbers come from the seed."""

    def __init__(self, *, seed: int, key: bytes = STUB_KEY) -> None:
        self._random = random.Random(seed)
        self._key = key

    def challenge(self, address: str) -> Challenge:
        number = self._random.randbytes(8)
        factor = bytes(2) + bytes.fromhex(address)
        return Challenge(cipher=_keyed(self._key, factor, number, 8), random=number, factor=factor)

    def mac(self, address: str, random: bytes, plain: bytes) -> bytes:
        return _keyed(self._key, bytes(2) + bytes.fromhex(address), random + plain, 4)

    def encipher(self, address: str, random: bytes, plain: bytes) -> bytes:
        """The stub hides nothing: plain text, then its MAC."""
        return plain + self.mac(address, random, plain)


class SecureMeter:
    """A simulated meter with a chip: answers 03H itself and hands on the rest.

    authenticated_until: true time; None while nobody is.
    """

    def __init__(self, meter: Dlt645Meter, *, seed: int, key: bytes = STUB_KEY) -> None:
        self.meter = meter
        self.authenticated_until: datetime | None = None
        self.validity = timedelta(minutes=VALIDITY_MINUTES)
        self.chip_number = random.Random(f"{seed}/chip").randbytes(8)
        self._random = random.Random(f"{seed}/random")
        self._number = b""
        self._key = key

    @property
    def address(self) -> str:
        return self.meter.address

    @property
    def baud(self) -> int | None:
        return self.meter.baud

    @property
    def parity(self) -> str:
        return self.meter.parity

    @property
    def model(self) -> MeterModel:
        return self.meter.model

    @property
    def reply_delay_s(self) -> float:
        return self.meter.reply_delay_s

    def hears(self, pattern: str) -> bool:
        return self.meter.hears(pattern)

    def to_wire(self, reply: Frame) -> bytes:
        return self.meter.to_wire(reply)

    def receive(self, frame: Frame, now: datetime) -> Frame | None:
        if frame.control_parts.from_meter or not self.hears(frame.address):
            return None
        try:
            request = m.decode(frame)
        except BadMessage:
            return None
        if not isinstance(request, m.SecurityRequest):
            return self.meter.receive(frame, now)
        try:
            reply = self._secure(request, now)
        except BadMessage:
            reply = _refused(SERR_OTHER)
        return m.encode(reply, self.address)

    def _secure(self, request: m.SecurityRequest, now: datetime) -> m.Message:
        if request.di == AUTHENTICATE:
            return self._authenticate(Challenge.from_data(request.data), now)
        if self.authenticated_until is None or now >= self.authenticated_until:
            return _refused(SERR_AUTHENTICATION)
        if request.di == SET_VALIDITY:
            wanted = Validity.from_data(request.data)
            if wanted.mac != _keyed(self._key, self._factor, self._number + request.data[:2], 4):
                return _refused(SERR_VERIFICATION)
            self.validity = timedelta(minutes=wanted.minutes)
            self.authenticated_until = now + self.validity
            return m.SecurityReply(di=request.di)
        if request.di == INVALIDATE:
            self.authenticated_until = None
            return m.SecurityReply(di=request.di)
        return _refused(SERR_OTHER)

    @property
    def _factor(self) -> bytes:
        return bytes(2) + bytes.fromhex(self.address)

    def _authenticate(self, challenge: Challenge, now: datetime) -> m.Message:
        if challenge.cipher != _keyed(self._key, self._factor, challenge.random, 8):
            return _refused(SERR_AUTHENTICATION)
        self._number = self._random.randbytes(4)
        self.authenticated_until = now + self.validity
        reply = Authenticated(random=self._number, chip_number=self.chip_number)
        return m.SecurityReply(di=AUTHENTICATE, data=reply.to_data())


def _refused(word: int) -> m.Refused:
    return m.Refused(dialect=Dialect.V2007, function=Function2007.SECURITY, word=word, size=2)


def _keyed(key: bytes, factor: bytes, message: bytes, size: int) -> bytes:
    return hmac.new(key + factor, message, hashlib.sha256).digest()[:size]
