"""Plans of faults: what is drawn from the seed, when, for whom, and what a file of faults may say."""

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.faults import PARAMETERS, BadFaults, Fault, FaultKind, FaultPlan, load_plan, read_plan
from tests.simulators.bench import ADDRESS, NOW

SECOND = timedelta(seconds=1)
DOCS = Path(__file__).parents[2] / "docs" / "simulators.md"


def times_struck(plan: FaultPlan, requests: int = 2000, address: str = ADDRESS) -> list[int]:
    return [count for count in range(requests) if plan.strikes(address, count, NOW)]


def test_a_fault_strikes_as_often_as_its_probability_says() -> None:
    plan = FaultPlan(seed=1, faults=(Fault(kind=FaultKind.SILENCE, probability=0.1),))
    assert 150 < len(times_struck(plan)) < 250
    assert times_struck(FaultPlan(faults=(Fault(kind=FaultKind.SILENCE),))) == list(range(2000))
    assert times_struck(FaultPlan(faults=(Fault(kind=FaultKind.SILENCE, probability=0),))) == []


@settings(max_examples=50)
@given(st.integers(), st.floats(0, 1))
def test_the_same_plan_strikes_the_same_requests(seed: int, probability: float) -> None:
    plan = FaultPlan(seed=seed, faults=(Fault(kind=FaultKind.SILENCE, probability=probability),))
    assert times_struck(plan, 50) == times_struck(plan, 50)


def test_seeds_meters_and_names_strike_apart_and_another_fault_moves_none() -> None:
    fault = Fault(kind=FaultKind.SILENCE, probability=0.5)
    plan = FaultPlan(seed=1, faults=(fault,))
    assert times_struck(plan) != times_struck(FaultPlan(seed=2, faults=(fault,)))
    assert times_struck(plan) != times_struck(plan, address="000000000001")
    both = plan.add(Fault(kind=FaultKind.SPLIT, probability=0.5))
    of_first = [
        count
        for count in range(2000)
        if any(strike.fault.kind is FaultKind.SILENCE for strike in both.strikes(ADDRESS, count, NOW))
    ]
    assert of_first == times_struck(plan)


def test_a_fault_keeps_to_its_meters_and_its_time() -> None:
    fault = Fault(kind=FaultKind.SILENCE, meters=(ADDRESS,), start=NOW, until=NOW + 10 * SECOND)
    plan = FaultPlan(faults=(fault,))
    assert plan.strikes(ADDRESS, 0, NOW)
    assert not plan.strikes("000000000001", 0, NOW)
    assert not plan.strikes(ADDRESS, 0, NOW - SECOND)
    assert not plan.strikes(ADDRESS, 0, NOW + 10 * SECOND)


def test_faults_are_added_replaced_and_removed_by_name() -> None:
    plan = FaultPlan().add(Fault(kind=FaultKind.SILENCE), Fault(kind=FaultKind.SILENCE, name="other"))
    assert len(plan.faults) == 2
    plan = plan.add(Fault(kind=FaultKind.ECHO, name="other"))
    assert [fault.kind for fault in plan.faults] == [FaultKind.SILENCE, FaultKind.ECHO]
    assert plan.remove("other", "silence").faults == ()
    with pytest.raises(BadFaults, match="no fault lightning"):
        plan.remove("lightning")


def test_a_file_says_kind_name_share_meters_and_time(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(
        'seed = 7\n[[faults]]\nkind = "late-reply"\nname = "slow"\nprobability = 0.25\nmeters = ["000000000003"]\n'
        'from = "10m"\nuntil = 2025-06-18T00:00:00+08:00\ntimeout_s = 2\n[[faults]]\nkind = "babble"\nmeters = "all"\n'
    )
    plan = load_plan(path, NOW)
    assert plan.seed == 7
    slow, babble = plan.faults
    assert (slow.title, slow.probability, slow.meters) == ("slow", 0.25, ("000000000003",))
    assert slow.start == NOW + timedelta(minutes=10)
    assert slow.until == datetime(2025, 6, 17, 16, tzinfo=UTC)
    assert (slow.get("timeout_s"), slow.get("most")) == (2, 5.0)
    assert (babble.title, babble.meters, babble.get("duty")) == ("babble", (), 0.3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sead = 1", "unknown key sead"),
        ('seed = "1"', "expected a whole number"),
        ("faults = 3", "expected"),
        ('[[faults]]\nkind = "lightning"', "expected one of silence, late-reply"),
        ('[[faults]]\nkind = "silence"\ntimeout_s = 3', "unknown key timeout_s, expected"),
        ('[[faults]]\nkind = "silence"\nprobability = 2', "expected 0 to 1"),
        ('[[faults]]\nkind = "silence"\nprobability = "often"', "expected 0 to 1"),
        ('[[faults]]\nkind = "silence"\nmeters = ["17"]', "expected 12 digits"),
        ('[[faults]]\nkind = "silence"\nmeters = "some"', "a list of addresses"),
        ('[[faults]]\nkind = "silence"\nname = 3', "expected a text"),
        ('[[faults]]\nkind = "silence"\nfrom = "soon"', 'expected "10m"'),
        ('[[faults]]\nkind = "silence"\nfrom = 2025-06-18T00:00:00', "with time and offset"),
        ('[[faults]]\nkind = "babble"\nduty = 1.5', "expected 0.001 to 0.99"),
        ('[[faults]]\nkind = "split"\nparts = 2.5', "expected a number"),
        ('[[faults]]\nkind = "power-cut"\nclock = "runs"', "keeps or stops"),
        ('[[faults]]\nkind = "silence"\n[[faults]]\nkind = "silence"', "stands twice"),
    ],
)
def test_a_wrong_file_says_what_was_expected(text: str, problem: str) -> None:
    with pytest.raises(BadFaults, match=problem):
        read_plan(tomllib.loads(text), NOW)


def test_what_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text("[[faults")
    with pytest.raises(BadFaults, match=r"faults\.toml is not TOML"):
        load_plan(path, NOW)


def test_every_kind_and_parameter_is_in_the_document() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for kind, parameters in PARAMETERS.items():
        assert f"`{kind.value}`" in text
        for name, parameter in parameters.items():
            default = str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default
            assert f"`{name} = {default!r}`".replace("'", '"') in text or f"`{name} = {default}`" in text, (kind, name)
