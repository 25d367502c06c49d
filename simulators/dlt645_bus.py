"""The meters of one half-duplex line, as bytes in and bytes out. No I/O and no loop: a line drives it.

A request reaches every meter; most are silent. When a wildcard makes several speak, their replies overlap as they would
on a wire: bytes sent at the same moment are combined bit by bit, a 0 winning over a 1, and nobody can read them.
"""

from collections.abc import Sequence
from datetime import datetime
from heapq import heappop, heappush

from protocols.dlt645.framer import Framer, Heard
from simulators.dlt645_meter import Dlt645Meter

__all__ = ["BITS_PER_BYTE", "Dlt645Bus"]

BITS_PER_BYTE = 11  # start, 8 data, even parity, stop
BAUD_ASSUMED = 2400  # of a line without a rate, to know which bytes of two replies meet


class Dlt645Bus:
    """Any number of meters, one line.

    baud: what the line runs at; a meter set to another rate hears nothing. None: the line has no rate, all hear.
    deadline: monotonic seconds at which `tick` has something to do.
    collisions: requests that more than one meter answered at once. overlaps: chunks that came while a reply was due.
    """

    def __init__(self, meters: Sequence[Dlt645Meter], *, baud: int | None = None) -> None:
        self.meters = list(meters)
        self.baud = baud
        self.collisions = 0
        self.overlaps = 0
        self.requests = 0
        self.replies = 0
        self._framer = Framer()
        self._due: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._output: list[bytes] = []

    @property
    def deadline(self) -> float | None:
        due = self._due[0][0] if self._due else None
        if due is None or self._framer.deadline is None:
            return self._framer.deadline if due is None else due
        return min(due, self._framer.deadline)

    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None:
        """Bytes from the master; `now` is true time, for the meters."""
        self.overlaps += bool(self._due)
        for found in self._framer.receive(chunk, monotonic):
            self._hear(found, monotonic, now)

    def tick(self, monotonic: float, now: datetime) -> None:
        for found in self._framer.tick(monotonic):
            self._hear(found, monotonic, now)
        while self._due and self._due[0][0] <= monotonic:
            self._output.append(heappop(self._due)[2])

    def take_output(self) -> list[bytes]:
        """Replies that are to start now, each in one piece."""
        output, self._output = self._output, []
        return output

    def _hear(self, found: object, monotonic: float, now: datetime) -> None:
        if not isinstance(found, Heard):
            return  # a damaged frame: real meters stay silent
        self.requests += 1
        replies: list[tuple[float, bytes]] = []
        for meter in self.meters:
            if not meter.hears(found.frame.address) or (self.baud is not None and meter.baud not in (None, self.baud)):
                continue
            reply = meter.receive(found.frame, now)
            if reply is not None:
                replies.append((meter.reply_delay_s, meter.to_wire(reply)))
        self.replies += len(replies)
        if len(replies) > 1:
            self.collisions += 1
            replies = superpose(replies, BITS_PER_BYTE / (self.baud or BAUD_ASSUMED))
        for delay_s, wire in replies:
            self._count += 1
            heappush(self._due, (monotonic + delay_s, self._count, wire))


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
