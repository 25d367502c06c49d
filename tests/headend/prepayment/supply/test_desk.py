"""Single stories of accounts that run out, with the real desk, mailroom, till and books, a switch and a phone network that obey."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from headend.prepayment.accounts.accounts import change_contact
from headend.prepayment.model import Account, PaymentState
from headend.prepayment.notices.notices import Letter, Still, letters_of
from headend.prepayment.notices.texts import load_texts
from headend.prepayment.storage.database import Database
from headend.prepayment.supply.desk import SupplyDesk
from headend.prepayment.supply.facts import Standing, SupplyFacts
from headend.prepayment.supply.store import restores
from headend.prepayment.trouble.flags import clear_flag, flags_of, raise_flag
from headend.prepayment.trouble.kinds import HOLD
from tests.headend.prepayment.supply_world import PLAN, Crash, Program, Town, account_name, meter_of

A = account_name(0)
M = meter_of(A)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    found = Program(tmp_path, Town(1), 1)
    yield found
    found.aclose()


def live(program: Program, days: int) -> None:
    """Every day is charged at its end."""
    for _ in range(days):
        program.pass_time(DAY, step=timedelta(minutes=30))
        program.use(A, program.daily_minor[A])


def live_until(program: Program, state: str, *, days_max: int = 40) -> None:
    for _ in range(days_max):
        if program.state(A) == state:
            return
        live(program, 1)
    raise AssertionError(f"{program.state(A)}: {program.desk.why_not(A, program.town.now)}")


def run_out(program: Program) -> None:
    program.pay(A, 4000)
    live_until(program, "disconnected")


def letters(program: Program) -> list[Letter]:
    """Oldest first."""
    with Database(program.engine).reading("looking") as connection:
        return letters_of(connection, A)[::-1]


def flags(program: Program) -> dict[str, str]:
    with Database(program.engine).reading("looking") as connection:
        return flags_of(connection, A)


def test_three_messages_come_before_the_supply_goes_off_and_the_fourth_tells_it(program: Program) -> None:
    """The service's own answer: nobody is cut at once; messages come first."""
    run_out(program)
    assert program.mail.kinds(A) == ["low", "used-up", "last-warning", "disconnected"]
    assert program.switch.supply(M) == "off"
    sent = [one.delivered_at for one in letters(program)]
    assert all(earlier < later for earlier, later in pairwise(sent))  # type: ignore[operator]


def test_the_first_message_comes_when_fewer_than_five_days_are_left(program: Program) -> None:
    """The service's own answer: warned at five days."""
    program.pay(A, 4000)
    live(program, 3)  # 2500 left: five days at 500 a day
    program.pass_time(DAY)
    assert program.mail.kinds(A) == []
    program.use(A, 1)
    program.pass_time(2 * HOUR)
    assert program.mail.kinds(A) == ["low"]


def test_the_second_message_says_how_much_and_until_when(program: Program) -> None:
    program.pay(A, 1000)
    live_until(program, "used-up")
    program.pass_time(12 * HOUR)
    second = letters(program)[1]
    assert second.kind == "used-up"
    assert second.deadline is not None
    assert second.deadline - second.created_at >= PLAN.pay_within
    local = second.deadline.astimezone(PLAN.zone).strftime("%Y-%m-%d %H:%M")
    assert local in second.text
    assert "5.00" in second.text  # what is owed after the day that used it up


def test_nothing_is_sent_in_quiet_hours_but_what_answers_a_payment(program: Program) -> None:
    run_out(program)
    program.pay(A, 50_000)
    program.pass_time(DAY, step=timedelta(minutes=5))
    for one in letters(program):
        assert one.delivered_at is not None
        if one.kind not in PLAN.prompt:
            assert 8 <= one.delivered_at.astimezone(PLAN.zone).hour < 20


def test_a_payment_brings_the_supply_back_and_both_are_told(program: Program) -> None:
    run_out(program)
    program.pay(A, -program.balance(A))
    assert M in program.switch.debts
    program.pass_time(3 * HOUR, step=timedelta(minutes=1))
    assert program.switch.supply(M) == "on"
    assert program.mail.kinds(A)[-2:] == ["paid", "restored"]
    assert program.state(A) == "well"
    took = (
        int(letters(program)[-1].text.split("min after")[0].split()[-1])
        if "min after" in letters(program)[-1].text
        else 1
    )
    assert 1 <= took <= 70


def test_a_payment_that_leaves_a_debt_brings_nothing_back_before_the_rest_is_paid(program: Program) -> None:
    run_out(program)
    owed = -program.balance(A)
    with program.database.reading("asking") as connection:
        assert not restores(connection, A, owed - 1)
        assert restores(connection, A, owed)


