"""One request in flight on a half-duplex DL/T 645 line. No I/O and no clock: `now` is monotonic seconds.

    IDLE ──request──▶ WAITING ──reply──▶ IDLE (after the turnaround)
                         └──deadline──▶ DRAINING ──silent for quiet_s──▶ IDLE

Do one of `request`, `receive`, `tick`; then take output and events; then wait for bytes or for `deadline`.

DL/T 645 has no transaction number. A reply belongs to the request in flight only when address, function, DI and (for follow-up
frames) SEQ agree; anything else is counted and reported as Unmatched, never delivered. After a time-out nothing may be sent
until the line has been silent, so that a late reply cannot meet the next request half-way.
"""

import enum

from msgspec import Struct

from protocols.dlt645.frame import FRAME_SIZE_MAX, PREAMBLE_DEFAULT, Frame, address_matches
from protocols.dlt645.framer import BYTE_GAP_S, Damage, Framer, Heard
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

__all__ = ["Event", "NoReply", "Replied", "Request", "Sent", "Session", "Silence", "Timing", "Unmatched"]

BITS_PER_BYTE = 11  # start, 8 data, even parity, stop
REPLY_DELAY_S_MAX = 0.5  # Td, DL/T 645-2007 §5.2.6
HEARD_KEPT_MAX = 512  # two frames' worth of evidence for an error message; more would only fill logs
SLOWEST_BAUD = 1200  # assumed behind a TCP tunnel, whose serial side we cannot see


class Silence(enum.Enum):
    """Why a request ended without its reply."""

    SILENT = "silent"  # not one byte came
    CORRUPT = "corrupt"  # bytes came, and no right frame among them
    UNMATCHED = "unmatched"  # right frames came, and none answered this request


class Timing(Struct, frozen=True, kw_only=True):
    """How long things may take on one line.

    baud: None for a tunnel whose serial side is not known.
    reply_timeout_s: from the last byte sent to the first byte of the reply.
    gap_s: silence inside a frame after which it is given up.
    quiet_s: silence that ends draining after a time-out.
    drain_s_max: draining ends here even if a babbling device never falls silent.
    turnaround_s: least pause between a reply and the next request.
    preamble: wake-up bytes FEH before each request.
    """

    baud: int | None = None
    reply_timeout_s: float = REPLY_DELAY_S_MAX + 0.5
    gap_s: float = BYTE_GAP_S
    quiet_s: float = 0.1
    drain_s_max: float = 2.0
    turnaround_s: float = 0.0
    preamble: int = PREAMBLE_DEFAULT

    def wire_time_s(self, size: int) -> float:
        """Seconds that `size` bytes take on the wire; 0 when the rate is not known."""
        return size * BITS_PER_BYTE / self.baud if self.baud else 0.0

    @property
    def longest_reply_s(self) -> float:
        return (FRAME_SIZE_MAX + PREAMBLE_DEFAULT) * BITS_PER_BYTE / (self.baud or SLOWEST_BAUD)


class Request(Struct, frozen=True):
    """What to ask of whom. address: 12 hex digits; AA at the high end is a wildcard."""

    address: str
    message: Message


class Sent(Struct, frozen=True, kw_only=True):
    """A request that nobody answers (broadcast) has left."""

    request: Request
    wire_sent: bytes


class Replied(Struct, frozen=True, kw_only=True):
    """The reply to the request in flight; a refusal is a reply, too. address: the meter's own, also after a wildcard."""

    request: Request
    message: Message
    address: str
    wire_sent: bytes
    wire_received: bytes
    elapsed_s: float


class NoReply(Struct, frozen=True, kw_only=True):
    """The deadline passed. heard: what came instead, at most 512 bytes."""

    request: Request
    silence: Silence
    wire_sent: bytes
    heard: bytes
    elapsed_s: float


class Unmatched(Struct, frozen=True):
    """A right frame that answers nothing we asked: late, doubled, or from another meter. why: in words."""

    wire: bytes
    frame: Frame
    why: str


Event = Sent | Replied | NoReply | Unmatched


class _State(enum.Enum):
    IDLE = enum.auto()
    WAITING = enum.auto()
    DRAINING = enum.auto()


