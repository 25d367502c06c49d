"""The meter's end of DL/T 645: what it does with each frame, and when it stays silent.

One table says which function handles which request, and `_answer` is the only place where a reply leaves: what a
particular meter does wrong can be put there. Silence is an answer too: a meter says nothing to frames for others, to
broadcasts, to DATA of the wrong length and to what only a factory may send.

Open points of the standard are decided here as most firmware does it, and named where they stand. The edition follows
from the contract; a meter answers only frames of its own.
"""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from firmware_contracts.contract import Contract
from firmware_contracts.errors import UnknownItem
from protocols.dlt645 import messages as m
from protocols.dlt645.control import RATES, Dialect, Function1997, Function2007, RelayOrder
from protocols.dlt645.frame import BROADCAST, WILDCARD, Frame, address_matches
from protocols.dlt645.items import Di, ItemSpec, decode
from protocols.errors import BadAddress, BadMessage, ItemError
from protocols.values import MeterAddress
from simulators.dlt645_items import Counters, ItemSource, NoSuchItem
from simulators.meter import MeterModel, RelayRefused

__all__ = ["Dlt645Meter", "Err"]

F07 = Function2007
F97 = Function1997

FACTORY_SECRET = bytes(3)
WRITE_LEVEL = 4  # data writing, demand clear (DL/T 645-2007: 04)
CLEAR_LEVEL = 2  # meter clear, event clear (02)
SYNC_WINDOW = timedelta(minutes=5)
NEVER_EXPIRES = "999999999999"


# Requests to wildcards, after one published firmware: all-AA drops the first group, any AA refuses the second.
_DROPPED_FOR_ALL = (m.WriteRequest, m.FreezeRequest, m.ClearRequest, m.RelayRequest, m.TerminalRequest)
_REFUSED_FOR_SOME = (m.RateRequest, m.RelayRequest, m.ClearRequest)


class Err:
    """Bits of the error word."""

    OTHER = 0x01
    NO_DATA = 0x02
    PASSWORD = 0x04
    RATE = 0x08
    SERR_AUTHENTICATION = 0x0008  # of the two-byte word of 03H


class _Refusal(Exception):
    def __init__(self, word: int, size: int = 1) -> None:
        super().__init__(word)
        self.word = word
        self.size = size


