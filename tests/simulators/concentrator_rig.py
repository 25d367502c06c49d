"""A simulated concentrator without a broker, for tests: time jumps, and whatever it publishes is acknowledged."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from firmware_contracts.concentrator_contract import load_concentrator
from protocols.concentrator.messages import Command, CommandAnswer, MeterData, Op, Outgoing
from protocols.values import MeterAddress
from simulators.concentrator import SimulatedConcentrator
from simulators.concentrator_faults import ConcentratorPlan, parse_fault
from simulators.meter import MeterModel

__all__ = ["METER", "START", "Rig", "data", "models", "rig"]

START = datetime(2025, 6, 1, 4, 0, 30, tzinfo=UTC)  # half a minute past noon in China
METER = "000000000001"


class Rig:
    """A concentrator with a broker that acknowledges at once, and time that jumps to each deadline."""

    def __init__(self, concentrator: SimulatedConcentrator) -> None:
        self.concentrator = concentrator
        self.monotonic = 1000.0
        self.sent: list[Outgoing] = []
        self.connected = True
        concentrator.connected(self.monotonic, self.now)

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.monotonic - 1000.0)

    def run(self, seconds: float) -> list[Outgoing]:
        """What is published meanwhile."""
        before, end = len(self.sent), self.monotonic + seconds
        while True:
            self.concentrator.tick(self.monotonic, self.now)
            if self.connected:
                for departing in self.concentrator.take_output(1000, self.monotonic, self.now):
                    self.sent.append(departing.message)
                    if departing.key is not None:
                        self.concentrator.acknowledged(departing.key)
            deadline = self.concentrator.deadline
            if deadline is None or deadline > end:
                break
            self.monotonic = max(deadline, self.monotonic + 1e-4)
        self.monotonic = end
        return self.sent[before:]

    def told(self, seconds: float) -> list[Any]:
        """The same as the head-end's side of the codec reads it."""
        return self.read(self.run(seconds))

    def read(self, messages: Sequence[Outgoing]) -> list[Any]:
        contract = self.concentrator.contract
        return [each for one in messages for each in contract.decode(one.topic, one.payload, now=self.now)]

    def send(self, command: Command, *, retained: bool = False) -> Outgoing:
        message = self.concentrator.contract.encode_command(self.concentrator.name, command, now=self.now)
        self.concentrator.receive(message.topic, message.payload, retained, self.monotonic, self.now)
        return message

    def answers(self, seconds: float = 10.0) -> list[CommandAnswer]:
        return [one for one in self.told(seconds) if isinstance(one, CommandAnswer)]

    def command(self, op: Op, *, id: str = "a-1", meter: str = METER, ttl_s: float = 30.0, **params: Any) -> Command:
        return Command(id=id, meter=meter, op=op, params=params, expires_at=self.now + timedelta(seconds=ttl_s))


def models(count: int = 2, **traits: Any) -> list[MeterModel]:
    return [
        MeterModel(MeterAddress(f"{number:012}"), seed=number, clock_set_at=START - timedelta(days=1), **traits)
        for number in range(1, count + 1)
    ]


def rig(*faults: str, family: str = "hes_v1", count: int = 2, **settings: Any) -> Rig:
    plan = ConcentratorPlan(seed=1, faults=tuple(map(parse_fault, faults)))
    contract = load_concentrator(f"concentrator/{family}", concentrator="C1", timezone="Asia/Shanghai")
    settings = {"period_s": None, "faults": plan} | settings
    return Rig(SimulatedConcentrator("C1", contract, models(count, clock_offset_s=0, drift_ppm=0), **settings))


def data(found: Sequence[Any]) -> list[MeterData]:
    return [one for one in found if isinstance(one, MeterData)]
