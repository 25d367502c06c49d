"""What a customer is told of the supply in each state, and a payer of what the payment does."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from headend.pages.supply_words import Mood, effect_of_payment, supply_words
from headend.pages.words import load_words
from headend.prepayment.model import AccountState
from headend.prepayment.notices.notices import Letter
from headend.prepayment.supply.engine import State
from headend.prepayment.views.account_card import AccountCard
from tests.headend.pages.village import Village
from tests.headend.prepayment.fleet import SHANGHAI

EN = load_words("en", SHANGHAI)
DEADLINE = datetime(2026, 3, 28, 1, tzinfo=UTC)


def a_card(village: Village, state: State, available: int, **supply: Any) -> AccountCard:
    card = village.office.card("A1001")
    return replace(
        card,
        standing=replace(card.standing, available_minor=available, owed_minor=max(0, -available)),
        supply=replace(card.supply, **{"state": state.value, "is_off": False, "off_since": None, **supply}),
    )


def letters(village: Village, kind: str) -> list[Letter]:
    """The newest of that kind tells a deadline; one before it told another."""
    letter = village.office.letters("A1001")[0]
    return [replace(letter, kind=kind, deadline=DEADLINE), replace(letter, kind=kind, deadline=letter.created_at)]


@pytest.mark.parametrize(
    ("state", "available", "kind", "mood", "words"),
    [
        (State.WELL, 9000, "", Mood.GOOD, "Supply is on"),
        (State.WELL, 1999, "", Mood.CARE, "Balance is low"),
        (State.LOW, 1500, "", Mood.CARE, "Top up soon"),
        (State.LOW, -100, "", Mood.CARE, "1.00 yuan is owed"),
        (State.USED_UP, -3000, "used-up", Mood.CARE, "30.00 yuan is owed. Pay it before 28 Mar 2026 09:00"),
        (State.USED_UP, -3000, "", Mood.CARE, "30.00 yuan is owed. Please pay it soon"),
        (State.WARNED, -3000, "last-warning", Mood.BAD, "If it is not paid before 28 Mar 2026 09:00"),
        (State.WARNED, -3000, "used-up", Mood.BAD, "Pay it now"),
        (State.WARNED, 5000, "last-warning", Mood.GOOD, "Supply is on"),
        (State.ORDERED, -3000, "", Mood.BAD, "Being disconnected"),
        (State.ORDERED, 0, "", Mood.COMING, "coming back"),
        (State.DISCONNECTED, -3000, "", Mood.BAD, "30.00 yuan is owed"),
        (State.DISCONNECTED, 0, "", Mood.COMING, "coming back"),
        (State.PAID, 100, "", Mood.COMING, "Within 24 hours"),
    ],
)
def test_each_state_has_its_words(
    village: Village, state: State, available: int, kind: str, mood: Mood, words: str
) -> None:
    found = supply_words(a_card(village, state, available), letters(village, kind) if kind else (), EN)
    assert found.mood is mood
    assert words in f"{found.title}. {found.text}"


def test_a_day_that_has_passed_is_not_named_as_the_last_to_pay(village: Village) -> None:
    for state, kind, words in (
        (State.USED_UP, "used-up", "Please pay it soon"),
        (State.WARNED, "last-warning", "Pay it now"),
    ):
        card = a_card(village, state, -3000)
        for day, is_told in ((date(2026, 3, 28), True), (date(2026, 3, 29), False)):
            then = replace(card, standing=replace(card.standing, today=day))
            text = supply_words(then, letters(village, kind), EN).text
            assert ("28 Mar 2026" in text, words in text) == (is_told, not is_told)


def test_what_is_off_says_since_when(village: Village) -> None:
    card = a_card(village, State.DISCONNECTED, -3000, is_off=True, off_since=DEADLINE)
    assert "Off since 28 Mar 2026 09:00" in supply_words(card, (), EN).text


def test_accounts_that_are_not_open_promise_nothing(village: Village) -> None:
    card = a_card(village, State.WELL, -3000)
    closed = replace(card.account, state=AccountState.CLOSED, closed_on=date(2026, 3, 2))
    assert "2 Mar 2026" in supply_words(replace(card, account=closed), (), EN).text
    enrolled = replace(card, account=replace(card.account, state=AccountState.ENROLLED))
    assert supply_words(enrolled, (), EN).title == "Not started yet"
    assert "not started" in effect_of_payment(enrolled, EN).text


@pytest.mark.parametrize(
    ("state", "available", "is_off", "words"),
    [
        (State.WELL, 5000, False, "stays on"),
        (State.LOW, 5000, False, "stays on"),
        (State.WARNED, 0, False, "Nothing is owed any more"),
        (State.USED_UP, 100, False, "Nothing is owed any more"),
        (State.WARNED, -1, False, "0.01 yuan is still owed. Pay it in time"),
        (State.DISCONNECTED, 0, True, "comes back by itself, within 24 hours"),
        (State.DISCONNECTED, -1, True, "0.01 yuan is still owed. The supply comes back once it is paid"),
        (State.PAID, 100, True, "comes back by itself"),
        (State.ORDERED, 100, False, "comes back by itself"),
    ],
)
def test_a_payer_is_told_what_the_payment_does(
    village: Village, state: State, available: int, is_off: bool, words: str
) -> None:
    assert words in effect_of_payment(a_card(village, state, available, is_off=is_off), EN).text
