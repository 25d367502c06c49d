"""The purse and the breaker: arithmetic of what dead meters may cost."""

from hypothesis import given
from hypothesis import strategies as st

from headend.scheduling.breaker import DEBT_S_MAX, PAUSE_S_MAX, PURSE_S_MAX, SHARE_FILLED, SHARE_MAX, Breaker, Purse


def test_a_failing_meter_is_probed_ever_more_seldom_and_a_good_reply_forgets_it() -> None:
    breaker = Breaker()
    pauses = []
    for _ in range(12):
        breaker.failed(1000.0)
        pauses.append(breaker.not_before - 1000.0)
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == PAUSE_S_MAX
    assert not breaker.allows(1000.0 + PAUSE_S_MAX - 1)
    assert breaker.allows(1000.0 + PAUSE_S_MAX)
    breaker.succeeded()
    assert breaker.allows(1000.0)


def test_the_purse_says_when_it_will_cover_a_price() -> None:
    purse = Purse(0.0)
    purse.pay(PURSE_S_MAX + 2.0, 0.0)
    assert not purse.covers(1.0, 0.0)
    at = purse.covers_at(1.0, 0.0)
    assert not purse.covers(1.0, at - 0.1)
    assert purse.covers(1.0, at + 0.001)


def test_the_silence_of_a_whole_line_is_repaid_within_minutes_however_many_meters_it_has() -> None:
    purse = Purse(0.0)
    for _ in range(200):
        purse.pay(3.5, 0.0)
    assert purse.spent_s == 700
    assert purse.covers_at(3.5, 0.0) == (DEBT_S_MAX + 3.5) / SHARE_FILLED
    assert purse.covers_at(3.5, 0.0) < 300


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 5)), max_size=300))
def test_whatever_is_asked_when_it_covers_the_share_is_kept(askings: list[tuple[float, float]]) -> None:
    """Pauses and prices at will; paid only when covered. Over any time the sum stays below the share and one purse."""
    purse = Purse(0.0)
    now = spent = 0.0
    for pause_s, price_s in askings:
        now += pause_s
        if purse.covers(price_s, now):
            now += price_s
            purse.pay(price_s, now)
            spent += price_s
        assert spent <= PURSE_S_MAX + now * SHARE_FILLED + 1e-6
    assert spent == purse.spent_s
    if now >= PURSE_S_MAX / (SHARE_MAX - SHARE_FILLED):
        assert spent <= SHARE_MAX * now + 1e-6
