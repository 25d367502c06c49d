"""Line-time budgets: against hand-reckoned exchanges, and against what the simulated line really takes."""

from hypothesis import given
from hypothesis import strategies as st

from firmware_contracts.contract import load
from headend.drivers.dlt645 import ItemQuestion
from headend.scheduling.budget import SHARE_MAX, PlanLoad, exchange_s, line_budget, read_s
from protocols.dlt645.items import Di
from protocols.exchange import Timing

ENERGY = ItemQuestion(load("dlt645/base_2007").find(Di("00010000")))
VOLTAGE = ItemQuestion(load("dlt645/base_2007").find(Di("02010100")))
ENERGY_1997 = ItemQuestion(load("dlt645/base_1997").find(Di("9010")))
TIMING = Timing(baud=2400)


def load_of(meters: int, *questions: ItemQuestion, period_s: int = 900, plan: str = "plan") -> PlanLoad:
    return PlanLoad(plan=plan, period_s=period_s, questions=[tuple(questions)] * meters)


def test_an_energy_read_at_2400_baud_is_44_bytes_on_the_wire_and_the_reply_delay() -> None:
    """FE FE FE FE 68 … 16 with a DI of 4: 20 bytes out; the same with 4 of energy: 24 bytes back; 11 bits each."""
    assert abs(read_s(ENERGY, TIMING, baud=2400, reply_delay_s=0.1) - (44 * 11 / 2400 + 0.1)) < 1e-9
    assert abs(read_s(ENERGY_1997, TIMING, baud=1200, reply_delay_s=0.0) - 40 * 11 / 1200) < 1e-9


def test_wake_up_bytes_and_turnaround_count() -> None:
    bare = Timing(baud=2400, preamble=0)
    slow = Timing(baud=2400, preamble=0, turnaround_s=0.5)
    assert abs(read_s(ENERGY, TIMING, baud=2400) - read_s(ENERGY, bare, baud=2400) - 4 * 11 / 2400) < 1e-9
    assert abs(read_s(ENERGY, slow, baud=2400) - read_s(ENERGY, bare, baud=2400) - 0.5) < 1e-9


def test_a_plan_that_fits_says_so_and_gives_no_advice() -> None:
    budget = line_budget("a", TIMING, [load_of(32, ENERGY, VOLTAGE)])
    assert budget.fits
    assert budget.advice == ""
    assert not budget.learnt
    (plan,) = budget.plans
    assert (plan.meters, plan.reads) == (32, 64)
    assert abs(plan.round_s - 32 * (read_s(ENERGY, TIMING, baud=2400) + read_s(VOLTAGE, TIMING, baud=2400))) < 0.001


def test_a_plan_that_does_not_fit_names_rate_period_and_reads_that_would() -> None:
    budget = line_budget("a", TIMING, [load_of(60, *[ENERGY] * 6, period_s=60)])
    assert not budget.fits
    assert "a period of 5m for plan 'plan'" in budget.advice
    assert "of the 360 reads" in budget.advice
    assert "3 lines" in budget.advice
    assert "baud" not in budget.advice  # the reply delays alone take 54 of 60 seconds
    faster = line_budget("a", TIMING, [load_of(20, *[ENERGY] * 9, period_s=60)])
    assert "4800 baud" in faster.advice


def test_an_unknown_rate_is_assumed_and_the_text_says_it() -> None:
    budget = line_budget("a", Timing(), [load_of(1, ENERGY)])
    assert (budget.baud, budget.baud_assumed) == (9600, True)
    assert "assumed" in budget.text
    assert "assumed" not in line_budget("a", TIMING, [load_of(1, ENERGY)]).text


def test_a_learnt_reply_delay_is_reckoned_with_and_named_so() -> None:
    slow = line_budget("a", TIMING, [load_of(1, ENERGY)], reply_delay_s=2.0)
    assert slow.learnt
    assert slow.plans[0].round_s > 2.0


def test_plans_of_one_line_add_up() -> None:
    both = line_budget("a", TIMING, [load_of(10, ENERGY), load_of(10, ENERGY, period_s=86400, plan="daily")])
    assert abs(both.share - sum(plan.share for plan in both.plans)) < 0.001
    assert line_budget("a", TIMING, []).fits


@given(
    st.integers(1, 300),
    st.sampled_from([60, 300, 900, 3600]),
    st.sampled_from([1200, 2400, 9600]),
    st.floats(0.02, 0.5),
)
def test_the_verdict_is_the_share_and_following_the_advice_makes_it_fit(
    meters: int, period_s: int, baud: int, delay_s: float
) -> None:
    budget = line_budget(
        "a", Timing(baud=baud), [load_of(meters, ENERGY, VOLTAGE, period_s=period_s)], reply_delay_s=delay_s
    )
    assert budget.fits is (budget.plans[0].round_s / period_s <= SHARE_MAX + 1e-4)
    if not budget.fits and "at most " in budget.advice:
        fitting = int(budget.advice.split("at most ")[1].split()[0]) // 2
        again = line_budget(
            "a", Timing(baud=baud), [load_of(fitting, ENERGY, VOLTAGE, period_s=period_s)], reply_delay_s=delay_s
        )
        assert again.fits


@given(st.integers(0, 50), st.integers(0, 200), st.sampled_from([300, 2400, 19200]))
def test_an_exchange_is_never_shorter_than_its_bytes(sent: int, received: int, baud: int) -> None:
    took_s = exchange_s(sent, received, TIMING, baud=baud, reply_delay_s=0.02)
    assert took_s >= (sent + received + 24) * 11 / baud
