"""One request in flight on a half-duplex DL/T 645 line. No I/O and no clock: `now` is monotonic seconds.

Do one of `request`, `receive`, `tick`; then take output and events; then wait for bytes or for `deadline`. The states, the debts and
the doubles are those of `protocols.discipline`.

DL/T 645 has no transaction number. A reply belongs to the request in flight only when address, function, DI and (for follow-up
frames) SEQ agree; anything else is counted and reported as Unmatched, never delivered. After a time-out nothing may be sent
until the line has been silent, so that a late reply cannot meet the next request half-way.

That leaves one case: the same question asked again while the answer to an older asking may still be under way (serial servers and
concentrators queue). The session remembers unanswered questions for `late_s_max`; `owed_s` says how long a new read of the same
question should wait so that nothing old can meet it. Who asks all the same has a frame that may answer an asking from before its
read began given to that one, that is, dropped: a retry costs less than a read that is older than it claims.
"""

from collections.abc import Sequence

from protocols.discipline import DOUBLE_S_MAX, HEARD_KEPT_MAX, Debts, Doubles, State, Turn, late_s_max_of
from protocols.dlt645.frame import Frame, address_matches
from protocols.dlt645.framer import Damage, Framer, Heard
from protocols.dlt645.messages import (
    FollowUpReply,
    FollowUpRequest,
    Message,
    ReadReply,
    ReadRequest,
    Refused,
    RepeatRequest,
    SecurityReply,
    SecurityRequest,
    WriteAddressRequest,
    decode,
    encode,
    expects_reply,
)
from protocols.errors import LineBusy, MessageError
from protocols.exchange import Event, NoReply, Replied, Request, Sent, Silence, Timing, Unmatched

__all__ = ["DOUBLE_S_MAX", "Session"]

_Question = tuple[str, int, str | None]


