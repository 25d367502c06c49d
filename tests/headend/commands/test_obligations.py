"""The pure rules: ladder, pauses, ramp, batches, alarms, deadlines on both clocks."""

import random
from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from headend.commands.alarms import Sight, alarms_of, changes
from headend.commands.obligations import (
    ESCALATIONS,
    PAUSE_S_MAX,
    RAMP_S_MAX,
    Obligation,
    Ramp,
    Spread,
    escalated,
    next_escalation,
    pause_s,
)
from headend.commands.trust import HOLD_S, ClockTrust, Deadline
from headend.drivers.relay import Witness
from headend.store.commands import Supply
from simulators.virtual_time import VirtualClock, run
from tests.headend.commands.world import NOON

DEBT = Obligation(id="d1", meter="M000001", cause="payment", reference="P1", since=NOON, opened_at=NOON, due_at=NOON)
HOUR = timedelta(hours=1)


def test_the_ladder_is_climbed_step_by_step_and_never_down() -> None:
    debt = DEBT
    for stage, step in enumerate(ESCALATIONS, start=1):
        assert next_escalation(debt) == NOON + step
        assert escalated(debt, NOON + step - timedelta(seconds=1)) is None
        higher = escalated(debt, NOON + step)
        assert higher is not None
        assert higher.stage == stage
        debt = higher
    assert debt.is_incident
    assert next_escalation(debt) is None
    assert escalated(debt, NOON) is None


def test_a_payment_that_is_told_late_stands_at_its_own_step_at_once() -> None:
    told = escalated(DEBT, NOON + 13 * HOUR)
    assert told is not None
    assert told.stage == 3


def test_pauses_double_up_to_a_quarter_of_an_hour() -> None:
    assert [pause_s(tries) for tries in range(1, 5)] == [5, 10, 20, 40]
    assert pause_s(10_000) == PAUSE_S_MAX


@pytest.mark.parametrize("count", [5, 100, 5000])
def test_a_ramp_lets_a_few_go_at_once_and_the_last_within_ten_minutes(count: int) -> None:
    ramp, spread = Ramp(random.Random(1)), Spread()
    waits = [ramp.turn_s("feeder", 1000.0, spread) for _ in range(count)]
    assert waits[: spread.at_once] == [0.0] * spread.at_once
    assert max(waits) <= RAMP_S_MAX
    if count == 100:
        assert waits == sorted(waits)
    if count == 5000:
        per_minute = [sum(60 * minute <= wait < 60 * minute + 60 for wait in waits) for minute in range(10)]
        assert max(per_minute) < 2 * min(per_minute)
    assert ramp.turn_s("feeder", 1000.0, spread, is_first=True) == 0.0
    assert ramp.turn_s("another", 1000.0, spread) == 0.0
    assert ramp.turn_s("feeder", 3000.0, spread) == 0.0


def test_a_ramp_goes_by_the_policy_and_never_beyond_ten_minutes() -> None:
    for spread in (Spread(19, 120.0), Spread(0, 0.0), Spread(3, 99_999.0)):
        ramp = Ramp(random.Random(1))
        waits = [ramp.turn_s("feeder", 1000.0, spread) for _ in range(500)]
        assert sum(wait == 0.0 for wait in waits) >= spread.at_once
        assert max(waits) <= min(spread.longest_s, RAMP_S_MAX)


def a_witness(contact: str, current: str = "0") -> Witness:
    return Witness(contact=contact, at=NOON + HOUR, current_a=Decimal(current))  # type: ignore[arg-type]


CUT = Supply(meter="M000001", contact="open", at=NOON - HOUR, by="c1")
PAID = replace(CUT, paid_at=NOON)


@pytest.mark.parametrize(
    ("supply", "sight", "expected"),
    [
        (PAID, Sight(at=NOON + HOUR, witness=a_witness("open")), {"paid-but-dark"}),
        (PAID, Sight(at=NOON + timedelta(minutes=5), witness=a_witness("open")), set()),
        (PAID, Sight(at=NOON + HOUR, witness=a_witness("closed"), is_reconnecting=True), set()),
        (replace(PAID, at=NOON + HOUR / 2), Sight(at=NOON + HOUR, witness=a_witness("open")), set()),
        (CUT, Sight(at=NOON + HOUR, witness=a_witness("open")), set()),
        (CUT, Sight(at=NOON + HOUR, witness=a_witness("open", "3")), {"cut-but-consuming"}),
        (CUT, Sight(at=NOON + HOUR, energy_kwh_since_cut=Decimal("0.5")), {"cut-but-consuming"}),
        (CUT, Sight(at=NOON + HOUR, energy_kwh_since_cut=Decimal("0.01")), set()),
        (CUT, Sight(at=NOON + HOUR, witness=a_witness("closed", "3")), {"closed-but-should-be-open"}),
        (Supply(meter="M000001"), Sight(at=NOON + HOUR, witness=a_witness("open")), set()),
        (Supply(meter="M000001", paid_at=NOON), Sight(at=NOON + HOUR, witness=a_witness("open")), {"paid-but-dark"}),
    ],
)
def test_what_does_not_go_together_is_an_alarm(supply: Supply, sight: Sight, expected: set[str]) -> None:
    assert set(alarms_of(supply, sight)) == expected


def test_alarms_are_told_when_they_come_and_when_they_go() -> None:
    assert changes({"a", "b"}, {"b", "c"}) == [("c", True), ("a", False)]


def test_a_deadline_passes_on_either_clock() -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        deadline = Deadline.at(clock.now() + timedelta(seconds=60), clock)
        assert not deadline.is_passed(clock)
        clock.step(60)
        assert deadline.is_passed(clock)
        clock.step(-3600)
        assert not deadline.is_passed(clock)
        clock._loop._virtual_s += 60
        assert deadline.is_passed(clock), "setting the wall clock back gives no time"

    run(main, start=NOON)


@pytest.mark.parametrize("step_s", [3.0, -3.0, 86400.0])
def test_a_step_of_the_clock_is_mistrusted_for_a_while_whatever_the_machine_says(step_s: float) -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        trust = ClockTrust(clock, lambda: True)
        assert trust.look() is True
        clock.step(step_s)
        assert trust.look() is False
        assert trust.steps == 1
        clock._loop._virtual_s += HOLD_S + 1
        assert trust.look() is True
        for _ in range(1000):
            clock.step(0.001)
            assert trust.look() is True

    run(main, start=NOON)


def test_nobody_knowing_the_clock_is_no_yes() -> None:
    async def main(clock: VirtualClock, random_: random.Random) -> None:
        assert ClockTrust(clock, lambda: None).look() is None

    run(main, start=NOON)
