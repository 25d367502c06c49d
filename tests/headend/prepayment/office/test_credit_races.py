"""Money that a person books while an order is under way, and credits that nobody can be told of."""

from datetime import timedelta

import pytest

from headend.prepayment.errors import BadPayment, KeyReused, SwitchboardUnavailable, SwitchedOff
from headend.prepayment.model import PaymentState
from headend.prepayment.ports import Supply
from tests.headend.prepayment.office_world import DAY, HOUR, PLAN, A, M, OfficeWorld
from tests.headend.prepayment.supply_world import Crash

B, N = "A0002", "M0002"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def ordered(world: OfficeWorld) -> OfficeWorld:
    """An order is under way that has not reached its meter, and there is an unmatched payment."""
    world.open()
    world.pay(100)
    world.pay(100_000, "nobody", receipt="lost")
    world.until("warned")
    world.until("ordered", step=MINUTE)
    assert states(world) == ["scheduled"]
    return world


def states(world: OfficeWorld) -> list[str]:
    return [one.state for one in world.switch.commands.values()]


def assign(world: OfficeWorld) -> None:
    assert world.office.assign("app", "lost", A, by="cashier").booked_for == A


def adjust(world: OfficeWorld) -> None:
    world.office.adjust(A, 100_000, key="goodwill", note="goodwill", by="cashier")


@pytest.mark.parametrize("credit", [assign, adjust])
def test_money_that_a_person_books_overtakes_an_order_at_once(ordered: OfficeWorld, credit: object) -> None:
    credit(ordered)  # type: ignore[operator]
    assert states(ordered) == ["cancelled"], "before anything that runs by itself had its turn"
    credit(ordered)  # type: ignore[operator]
    ordered.pass_time(DAY)
    assert (ordered.state(), ordered.switch.opened, ordered.office.told_not_booked()) == ("well", [], [])
    assert ordered.balance() > 90_000


@pytest.mark.parametrize("credit", [assign, adjust])
def test_money_is_not_booked_when_an_order_under_way_cannot_be_told_of_it(ordered: OfficeWorld, credit: object) -> None:
    before = ordered.balance()
    ordered.switch.away = 1.0
    with pytest.raises(SwitchboardUnavailable):
        credit(ordered)  # type: ignore[operator]
    assert (ordered.balance(), ordered.office.told_not_booked()) == (before, [])
    ordered.switch.away = 0.0
    credit(ordered)  # type: ignore[operator]
    assert states(ordered) == ["cancelled"]


def test_without_an_order_nobody_has_to_be_told_before(world: OfficeWorld) -> None:
    world.open()
    world.switch.away = 1.0
    adjust(world)
    assert (world.balance(), world.switch.references) == (100_000, {})


def test_a_credit_that_is_none_or_is_booked_already_stops_no_order(ordered: OfficeWorld) -> None:
    ordered.office.adjust(A, -1, key="fee", note="fee", by="cashier")
    with pytest.raises(KeyReused):
        ordered.office.adjust(A, 5, key="fee", note="fee", by="cashier")
    with pytest.raises(BadPayment, match="cannot be given"):
        ordered.office.assign("app", "lost", "nobody", by="cashier")
    assert states(ordered) == ["scheduled"]
    assert PaymentState.UNMATCHED in {one.state for one in ordered.office.unmatched()}


def test_who_dies_between_fence_and_books_leaves_nothing_when_it_is_done_again(ordered: OfficeWorld) -> None:
    places = iter(("noted", "on the way to the switch", "on the way back"))

    def dies() -> None:
        if next(places) == "on the way back":
            raise Crash

    ordered.town.interrupt = dies
    with pytest.raises(Crash):
        assign(ordered)
    ordered.town.interrupt = lambda: None
    ordered.start()
    (waiting,) = ordered.office.told_not_booked()
    assert (waiting.receipt, waiting.account) == ("lost", A)
    ordered.pass_time(HOUR, step=MINUTE)
    assert ordered.switch.opened == []
    assign(ordered)
    assert ordered.office.told_not_booked() == []
    ordered.pass_time(DAY)
    assert (ordered.state(), ordered.office.card(A).flags) == ("well", {})


def test_a_credit_that_the_switch_is_not_told_of_in_time_is_somebody_s_affair(world: OfficeWorld) -> None:
    """It switches nothing for now: the payment is taken, and the customer sits in the dark."""
    world.open()
    world.pay(100)
    world.until("disconnected")
    hears = world.switch.payment

    def off(*_: object, **__: object) -> None:
        raise SwitchedOff("[control] is off")

    world.switch.payment = off  # type: ignore[method-assign]
    world.pay(100_000)
    world.pass_time(PLAN.back_within, step=10 * MINUTE)
    assert (world.state(), world.office.problems()) == ("disconnected", [])
    world.pass_time(HOUR, step=10 * MINUTE)
    assert "could not be told" in world.office.card(A).flags["not-back"]
    assert len(world.office.problems()) == 1
    world.switch.payment = hears  # type: ignore[method-assign]
    world.pass_time(2 * HOUR, step=10 * MINUTE)
    assert (world.state(), world.switch.supply(M), world.office.card(A).flags) == ("well", "on", {})
    assert world.office.problems() == []


def test_a_meter_that_cannot_be_asked_hides_no_other_that_counts_while_it_is_off(world: OfficeWorld) -> None:
    world.open()
    world.open(B, N)
    world.pay(100)
    world.pay(100, B)
    world.until("disconnected", B)
    world.until("disconnected")
    answers = world.switch.supply

    def half(meter: str) -> Supply:
        if meter == M:
            raise SwitchboardUnavailable("none of the 5000 newest commands of this meter has switched it")
        return answers(meter)

    world.switch.supply = half  # type: ignore[method-assign]
    world.pass_time(3 * DAY)
    assert "use-while-disconnected" in world.office.card(B).flags
    assert "use-while-disconnected" not in world.office.card(A).flags
