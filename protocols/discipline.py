"""What the sessions of half-duplex lines share: whose turn it is, who is still owed an answer, and which frames are doubles.

    IDLE ──request──▶ WAITING ──reply──▶ IDLE (after the turnaround)
                         └──deadline──▶ DRAINING ──silent for quiet_s──▶ IDLE

Replies on such lines carry no number. What tells one from another is its *key*, all of it that names a question: with DL/T 645 the
address, the function and the DI; with Modbus RTU only the unit, the function and how many bytes there are. Questions that share a key
but ask for different things differ in their *detail* (the start address). A question that stayed unanswered is a debt: its answer may
still come for `late_s_max`, and until then nobody else's frame with the same key is above suspicion. Far ends that queue answer one
question after the other: each late answer says that what was asked after it has been waiting, too, so those debts begin to run anew.

No I/O and no clock: `now` is monotonic seconds.
"""

import enum
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from protocols.exchange import Timing

__all__ = ["ANYBODY", "DOUBLE_S_MAX", "HEARD_KEPT_MAX", "Debts", "Doubles", "State", "Turn", "late_s_max_of"]

HEARD_KEPT_MAX = 512  # two frames' worth of evidence for an error message; more would only fill logs
LATE_FACTOR = 6.0  # replies have been seen up to five time-outs late (queueing serial servers)
UNANSWERED_MAX = 1024  # questions; more dead items than a line can ask for within late_s_max
UNANSWERED_PER_KEY_MAX = (
    64  # a meter whose learnt time-out is a tenth of the line's is asked that often within late_s_max
)
DOUBLING_S = 600.0  # how long a line on which doubles were seen is expected to double
DOUBLE_S_MAX = 1.0  # after a reply, its double may still come
RECENT_MAX = 64
SLACK_S = 0.001  # who has waited as long as told must not be told to wait again because of a rounding error
NEVER = float("-inf")

Key = TypeVar("Key", bound=Hashable)


def late_s_max_of(timing: Timing) -> float:
    """How long after its request a reply may still come."""
    return timing.late_s_max or LATE_FACTOR * timing.reply_timeout_s


class State(enum.Enum):
    IDLE = enum.auto()
    WAITING = enum.auto()
    DRAINING = enum.auto()


