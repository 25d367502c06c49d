"""A line of simulated meters in virtual time, opened at any rate, and scans of it."""

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from firmware_contracts.contract import load
from headend.drivers.transport import LineUrl
from headend.scanning.scanner import Scanner, ScanOptions, Step
from headend.scanning.state import ScanState, Setting, load_state
from protocols.dlt645.control import Dialect
from protocols.dlt645.narrowing import exchanges_min
from protocols.values import MeterAddress
from simulators import virtual_time
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.faults import Fault, FaultPlan
from simulators.line import Bus, SimulatedLine
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock

__all__ = ["AT_2400", "Place", "addresses_of", "minimum", "random_addresses", "scan"]

AT_2400 = (Setting(2400, "E"),)
URL = "serial:///dev/ttyUSB0"


class Place:
    """What hangs on the wire. old: 1997 meters. deaf: they know no wildcard. break_after: the line breaks when
    so much was asked. make_bus: another bus than one of meters; gets rate and parity of the opened port."""

    def __init__(
        self,
        *addresses: str,
        old: Collection[str] = (),
        deaf: Collection[str] = (),
        delays: dict[str, float] | None = None,
        baud: int | None = None,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        make_bus: Callable[[int | None, str], Bus] | None = None,
        url: str = URL,
        break_after: int | None = None,
    ) -> None:
        self.addresses = [*addresses, *old]
        self.old = set(old)
        self.deaf = set(deaf)
        self.delays = delays or {}
        self.baud = baud
        self.seed = seed
        self.faults = FaultPlan(seed=seed, faults=tuple(faults))
        self.make_bus = make_bus
        self.url = url
        self.break_after = break_after
        self.opened: list[tuple[int | None, str]] = []
        self.requests = 0

    def connect(self, clock: VirtualClock) -> Callable[[LineUrl, asyncio.Protocol], Any]:
        meters = [self._meter(address, index, clock.world()) for index, address in enumerate(self.addresses)]

        async def connect(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
            self.opened.append((url.baud, url.parity))
            bus: Bus
            if self.make_bus is not None:
                bus = self.make_bus(url.baud, url.parity)
            else:
                bus = Dlt645Bus(meters, baud=url.baud, parity=url.parity, faults=self.faults)
            counting = _Counting(bus, self)
            line = counting._line = SimulatedLine(counting, clock.world, baud=url.baud)
            return await line.connect(protocol)

        return connect

    def _meter(self, address: str, index: int, now: datetime) -> Dlt645Meter:
        contract = load("dlt645/base_1997" if address in self.old else "dlt645/base_2007")
        model = MeterModel(MeterAddress(address), seed=self.seed * 1000 + index, clock_set_at=now)
        kind = _Deaf if address in self.deaf else Dlt645Meter
        return kind(model, contract, reply_delay_s=self.delays.get(address), baud=self.baud)


class _Deaf(Dlt645Meter):
    """Firmware without abbreviated addressing."""

    def hears(self, pattern: str) -> bool:
        return pattern == self.address


class _Counting:
    """A bus that tells how often the master spoke."""

    def __init__(self, bus: Bus, place: Place) -> None:
        self._bus = bus
        self._place = place
        self._line: SimulatedLine | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._bus, name, value)

    @property
    def deadline(self) -> float | None:
        return self._bus.deadline

    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None:
        self._place.requests += 1
        if self._place.requests == self._place.break_after and self._line is not None:
            self._line.drop()
            return
        self._bus.receive(chunk, monotonic, now)

    def tick(self, monotonic: float, now: datetime) -> None:
        self._bus.tick(monotonic, now)

    def take_output(self) -> list[bytes]:
        return self._bus.take_output()


def scan(
    place: Place,
    settings: tuple[Setting, ...] = AT_2400,
    *,
    state_path: Path | None = None,
    steps: list[Step] | None = None,
    **options: Any,
) -> ScanState:
    """One scan to its end; with `state_path` it goes on from what is there."""

    async def main(clock: VirtualClock, _: random.Random) -> ScanState:
        scanner = Scanner(
            LineUrl.parse(place.url),
            ScanOptions(settings=settings, **options),
            connect=place.connect(clock),
            clock=clock,
            state=load_state(state_path) if state_path is not None else None,
            state_path=state_path,
            on_progress=steps.append if steps is not None else lambda _: None,
        )
        return await scanner.run()

    return virtual_time.run(main, seed=place.seed)


def addresses_of(state: ScanState) -> set[str]:
    assert len({found.address for found in state.found}) == len(state.found)
    return {found.address for found in state.found}


def minimum(place: Place, dialects: Collection[Dialect] = tuple(Dialect)) -> int:
    """Both dialects are narrowed, each on its own."""
    new = set(place.addresses) - place.old
    return sum(exchanges_min(new if dialect is Dialect.V2007 else place.old) for dialect in dialects)


def random_addresses(count: int, seed: int) -> list[str]:
    draw = random.Random(f"{seed}/addresses")
    return [f"{number:012}" for number in draw.sample(range(10**12 - 1), count)]
