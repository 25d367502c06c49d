"""Learning how long meters take, within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from headend.drivers.patience import CEILING_FACTOR, FLOOR_S, Patience

METER = "000000000001"


def learnt(*waits_s: float, line_timeout_s: float = 3.0) -> Patience:
    patience = Patience(line_timeout_s)
    for wait_s in waits_s:
        patience.replied(METER, wait_s)
    return patience


def test_an_unknown_meter_has_the_lines_own_time_out() -> None:
    assert learnt().timeout_s(METER) is None


def test_a_quick_meter_is_given_up_sooner_but_never_before_the_standard_allows() -> None:
    timeout_s = learnt(*[0.05] * 50).timeout_s(METER)
    assert timeout_s == FLOOR_S


def test_a_slow_meter_is_waited_for() -> None:
    timeout_s = learnt(*[2.0] * 50).timeout_s(METER)
    assert timeout_s is not None
    assert 2.0 < timeout_s < 3.0


def test_one_late_reply_makes_the_meter_slow_at_once_and_quick_ones_bring_it_back() -> None:
    patience = learnt(*[0.1] * 20)
    patience.late(METER, 4.0)
    timeout_s = patience.timeout_s(METER)
    assert timeout_s is not None
    assert timeout_s > 4.0
    for _ in range(60):
        patience.replied(METER, 0.1)
    timeout_s = patience.timeout_s(METER)
    assert timeout_s is not None
    assert timeout_s < 1.0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50), st.floats(0.2, 20))
def test_whatever_is_learnt_stays_within_bounds(waits_s: list[float], line_timeout_s: float) -> None:
    timeout_s = learnt(*waits_s, line_timeout_s=line_timeout_s).timeout_s(METER)
    assert timeout_s is not None
    assert min(FLOOR_S, line_timeout_s) <= timeout_s <= CEILING_FACTOR * line_timeout_s
