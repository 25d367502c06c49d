"""The table of episodes, walked; and a machine that throws any facts at the engine, beside a model that keeps the promises only."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from headend.prepayment.notices.notice import Notice, NoticeState
from headend.prepayment.notices.plan import WARNINGS, load_plan
from headend.prepayment.supply.engine import (
    TRANSITIONS,
    Do,
    Episode,
    Event,
    Facts,
    Ordered,
    State,
    advance,
    decide,
    obstacles,
)

PLAN = load_plan("cn-residential")
MONDAY = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)  # 09:00 in Shanghai


def test_every_state_is_listed_and_can_be_reached_and_all_end_well() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.WELL}
    while more := {after for state in reached for after in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    for state in State:
        seen = {state}
        while more := {after for one in seen for after in TRANSITIONS[one].values()} - seen:
            seen |= more
        assert State.WELL in seen


def test_nothing_leads_to_an_order_but_a_last_warning() -> None:
    assert [state for state, events in TRANSITIONS.items() if State.ORDERED in events.values()] == [State.WARNED]
    before = {state for state, events in TRANSITIONS.items() if State.WARNED in events.values()}
    assert before == {State.USED_UP, State.ORDERED}


def test_an_event_that_cannot_happen_is_told() -> None:
    with pytest.raises(ValueError, match="ordered cannot happen to an episode that is well"):
        advance(Episode(account="A1", since=MONDAY), Event.ORDERED, MONDAY)


def test_an_account_is_low_below_its_reminder_amount_or_with_fewer_than_five_days() -> None:
    episode = Episode(account="A1", since=MONDAY - timedelta(days=9))

    def low(balance: int, days: str | None) -> bool:
        left = None if days is None else Decimal(days)
        facts = Facts(now=MONDAY, balance_minor=balance, currency="CNY", reminder_minor=1000, days_left=left)
        return decide(PLAN, episode, facts).event is Event.RAN_LOW

    assert low(999, None)
    assert low(5000, "4.99")
    assert not low(5000, "5")
    assert not low(1000, None)


def test_an_account_that_was_just_put_right_rests_before_it_is_warned_anew() -> None:
    episode = Episode(account="A1", since=MONDAY)
    facts = Facts(now=MONDAY + timedelta(hours=23), balance_minor=1, currency="CNY", reminder_minor=1000)
    decision = decide(PLAN, episode, facts)
    assert (decision.do, decision.look_at) == (Do.NOTHING, MONDAY + timedelta(hours=24))
    assert decide(PLAN, episode, replace(facts, now=MONDAY + timedelta(hours=24))).kind == "low"


def _warned(now: datetime) -> tuple[Episode, Facts]:
    """Everything is proven, and the order is due."""
    ages = {"low": timedelta(days=9), "used-up": timedelta(days=8), "last-warning": timedelta(hours=3)}
    notices = {
        kind: Notice(
            id=kind,
            attempt=1,
            state=NoticeState.DELIVERED,
            created_at=now - age,
            sent_at=now - age,
            delivered_at=now - age,
            channel="sms",
            reference=kind,
        )
        for kind, age in ages.items()
    }
    facts = Facts(
        now=now,
        balance_minor=-5000,
        currency="CNY",
        reminder_minor=1000,
        settled_until=now.date(),
        contact_since=now - timedelta(days=99),
        notices=notices,
    )
    return Episode(account="A1", state=State.WARNED, since=now), facts


def test_what_is_due_is_ordered() -> None:
    episode, facts = _warned(MONDAY)
    assert obstacles(PLAN, episode, facts) == []
    assert decide(PLAN, episode, facts).event is Event.ORDERED


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"balance_minor": -3000}, "30.00 CNY is owed; nobody is disconnected for 30.00"),
        ({"is_paying": True}, "a payment is on its way"),
        ({"is_held": True}, "a person has to look"),
        ({"contact_since": None}, "cannot be reached"),
        ({"settled_until": date(2026, 2, 27)}, "not fresh enough"),
        ({"settled_until": None}, "not fresh enough"),
        ({"is_open": False}, "not open"),
    ],
)
def test_one_obstacle_is_enough(change: dict[str, object], why: str) -> None:
    episode, facts = _warned(MONDAY)
    changed = replace(facts, **change)
    assert any(why in one for one in obstacles(PLAN, episode, changed))
    assert decide(PLAN, episode, changed).event is not Event.ORDERED


@pytest.mark.parametrize("kind", WARNINGS)
def test_each_of_the_three_warnings_must_be_proven(kind: str) -> None:
    episode, facts = _warned(MONDAY)
    for unproven in (
        replace(facts.notices[kind], state=NoticeState.SENT),
        replace(facts.notices[kind], state=NoticeState.UNDELIVERABLE),
        replace(facts.notices[kind], reference=""),
        None,
    ):
        rest = {name: notice for name, notice in facts.notices.items() if name != kind}
        notices = rest if unproven is None else {**rest, kind: unproven}
        assert decide(PLAN, episode, replace(facts, notices=notices)).event is not Event.ORDERED


def test_a_refusal_that_passes_by_itself_is_tried_again_and_any_other_is_a_persons() -> None:
    episode, facts = _warned(MONDAY)
    episode = advance(episode, Event.ORDERED, MONDAY)
    cold = Ordered(state="refused", is_final=True, problem="weather: -12 C")
    waits = decide(PLAN, episode, replace(facts, orders=(cold,)))
    assert (waits.event, waits.flag, waits.retry_at) == (Event.ORDER_ENDED, "", MONDAY + PLAN.order_pause)
    protected = Ordered(state="refused", is_final=True, problem="protected-class: life support")
    stops = decide(PLAN, episode, replace(facts, orders=(protected,)))
    assert (stops.flag, stops.reason) == ("disconnection-refused", "protected-class: life support")


class AnyFacts(RuleBasedStateMachine):
    """The program's part is `advance` alone; messages are delivered or not as it pleases the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.now = MONDAY
        self.episode = Episode(account="A1", since=MONDAY - timedelta(days=30))
        self.balance = 500
        self.reachable_since: datetime | None = MONDAY - timedelta(days=99)
        self.held = self.paying = False
        self.notices: dict[str, Notice] = {}
        self.orders: tuple[Ordered, ...] = ()
        self.told = False
        self.supply = "on"
        self.given: list[tuple[int, str]] = []

    @rule(hours=st.integers(1, 40))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(hours=st.integers(1, 40))
    def clock_is_set_back(self, hours: int) -> None:
        self.now -= timedelta(hours=hours)

    @rule(minor=st.integers(1, 8000))
    def is_charged(self, minor: int) -> None:
        self.balance -= minor

    @rule(minor=st.integers(1, 9000))
    def pays(self, minor: int) -> None:
        self.balance += minor

    @rule(held=st.booleans(), paying=st.booleans(), reachable=st.booleans())
    def circumstances_change(self, held: bool, paying: bool, reachable: bool) -> None:
        self.held, self.paying = held, paying
        self.reachable_since = self.now if reachable else None

    @rule(state=st.sampled_from([NoticeState.DELIVERED] * 4 + [NoticeState.UNDELIVERABLE]))
    def a_message_ends(self, state: NoticeState) -> None:
        for kind, notice in self.notices.items():
            if notice.state is NoticeState.WAITING:
                at = self.now if state is NoticeState.DELIVERED else None
                self.notices[kind] = replace(notice, state=state, delivered_at=at, reference="r" if at else "")

    @rule(state=st.sampled_from(["verified", "refused", "expired", "unconfirmed"]))
    def the_order_ends(self, state: str) -> None:
        if self.orders and not self.orders[0].is_final:
            self.orders = (Ordered(state=state, is_final=state != "unconfirmed", problem="weather: cold"),)
            self.supply = "off" if state == "verified" else self.supply

    @rule()
    def the_supply_comes_back(self) -> None:
        if self.told:
            self.supply = "on"

    @rule(steps=st.integers(1, 4))
    def the_account_is_looked_at(self, steps: int) -> None:
        for _ in range(steps):
            self._look()

    def _look(self) -> None:
        facts = Facts(
            now=self.now,
            balance_minor=self.balance,
            currency="CNY",
            reminder_minor=1000,
            settled_until=self.now.date(),
            is_paying=self.paying,
            is_held=self.held,
            contact_since=self.reachable_since,
            notices=self.notices,
            orders=self.orders,
            is_told=self.told,
            supply=self.supply,
        )
        decision = decide(PLAN, self.episode, facts)
        if decision.do is Do.TELL:
            assert self.balance >= 0
            self.told = True
        if decision.kind:
            self._give(decision.kind)
        if decision.do is not Do.ADVANCE:
            return
        assert decision.event is not None
        if decision.event is Event.ORDERED:
            self._check_order()
            self.orders, self.told = (Ordered(state="scheduled", is_final=False),), False
        before = self.episode
        self.episode = advance(before, decision.event, self.now)
        if decision.retry_at is not None:
            self.episode = replace(self.episode, retry_at=decision.retry_at)
        if self.episode.number > before.number:
            self.notices, self.orders, self.told = {}, (), False

    def _give(self, kind: str) -> None:
        before = self.notices.get(kind)
        if kind in WARNINGS:
            assert self.balance < 0 or kind == "low", "who owes nothing is sent no next step"
            if before is not None and kind != "last-warning":
                assert before.state is NoticeState.UNDELIVERABLE, "a step that arrived is not repeated"
            earlier = WARNINGS[: WARNINGS.index(kind)]
            assert all(self.notices[one].proven_at is not None for one in earlier), (
                "a step before the last one is proven"
            )
        self.notices[kind] = Notice(
            id=kind,
            attempt=1 if before is None else before.attempt + 1,
            state=NoticeState.WAITING,
            created_at=self.now,
        )

    def _check_order(self) -> None:
        assert self.balance < -PLAN.owed_more_than_minor
        assert not self.held
        assert not self.paying
        assert self.reachable_since is not None
        for kind, step in zip(WARNINGS, PLAN.steps, strict=True):
            proven_at = self.notices[kind].proven_at
            assert proven_at is not None
            assert step.before <= self.now - proven_at <= step.valid or kind != "last-warning"
            assert self.now - proven_at >= step.before

    @invariant()
    def the_supply_is_off_only_in_an_episode_that_says_so(self) -> None:
        if self.episode.state is State.WELL:
            assert self.orders == ()


AnyFacts.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyFacts = AnyFacts.TestCase