def test_how_long_balances_last_is_asked_only_where_it_decides_something(program: Program) -> None:
    """For a plan that counts use of today it is the dearest of all questions."""
    asked: list[str] = []

    def outlook(
        connection: Connection, accounts: Sequence[Account], balances: Mapping[str, int], now: datetime
    ) -> dict[str, Standing]:
        asked.extend(one.id for one in accounts)
        return {}

    now, facts = program.town.now, SupplyFacts(PLAN, outlook)
    with program.database.reading("looking") as connection:
        assert facts.seem_due(connection, now) == [A]
    assert asked == [A]
    live_until(program, "low")
    with program.database.reading("looking") as connection:
        assert facts.seem_due(connection, now) == []  # it has its own turn
    assert asked == [A]
    desk = SupplyDesk(program.database, program.switch, plan=PLAN, texts=load_texts(PLAN.zone), outlook=outlook)
    low = letters(program)[0]
    with program.database.reading("looking") as connection:
        assert desk.still(connection, replace(low, kind="paid"), now) is Still.SEND
        assert asked == [A]
        desk.still(connection, low, now)
    assert asked == [A, A]


@pytest.mark.parametrize("state", ["low", "used-up", "warned"])
def test_who_pays_is_never_sent_the_next_step(program: Program, state: str) -> None:
    program.pay(A, 3000)
    live_until(program, state)
    program.pass_time(HOUR)
    before = program.mail.kinds(A)
    program.pay(A, 100_000)
    live(program, 12)
    assert program.mail.kinds(A) == before
    assert program.switch.opened == []
    assert program.state(A) == "well"


def test_a_phone_that_cannot_be_reached_is_flagged_and_nothing_is_disconnected(program: Program) -> None:
    program.mail.unreachable.add("+8613800000000")
    program.pay(A, 1000)
    live(program, 30)
    assert program.mail.given == {}
    assert program.switch.commands == {}
    assert not program.is_reachable(A)
    assert "unreachable" in flags(program)
    with Database(program.engine).writing("changing the number") as connection:
        change_contact(connection, A, "13900000000", program.town.now, by="clerk")
    live_until(program, "disconnected")
    assert program.mail.kinds(A) == ["low", "used-up", "last-warning", "disconnected"]
    assert flags(program) == {}


def test_a_hold_keeps_the_supply_on(program: Program) -> None:
    with Database(program.engine).writing("holding") as connection:
        raise_flag(connection, A, HOLD, program.town.now, "dialysis at home, certificate of 1 March")
    program.pay(A, 1000)
    live(program, 25)
    assert program.mail.kinds(A) == ["low", "used-up"]
    assert "a person has to look first" in program.desk.why_not(A, program.town.now)
    with Database(program.engine).writing("releasing") as connection:
        clear_flag(connection, A, HOLD)
    live_until(program, "disconnected")


def test_days_that_are_not_settled_keep_the_supply_on(program: Program) -> None:
    program.pay(A, 1000)
    live_until(program, "used-up")
    for _ in range(20):
        program.pass_time(DAY, step=HOUR)
    assert program.switch.commands == {}
    assert any("not fresh enough" in one for one in program.desk.why_not(A, program.town.now))


def test_a_refusal_that_no_time_cures_goes_to_a_person_and_the_customer_is_left_in_peace(program: Program) -> None:
    plan = replace(PLAN, wait_for=())
    program.plan = plan
    program.start()
    program.switch.refusing = 1.0
    program.pay(A, 1000)
    live(program, 30)
    assert flags(program) == {"disconnection-refused": "weather: too cold"}
    assert program.mail.kinds(A) == ["low", "used-up", "last-warning"]
    assert len(program.switch.commands) == 1


def test_last_warnings_that_come_to_nothing_are_not_sent_for_ever(program: Program) -> None:
    program.switch.refusing = 1.0
    program.pay(A, 1000)
    live(program, 30)
    assert program.mail.kinds(A).count("last-warning") == PLAN.last_warnings_max
    assert "warned-in-vain" in flags(program)


def reverse_the_last_payment(program: Program) -> None:
    receipt = list(program.receipts)[-1]
    for _ in range(2):  # told twice, taken back once
        taken_back = program.till.reverse("app", receipt, reason="cheque without funds", by="bank")
        assert taken_back.state is PaymentState.REVERSED


def test_a_reversal_after_reconnection_is_told_and_all_warnings_come_again(program: Program) -> None:
    run_out(program)
    program.pay(A, 20_000)
    live(program, 1)
    assert program.state(A) == "well"
    told = len(program.mail.given)
    reverse_the_last_payment(program)
    live_until(program, "disconnected")
    assert program.mail.kinds(A)[told:] == ["reversed", "low", "used-up", "last-warning", "disconnected"]


def test_a_reversal_after_reconnection_may_let_the_warnings_before_the_payment_count(program: Program) -> None:
    program.plan = replace(PLAN, after_reversal="last-warning")
    program.start()
    run_out(program)
    program.pay(A, 20_000)
    live(program, 1)
    told = len(program.mail.given)
    reverse_the_last_payment(program)
    live_until(program, "disconnected")
    assert program.mail.kinds(A)[told:] == ["reversed", "last-warning", "disconnected"]


def test_a_program_that_dies_right_after_its_order_finds_it_again_and_orders_nothing_twice(program: Program) -> None:
    program.pay(A, 1000)
    live_until(program, "warned")
    real = program.switch.order_open

    def dies(meter: str, **order: object) -> object:
        real(meter, **order)  # type: ignore[arg-type]
        raise Crash

    program.switch.order_open = dies  # type: ignore[method-assign,assignment]
    live(program, 1)
    program.switch.order_open = real  # type: ignore[method-assign]
    live_until(program, "disconnected", days_max=3)
    assert len(program.switch.commands) == 1
