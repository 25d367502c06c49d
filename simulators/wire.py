"""One pair of wires: which bytes are on it when, and what happens where a babbling device speaks meanwhile.

Bytes sent at the same moment are combined bit by bit, a 0 winning over a 1, and nobody can read them.
"""

import math
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from heapq import heappop, heappush
from typing import Any

from protocols.exchange import BITS_PER_BYTE
from simulators.fault_injector import Burst, Departure, FaultInjector

__all__ = ["Wire", "superpose"]

BAUD_ASSUMED = 2400  # of a line without a rate, to know which bytes of two replies meet
BURSTS_KEPT = 64  # of those on the wire, to know which requests met them


class Wire:
    """What the meters of one line send, and the garbage that meets it.

    byte_s: how long a byte takes; 0 for no time at all. baud: to know that nevertheless.
    """

    def __init__(self, injector: FaultInjector[Any, Any], *, baud: int | None = None) -> None:
        self.byte_s = 0.0 if baud is None else BITS_PER_BYTE / baud
        self.baud = baud
        self._injector = injector
        self._due: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._babble: deque[Burst] = deque(maxlen=BURSTS_KEPT)

    @property
    def due(self) -> float | None:
        """Monotonic seconds at which the next bytes are to leave."""
        return self._due[0][0] if self._due else None

    @property
    def waiting(self) -> int:
        """Chunks that are still to leave."""
        return len(self._due)

    @property
    def wire_s(self) -> float:
        """How long a byte takes, or would take."""
        return self.byte_s or BITS_PER_BYTE / (self.baud or BAUD_ASSUMED)

    def request(self, chunk: bytes, monotonic: float) -> bytes:
        """What the meters hear of bytes from the master, the last of which has passed now."""
        if not self._babble or not self.byte_s:
            return chunk
        start = monotonic - len(chunk) * self.byte_s
        met = bytearray(chunk)
        for burst in self._babble:
            first = round((burst.at - start) / self.byte_s)
            for index, byte in enumerate(burst.wire, first):
                if 0 <= index < len(met):
                    met[index] &= byte
        return bytes(met)

    def push(self, at: float, wire: bytes) -> None:
        self._count += 1
        heappush(self._due, (at, self._count, wire))

    def depart(self, departure: Departure, at: float, monotonic: float, now: datetime) -> float:
        """Send a reply from `at` on, chunk by chunk; when its last byte has passed."""
        for gap_s, chunk in departure.chunks:
            self.send(chunk, at + gap_s, monotonic, now)
            at += gap_s + len(chunk) * self.byte_s
        return at

    def send(self, wire: bytes, at: float, monotonic: float, now: datetime) -> None:
        """Send bytes from `at` on; where a babbling device speaks meanwhile, both are lost."""
        if self._injector.deadline is None:
            self.push(at, wire)
            return
        byte_s = self.wire_s
        for burst in self._babble:
            busy_until = burst.at + len(burst.wire) * byte_s
            if burst.at <= at < busy_until:  # these bytes are part of garbage that is already on its way
                wire = wire[math.ceil((busy_until - at) / byte_s) :]
                at = busy_until
        end = at + len(wire) * byte_s
        bursts = self._injector.bursts(end, monotonic, now, byte_s)
        self._babble.extend(bursts)
        together = [(at, wire), *((burst.at, burst.wire) for burst in bursts)]
        start = min(begin for begin, _ in together)
        for delay_s, stretch in superpose([(begin - start, bytes_) for begin, bytes_ in together if bytes_], byte_s):
            self.push(start + delay_s, stretch)

    def take(self, monotonic: float, now: datetime) -> list[bytes]:
        """What is to leave by now, each in one piece."""
        if self._injector.deadline is not None:
            for burst in self._injector.bursts(monotonic, monotonic, now, self.wire_s):
                self.push(burst.at, burst.wire)
                self._babble.append(burst)
        taken: list[bytes] = []
        while self._due and self._due[0][0] <= monotonic:
            taken.append(heappop(self._due)[2])
        return taken


def superpose(replies: Sequence[tuple[float, bytes]], byte_s: float) -> list[tuple[float, bytes]]:
    """What is on the wire when each reply starts after its delay: stretches of bytes, with the delay of their first."""
    on_wire: dict[int, int] = {}
    for delay_s, wire in replies:
        first = round(delay_s / byte_s)
        for index, byte in enumerate(wire, first):
            on_wire[index] = on_wire.get(index, 0xFF) & byte
    stretches: list[tuple[int, bytearray]] = []
    for index in sorted(on_wire):
        if not stretches or index != stretches[-1][0] + len(stretches[-1][1]):
            stretches.append((index, bytearray()))
        stretches[-1][1].append(on_wire[index])
    return [(first * byte_s, bytes(stretch)) for first, stretch in stretches]