class Dlt645Meter:
    """One meter on a line.

    preamble: FEH bytes before each reply. reply_delay_s: Td; from the model's seed between 20 and 500 ms when not
    given, most of them short. programming: the programming key is pressed, so that writing is allowed. relay_level: the
    lowest password level that may switch. baud: rate of its port; None: any.
    """

    def __init__(
        self,
        model: MeterModel,
        contract: Contract,
        *,
        preamble: int = 4,
        reply_delay_s: float | None = None,
        programming: bool = True,
        relay_level: int = WRITE_LEVEL,
        baud: int | None = None,
    ) -> None:
        self.model = model
        self.contract = contract
        self.dialect = Dialect(contract.protocol.removeprefix("dlt645-"))
        self.preamble = preamble
        self.programming = programming
        self.relay_level = relay_level
        self.baud = baud
        # Cubed, because most meters answer at once and a few take all the time the standard allows.
        traits = random.Random(f"{model.seed}/reply delay")
        self.reply_delay_s = 0.02 + 0.48 * traits.random() ** 3 if reply_delay_s is None else reply_delay_s
        self.passwords = dict.fromkeys(range(10), FACTORY_SECRET)
        self.counters = Counters()
        self.items = ItemSource(model, contract, self.counters)
        self.silent = 0
        self._following: list[bytes] = []
        self._following_di: Di | None = None
        self._following_next = 1
        self._last_reply: m.Message | None = None
        self._synced_on: object = None
        limits = contract.limits
        self._data_max = limits.read_data_max
        self._write_max = limits.write_data_max

    @property
    def address(self) -> str:
        return self.model.address.digits

    def hears(self, pattern: str) -> bool:
        return address_matches(pattern, self.address)

    def to_wire(self, reply: Frame) -> bytes:
        return reply.to_bytes(self.preamble)

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
                raise _Refusal(Err.PASSWORD)
            reply = handler(self, request, frame.address, now)
        except _Refusal as refusal:
            function = frame.control_parts.function
            reply = m.Refused(dialect=self.dialect, function=function, word=refusal.word, size=refusal.size)
        return self._answer(None if frame.address == BROADCAST and self.dialect is Dialect.V2007 else reply)

    def _answer(self, reply: m.Message | None) -> Frame | None:
        """The one place where a reply leaves."""
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
        self._following_di = None
        pieces = _cut(self._data_of(request, now), self._data_max - len(request.di.wire) - 1)
        if len(pieces) > 1:
            self._following_di, self._following, self._following_next = request.di, pieces[1:], 1
        return m.ReadReply(di=request.di, data=pieces[0], follow=len(pieces) > 1)

    def _data_of(self, request: m.ReadRequest, now: datetime) -> list[bytes]:
        di = request.di
        if "r" not in self._spec(di).access:
            raise _Refusal(Err.PASSWORD)  # passwords, keys: known, and nobody's business
        try:
            if request.count is not None and request.start is not None:
                return self.items.read_curve(di, request.count, request.start, now)
            return self.items.read(di, now)
        except (UnknownItem, NoSuchItem) as error:
            raise _Refusal(Err.NO_DATA) from error

    def _spec(self, di: Di) -> ItemSpec:
        if len(di.wire) == 4 and di.wire[:3].count(0xFF) > 1:
            raise _Refusal(Err.NO_DATA)  # one byte of a DI at a time may ask for all
        try:
            return self.contract.find(di)
        except UnknownItem as error:
            raise _Refusal(Err.NO_DATA) from error

    def _follow_up(self, request: m.FollowUpRequest, _: str, __: datetime) -> m.Message:
        """A SEQ out of turn is refused: the master has lost count and must read again from the start."""
        in_turn = self.dialect is Dialect.V1997 or request.sequence == self._following_next
        if request.di != self._following_di or not self._following or not in_turn:
            raise _Refusal(Err.NO_DATA)
        data = self._following.pop(0)
        self._following_next = self._following_next % 255 + 1
        return m.FollowUpReply(di=request.di, data=data, sequence=request.sequence, follow=bool(self._following))

    def _repeat(self, _: m.RepeatRequest, __: str, ___: datetime) -> m.Message | None:
        last = self._last_reply
        if not isinstance(last, m.ReadReply | m.FollowUpReply):
            return None
        return m.ReadReply(di=last.di, data=last.data, follow=last.follow, repeated=True)

    def _read_address(self, _: m.ReadAddressRequest, address: str, __: datetime) -> m.Message | None:
        return m.AddressReply(self.address) if address == WILDCARD else None

    # ------------------------------------------------------------------------------------------ writing

    def _write(self, request: m.WriteRequest, _: str, now: datetime) -> m.Message:
        di, data, password = request.di, request.data, request.password
        if password is None:  # 1997: the text has no password, meters want four bytes before the data
            password, data = m.Password.from_wire(data[:4].ljust(4, b"\0")), data[4:]
        spec = self._spec(di)
        self._authorise(password, WRITE_LEVEL)
        if "w" not in spec.access:
            raise _Refusal(Err.PASSWORD)
        try:
            content = decode(data, spec)
        except ItemError as error:
            raise _Refusal(Err.OTHER) from error
        if len(data) > self._write_max:
            raise _Refusal(Err.OTHER)
        if di.text in _SPECIAL_WRITES:
            _SPECIAL_WRITES[di.text](self, str(content[0].content), now)
        elif di.text.startswith("04000C") or di.text == "C212":
            self.passwords[data[0]] = data[1:4]
        else:
            self.items.written[di.text] = data
        self.counters.programmings += 1
        self.counters.last_programming = self.model.clock(now)
        return m.Accepted(F97.WRITE if self.dialect is Dialect.V1997 else F07.WRITE)

    def _set_date(self, digits: str, now: datetime) -> None:
        self._set_clock(digits[:6] + f"{self.model.clock(now):%H%M%S}", now)

    def _set_time(self, digits: str, now: datetime) -> None:
        self._set_clock(f"{self.model.clock(now):%y%m%d}" + digits, now)

    def _set_date_and_time(self, digits: str, now: datetime) -> None:
        self._set_clock(digits[:6] + digits[8:], now)  # the weekday between them is the calendar's affair

    def _set_clock(self, digits: str, now: datetime) -> None:
        self.model.set_clock(_moment(digits), now)
        self.counters.clock_sets += 1

    def _set_address(self, digits: str, _: datetime) -> None:
        try:
            self.model.address = MeterAddress(digits)
        except BadAddress as error:
            raise _Refusal(Err.OTHER) from error

    def _write_address(self, request: m.WriteAddressRequest, address: str, now: datetime) -> m.Message | None:
        """Silent unless sent to all (2007: AA, 1997: 99) with the programming key pressed."""
        if not self.programming or address != (WILDCARD if self.dialect is Dialect.V2007 else BROADCAST):
            return None
        try:
            self._set_address(request.address, now)
        except _Refusal:
            return None
        return m.Accepted(F07.WRITE_ADDRESS if self.dialect is Dialect.V2007 else F97.WRITE_ADDRESS)

    def _sync_time(self, request: m.TimeSync, address: str, now: datetime) -> m.Message | None:
        """At most five minutes, once a day by the meter's calendar, and not within five minutes of midnight."""
        if address.startswith("AA") or (self.dialect is Dialect.V1997 and address != BROADCAST):
            return None
        clock, asked = self.model.clock(now), _moment(request.at)
        midnight = clock.replace(hour=0, minute=0, second=0, microsecond=0)
        near_midnight = min(clock - midnight, midnight + timedelta(days=1) - clock) < SYNC_WINDOW
        if abs(asked - clock) > SYNC_WINDOW or near_midnight or self._synced_on == clock.date():
            raise _Refusal(Err.OTHER)
        self._synced_on = clock.date()
        self.model.set_clock(asked, now)
        return None if address == BROADCAST else m.Accepted(F07.TIME_SYNC)

    def _freeze(self, request: m.FreezeRequest, _: str, now: datetime) -> m.Message:
        pattern = request.moment
        if pattern == "99999999":
            self.model.freeze_now(now)
        elif _is_freeze_pattern(pattern):
            self.model.set_freeze_pattern(pattern, now)
        else:
            raise _Refusal(Err.OTHER)
        return m.Accepted(F07.FREEZE)

    def _change_rate(self, request: m.RateRequest, _: str, __: datetime) -> m.Message:
        """The reply still goes out at the old rate: nothing is heard between, so switching at once is the same."""
        rates = RATES[self.dialect]
        if request.word not in rates:
            if self.dialect is Dialect.V1997:
                return m.RateReply(word=0xFF, dialect=self.dialect)
            raise _Refusal(Err.RATE)
        self.items.rate_word = request.word
        if self.baud is not None:
            self.baud = rates[request.word]
        return m.RateReply(word=request.word, dialect=self.dialect)

    def _change_password(self, request: m.PasswordRequest, _: str, __: datetime) -> m.Message | None:
        """The old password may be the slot's own or that of a higher level. 1997 meters refuse by silence."""
        slot = request.new.level
        is_slot = request.di is None or request.di.text == f"04000C{slot + 1:02X}"
        try:
            if slot not in self.passwords or not is_slot:
                raise _Refusal(Err.PASSWORD)
            self._authorise(request.old, slot)
        except _Refusal:
            if self.dialect is Dialect.V1997:
                return None
            raise
        self.passwords[slot] = request.new.secret
        return m.PasswordReply(new=request.new, dialect=self.dialect)

    # ------------------------------------------------------------------------------------------ clearing

    def _clear(self, request: m.ClearRequest, _: str, now: datetime) -> m.Message:
        if request.password is not None:
            self._authorise(request.password, WRITE_LEVEL if request.function == F07.CLEAR_DEMAND else CLEAR_LEVEL)
        if request.function in (F07.CLEAR_DEMAND, F97.CLEAR_DEMAND):
            self.model.clear_demand(now)
            self.counters.demand_clears += 1
            self.counters.last_demand_clear = self.model.clock(now)
        elif request.function == F07.CLEAR_METER:
            self.model.clear_energies(now)
            self.counters.meter_clears += 1
        else:
            self._clear_events(request.events)
        return m.Accepted(request.function)

    def _clear_events(self, events: Di | None) -> None:
        """The records of meter and event clearing survive; that is what they are for."""
        if events is None or not events.text.endswith("FF"):
            raise _Refusal(Err.OTHER)
        if events.text in ("FFFFFFFF", "1D00FFFF", "1D0000FF"):
            self.model.trips, self.model.trip_count = [], 0
        if events.text in ("FFFFFFFF", "1E00FFFF", "1E0000FF"):
            self.model.closes, self.model.close_count = [], 0
        if events.text == "FFFFFFFF":
            self.counters.programmings = self.counters.demand_clears = self.counters.clock_sets = 0
        self.counters.event_clears += 1

    # ------------------------------------------------------------------------------------------ relay and the rest

    def _relay(self, request: m.RelayRequest, _: str, now: datetime) -> m.Message:
        """Refusals are one word, 04H: password, expiry and protection look the same from outside."""
        self._check_password(request.password, self.relay_level)
        if request.delay is None or request.expires is None or request.secure:
            raise _Refusal(Err.OTHER)
        if request.expires != NEVER_EXPIRES:
            try:
                expires = _moment(request.expires)
            except _Refusal as error:
                raise _Refusal(Err.PASSWORD) from error
            if self.model.clock(now) > expires:
                raise _Refusal(Err.PASSWORD)
        order = _ORDERS.get(request.order)
        if order is None or (request.order in _TIMED and request.delay == 0):
            raise _Refusal(Err.OTHER)
        try:
            order(self.model, request, now)
        except RelayRefused as error:
            raise _Refusal(Err.PASSWORD) from error
        return m.RelayReply()

    def _terminal(self, request: m.TerminalRequest, _: str, __: datetime) -> m.Message:
        if request.output > 2:
            raise _Refusal(Err.OTHER)
        return m.TerminalReply(request.output)

    def _security(self, _: m.SecurityRequest, __: str, ___: datetime) -> m.Message:
        """No security chip: nobody has authenticated, and nobody can."""
        raise _Refusal(Err.SERR_AUTHENTICATION, 2)

    def _authorise(self, password: m.Password, level: int) -> None:
        self._check_password(password, level)
        if not self.programming:
            raise _Refusal(Err.PASSWORD)

    def _check_password(self, password: m.Password, level: int) -> None:
        """A higher level (a smaller number) opens what a lower one does."""
        if password.level > level or self.passwords.get(password.level) != password.secret:
            raise _Refusal(Err.PASSWORD)


