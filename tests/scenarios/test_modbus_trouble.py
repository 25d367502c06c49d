"""A concentrator on Modbus TCP with many meters, in virtual time: what outages, dead meters and our own mistakes cost the others."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headend.app import HeadEnd
from headend.config import load_config
from headend.drivers.modbus import ModbusDriver
from headend.drivers.transport import LineUrl
from headend.store.store import open_store
from headend.store.writer import inline
from protocols.modbus.adu import TcpFrame
from protocols.modbus.pdu import ModbusException, Registers, Reply, encode_reply
from simulators.virtual_time import VirtualClock, run

REQUEST_SIZE = 12
QUARTER_S = 900.0
Answer = Callable[[int, float], tuple[float, Reply] | None]  # by unit and time: after how long, and what


class Concentrator(asyncio.Transport):
    """Has one line behind it: asks one meter after the other. busy_s: how long it has asked meters that gave no reply."""

    def __init__(self, protocol: asyncio.Protocol, answer: Answer) -> None:
        super().__init__()
        self.protocol = protocol
        self.answer = answer
        self.asked: Counter[int] = Counter()
        self.busy_s = 0.0
        self.free_at = 0.0

    def write(self, data: Any) -> None:
        wires, loop = bytes(data), asyncio.get_running_loop()
        for at in range(0, len(wires), REQUEST_SIZE):
            asked = TcpFrame.from_bytes(wires[at : at + REQUEST_SIZE])
            self.asked[asked.unit] += 1
            found = self.answer(asked.unit, loop.time())
            if found is None:
                continue
            delay_s, reply = found
            if isinstance(reply, ModbusException):
                self.busy_s += delay_s
            self.free_at = max(self.free_at, loop.time()) + delay_s
            wire = TcpFrame(asked.transaction, asked.unit, encode_reply(reply)).to_bytes()
            loop.call_at(self.free_at, self.protocol.data_received, wire)

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False


def polled(
    folder: Path, answer: Answer, *, meters: int, in_flight: int, quarters: int
) -> tuple[Counter[tuple[str, str]], Concentrator]:
    """Reads by interval end and what became of them."""

    async def main(clock: VirtualClock, _: object) -> tuple[Counter[tuple[str, str]], Concentrator]:
        path = folder / "concentrator.toml"
        parts = [
            f'[headend]\nname = "street"\ntimezone = "Asia/Shanghai"\nstore = "sqlite:///{folder}/street.db"\n',
            '[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = ["1-0:1.8.0"]\n',
            f'[[lines]]\nname = "line"\nurl = "tcp://line:1"\nprotocol = "modbus-tcp"\nin_flight = {in_flight}\n',
        ]
        parts += [
            f'[[meters]]\nid = "M{unit:03}"\nline = "line"\naddress = "{unit}"\ncontract = "modbus/eastron_sdm630"\nplan = "plan"\n'
            for unit in range(1, meters + 1)
        ]
        path.write_text("\n".join(parts))
        config = load_config(path)
        assert config.problems == ()
        store = open_store(config.store, config.name)
        made: list[Concentrator] = []

        async def connect(_: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            made.append(Concentrator(protocol, answer))
            protocol.connection_made(made[-1])
            return made[-1]

        head_end = HeadEnd(config, store, clock=clock, connect=connect, execute=inline, linger_s=2.0)
        stop = asyncio.Event()
        running = asyncio.create_task(head_end.run(stop))
        await asyncio.sleep(quarters * QUARTER_S - 5)
        stop.set()
        await running
        found: Counter[tuple[str, str]] = Counter()
        for event in store.events_after(0, 1_000_000):
            data = json.loads(event)["data"]
            if "interval_end" in data:
                found[data["interval_end"], "read" if data["value"] is not None else data["reason"]] += 1
        store.close()
        return found, made[-1]

    return run(main, seed=5)


ENERGY = Registers(4, bytes.fromhex("42F6E979"))


def test_an_outage_of_minutes_costs_no_interval_that_it_leaves_time_for(tmp_path: Path) -> None:
    """The whole concentrator is mute for five minutes while every meter is due; each of them is paid for as a silent meter."""

    def answer(_: int, now: float) -> tuple[float, Reply] | None:
        return None if QUARTER_S - 10 <= now < QUARTER_S + 290 else (0.05, ENERGY)

    found, _ = polled(tmp_path, answer, meters=200, in_flight=16, quarters=5)
    assert {what for _, what in found} == {"read"}
    assert set(found.values()) == {200}
    assert len(found) == 5


def test_meters_of_which_the_concentrator_says_that_they_are_silent_are_asked_ever_more_seldom(tmp_path: Path) -> None:
    """It says so after a time-out of its own on its one line, which the living need."""
    dead = set(range(1, 41))

    def answer(unit: int, _: float) -> tuple[float, Reply]:
        return (2.0, ModbusException(4, 0x0B)) if unit in dead else (0.05, ENERGY)

    found, concentrator = polled(tmp_path, answer, meters=100, in_flight=1, quarters=16)
    slots = sorted({slot for slot, _ in found})
    assert all(found[slot, "read"] == 60 for slot in slots)
    assert all(found[slot, "silent"] == 40 for slot in slots[:-1])
    share = concentrator.busy_s / (16 * QUARTER_S)
    assert share < 0.10, share


def test_an_error_of_ours_at_one_meter_loses_nothing_of_those_that_were_under_way_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is made to fail, since no input is known that makes it."""
    ask = ModbusDriver.ask
    failed: list[str] = []

    async def failing(self: ModbusDriver, address: str, *args: Any, **options: Any) -> Any:
        if address == "3" and not failed:
            failed.append(address)
            await asyncio.sleep(0.02)
            raise RuntimeError("a mistake of ours")
        return await ask(self, address, *args, **options)

    monkeypatch.setattr(ModbusDriver, "ask", failing)
    found, _ = polled(tmp_path, lambda *_: (0.05, ENERGY), meters=8, in_flight=8, quarters=1)
    assert failed
    assert list(found.values()) == [8]
    assert {what for _, what in found} == {"read"}