class Session:
    """See the module's text. Events come out in the order in which they happened."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._framer = Framer(gap_s=timing.gap_s)
        self._turn = Turn()
        self._request: Request | None = None
        self._wire_sent = b""
        self._sent_at = 0.0
        self._heard = bytearray()
        self._matched_none = False
        self._debts = Debts[_Question](late_s_max_of(timing))
        self._doubles = Doubles[_Question]()
        self._output: list[bytes] = []
        self._events: list[Event] = []

    def retime(self, timing: Timing) -> None:
        """From the next request on; for a line whose rate has changed."""
        self.timing = timing
        self._debts.late_s_max = late_s_max_of(timing)

    @property
    def idle(self) -> bool:
        """Whether `request` may be called."""
        return self._turn.state is State.IDLE

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest; None when there is nothing to wait for."""
        until, framer = self._turn.until, self._framer.deadline
        if until is None or framer is None:
            return until if framer is None else framer
        return min(until, framer)

    broken = ""  # why the connection must be closed: nothing that comes over a DL/T 645 line is a reason

    @property
    def noise_bytes(self) -> int:
        return self._framer.noise_bytes

    @property
    def echoes(self) -> int:
        return self._framer.echoes

    def request(self, request: Request, now: float, *, reply_timeout_s: float | None = None) -> None:
        """reply_timeout_s: instead of the line's, for a meter whose pace is known.

        Raises LineBusy unless idle, EncodeError when the message cannot be sent.
        """
        if self._turn.state is not State.IDLE:
            raise LineBusy(f"the line is {self._turn.state.name.lower()}: wait for its event before the next request")
        timing = self.timing
        wire = encode(request.message, request.address).to_bytes(timing.preamble)
        self._framer.expect_echo(wire)
        self._output.append(wire)
        self._request, self._wire_sent, self._sent_at = request, wire, now
        self._heard.clear()
        self._matched_none = False
        sent_s = timing.wire_time_s(len(wire))
        if expects_reply(request.message, request.address):
            until = now + sent_s + (reply_timeout_s or timing.reply_timeout_s)
            self._turn.wait(until, longest_s=timing.longest_reply_s)
        else:
            self._events.append(Sent(request=request, wire_sent=wire))
            self._rest(now, pause_s=sent_s + timing.turnaround_s)

    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> None:
        """Bytes from the line, in any chunking. marked: places in the chunk of bytes with a parity error."""
        if len(self._heard) < HEARD_KEPT_MAX:
            self._heard += chunk[: HEARD_KEPT_MAX - len(self._heard)]
        self._take(self._framer.receive(chunk, now, marked), now)
        self._turn.heard(now, frame_deadline=self._framer.deadline, quiet_s=self.timing.quiet_s)

    def tick(self, now: float) -> None:
        """Let time pass; harmless when early."""
        self._take(self._framer.tick(now), now)
        if not self._turn.is_over(now):
            return
        if self._turn.state is State.WAITING:
            self._time_out(now)
        else:
            self._turn.stop()

    def interrupted(self, now: float) -> NoReply | None:
        """What the request in flight has come to, for an owner whose connection broke; None when none is in flight."""
        return None if self._request is None else self._no_reply(self._request, now)

    def interrupted_all(self, now: float) -> list[NoReply]:
        """The same as a list, as sessions with several requests in flight give it."""
        return [] if self._request is None else [self._no_reply(self._request, now)]

    def owed_s(self, request: Request, now: float) -> float:
        """How long a reply to an older asking of this question, from before this read began, may still come; 0 when none may."""
        began_at = now if request.began_at is None else request.began_at
        return self._debts.owed_s(_question_of(request.address, request.message), began_at, now)

    def reset(self) -> None:
        """The connection is gone: forget the request in flight without an event; its owner knows."""
        self._framer.clear()
        self._turn.stop()
        self._request = None
        self._debts.clear()  # a new connection brings no old replies
        self._doubles.clear()
        self._output.clear()

    def take_output(self) -> list[bytes]:
        output, self._output = self._output, []
        return output

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _take(self, found: list[Heard | Damage], now: float) -> None:
        for item in found:
            if type(item) is Heard:
                self._match(item, now)

    def _match(self, heard: Heard, now: float) -> None:
        frame = heard.frame
        if not frame.control_parts.from_meter:
            self._unmatched(heard, "a request, not a reply: an echo or a second master on the line")
            return
        try:
            message = decode(frame)
        except MessageError as error:
            self._unmatched(heard, f"DATA does not fit its function: {error}", counts=False)
            return
        question = _question_of(frame.address, message)
        came_at = self._doubles.came_at(question, heard.wire, now)
        request = self._request if self._turn.state is State.WAITING else None
        why = "nothing is being asked: late or doubled" if request is None else _mismatch(request, frame, message)
        if request is None or why is not None:
            late_s = None
            if came_at is not None:
                self._doubles.seen(now)
            else:
                late_s = self._answer_older(question, message, before=now, now=now)
            if late_s is not None:
                self._doubles.remember(question, heard.wire, now)
            self._unmatched(heard, why or "", late_s=late_s)
            return
        began_at = self._sent_at if request.began_at is None else request.began_at
        # The double of a reply that this very read got already, as after a lost part, is as good as the reply.
        is_double = came_at is not None and self._doubles.is_expected(now)
        if came_at is not None and is_double and came_at <= began_at and not request.takes_repeats:
            self._doubles.forget(question, heard.wire)  # an answer that really is the same is taken when it comes again
            self._unmatched(heard, "may be the doubled reply to the last asking of the same question")
            return
        late_s = None
        # A refusal names no item. It is given to an older asking once per read, or the debts of many items would eat every refusal.
        takes_refusal = isinstance(message, Refused) and (request.takes_repeats or request.began_at is not None)
        if self._debts and not takes_refusal:
            late_s = self._answer_older(question, message, before=began_at, now=now)
        if late_s is not None:
            self._unmatched(heard, "may be the late answer to an older asking of the same question", late_s=late_s)
            return
        self._doubles.remember(question, heard.wire, now)
        is_first = question not in self._debts and not is_double
        if not is_first:
            # One of several askings of this read is answered, or an older answer came again: the last is still owed its own.
            self._owe(now)
            if not is_double:
                self._debts.settle_oldest(question, now)
        self._events.append(
            Replied(
                request=request,
                message=message,
                address=frame.address,
                wire_sent=self._wire_sent,
                wire_received=heard.wire,
                elapsed_s=now - self._sent_at,
                is_first=is_first,
            )
        )
        self._rest(now, pause_s=self.timing.turnaround_s)

    def _answer_older(self, asked: _Question, message: Message, *, before: float, now: float) -> float | None:
        """Give a frame to the oldest asking that it may answer, made before `before` and still owed a reply.

        Gives how long ago that was. A refusal names no DI, so it may answer any question of its function.
        """
        questions = [asked]
        if isinstance(message, Refused):
            questions = [key for key in self._debts if key[:2] == asked[:2]]
        for question in questions:
            if (late_s := self._debts.settle(question, before, now)) is not None:
                return late_s
        return None

    def _owe(self, now: float) -> None:
        """The request in flight stays unanswered: its reply may still come."""
        assert self._request is not None
        question = _question_of(self._request.address, self._request.message)
        self._debts.owe(question, self._sent_at, now)

    def _unmatched(self, heard: Heard, why: str, *, late_s: float | None = None, counts: bool = True) -> None:
        self._events.append(Unmatched(heard.wire, heard.frame.address, why, late_s))
        self._matched_none = self._matched_none or counts

    def _time_out(self, now: float) -> None:
        assert self._request is not None
        self._owe(now)
        self._events.append(self._no_reply(self._request, now))
        self._rest(now, pause_s=self.timing.quiet_s, pause_s_max=self.timing.drain_s_max)

    def _no_reply(self, request: Request, now: float) -> NoReply:
        # An echo of our own request, however it was cut into chunks, is nothing heard.
        heard = bytes(self._heard).replace(self._wire_sent.lstrip(b"\xfe"), b"")
        if self._matched_none:
            silence = Silence.UNMATCHED
        else:
            silence = Silence.CORRUPT if heard.strip(b"\xfe") else Silence.SILENT
        return NoReply(
            request=request,
            silence=silence,
            wire_sent=self._wire_sent,
            heard=heard,
            elapsed_s=now - self._sent_at,
        )

    def _rest(self, now: float, *, pause_s: float, pause_s_max: float = 0.0) -> None:
        self._request = None
        self._turn.rest(now, pause_s=pause_s, pause_s_max=pause_s_max)


def _question_of(address: str, message: Message) -> _Question:
    di = getattr(message, "di", None)
    return address, message.control.function, str(di) if di is not None else None


def _mismatch(request: Request, frame: Frame, message: Message) -> str | None:
    """Why a reply is not the one to `request`; None when it is."""
    asked = request.message
    address = asked.address if isinstance(asked, WriteAddressRequest) else request.address
    if not address_matches(address, frame.address):
        return f"from {frame.address}, asked {address}"
    function = asked.control.function
    if frame.control_parts.function != function:
        return f"function {frame.control_parts.function:02X}H, asked {function:02X}H"
    if isinstance(message, Refused) or isinstance(asked, RepeatRequest):
        return None
    if isinstance(asked, ReadRequest | FollowUpRequest | SecurityRequest):
        if not isinstance(message, ReadReply | FollowUpReply | SecurityReply):
            return "not a reply with data"
        if message.di != asked.di:
            return f"DI {message.di}, asked {asked.di}"
        if (
            isinstance(asked, FollowUpRequest)
            and isinstance(message, FollowUpReply)
            and message.sequence != asked.sequence
        ):
            return f"SEQ {message.sequence}, asked {asked.sequence}"
    return None
