"""What a DTU says by itself, told apart from what its meters say: the registration packet and the heartbeats.

Pure. A DTU is transparent: the same stream carries its own packets and the meters' bytes, without a border between them. TCP may
cut a packet anywhere and glue it to its neighbours. So:

- The registration packet is looked for where a burst of bytes begins, until one is found. An id of variable length is complete
  when something else follows or nothing follows for `settle_s`.
- A heartbeat is taken out wherever it stands if it is of SURE_SIZE bytes at least: by chance such bytes hardly ever stand in a reply.
  A shorter one counts only when it stands alone after silence, because one or two bytes do stand in replies.
- The end of what has come is held back for `settle_s` while it may be the beginning of a heartbeat.
"""

import functools
import re
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from headend.drivers.dtu_pattern import PacketPattern

__all__ = ["HEARD_MAX", "SETTLE_S", "SURE_SIZE", "PacketSieve", "Registered", "Registration", "id_text"]

SETTLE_S = (
    0.2  # between the parts of one packet; shorter than the silence after which a session gives up a frame (0.5 s)
)
SURE_SIZE = 4  # four bytes stand in a reply of 200 by chance once in 20 million replies
HEARD_MAX = 512  # bytes kept of what a caller says while no line owns it

Knows = Callable[[str], bool]


class Registered(Struct, frozen=True):
    """dtu: the id, id_wire as it came, packet around it. rest: what came behind and was neither heartbeat nor repeat."""

    dtu: str
    id_wire: bytes
    packet: bytes
    rest: bytes


def id_text(wire: bytes) -> str:
    """An id as people write it: its characters, or hex digits when some of them cannot be printed (a MAC address)."""
    text = wire.decode("ascii", errors="replace").strip()
    return text if text and text.isascii() and text.isprintable() else wire.hex().upper()


class Registration:
    """Finds the registration packet of one caller. deadline: when `tick` has something to say, monotonic seconds.

    heard: the first bytes of a caller that were no registration, at most HEARD_MAX.
    """

    def __init__(self, pattern: PacketPattern, heartbeat: PacketPattern | None, settle_s: float = SETTLE_S) -> None:
        self.heard = b""
        self.deadline: float | None = None
        self._pattern = pattern
        self._heartbeat = heartbeat
        self._settle_s = settle_s
        self.is_hopeless = False  # whatever comes next in this burst, it is no registration
        self._buffer = b""
        self._is_out = False  # this burst has outgrown what is looked at

    @property
    def pending(self) -> bytes:
        """The burst that is being looked at."""
        return self._buffer

    def receive(self, chunk: bytes, now: float, knows: Knows) -> Registered | None:
        """knows: whether a line waits for this id; it decides where bytes can be read in two ways."""
        self.deadline = now + self._settle_s
        if self._is_out:
            self._keep(chunk)
            return None
        self._buffer += chunk
        ends, may_grow = self._pattern.ends(self._buffer)
        if not may_grow:
            found = self._choose(ends, knows)
            if found is not None:
                self._done()
                return found
            self.is_hopeless = True
        if len(self._buffer) > HEARD_MAX:
            self._keep(self._buffer)
            self._buffer, self._is_out = b"", True
        return None

    def tick(self, now: float, knows: Knows) -> Registered | None:
        """Silence: the burst is whole."""
        if self.deadline is None or now < self.deadline:
            return None
        found = self._choose(self._pattern.ends(self._buffer)[0], knows)
        if found is None:
            self._keep(self._buffer)
        self._done()
        return found

    def _done(self) -> None:
        self._buffer, self._is_out, self.deadline, self.is_hopeless = b"", False, None, False

    def _keep(self, chunk: bytes) -> None:
        self.heard = (self.heard + chunk)[:HEARD_MAX]

    def _choose(self, ends: list[int], knows: Knows) -> Registered | None:
        """Of several readings: an id that is known, one that leaves heartbeats, one that leaves nothing, one said twice."""
        readings: list[tuple[int, int, Registered]] = []  # the least counts: rank, then the length that is likelier
        for end in reversed(ends):
            packet, rest = self._buffer[:end], self._buffer[end:]
            wire = self._pattern.group(packet, "id")
            if not wire:
                continue
            found = Registered(id_text(wire), wire, packet, b"")
            repeats = _count(rest, self._heartbeat, (packet, wire))
            if repeats is not None and knows(found.dtu):
                readings.append((0, -end, found))
            elif rest and _count(rest, self._heartbeat, ()) is not None:
                readings.append((1, end, found))  # every heartbeat out, not only the last
            elif not rest:
                readings.append((2, -end, found))
            elif repeats is not None:
                readings.append((3, -end, found))
            elif knows(found.dtu) and end == ends[-1]:
                # What nothing explains is the line's. Not after a shorter end: that would be a longer id of somebody else.
                readings.append((4, -end, replace(found, rest=rest)))
        return min(readings, key=lambda reading: reading[:2])[2] if readings else None


