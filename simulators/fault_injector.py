"""Faults done: what a plan decides happens here to replies, to the line and to the meters of one bus.

A reply is spoilt as a chain of small functions from reply to reply, always in the order of FaultKind, so that two
faults that strike together give the same bytes every time. What happens to a meter itself (clock, power, relay, swap)
is done when the bus next looks, at the moment it was due. What a reply is, and what its address and checksum, a
`ReplyAdapter` of the protocol knows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Generic, TypeVar

from msgspec import Struct

from simulators.fault_target import FaultyMeter, ReplyAdapter
from simulators.faults import Fault, FaultKind, FaultPlan, Strike
from simulators.load_curve import mix

__all__ = ["Burst", "Departure", "FaultInjector"]

K = FaultKind
HELD_MAX = 4096  # bytes of merged replies kept for the next one; a line whose replies are all merged stays silent
_OF_METER = (
    *(K.CLOCK_STEP, K.CLOCK_DRIFT, K.POWER_CUT, K.METER_SWAP),
    *(K.STUCK_RELAY, K.SLOW_CONTACT, K.PROTECTED_METER, K.WRONG_OPERATOR, K.CUSTOMERS_BUTTON),
)
_OF_ORDER = (K.ACK_WITHOUT_SWITCH, K.LOST_ACKNOWLEDGEMENT, K.SILENT_AFTER_ORDER)

F = TypeVar("F")
M = TypeVar("M", bound="FaultyMeter[Any]")


class Departure(Struct):
    """A reply on its way out. chunks: (seconds of silence before it, bytes); delay_s: before the first.

    lead: bytes at the head that nobody would miss.
    """

    delay_s: float
    wire: bytes
    lead: int = 0
    chunks: list[tuple[float, bytes]] = []


class Burst(Struct, frozen=True):
    """Garbage of a babbling device. at: monotonic seconds."""

    at: float
    wire: bytes


class FaultInjector(Generic[M, F]):
    """The faults of one line, or of several connections to the same meters.

    struck: how often each fault has struck, by name; counts survive a change of plan.
    plan: raises BadFaults when the adapter knows that it cannot happen.
    """

    def __init__(self, meters: Sequence[M], adapter: ReplyAdapter[F], plan: FaultPlan | None = None) -> None:
        self.struck: Counter[str] = Counter()
        self._meters = meters
        self._adapter = adapter
        self._heard: Counter[str] = Counter()
        self._active: dict[tuple[str, M], Fault] = {}
        self._stand_ins: dict[M, M] = {}
        self._mute_until: dict[M, datetime] = {}
        self._held: dict[object, bytes] = {}
        self._settled_at: datetime | None = None
        self._next_change: datetime | None = None
        self._dirty = False
        self._bursts: dict[str, tuple[int, Burst]] = {}
        self._babble_deadline: float | None = None
        self._plan = FaultPlan()
        if plan is not None:
            self.plan = plan

    @property
    def plan(self) -> FaultPlan:
        return self._plan

    @plan.setter
    def plan(self, plan: FaultPlan) -> None:
        self._adapter.check(plan)
        self._plan = plan
        self._dirty = True
        self._babble_deadline = 0.0 if any(fault.kind is K.BABBLE for fault in plan.faults) else None

    @property
    def is_idle(self) -> bool:
        """No fault in the plan, and none to be undone."""
        return not self._plan.faults and not self._dirty

    @property
    def next_change(self) -> datetime | None:
        """True time at which `settle` has something to do next."""
        return self._next_change

    # ------------------------------------------------------------------------------------------ requests and replies

    def echoes(self, address: str, now: datetime) -> bool:
        """Whether the master hears its own request, sent to `address`."""
        self._heard[f"echo {address}"] += 1
        count = self._heard[f"echo {address}"]
        for fault in self._plan.faults:
            if fault.kind is K.ECHO and fault.concerns(address) and fault.is_on(now):
                if fault.draw(self._plan.seed, address, count) is None:
                    continue
                self.struck[fault.title] += 1
                return True
        return False

    def strikes(self, meter: M, now: datetime) -> dict[FaultKind, Strike]:
        """What strikes the request that `meter` hears now; one of a kind."""
        self._heard[meter.address] += 1
        found = self._plan.strikes(meter.address, self._heard[meter.address], now)
        return {strike.fault.kind: strike for strike in found}

    def device(self, meter: M) -> M:
        """What answers under the meter's address."""
        return self._stand_ins.get(meter, meter)

    def answer(
        self,
        meter: M,
        frame: F,
        strikes: dict[FaultKind, Strike],
        now: datetime,
        *,
        line: object = None,
    ) -> Departure | None:
        """Let the meter hear the request; its reply, unless a fault keeps it.

        line: where the reply goes, when there are several: what is held back for merging leaves on the same one.
        """
        device = self.device(meter)
        if meter.model.power_off(now) or (self._mute_until and now < self._mute_until.get(meter, now)):
            return None
        silence = strikes.get(K.SILENCE)
        if silence is not None and not silence.fault.get("obeys"):
            self._count(silence)
            return None
        if strikes and not self._adapter.is_relay_order(frame):
            strikes = {kind: strike for kind, strike in strikes.items() if kind not in _OF_ORDER}
        lost = strikes.get(K.LOST_ACKNOWLEDGEMENT) or strikes.get(K.SILENT_AFTER_ORDER)
        if lost is not None:
            self._count(lost)
            if lost.fault.kind is K.SILENT_AFTER_ORDER:
                self._mute_until[meter] = now + timedelta(seconds=lost.fault.get("for_s"))
            if lost.fault.get("obeys"):
                device.receive(frame, now)
            return None
        pretends = strikes.get(K.ACK_WITHOUT_SWITCH)
        if pretends is not None:
            device.pretends = True
        reply = device.receive(frame, now)
        if pretends is not None:
            device.pretends = False
        if pretends is not None and reply is not None and self._adapter.is_accepted(reply):
            self._count(pretends)
        if reply is None:
            return None
        if silence is not None:
            self._count(silence)
            return None
        departure = Departure(delay_s=device.reply_delay_s, wire=b"")
        if not strikes and not self._held:  # most replies of most fleets
            departure.chunks = [(0.0, device.to_wire(reply))]
            return departure
        departure.wire = device.to_wire(self._spoil_frame(meter, reply, strikes))
        departure.lead = self._adapter.lead(departure.wire)
        if (strike := strikes.get(K.BAD_CHECKSUM)) is not None:
            self._count(strike)
            departure.wire = self._adapter.bad_checksum(departure.wire, strike)
        for kind, spoil in _SPOIL_WIRE.items():
            self._do(departure, strikes.get(kind), spoil)
        departure.chunks = [(0.0, departure.wire)]
        for kind, spoil in _SPOIL_CHUNKS.items():
            self._do(departure, strikes.get(kind), spoil)
        return self._merge(departure, strikes.get(K.MERGE), line)

    def _do(self, departure: Departure, strike: Strike | None, spoil: Callable[[Departure, Strike], None]) -> None:
        if strike is not None:
            self._count(strike)
            spoil(departure, strike)

    def _spoil_frame(self, meter: M, reply: F, strikes: dict[FaultKind, Strike]) -> F:
        if (strike := strikes.get(K.WRONG_ADDRESS)) is not None:
            self._count(strike)
            others = [other.address for other in self._meters if other is not meter]
            reply = self._adapter.with_address(reply, strike.fault.get("address"), others, strike)
        if (strike := strikes.get(K.WRONG_DI)) is not None:
            other = self._adapter.with_other_item(reply, strike)
            if other is not None:
                self._count(strike)
                return other
        return reply

    def _merge(self, departure: Departure, strike: Strike | None, line: object) -> Departure | None:
        held = self._held.pop(line, b"") if self._held else b""
        if strike is not None:
            self._count(strike)
            self._held[line] = (held + b"".join(chunk for _, chunk in departure.chunks))[-HELD_MAX:]
            return None
        if held:
            gap_s, first = departure.chunks[0]
            departure.chunks[0] = (gap_s, held + first)
        return departure

    def forget(self, line: object) -> None:
        """Nothing more leaves there."""
        self._held.pop(line, None)

    def _count(self, strike: Strike) -> None:
        self.struck[strike.fault.title] += 1

    # ------------------------------------------------------------------------------------------ babble

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which there is something to do; 0 for at once, after a change of plan."""
        return 0.0 if self._dirty else self._babble_deadline

    def bursts(self, until: float, monotonic: float, now: datetime, byte_s: float) -> list[Burst]:
        """Garbage that begins before or at `until` and was not given yet."""
        if self._babble_deadline is None:
            return []
        found: list[Burst] = []
        deadlines: list[float] = []
        for fault in self._plan.faults:
            if fault.kind is not K.BABBLE:
                continue
            if not fault.is_on(now):
                self._bursts.pop(fault.title, None)
                if fault.start is not None and fault.start > now:
                    deadlines.append(monotonic + (fault.start - now).total_seconds())
                continue
            index, burst = self._bursts.get(fault.title) or (0, self._burst(fault, 0, monotonic, byte_s))
            while burst.at <= until:
                found.append(burst)
                self.struck[fault.title] += 1
                index += 1
                burst = self._burst(fault, index, burst.at + len(burst.wire) * byte_s, byte_s)
            self._bursts[fault.title] = (index, burst)
            deadlines.append(burst.at)
        self._babble_deadline = min(deadlines, default=None)
        return found

    def _burst(self, fault: Fault, index: int, after: float, byte_s: float) -> Burst:
        """One of random length, behind a pause that keeps the duty share on average."""
        strike = Strike(fault=fault, random=mix(self._plan.seed, mix(len(fault.title), index)))
        duty = fault.get("duty")
        size = 1 + strike.number(0, fault.get("bytes"))
        mean_s = (1 + fault.get("bytes")) / 2 * byte_s * (1 - duty) / duty
        return Burst(after + mean_s * (0.5 + strike.number(1, 1001) / 1000), strike.bytes(2, size))

    # ------------------------------------------------------------------------------------------ the meters themselves

    def settle(self, now: datetime) -> None:
        """Let happen to the meters what was due by now, in the order of time."""
        if not self._dirty and (self._next_change is None or now < self._next_change):
            return
        for at, begins, fault, meter in sorted(self._changes(now), key=lambda change: change[0]):
            if begins:
                self._begin(fault, meter, at)
            else:
                self._end(fault, meter, at)
        self._settled_at, self._dirty = now, False
        moments = [moment for fault in self._plan.faults for moment in (fault.start, fault.until)]
        self._next_change = min((moment for moment in moments if moment is not None and moment > now), default=None)

    def _changes(self, now: datetime) -> Iterable[tuple[datetime, bool, Fault, M]]:
        planned = {fault.title: fault for fault in self._plan.faults if fault.kind in _OF_METER}
        for (title, meter), fault in list(self._active.items()):
            if planned.get(title) != fault:
                yield now, False, fault, meter  # taken out of the plan, or replaced
            elif fault.until is not None and fault.until <= now:
                yield fault.until, False, fault, meter
        last = self._settled_at
        for title, fault in planned.items():
            begin = now if fault.start is None or (last is not None and fault.start <= last) else fault.start
            over = fault.until is not None and fault.until <= (begin if last is None else max(begin, last))
            missed_before_the_run = last is None and fault.until is not None and fault.until <= now
            if begin > now or over or missed_before_the_run:
                continue
            for meter in self._meters:
                known = self._active.get((title, meter)) == fault
                if known or not fault.concerns(meter.address) or not fault.draw(self._plan.seed, meter.address, 0):
                    continue
                yield begin, True, fault, meter
                if fault.until is not None and fault.until <= now:
                    yield fault.until, False, fault, meter

    def _begin(self, fault: Fault, meter: M, at: datetime) -> None:
        self._active[fault.title, meter] = fault
        self.struck[fault.title] += 1
        if fault.kind is K.METER_SWAP:
            drawn = fault.draw(self._plan.seed, meter.address, 0)
            assert drawn is not None
            self._stand_ins[meter] = meter.replacement(fault.get("seed") or drawn.random % 1_000_000 + 1, at)
        for device in {meter, self.device(meter)}:
            model = device.model
            match fault.kind:
                case K.CLOCK_STEP:
                    model.step_clock(timedelta(seconds=fault.get("step_s")), at)
                case K.CLOCK_DRIFT:
                    model.drift_clock(int(fault.get("ppm")), at)
                case K.POWER_CUT:
                    model.cut_power(at, clock_stops=fault.get("clock") == "stops")
                case K.STUCK_RELAY:
                    model.relay.advance(at)
                    model.relay.stuck, model.relay.senses = True, fault.get("senses")
                case K.SLOW_CONTACT:
                    model.relay.follows_after_s = fault.get("after_s")
                case K.PROTECTED_METER:
                    model.relay.protected = True
                case K.WRONG_OPERATOR:
                    model.relay.operators = frozenset({bytes.fromhex(fault.get("code"))})
                case K.CUSTOMERS_BUTTON:
                    model.relay.press_after_s = fault.get("after_s")

    def _end(self, fault: Fault, meter: M, at: datetime) -> None:
        self._active.pop((fault.title, meter), None)
        for device in {meter, self.device(meter)}:
            model = device.model
            match fault.kind:
                case K.CLOCK_DRIFT:
                    model.drift_clock(None, at)
                case K.POWER_CUT:
                    model.restore_power(at)
                case K.STUCK_RELAY:
                    model.relay.stuck, model.relay.senses = False, True
                case K.SLOW_CONTACT:
                    model.relay.follows_after_s = 0.0
                case K.PROTECTED_METER:
                    model.unprotect(at)
                case K.WRONG_OPERATOR:
                    model.relay.operators = None
                case K.CUSTOMERS_BUTTON:
                    model.relay.press_after_s = None
        if fault.kind is K.METER_SWAP:
            self._stand_ins.pop(meter, None)


def _bit_flip(departure: Departure, strike: Strike) -> None:
    wire = bytearray(departure.wire)
    places = {strike.number(index, 8 * len(wire)) for index in range(strike.fault.get("bits"))}
    for place in places:
        wire[place // 8] ^= 1 << place % 8
    departure.wire = bytes(wire)


def _dropped_byte(departure: Departure, strike: Strike) -> None:
    wire = departure.wire
    at = departure.lead + strike.number(0, len(wire) - departure.lead)
    departure.wire = wire[:at] + wire[at + 1 :]


def _half_reply(departure: Departure, strike: Strike) -> None:
    share = strike.fault.get("share") or (1 + strike.number(0, 98)) / 100
    departure.wire = departure.wire[: max(1, min(len(departure.wire) - 1, int(share * len(departure.wire))))]


def _split(departure: Departure, strike: Strike) -> None:
    wire = b"".join(chunk for _, chunk in departure.chunks)
    parts = min(strike.fault.get("parts"), len(wire))
    cuts: set[int] = set()
    index = 0
    while len(cuts) < parts - 1:
        cuts.add(1 + strike.number(index, len(wire) - 1))
        index += 1
    edges = [0, *sorted(cuts), len(wire)]
    gap_s = strike.fault.get("gap_s")
    departure.chunks = [(gap_s if begin else 0.0, wire[begin:end]) for begin, end in pairwise(edges)]


def _noise_before(departure: Departure, strike: Strike) -> None:
    noise, gap_s = strike.bytes(1, 1 + strike.number(0, strike.fault.get("bytes"))), strike.fault.get("gap_s")
    if gap_s:
        first_gap_s, first = departure.chunks[0]
        departure.chunks[:1] = [(first_gap_s, noise), (gap_s, first)]
    else:
        departure.chunks[0] = (departure.chunks[0][0], noise + departure.chunks[0][1])


def _noise_after(departure: Departure, strike: Strike) -> None:
    noise, gap_s = strike.bytes(1, 1 + strike.number(0, strike.fault.get("bytes"))), strike.fault.get("gap_s")
    if gap_s:
        departure.chunks.append((gap_s, noise))
    else:
        departure.chunks[-1] = (departure.chunks[-1][0], departure.chunks[-1][1] + noise)


def _duplicate(departure: Departure, strike: Strike) -> None:
    (_, first), *rest = departure.chunks
    again = [(strike.fault.get("gap_s"), first), *rest]
    departure.chunks = [*departure.chunks, *(again * strike.fault.get("copies"))]


def _late(departure: Departure, strike: Strike) -> None:
    least, most = strike.fault.get("least"), strike.fault.get("most")
    share = strike.number(0, 1_000_001) / 1_000_000
    departure.delay_s = strike.fault.get("timeout_s") * (least + (most - least) * share)


_SPOIL_WIRE: dict[FaultKind, Callable[[Departure, Strike], None]] = {
    K.BIT_FLIP: _bit_flip,
    K.DROPPED_BYTE: _dropped_byte,
    K.HALF_REPLY: _half_reply,
}
_SPOIL_CHUNKS: dict[FaultKind, Callable[[Departure, Strike], None]] = {
    K.SPLIT: _split,
    K.NOISE_BEFORE: _noise_before,
    K.NOISE_AFTER: _noise_after,
    K.DUPLICATE_REPLY: _duplicate,
    K.LATE_REPLY: _late,
}
