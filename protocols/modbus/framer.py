"""Finding Modbus frames in a stream of bytes.

An RTU frame has neither a start mark nor a length field. Its length follows from its function, with reads from the byte count behind
it; the CRC decides. When a candidate turns out wrong, only its first byte is given up and the search goes on right behind it: the
damaged byte may be the one that the length came from, and a good frame may begin inside what was claimed. The specification's
silence of 3.5 characters marks nothing here: tunnels and drivers cut and glue chunks as they like. A candidate that stops growing
for `gap_s` is given up the same way.

A noise byte may look like a unit and claim more bytes than will come. So the head-end's framer is told what is being asked
(`expect`): a whole frame that begins like its reply is found behind a candidate that is still growing.

A TCP stream has no noise. A header that is wrong there means that the far end speaks something else or has lost its place, and no byte
behind it can be trusted: the connection must be closed (`broken` says why).
"""

from collections.abc import Sequence

from msgspec import Struct

from protocols.modbus.adu import (
    CRC_SIZE,
    HEADER,
    HEADER_SIZE,
    LENGTH_MAX,
    LENGTH_MIN,
    RTU_SIZE_MAX,
    RTU_SIZE_MIN,
    RtuFrame,
    TcpFrame,
    crc,
)
from protocols.modbus.pdu import REFUSED, REGISTERS_MAX

__all__ = ["RtuHeard", "RtuReplyFramer", "RtuRequestFramer", "TcpFramer", "TcpHeard"]

BYTE_GAP_S = 0.5  # as on a DL/T 645 line; 1.5 characters (§2.5.1.1) do not survive a serial server
UNIT_MAX = 247  # 248..255 are reserved, and nobody answers for the broadcast 0
EXCEPTION_SIZE = 5
ECHO_SIZE = 8  # of the reply to a write
CONTENT_HEADER_SIZE = 3
CONTENT_SIZE_MAX = 2 * REGISTERS_MAX

UNECHOED_MAX = 8  # a damaged echo is no proof that the adapter has ceased to echo

_READS = frozenset((1, 2, 3, 4))
_REGISTER_READS = frozenset((3, 4))
_WRITES = frozenset((5, 6, 15, 16))
_ECHOED = frozenset((5, 6))  # whose reply is the request again

# Requests of a fixed size, and those with a byte count: where it stands, and the size without what it counts.
_REQUEST_SIZES = {1: 8, 2: 8, 3: 8, 4: 8, 5: 8, 6: 8, 7: 4, 8: 8, 11: 4, 12: 4, 17: 4, 22: 10, 24: 6}
_REQUEST_COUNTS = {15: (6, 9), 16: (6, 9), 20: (2, 5), 21: (2, 5), 23: (10, 13)}
_UNKNOWN = -1


class RtuHeard(Struct, frozen=True):
    """A right frame and the very bytes it came as."""

    frame: RtuFrame
    wire: bytes


class TcpHeard(Struct, frozen=True):
    frame: TcpFrame
    wire: bytes


class _Buffer:
    """What has come and is not yet understood, with the places of bytes that the port saw to be damaged."""

    def __init__(self, gap_s: float) -> None:
        self.bytes = bytearray()
        self.marked: list[int] = []
        self.deadline: float | None = None
        self.noise_bytes = 0
        self._gap_s = gap_s

    def add(self, chunk: bytes, marked: Sequence[int]) -> None:
        if marked:
            self.marked += [len(self.bytes) + at for at in marked]
        self.bytes += chunk

    def settle(self, now: float) -> None:
        self.deadline = now + self._gap_s if self.bytes else None

    def is_damaged(self, start: int, end: int) -> bool:
        return bool(self.marked) and any(start <= at < end for at in self.marked)

    def is_frame(self, start: int, size: int) -> bool:
        """Whether the CRC at the end of these bytes is theirs, and none of them is damaged."""
        end = start + size
        found = self.bytes[end - 2] | self.bytes[end - 1] << 8
        return crc(bytes(self.bytes[start : end - CRC_SIZE])) == found and not self.is_damaged(start, end)

    def take(self, size: int) -> bytes:
        wire = bytes(self.bytes[:size])
        self.drop(size)
        return wire

    def skip(self, count: int) -> None:
        self.noise_bytes += count
        self.drop(count)

    def drop(self, count: int) -> None:
        del self.bytes[:count]
        if self.marked:
            self.marked = [at - count for at in self.marked if at >= count]

    def clear(self) -> None:
        self.bytes.clear()
        self.marked.clear()
        self.deadline = None