class Turn:
    """Whose turn it is to speak. until: when the present state ends unless something is heard; None while idle."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self.until: float | None = None
        self._limit = 0.0  # no extension goes beyond

    def wait(self, until: float, *, longest_s: float) -> None:
        """For a reply, which may take `longest_s` more once it has begun."""
        self.state, self.until, self._limit = State.WAITING, until, until + longest_s

    def rest(self, now: float, *, pause_s: float, pause_s_max: float = 0.0) -> None:
        """Send nothing for `pause_s`; bytes that come make it longer, up to `pause_s_max`."""
        if pause_s > 0:
            self.state, self.until = State.DRAINING, now + pause_s
            self._limit = now + max(pause_s, pause_s_max)
        else:
            self.stop()

    def stop(self) -> None:
        self.state, self.until = State.IDLE, None

    def heard(self, now: float, *, frame_deadline: float | None, quiet_s: float) -> None:
        """Bytes came. frame_deadline: when the half frame among them is given up."""
        if self.until is None:
            return
        if self.state is State.DRAINING:
            # The chunk that brought the reply must not cut short a pause that is longer than that silence.
            self.until = max(self.until, min(now + quiet_s, self._limit))
        elif frame_deadline is not None:
            # A reply is arriving: let it finish, but never beyond the limit, however long a device babbles.
            self.until = min(max(self.until, frame_deadline), self._limit)

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until


ANYBODY = "anybody"  # the detail of a debt of which nobody knows any more whose it is


class _Asking(Struct):
    """until: its answer may still come; later than it seemed at first when the far end turns out to be behind."""

    asked_at: float
    detail: Hashable
    until: float


class Debts(Generic[Key]):
    """Questions that stayed unanswered and whose answers may still come. Memory is bounded, the oldest are forgotten first."""

    def __init__(self, late_s_max: float) -> None:
        self.late_s_max = late_s_max
        self._askings: dict[Key, deque[_Asking]] = {}
        self._behind_at = NEVER  # when a late answer last showed the far end to be behind

    def __bool__(self) -> bool:
        return bool(self._askings)

    def __contains__(self, key: Key) -> bool:
        return key in self._askings

    def __iter__(self) -> Iterator[Key]:
        return iter(self._askings)

    def owe(self, key: Key, asked_at: float, now: float, *, detail: Hashable = None) -> None:
        """This asking ended without its reply."""
        if len(self._askings) >= UNANSWERED_MAX:
            self._askings = {key: askings for key, askings in self._askings.items() if askings[-1].until >= now}
        while len(self._askings) >= UNANSWERED_MAX:
            del self._askings[next(iter(self._askings))]
        askings = self._askings.setdefault(key, deque(maxlen=UNANSWERED_PER_KEY_MAX))
        askings.append(_Asking(asked_at, detail, max(asked_at, self._behind_at) + self.late_s_max))

    def owed_s(self, key: Key, began_at: float, now: float, *, detail: Hashable = None) -> float:
        """How long an answer to somebody else's asking (of another detail, or from before `began_at`) may still come; else 0."""
        if key not in self._askings:
            return 0.0
        others = [asking.until for asking in self._askings[key] if _is_other(asking, began_at, detail)]
        owed_s = others[-1] - now if others else 0.0
        return owed_s if owed_s > SLACK_S else 0.0

    def count(self, key: Key, now: float) -> int:
        """How many answers to this key may still come."""
        self._forget_old(key, now)
        return len(self._askings.get(key, ()))

    def settle(self, key: Key, before: float, now: float, *, detail: Hashable = None) -> float | None:
        """Give a frame to the oldest asking that is somebody else's, see `owed_s`: how long ago that was; None without one."""
        self._forget_old(key, now)
        askings = self._askings.get(key, ())
        for asking in askings:
            if _is_other(asking, before, detail):
                self._pay(key, asking, now)
                return now - asking.asked_at
        return None

    def settle_oldest(self, key: Key, now: float) -> None:
        self._pay(key, self._askings[key][0], now)

    def clear(self) -> None:
        self._askings.clear()
        self._behind_at = NEVER

    def _forget_old(self, key: Key, now: float) -> None:
        askings = self._askings.get(key)
        while askings and askings[0].until < now:
            askings.popleft()
        if askings is not None and not askings:
            del self._askings[key]

    def _pay(self, key: Key, paid: _Asking, now: float) -> None:
        askings = self._askings[key]
        askings.remove(paid)
        if not askings:
            del self._askings[key]
        self._behind_at = now
        for others in self._askings.values():
            for asking in others:
                if asking.asked_at > paid.asked_at:
                    asking.until = max(asking.until, now + self.late_s_max)


class Doubles(Generic[Key]):
    """Frames of the last second: meters and repeaters double replies.

    Where doubles have been seen, the same frame again at once is one; elsewhere a register simply has not moved.
    """

    def __init__(self) -> None:
        self._recent: dict[tuple[Key, bytes], float] = {}
        self._doubling_until = NEVER

    def came_at(self, key: Key, wire: bytes, now: float) -> float | None:
        """When this very frame came before, if that is so short ago that this one may be its double."""
        came_at = self._recent.get((key, wire), NEVER)
        return came_at if now - came_at < DOUBLE_S_MAX else None

    def is_expected(self, now: float) -> bool:
        """Whether doubles have been seen on this line."""
        return now < self._doubling_until

    def seen(self, now: float) -> None:
        self._doubling_until = now + DOUBLING_S

    def remember(self, key: Key, wire: bytes, now: float) -> None:
        """A double of this frame may follow."""
        self._recent.pop((key, wire), None)
        if len(self._recent) >= RECENT_MAX:
            del self._recent[next(iter(self._recent))]  # the oldest: they stand in the order in which they came
        self._recent[key, wire] = now

    def forget(self, key: Key, wire: bytes) -> None:
        del self._recent[key, wire]

    def clear(self) -> None:
        self._recent.clear()


def _is_other(asking: _Asking, began_at: float, detail: Hashable) -> bool:
    return asking.asked_at < began_at or asking.detail != detail
