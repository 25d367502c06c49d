"""One Modbus request in flight on a half-duplex line, serial or tunnelled in TCP. No I/O and no clock.

An RTU reply to a read names its unit, its function and how many bytes there are, and nothing else: neither a transaction nor the
address that was read. After one late reply, a session that takes what fits files every reply under the question after its own, for
ever. So here:

- After a time-out nothing is sent until the line has been silent, and a half frame from before a request cannot answer it.
- Unanswered questions are debts (`protocols.discipline`). While an answer may still come to a question that shares its key with a new
  one, but asks for another address or belongs to an older read, `owed_s` says how long the new one should wait.
- A new connection owes what the old one owed.
- Who asks all the same gets no reply that fits: such frames are counted off against the debts and dropped, and the request ends
  UNMATCHED. A retry of the same read may take the answer to its own first asking.
- An exception names no question at all. With debts of its function it is taken by a retry only, and pays a debt only where there is one
  and no other that it could pay.
"""

from collections.abc import Sequence

from protocols.discipline import ANYBODY, HEARD_KEPT_MAX, Debts, Doubles, State, Turn, late_s_max_of
from protocols.errors import LineBusy, MessageError
from protocols.exchange import BITS_PER_BYTE, Event, NoReply, Replied, Request, Silence, Timing, Unmatched
from protocols.modbus.adu import RtuFrame
from protocols.modbus.framer import UNIT_MAX, RtuHeard, RtuReplyFramer
from protocols.modbus.matching import Key, beginning_of, key_of, mismatch, reply_key, start_of, trimmed, unit_of
from protocols.modbus.pdu import ModbusException, Reply, decode_reply, encode_request

__all__ = ["RtuSession"]

QUIET_S_MIN = 0.05  # a tunnel hands over chunks in steps of tens of milliseconds; less is no silence
PAUSE_BYTES = 3.5  # between frames, MODBUS over Serial Line V1.02 §2.5.1.1
PAUSE_S_FAST = 0.00175  # the same above 19200 baud
FAST_BAUD = 19200


