"""A whole system in one process and in virtual time: simulated meters, lines, head-end, store, feed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct

from firmware_contracts.contract import load
from headend.app import HeadEnd
from headend.config import Config, load_config
from headend.drivers.errors import LineDown
from headend.drivers.transport import Connect, LineUrl
from headend.store.store import Store, open_store
from headend.store.writer import inline
from protocols.values import MeterAddress
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.line import SimulatedLine
from simulators.load_curve import Kind
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock
from tests.headend.support import with_tables

__all__ = ["Street", "run_street", "transport_to"]

KINDS = (Kind.HOUSEHOLD, Kind.HOUSEHOLD, Kind.SHOP, Kind.FACTORY)


class Street(Struct):
    """What stands on the other end of the wires. meters: by asset number."""

    config: Config
    store: Store
    lines: dict[str, SimulatedLine]
    meters: dict[str, Dlt645Meter]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.store.events_after(0, 1_000_000)]

    def reads(self, *, revision: int | None = None) -> list[dict[str, Any]]:
        """`data` of the read events, of one revision only where given."""
        found = [event["data"] for event in self.events() if event["type"] == "headend.read.v1"]
        return [data for data in found if revision is None or data["revision"] == revision]


def build(
    folder: Path,
    clock: VirtualClock,
    *,
    seed: int,
    lines: int,
    meters_per_line: int,
    quantities: list[str],
    period: str,
    baud: int | None,
    edit: Callable[[str], str],
    meter_contract: str = "dlt645/base_2007",
) -> Street:
    parts = [
        f'[headend]\nname = "street"\ntimezone = "Asia/Shanghai"\nstore = "sqlite:///{folder}/street.db"\n',
        f'[[plans]]\nname = "plan"\nperiod = "{period}"\nquantities = {json.dumps(quantities)}\n',
    ]
    contract = load(meter_contract)
    wires: dict[str, SimulatedLine] = {}
    meters: dict[str, Dlt645Meter] = {}
    for line in range(lines):
        on_line = []
        rate = f"?baud={baud}" if baud else ""
        parts.append(f'[[lines]]\nname = "line-{line}"\nurl = "tcp://line-{line}:1{rate}"\n')
        for place in range(meters_per_line):
            number = line * meters_per_line + place + 1
            model = MeterModel(
                MeterAddress(f"{number:012}"),
                seed=seed * 100_003 + number,
                kind=KINDS[number % len(KINDS)],
                clock_set_at=clock.world(),
            )
            meter = Dlt645Meter(model, contract)
            meters[f"M{number:06}"] = meter
            on_line.append(meter)
            parts.append(
                f'[[meters]]\nid = "M{number:06}"\nline = "line-{line}"\naddress = "{number:012}"\nplan = "plan"\n'
            )
        wires[f"line-{line}"] = SimulatedLine(Dlt645Bus(on_line), clock.world, baud=baud)
    path = folder / "street.toml"
    path.write_text(edit("\n".join(parts)), encoding="utf-8")
    config = load_config(path)
    assert config.problems == ()
    return Street(config, open_store(with_tables(config.store), config.name), wires, meters)


def transport_to(lines: dict[str, SimulatedLine]) -> Connect:
    """Connects a LINE URL to the simulated line that its host names."""

    async def connect(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
        try:
            return await lines[url.host].connect(protocol)
        except ConnectionError as error:
            raise LineDown(url.text, str(error)) from error

    return connect


async def run_street(
    folder: Path,
    clock: VirtualClock,
    *,
    hours: float,
    seed: int,
    lines: int = 1,
    meters_per_line: int = 4,
    quantities: list[str],
    period: str = "15m",
    baud: int | None = 2400,
    linger_s: float = 2.0,
    edit: Callable[[str], str] = str,
    meanwhile: Callable[[Street, VirtualClock], Awaitable[None]] | None = None,
    meter_contract: str = "dlt645/base_2007",
) -> Street:
    """Run for `hours` of virtual time and give back the street, its head-end stopped and its store open.

    edit: a last change to the configuration file. meanwhile: what happens on the street; it runs beside the head-end.
    meter_contract: what the meters are; the head-end takes them for dlt645/base_2007.
    """
    street = build(
        folder,
        clock,
        seed=seed,
        lines=lines,
        meters_per_line=meters_per_line,
        quantities=quantities,
        period=period,
        baud=baud,
        edit=edit,
        meter_contract=meter_contract,
    )

    head_end = HeadEnd(
        street.config, street.store, clock=clock, connect=transport_to(street.lines), execute=inline, linger_s=linger_s
    )
    stop = asyncio.Event()
    running = asyncio.create_task(head_end.run(stop))
    until: datetime = clock.world() + timedelta(hours=hours)
    if meanwhile is not None:
        await meanwhile(street, clock)
    await asyncio.sleep((until - clock.world()).total_seconds())
    stop.set()
    await running
    return street
