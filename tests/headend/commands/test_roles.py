"""Who may do what, and the rule of two people: by random matrices against an oracle, and case by case."""

import itertools
import random

import pytest

from headend.commands.approval import same_person
from headend.commands.model import Kind
from headend.commands.roles import ASKS, NEEDS, Action, Caller, action_of, refusals
from headend.store.tokens import Role

MATRICES = 10_000
PEOPLE = ("Li Wei", "li  wei", "Wang Fang", "王芳", "", "ＬＩ Wei")


def a_caller(token: str = "t1", person: str = "Li Wei", *roles: Role) -> Caller:
    return Caller(token=token, person=person, roles=frozenset(roles))


def test_in_random_matrices_of_tokens_roles_and_people_nobody_gets_past_the_rules() -> None:
    """What may be done is written down a second time here: by sets, and people by their letters alone."""
    letters = {person: "".join(person.replace("ＬＩ", "LI").lower().split()) for person in PEOPLE}
    let_through = stopped = approvals = 0
    for seed in range(MATRICES):
        dice = random.Random(seed)
        tokens = [
            a_caller(f"t{number}", dice.choice(PEOPLE), *dice.sample(list(Role), dice.randint(0, 4)))
            for number in range(dice.randint(2, 5))
        ]
        for _ in range(4):
            caller, asker = dice.choice(tokens), dice.choice(tokens)
            actions = dice.sample(list(Action), dice.choice((1, 1, 1, 2, 3)))
            told = refusals(caller, actions, asked_by=[asker] if dice.random() < 0.9 else [])
            may = not told
            used = {role for action in actions for role in NEEDS[action]}
            assert not may or Role.ADMIN in caller.roles or used <= caller.roles, seed
            assert not may or not {Role.DISCONNECT, Role.APPROVE} <= used, seed
            if may and Role.APPROVE in used:
                assert caller.token != asker.token, seed
                assert letters[caller.person], seed
                assert letters[caller.person] != letters[asker.person], seed
                approvals += 1
            if may and Role.DISCONNECT in used:
                assert caller.person, seed
            assert all(refusal.rule and refusal.version and refusal.text and refusal.needed for refusal in told)
            let_through += may
            stopped += not may
    assert let_through > MATRICES // 4
    assert stopped > MATRICES
    assert approvals > MATRICES // 100


def test_a_role_is_enough_for_its_actions_and_for_no_other() -> None:
    for role, action in itertools.product(set(Role) - {Role.ADMIN}, Action):
        asker = a_caller("t2", "Wang Fang", Role.DISCONNECT)
        told = refusals(a_caller("t1", "Li Wei", role), [action], asked_by=[asker])
        assert (told == ()) == (NEEDS[action] == (role,)), (role, action)


@pytest.mark.parametrize("roles", [(Role.DISCONNECT, Role.APPROVE), (Role.ADMIN,), tuple(Role)])
@pytest.mark.parametrize("ask", [action for action in Action if action in ASKS])
def test_one_request_never_asks_and_approves_whatever_roles_its_token_has(roles: tuple[Role, ...], ask: Action) -> None:
    caller = a_caller("t1", "Li Wei", *roles)
    other = a_caller("t2", "Wang Fang", Role.DISCONNECT)
    assert "one-request" in {one.rule for one in refusals(caller, [ask, Action.APPROVE], asked_by=[other])}
    assert refusals(caller, [ask]) == ()
    assert refusals(caller, [Action.APPROVE], asked_by=[other]) == ()


def test_two_tokens_of_one_person_are_one_person() -> None:
    asker = a_caller("billing", "Li Wei", Role.DISCONNECT)
    for person in ("Li Wei", "LI WEI", " li  wei ", "ｌｉ wei"):
        told = refusals(a_caller("second", person, Role.APPROVE), [Action.APPROVE], asked_by=[asker])
        assert [one.rule for one in told] == ["two-people"]
    assert refusals(a_caller("second", "Wang Fang", Role.APPROVE), [Action.APPROVE], asked_by=[asker]) == ()


def test_whoever_is_one_of_several_askers_may_not_approve() -> None:
    askers = [a_caller("a", "Zhao Min", Role.DISCONNECT), a_caller("b", "Wang Fang", Role.DISCONNECT)]
    told = refusals(a_caller("c", "Wang Fang", Role.APPROVE), [Action.APPROVE], asked_by=askers)
    assert [one.rule for one in told] == ["two-people"]


def test_a_token_without_a_person_closes_and_takes_no_part_where_people_count() -> None:
    nobody = a_caller("t1", "", *Role)
    assert refusals(nobody, [Action.CLOSE, Action.PERMIT_CLOSE, Action.PROTECT, Action.STOP_OPENS]) == ()
    for action in (*ASKS, Action.APPROVE):
        asker = a_caller("t2", "Wang Fang", Role.DISCONNECT)
        assert "person" in {one.rule for one in refusals(nobody, [action], asked_by=[asker])}


def test_nothing_is_approved_that_nobody_asked_for() -> None:
    told = refusals(a_caller("t1", "Li Wei", Role.APPROVE), [Action.APPROVE])
    assert [one.rule for one in told] == ["asked-by"]


def test_every_kind_of_command_has_its_action() -> None:
    assert action_of(Kind.OPEN) is Action.ASK_OPEN
    assert {NEEDS[action_of(kind)] for kind in (Kind.CLOSE, Kind.PERMIT_CLOSE, Kind.PROTECT, Kind.STATUS)} == {
        (Role.OPERATE,)
    }
    assert set(NEEDS) == set(Action)


def test_people_are_the_same_by_their_letters() -> None:
    assert same_person("Straße", "STRASSE")
    assert not same_person("Li Wei", "Li Wen")


def test_a_token_that_was_given_to_another_person_meanwhile_does_not_approve_what_it_asked_for() -> None:
    asker, approver = a_caller("t1", "Li Wei", Role.DISCONNECT), a_caller("t1", "Wang Fang", Role.APPROVE)
    told = refusals(approver, [Action.APPROVE], asked_by=[asker])
    assert [one.rule for one in told] == ["two-people"]
