"""A soft stand-in for the security chips on both ends of function 03H. It proves nothing about real security.

Real meters have SM1 or SM7 in hardware, with keys that nobody outside the grid company sees. Here a keyed hash takes that
place, so that the way of the bytes can be exercised: challenge, answer, validity, MAC, and what a meter says to a wrong one.
"""

import hashlib
import hmac
import random
from datetime import datetime, timedelta

from msgspec.structs import replace

from protocols.dlt645 import messages as m
from protocols.dlt645.control import Dialect, Function2007, RelayOrder
from protocols.dlt645.frame import Frame
from protocols.dlt645.security import AUTHENTICATE, INVALIDATE, SET_VALIDITY, Authenticated, Challenge, Validity
from protocols.errors import BadMessage
from simulators.dlt645_meter import Dlt645Meter
from simulators.dlt645_relay import is_expired, obey
from simulators.dlt645_values import Refusal
from simulators.meter import MeterModel
from simulators.relay import RelayRefused

__all__ = ["SecureMeter", "StubSecurityModule"]

# Two-byte words of 9CH and DCH in the secure class.
DONE_WORDS = {RelayOrder.CLOSE: 0x0001, RelayOrder.PERMIT_CLOSE: 0x0002, RelayOrder.TRIP: 0x0004}
DONE_WORDS |= {RelayOrder.PROTECT: 0x0100, RelayOrder.PROTECT_OFF: 0x0200}
MAC_WRONG, UNAUTHORISED, NOT_AUTHENTICATED, EXPIRED, PROTECTED = 0x0002, 0x0004, 0x0008, 0x0010, 0x0020
SECURE_LEVELS = (0x98, 0x96)  # grid companies' PA of ciphertext and MAC
PLAIN_SIZE, MAC_SIZE = 8, 4
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

    Relay orders of the secure class are checked here: authentication, MAC, expiry. takes_plain: those of the plain class, too,
    as meters in factory state do. authenticated_until: true time; None while nobody is.
    """

    def __init__(self, meter: Dlt645Meter, *, seed: int, key: bytes = STUB_KEY, takes_plain: bool = True) -> None:
        self.meter = meter
        self.takes_plain = takes_plain
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
        if isinstance(request, m.RelayRequest) and (request.password.level in SECURE_LEVELS or not self.takes_plain):
            return m.encode(self._switch(request, now), self.address)
        if not isinstance(request, m.SecurityRequest):
            return self.meter.receive(frame, now)
        try:
            reply = self._secure(request, now)
        except BadMessage:
            reply = _refused(SERR_OTHER)
        return m.encode(reply, self.address)

    def _switch(self, request: m.RelayRequest, now: datetime) -> m.Message:
        """R1..R8 and MAC behind the operator code; R3..R8 go year first."""
        if request.password.level not in SECURE_LEVELS:
            return m.Refused(dialect=Dialect.V2007, function=Function2007.RELAY, word=UNAUTHORISED)
        if self.authenticated_until is None or now >= self.authenticated_until:
            return _relay_refused(NOT_AUTHENTICATED)
        hidden = request.to_payload()[PLAIN_SIZE:]
        plain, mac = hidden[:PLAIN_SIZE], hidden[PLAIN_SIZE:]
        if mac != _keyed(self._key, self._factor, self._number + plain, MAC_SIZE):
            return _relay_refused(MAC_WRONG)
        opened = replace(request, order=plain[0], delay=plain[1], expires=plain[2:].hex(), secure=b"")
        if is_expired(self.model, plain[2:].hex(), now):
            return _relay_refused(EXPIRED)
        try:
            obey(self.meter, opened, now)
        except RelayRefused:
            return _relay_refused(PROTECTED if self.model.relay.protected else UNAUTHORISED)
        except Refusal:
            return _relay_refused(UNAUTHORISED)
        return m.RelayReply(state_word=DONE_WORDS.get(RelayOrder(plain[0]), 0))

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


def _relay_refused(word: int) -> m.Refused:
    return m.Refused(dialect=Dialect.V2007, function=Function2007.RELAY, word=word, size=2)


def _refused(word: int) -> m.Refused:
    return m.Refused(dialect=Dialect.V2007, function=Function2007.SECURITY, word=word, size=2)


def _keyed(key: bytes, factor: bytes, message: bytes, size: int) -> bytes:
    return hmac.new(key + factor, message, hashlib.sha256).digest()[:size]
