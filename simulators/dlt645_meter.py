"""The meter's end of DL/T 645: what it does with each frame, and when it stays silent.

One table says which function handles which request, and `_answer` is the only place where a reply is made. Silence is
an answer too: a meter says nothing to frames for others, to broadcasts, to DATA of the wrong length and to what only a
factory may send. What goes wrong on the way of a reply is the business of `fault_injector`.

Open points of the standard are quirks (`quirks`), or decided as most firmware does it and named where they stand. The
edition follows from the contract; a meter answers only frames of its own.
"""

import random
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from firmware_contracts.contract import Contract
from firmware_contracts.errors import UnknownItem
from protocols.dlt645 import messages as m
from protocols.dlt645.control import Dialect
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame, address_matches
from protocols.dlt645.items import Di, ItemSpec
from protocols.errors import BadMessage
from simulators import dlt645_relay, dlt645_writing
from simulators.dlt645_items import ItemSource
from simulators.dlt645_values import Err, NoSuchItem, Refusal
from simulators.meter import MeterModel
from simulators.quirks import MeterQuirks, quirks_of

__all__ = ["Dlt645Meter", "Err", "SecurityChip"]

FACTORY_SECRET = bytes(3)

# Requests to wildcards, after one published firmware: all-AA drops the first group, any AA refuses the second.
_DROPPED_FOR_ALL = (m.WriteRequest, m.FreezeRequest, m.ClearRequest, m.RelayRequest, m.TerminalRequest)
_REFUSED_FOR_SOME = (m.RateRequest, m.RelayRequest, m.ClearRequest)
_REMOVE_OFFSET = bytes((byte - 0x33) & 0xFF for byte in range(256))


class SecurityChip(Protocol):
    """What answers function 03H, see protocols.dlt645.security for the data of each DI."""

    def answer(self, request: m.SecurityRequest, now: datetime) -> m.Message: ...


