"""Narrowing against lines that are nothing but a set of addresses: completeness, exchanges, loss and noise."""

import random
from collections.abc import Collection, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.dlt645.frame import WILDCARD, address_matches
from protocols.dlt645.narrowing import (
    Ask,
    Clean,
    Damaged,
    Narrowing,
    NarrowingState,
    Outcome,
    Several,
    Silent,
    exchanges_min,
    pattern_of,
)

RATIO_MAX = 1.3  # the promise about 32 random addresses


def answer(addresses: Iterable[str], pattern: str, draw: random.Random | None = None) -> Outcome:
    """What a line without noise gives: collisions are ruins, or now and then frames that did not overlap."""
    within = [address for address in addresses if address_matches(pattern, address)]
    if not within:
        return Silent()
    if len(within) == 1:
        return Clean(within[0])
    return Several(tuple(within)) if draw is not None and draw.random() < 0.3 else Damaged()


def narrowed(addresses: Iterable[str], seed: int = 0, *, damage: float = 0.0, loss: float = 0.0) -> Narrowing:
    draw = random.Random(seed)
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        outcome = answer(addresses, ask.pattern, draw)
        if draw.random() < loss:
            outcome = Silent()
        elif outcome != Silent() and draw.random() < damage:
            outcome = Damaged()
        narrowing.take(outcome)
    return narrowing


def random_addresses(count: int, seed: int) -> set[str]:
    draw = random.Random(seed)
    addresses: set[str] = set()
    while len(addresses) < count:
        addresses.add(f"{draw.randrange(10**12 - 1):012}")
    return addresses


def test_a_silent_line_is_empty_after_three_different_questions() -> None:
    narrowing = Narrowing()
    asked = []
    while (ask := narrowing.ask()) is not None:
        asked.append(ask)
        narrowing.take(Silent())
    assert asked == [Ask(WILDCARD, 0), Ask(WILDCARD, 1), Ask(WILDCARD, 2)]
    assert narrowing.state.found == {}


def test_a_single_meter_is_proven_by_five_questions_and_by_its_own_address() -> None:
    narrowing = narrowed(["000012345678"])
    assert narrowing.state.found == {"000012345678": WILDCARD}
    assert narrowing.state.exchanges == 6 == exchanges_min({"000012345678"})


def test_patterns_keep_the_low_digits_and_fill_the_high_ones_with_aa() -> None:
    assert [pattern_of(low) for low in ("", "78", "5678", "000012345678")] == [
        WILDCARD,
        "AAAAAAAAAA78",
        "AAAAAAAA5678",
        "000012345678",
    ]


@pytest.mark.parametrize("seed", range(60))
def test_thirty_two_random_addresses_are_all_found_within_the_promised_exchanges(seed: int) -> None:
    addresses = random_addresses(32, seed)
    narrowing = narrowed(addresses, seed)
    assert set(narrowing.state.found) == addresses
    assert narrowing.state.exchanges <= RATIO_MAX * exchanges_min(addresses)
    assert narrowing.state.exchanges <= 1.03 * exchanges_min(addresses), "measured: 1.026 at most in 100 seeds"


@pytest.mark.parametrize("seed", range(30))
def test_the_promise_holds_against_the_bare_tree_without_proofs_too(seed: int) -> None:
    addresses = random_addresses(32, seed)
    bare = exchanges_min(addresses, confirmed=False)
    assert bare > 101, "these seeds all have a second collision"
    assert narrowed(addresses, seed).state.exchanges <= RATIO_MAX * bare


@pytest.mark.parametrize("seed", range(40))
def test_damaged_replies_cost_repeats_and_nobody_is_lost(seed: int) -> None:
    addresses = random_addresses(32, seed)
    narrowing = narrowed(addresses, seed, damage=0.05)
    assert set(narrowing.state.found) == addresses
    assert narrowing.state.exchanges <= RATIO_MAX * exchanges_min(addresses)


def test_a_line_that_loses_requests_is_swept_again_and_finds_nearly_all() -> None:
    missed = total = 0
    for seed in range(20):
        addresses = random_addresses(32, seed)
        narrowing = narrowed(addresses, seed, loss=0.01)
        assert set(narrowing.state.found) <= addresses
        missed += len(addresses - set(narrowing.state.found))
        total += len(addresses)
    assert missed <= total * 0.01


