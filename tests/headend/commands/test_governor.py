"""The governor's limits and its clock, pure: each limit at its edge, and time that nothing gives back."""

import random
from decimal import Decimal
from typing import Any

import pytest

from headend.commands.governor import (
    Admitted,
    Fleet,
    Governor,
    Limits,
    OpenFacts,
    Over,
    OverLimit,
    Tally,
    alarms,
    raised,
)
from headend.commands.governor_clock import STEP_MS_MAX, GovernorClock

FLEET = Fleet(meters=100_000, on_feeder={"F1": 1000, "F2": 1000})
WIDE: dict[str, Any] = {
    "per_hour": 10**6,
    "of_fleet_per_day": Decimal(1),
    "of_feeder_per_day": Decimal(1),
    "kw_per_hour": None,
}


def an_open(number: int = 0, **changes: Any) -> OpenFacts:
    fields: dict[str, Any] = {
        "caller": "billing",
        "meter": f"M{number}",
        "feeder": "F1",
        "line": "L1",
        "kw": Decimal(2),
    }
    return OpenFacts(**(fields | changes))


def admitted(limits: Limits, opens: list[OpenFacts], fleet: Fleet = FLEET) -> tuple[int, str]:
    """How many pass, and the limit that the first other one goes over."""
    governor, tally = Governor(limits), Tally()
    for count, facts in enumerate(opens):
        outcome = governor.admit(facts, tally, fleet)
        if isinstance(outcome, OverLimit):
            assert outcome.used <= outcome.allowed
            return count, outcome.limit
        assert outcome == Admitted()
        tally.add(facts, governor.kw_of(facts))
    return len(opens), ""


@pytest.mark.parametrize(
    ("limits", "opens", "expected"),
    [
        (Limits(), [an_open(n) for n in range(60)], (50, "per_hour")),
        (Limits(per_hour=500), [an_open(n, kw=Decimal("0.1")) for n in range(60)], (50, "of_feeder_per_day of F1")),
        (Limits(**WIDE | {"per_day": 7}), [an_open(n) for n in range(9)], (7, "per_day")),
        (Limits(**WIDE | {"caller_per_hour": 3}), [an_open(n) for n in range(9)], (3, "caller_per_hour of billing")),
        (Limits(**WIDE | {"caller_per_day": 4}), [an_open(n) for n in range(9)], (4, "caller_per_day of billing")),
        (Limits(**WIDE | {"line_per_hour": 2}), [an_open(n) for n in range(9)], (2, "line_per_hour of L1")),
        (Limits(**WIDE | {"line_per_day": 5}), [an_open(n) for n in range(9)], (5, "line_per_day of L1")),
        (Limits(**WIDE | {"kw_per_hour": Decimal(9)}), [an_open(n) for n in range(9)], (4, "kw_per_hour")),
        (Limits(**WIDE | {"kw_per_day": Decimal(10)}), [an_open(n) for n in range(9)], (5, "kw_per_day")),
        (Limits(**WIDE | {"kw_per_hour": Decimal(10)}), [an_open(n, kw=None) for n in range(9)], (2, "kw_per_hour")),
        (Limits(per_hour=0), [an_open()], (0, "per_hour")),
    ],
)  # fmt: skip
def test_each_limit_holds_at_its_edge(limits: Limits, opens: list[OpenFacts], expected: tuple[int, str]) -> None:
    assert admitted(limits, opens) == expected


def test_the_share_of_the_fleet_is_rounded_down_and_one_at_least() -> None:
    def of(meters: int) -> int:
        limits = Limits(**WIDE | {"of_fleet_per_day": Decimal("0.005")})
        fleet = Fleet(meters=meters, on_feeder={"F1": meters})
        return admitted(limits, [an_open(n) for n in range(60)], fleet)[0]

    assert [of(meters) for meters in (0, 1, 199, 399, 400, 10_000)] == [0, 1, 1, 1, 2, 50]


def test_limits_of_one_place_leave_others_room() -> None:
    limits = Limits(**WIDE | {"line_per_hour": 1, "caller_per_hour": 2})
    opens = [an_open(1), an_open(2, line="L2"), an_open(3, line="L3", caller="desk"), an_open(4, line="L4")]
    assert admitted(limits, opens) == (3, "caller_per_hour of billing")


