"""Finding DL/T 645 frames in a stream of bytes.

The length byte leads; 68H, 16H and FEH are legal inside DATA and prove nothing by themselves. When a candidate turns out
wrong, only its start byte is given up and the search goes on right behind it: the damaged byte may be the length byte, and
a good frame may begin inside what it claimed. A candidate that stops growing for `gap_s` is given up the same way
(DL/T 645-2007: at most 500 ms between bytes of one frame).
"""

from collections.abc import Sequence

from msgspec import Struct

from protocols.dlt645.frame import (
    FRAME_SIZE_MIN,
    HEADER_SIZE,
    LENGTH_AT,
    SECOND_START_AT,
    START,
    Frame,
)
from protocols.dlt645.masking import mask
from protocols.errors import BadParity, FrameError, TooShort

__all__ = ["Damage", "Framer", "Heard"]

BYTE_GAP_S = 0.5  # Tb, DL/T 645-2007 §5.2.6


class Heard(Struct, frozen=True):
    """A right frame and the very bytes it came as (without wake-up bytes)."""

    frame: Frame
    wire: bytes

    def __repr__(self) -> str:
        return f"Heard({mask(self.wire)})"


class Damage(Struct, frozen=True):
    """Bytes that began like a frame and were none. `error` says why; only their first byte was given up."""

    wire: bytes
    error: FrameError

    def __repr__(self) -> str:
        return f"Damage({mask(self.wire)}, {self.error})"


class Framer:
    """Bytes in, frames and damage out. Memory is bounded: at most one candidate (267 bytes) is kept between calls.

    deadline: monotonic seconds at which a half-received candidate is given up; None while there is none.
    noise_bytes, echoes: counters since construction, for diagnostics. Wake-up bytes FEH are not counted as noise.
    """

    def __init__(self, *, gap_s: float = BYTE_GAP_S) -> None:
        self._gap_s = gap_s
        self._buffer = bytearray()
        self._sent = b""
        self._marked: list[int] = []  # places in the buffer of bytes that the port saw to be damaged, in order
        self.deadline: float | None = None
        self.noise_bytes = 0
        self.echoes = 0

    def expect_echo(self, wire: bytes) -> None:
        """Note what was just sent: on a half-duplex adapter the same bytes come back once and are dropped."""
        self._sent = wire.lstrip(b"\xfe")

    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> list[Heard | Damage]:
        """What `chunk` completed, in order. marked: places in it of bytes with a parity error; no frame goes over them."""
        self._marked += [len(self._buffer) + at for at in marked]
        self._buffer += chunk
        found = self._scan()
        self.deadline = now + self._gap_s if self._buffer else None
        return found

    def tick(self, now: float) -> list[Heard | Damage]:
        """Give up a candidate that has stopped growing; bytes behind its start are searched again."""
        if self.deadline is None or now < self.deadline:
            return []
        found: list[Heard | Damage] = []
        while self._buffer:
            wire = bytes(self._buffer)
            if len(wire) >= HEADER_SIZE:  # less than a header is noise, not a damaged frame
                found.append(Damage(wire, TooShort(_missing(wire), wire)))
            self._skip(1)
            found += self._scan()
        self.deadline = None
        return found

    def clear(self) -> None:
        """Forget everything half-received, as after a reconnect."""
        self._buffer.clear()
        self._marked.clear()
        self.deadline = None

    def _scan(self) -> list[Heard | Damage]:
        found: list[Heard | Damage] = []
        buffer = self._buffer
        while True:
            start = buffer.find(START)
            self._skip(len(buffer) if start < 0 else start)
            if len(buffer) > SECOND_START_AT and buffer[SECOND_START_AT] != START:
                self._skip(1)
                continue
            if len(buffer) < HEADER_SIZE:
                return found
            size = FRAME_SIZE_MIN + buffer[LENGTH_AT]
            if self._marked and self._marked[0] < size:
                # Damaged for sure, whatever is still to come; the length byte itself may be wrong.
                wire = bytes(buffer[:size])
                found.append(Damage(wire, BadParity(f"parity error in byte {self._marked[0]}", wire)))
                self._skip(1)
                continue
            if len(buffer) < size:
                return found
            wire = bytes(buffer[:size])
            try:
                frame = Frame.from_bytes(wire)
            except FrameError as error:
                found.append(Damage(wire, error))
                self._skip(1)
                continue
            self._drop(size)
            if wire == self._sent:
                self._sent = b""
                self.echoes += 1
                continue
            found.append(Heard(frame, wire))

    def _skip(self, count: int) -> None:
        if count:
            self.noise_bytes += count - self._buffer.count(0xFE, 0, count)
            self._drop(count)

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        if self._marked:
            self._marked = [at - count for at in self._marked if at >= count]


def _missing(wire: bytes) -> str:
    size = FRAME_SIZE_MIN + wire[LENGTH_AT]
    return f"only {len(wire)} of {size} bytes came before the line fell silent"