class RtuReplyFramer:
    """The head-end's side: bytes in, replies out. At most one candidate (256 bytes) is kept between calls.

    deadline: monotonic seconds at which a half-received candidate is given up; None while there is none.
    noise_bytes, echoes: counters since construction, for diagnostics.
    """

    def __init__(self, *, gap_s: float = BYTE_GAP_S) -> None:
        self._buffer = _Buffer(gap_s)
        self._sent = b""  # what may still come back as an echo
        self._expected = b""  # how the reply begins that is waited for
        self._is_echoing = False
        self._unechoed = 0  # replies in a row that came without an echo before them
        self.echoes = 0

    @property
    def deadline(self) -> float | None:
        return self._buffer.deadline

    @property
    def noise_bytes(self) -> int:
        return self._buffer.noise_bytes

    def expect(self, wire: bytes, beginning: bytes) -> None:
        """Note what was just sent, and how its reply begins: unit, function and all that is known of what follows.

        On a half-duplex adapter the same bytes come back once and are dropped. The reply to a write of one word equals its request:
        there the first copy is the echo if the line has echoed a request before, else it is the reply.
        """
        self._sent, self._expected = wire, beginning

    def expect_nothing(self) -> None:
        """No reply is waited for any more."""
        self._expected = b""

    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> list[RtuHeard]:
        """What `chunk` completed, in order. marked: places in it of bytes with a parity error; no frame goes over them."""
        self._buffer.add(chunk, marked)
        found = self._scan()
        self._buffer.settle(now)
        return found

    def tick(self, now: float) -> list[RtuHeard]:
        """Give up a candidate that has stopped growing; bytes behind its start are searched again."""
        if self.deadline is None or now < self.deadline:
            return []
        return self.flush()

    def flush(self) -> list[RtuHeard]:
        """Give up what is half received now: what came before a request cannot answer it."""
        found: list[RtuHeard] = []
        while self._buffer.bytes:
            self._buffer.skip(1)
            found += self._scan()
        self._buffer.deadline = None
        return found

    def clear(self) -> None:
        """Forget everything half-received, as after a reconnect."""
        self._buffer.clear()
        self._sent = self._expected = b""

    def _scan(self) -> list[RtuHeard]:
        found: list[RtuHeard] = []
        buffer, content = self._buffer, self._buffer.bytes
        while True:
            if self._is_echo_at_start():
                if len(content) < len(self._sent):
                    return found
                buffer.drop(len(self._sent))
                self._note_echo()
                continue
            size = _reply_size(content)
            if size == 0:
                if not content:
                    return found
                buffer.skip(1)
            elif size > len(content) or size == _UNKNOWN:
                # Damaged for sure, whatever is still to come; else it may grow.
                if buffer.is_damaged(0, max(size, CONTENT_HEADER_SIZE)):
                    buffer.skip(1)
                elif (at := self._find_expected()) > 0:
                    buffer.skip(at)
                else:
                    return found
            elif buffer.is_frame(0, size):
                wire = buffer.take(size)
                if wire == self._sent and (self._is_echoing or wire[1] not in _ECHOED):
                    self._note_echo()
                    continue
                self._note_unechoed(wire)
                found.append(RtuHeard(RtuFrame(wire[0], wire[1:-CRC_SIZE]), wire))
            else:
                buffer.skip(1)

    def _is_echo_at_start(self) -> bool:
        """Whether the buffer begins like the request that was sent, as far as it goes, and that is no reply."""
        sent, content = self._sent, self._buffer.bytes
        if not sent or not content or sent[1] in _ECHOED:
            return False
        shared = min(len(sent), len(content))
        return content[:shared] == sent[:shared] and not self._buffer.is_damaged(0, shared)

    def _note_echo(self) -> None:
        self._sent = b""
        self._is_echoing, self._unechoed = True, 0
        self.echoes += 1

    def _note_unechoed(self, wire: bytes) -> None:
        if not self._sent or wire[1] in _ECHOED:
            return
        self._unechoed += 1
        if self._unechoed >= UNECHOED_MAX:
            self._is_echoing = False

    def _find_expected(self) -> int:
        """Where behind the first byte a whole, right frame begins like the reply that is waited for; 0 when nowhere."""
        expected, content = self._expected, self._buffer.bytes
        if not expected or content.startswith(expected):
            return 0
        refused = bytes((expected[0], expected[1] | REFUSED))
        for beginning, size in ((expected, _reply_size(expected)), (refused, EXCEPTION_SIZE)):
            at = content.find(beginning, 1)
            while 0 < at <= len(content) - size:
                if self._buffer.is_frame(at, size):
                    return at
                at = content.find(beginning, at + 1)
        return 0


