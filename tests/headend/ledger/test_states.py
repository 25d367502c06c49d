"""Every quality and reason ends in one state; what back-filling may change stays open."""

import re
from pathlib import Path

import pytest

from headend.ledger.states import COLLECTED, NOT_SENT, UNRECORDED, State, state_of
from headend.model import Quality
from headend.scheduling.gaps import SETTLED
from headend.store.rows import quality_bits

MISSING = quality_bits((Quality.MISSING,))
REASONS = {
    "silent": State.METER_UNREACHABLE,
    "corrupt": State.METER_UNREACHABLE,
    "unmatched": State.METER_UNREACHABLE,
    NOT_SENT: State.METER_UNREACHABLE,
    "line-down": State.LINE_DOWN,
    "refused": State.METER_HAS_NO_DATA,
    "not-measured": State.METER_HAS_NO_DATA,
    "unsupported": State.METER_HAS_NO_DATA,
    "meter-has-no-data": State.METER_HAS_NO_DATA,
    "meter-clock-off": State.IRRECOVERABLE,
    "ambiguous-time": State.IRRECOVERABLE,
    "stopped": State.IRRECOVERABLE,
    "overrun": State.IRRECOVERABLE,
    UNRECORDED: State.IRRECOVERABLE,
    "a word of a later version": State.IRRECOVERABLE,
}


@pytest.mark.parametrize(
    ("quality", "state"),
    [
        ((Quality.MEASURED,), State.MEASURED),
        ((Quality.MEASURED, Quality.LATE), State.MEASURED),
        ((Quality.MEASURED, Quality.BACK_FILLED), State.BACK_FILLED),
        ((Quality.MEASURED, Quality.SUSPECT), State.SUSPECT),
        ((Quality.MEASURED, Quality.BACK_FILLED, Quality.SUSPECT), State.SUSPECT),
        ((Quality.SUSPECT,), State.SUSPECT),
        ((Quality.ESTIMATED_BY_UPSTREAM,), State.SUSPECT),
    ],
)
def test_an_amount_is_in_a_final_state_at_once(quality: tuple[Quality, ...], state: State) -> None:
    assert state_of(quality_bits(quality), "", is_over=False) is state
    assert state_of(quality_bits(quality), "", is_over=True) is state


@pytest.mark.parametrize(("reason", "state"), REASONS.items())
def test_a_missing_read_ends_as_its_reason_says(reason: str, state: State) -> None:
    assert state_of(MISSING, reason, is_over=True) is state
    still = state if reason in SETTLED else State.OPEN
    assert state_of(MISSING, reason, is_over=False) is still


def test_every_word_of_the_feed_is_mapped_by_intention() -> None:
    text = (Path(__file__).parents[3] / "headend" / "model.py").read_text(encoding="utf-8")
    told = re.search(r"reason: of a missing read: (.*?)\(", text, re.DOTALL)
    assert told is not None
    assert set(re.findall(r"[a-z-]{4,}", told[1])) <= REASONS.keys()
    assert COLLECTED.isdisjoint(REASONS.values())
    assert State.OPEN not in REASONS.values()
