"""Faults of MQTT concentrators: how they are written, and what they do to readings on their way."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from protocols.concentrator.messages import Outgoing, Retained
from simulators.concentrator_faults import (
    ConcentratorFault,
    ConcentratorFaultKind,
    ConcentratorPlan,
    load_concentrator_plan,
    parse_fault,
    read_concentrator_plan,
)
from simulators.concentrator_store import IDS_MAX, Kept, UnsentStore
from simulators.concentrator_traffic import Traffic
from simulators.faults import BadFaults, FaultKind

NOW = datetime(2025, 6, 1, tzinfo=UTC)
K = ConcentratorFaultKind


def plan_of(*faults: str, seed: int = 1) -> ConcentratorPlan:
    return ConcentratorPlan(seed=seed, faults=tuple(map(parse_fault, faults)))


def message(number: int) -> Outgoing:
    return Outgoing(topic="hes/v1/c/meter/1/data", payload=json.dumps({"seq": number}).encode(), qos=1)


def passed(plan: ConcentratorPlan, count: int) -> tuple[list[bytes], Counter[str]]:
    """What leaves of `count` readings, in order, with all that was held back at the end."""
    struck: Counter[str] = Counter()
    traffic = Traffic(struck)
    leaving = []
    for number in range(count):
        leaving += traffic.pass_on(Kept(number, True, message(number)), plan, number / 1000, NOW)
    leaving += traffic.tick(1e9)
    assert traffic.held == 0
    return [departing.message.payload for departing in leaving], struck


def numbers(payloads: list[bytes]) -> list[int]:
    return [json.loads(payload)["seq"] for payload in payloads]


def test_a_file_holds_faults_of_concentrators_and_of_their_meters(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(
        'seed = 7\n[[faults]]\nkind = "duplicate"\nname = "twice"\nprobability = 0.2\ncopies = 2\nfrom = "10m"\n'
        '[[faults]]\nkind = "stuck-relay"\nmeters = ["000000000003"]\n'
    )
    plan = load_concentrator_plan(file, NOW)
    (own,) = plan.faults
    assert own == ConcentratorFault(
        kind=K.DUPLICATE, name="twice", probability=0.2, start=NOW + timedelta(minutes=10), parameters={"copies": 2}
    )
    assert [fault.kind for fault in plan.meters.faults] == [FaultKind.STUCK_RELAY]
    assert plan.seed == plan.meters.seed == 7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"faults": [{"kind": "reorder", "window": 0}]}, "expected 1 to 100000"),
        ({"faults": [{"kind": "reorder", "window": 1.5}]}, "whole number"),
        ({"faults": [{"kind": "reorder", "places": 3}]}, "unknown key places"),
        ({"faults": [{"kind": "duplicate", "probability": 2}]}, "expected 0 to 1"),
        ({"faults": [{"kind": "silent-drop", "socket": "melts"}]}, "stays or vanishes"),
        ({"faults": [{"kind": "duplicate"}, {"kind": "duplicate"}]}, "stands twice"),
        ({"faults": [{"kind": "duplicates"}]}, "expected one of"),
        ({"faults": 3}, "[[faults]]"),
        ({"fault": []}, "unknown key fault"),
    ],
)
def test_a_wrong_file_says_what_was_expected(content: dict[str, object], said: str) -> None:
    with pytest.raises(BadFaults, match=said.replace("[", r"\[").replace("]", r"\]")):
        read_concentrator_plan(content, NOW)


def test_the_shorthand_of_the_command_line_sets_the_main_parameter() -> None:
    assert parse_fault("duplicate=0.2").probability == 0.2
    assert parse_fault("reorder=1000").get("window") == 1000
    assert parse_fault("clock-wrong=-3600").get("offset_s") == -3600
    assert parse_fault("silent-drop").get("for_s") == 30
    for wrong in ("speed=1", "duplicate=often", "duplicate=2", "reorder=0"):
        with pytest.raises(BadFaults):
            parse_fault(wrong)


def test_without_faults_readings_leave_as_they_came() -> None:
    payloads, struck = passed(ConcentratorPlan(), 50)
    assert numbers(payloads) == list(range(50))
    assert not struck


def test_a_fifth_of_the_readings_is_published_twice() -> None:
    payloads, struck = passed(plan_of("duplicate=0.2"), 5000)
    counts = Counter(numbers(payloads))
    assert set(counts) == set(range(5000))
    assert set(counts.values()) == {1, 2}
    assert 900 < struck["duplicate"] == len(payloads) - 5000 < 1100


def test_reordered_readings_move_within_the_window_and_none_is_lost() -> None:
    payloads, _ = passed(plan_of("reorder=100"), 5000)
    places = numbers(payloads)
    assert sorted(places) == list(range(5000))
    moved = [abs(place - number) for place, number in enumerate(places)]
    assert 50 < max(moved) <= 200  # a reading waits for at most 99 later ones, and may be overtaken by as many
    assert sum(moved) > 5000


def test_a_held_reading_leaves_at_its_latest_moment() -> None:
    traffic = Traffic(Counter())
    plan = ConcentratorPlan(faults=(ConcentratorFault(kind=K.REORDER, parameters={"window": 1000, "hold_s": 2.0}),))
    left = [one for n in range(5) for one in traffic.pass_on(Kept(n, True, message(n)), plan, 100.0, NOW)]
    assert traffic.held == 5 - len(left) > 0
    assert traffic.deadline == 102.0
    assert traffic.tick(101.9) == []
    assert len(traffic.tick(102.0)) == 5 - len(left)


def test_damaged_copies_are_no_messages_and_the_right_ones_still_come() -> None:
    payloads, struck = passed(plan_of("malformed=0.3"), 1000)
    right = []
    for payload in payloads:
        try:
            content = json.loads(payload, parse_constant=_refuse)
        except (ValueError, RecursionError):
            continue
        if "seq" in content:
            right.append(content["seq"])
    assert right == list(range(1000))
    assert len(payloads) - 1000 == struck["malformed"] > 200


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def test_answers_and_events_pass_untouched() -> None:
    traffic = Traffic(Counter())
    plan = plan_of("duplicate=1", "reorder=1000", "malformed=1")
    answer = Kept(1, False, message(1))
    assert [departing.message for departing in traffic.pass_on(answer, plan, 0.0, NOW)] == [message(1)]


def test_the_same_seed_gives_the_same_traffic() -> None:
    faults = ("duplicate=0.2", "reorder=50", "malformed=0.1")
    assert passed(plan_of(*faults), 500) == passed(plan_of(*faults), 500)
    assert passed(plan_of(*faults), 500) != passed(plan_of(*faults, seed=2), 500)


def test_what_was_not_acknowledged_is_taken_again() -> None:
    store = UnsentStore()
    for number in range(5):
        store.add(message(number), is_data=True)
    taken = store.take(3)
    assert [kept.message for kept in taken] == [message(0), message(1), message(2)]
    store.acknowledged(taken[1].key)
    assert [kept.message for kept in store.take(9)] == [message(3), message(4)]
    assert store.take(9) == []
    store.give_back()
    assert [kept.message for kept in store.take(9)] == [message(number) for number in (0, 2, 3, 4)]


def test_answers_overtake_readings() -> None:
    store = UnsentStore()
    store.add(message(0), is_data=True)
    store.add(message(1), urgent=True)
    assert [kept.message for kept in store.take(2)] == [message(1), message(0)]


def test_a_full_store_gives_up_the_oldest_reading_and_counts_it() -> None:
    store = UnsentStore(capacity=3)
    store.add(message(99), urgent=True)
    for number in range(5):
        store.add(message(number), is_data=True)
    assert len(store) == 3
    assert store.dropped == 3
    assert [kept.message for kept in store.take(9)] == [message(99), message(3), message(4)]


def test_a_store_in_a_file_outlives_its_process(tmp_path: Path) -> None:
    store = UnsentStore(tmp_path / "c.db")
    store.add(message(1), is_data=True)
    store.add(Retained(topic="t", payload=b"x", qos=1))
    store.take(1)
    store.begin("a", b"digest")
    store.finish("a", b"answer")
    store.begin("b", b"other")
    store.set_number("sequence", 7)
    store.close()
    again = UnsentStore(tmp_path / "c.db")
    assert [kept.message for kept in again.take(9)] == [message(1), Retained(topic="t", payload=b"x", qos=1)]
    assert again.find("a") == (b"digest", b"answer")
    assert again.find("b") == (b"other", None)
    assert again.find("c") is None
    assert again.number("sequence") == 7
    again.close()


def test_only_the_last_command_ids_are_remembered() -> None:
    store = UnsentStore()
    for number in range(IDS_MAX + 10):
        store.begin(str(number), b"digest")
    assert store.find("9") is None
    assert store.find("10") is not None
    assert store.find(str(IDS_MAX + 9)) is not None