def _trip(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.open_relay(now, request.operator)


def _timed_trip(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.open_relay(
        now,
        request.operator,
        restore_after=timedelta(minutes=5 * (request.delay or 0)),
        restore_permits=request.order == RelayOrder.TRIP_THEN_PERMIT,
    )


def _permit(model: MeterModel, _: m.RelayRequest, now: datetime) -> None:
    model.permit_close(now)


def _close(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.close_relay(now, request.operator)


def _alarm(model: MeterModel, request: m.RelayRequest, _: datetime) -> None:
    model.alarm = request.order == RelayOrder.ALARM_ON


def _protect(model: MeterModel, request: m.RelayRequest, now: datetime) -> None:
    model.protect(now, request.operator)


def _unprotect(model: MeterModel, _: m.RelayRequest, now: datetime) -> None:
    model.unprotect(now)


# N1 of 1CH. 1DH closes by itself, 1EH permits: so in three of four sources.
_ORDERS: dict[int, Callable[[MeterModel, m.RelayRequest, datetime], None]] = {
    RelayOrder.TRIP: _trip,
    RelayOrder.PERMIT_CLOSE: _permit,
    RelayOrder.CLOSE: _close,
    RelayOrder.TRIP_THEN_CLOSE: _timed_trip,
    RelayOrder.TRIP_THEN_PERMIT: _timed_trip,
    RelayOrder.ALARM_ON: _alarm,
    RelayOrder.ALARM_OFF: _alarm,
    RelayOrder.PROTECT: _protect,
    RelayOrder.PROTECT_OFF: _unprotect,
}
_TIMED = (RelayOrder.TRIP_THEN_CLOSE, RelayOrder.TRIP_THEN_PERMIT)

_SPECIAL_WRITES: dict[str, Callable[[Dlt645Meter, str, datetime], None]] = {
    "04000101": Dlt645Meter._set_date,
    "04000102": Dlt645Meter._set_time,
    "0400010C": Dlt645Meter._set_date_and_time,
    "04000401": Dlt645Meter._set_address,
    "C010": Dlt645Meter._set_date,
    "C011": Dlt645Meter._set_time,
}

# Request -> handler(meter, request, address it was sent to, now).
_HANDLERS: dict[type, Callable[[Dlt645Meter, Any, str, datetime], m.Message | None]] = {
    m.ReadRequest: Dlt645Meter._read,
    m.FollowUpRequest: Dlt645Meter._follow_up,
    m.RepeatRequest: Dlt645Meter._repeat,
    m.ReadAddressRequest: Dlt645Meter._read_address,
    m.WriteRequest: Dlt645Meter._write,
    m.WriteAddressRequest: Dlt645Meter._write_address,
    m.TimeSync: Dlt645Meter._sync_time,
    m.FreezeRequest: Dlt645Meter._freeze,
    m.RateRequest: Dlt645Meter._change_rate,
    m.PasswordRequest: Dlt645Meter._change_password,
    m.ClearRequest: Dlt645Meter._clear,
    m.RelayRequest: Dlt645Meter._relay,
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


def _moment(digits: str) -> datetime:
    """YYMMDDhhmmss, all years 20YY; refuses what is no date."""
    try:
        year, *rest = (int(digits[at : at + 2]) for at in range(0, 12, 2))
        return datetime(2000 + year, *rest)  # type: ignore[arg-type]  # noqa: DTZ001 - meter time has no zone
    except (TypeError, ValueError) as error:
        raise _Refusal(Err.OTHER) from error


def _is_freeze_pattern(pattern: str) -> bool:
    """99 fills from the month side; DD above 28 would skip months and is refused, as some firmware does."""
    parts = [int(pattern[at : at + 2]) for at in range(0, 8, 2)] if pattern.isdecimal() else []
    every = [part == 99 for part in parts]
    bounds = ((1, 12), (1, 28), (0, 23), (0, 59))
    return (
        bool(parts)
        and every == sorted(every, reverse=True)
        and all(part == 99 or low <= part <= high for part, (low, high) in zip(parts, bounds, strict=True))
    )
