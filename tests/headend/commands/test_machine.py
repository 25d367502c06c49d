"""The transition table walked, and the machine against a model that knows only what a wire and a store are."""

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headend.commands.machine import TRANSITIONS, Event, NotPossible, advance, as_markdown, reachable
from headend.commands.model import ACTIVE, FINAL, IN_FLIGHT, UNSENT, State


def test_every_state_is_listed_and_every_state_is_reachable() -> None:
    assert set(TRANSITIONS) == set(State)
    assert reachable(State.REQUESTED) == set(State)


def test_every_event_happens_somewhere() -> None:
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


def test_final_states_are_final_and_all_others_end_in_one() -> None:
    assert {state for state, row in TRANSITIONS.items() if not row} == set(FINAL)
    for state in State:
        assert reachable(state) & FINAL


def test_every_state_is_active_final_or_unconfirmed() -> None:
    assert ACTIVE | FINAL | {State.UNCONFIRMED} == set(State)
    assert UNSENT | IN_FLIGHT == ACTIVE
    assert not UNSENT & IN_FLIGHT
    assert not ACTIVE & FINAL


@pytest.mark.parametrize("state", [State.SENT, State.ACKNOWLEDGED, State.UNCONFIRMED])
def test_after_bytes_have_left_nothing_leads_back_to_sending(state: State) -> None:
    assert reachable(state) & (UNSENT | {State.SENDING}) == set()
    cut = reachable(state)
    assert not cut & {State.CANCELLED, State.EXPIRED, State.FAILED, State.QUARANTINED}


def test_what_is_not_in_the_table_does_not_happen() -> None:
    for state in State:
        for event in Event:
            if event in TRANSITIONS[state]:
                assert advance(state, event) is TRANSITIONS[state][event]
            else:
                with pytest.raises(NotPossible, match=state.value):
                    advance(state, event)


def test_the_table_can_be_written_down() -> None:
    text = as_markdown()
    assert all(f"| `{state.value}` |" in text for state in State)


class CommandModel(RuleBasedStateMachine):
    """What a command may have done by now, counted beside the machine: approvals, durable sendings, bytes, proofs."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.REQUESTED
        self.checked = self.approved = self.durable = self.left = self.proven = False
        self.is_ended = False
        self.sendings = 0

    def happens(self, event: Event) -> bool:
        try:
            self.state = advance(self.state, event)
        except NotPossible:
            return False
        return True

    @rule()
    def is_checked(self) -> None:
        self.checked |= self.happens(Event.PASSED)

    @rule()
    def is_approved(self) -> None:
        if self.happens(Event.APPROVED):
            assert self.checked
            self.approved = True

    @rule()
    def is_planned(self) -> None:
        if self.happens(Event.PLANNED):
            assert self.approved

    @rule()
    def comes_due(self) -> None:
        self.happens(Event.CAME_DUE)

    @rule()
    def is_committed(self) -> None:
        if self.happens(Event.COMMITTED):
            assert self.approved
            assert not self.left
            self.durable = True
            self.sendings += 1

    @precondition(lambda self: self.state is State.SENDING)
    @rule()
    def leaves(self) -> None:
        assert self.happens(Event.BYTES_LEFT)
        assert self.durable
        assert not self.left, "bytes left twice"
        self.left = True

    @rule()
    def did_not_leave(self) -> None:
        if self.happens(Event.NOTHING_LEFT) or self.happens(Event.HELD_BACK):
            assert not self.left
            self.durable = False

    @rule()
    def answers(self) -> None:
        if self.happens(Event.METER_ACCEPTED):
            assert self.left

    @rule()
    def refuses(self) -> None:
        if self.happens(Event.METER_REFUSED):
            assert self.left
            self.is_ended = True

    @rule()
    def is_read_back(self) -> None:
        if self.happens(Event.READ_BACK_MATCHED):
            assert self.durable
            self.proven = self.is_ended = True

    @rule()
    def differs(self) -> None:
        if self.happens(Event.READ_BACK_DIFFERED):
            assert self.durable
            self.is_ended = True

    @rule()
    def nobody_knows(self) -> None:
        if self.happens(Event.READ_BACK_EXHAUSTED):
            assert self.durable

    @rule()
    def is_taken_back(self) -> None:
        for event in (Event.CANCELLED, Event.FENCED, Event.SUPERSEDED, Event.DEADLINE_PASSED, Event.RULE_REFUSED):
            if self.happens(event):
                assert not self.left, "taken back after bytes had left"
                self.is_ended = True

    @rule()
    def goes_over_the_limit(self) -> None:
        if self.happens(Event.WENT_OVER_LIMIT):
            assert not self.left
            self.checked = self.approved = False

    @rule()
    def is_released(self) -> None:
        self.happens(Event.RELEASED)

    @rule()
    def is_deleted(self) -> None:
        if self.happens(Event.DELETED):
            self.is_ended = True

    @rule()
    def is_rejected(self) -> None:
        if self.happens(Event.PERSON_REFUSED):
            assert not self.left
            self.is_ended = True

    @rule()
    def is_given_up(self) -> None:
        if self.happens(Event.GAVE_UP):
            assert not self.left
            self.is_ended = True

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert (self.state in FINAL) == self.is_ended
        assert (self.state is State.VERIFIED) == self.proven
        if self.state in (State.SENT, State.ACKNOWLEDGED):
            assert self.left
        if self.state in UNSENT:
            assert not self.left


TestCommandModel = CommandModel.TestCase
TestCommandModel.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
