"""In which state an expected interval stands, from what the store has of it. Pure.

    amount, quality `suspect`, or neither `measured` nor `back-filled`         suspect
    amount, quality `back-filled`                                             back-filled
    amount otherwise, late or not                                             measured
    refused, unsupported, not-measured, meter-has-no-data                     meter-has-no-data
    silent, corrupt, unmatched                                                meter-unreachable
    line-down                                                                 line-down
    stopped, overrun, no row at all, any other word                           irrecoverable
    meter-clock-off, ambiguous-time                                           irrecoverable

What back-filling may still turn into a number is `open` instead: a missing read whose reason is not the meter's own last word
(`gaps.SETTLED`), while the plan still looks back so far. The newest revision counts.
"""

import enum

from headend.model import Quality
from headend.scheduling.gaps import SETTLED
from headend.store.rows import QUALITY_BITS

__all__ = ["COLLECTED", "NOT_SENT", "UNRECORDED", "State", "state_of", "states_of"]

# Reasons of intervals that have no read at all, of a polled and of a pushed meter.
UNRECORDED = "unrecorded"
NOT_SENT = "not-sent"


class State(enum.Enum):
    """In the order in which states are listed. OPEN is the only one that is not final."""

    MEASURED = "measured"
    BACK_FILLED = "back-filled"
    SUSPECT = "suspect"
    METER_HAS_NO_DATA = "meter-has-no-data"
    METER_UNREACHABLE = "meter-unreachable"
    LINE_DOWN = "line-down"
    IRRECOVERABLE = "irrecoverable"
    OPEN = "open"


COLLECTED = frozenset({State.MEASURED, State.BACK_FILLED})

_OF_REASON = {
    "refused": State.METER_HAS_NO_DATA,
    "unsupported": State.METER_HAS_NO_DATA,
    "not-measured": State.METER_HAS_NO_DATA,
    "meter-has-no-data": State.METER_HAS_NO_DATA,
    "silent": State.METER_UNREACHABLE,
    "corrupt": State.METER_UNREACHABLE,
    "unmatched": State.METER_UNREACHABLE,
    NOT_SENT: State.METER_UNREACHABLE,
    "line-down": State.LINE_DOWN,
}

_MISSING = QUALITY_BITS[Quality.MISSING]
_SUSPECT = QUALITY_BITS[Quality.SUSPECT]
_BACK_FILLED = QUALITY_BITS[Quality.BACK_FILLED]
_MEASURED = QUALITY_BITS[Quality.MEASURED]


def state_of(quality: int, reason: str, *, is_over: bool) -> State:
    """quality: bits as stored. reason: of a missing read. is_over: nothing is back-filled any more."""
    if not quality & _MISSING:
        if quality & _SUSPECT:
            return State.SUSPECT
        if quality & _BACK_FILLED:
            return State.BACK_FILLED
        return State.MEASURED if quality & _MEASURED else State.SUSPECT
    if not is_over and reason not in SETTLED:
        return State.OPEN
    return _OF_REASON.get(reason, State.IRRECOVERABLE)


def states_of(states: dict[State, int]) -> dict[str, int]:
    """In the order of `State`, those that there are."""
    return {state.value: states[state] for state in State if states.get(state)}
