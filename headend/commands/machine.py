"""The command's machine: one table, one function. docs/commands.md has the same table, and a test compares.

Every step of every command goes through `advance`; a step that is not in the table does not happen, whoever asks for it.
"""

import enum
from collections.abc import Iterable, Mapping

from headend.commands.model import State

__all__ = ["TRANSITIONS", "Event", "NotPossible", "advance", "as_markdown", "reachable"]


class Event(enum.Enum):
    """What can happen to a command.

    NOTHING_LEFT: the line or the driver failed before the first byte. HELD_BACK: the last look said that it may not leave now,
    and may later. FENCED: a payment came first. SUPERSEDED: a newer close took its place.
    """

    PASSED = "passed"
    APPROVED = "approved"
    PLANNED = "planned"
    CAME_DUE = "came-due"
    COMMITTED = "committed"
    NOTHING_LEFT = "nothing-left"
    HELD_BACK = "held-back"
    BYTES_LEFT = "bytes-left"
    METER_ACCEPTED = "meter-accepted"
    METER_REFUSED = "meter-refused"
    READ_BACK_MATCHED = "read-back-matched"
    READ_BACK_DIFFERED = "read-back-differed"
    READ_BACK_EXHAUSTED = "read-back-exhausted"
    RULE_REFUSED = "rule-refused"
    PERSON_REFUSED = "person-refused"
    WENT_OVER_LIMIT = "went-over-limit"
    RELEASED = "released"
    DELETED = "deleted"
    CANCELLED = "cancelled"
    FENCED = "fenced"
    SUPERSEDED = "superseded"
    DEADLINE_PASSED = "deadline-passed"
    GAVE_UP = "gave-up"


S, E = State, Event

# What may happen to a command of which no byte has left, wherever it stands.
_TAKEN_BACK = {
    E.RULE_REFUSED: S.REFUSED,
    E.CANCELLED: S.CANCELLED,
    E.FENCED: S.CANCELLED,
    E.SUPERSEDED: S.CANCELLED,
    E.DEADLINE_PASSED: S.EXPIRED,
}
_READ_BACK = {E.READ_BACK_MATCHED: S.VERIFIED, E.READ_BACK_DIFFERED: S.CONTRADICTED}

TRANSITIONS: dict[State, dict[Event, State]] = {
    S.REQUESTED: {E.PASSED: S.CHECKED, E.WENT_OVER_LIMIT: S.QUARANTINED, **_TAKEN_BACK},
    S.CHECKED: {
        E.APPROVED: S.APPROVED,
        E.PERSON_REFUSED: S.REFUSED,
        E.WENT_OVER_LIMIT: S.QUARANTINED,
        **_TAKEN_BACK,
    },
    S.APPROVED: {E.PLANNED: S.SCHEDULED, E.WENT_OVER_LIMIT: S.QUARANTINED, **_TAKEN_BACK},
    S.SCHEDULED: {E.CAME_DUE: S.DUE, E.WENT_OVER_LIMIT: S.QUARANTINED, **_TAKEN_BACK},
    S.DUE: {
        E.COMMITTED: S.SENDING,
        E.WENT_OVER_LIMIT: S.QUARANTINED,
        E.GAVE_UP: S.FAILED,
        **_TAKEN_BACK,
    },
    # Out of quarantine the whole way again: what was true when it came in may not be true any more.
    S.QUARANTINED: {E.RELEASED: S.REQUESTED, E.DELETED: S.CANCELLED, **_TAKEN_BACK},
    # Durable, and perhaps on the wire. The last look and the driver may still prove that nothing left; after a restart nobody
    # can, and only reading back tells.
    S.SENDING: {
        E.BYTES_LEFT: S.SENT,
        E.NOTHING_LEFT: S.SCHEDULED,
        E.HELD_BACK: S.SCHEDULED,
        E.READ_BACK_EXHAUSTED: S.UNCONFIRMED,
        **_TAKEN_BACK,
        **_READ_BACK,
    },
    S.SENT: {
        E.METER_ACCEPTED: S.ACKNOWLEDGED,
        E.METER_REFUSED: S.REFUSED,
        E.READ_BACK_EXHAUSTED: S.UNCONFIRMED,
        **_READ_BACK,
    },
    S.ACKNOWLEDGED: {E.READ_BACK_EXHAUSTED: S.UNCONFIRMED, **_READ_BACK},
    # Nothing resends an unconfirmed command; only a later read-back settles it.
    S.UNCONFIRMED: dict(_READ_BACK),
    S.VERIFIED: {},
    S.REFUSED: {},
    S.CANCELLED: {},
    S.EXPIRED: {},
    S.FAILED: {},
    S.CONTRADICTED: {},
}


class NotPossible(Exception):
    """The command stands where this cannot happen."""

    def __init__(self, state: State, event: Event) -> None:
        possible = ", ".join(sorted(one.value for one in TRANSITIONS[state])) or "nothing, it is final"
        super().__init__(f"a command that is {state.value} cannot take {event.value}; possible: {possible}")
        self.state = state
        self.event = event


def advance(state: State, event: Event) -> State:
    """Raises NotPossible."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise NotPossible(state, event)
    return following


def reachable(start: State, table: Mapping[State, Mapping[Event, State]] = TRANSITIONS) -> set[State]:
    """Every state that steps from `start` lead to, itself included."""
    found, open_ = {start}, [start]
    while open_:
        for following in table[open_.pop()].values():
            if following not in found:
                found.add(following)
                open_.append(following)
    return found


def as_markdown() -> str:
    """The table of docs/commands.md: a row per state, what may happen in it and where it leads."""
    lines = ["| State | What may happen → where it leads |", "|---|---|"]
    for state, row in TRANSITIONS.items():
        steps = _joined(f"{event.value} → `{following.value}`" for event, following in row.items())
        lines.append(f"| `{state.value}` | {steps or 'final'} |")
    return "\n".join(lines) + "\n"


def _joined(parts: Iterable[str]) -> str:
    return " · ".join(parts)