class RtuRequestFramer:
    """The device's side, for simulators: bytes in, requests out, to whichever unit. At most 256 bytes are kept between calls.

    A request whose function is unknown has no known length: it is one when it stands alone before a pause and its CRC is right.
    """

    def __init__(self, *, gap_s: float = BYTE_GAP_S) -> None:
        self._buffer = _Buffer(gap_s)

    @property
    def deadline(self) -> float | None:
        return self._buffer.deadline

    @property
    def noise_bytes(self) -> int:
        return self._buffer.noise_bytes

    def receive(self, chunk: bytes, now: float, marked: Sequence[int] = ()) -> list[RtuHeard]:
        """What `chunk` completed, in order. marked: places in it of bytes with a parity error; no frame goes over them."""
        self._buffer.add(chunk, marked)
        found = self._scan()
        self._buffer.settle(now)
        return found

    def tick(self, now: float) -> list[RtuHeard]:
        """Give up a candidate that has stopped growing; bytes behind its start are searched again."""
        if self.deadline is None or now < self.deadline:
            return []
        found: list[RtuHeard] = []
        buffer = self._buffer
        while size := len(buffer.bytes):
            if RTU_SIZE_MIN <= size <= RTU_SIZE_MAX and buffer.is_frame(0, size):
                found.append(_heard(buffer.take(size)))
                break
            buffer.skip(1)
            found += self._scan()
        buffer.deadline = None
        return found

    def clear(self) -> None:
        self._buffer.clear()

    def _scan(self) -> list[RtuHeard]:
        found: list[RtuHeard] = []
        buffer, content = self._buffer, self._buffer.bytes
        while content:
            size = _request_size(content, 0)
            if size == _UNKNOWN or size > RTU_SIZE_MAX:
                # It may be noise before a request, or a request of a function that we do not know.
                at = self._find_request()
                if at == 0 and len(content) <= RTU_SIZE_MAX:
                    return found
                buffer.skip(at or len(content) - RTU_SIZE_MAX)
            elif buffer.is_damaged(0, size):
                buffer.skip(1)
            elif size > len(content):
                return found
            elif buffer.is_frame(0, size):
                found.append(_heard(buffer.take(size)))
            else:
                buffer.skip(1)
        return found

    def _find_request(self) -> int:
        content = self._buffer.bytes
        for at in range(1, len(content) - RTU_SIZE_MIN + 1):
            size = _request_size(content, at)
            if RTU_SIZE_MIN <= size <= len(content) - at and self._buffer.is_frame(at, size):
                return at
        return 0


class TcpFramer:
    """Both sides: bytes in, frames out. At most one frame (260 bytes) is kept between calls; no size is taken from the wire unchecked.

    broken: why the stream cannot be followed any further; "" while it can. What comes afterwards is dropped.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.broken = ""

    @property
    def half(self) -> bytes:
        """What has come of a frame that is not complete, or could not be one."""
        return bytes(self._buffer)

    def receive(self, chunk: bytes) -> list[TcpHeard]:
        if self.broken:
            return []
        buffer = self._buffer
        buffer += chunk
        found: list[TcpHeard] = []
        start, end = 0, len(buffer)
        while end - start >= HEADER_SIZE:
            transaction, protocol, length, unit = HEADER.unpack_from(buffer, start)
            if protocol or not LENGTH_MIN <= length <= LENGTH_MAX:
                self.broken = (
                    f"this is not Modbus TCP: protocol id {protocol:04X}H and length {length}, "
                    f"expected 0000H and {LENGTH_MIN} to {LENGTH_MAX}"
                )
                del buffer[start + HEADER_SIZE :]
                break
            behind = start + HEADER_SIZE - 1 + length
            if behind > end:
                break
            wire = bytes(buffer[start:behind])
            found.append(TcpHeard(TcpFrame(transaction, unit, wire[HEADER_SIZE:]), wire))
            start = behind
        del buffer[:start]
        return found

    def clear(self) -> None:
        self._buffer.clear()
        self.broken = ""


def _heard(wire: bytes) -> RtuHeard:
    return RtuHeard(RtuFrame(wire[0], wire[1:-CRC_SIZE]), wire)


def _reply_size(content: bytes | bytearray) -> int:
    """Of the reply that begins here: 0 when none does, _UNKNOWN when more bytes must tell."""
    if not content or not 1 <= content[0] <= UNIT_MAX:
        return 0
    if len(content) < 2:
        return _UNKNOWN
    function = content[1]
    if function in _READS:
        if len(content) < CONTENT_HEADER_SIZE:
            return _UNKNOWN
        count = content[2]
        if not 1 <= count <= CONTENT_SIZE_MAX or (count % 2 and function in _REGISTER_READS):
            return 0
        return CONTENT_HEADER_SIZE + count + CRC_SIZE
    if function in _WRITES:
        return ECHO_SIZE
    return EXCEPTION_SIZE if function & ~REFUSED in _READS | _WRITES else 0


def _request_size(content: bytearray, at: int) -> int:
    """Of the request that begins at `at`; _UNKNOWN when its function is not known; one more than there is while it must grow."""
    present = len(content) - at
    if present < 2:
        return present + 1
    function = content[at + 1]
    if function not in _REQUEST_COUNTS:
        return _REQUEST_SIZES.get(function, _UNKNOWN)
    count_at, size = _REQUEST_COUNTS[function]
    if present <= count_at:
        return present + 1
    counted = content[at + count_at]
    if function in (15, 16):
        units = content[at + 4] << 8 | content[at + 5]
        if counted != (2 * units if function == 16 else (units + 7) // 8):
            return _UNKNOWN
    return size + counted
