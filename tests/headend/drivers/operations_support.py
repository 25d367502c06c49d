"""Simulated meters at the other end of a line in virtual time, with somebody in between who may spoil what they say."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from firmware_contracts.contract import load
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.dlt645_operations import Dlt645Operations
from headend.drivers.line import Line
from headend.drivers.transport import LineUrl
from headend.secrets import Authority
from protocols.dlt645.fields import Password
from protocols.dlt645.frame import Frame
from protocols.exchange import Timing
from protocols.values import MeterAddress
from simulators.dlt645_meter import Dlt645Meter
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.virtual_time import START, VirtualClock, run

CHINA = ZoneInfo("Asia/Shanghai")
ADDRESS = "000000000017"
AUTHORITY = Authority(Password(0x02, bytes(3)), bytes.fromhex("A1B2C3D4"))
URL = LineUrl.parse("tcp://far.end:1?baud=2400")
# (number of the reply, its wire) -> what comes instead; None: nothing.
Tamper = Callable[[int, bytes], bytes | None]


def a_meter(edition: str = "2007", *, address: str = ADDRESS, contract: str = "", **options: Any) -> Dlt645Meter:
    model = MeterModel(
        MeterAddress(address), seed=11, kind=Kind.FACTORY, clock_set_at=START, drift_ppm=0, clock_offset_s=0
    )
    return Dlt645Meter(model, load(contract or f"dlt645/base_{edition}"), reply_delay_s=0.02, **options)


class Wire(asyncio.Transport):
    """The far end of a line: meters that hear the line's rate answer; every frame that was sent is kept."""

    def __init__(self, protocol: asyncio.Protocol, meters: Sequence[Any], clock: VirtualClock, tamper: Tamper) -> None:
        super().__init__()
        self.protocol = protocol
        self.meters = meters
        self.sent: list[Frame] = []
        self.baud = 2400
        self._clock = clock
        self._tamper = tamper
        self._replies = 0

    def write(self, data: Any) -> None:
        frame = Frame.from_bytes(bytes(data))
        self.sent.append(frame)
        loop = asyncio.get_running_loop()
        for meter in self.meters:
            if meter.baud not in (None, self.baud) or not meter.hears(frame.address):
                continue
            reply = meter.receive(frame, self._clock.world())
            if reply is None:
                continue
            self._replies += 1
            wire = self._tamper(self._replies, meter.to_wire(reply))
            if wire:
                loop.call_later(meter.reply_delay_s, self.protocol.data_received, wire)

    def set_baud(self, baud: int) -> None:
        self.baud = baud

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing to let go of."""

    @property
    def functions(self) -> list[int]:
        return [frame.control for frame in self.sent]


class Site:
    """What a test works with."""

    def __init__(self, line: Line, driver: Dlt645Driver, wire: Wire, clock: VirtualClock) -> None:
        self.line = line
        self.driver = driver
        self.operations = Dlt645Operations(driver)
        self.wire = wire
        self.clock = clock

    def local_now(self) -> datetime:
        """Wall time in China, where the simulated meters stand, without zone."""
        return self.clock.world().astimezone(CHINA).replace(tzinfo=None)


def on_site(
    story: Callable[[Site], Awaitable[None]],
    *meters: Any,
    tamper: Tamper = lambda _, wire: wire,
    retries: int = 2,
    start: datetime = START,
) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        wires: list[Wire] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            wires.append(Wire(protocol, meters, clock, tamper))
            protocol.connection_made(wires[-1])
            return wires[-1]

        line = Line("line", URL, Timing(baud=2400, reply_timeout_s=0.5), connect=connect, clock=clock)
        await line.connect()
        await story(Site(line, Dlt645Driver(line, retries=retries), wires[0], clock))
        line.close()

    run(main, start=start)
