"""A supply switch over a simulated line, with somebody at the wire who counts the orders that pass: no log of ours is asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from headend.commands.model import Kind
from headend.commands.verification import LOOKS_S, Verdict, verdict
from headend.drivers.errors import DriverError
from headend.drivers.line import Line
from headend.drivers.relay import Ready, Sent, Switch, SwitchUnconfirmed, Witness
from headend.drivers.transport import LineUrl
from headend.model import MeterRecord
from headend.secrets import Authority
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.exchange import Timing
from protocols.modbus.adu import RtuFrame, TcpFrame
from protocols.values import MeterAddress
from simulators.faults import Fault, FaultKind, FaultPlan
from simulators.line import SimulatedLine
from simulators.load_curve import Kind as Household
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock

ADDRESS = "000000000017"
AUTHORITY = Authority(Password(0x02, bytes(3)), bytes.fromhex("A1B2C3D4"))
OPERATOR = bytes.fromhex("0A0B0C0D")
URL = LineUrl.parse("tcp://far.end:1")
ORDER_CONTROLS = (0x1A, 0x1C)  # clear meter, relay
WRITES = (5, 6, 15, 16)


class Wire(SimulatedLine):
    """A line that remembers what passed, and when by the world's clock."""

    def __init__(self, bus: Any, clock: VirtualClock, *, baud: int | None = None) -> None:
        super().__init__(bus, clock.world, baud=baud)
        self._clock = clock
        self.passed: list[tuple[datetime, bytes]] = []

    def send(self, chunk: bytes) -> None:
        self.passed.append((self._clock.world(), bytes(chunk)))
        super().send(chunk)

    @property
    def frames(self) -> list[tuple[datetime, Frame]]:
        """DL/T 645."""
        heard = [(at, found) for at, chunk in self.passed for found in Framer().receive(chunk, 0.0)]
        return [(at, found.frame) for at, found in heard if isinstance(found, Heard)]

    @property
    def orders(self) -> list[tuple[datetime, Frame]]:
        return [(at, frame) for at, frame in self.frames if frame.control in ORDER_CONTROLS]

    def writes(self, protocol: str) -> list[RtuFrame | TcpFrame]:
        """Modbus: whatever could change anything."""
        kind = TcpFrame if protocol == "modbus-tcp" else RtuFrame
        frames = [kind.from_bytes(chunk) for _, chunk in self.passed]
        return [frame for frame in frames if frame.pdu[0] in WRITES]


def a_model(*, seed: int = 11, number: str | None = None, address: str = ADDRESS, **options: Any) -> MeterModel:
    """A factory: it draws amperes at any hour."""
    start = options.pop("start", None) or datetime.fromisoformat("2025-06-01T00:00:00+00:00")
    given = {"drift_ppm": 0, "clock_offset_s": 0} | options
    return MeterModel(
        MeterAddress(address), seed=seed, kind=Household.FACTORY, clock_set_at=start, number=number, **given
    )


def a_record(
    contract: str = "dlt645/generic_single_phase_fee_control_2013", *, address: str = ADDRESS, protocol: str = "dlt645"
) -> MeterRecord:
    return MeterRecord(id="M000017", line="line", address=address, contract=contract, plan="", protocol=protocol)


class Site:
    """What a story works with. ready: what was to be made durable, in order; looks: how often the last look was asked."""

    def __init__(self, switch: Switch, line: Line, wire: Any, bus: Any, clock: Any, record: MeterRecord) -> None:
        self.switch = switch
        self.line = line
        self.wire = wire
        self.bus = bus
        self.clock = clock
        self.record = record
        self.ready: list[Ready] = []
        self.looks = 0
        self.commit_s = 0.02
        self.look_says: Callable[[], None] = lambda: None

    async def on_sending(self, ready: Ready) -> None:
        self.ready.append(ready)
        await asyncio.sleep(self.commit_s)

    def look(self) -> None:
        self.looks += 1
        self.look_says()

    async def order(
        self,
        kind: Kind,
        *,
        lasts_s: float = 60.0,
        operator: bytes | str = OPERATOR,
        hurry: asyncio.Event | None = None,
    ) -> Sent:
        return await self.switch.order(
            self.record,
            kind,
            expires_at=self.clock.now() + timedelta(seconds=lasts_s),
            operator=operator,
            look=self.look,
            command_id="c-1",
            on_sending=self.on_sending,
            hurry=hurry,
        )

    async def whole(self, kind: Kind, *, looks_s: Sequence[float] = LOOKS_S, **options: Any) -> tuple[Sent, Verdict]:
        """Order, and look back until there is something final, as the command room does."""
        try:
            sent = await self.order(kind, **options)
        except SwitchUnconfirmed as error:
            sent = error.sent
        seen: list[Witness] = []
        found = verdict(kind, sent, seen, before=sent.before)
        waited = 0.0
        for look_s in looks_s:
            await asyncio.sleep(look_s - waited)
            waited = look_s
            try:
                seen.append(await self.switch.look_back(self.record, kind=kind))
            except DriverError:
                continue
            found = verdict(kind, sent, seen, before=sent.before, settled=look_s == looks_s[-1])
            if found.state.value != "unconfirmed":
                break
        return sent, found


def plan(*faults: FaultKind | Fault) -> FaultPlan:
    return FaultPlan(seed=1, faults=tuple(one if isinstance(one, Fault) else Fault(kind=one) for one in faults))


def fault(kind: FaultKind, **parameters: Any) -> Fault:
    return Fault(kind=kind, parameters=parameters)


async def a_line(wire: SimulatedLine, clock: VirtualClock, *, session: Any = None, **timing: Any) -> Line:
    given = {"reply_timeout_s": 0.6} | timing
    options = {} if session is None else {"session": session}
    line = Line(
        "line", URL, Timing(**given), connect=lambda _, protocol: wire.connect(protocol), clock=clock, **options
    )
    await line.connect()
    return line


def amperes(witness: Witness | None) -> Decimal:
    assert witness is not None
    assert witness.current_a is not None
    return witness.current_a


Story = Callable[[Site], Awaitable[None]]