def test_without_limits_nothing_is_admitted() -> None:
    outcome = Governor(None).admit(an_open(), Tally(), FLEET)
    assert isinstance(outcome, OverLimit)
    assert outcome.allowed == 0


def test_a_negative_estimate_does_not_make_room() -> None:
    limits = Limits(**WIDE | {"kw_per_hour": Decimal(4)})
    opens = [an_open(1), an_open(2, kw=Decimal(-100)), an_open(3), an_open(4)]
    assert admitted(limits, opens) == (3, "kw_per_hour")


def test_what_is_wider_is_named() -> None:
    assert raised(Limits(), Limits()) == ()
    assert raised(Limits(), Limits(per_hour=49, kw_per_hour=Decimal(1), per_day=5, raise_delay_s=7200)) == ()
    assert raised(Limits(), Limits(per_hour=51)) == ("per_hour",)
    assert raised(Limits(per_day=5), Limits()) == ("per_day",)
    assert raised(Limits(), Limits(kw_when_unknown=Decimal(1), raise_delay_s=60, batch_max=11)) == (
        "kw_when_unknown",
        "batch_max",
        "raise_delay_s",
    )
    assert raised(None, Limits(per_hour=0)) == Limits.__struct_fields__


def test_one_alarm_tells_of_all_that_one_limit_held_up_of_one_caller() -> None:
    def over(number: int, caller: str, limit: str) -> Over:
        one = Decimal(1)
        return Over(caller=caller, meter=f"M{number}", limit=limit, used=one, allowed=one, position_ms=number)

    noted = [over(n, "thief", "per_hour") for n in range(1000)] + [
        over(1, "desk", "per_hour"),
        over(2, "thief", "kw_per_hour"),
    ]
    found = alarms(noted)
    assert [(alarm.caller, alarm.limit, alarm.count) for alarm in found] == [
        ("desk", "per_hour", 1),
        ("thief", "kw_per_hour", 1),
        ("thief", "per_hour", 1000),
    ]
    assert len(found[2].meters) == 5
    assert alarms([]) == ()


def test_the_clock_moves_with_monotonic_progress_only_and_never_by_more_than_a_step() -> None:
    clock = GovernorClock(1000, 50.0)
    assert clock.observe(50.0) == 1000
    assert clock.observe(51.5) == 2500
    assert clock.observe(40.0) == 2500, "a monotonic clock that goes back is not believed"
    assert clock.observe(51.5) == 2500, "and nothing is counted twice when it comes back"
    assert clock.observe(51.5 + 86400) == 2500 + STEP_MS_MAX, "a machine that slept gains a step at most"
    clock.catch_up(10)
    assert clock.observe(51.5 + 86400) == 2500 + STEP_MS_MAX


def test_over_any_observations_and_restarts_the_clock_is_never_ahead_of_the_time_that_has_passed() -> None:
    """The model: real seconds in which some process ran. The clock may lag behind it, and must not lead."""
    for seed in range(200):
        dice = random.Random(seed)
        ran_s = monotonic = dice.uniform(0, 1e6)
        began = ran_s
        durable = 0
        clock = GovernorClock(durable, monotonic)
        for _ in range(200):
            what = dice.random()
            if what < 0.1:  # it is killed, and starts again on a machine whose monotonic clock begins anywhere
                monotonic = dice.uniform(0, 1e9)
                clock = GovernorClock(durable, monotonic)
            elif what < 0.15:
                monotonic += dice.uniform(0, 1e7)  # it slept: no time for the governor beyond a step
                ran_s += STEP_MS_MAX / 1000
            step = dice.expovariate(1 / 30)
            monotonic, ran_s = monotonic + step, ran_s + step
            position = clock.observe(monotonic)
            assert durable <= position <= (ran_s - began) * 1000 + 1
            if dice.random() < 0.5:
                durable = position


def test_small_steps_are_not_lost_by_rounding() -> None:
    clock = GovernorClock(0, 0.0)
    for tick in range(1, 10_001):
        position = clock.observe(tick * 0.0003)
    assert position in (2999, 3000)