class RtuSession:
    """See the module's text and `protocols.modbus.session`. Events come out in the order in which they happened."""

    broken = ""  # a serial line is never beyond repair

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._framer = RtuReplyFramer(gap_s=timing.gap_s)
        self._turn = Turn()
        self._request: Request | None = None
        self._key: Key = (0, 0, ())
        self._wire_sent = b""
        self._sent_at = 0.0
        self._is_suspect = (
            False  # asked while somebody else's answer was still owed: nothing that fits is surely its own
        )
        self._is_counted_off = False  # a frame was dropped that may have been its answer
        self._heard = bytearray()
        self._matched_none = False
        self._debts = Debts[Key](late_s_max_of(timing))
        self._doubles = Doubles[Key]()
        self._output: list[bytes] = []
        self._events: list[Event] = []

    def retime(self, timing: Timing) -> None:
        self.timing = timing
        self._debts.late_s_max = late_s_max_of(timing)

    @property
    def idle(self) -> bool:
        return self._turn.state is State.IDLE

    @property
    def deadline(self) -> float | None:
        until, framer = self._turn.until, self._framer.deadline
        if until is None or framer is None:
            return until if framer is None else framer
        return min(until, framer)

    @property
    def noise_bytes(self) -> int:
        return self._framer.noise_bytes

    @property
    def echoes(self) -> int:
        return self._framer.echoes

    def request(self, request: Request, now: float, *, reply_timeout_s: float | None = None) -> None:
        if not self.idle:
            raise LineBusy(f"the line is {self._turn.state.name.lower()}: wait for its event before the next request")
        unit = unit_of(request.address, lowest=1, highest=UNIT_MAX)
        wire = RtuFrame(unit, encode_request(request.message)).to_bytes()
        self._take(self._framer.flush(), now)  # what came before the request cannot answer it
        key = key_of(unit, request.message)
        self._framer.expect(wire, beginning_of(key))
        self._output.append(wire)
        self._request, self._key, self._wire_sent, self._sent_at = request, key, wire, now
        self._is_suspect = self.owed_s(request, now) > 0
        self._is_counted_off = False
        self._heard.clear()
        self._matched_none = False
        until = now + self.timing.wire_time_s(len(wire)) + (reply_timeout_s or self.timing.reply_timeout_s)
        self._turn.wait(until, longest_s=self.timing.longest_reply_s)

    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> None:
        if len(self._heard) < HEARD_KEPT_MAX:
            self._heard += chunk[: HEARD_KEPT_MAX - len(self._heard)]
        self._take(self._framer.receive(chunk, now, marked), now)
        self._turn.heard(now, frame_deadline=self._framer.deadline, quiet_s=self._quiet_s)

    def tick(self, now: float) -> None:
        self._take(self._framer.tick(now), now)
        if not self._turn.is_over(now):
            return
        if self._turn.state is State.WAITING:
            self._time_out(now)
        else:
            self._turn.stop()

    def interrupted_all(self, now: float) -> list[NoReply]:
        return [] if self._request is None else [self._no_reply(self._request, now)]

    def owed_s(self, request: Request, now: float) -> float:
        began_at = now if request.began_at is None else request.began_at
        key = key_of(unit_of(request.address, lowest=1, highest=UNIT_MAX), request.message)
        return self._debts.owed_s(key, began_at, now, detail=start_of(request.message))

    def reset(self) -> None:
        # Debts outlive the connection: what it led to (a serial server, a DTU that dials in again) hands over what its meters still
        # say to whoever is connected then, and nothing in such a reply tells which question it answers.
        if self._request is not None:
            self._owe(self._sent_at)
        self._framer.clear()
        self._turn.stop()
        self._request = None
        self._doubles.clear()
        self._output.clear()

    def take_output(self) -> list[bytes]:
        output, self._output = self._output, []
        return output

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    @property
    def _quiet_s(self) -> float:
        return max(self.timing.quiet_s, QUIET_S_MIN)

    @property
    def _turnaround_s(self) -> float:
        """Between a reply and the next request; a tunnel's serial side keeps the silence itself."""
        baud = self.timing.baud
        if baud is None:
            return self.timing.turnaround_s
        return max(self.timing.turnaround_s, PAUSE_BYTES * BITS_PER_BYTE / baud if baud <= FAST_BAUD else PAUSE_S_FAST)

    def _take(self, found: list[RtuHeard], now: float) -> None:
        for heard in found:
            self._match(heard, now)

    def _match(self, heard: RtuHeard, now: float) -> None:
        try:
            reply = decode_reply(heard.frame.pdu)
        except MessageError as error:
            self._unmatched(heard, str(error))
            return
        key = reply_key(heard.frame.unit, reply)
        request = self._request if self._turn.state is State.WAITING else None
        why = "nothing is being asked: late or doubled" if request is None else mismatch(self._key, key)
        if request is None or why is not None:
            self._unmatched(heard, why or "", late_s=self._settle_stray(heard, key, reply, now))
        elif isinstance(reply, ModbusException):
            self._match_exception(heard, reply, request, now)
        else:
            self._match_answer(heard, reply, request, now)

    def _match_answer(self, heard: RtuHeard, reply: Reply, request: Request, now: float) -> None:
        key = self._key
        came_at = self._doubles.came_at(key, heard.wire, now)
        is_double = came_at is not None and self._doubles.is_expected(now)
        began_at = self._sent_at if request.began_at is None else request.began_at
        if came_at is not None and is_double and came_at <= began_at and not request.takes_repeats:
            self._doubles.forget(key, heard.wire)  # an answer that really is the same is taken when it comes again
            self._unmatched(heard, "may be the doubled reply to the last asking")
            return
        self._doubles.remember(key, heard.wire, now)
        if self._is_suspect:
            late_s = self._count_off(now)
            self._unmatched(heard, "may be the late answer to an older question of the same size", late_s=late_s)
            return
        is_first = not self._debts.count(key, now) and not is_double
        if not is_first:
            # One of several askings of this read is answered, or an older answer came again: the last is still owed its own.
            self._owe(now)
            if not is_double:
                self._debts.settle_oldest(key, now)
        self._reply(heard, reply, request, now, is_first=is_first)

    def _match_exception(self, heard: RtuHeard, reply: Reply, request: Request, now: float) -> None:
        rivals = self._rivals(self._key, now)
        is_retry = request.takes_repeats or request.began_at is not None
        if rivals and not is_retry:
            self._unmatched(heard, "may refuse an older question: an exception does not say which")
            return
        if rivals:
            self._owe(
                now
            )  # the exception may have been for an older asking: then the answer to this one is still to come
            if rivals == [self._key] and not self._is_suspect:
                self._debts.settle_oldest(self._key, now)  # they are all askings of this very read
        self._reply(heard, reply, request, now, is_first=not rivals)

    def _reply(self, heard: RtuHeard, reply: Reply, request: Request, now: float, *, is_first: bool) -> None:
        self._events.append(
            Replied(
                request=request,
                message=trimmed(request.message, reply),
                address=request.address,
                wire_sent=self._wire_sent,
                wire_received=heard.wire,
                elapsed_s=now - self._sent_at,
                is_first=is_first,
            )
        )
        self._rest(now, pause_s=self._turnaround_s)

    def _settle_stray(self, heard: RtuHeard, key: Key, reply: Reply, now: float) -> float | None:
        """A frame that does not answer what is being asked: how long after its own question it came, where that can be told."""
        if isinstance(reply, ModbusException):
            rivals = self._rivals(key, now)
            is_sole = len(rivals) == 1 and self._debts.count(rivals[0], now) == 1
            return self._debts.settle(rivals[0], now, now) if is_sole else None
        if self._doubles.came_at(key, heard.wire, now) is not None:
            if not self._debts.count(
                key, now
            ):  # else it may be another question's answer that happens to be equal: that stays owed
                self._doubles.seen(now)
            return None
        late_s = self._debts.settle(key, now, now)
        if late_s is not None:
            self._doubles.remember(key, heard.wire, now)
        return late_s

    def _count_off(self, now: float) -> float | None:
        """A frame that fits a suspect request answers some asking of this key: count it off, the oldest first and this one last."""
        late_s = self._debts.settle(self._key, now, now)
        self._is_counted_off = self._is_counted_off or late_s is None
        return late_s

    def _rivals(self, key: Key, now: float) -> list[Key]:
        """Unanswered questions of this unit and function: an exception may be meant for any of them."""
        return [owed for owed in list(self._debts) if owed[:2] == key[:2] and self._debts.count(owed, now)]

    def _owe(self, now: float) -> None:
        """The request in flight stays unanswered: its reply may still come."""
        assert self._request is not None
        if not self._is_counted_off:
            # The frame that was counted off against an older question may have been this one's: then that one is still owed.
            detail = ANYBODY if self._is_suspect else start_of(self._request.message)
            self._debts.owe(self._key, self._sent_at, now, detail=detail)

    def _unmatched(self, heard: RtuHeard, why: str, *, late_s: float | None = None) -> None:
        self._events.append(Unmatched(heard.wire, str(heard.frame.unit), why, late_s))
        self._matched_none = True

    def _time_out(self, now: float) -> None:
        assert self._request is not None
        self._owe(now)
        self._events.append(self._no_reply(self._request, now))
        self._rest(now, pause_s=self._quiet_s, pause_s_max=self.timing.drain_s_max)

    def _no_reply(self, request: Request, now: float) -> NoReply:
        # An echo of our own request, however it was cut into chunks, is nothing heard.
        heard = bytes(self._heard).replace(self._wire_sent, b"", 1)
        if self._matched_none:
            silence = Silence.UNMATCHED
        else:
            silence = Silence.CORRUPT if heard else Silence.SILENT
        return NoReply(
            request=request,
            silence=silence,
            wire_sent=self._wire_sent,
            heard=heard,
            elapsed_s=now - self._sent_at,
        )

    def _rest(self, now: float, *, pause_s: float, pause_s_max: float = 0.0) -> None:
        self._request = None
        self._framer.expect_nothing()
        self._turn.rest(now, pause_s=pause_s, pause_s_max=pause_s_max)
