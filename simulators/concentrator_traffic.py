"""What happens to readings between a concentrator's store and its socket: repeated, moved, damaged. No I/O, no clock.

A moved reading is held back until so many others have gone before it, but never longer than the fault allows. Answers,
events and presence pass untouched.
"""

from collections import Counter
from datetime import datetime
from heapq import heapify, heappop, heappush

from msgspec import Struct
from msgspec.structs import replace

from protocols.concentrator.messages import Outgoing
from simulators.concentrator_faults import ConcentratorFaultKind, ConcentratorPlan
from simulators.concentrator_store import Kept
from simulators.load_curve import mix

__all__ = ["Departing", "Traffic"]

K = ConcentratorFaultKind
_NESTED = 10_000


class Departing(Struct, frozen=True):
    """key: of the kept message that the broker's acknowledgement settles; None: nobody waits for it."""

    key: int | None
    message: Outgoing


class Traffic:
    """struck: how often each fault has struck, by name; it is counted where the plan's owner counts."""

    def __init__(self, struck: Counter[str]) -> None:
        self._struck = struck
        self._count = 0
        self._held: list[tuple[int, int, float, Departing]] = []  # place, count, latest moment, what

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which something is held back no longer."""
        return min((latest for _, _, latest, _ in self._held), default=None)

    def pass_on(self, kept: Kept, plan: ConcentratorPlan, monotonic: float, now: datetime) -> list[Departing]:
        """What leaves because of `kept`, in order."""
        departing = Departing(kept.key, kept.message)
        if not kept.is_data or not plan.faults:
            return [departing]
        self._count += 1
        leaving: list[Departing] = []
        if (struck := plan.strike(K.MALFORMED, self._count, now)) is not None:
            self._struck[struck[0].title] += 1
            leaving.append(Departing(None, replace(kept.message, payload=_damaged(kept.message.payload, struck[1]))))
        several = [departing]
        if (struck := plan.strike(K.DUPLICATE, self._count, now)) is not None:
            self._struck[struck[0].title] += 1
            several += [Departing(None, kept.message)] * struck[0].get("copies")
        reorder = plan.strike(K.REORDER, self._count, now)
        if reorder is None:
            return [*leaving, *several, *self._due()]
        fault, random = reorder
        self._struck[fault.title] += 1
        for index, each in enumerate(several):
            place = self._count + mix(random, index) % fault.get("window")
            heappush(self._held, (place, self._count * 128 + index, monotonic + fault.get("hold_s"), each))
        return leaving + self._due()

    def tick(self, monotonic: float) -> list[Departing]:
        """What was held back long enough."""
        late = [entry for entry in self._held if entry[2] <= monotonic]
        if late:
            self._held = [entry for entry in self._held if entry[2] > monotonic]
            heapify(self._held)
        return [departing for _, _, _, departing in sorted(late, key=lambda entry: entry[:2])]

    def forget(self) -> None:
        """The connection is gone; what was held back is still in the store."""
        self._held.clear()

    def _due(self) -> list[Departing]:
        found: list[Departing] = []
        while self._held and self._held[0][0] <= self._count:
            found.append(heappop(self._held)[3])
        return found


def _damaged(payload: bytes, random: int) -> bytes:
    """One that no reader may take for a message."""
    cut = 1 + mix(random, 1) % max(1, len(payload) - 1)
    return (
        payload[: min(cut, len(payload) - 1)],
        b"\xff\xfe" + payload,
        b"[" * _NESTED,
        payload + b"}",
        b'{"values":{"1-0:1.8.0":NaN}}',
        b'{"ts":1e999}',
        b"",
    )[random % 7]
