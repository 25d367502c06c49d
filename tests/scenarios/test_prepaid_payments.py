"""The same payment many times, out of order, from two channels, and with a death at every place in between: once in the books, its
obligation told, never lost.
"""

import random
from collections.abc import Iterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from headend.prepayment.errors import BadPayment, KeyReused, SwitchboardUnavailable
from headend.prepayment.model import Cause, Payment, PaymentState
from tests.scenarios.prepaid_year.outside import Crash
from tests.scenarios.prepaid_year.quick import STATES, Shelf
from tests.scenarios.prepaid_year.shop import Shop

TIMES = 20
OWED = 4500
PLACES_MAX = 400
FULL = 200  # --prepaid-accounts from which on every place is tried
SOME = 3  # below, each so-manieth of them, another one first in each state: together the states try them all
FEW = 9  # and of the many places of a whole evening
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    yield shelf
    shelf.aclose()


@pytest.fixture(scope="module")
def two_meters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path_factory.mktemp("two"), meters=("M1", "M2"))
    yield shelf
    shelf.aclose()


def told_until_taken(shop: Shop, payment: Payment) -> Payment:
    """As a channel does, whatever dies meanwhile."""
    while True:
        try:
            return shop.office.take(payment)
        except Crash:
            shop.town.dies_at = None
            shop.start()
        except SwitchboardUnavailable:
            shop.town.now += timedelta(minutes=3)


def check_booked(shop: Shop, *payments: Payment) -> None:
    """Each once, and nothing of it open; where the supply was off or about to be, it is owed or on."""
    assert shop.books() == []
    entries = [entry for _, entry, _ in shop.office.entries("A1", limit=1000)]
    for payment in payments:
        own = [entry for entry in entries if (entry.cause, entry.reference) == (Cause.PAYMENT, payment.receipt)]
        own = [entry for entry in own if entry.from_book == f"channel:{payment.channel}"]
        assert [entry.amount_minor for entry in own] == [payment.amount_minor]
    assert shop.office.told_not_booked() == []
    paid = sum(one.amount_minor for one in shop.office.payments("A1"))
    assert paid - sum(one.amount_minor for one in payments) == 5500


def check_light(shop: Shop, *meters: str) -> None:
    """Whoever has paid all has light within the day, stays undisturbed, and is well."""
    for meter in meters or ("M1",):
        command = shop.switch.active.get(meter)
        assert not shop.is_dark(meter) or meter in shop.switch.debts
        assert command is None or command.state != "scheduled", "an order is out that the payment has not stopped"
    before = len(shop.texts("last-warning"))
    shop.pass_time(3 * HOUR, step=HOUR)
    assert not any(shop.is_dark(meter) for meter in meters or ("M1",))
    assert not shop.switch.debts
    assert shop.office.card("A1").supply.state in ("well", "low")
    assert len(shop.texts("last-warning")) == before
    assert not shop.switch.active


@pytest.fixture
def stride(request: pytest.FixtureRequest) -> int:
    return 1 if request.config.getoption("--prepaid-accounts") >= FULL else SOME


@pytest.mark.parametrize("state", STATES)
def test_twenty_times_from_two_channels_with_a_death_at_every_place(shelf: Shelf, state: str, stride: int) -> None:
    """A death before and after each transaction and each call of the switch, and each time the channels tell it all again."""
    deaths, first_place = 0, 1 + STATES.index(state) % stride
    for place in range(first_place, PLACES_MAX, stride):
        shop = shelf.take_down(state)
        first = shop.payment(OWED + 500, receipt="R7")
        second = shop.payment(700, receipt="R7", channel="bank")
        times = TIMES if place == first_place or place % 5 == 1 else 2
        deliveries = [first] * times + [second] * times
        random.Random(place).shuffle(deliveries)
        shop.town.dies_at = shop.town.places + place
        for payment in deliveries:
            taken = told_until_taken(shop, payment)
            assert taken.state is PaymentState.BOOKED
        has_died = shop.town.dies_at is None
        check_booked(shop, first, second)
        if place % 4 == 1 or not has_died:
            shop.run_or_die()
            check_light(shop)
        shop.aclose()
        deaths += has_died
        if not has_died:
            break
    assert deaths >= 6 // stride, "there are places between the transactions of a payment"


def test_from_the_payment_to_the_light_a_death_at_every_place(shelf: Shelf, stride: int) -> None:
    """Of the program that runs behind the payment, too."""
    step = 1 if stride == 1 else FEW
    deaths, place = 0, 1 - step
    while True:
        place += step
        shop = shelf.take_down("disconnected")
        shop.town.dies_at = shop.town.places + place
        told_until_taken(shop, shop.payment(OWED, receipt="R7"))
        shop.run_or_die()
        check_booked(shop, shop.payment(OWED, receipt="R7"))
        has_died = shop.town.dies_at is None
        check_light(shop)
        assert [one for one in shop.messages() if one in ("paid", "restored")] == ["paid", "restored"]
        shop.aclose()
        if not has_died:
            break
        deaths += 1
    assert deaths > 15 // step


