"""What a billing system should hold of simulated meters, and everything in which its copy differs from that.

The simulated meters are functions of their seed and the time, so the truth is not what somebody recorded on the way: it is asked of
the same meters again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from firmware_contracts.contract import load
from protocols.values import MeterAddress
from simulators.cli import _kind
from simulators.load_curve import Quantity
from simulators.meter import MeterModel

__all__ = ["StreetTruth", "differences", "id_of"]

READ = "headend.read.v1"
BEFORE = timedelta(
    seconds=5
)  # between the meter's look at its register and the head-end's at the clock, on a busy machine
AFTER = timedelta(seconds=0.5)  # the simulator's clock runs evenly from its start, ours may have been corrected
PERIOD = timedelta(minutes=1)
SHOWN_MAX = 20

Event = Mapping[str, Any]


class StreetTruth:
    """The meters of `meter-sim dlt645 --meters COUNT --seed SEED`. Quantities are energies, "1-0:1.8.T" and "1-0:2.8.T"."""

    def __init__(self, *, count: int, seed: int, quantities: Sequence[str]) -> None:
        self.quantities = tuple(quantities)
        self.meters = {id_of(number): self._model(number, seed) for number in range(1, count + 1)}
        self.expected = {(meter, obis) for meter in self.meters for obis in quantities}
        self._energy = cache(self._ask)

    @staticmethod
    def _model(number: int, seed: int) -> MeterModel:
        return MeterModel(
            MeterAddress(f"{number:012d}"),
            seed=seed * 1_000_003 + number - 1,
            kind=_kind(number - 1, load("dlt645/base_2007")),
            clock_set_at=datetime(2026, 1, 1, tzinfo=UTC),  # its energies do not depend on its clock
            timezone=ZoneInfo("Asia/Shanghai"),
        )

    def had(self, meter: str, obis: str, value: Decimal, received_at: datetime) -> bool:
        """Whether the meter's register stood there just before it was received."""
        second = received_at.replace(microsecond=0)
        low = self._energy(meter, obis, second - BEFORE)
        return low <= value <= self._energy(meter, obis, second + timedelta(seconds=1) + AFTER)

    def _ask(self, meter: str, obis: str, at: datetime) -> Decimal:
        direction = Quantity.FORWARD if obis.startswith("1-0:1.") else Quantity.REVERSE
        return self.meters[meter].energy(direction, int(obis[-1]), at)


def id_of(number: int) -> str:
    return f"M{number:06d}"


def differences(copy: Mapping[str, Event], truth: StreetTruth, *, last: int, complete_until: datetime) -> list[str]:
    """What is wrong with a consumer's copy, the events by id; nothing, if all is well.

    last: how many events there are. complete_until: every interval end up to here has its read, from the first one on that a channel
    was read for: what a head-end was never able to ask for is not named, since it may just have been installed.
    """
    return list(_differences(copy, truth, last, complete_until))


def _differences(copy: Mapping[str, Event], truth: StreetTruth, last: int, complete_until: datetime) -> Iterator[str]:
    sequences = Counter(int(event["sequence"]) for event in copy.values())
    yield from _some("lost", sorted(set(range(1, last + 1)) - sequences.keys()))
    yield from _some("never sent", sorted(sequences.keys() - set(range(1, last + 1))))
    yield from _some("twice under other ids", [number for number, times in sequences.items() if times > 1])
    yield from _some("another id inside", [identity for identity, event in copy.items() if event["id"] != identity])
    reads = [event["data"] for event in copy.values() if event["type"] == READ]
    places = Counter((read["meter"], read["obis"], read["interval_end"], read["revision"]) for read in reads)
    yield from _some("read twice", [place for place, times in places.items() if times > 1])
    wrong = [
        (read["meter"], read["obis"], read["value"], read["received_at"])
        for read in reads
        if read["value"] is not None
        and not truth.had(
            read["meter"], read["obis"], Decimal(read["value"]), datetime.fromisoformat(read["received_at"])
        )
    ]
    yield from _some("never shown by the meter", wrong)
    slots: dict[tuple[str, str], set[datetime]] = {}
    for meter, obis, end, _ in places:
        slots.setdefault((meter, obis), set()).add(datetime.fromisoformat(end))
    yield from _some("read of nobody", sorted(slots.keys() - truth.expected))
    yield from _some("never read", sorted(truth.expected - slots.keys()))
    holes = [
        (*channel, str(slot))
        for channel, found in slots.items()
        for slot in _slots_between(min(found), complete_until)
        if slot not in found
    ]
    yield from _some("no read", holes)


def _slots_between(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += PERIOD


def _some(what: str, found: Sequence[object]) -> Iterator[str]:
    if found:
        more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
        yield f"{what}: {list(found[:SHOWN_MAX])}{more}"
