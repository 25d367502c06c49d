"""Hours of Modbus lines in virtual time: RTU, and a concentrator on TCP; some meters are dead, and every interval is in the feed."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from firmware_contracts.modbus_contract import load_modbus
from headend.app import HeadEnd
from headend.config import load_config
from headend.drivers.line import Line
from headend.store.store import open_store
from headend.store.writer import inline
from protocols.values import MeterAddress
from simulators.faults import Fault, FaultKind, FaultPlan
from simulators.line import SimulatedLine
from simulators.meter import MeterModel
from simulators.modbus_bus import ModbusBus
from simulators.modbus_meter import ModbusMeter
from simulators.virtual_time import VirtualClock, run
from tests.scenarios.street import transport_to

QUANTITIES = ["1-0:1.8.0", "1-0:32.7.0", "1-0:16.7.0"]
CONTRACT = "modbus/eastron_sdm630"
METERS = 12
DEAD = ("3", "7")
HOURS = 4
SLOTS = HOURS * 4


def street_text(folder: Path, protocol: str, in_flight: int) -> str:
    parts = [
        f'[headend]\nname = "street"\ntimezone = "Asia/Shanghai"\nstore = "sqlite:///{folder}/street.db"\n',
        f'[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = {json.dumps(QUANTITIES)}\n',
        f'[[lines]]\nname = "line"\nurl = "tcp://line:1"\nprotocol = "{protocol}"\nin_flight = {in_flight}\nreply_timeout_s = 0.5\n',
        '[[ratios]]\nmeter = "M01"\nsince = 2025-06-01T08:00:30+08:00\nct = "400/5"\npt = "100"\n',
    ]
    parts += [
        f'[[meters]]\nid = "M{unit:02}"\nline = "line"\naddress = "{unit}"\ncontract = "{CONTRACT}"\nplan = "plan"\n'
        for unit in range(1, METERS + 1)
    ]
    return "\n".join(parts)


@pytest.mark.parametrize(("protocol", "in_flight"), [("modbus-rtu", 1), ("modbus-tcp", 1), ("modbus-tcp", 4)])
def test_every_interval_of_every_meter_is_read_once_and_the_dead_are_named(
    tmp_path: Path, protocol: str, in_flight: int
) -> None:
    async def story(clock: VirtualClock, _: object) -> list[dict[str, object]]:
        meters = [
            ModbusMeter(
                MeterModel(MeterAddress(f"{unit:012}"), seed=70 + unit, clock_set_at=clock.world()),
                load_modbus(CONTRACT),
                unit,
            )
            for unit in range(1, METERS + 1)
        ]
        bus = ModbusBus(meters, framing="tcp" if protocol == "modbus-tcp" else "rtu")
        bus.faults = FaultPlan(seed=1, faults=(Fault(kind=FaultKind.SILENCE, meters=DEAD),))
        path = tmp_path / "street.toml"
        path.write_text(street_text(tmp_path, protocol, in_flight))
        config = load_config(path)
        assert config.problems == ()
        store = open_store(config.store, config.name)
        wires = {"line": SimulatedLine(bus, clock.world)}
        head_end = HeadEnd(config, store, clock=clock, connect=transport_to(wires), execute=inline, linger_s=2.0)
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        most = await under_way_at_most(head_end.line_owners[0], HOURS * 3600 - 10)
        stop.set()
        await running
        assert most == in_flight
        events = [json.loads(event) for event in store.events_after(0, 1_000_000)]
        store.close()
        return [event["data"] for event in events if event["type"] == "headend.read.v1"]

    reads = run(story, seed=3)
    keys = Counter((read["meter"], read["obis"], read["interval_end"]) for read in reads)
    assert set(keys.values()) == {1}
    # The last round was still open for the dead when the head-end stopped.
    assert len(keys) == len(QUANTITIES) * (METERS * SLOTS - len(DEAD))
    for read in reads:
        is_dead = str(read["meter"])[1:].lstrip("0") in DEAD
        assert (read["quality"] == ["missing"]) is is_dead, read
        assert (read.get("reason", "") == "silent") is is_dead
        assert read["source"] == f"{CONTRACT}:{SOURCES[str(read['obis'])]}"
    energies = [Decimal(str(read["value"])) for read in reads if (read["meter"], read["obis"]) == ("M02", "1-0:1.8.0")]
    assert energies == sorted(energies)


SOURCES = {"1-0:1.8.0": "import_active_energy", "1-0:32.7.0": "voltage_l1", "1-0:16.7.0": "active_power"}


async def under_way_at_most(line: Line, seconds: float) -> int:
    """Looked at often in the first minute of every quarter of an hour, when everything is read."""
    loop = asyncio.get_running_loop()
    until, most = loop.time() + seconds, 0
    while loop.time() < until:
        for _ in range(200):
            most = max(most, len(line._in_flight))
            await asyncio.sleep(0.01)
        await asyncio.sleep(min(898.0, max(0.0, until - loop.time())))
    return most


def test_a_read_behind_transformers_carries_both_sides_from_its_first_whole_interval_on(tmp_path: Path) -> None:
    async def story(clock: VirtualClock, _: object) -> list[dict[str, object]]:
        meter = ModbusMeter(
            MeterModel(MeterAddress(f"{1:012}"), seed=71, clock_set_at=clock.world()), load_modbus(CONTRACT), 1
        )
        bus = ModbusBus([meter], framing="rtu")
        path = tmp_path / "street.toml"
        text = street_text(tmp_path, "modbus-rtu", 1)
        path.write_text(text[: text.index('[[meters]]\nid = "M02"')])
        config = load_config(path)
        store = open_store(config.store, config.name)
        head_end = HeadEnd(
            config,
            store,
            clock=clock,
            connect=transport_to({"line": SimulatedLine(bus, clock.world)}),
            execute=inline,
            linger_s=2.0,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        await asyncio.sleep(1000)
        stop.set()
        await running
        data = [json.loads(event)["data"] for event in store.events_after(0, 1000)]
        stored = store.reads("M01", "1-0:1.8.0")
        assert [read.ratio for read in stored] == [None, Decimal(8000)]
        store.close()
        return [one for one in data if "interval_end" in one]

    reads = run(story, seed=3)
    start = datetime(2025, 6, 1, tzinfo=UTC)
    by_slot = {(read["obis"], read["interval_end"]): read for read in reads}
    first, second = (f"{start + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}" for minutes in (0, 15))
    assert "ratio" not in by_slot["1-0:1.8.0", first]
    energy, voltage = by_slot["1-0:1.8.0", second], by_slot["1-0:32.7.0", second]
    assert (energy["side"], energy["ratio"], voltage["ratio"]) == ("primary", "8000", "100")
    assert Decimal(str(energy["secondary"])) * 8000 == pytest.approx(Decimal(str(energy["value"])), abs=Decimal("1e-8"))
