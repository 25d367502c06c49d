"""A simulated meter that plays a contract, and the conformance run against it, in virtual time."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from firmware_contracts.contract import Contract, load
from firmware_contracts.findings import Device, Report
from headend.conformance import chosen_checks, examine
from headend.drivers.line import Line
from headend.drivers.transport import LineUrl
from protocols.exchange import Timing
from protocols.values import MeterAddress
from simulators import virtual_time
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.faults import FaultPlan
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock

__all__ = ["ADDRESS", "meter_of", "report_of"]

ADDRESS = "000012345678"
ZONE = ZoneInfo("Asia/Shanghai")
NOON = datetime(2025, 6, 18, 10, 20, tzinfo=UTC)  # of a working day, 18:20 there: somebody is cooking


def meter_of(contract: Contract, *, seed: int = 5, began: datetime = NOON) -> Dlt645Meter:
    """Phases as the contract says, a clock set right when the run began."""
    kind = Kind.HOUSEHOLD if contract.limits.phases == 1 else Kind.FACTORY
    model = MeterModel(MeterAddress(ADDRESS), seed=seed, kind=kind, timezone=ZONE, clock_set_at=began)
    return Dlt645Meter(model, contract)


def report_of(
    contract: Contract,
    played: Contract | None = None,
    *,
    edit: Callable[[Dlt645Meter], None] = lambda _: None,
    neighbours: tuple[str, ...] = (),
    faults: FaultPlan | None = None,
    only: list[str] | None = None,
    writes: bool = False,
    retries: int = 1,
) -> Report:
    """Hold a simulated meter against `contract`. played: what it really is, the same contract unless given."""

    async def main(clock: VirtualClock, _: random.Random) -> Report:
        meter = meter_of(played or contract)
        edit(meter)
        others = [
            Dlt645Meter(MeterModel(MeterAddress(address), seed=9, clock_set_at=NOON), load("dlt645/base_2007"))
            for address in neighbours
        ]
        wire = SimulatedLine(Dlt645Bus([meter, *others], faults=faults), clock.world, baud=9600)

        async def connect(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            return await wire.connect(protocol)

        url = LineUrl.parse("tcp://simulated:1?baud=9600")
        line = Line("line", url, Timing(baud=9600), connect=connect, clock=clock)
        await line.connect()
        try:
            wanted = chosen_checks(contract, only or [], writes=writes)
            device = Device(address=ADDRESS, zone=ZONE)
            return await examine(line, contract, device, clock=clock, wanted=wanted, writes=writes, retries=retries)
        finally:
            line.close()

    return virtual_time.run(main, start=NOON)
