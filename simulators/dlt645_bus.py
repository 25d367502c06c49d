"""The meters of one half-duplex line, as bytes in and bytes out. No I/O and no loop: a line drives it.

A request reaches every meter; most are silent. When a wildcard makes several speak, their replies overlap as they would
on a wire: bytes sent at the same moment are combined bit by bit, a 0 winning over a 1, and nobody can read them. So are
replies and requests that meet the garbage of a babbling device.

`faults` may be changed at any time; what it decides is done where a reply leaves.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from protocols.dlt645.frame import BROADCAST, PREAMBLE, Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.exchange import BITS_PER_BYTE
from simulators.dlt645_faults import Dlt645Replies
from simulators.dlt645_meter import Dlt645Meter
from simulators.fault_injector import Departure, FaultInjector
from simulators.faults import METER_ADDRESSES, FaultPlan
from simulators.wire import Wire, superpose

__all__ = ["BITS_PER_BYTE", "Dlt645Bus", "superpose"]

ECHO_PREAMBLE = bytes([PREAMBLE]) * 4


class Dlt645Bus:
    """Any number of meters, one line.

    baud: what the line runs at; a meter set to another rate hears nothing. None: the line has no rate, all hear.
    parity: E or N of the master's port; a meter set to the other hears nothing but noise. None: all hear.
    byte_s: how long a byte takes on the wire; 0 for no time at all. The line sets it.
    on_wake: called when `deadline` has become earlier without a request; the line sets it.
    deadline: monotonic seconds at which `tick` has something to do.
    addresses: how meters are named in a plan of faults.
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
        self.addresses = METER_ADDRESSES
        self.on_wake: Callable[[], None] | None = None
        self.collisions = 0
        self.overlaps = 0
        self.requests = 0
        self.replies = 0
        self._injector: FaultInjector[Dlt645Meter, Frame] = FaultInjector(self.meters, Dlt645Replies(), faults)
        self._framer = Framer()
        self._wire = Wire(self._injector, baud=baud)
        self._output: list[bytes] = []
        self._change_at: float | None = None

    @property
    def byte_s(self) -> float:
        return self._wire.byte_s

    @byte_s.setter
    def byte_s(self, byte_s: float) -> None:
        self._wire.byte_s = byte_s

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
            self._wire.due,
            self._framer.deadline,
            self._injector.deadline,
            self._change_at,
        )
        return min((moment for moment in moments if moment is not None), default=None)

    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None:
        """Bytes from the master; `now` is true time, for the meters."""
        self._settle(monotonic, now)
        self.overlaps += self._wire.due is not None
        chunk = self._wire.request(chunk, monotonic)
        for found in self._framer.receive(chunk, monotonic):
            self._hear(found, monotonic, now)

    def tick(self, monotonic: float, now: datetime) -> None:
        self._settle(monotonic, now)
        for found in self._framer.tick(monotonic):
            self._hear(found, monotonic, now)
        self._output += self._wire.take(monotonic, now)

    def take_output(self) -> list[bytes]:
        """Replies that are to start now, each in one piece."""
        output, self._output = self._output, []
        return output

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
            self._wire.push(monotonic, ECHO_PREAMBLE + found.wire)
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
            for delay_s, wire in superpose(wires, self._wire.wire_s):
                self._wire.send(wire, monotonic + delay_s, monotonic, now)
            return
        for departure in departures:
            self._wire.depart(departure, monotonic + departure.delay_s, monotonic, now)

    def _reaches(self, meter: Dlt645Meter) -> bool:
        return (self.baud is None or meter.baud in (None, self.baud)) and self.parity in (None, meter.parity)