class PacketSieve:
    """Takes heartbeats out of a registered caller's stream. deadline: when bytes held back are to be let go, by `tick`.

    repeats: packets that count as heartbeats as well, such as the id again or the whole registration packet.
    """

    def __init__(
        self, heartbeat: PacketPattern | None, repeats: tuple[bytes, ...] = (), settle_s: float = SETTLE_S
    ) -> None:
        self.deadline: float | None = None
        self._heartbeat = heartbeat
        self._repeats = tuple(dict.fromkeys(repeat for repeat in repeats if repeat))
        self._settle_s = settle_s
        firsts = {repeat[0] for repeat in self._repeats} | (heartbeat.first_bytes if heartbeat else frozenset())
        self._begins = _any_of(frozenset(firsts))
        self._held = b""
        self._is_alone = True  # what is held began after silence
        self._quiet_at = float("-inf")  # bytes after this begin a burst

    def receive(self, chunk: bytes, now: float) -> tuple[bytes, int]:
        """What is the line's, and how many heartbeats there were."""
        if not self._held:
            self._is_alone = now >= self._quiet_at
        self._quiet_at = now + self._settle_s
        return self._sift(self._held + chunk, now, is_over=False)

    def tick(self, now: float) -> tuple[bytes, int]:
        if self.deadline is None or now < self.deadline:
            return b"", 0
        return self._sift(self._held, now, is_over=True)

    def _sift(self, buffer: bytes, now: float, *, is_over: bool) -> tuple[bytes, int]:
        self._held, self.deadline = b"", None
        if self._begins is None:
            return buffer, 0
        passed, count, at = bytearray(), 0, 0
        if self._is_alone:
            times = _count(buffer, self._heartbeat, self._repeats)
            if times is not None and (is_over or not self._may_grow(buffer)):
                return b"", times
        while at < len(buffer):
            found = self._begins.search(buffer, at)
            if found is None:
                passed += buffer[at:]
                break
            passed += buffer[at : found.start()]
            at = found.start()
            ends, may_grow = _ends(buffer, at, self._heartbeat, self._repeats)
            if may_grow and not is_over:
                self._held, self.deadline = buffer[at:], now + self._settle_s
                self._is_alone = self._is_alone and not passed
                break
            if ends and ends[-1] - at >= SURE_SIZE:
                at, count = ends[-1], count + 1
            else:
                passed.append(buffer[at])
                at += 1
        return bytes(passed), count

    def _may_grow(self, buffer: bytes) -> bool:
        at = 0
        while at < len(buffer):
            ends, may_grow = _ends(buffer, at, self._heartbeat, self._repeats)
            if may_grow or not ends:
                return may_grow
            at = ends[-1]
        return False


def _ends(
    buffer: bytes, at: int, heartbeat: PacketPattern | None, repeats: tuple[bytes, ...]
) -> tuple[list[int], bool]:
    """As PacketPattern.ends, over all that counts as a heartbeat."""
    ends, may_grow = heartbeat.ends(buffer, at) if heartbeat is not None else ([], False)
    for repeat in repeats:
        if buffer.startswith(repeat, at):
            ends.append(at + len(repeat))
        elif len(buffer) - at < len(repeat) and repeat.startswith(buffer[at:]):
            may_grow = True
    return sorted(ends), may_grow


def _count(buffer: bytes, heartbeat: PacketPattern | None, repeats: tuple[bytes, ...]) -> int | None:
    """How many heartbeats `buffer` is, and nothing else; None when there is something else."""
    at = times = 0
    while at < len(buffer):
        ends, _ = _ends(buffer, at, heartbeat, repeats)
        if not ends:
            return None
        at, times = ends[-1], times + 1
    return times


@functools.lru_cache(maxsize=256)
def _any_of(firsts: frozenset[int]) -> "re.Pattern[bytes] | None":
    if not firsts:
        return None
    return re.compile(b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(firsts)) + b"]")