class Dlt645Meter:
    """One meter on a line.

    quirks: those of the contract when not given. preamble, reply_delay_s, relay_level: shorthand for the quirks of
    these names. reply_delay_s: Td; from the model's seed between 20 and 500 ms when neither says, most of them short.
    programming: the programming key is pressed, so that writing is allowed.
    baud: rate of its port; None: any. security: the chip for 03H; None: nobody has authenticated, and nobody can.
    pretends: the next relay order is acknowledged and not done.
    """

    def __init__(
        self,
        model: MeterModel,
        contract: Contract,
        *,
        quirks: MeterQuirks | None = None,
        preamble: int | None = None,
        reply_delay_s: float | None = None,
        programming: bool = True,
        relay_level: int | None = None,
        baud: int | None = None,
        security: SecurityChip | None = None,
    ) -> None:
        self.model = model
        self.contract = contract
        self.quirks = quirks = quirks_of(contract) if quirks is None else quirks
        self.dialect = Dialect(contract.protocol.removeprefix("dlt645-"))
        self.preamble = quirks.contract.preamble if preamble is None else preamble
        self.programming = programming
        self.relay_level = quirks.contract.relay_level if relay_level is None else relay_level
        self.baud = baud
        self.parity = quirks.parity
        self.security = security
        self.pretends = False
        # Cubed, because most meters answer at once and a few take all the time the standard allows.
        traits = random.Random(f"{model.seed}/reply delay")
        seeded_s = 0.02 + 0.48 * traits.random() ** 3
        own_s = quirks.reply_delay_s if reply_delay_s is None else reply_delay_s
        self.reply_delay_s = seeded_s if own_s is None else own_s
        self.passwords = dict.fromkeys(range(10), FACTORY_SECRET)
        self.items = ItemSource(model, contract, quirks)
        self.silent = 0
        self.synced_on: object = None
        self._following: list[bytes] = []
        self._following_di: Di | None = None
        self._following_next = 1
        self._last_follow_up: m.FollowUpReply | None = None
        self._last_reply: m.Message | None = None
        self._data_max = contract.limits.read_data_max

    @property
    def address(self) -> str:
        return self.model.address.digits

    def hears(self, pattern: str) -> bool:
        return address_matches(pattern, self.address)

    def to_wire(self, reply: Frame) -> bytes:
        if not self.quirks.offset:
            reply = Frame(reply.address, reply.control, reply.payload.translate(_REMOVE_OFFSET))
        wire = reply.to_bytes(self.preamble)
        if self.quirks.dropped_byte is not None:
            at = self.preamble + min(self.quirks.dropped_byte, len(wire) - self.preamble - 1)
            wire = wire[:at] + wire[at + 1 :]
        return wire

    def replacement(self, seed: int, now: datetime) -> "Dlt645Meter":
        """Another meter of the same kind and address, as somebody may put in its place: its registers and its number are its own."""
        own = self.model
        model = MeterModel(
            own.address,
            seed=seed,
            kind=own.curve.kind,
            timezone=own.timezone,
            clock_set_at=now,
            number=f"{900_000_000_000 + seed:012}",
        )
        return Dlt645Meter(
            model,
            self.contract,
            quirks=self.quirks,
            preamble=self.preamble,
            programming=self.programming,
            relay_level=self.relay_level,
            baud=self.baud,
            security=self.security,
        )

    def receive(self, frame: Frame, now: datetime) -> Frame | None:
        """The reply, or None for silence. `now`: true time, aware UTC."""
        if frame.control_parts.from_meter or not self.hears(frame.address):
            return None
        try:
            request = m.decode(frame)
        except BadMessage:
            return self._answer(None)
        handler = _HANDLERS.get(type(request))
        if handler is None or not self._speaks(frame, request):
            return self._answer(None)
        to_all = frame.address == WILDCARD
        if to_all and isinstance(request, _DROPPED_FOR_ALL):
            return self._answer(None)
        if frame.address == BROADCAST and not self._takes_broadcast(request):
            return self._answer(None)
        try:
            if frame.address.startswith("AA") and isinstance(request, _REFUSED_FOR_SOME):
                raise Refusal(Err.PASSWORD)
            reply = handler(self, request, frame.address, now)
        except Refusal as refusal:
            function = frame.control_parts.function
            reply = m.Refused(dialect=self.dialect, function=function, word=refusal.word, size=refusal.size)
        return self._answer(None if frame.address == BROADCAST and self.dialect is Dialect.V2007 else reply)

    def spec(self, di: Di) -> ItemSpec:
        """What the contract says of it. Raises Refusal."""
        if len(di.wire) == 4 and di.wire[:3].count(0xFF) > 1:
            raise Refusal(Err.NO_DATA)  # one byte of a DI at a time may ask for all
        try:
            return self.contract.find(di)
        except UnknownItem as error:
            raise Refusal(Err.NO_DATA) from error

    def _answer(self, reply: m.Message | None) -> Frame | None:
        """The one place where a reply is made."""
        if reply is None:
            self.silent += 1
            return None
        if isinstance(reply, m.ReadReply | m.FollowUpReply):
            self._last_reply = reply
        return m.encode(reply, self.address)

    def _speaks(self, frame: Frame, request: m.Message) -> bool:
        return isinstance(request, m.TimeSync) or m.dialect_of(frame) is self.dialect

    def _takes_broadcast(self, request: m.Message) -> bool:
        """2007: time sync and freeze. 1997: whatever the only meter on a line may be asked."""
        return self.dialect is Dialect.V1997 or isinstance(request, m.TimeSync | m.FreezeRequest)

    # ------------------------------------------------------------------------------------------ reading

    def _read(self, request: m.ReadRequest, _: str, now: datetime) -> m.Message:
        self._following_di, self._last_follow_up = None, None
        pieces = _cut(self._data_of(request, now), self._data_max - len(request.di.wire) - 1)
        if not self.contract.limits.follow_up:
            pieces = pieces[:1]  # the rest cannot be had
        if len(pieces) > 1:
            self._following_di, self._following, self._following_next = request.di, pieces[1:], 1
        return m.ReadReply(di=request.di, data=pieces[0], follow=len(pieces) > 1)

    def _data_of(self, request: m.ReadRequest, now: datetime) -> list[bytes]:
        spec = self.spec(request.di)
        if "r" not in spec.access:
            raise Refusal(Err.PASSWORD)  # passwords, keys: known, and nobody's business
        try:
            if spec.series and spec.di.text not in self.items.written:
                return self.items.read_series(spec, request.count, request.start, now)
            return self.items.read(request.di, now)
        except (UnknownItem, NoSuchItem) as error:
            raise Refusal(Err.NO_DATA) from error

    def _follow_up(self, request: m.FollowUpRequest, _: str, __: datetime) -> m.Message:
        """A SEQ out of turn is refused: the master has lost count and must read again from the start."""
        in_turn = self.dialect is Dialect.V1997 or request.sequence == self._following_next
        if (repeated := self._repeated_follow_up(request)) is not None:
            return repeated
        if request.di != self._following_di or not self._following or not in_turn:
            raise Refusal(Err.NO_DATA)
        data = self._following.pop(0)
        self._following_next = self._following_next % 255 + 1
        reply = m.FollowUpReply(di=request.di, data=data, sequence=request.sequence, follow=bool(self._following))
        self._last_follow_up = reply
        return reply

    def _repeated_follow_up(self, request: m.FollowUpRequest) -> m.Message | None:
        """The same SEQ again: the standard does not say; None goes on to refuse it."""
        last, how = self._last_follow_up, self.quirks.contract.repeated_follow_up
        if last is None or self.dialect is Dialect.V1997 or how == "refused":
            return None
        if (last.di, last.sequence) != (request.di, request.sequence):
            return None
        return last if how == "same" else m.FollowUpReply(di=last.di, data=b"", sequence=last.sequence)

    def _repeat(self, _: m.RepeatRequest, __: str, ___: datetime) -> m.Message | None:
        """03H of 1997; nothing was read yet: an error, because silence would look like a lost request."""
        last = self._last_reply
        if not isinstance(last, m.ReadReply | m.FollowUpReply):
            raise Refusal(Err.NO_DATA)
        return m.ReadReply(di=last.di, data=last.data, follow=last.follow, repeated=True)

    def _read_address(self, _: m.ReadAddressRequest, address: str, __: datetime) -> m.Message | None:
        return m.AddressReply(self.address) if address == WILDCARD else None

    # ------------------------------------------------------------------------------------------ the rest

    def _terminal(self, request: m.TerminalRequest, _: str, __: datetime) -> m.Message:
        if request.output > 2:
            raise Refusal(Err.OTHER)
        return m.TerminalReply(request.output)

    def _security(self, request: m.SecurityRequest, _: str, now: datetime) -> m.Message:
        if self.security is None:
            raise Refusal(Err.SERR_AUTHENTICATION, 2)
        return self.security.answer(request, now)

    def authorise(self, password: m.Password, level: int) -> None:
        """For what needs the programming key, too. Raises Refusal."""
        self.check_password(password, level)
        if not self.programming:
            raise Refusal(Err.PASSWORD)

    def check_password(self, password: m.Password, level: int) -> None:
        """A higher level (a smaller number) opens what a lower one does. Raises Refusal."""
        if password.level > level or self.passwords.get(password.level) != password.secret:
            raise Refusal(Err.PASSWORD)