@pytest.mark.parametrize("state", ["warned", "ordered", "disconnected"])
def test_every_meter_of_an_account_has_its_fence_and_its_obligation(two_meters: Shelf, state: str, stride: int) -> None:
    for place in range(1 + STATES.index(state) % stride, PLACES_MAX, stride):
        shop = two_meters.take_down(state)
        payment = shop.payment(OWED, receipt="R7")
        shop.town.dies_at = shop.town.places + place
        told_until_taken(shop, payment)
        has_died = shop.town.dies_at is None
        check_booked(shop, payment)
        assert shop.switch.fence["M1"] == shop.switch.fence["M2"] >= 1
        check_light(shop, "M1", "M2")
        shop.aclose()
        if not has_died:
            break


@pytest.mark.parametrize("state", STATES)
def test_a_switch_that_does_not_answer_loses_no_payment(shelf: Shelf, state: str) -> None:
    """Nothing is booked that was not told, and nothing is disconnected while it waits; the channel tells it again."""
    shop = shelf.take_down(state)
    payment = shop.payment(OWED + 500, receipt="R7")
    shop.switch.away_until = shop.town.now + 2 * HOUR
    before = shop.balance()
    with pytest.raises(SwitchboardUnavailable):
        shop.office.take(payment)
    assert shop.balance() == before
    assert [one.receipt for one in shop.office.told_not_booked()] == ["R7"]
    dark = shop.is_dark() or bool(shop.switch.active)
    shop.pass_time(HOUR, step=timedelta(minutes=5))
    assert shop.is_dark() is dark, "disconnected while a payment was on its way"
    told_until_taken(shop, payment)
    assert told_until_taken(shop, payment).state is PaymentState.BOOKED
    check_booked(shop, payment)
    check_light(shop)
    shop.aclose()


def test_two_receipts_are_two_payments_and_a_receipt_of_other_content_is_refused(shelf: Shelf) -> None:
    shop = shelf.take_down("well")
    one = shop.payment(1000, receipt="R7")
    for payment in (one, replace(one, receipt="R8"), replace(one, channel="bank")):
        assert shop.office.take(payment).state is PaymentState.BOOKED
    assert shop.balance() == 5500 + 3000
    for other in (
        replace(one, amount_minor=1001),
        replace(one, account="A2"),
        replace(one, paid_at=one.paid_at - HOUR),
    ):
        with pytest.raises(KeyReused):
            shop.office.take(other)
    assert shop.balance() == 5500 + 3000
    shop.aclose()


def test_a_time_finer_than_the_books_keep_it_is_the_same_payment(shelf: Shelf) -> None:
    shop = shelf.take_down("well")
    payment = shop.payment(1000, receipt="R7", paid_at=shop.town.now - timedelta(microseconds=123_456))
    taken = shop.office.take(payment)
    assert shop.office.take(payment).entry == taken.entry
    assert shop.balance() == 5500 + 1000
    shop.aclose()


def test_an_account_told_twice_at_the_same_time_is_booked_once(shelf: Shelf) -> None:
    """A second channel's worker begins while the first is at the switch."""
    shop = shelf.take_down("warned")
    payment = shop.payment(OWED, receipt="R7")
    tell = shop.switch.payment

    def meanwhile(meter: str, **more: object) -> None:
        shop.switch.payment = tell  # type: ignore[method-assign]
        shop.office.take(payment)
        tell(meter, **more)  # type: ignore[arg-type]

    shop.switch.payment = meanwhile  # type: ignore[method-assign]
    assert shop.office.take(payment).state is PaymentState.BOOKED
    check_booked(shop, payment)
    check_light(shop)
    shop.aclose()


def test_a_payment_that_leaves_something_owed_does_not_bring_the_supply_back(shelf: Shelf) -> None:
    """The rest of it does, wherever it comes from."""
    shop = shelf.take_down("disconnected")
    shop.office.take(shop.payment(OWED - 1, receipt="R7"))
    shop.pass_time(2 * HOUR, step=timedelta(minutes=10))
    assert shop.is_dark()
    assert not shop.switch.debts
    shop.office.take(shop.payment(1, receipt="R8", channel="counter"))
    assert "M1" in shop.switch.debts
    check_light(shop)
    shop.aclose()


def test_money_for_nobody_is_kept_and_brings_the_supply_back_when_it_is_assigned(shelf: Shelf) -> None:
    shop = shelf.take_down("disconnected")
    kept = shop.office.take(shop.payment(OWED, account="A11", receipt="R7"))
    assert (kept.state, kept.booked_for) == (PaymentState.UNMATCHED, "")
    shop.pass_time(HOUR, step=timedelta(minutes=10))
    assert shop.is_dark()
    for _ in range(TIMES):
        shop.office.assign("app", "R7", "A1", by="clerk")
    assert shop.balance() == 0
    shop.run()
    check_light(shop)
    with pytest.raises(BadPayment, match="is booked"):
        shop.office.assign("app", "R7", "A2", by="clerk")
    assert shop.office.unmatched() == []
    shop.aclose()
