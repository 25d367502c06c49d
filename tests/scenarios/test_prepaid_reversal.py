"""A payment that is taken back, before and after the supply is on again: by the plan's rule, told, and nobody is cut unwarned."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from headend.prepayment.errors import UnknownPayment
from headend.prepayment.model import Cause, PaymentState
from tests.scenarios.prepaid_year.outside import Crash
from tests.scenarios.prepaid_year.quick import Shelf, quick_plan
from tests.scenarios.prepaid_year.shop import Shop

OWED = 4500
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WARNINGS = ["low", "used-up", "last-warning", "disconnected"]


@pytest.fixture(scope="module", params=["usual-notices", "last-warning"])
def ruled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Shelf]]:
    rule: str = request.param
    shelf = Shelf(tmp_path_factory.mktemp(rule), plan=quick_plan(after_reversal=rule))
    yield rule, shelf
    shelf.aclose()


def paid_and_back(shelf: Shelf, *, amount_minor: int = OWED) -> Shop:
    shop = shelf.take_down("disconnected")
    shop.office.take(shop.payment(amount_minor, receipt="R7"))
    shop.run()
    shop.pass_time(2 * HOUR, step=20 * MINUTE)
    assert not shop.is_dark()
    assert shop.messages()[-1] in ("restored", "low")
    return shop


def take_back(shop: Shop) -> None:
    shop.office.reverse("app", "R7", reason="no cover", by="bank")


def test_after_the_supply_is_back_the_plans_rule_decides_what_follows(ruled: tuple[str, Shelf]) -> None:
    rule, shelf = ruled
    shop = paid_and_back(shelf)
    told = len(shop.messages())
    cut_before = shop.switch.opened
    taken_back_at = shop.town.now
    take_back(shop)
    assert shop.balance() == -OWED
    shop.run()
    assert not shop.is_dark(), "a reversal is no reason to cut at once"
    while shop.switch.opened == cut_before:
        shop.pass_time(MINUTE, step=MINUTE)
        assert shop.town.now - taken_back_at < HOUR, shop.office.why_not("A1")
    shop.pass_time(2 * MINUTE, step=MINUTE / 2)
    follows = [one for one in shop.messages()[told:] if one != "reversed"]
    assert shop.messages().count("reversed") == 1
    (text,) = shop.texts("reversed")
    assert "no cover" in text
    if rule == "usual-notices":
        # An account at nothing was low already: that message may be of before the reversal.
        assert [*shop.messages()[told - 1 : told], *follows][-4:] == WARNINGS
        assert shop.texts("used-up")[-1] != shop.texts("used-up")[0]
    else:
        assert follows[-2:] == WARNINGS[-2:]
    shop.aclose()


def test_before_the_supply_is_back_it_comes_back_all_the_same_and_is_warned_anew(ruled: tuple[str, Shelf]) -> None:
    """The obligation was made; whoever paid was promised his supply."""
    _, shelf = ruled
    shop = shelf.take_down("disconnected")
    shop.office.take(shop.payment(OWED, receipt="R7"))
    shop.run()
    take_back(shop)
    shop.run()
    warned = len(shop.texts("last-warning"))
    cut = shop.switch.opened
    wait_for_a_cut(shop, cut, HOUR)
    assert shop.switch.closed == 1
    assert len(shop.texts("last-warning")) > warned, "cut again without a warning"
    assert shop.books() == []
    shop.aclose()


def wait_for_a_cut(shop: Shop, cut_before: int, within: timedelta) -> None:
    end = shop.town.now + within
    while shop.switch.opened == cut_before:
        assert shop.town.now < end, shop.office.why_not("A1")
        shop.pass_time(2 * MINUTE, step=2 * MINUTE)


def paid_in_the_middle(shelf: Shelf, state: str) -> Shop:
    shop = shelf.take_down(state)
    shop.office.take(shop.payment(OWED + 2000, receipt="R7"))
    shop.run()
    shop.pass_time(5 * MINUTE, step=MINUTE)
    return shop


@pytest.mark.parametrize("state", ["low", "used-up", "warned"])
def test_a_reversal_in_the_middle_of_an_episode_never_skips_a_step(ruled: tuple[str, Shelf], state: str) -> None:
    _, shelf = ruled
    shop = paid_in_the_middle(shelf, state)
    told, cut, at = shop.messages(), shop.switch.opened, shop.town.now
    take_back(shop)
    wait_for_a_cut(shop, cut, 2 * HOUR)
    # A last warning of after the reversal, and each warning proven since the account was last put right, or by the plan's rule.
    assert "last-warning" in shop.messages()[len(told) :]
    command = list(shop.switch.commands.values())[-1]
    given = [shop.phones.by_reference[one.reference] for one in command.notices]
    assert [one.message.kind for one in given] == WARNINGS[:3]
    assert [one.at for one in given] == sorted(one.at for one in given)
    assert given[2].at >= at
    shop.aclose()


def test_a_reversal_that_leaves_money_is_told_and_warns_and_cuts_nobody(ruled: tuple[str, Shelf]) -> None:
    _, shelf = ruled
    shop = paid_in_the_middle(shelf, "well")
    told, cut = shop.messages(), shop.switch.opened
    take_back(shop)
    assert shop.balance() > 0
    shop.pass_time(2 * HOUR, step=2 * MINUTE)
    assert shop.messages()[len(told) :] == ["reversed"]
    assert shop.switch.opened == cut
    shop.aclose()


def test_a_reversal_told_many_times_and_with_deaths_is_booked_once(ruled: tuple[str, Shelf]) -> None:
    _, shelf = ruled
    deaths = 0
    for place in range(1, 100):
        shop = shelf.take_down("low")
        shop.office.take(shop.payment(60_000, receipt="R7"))  # earns two yuan
        assert [one.bonus_minor for one in shop.office.awards("A1")] == [200]
        shop.town.dies_at = shop.town.places + place
        for _ in range(20 if place == 1 else 3):
            try:
                assert shop.office.reverse("app", "R7", reason="no cover", by="bank").state is PaymentState.REVERSED
            except Crash:
                shop.town.dies_at = None
                shop.start()
                take_back(shop)
        has_died = shop.town.dies_at is None
        assert shop.balance() == -OWED
        assert [one.is_taken_back for one in shop.office.awards("A1")] == [True]
        causes = [entry.cause for _, entry, _ in shop.office.entries("A1")]
        assert (causes.count(Cause.REVERSAL), causes.count(Cause.POINTS)) == (1, 2)
        assert shop.books() == []
        shop.aclose()
        deaths += has_died
        if not has_died:
            break
    assert deaths >= 2


def test_an_unknown_payment_cannot_be_taken_back_and_unmatched_money_goes_back_to_its_channel(
    ruled: tuple[str, Shelf],
) -> None:
    _, shelf = ruled
    shop = shelf.take_down("well")
    with pytest.raises(UnknownPayment, match="R9"):
        shop.office.reverse("app", "R9", reason="no cover", by="bank")
    shop.office.take(shop.payment(100, account="nobody", receipt="R7"))
    take_back(shop)
    assert shop.office.unmatched() == []
    assert shop.balance() == 5500
    assert shop.books() == []
    shop.aclose()


def test_the_same_receipt_after_its_reversal_is_no_new_money(ruled: tuple[str, Shelf], tmp_path: Path) -> None:
    _, shelf = ruled
    shop = shelf.take_down("well")
    payment = shop.payment(1000, receipt="R7")
    shop.office.take(payment)
    take_back(shop)
    assert shop.office.take(payment).state is PaymentState.REVERSED
    assert shop.balance() == 5500
    shop.aclose()