# Request -> handler(meter, request, address it was sent to, now).
_HANDLERS: dict[type, Callable[[Any, Any, str, datetime], m.Message | None]] = {
    m.ReadRequest: Dlt645Meter._read,
    m.FollowUpRequest: Dlt645Meter._follow_up,
    m.RepeatRequest: Dlt645Meter._repeat,
    m.ReadAddressRequest: Dlt645Meter._read_address,
    m.WriteRequest: dlt645_writing.write,
    m.WriteAddressRequest: dlt645_writing.write_address,
    m.TimeSync: dlt645_writing.sync_time,
    m.FreezeRequest: dlt645_writing.freeze,
    m.RateRequest: dlt645_writing.change_rate,
    m.PasswordRequest: dlt645_writing.change_password,
    m.ClearRequest: dlt645_writing.clear,
    m.RelayRequest: dlt645_relay.switch,
    m.TerminalRequest: Dlt645Meter._terminal,
    m.SecurityRequest: Dlt645Meter._security,
}


def _cut(pieces: list[bytes], size_max: int) -> list[bytes]:
    """Join pieces into frames of at most `size_max` bytes; one that is longer alone is cut where it must be."""
    frames = [b""]
    for piece in pieces:
        if len(frames[-1]) + len(piece) <= size_max:
            frames[-1] += piece
            continue
        parts = [piece[at : at + size_max] for at in range(0, len(piece), size_max)]
        frames += parts if frames[-1] else []
        if not frames[0]:
            frames = parts
    return frames
