"""A file of faults that may change while the meters run.

It is read again when its time or size changes, or when somebody asks. A file that is wrong, or gone for a moment while
an editor writes it, leaves the faults as they were.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from simulators.faults import METER_ADDRESSES, AddressRule, BadFaults, FaultPlan, load_plan

__all__ = ["FaultFile", "FaultedBus", "struck_on"]

LOOK_S = 0.5


class Addressed(Protocol):
    @property
    def address(self) -> str: ...


class FaultedBus(Protocol):
    """A line whose faults may be changed. Setting `faults` raises BadFaults for what cannot happen on it.

    addresses: how its meters are named.
    """

    addresses: AddressRule

    @property
    def meters(self) -> Sequence[Addressed]: ...
    @property
    def faults(self) -> FaultPlan: ...
    @faults.setter
    def faults(self, plan: FaultPlan) -> None: ...
    @property
    def struck(self) -> Counter[str]: ...


class FaultFile:
    """began: what relative times in the file count from. report: told in a sentence what has become of a change."""

    def __init__(
        self, path: Path, began: datetime, buses: Sequence[FaultedBus], report: Callable[[str], object]
    ) -> None:
        self._path = path
        self._began = began
        self._buses = buses
        self._report = report
        self._seen: tuple[int, int] | None = None
        self._asked = asyncio.Event()

    def load(self) -> None:
        """Read it and put it into force. Raises BadFaults, OSError."""
        self._seen = self._stamp()
        plan = load_plan(self._path, self._began, self._buses[0].addresses if self._buses else METER_ADDRESSES)
        try:
            for bus in self._buses:
                bus.faults = plan
        except BadFaults as error:
            raise BadFaults(f"{self._path}: {error}") from error
        for absent in _absent(plan, self._buses):
            self._report(f"{self._path}: meter {absent} is not simulated here")

    def reload(self) -> None:
        """Read it again soon, changed or not."""
        self._asked.set()

    async def follow(self) -> None:
        """Read it again whenever it changes; never ends by itself."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                if self._stamp() in (None, self._seen):
                    continue
            self._asked.clear()
            try:
                self.load()
            except (BadFaults, OSError) as error:
                self._report(f"{error}; the faults stay as they were")
                continue
            count = len(self._buses[0].faults.faults) if self._buses else 0
            self._report(f"{self._path} read again: {count} faults; struck so far: {struck_on(self._buses)}")

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size


def struck_on(buses: Sequence[FaultedBus]) -> str:
    """How often each fault has struck on all lines, for people."""
    names = sorted({name for bus in buses for name in bus.struck})
    return ", ".join(f"{name} {sum(bus.struck[name] for bus in buses)}" for name in names) or "nothing"


def _absent(plan: FaultPlan, buses: Sequence[FaultedBus]) -> list[str]:
    there = {meter.address for bus in buses for meter in bus.meters}
    return sorted({address for fault in plan.faults for address in fault.meters} - there)
