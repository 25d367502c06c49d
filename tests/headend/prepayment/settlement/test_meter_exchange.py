"""Meters that change hands while a supply is off, or about to be: whose supply is asked about, told of, and switched."""

from datetime import timedelta
from typing import Any

import pytest

from headend.prepayment.accounts.accounts import close
from headend.prepayment.errors import NotEligible
from headend.prepayment.settlement.findings import meters_to_ask
from headend.prepayment.supply.store import ENDING, meters_to_tell
from tests.headend.prepayment.office_world import DAY, HOUR, PLAN, A, M, OfficeWorld

B, N = "A0002", "M0002"
MINUTE = timedelta(minutes=1)


def run_out(world: OfficeWorld) -> None:
    world.open()
    world.pay(100)
    world.until("disconnected")


def order(world: OfficeWorld) -> None:
    """An order that the switch has and has not carried out."""
    world.open()
    world.pay(100)
    world.until("warned")
    world.until("ordered", step=MINUTE)
    assert [one.state for one in world.switch.commands.values()] == ["scheduled"]


def exchange(world: OfficeWorld, day: int = 0) -> None:
    world.office.exchange_meter(A, M, N, world.today + day * DAY, by="fitter")
    world.daily_kwh[N] = world.daily_kwh.pop(M)


def told(world: OfficeWorld) -> set[str]:
    return {str(content[0]) for content in world.switch.references.values()}


def test_a_meter_installed_while_the_supply_is_off_is_not_free_for_ever(world: OfficeWorld) -> None:
    run_out(world)
    exchange(world)
    before = len(world.kinds())
    world.until("low")
    world.until("disconnected")
    world.pass_time(HOUR)
    assert world.kinds()[before:] == ["low", "used-up", "last-warning", "disconnected"]
    assert [meter for meter, _ in world.switch.opened] == [M, N]


def test_who_pays_after_an_exchange_while_off_is_well_as_soon_as_the_new_meter_delivers(world: OfficeWorld) -> None:
    """The old one lies in a drawer, and never comes back."""
    run_out(world)
    hears = world.switch.payment

    def payment(meter: str, **more: Any) -> None:
        if meter != M:
            hears(meter, **more)

    world.switch.payment = payment  # type: ignore[method-assign]
    exchange(world)
    world.pay(100_000)
    world.pass_time(PLAN.back_within + HOUR)
    assert (world.state(), world.office.card(A).flags, world.office.problems()) == ("well", {}, [])
    assert (world.switch.supply(M), world.switch.supply(N)) == ("off", "on")


def test_a_meter_that_came_to_another_account_is_neither_told_nor_closed_for_the_one_before(world: OfficeWorld) -> None:
    run_out(world)
    exchange(world)
    world.open(B, M)
    world.switch.references.clear()
    world.pay(100_000)
    world.pass_time(3 * HOUR, step=5 * MINUTE)
    assert (world.state(), told(world)) == ("well", {N})
    assert (world.switch.supply(M), world.switch.debts) == ("off", {})


def test_a_closed_account_whose_meter_came_to_another_is_done(world: OfficeWorld) -> None:
    """Nobody waits for a supply that is somebody else's."""
    run_out(world)
    world.pay(100_000)
    world.until("paid", step=MINUTE)
    world.switch.debts.clear()
    world.office.move_out(A, world.today, by="clerk")
    world.pass_time(2 * DAY)
    card = world.office.card(A)
    assert (card.account.state.value, world.state(), "not-back" in card.flags) == ("closed", "paid", True)
    world.open(B, M)
    world.pass_time(HOUR)
    assert (world.state(), world.switch.supply(M), "not-back" in world.office.card(A).flags) == ("well", "off", False)


def test_the_meter_in_service_is_ordered_off_and_not_one_that_comes_later(world: OfficeWorld) -> None:
    world.open()
    world.office.exchange_meter(A, M, N, world.today + 90 * DAY, by="fitter")
    world.pay(100)
    world.until("disconnected")
    assert [meter for meter, _ in world.switch.opened] == [M]
    assert [one.meter for one in world.office.card(A).supply.orders] == [M]
    with world.database.reading("looking") as connection:
        assert meters_to_ask(connection, world.today) == [(A, M)]


def test_an_account_whose_meter_is_not_in_service_yet_is_not_ordered_off(world: OfficeWorld) -> None:
    world.office.enrol(world.enrolment(), by="clerk")
    world.office.confirm(A, by="clerk", opens_on=world.today + 30 * DAY)
    world.office.adjust(A, -5000, key="k", note="connection fee", by="clerk")
    world.pass_time(10 * DAY)
    assert world.switch.commands == {}
    assert "no meter of the account is in service" in world.office.why_not(A)


def test_a_meter_with_an_order_under_way_changes_no_hands_until_it_has_ended(world: OfficeWorld) -> None:
    order(world)
    with pytest.raises(NotEligible, match=rf"{M}' may still be switched by an order for account '{A}'; .* try again"):
        exchange(world)
    world.until("disconnected", step=MINUTE)
    world.pass_time(PLAN.order_valid + ENDING, step=MINUTE)
    exchange(world)
    assert world.office.card(A).meters[-1].meter == N


def test_a_meter_is_not_enrolled_while_an_order_of_the_account_before_may_reach_it(world: OfficeWorld) -> None:
    order(world)
    with world.database.writing("closing at midnight, in a hurry") as connection:
        close(connection, A, world.today)
    with pytest.raises(NotEligible, match="may still be switched"):
        world.open(B, M)
    world.pass_time(PLAN.order_valid + ENDING, step=MINUTE)
    with pytest.raises(NotEligible, match="no day is charged twice"):
        world.open(B, M)
    world.pass_time(DAY)
    world.office.confirm(B, by="clerk")
    assert world.switch.supply(M) == "on"


def test_an_order_that_was_never_heard_is_not_sent_after_its_meter_was_exchanged(world: OfficeWorld) -> None:
    """At midnight, when an exchange that was noted before comes into force."""
    world.open()
    world.office.exchange_meter(A, M, N, world.today + 30 * DAY, by="fitter")
    world.pay(100)
    world.until("warned")
    world.switch.away = 1.0
    world.until("ordered", step=MINUTE)
    assert world.switch.commands == {}
    with world.database.writing("moving the exchange") as connection:
        connection.exec_driver_sql(
            f"update account_meters set until = until - 40 where meter = '{M}'"  # it measured until ten days ago
        )
        connection.exec_driver_sql(f"update account_meters set since = since - 40 where meter = '{N}'")
    world.switch.away = 0.0
    world.pass_time(10 * MINUTE, step=MINUTE)
    assert M not in {one.meter for one in world.switch.commands.values()}
    assert world.state() != "ordered"


def test_a_credit_is_told_of_the_meter_whose_exchange_was_noted_ahead_for_both_accounts(world: OfficeWorld) -> None:
    """It measures the first account until that day, whoever has it after."""
    world.open()
    world.open(B, "M0003")
    ahead = world.today + 30 * DAY
    world.office.exchange_meter(A, M, N, ahead, by="fitter")
    world.office.exchange_meter(B, "M0003", M, ahead, by="fitter")
    assert world.days.zone == PLAN.zone
    with world.database.reading("looking") as connection:
        assert meters_to_tell(connection, A, world.today) == [M, N]
        assert meters_to_tell(connection, B, world.today) == ["M0003"]
        assert meters_to_tell(connection, A, ahead + DAY) == [N]
        assert meters_to_tell(connection, B, ahead + DAY) == [M]
