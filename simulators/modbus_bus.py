"""Modbus meters behind one line, as bytes in and bytes out. No I/O and no loop: a line drives it.

RTU: a request reaches every meter of the line, unit 0 all of them, and nobody answers that. With a rate, a silence of 3.5
characters ends a request as it does for a meter, and no reply begins earlier; without one, requests are found by their content.

TCP: one bus is one connection; `connection` gives another one to the same meters. Requests wait in a queue and are answered
in the order in which they came, as a concentrator with one RS-485 line does it, or overtake each other (`out_of_order`).

A meter does one thing at a time: while it owes a reply, further requests wait behind it. So the reply to a request that was
given up comes late, and the reply to its repetition later still.

`faults` may be changed at any time; what it decides is done where a reply leaves.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal
from weakref import WeakSet

from protocols.modbus.adu import RTU_SIZE_MAX, RtuFrame, TcpFrame
from protocols.modbus.framer import RtuRequestFramer, TcpFramer
from protocols.modbus.pdu import ModbusException, encode_reply
from simulators.fault_injector import Departure, FaultInjector
from simulators.faults import UNITS, FaultPlan
from simulators.load_curve import mix
from simulators.modbus_faults import ModbusReplies
from simulators.modbus_meter import Exc, ModbusFrame, ModbusMeter
from simulators.wire import Wire, superpose

__all__ = ["Framing", "ModbusBus"]

Framing = Literal["rtu", "tcp"]
BROADCAST = 0
ITSELF = (0, 255)  # units of the device that was dialled, Modbus on TCP/IP §4.4.2.1
SILENCE_CHARACTERS = 3.5  # MODBUS over Serial Line V1.02, §2.5.1.1
SILENCE_S_MIN = 0.00175  # above 19200 baud, same place
GAP_S = 0.1  # ends half a request on a line without a rate, whose bytes come in chunks at any time
QUEUE_MAX = 32  # replies that may be owed; what is asked beyond them is refused as busy, or on a serial line not heard
REFUSED = 0x80


class _Meters:
    """What all connections to the same meters share."""

    def __init__(self, meters: Sequence[ModbusMeter], framing: Framing, faults: FaultPlan | None) -> None:
        self.meters = list(meters)
        self.by_unit: dict[int, list[ModbusMeter]] = {}
        for meter in self.meters:
            self.by_unit.setdefault(meter.unit, []).append(meter)
        self.slow = [meter for meter in self.meters if meter.relay_delay_s]
        relays = {meter.unit: meter.contract.relay for meter in self.meters if meter.contract.relay is not None}
        self.injector: FaultInjector[ModbusMeter, ModbusFrame] = FaultInjector(
            self.meters, ModbusReplies(relays, over_tcp=framing == "tcp"), faults
        )
        self.free_at: dict[object, float] = {}
        self.buses: WeakSet[ModbusBus] = WeakSet()
        self.requests = self.replies = self.collisions = 0


class ModbusBus:
    """Up to 247 meters, one line or one connection.

    framing: rtu also for RTU over TCP. baud: of the line, to know how long a silence ends a request.
    byte_s: how long a byte takes on the wire; 0 for no time at all. The line sets it.
    on_wake: called when `deadline` has become earlier without a request; the line sets it.
    out_of_order: TCP only. answers_absent: TCP only; a unit that is not there is answered with exception 0BH.
    on_broken: called when a TCP stream cannot be followed any further; `broken` says why.
    overlaps: chunks that came while a reply was due. shared: of the bus whose further connection this one is.
    """

    def __init__(
        self,
        meters: Sequence[ModbusMeter],
        *,
        framing: Framing = "rtu",
        baud: int | None = None,
        faults: FaultPlan | None = None,
        out_of_order: bool = False,
        answers_absent: bool = False,
        shared: _Meters | None = None,
    ) -> None:
        self.framing: Framing = framing
        self.baud = baud
        self.out_of_order = out_of_order
        self.answers_absent = answers_absent
        self.addresses = UNITS
        self.on_wake: Callable[[], None] | None = None
        self.on_broken: Callable[[], None] | None = None
        self.overlaps = 0
        self._shared = shared or _Meters(meters, framing, faults)
        self._shared.buses.add(self)
        self._injector = self._shared.injector
        self._rtu = RtuRequestFramer(gap_s=GAP_S)
        self._tcp = TcpFramer()
        self._heard_until = 0.0
        self._silence_s = 0.0
        self._wire = Wire(self._injector, baud=baud)
        self.byte_s = self._wire.byte_s
        self._output: list[bytes] = []
        self._change_at: float | None = None

    def connection(self) -> "ModbusBus":
        """Another connection to the same meters: they share clocks, relays, faults and the queue."""
        return ModbusBus(
            self.meters,
            framing=self.framing,
            baud=self.baud,
            out_of_order=self.out_of_order,
            answers_absent=self.answers_absent,
            shared=self._shared,
        )

    @property
    def meters(self) -> list[ModbusMeter]:
        return self._shared.meters

    @property
    def requests(self) -> int:
        return self._shared.requests

    @property
    def replies(self) -> int:
        return self._shared.replies

    @property
    def collisions(self) -> int:
        """Requests that more than one meter of a unit answered at once."""
        return self._shared.collisions

    @property
    def broken(self) -> str:
        return self._tcp.broken

    @property
    def byte_s(self) -> float:
        return self._wire.byte_s

    @byte_s.setter
    def byte_s(self, byte_s: float) -> None:
        self._wire.byte_s = byte_s
        if self.framing == "rtu" and byte_s:
            self._silence_s = max(SILENCE_S_MIN, SILENCE_CHARACTERS * byte_s)
            # A chunk is heard when its last byte has passed: half a request is given up when none can be on its way any more.
            self._rtu = RtuRequestFramer(gap_s=self._silence_s + RTU_SIZE_MAX * byte_s)

    @property
    def faults(self) -> FaultPlan:
        return self._injector.plan

    @faults.setter
    def faults(self, plan: FaultPlan) -> None:
        """Raises BadFaults for what cannot happen with this framing."""
        self._injector.plan = plan
        for bus in self._shared.buses:
            if bus.on_wake is not None:
                bus.on_wake()

    @property
    def struck(self) -> Counter[str]:
        """How often each fault has struck, by name."""
        return self._injector.struck

    def device(self, meter: ModbusMeter) -> ModbusMeter:
        """What answers under the unit of `meter`: after a swap another one."""
        return self._injector.device(meter)

    def close(self) -> None:
        """The connection is gone: nothing leaves here any more."""
        self._injector.forget(self)
        self._shared.buses.discard(self)

    @property
    def deadline(self) -> float | None:
        moments = (self._wire.due, self._rtu.deadline, self._injector.deadline, self._change_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None:
        """Bytes from the master; `now` is true time, for the meters."""
        self._settle(monotonic, now)
        self.overlaps += self._wire.due is not None
        if self.framing == "tcp":
            was_broken = self._tcp.broken
            for heard in self._tcp.receive(chunk):
                self._hear(heard.frame, heard.wire, monotonic, now)
            if self._tcp.broken and not was_broken and self.on_broken is not None:
                self.on_broken()
        else:
            chunk = self._wire.request(chunk, monotonic)
            self._end_by_silence(monotonic - len(chunk) * self.byte_s, monotonic, now)
            for found in self._rtu.receive(chunk, monotonic):
                self._hear(found.frame, found.wire, monotonic, now)
            self._heard_until = monotonic
        self._note_change(monotonic, now)

    def tick(self, monotonic: float, now: datetime) -> None:
        self._settle(monotonic, now)
        for found in self._rtu.tick(monotonic):
            self._hear(found.frame, found.wire, monotonic, now)
        self._output += self._wire.take(monotonic, now)
        self._note_change(monotonic, now)

    def take_output(self) -> list[bytes]:
        """Replies that are to start now, each in one piece."""
        output, self._output = self._output, []
        return output

    def _end_by_silence(self, start: float, monotonic: float, now: datetime) -> None:
        """With a rate, what was half heard is over when the line was silent before the byte that begins at `start`."""
        if self._silence_s and start - self._heard_until > self._silence_s and self._rtu.deadline is not None:
            for found in self._rtu.tick(self._rtu.deadline):
                self._hear(found.frame, found.wire, monotonic, now)

    def _settle(self, monotonic: float, now: datetime) -> None:
        self._injector.settle(now)
        for meter in self._shared.slow:
            self.device(meter).settle(now)

    def _note_change(self, monotonic: float, now: datetime) -> None:
        moments = [self.device(meter).next_change for meter in self._shared.slow]
        change = min((at for at in (self._injector.next_change, *moments) if at is not None), default=None)
        self._change_at = None if change is None else monotonic + (change - now).total_seconds()

    def _hear(self, frame: RtuFrame | TcpFrame, wire: bytes, monotonic: float, now: datetime) -> None:
        self._shared.requests += 1
        injector = self._injector
        if not injector.is_idle and injector.echoes(str(frame.unit), now):
            self._wire.push(monotonic, wire)
        if self.framing == "rtu" and frame.unit == BROADCAST:
            for meter in self.meters:
                if not meter.model.power_off(now):
                    self.device(meter).receive(frame, now)
            return
        meters = self._asked(frame.unit)
        if not meters and self.framing == "tcp" and self.answers_absent:
            self._refuse(frame, Exc.NO_ANSWER, monotonic)
        if not meters:
            return
        if self._wire.waiting >= QUEUE_MAX:
            if self.framing == "tcp":
                self._refuse(frame, Exc.BUSY, monotonic)
            return
        departures: list[tuple[ModbusMeter, Departure]] = []
        for meter in meters:
            strikes = {} if injector.is_idle else injector.strikes(meter, now)
            departure = injector.answer(meter, frame, strikes, now, line=self)
            if departure is not None:
                departures.append((meter, departure))
        self._shared.replies += len(departures)
        if len(departures) > 1:
            self._shared.collisions += 1
            wires = [(each.delay_s, b"".join(chunk for _, chunk in each.chunks)) for _, each in departures]
            for delay_s, stretch in superpose(wires, self._wire.wire_s):
                self._wire.send(stretch, monotonic + delay_s, monotonic, now)
            return
        for meter, departure in departures:
            self._depart(meter, departure, monotonic, now)

    def _asked(self, unit: int) -> Sequence[ModbusMeter]:
        if self.framing == "tcp" and unit in ITSELF and len(self.meters) == 1:
            return self.meters
        return self._shared.by_unit.get(unit, ())

    def _depart(self, meter: ModbusMeter, departure: Departure, monotonic: float, now: datetime) -> None:
        delay_s = max(departure.delay_s, self._silence_s)
        if self.framing == "tcp" and self.out_of_order:
            drawn = mix(self._shared.requests, meter.unit) % 2001
            self._wire.depart(departure, monotonic + delay_s * drawn / 1000, monotonic, now)
            return
        busy = meter if self.framing == "rtu" else None  # behind TCP there is one line for all
        begin = max(monotonic, self._shared.free_at.get(busy, 0.0))
        self._shared.free_at[busy] = self._wire.depart(departure, begin + delay_s, monotonic, now)

    def _refuse(self, frame: RtuFrame | TcpFrame, code: int, monotonic: float) -> None:
        function = frame.pdu[0] & ~REFUSED
        if isinstance(frame, TcpFrame) and function:
            pdu = encode_reply(ModbusException(function, code))
            self._wire.push(monotonic, TcpFrame(frame.transaction, frame.unit, pdu).to_bytes())
