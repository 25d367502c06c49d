"""The words that sessions and their lines share: what is asked, what came of it, and how long things may take.

A session speaks one protocol on one line, without I/O and without a clock. Do one of `request`, `receive`, `tick`; take output
and events; wait for bytes or for `deadline`. Every request that expects a reply ends in exactly one Replied or NoReply that
carries it; right frames that answer nothing are reported as Unmatched and never delivered.
"""

import enum
from typing import Any

from msgspec import Struct

from protocols.dlt645.masking import mask, mask_heard

__all__ = ["BITS_PER_BYTE", "Event", "NoReply", "Replied", "Request", "Sent", "Silence", "Timing", "Unmatched"]

BITS_PER_BYTE = 11  # start, 8 data, even parity, stop; Modbus without parity is to send a second stop bit
REPLY_DELAY_S_MAX = 0.5  # Td, DL/T 645-2007 §5.2.6
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
    late_s_max: how long after its request a reply may still come; 0 derives six times the reply time-out.
    preamble: wake-up bytes FEH before each request; DL/T 645 only.
    reply_bytes_max: of the longest reply, wake-up bytes included; DL/T 645: 12 + 255 + 4.
    """

    baud: int | None = None
    reply_timeout_s: float = REPLY_DELAY_S_MAX + 0.5
    gap_s: float = 0.5
    quiet_s: float = 0.1
    drain_s_max: float = 2.0
    turnaround_s: float = 0.0
    late_s_max: float = 0.0
    preamble: int = 4
    reply_bytes_max: int = 271

    def wire_time_s(self, size: int) -> float:
        """Seconds that `size` bytes take on the wire; 0 when the rate is not known."""
        return size * BITS_PER_BYTE / self.baud if self.baud else 0.0

    @property
    def longest_reply_s(self) -> float:
        return self.reply_bytes_max * BITS_PER_BYTE / (self.baud or SLOWEST_BAUD)


class Request(Struct, frozen=True):
    """What to ask of whom. address: 12 hex digits (AA at the high end is a wildcard), or a Modbus unit "1".."247".

    message: of the protocol that the session speaks.
    began_at: when the read that this request repeats began, monotonic seconds; None for its first request.
    takes_repeats: a reply equal to the one before is an answer, not its double, and a refusal is one, not that of an older
    question: for runs that are refused often, since refusals do not say what they refuse. The caller asks again where it matters.
    """

    address: str
    message: Any
    began_at: float | None = None
    takes_repeats: bool = False


class Sent(Struct, frozen=True, kw_only=True):
    """A request that nobody answers (broadcast) has left."""

    request: Request
    wire_sent: bytes

    def __repr__(self) -> str:
        return f"Sent({self.request!r}, sent {mask(self.wire_sent)})"


class Replied(Struct, frozen=True, kw_only=True):
    """The reply to the request in flight; a refusal is a reply, too. address: the meter's own, also after a wildcard.

    is_first: no earlier asking of the same question is unanswered, so `elapsed_s` is surely the meter's.
    """

    request: Request
    message: Any
    address: str
    wire_sent: bytes
    wire_received: bytes
    elapsed_s: float
    is_first: bool = True

    def __repr__(self) -> str:
        return f"Replied({self.message!r} from {self.address}, sent {mask(self.wire_sent)}, got {mask(self.wire_received)})"


class NoReply(Struct, frozen=True, kw_only=True):
    """The deadline passed. heard: what came instead, at most 512 bytes."""

    request: Request
    silence: Silence
    wire_sent: bytes
    heard: bytes
    elapsed_s: float

    def __repr__(self) -> str:
        heard = mask_heard(self.heard, self.wire_sent)
        return f"NoReply({self.request!r}, {self.silence.value}, sent {mask(self.wire_sent)}, heard {heard})"


class Unmatched(Struct, frozen=True):
    """A right frame that does not answer the request in flight: late, doubled, or from another meter. why: in words.

    late_s: when it may answer an older request, how long after that request it came; else None.
    """

    wire: bytes
    address: str
    why: str
    late_s: float | None = None

    def __repr__(self) -> str:
        return f"Unmatched({mask(self.wire)}, {self.why!r})"


Event = Sent | Replied | NoReply | Unmatched