@given(st.sets(st.integers(0, 10**12 - 2), max_size=12), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_set_of_addresses_is_found(numbers: set[int], seed: int) -> None:
    addresses = {f"{number:012}" for number in numbers}
    assert set(narrowed(addresses, seed).state.found) == addresses


@given(st.integers(0, 10**12 - 2), st.integers(0, 11), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_two_addresses_that_differ_in_one_digit_are_both_found(number: int, place: int, step: int) -> None:
    first = f"{number:012}"
    other = first[:place] + str((int(first[place]) + step) % 10) + first[place + 1 :]
    addresses = {first, other} - {"9" * 12}
    assert set(narrowed(addresses).state.found) == addresses


def test_consecutive_serial_numbers_need_one_level() -> None:
    addresses = {f"{202400001200 + number:012}" for number in range(64)}
    narrowing = narrowed(addresses)
    assert set(narrowing.state.found) == addresses
    assert exchanges_min(addresses) == 1 + 100 + 2 * 64
    assert narrowing.state.exchanges <= exchanges_min(addresses) + 3  # the collision at the root is heard four times


def test_the_minimum_counts_a_hundred_children_for_each_shared_low_pattern() -> None:
    assert exchanges_min(set(), confirmed=False) == 1
    assert exchanges_min({"000000000001", "000000000002"}, confirmed=False) == 101
    # they share 01, 0001, 000001 and so on up to five pairs; the sixth tells them apart
    assert exchanges_min({"000000000001", "100000000001"}, confirmed=False) == 601
    assert exchanges_min({"000000000001", "100000000001"}) == 601  # full addresses need no proof


def test_a_meter_hidden_behind_another_is_found_when_their_second_replies_differ() -> None:
    """The first question's ruins read as one right frame; the others do not."""
    addresses = ["000000000001", "000000000003"]
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        outcome = answer(addresses, ask.pattern)
        narrowing.take(Clean("000000000001") if outcome == Damaged() and ask.question == 0 else outcome)
    assert set(narrowing.state.found) == set(addresses)


def test_an_address_that_only_a_collision_spells_is_never_reported() -> None:
    """Two replies read as a third address, whatever is asked; asked by itself it is silent."""
    addresses = ["000000000301", "000000000601"]
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        outcome = answer(addresses, ask.pattern)
        narrowing.take(Clean("000000000201") if outcome == Damaged() else outcome)
    assert set(narrowing.state.found) == set(addresses)


def test_a_collision_that_brings_one_address_is_looked_into_until_the_second_shows() -> None:
    """The root collides; below 01 one meter hides behind the other for every question."""
    addresses = ["000000000101", "000000000301"]
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        outcome = answer(addresses, ask.pattern)
        if ask.pattern == "AAAAAAAAAA01" and outcome == Damaged():
            outcome = Clean("000000000101")
        narrowing.take(outcome)
    assert set(narrowing.state.found) == set(addresses)


def test_a_second_question_that_a_meter_does_not_know_is_given_up() -> None:
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        is_known = ask.question in (0, 2)
        narrowing.take(Clean("000000000042") if is_known else Silent())
    assert set(narrowing.state.found) == {"000000000042"}
    assert narrowing.state.lost == 0


def test_two_meters_with_one_address_are_named() -> None:
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        is_here = address_matches(ask.pattern, "000000000007")
        narrowing.take(Damaged() if is_here else Silent())
    assert narrowing.state.shared == ["000000000007"]
    assert narrowing.state.found == {}


def test_meters_that_collide_and_know_no_narrower_pattern_are_reported_as_such() -> None:
    narrowing = Narrowing()
    while (ask := narrowing.ask()) is not None:
        narrowing.take(Damaged() if ask.pattern == WILDCARD else Silent())
    assert narrowing.state.unresolved == [WILDCARD]


def test_a_line_that_gives_nothing_but_garbage_is_given_up_soon() -> None:
    narrowing = Narrowing()
    while narrowing.ask() is not None:
        narrowing.take(Damaged())
    assert narrowing.state.unreadable
    assert narrowing.state.exchanges <= 80


@pytest.mark.parametrize("duty", [0.3, 0.6, 0.9])
def test_a_babbling_line_is_given_up_and_no_address_invented(duty: float) -> None:
    draw = random.Random(7)
    narrowing = Narrowing()
    while narrowing.ask() is not None:
        narrowing.take(Damaged() if draw.random() < duty else Silent())
        assert narrowing.state.exchanges < 10_000
    assert narrowing.state.found == {}


def test_a_meter_too_slow_for_its_own_pattern_does_not_send_the_search_deeper() -> None:
    """Its reply comes while the next pattern is asked, as a right frame from outside."""
    quick, slow = "000000000077", "000000000078"
    narrowing = Narrowing()
    owed = False
    while (ask := narrowing.ask()) is not None:
        if owed and not address_matches(ask.pattern, slow):
            narrowing.overhear(slow)
        both = ask.pattern == WILDCARD
        narrowing.take(Several((quick, slow)) if both else answer([quick], ask.pattern))
        owed = address_matches(ask.pattern, slow)
    assert set(narrowing.state.found) == {quick}
    assert narrowing.state.late == [slow]
    assert narrowing.state.exchanges <= 1 + 100 + 2


def test_a_narrowing_goes_on_from_its_state_after_every_exchange() -> None:
    addresses = random_addresses(6, 3)
    whole = narrowed(addresses)
    state = NarrowingState()
    while True:
        narrowing = Narrowing(msgspec.json.decode(msgspec.json.encode(state), type=NarrowingState))
        ask = narrowing.ask()
        if ask is None:
            break
        narrowing.take(answer(addresses, ask.pattern))
        state = narrowing.state
    assert found_by(state) == addresses == found_by(whole.state)


def test_patterns_asked_twice_need_two_silences() -> None:
    narrowing = Narrowing(silences=2)
    while narrowing.ask() is not None:
        narrowing.take(Silent())
    assert narrowing.state.exchanges == 6


def test_thorough_looks_below_a_single_meter() -> None:
    """The loud one drowns the quiet one wherever both may answer."""
    loud, quiet = "000000000011", "000000000022"
    narrowing = Narrowing(thorough=True)
    while (ask := narrowing.ask()) is not None:
        within = [address for address in (loud, quiet) if address_matches(ask.pattern, address)]
        narrowing.take(Clean(within[0]) if within else Silent())
        assert narrowing.state.exchanges < 2000
    assert set(narrowing.state.found) == {loud, quiet}


def found_by(state: NarrowingState) -> Collection[str]:
    return set(state.found)
