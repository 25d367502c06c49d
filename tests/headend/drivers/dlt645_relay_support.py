"""Stories about the switch of one DL/T 645 meter, and what was on its wire."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from firmware_contracts.contract import load
from headend.drivers.dlt645_relay import Dlt645Switch
from protocols.dlt645.messages import ReadRequest, RelayRequest, decode
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.virtual_time import START, VirtualClock, run
from tests.headend.drivers.relay_support import (
    ADDRESS,
    AUTHORITY,
    Site,
    Story,
    Wire,
    a_line,
    a_model,
    a_record,
    plan,
)

CHINA = ZoneInfo("Asia/Shanghai")
CONTRACT = "dlt645/generic_single_phase_fee_control_2013"


def a_meter(contract: str = CONTRACT, **model: Any) -> Dlt645Meter:
    return Dlt645Meter(a_model(**model), load(contract), reply_delay_s=0.05)


def on_site(
    story: Story,
    *faults: Any,
    meter: Any = None,
    contract: str = CONTRACT,
    address: str = ADDRESS,
    start: datetime = START,
    baud: int | None = 2400,
    timing: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    async def main(clock: VirtualClock, _: object) -> None:
        bus = Dlt645Bus([meter or a_meter(contract)])
        bus.faults = plan(*faults)
        wire = Wire(bus, clock, baud=baud)
        line = await a_line(wire, clock, baud=baud, **(timing or {}))
        given: dict[str, Any] = {"zone": CHINA, "clock": clock, "authority": lambda _: AUTHORITY} | options
        switch = Dlt645Switch(line, **given)
        await story(Site(switch, line, wire, bus, clock, a_record(contract, address=address)))
        line.close()

    run(main, start=start)


def shown_by(digits: str) -> datetime:
    """A moment by a meter's clock, which has no zone."""
    return datetime.strptime(f"{digits}+0000", "%y%m%d%H%M%S%z").replace(tzinfo=None)


def order_in(site: Site) -> RelayRequest:
    [(_, frame)] = site.wire.orders
    message = decode(frame)
    assert isinstance(message, RelayRequest)
    return message


def dis(site: Site) -> list[str]:
    """What was on the wire, in order: DIs of reads, functions of everything else."""
    found = []
    for _, frame in site.wire.frames:
        message = decode(frame)
        found.append(str(message.di) if isinstance(message, ReadRequest) else f"{frame.control:02X}H")
    return found