class Session:
    """See the module's text. Events come out in the order in which they happened."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._framer = Framer(gap_s=timing.gap_s)
        self._state = _State.IDLE
        self._request: Request | None = None
        self._wire_sent = b""
        self._sent_at = 0.0
        self._until: float | None = None  # when the present state ends
        self._limit = 0.0  # no extension goes beyond
        self._heard = bytearray()
        self._matched_none = False
        self._output: list[bytes] = []
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        """Whether `request` may be called."""
        return self._state is _State.IDLE

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called at the latest; None when there is nothing to wait for."""
        framer = self._framer.deadline
        if self._until is None or framer is None:
            return self._until if framer is None else framer
        return min(self._until, framer)

    @property
    def noise_bytes(self) -> int:
        return self._framer.noise_bytes

    @property
    def echoes(self) -> int:
        return self._framer.echoes

    def request(self, request: Request, now: float) -> None:
        """Raises LineBusy unless idle, EncodeError when the message cannot be sent."""
        if self._state is not _State.IDLE:
            raise LineBusy(f"the line is {self._state.name.lower()}: wait for its event before the next request")
        timing = self.timing
        wire = encode(request.message, request.address).to_bytes(timing.preamble)
        self._framer.expect_echo(wire)
        self._output.append(wire)
        self._request, self._wire_sent, self._sent_at = request, wire, now
        self._heard.clear()
        self._matched_none = False
        sent_s = timing.wire_time_s(len(wire))
        if expects_reply(request.message, request.address):
            self._state = _State.WAITING
            self._until = now + sent_s + timing.reply_timeout_s
            self._limit = self._until + timing.longest_reply_s
        else:
            self._events.append(Sent(request=request, wire_sent=wire))
            self._rest(now, pause_s=sent_s + timing.turnaround_s)

    def receive(self, chunk: bytes, now: float) -> None:
        """Bytes from the line, in any chunking."""
        if len(self._heard) < HEARD_KEPT_MAX:
            self._heard += chunk[: HEARD_KEPT_MAX - len(self._heard)]
        self._take(self._framer.receive(chunk, now), now)
        if self._state is _State.WAITING and self._framer.deadline is not None and self._until is not None:
            # A reply is arriving: let it finish, but never beyond the limit, however long a device babbles.
            self._until = min(max(self._until, self._framer.deadline), self._limit)
        elif self._state is _State.DRAINING and self._until is not None:
            self._until = min(now + self.timing.quiet_s, self._limit)

    def tick(self, now: float) -> None:
        """Let time pass; harmless when early."""
        self._take(self._framer.tick(now), now)
        if self._until is None or now < self._until:
            return
        if self._state is _State.WAITING:
            self._time_out(now)
        else:
            self._state, self._until = _State.IDLE, None

    def reset(self) -> None:
        """The connection is gone: forget the request in flight without an event; its owner knows."""
        self._framer.clear()
        self._state, self._until, self._request = _State.IDLE, None, None
        self._output.clear()

    def take_output(self) -> list[bytes]:
        output, self._output = self._output, []
        return output

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _take(self, found: list[Heard | Damage], now: float) -> None:
        for item in found:
            if isinstance(item, Heard):
                self._match(item, now)

    def _match(self, heard: Heard, now: float) -> None:
        frame = heard.frame
        if not frame.control_parts.from_meter:
            self._unmatched(heard, "a request, not a reply: an echo or a second master on the line")
            return
        if self._state is not _State.WAITING or self._request is None:
            self._unmatched(heard, "nothing is being asked: late or doubled")
            return
        try:
            message = decode(frame)
        except MessageError as error:
            self._unmatched(heard, f"DATA does not fit its function: {error}", counts=False)
            return
        why = _mismatch(self._request, frame, message)
        if why is not None:
            self._unmatched(heard, why)
            return
        self._events.append(
            Replied(
                request=self._request,
                message=message,
                address=frame.address,
                wire_sent=self._wire_sent,
                wire_received=heard.wire,
                elapsed_s=now - self._sent_at,
            )
        )
        self._rest(now, pause_s=self.timing.turnaround_s)

    def _unmatched(self, heard: Heard, why: str, *, counts: bool = True) -> None:
        self._events.append(Unmatched(heard.wire, heard.frame, why))
        self._matched_none = self._matched_none or counts

    def _time_out(self, now: float) -> None:
        assert self._request is not None
        # An echo of our own request, however it was cut into chunks, is nothing heard.
        heard = bytes(self._heard).replace(self._wire_sent.lstrip(b"\xfe"), b"")
        if self._matched_none:
            silence = Silence.UNMATCHED
        else:
            silence = Silence.CORRUPT if heard.strip(b"\xfe") else Silence.SILENT
        self._events.append(
            NoReply(
                request=self._request,
                silence=silence,
                wire_sent=self._wire_sent,
                heard=heard,
                elapsed_s=now - self._sent_at,
            )
        )
        self._rest(now, pause_s=self.timing.quiet_s, pause_s_max=self.timing.drain_s_max)

    def _rest(self, now: float, *, pause_s: float, pause_s_max: float = 0.0) -> None:
        self._request = None
        if pause_s > 0:
            self._state, self._until, self._limit = _State.DRAINING, now + pause_s, now + max(pause_s, pause_s_max)
        else:
            self._state, self._until = _State.IDLE, None


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
