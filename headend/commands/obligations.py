"""What is owed to a customer who has paid: the debt of a reconnection, its clock, its next try, its ladder. Pure.

A debt begins with the payment system's own stamp and is due within 24 hours. It never expires silently: it ends when a read-back
proved that the supply is on; or permitted, which is told apart, and owed again when the permission is gone before there was power.
Otherwise it is forgiven by a person, or, where orders alone made it, ends with the last of them, which is an incident. Past its 24
hours it stays open as an incident.
"""

import random
from collections import deque
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from headend.commands.model import Kind

__all__ = [
    "ESCALATIONS",
    "OWED",
    "Obligation",
    "Ramp",
    "Spread",
    "escalated",
    "next_escalation",
    "pause_s",
    "stage_at",
]

OWED = timedelta(hours=24)
ESCALATIONS = (timedelta(hours=1), timedelta(hours=4), timedelta(hours=12), timedelta(hours=20), OWED)

PAUSE_S_FIRST = 5.0  # after the first try that did not end verified
PAUSE_S_MAX = 900.0  # a meter that stays silent costs its line a try every quarter of an hour
RAMP_WINDOW_S = 60.0
RAMP_STEP_S = 6.0  # between two closes of a ramp: cold loads must not all come back in the same minute
RAMP_S_MAX = 600.0  # whatever their number and the policy, the last goes no later than this


class Spread(Struct, frozen=True):
    """at_once: closes of one feeder within a minute that wait for nobody. longest_s: the last of the others goes no later."""

    at_once: int = 5
    longest_s: float = RAMP_S_MAX


class Obligation(Struct, frozen=True, kw_only=True):
    """One meter's debt.

    cause: "payment" or "order"; reference: the payment's, or the ordered command's id.
    since: the payment system's stamp, where the clock starts. opened_at: when we learnt of it.
    due_at: of the next try, wall time. expires_at: of the last order that made it; None: it does not end by time.
    tries: commands made so far; command: the newest of them. stage: how many steps of the ladder it has passed.
    ended: "" while open, else verified | permitted | already-on | forgiven | lapsed. took_s: from `since` to `ended_at`, as the
    wall clock went. problem: why it is not done yet, the newest.
    """

    id: str
    meter: str
    cause: str
    reference: str
    since: datetime
    opened_at: datetime
    due_at: datetime
    kind: Kind = Kind.CLOSE
    expires_at: datetime | None = None
    tries: int = 0
    command: str = ""
    stage: int = 0
    ended: str = ""
    ended_at: datetime | None = None
    problem: str = ""

    @property
    def is_open(self) -> bool:
        return not self.ended

    @property
    def is_incident(self) -> bool:
        return self.stage >= len(ESCALATIONS)

    @property
    def took_s(self) -> float | None:
        return None if self.ended_at is None else (self.ended_at - self.since).total_seconds()


def stage_at(since: datetime, now: datetime) -> int:
    """How many steps of the ladder have been reached."""
    return sum(now - since >= step for step in ESCALATIONS)


def next_escalation(obligation: Obligation) -> datetime | None:
    """When it reaches the next step of the ladder; None: it is an incident already."""
    return None if obligation.is_incident else obligation.since + ESCALATIONS[obligation.stage]


def escalated(obligation: Obligation, now: datetime) -> Obligation | None:
    """The debt on the step of the ladder that it has reached by `now`; None: it stands there already. A step back of the clock
    takes nothing back."""
    stage = stage_at(obligation.since, now)
    return replace(obligation, stage=stage) if stage > obligation.stage else None


def pause_s(tries: int) -> float:
    """Before the next try, after so many."""
    return min(PAUSE_S_FIRST * 2.0 ** min(max(tries - 1, 0), 16), PAUSE_S_MAX)


class Ramp:
    """Spreads the closes of a feeder when many come at once. `now` is monotonic seconds; a restart begins a new ramp.

    Those that are few enough go at once. The others get turns in the order in which they come, a step and some seeded jitter apart,
    the last no later than the spread allows: with more, the steps get shorter by sharing turns.
    """

    def __init__(self, random_: random.Random) -> None:
        self._random = random_
        self._recent: dict[str, deque[float]] = {}
        self._last: dict[str, float] = {}

    def turn_s(self, feeder: str, now: float, spread: Spread, *, is_first: bool = False) -> float:
        """How long from now the next close of this feeder shall wait. is_first: a protected customer, who waits for nobody."""
        if is_first:
            return 0.0
        recent = self._recent.setdefault(feeder, deque())
        while recent and recent[0] <= now - RAMP_WINDOW_S:
            recent.popleft()
        last = self._last.get(feeder, now)
        if len(recent) < spread.at_once and last <= now:
            recent.append(now)
            return 0.0
        longest_s = min(spread.longest_s, RAMP_S_MAX)
        turn = max(last, now) + RAMP_STEP_S * (0.5 + self._random.random() / 2)
        if turn > now + longest_s:
            # More than the ramp has steps for: anywhere in it, the order being fair as a whole and not one by one.
            turn = now + longest_s * self._random.random()
        else:
            self._last[feeder] = turn
        return turn - now
