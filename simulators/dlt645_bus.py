"""The meters of one half-duplex line, as bytes in and bytes out. No I/O and no loop: a line drives it.

A request reaches every meter; most are silent. When a wildcard makes several speak, their replies overlap as they would
on a wire: bytes sent at the same moment are combined bit by bit, a 0 winning over a 1, and nobody can read them. So are
replies and requests that meet the garbage of a babbling device.

`faults` may be changed at any time; what it decides is done where a reply leaves.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from heapq import heappop, heappush

from protocols.dlt645.frame import BROADCAST, PREAMBLE
from protocols.dlt645.framer import Framer, Heard
from simulators.dlt645_meter import Dlt645Meter
from simulators.fault_injector import Burst, Departure, FaultInjector
from simulators.faults import FaultPlan

__all__ = ["BITS_PER_BYTE", "Dlt645Bus"]

BITS_PER_BYTE = 11  # start, 8 data, even parity, stop
BAUD_ASSUMED = 2400  # of a line without a rate, to know which bytes of two replies meet
ECHO_PREAMBLE = bytes([PREAMBLE]) * 4
BURSTS_KEPT = 64  # of those on the wire, to know which requests met them


class Dlt645Bus:
    """Any number of meters, one line.

    baud: what the line runs at; a meter set to another rate hears nothing. None: the line has no rate, all hear.
    parity: E or N of the master's port; a meter set to the other hears nothing but noise. None: all hear.
    byte_s: how long a byte takes on the wire; 0 for no time at all. The line sets it.
    on_wake: called when `deadline` has become earlier without a request; the line sets it.
    deadline: monotonic seconds at which `tick` has something to do.
    collisions: requests that more than one meter answered at once. overlaps: chunks that came while a reply was due.
    """

    def __init__(
        self,
        meters: Sequence[Dlt645Meter],
        *,
        baud: int | None = None,
        parity: str | None = None,
        faults: FaultPlan | None = None,
    ) -> None:
        self.meters = list(meters)
        self.baud = baud
        self.parity = parity
        self.byte_s = 0.0 if baud is None else BITS_PER_BYTE / baud
        self.on_wake: Callable[[], None] | None = None
        self.collisions = 0
        self.overlaps = 0
        self.requests = 0
        self.replies = 0
        self._injector = FaultInjector(self.meters, faults)
        self._framer = Framer()
        self._due: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._output: list[bytes] = []
        self._change_at: float | None = None
        self._babble: deque[Burst] = deque(maxlen=BURSTS_KEPT)

    @property
    def faults(self) -> FaultPlan:
        return self._injector.plan

    @faults.setter
    def faults(self, plan: FaultPlan) -> None:
        self._injector.plan = plan
        if self.on_wake is not None:
            self.on_wake()

    @property
    def struck(self) -> Counter[str]:
        """How often each fault has struck, by name."""
        return self._injector.struck

    def device(self, meter: Dlt645Meter) -> Dlt645Meter:
        """What answers under the address of `meter`: after a swap another one."""
        return self._injector.device(meter)

    @property
    def deadline(self) -> float | None:
        moments = (
            self._due[0][0] if self._due else None,
            self._framer.deadline,
            self._injector.deadline,
            self._change_at,
        )
        return min((moment for moment in moments if moment is not None), default=None)

    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None:
        """Bytes from the master; `now` is true time, for the meters."""
        self._settle(monotonic, now)
        self.overlaps += bool(self._due)
        if self._babble and self.byte_s:
            chunk = self._met_by_babble(chunk, monotonic - len(chunk) * self.byte_s)
        for found in self._framer.receive(chunk, monotonic):
            self._hear(found, monotonic, now)

    def tick(self, monotonic: float, now: datetime) -> None:
        self._settle(monotonic, now)
        for found in self._framer.tick(monotonic):
            self._hear(found, monotonic, now)
        if self._injector.deadline is not None:
            for burst in self._injector.bursts(monotonic, monotonic, now, self._wire_s):
                self._push(burst.at, burst.wire)
                self._babble.append(burst)
        while self._due and self._due[0][0] <= monotonic:
            self._output.append(heappop(self._due)[2])

    def take_output(self) -> list[bytes]:
        """Replies that are to start now, each in one piece."""
        output, self._output = self._output, []
        return output

    @property
    def _wire_s(self) -> float:
        return self.byte_s or BITS_PER_BYTE / (self.baud or BAUD_ASSUMED)

    def _settle(self, monotonic: float, now: datetime) -> None:
        self._injector.settle(now)
        change = self._injector.next_change
        self._change_at = None if change is None else monotonic + (change - now).total_seconds()

    def _hear(self, found: object, monotonic: float, now: datetime) -> None:
        if not isinstance(found, Heard):
            return  # a damaged frame: real meters stay silent
        self.requests += 1
        frame, injector = found.frame, self._injector
        if not injector.is_idle and injector.echoes(frame.address, now):
            self._push(monotonic, ECHO_PREAMBLE + found.wire)
        departures: list[Departure] = []
        to_one = not frame.address.startswith("AA") and frame.address != BROADCAST
        for meter in self.meters:
            is_meant = meter.address == frame.address if to_one else meter.hears(frame.address)
            if not is_meant or not self._reaches(meter):
                continue
            strikes = {} if injector.is_idle else injector.strikes(meter, now)
            departure = injector.answer(meter, frame, strikes, now)
            if departure is not None:
                departures.append(departure)
        self.replies += len(departures)
        if len(departures) > 1:
            self.collisions += 1
            wires = [(each.delay_s, b"".join(chunk for _, chunk in each.chunks)) for each in departures]
            for delay_s, wire in superpose(wires, self._wire_s):
                self._depart(monotonic + delay_s, wire, monotonic, now)
            return
        for departure in departures:
            at = monotonic + departure.delay_s
            for gap_s, chunk in departure.chunks:
                self._depart(at + gap_s, chunk, monotonic, now)
                at += gap_s + len(chunk) * self.byte_s

    def _reaches(self, meter: Dlt645Meter) -> bool:
        return (self.baud is None or meter.baud in (None, self.baud)) and self.parity in (None, meter.parity)

    def _depart(self, at: float, wire: bytes, monotonic: float, now: datetime) -> None:
        """Send `wire` from `at` on; where a babbling device speaks meanwhile, both are lost."""
        if self._injector.deadline is None:
            self._push(at, wire)
            return
        byte_s = self._wire_s
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
            self._push(start + delay_s, stretch)

    def _met_by_babble(self, chunk: bytes, start: float) -> bytes:
        """What the meters hear of a request that was sent from `start` on."""
        met = bytearray(chunk)
        for burst in self._babble:
            first = round((burst.at - start) / self.byte_s)
            for index, byte in enumerate(burst.wire, first):
                if 0 <= index < len(met):
                    met[index] &= byte
        return bytes(met)

    def _push(self, at: float, wire: bytes) -> None:
        self._count += 1
        heappush(self._due, (at, self._count, wire))


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
