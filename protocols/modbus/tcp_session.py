"""Modbus TCP: several requests in flight, told apart by their transaction number. No I/O and no clock.

A reply belongs to the request with its transaction, and only when unit and function are right as well. Numbers of unanswered requests
are not used again while their replies may still come, so a late one is known for what it is: nothing has to be drained.
"""

from protocols.discipline import HEARD_KEPT_MAX, late_s_max_of
from protocols.errors import LineBusy, MessageError
from protocols.exchange import Event, NoReply, Replied, Request, Silence, Timing, Unmatched
from protocols.modbus.adu import TcpFrame
from protocols.modbus.framer import TcpFramer, TcpHeard
from protocols.modbus.matching import Key, key_of, mismatch, reply_key, trimmed, unit_of
from protocols.modbus.pdu import decode_reply, encode_request

__all__ = ["TcpSession"]

TRANSACTIONS = 0x10000
LATE_KEPT_MAX = 1024  # unanswered requests remembered; far more than a connection can time out within late_s_max


class _InFlight:
    __slots__ = ("deadline", "heard", "is_unmatched", "key", "request", "sent_at", "wire")

    def __init__(self, request: Request, key: Key, wire: bytes, sent_at: float, deadline: float) -> None:
        self.request = request
        self.key = key
        self.wire = wire
        self.sent_at = sent_at
        self.deadline = deadline
        self.heard = b""
        self.is_unmatched = False


class TcpSession:
    """See the module's text and `protocols.modbus.session`. Events come out in the order in which they happened."""

    noise_bytes = 0  # a TCP stream has neither noise nor echoes
    echoes = 0

    def __init__(self, timing: Timing, *, in_flight_max: int = 1) -> None:
        self.timing = timing
        self._in_flight_max = in_flight_max
        self._framer = TcpFramer()
        self._in_flight: dict[int, _InFlight] = {}
        self._earliest = (
            0.0  # no deadline of those in flight is before; looked for anew by `tick` only, not at every reply
        )
        self._late: dict[int, float] = {}  # transaction -> when it was asked and not answered, oldest first
        self._transaction = 0
        self._output: list[bytes] = []
        self._events: list[Event] = []

    def retime(self, timing: Timing) -> None:
        self.timing = timing

    @property
    def broken(self) -> str:
        return self._framer.broken

    @property
    def idle(self) -> bool:
        return len(self._in_flight) < self._in_flight_max and not self._framer.broken

    @property
    def deadline(self) -> float | None:
        return self._earliest if self._in_flight else None

    def request(self, request: Request, now: float, *, reply_timeout_s: float | None = None) -> None:
        if not self.idle:
            why = self._framer.broken or f"{len(self._in_flight)} requests are in flight"
            raise LineBusy(f"{why}: wait for an event before the next request")
        unit = unit_of(request.address, lowest=0, highest=0xFF)
        pdu = encode_request(request.message)
        transaction = self._next_transaction(now)
        wire = TcpFrame(transaction, unit, pdu).to_bytes()
        deadline = now + (reply_timeout_s or self.timing.reply_timeout_s)
        if not self._in_flight or deadline < self._earliest:
            self._earliest = deadline
        self._in_flight[transaction] = _InFlight(request, key_of(unit, request.message), wire, now, deadline)
        self._output.append(wire)

    def receive(self, chunk: bytes, now: float) -> None:
        for heard in self._framer.receive(chunk):
            self._match(heard, now)

    def tick(self, now: float) -> None:
        if now < self._earliest:
            return
        for transaction, asked in list(self._in_flight.items()):
            if now >= asked.deadline:
                del self._in_flight[transaction]
                while len(self._late) >= LATE_KEPT_MAX:
                    del self._late[next(iter(self._late))]
                self._late[transaction] = asked.sent_at
                self._events.append(self._no_reply(asked, now))
        self._earliest = min([asked.deadline for asked in self._in_flight.values()], default=0.0)

    def interrupted_all(self, now: float) -> list[NoReply]:
        return [self._no_reply(asked, now) for asked in self._in_flight.values()]

    def owed_s(self, request: Request, now: float) -> float:
        """Never anything: a late reply shows its number."""
        return 0.0

    def reset(self) -> None:
        self._framer.clear()
        self._in_flight.clear()
        self._late.clear()  # a new connection brings no old replies
        self._output.clear()

    def take_output(self) -> list[bytes]:
        output, self._output = self._output, []
        return output

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _next_transaction(self, now: float) -> int:
        if self._late:
            self._forget_late(now - late_s_max_of(self.timing))
        while True:
            self._transaction = (self._transaction + 1) % TRANSACTIONS
            if self._transaction not in self._in_flight and self._transaction not in self._late:
                return self._transaction

    def _forget_late(self, oldest_kept: float) -> None:
        while self._late and self._late[next(iter(self._late))] < oldest_kept:
            del self._late[next(iter(self._late))]

    def _match(self, heard: TcpHeard, now: float) -> None:
        frame = heard.frame
        asked = self._in_flight.get(frame.transaction)
        if asked is None:
            sent_at = self._late.pop(frame.transaction, None)
            why = f"transaction {frame.transaction} is not being asked: " + ("doubled" if sent_at is None else "late")
            self._unmatched(heard, why, None if sent_at is None else now - sent_at)
            return
        try:
            reply = decode_reply(frame.pdu)
            why_not = mismatch(asked.key, reply_key(frame.unit, reply))
        except MessageError as error:
            why_not = str(error)
        if why_not is not None:
            self._unmatched(heard, why_not)
            return
        del self._in_flight[frame.transaction]
        self._events.append(
            Replied(
                request=asked.request,
                message=trimmed(asked.request.message, reply),
                address=asked.request.address,
                wire_sent=asked.wire,
                wire_received=heard.wire,
                elapsed_s=now - asked.sent_at,
            )
        )

    def _unmatched(self, heard: TcpHeard, why: str, late_s: float | None = None) -> None:
        self._events.append(Unmatched(heard.wire, str(heard.frame.unit), why, late_s))
        for asked in self._in_flight.values():  # the far end is there, and says something else
            asked.is_unmatched = True
            asked.heard = (asked.heard + heard.wire)[:HEARD_KEPT_MAX]

    def _no_reply(self, asked: _InFlight, now: float) -> NoReply:
        half = self._framer.half
        if asked.is_unmatched:
            silence = Silence.UNMATCHED
        else:
            silence = Silence.CORRUPT if half else Silence.SILENT
        return NoReply(
            request=asked.request,
            silence=silence,
            wire_sent=asked.wire,
            heard=(asked.heard + half)[:HEARD_KEPT_MAX],
            elapsed_s=now - asked.sent_at,
        )
