"""What a policy refuses, each rule at its edge; that closes are served whatever is broken; that a fresh head-end opens nothing."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from headend.commands.model import BalanceProof, Kind, NoticeProof
from headend.commands.policy import NO_POLICY, Installation, ProtectedClass, Reconnect, examine
from headend.commands.protections import Protection, Scope
from headend.commands.rules import Debt, NoticeStep, OpenTimes, Rules, Season, Span, Weather
from tests.headend.commands.rules_support import (
    FINE,
    NOON,
    OFFICE,
    a_forecast,
    a_meter,
    a_policy,
    a_year,
    an_order,
    notices,
    rules_of,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
READY = Installation(control_enabled=True, has_signing_key=True, has_limits=True)


def test_an_open_against_which_nothing_speaks_may_go() -> None:
    assert rules_of(a_policy()) == []
    assert examine(a_policy(), READY, an_order(), now=NOON, meter=a_meter(), **FINE) == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"clock_synchronised": False}, "clock"),
        ({"clock_synchronised": None}, "clock"),
        ({"audit_ok": False}, "audit"),
        ({"store_ok": False}, "store"),
    ],
)
def test_opens_are_refused_and_closes_are_served_when_something_is_broken(changes: dict[str, Any], rule: str) -> None:
    assert rules_of(a_policy(), **changes) == [rule]
    for kind in set(Kind) - {Kind.OPEN, Kind.CLOSE}:
        assert rules_of(a_policy(), an_order(kind), **changes) == []


def test_a_close_is_served_with_everything_broken_at_once_and_no_policy() -> None:
    broken: dict[str, Any] = {"clock_synchronised": None, "audit_ok": False, "store_ok": False}
    nothing = Installation(control_enabled=False, has_signing_key=False, has_limits=False)
    for kind in set(Kind) - {Kind.OPEN}:
        assert examine(None, nothing, an_order(kind, proof=None), now=NOON, meter=a_meter(), **broken) == ()
    night = datetime(2031, 1, 1, 19, 0, tzinfo=UTC)
    assert rules_of(a_policy(), an_order(Kind.PERMIT_CLOSE, proof=None), now=night, **broken) == []


def test_a_fresh_installation_opens_nothing_whichever_part_is_missing() -> None:
    for has_policy, control, key, limits in product((False, True), repeat=4):
        told = examine(
            a_policy() if has_policy else None,
            Installation(control_enabled=control, has_signing_key=key, has_limits=limits),
            an_order(),
            now=NOON,
            meter=a_meter(),
            **FINE,
        )
        missing = {"policy": has_policy, "control": control, "signing-key": key, "limits": limits}
        assert {refusal.rule for refusal in told} == {name for name, there in missing.items() if not there}
        assert has_policy or all(refusal.version == NO_POLICY for refusal in told)


def test_every_refusal_is_told_at_once() -> None:
    told = rules_of(
        a_policy(),
        an_order(proof=None),
        now=datetime(2027, 11, 21, 19, 0, tzinfo=UTC),
        meter=a_meter(customer_class=""),
        clock_synchronised=None,
        audit_ok=False,
        store_ok=False,
    )
    assert told == ["clock", "audit", "store", "calendar", "unknown-class", "proof"]


def test_an_unknown_year_refuses_on_each_of_its_days() -> None:
    policy = a_policy(OpenTimes(windows=tuple(Span(weekday=day, first=0, last=1440) for day in range(7))))
    day = datetime(2027, 1, 1, 4, tzinfo=UTC)
    while day.year < 2028:
        assert rules_of(policy, now=day) == ["calendar"]
        day += DAY


def test_a_window_that_ends_within_the_margin_refuses() -> None:
    policy = a_policy()
    end = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)  # 16:00
    assert rules_of(policy, now=end - 3 * SECOND) == []
    assert rules_of(policy, now=end - 2 * SECOND) == ["window"]
    assert rules_of(policy, now=end) == ["window"]
    assert rules_of(policy, now=datetime(2026, 11, 23, 1, 0, tzinfo=UTC)) == []
    assert rules_of(policy, now=datetime(2026, 11, 23, 1, 0, tzinfo=UTC) - SECOND) == ["window"]


def test_the_eve_of_the_year_is_unknown_when_the_next_year_is() -> None:
    every_day = tuple(Span(weekday=day, first=0, last=1440) for day in range(7))
    policy = a_policy(OpenTimes(windows=every_day, eves_of_holidays=1))
    assert rules_of(policy, now=datetime(2026, 12, 30, 4, tzinfo=UTC)) == []
    assert rules_of(policy, now=datetime(2026, 12, 31, 4, tzinfo=UTC)) == ["calendar"]
    known = a_policy(OpenTimes(windows=every_day, eves_of_holidays=1), years=(a_year(2026), a_year(2027)))
    assert rules_of(known, now=datetime(2026, 12, 31, 4, tzinfo=UTC)) == []


def test_holidays_eves_and_worked_rest_days() -> None:
    year = a_year(2026, (date(2026, 11, 26), date(2026, 11, 27)), worked=(date(2026, 11, 28),))
    every_day = tuple(Span(weekday=day, first=0, last=1440) for day in range(7))
    at = {day: datetime(2026, 11, day, 4, tzinfo=UTC) for day in range(23, 31)}
    strict = a_policy(OpenTimes(windows=every_day, eves_of_holidays=2), years=(year,))
    assert [rules_of(strict, now=at[day]) for day in (23, 24, 25, 26, 28, 29)] == [
        [], ["eve"], ["eve"], ["eve", "holiday"], ["worked-day"], []
    ]  # fmt: skip
    assert rules_of(a_policy(OpenTimes(windows=OFFICE, worked_as=0), years=(year,)), now=at[28]) == []
    rest = a_policy(OpenTimes(windows=every_day, worked_as=0, eves_of_rest_days=1), years=(year,))
    # Saturday the 28th is worked, so only Sunday and the holidays have eves.
    assert [rules_of(rest, now=at[day]) for day in (24, 25, 27, 28, 29, 30)] == [
        [], ["eve"], ["holiday"], ["eve"], [], []
    ]  # fmt: skip


def test_quiet_hours_beat_windows() -> None:
    policy = a_policy(OpenTimes(windows=OFFICE, quiet=(Span(weekday=0, first=600, last=660),)))
    assert rules_of(policy, now=NOON) == ["quiet"]
    assert rules_of(policy, now=NOON + HOUR) == []
    assert rules_of(policy, now=NOON + DAY) == []


@pytest.mark.parametrize(
    ("balance_minor", "rules"),
    [(0, ["grace", "minimum-debt"]), (-3000, ["grace"]), (-3001, []), (5, ["grace", "minimum-debt"])],
)
def test_a_debt_must_exceed_the_credit_and_reach_the_minimum(balance_minor: int, rules: list[str]) -> None:
    assert rules_of(a_policy(), an_order(balance_minor=balance_minor)) == rules


def test_a_small_debt_beyond_the_credit_is_still_too_small() -> None:
    debt = Debt(currency="CNY", minimum_minor=5000, grace_minor=0, proof_age_s_max=600)
    assert rules_of(a_policy(debt=debt), an_order(balance_minor=-4999)) == ["minimum-debt"]
    assert rules_of(a_policy(debt=debt), an_order(balance_minor=-5000)) == []


def test_a_balance_must_be_there_in_the_right_money_and_young() -> None:
    policy = a_policy()
    assert rules_of(policy, an_order(proof=None)) == ["proof"]
    assert rules_of(policy, an_order(currency="USD")) == ["currency"]

    def aged(age: timedelta) -> list[str]:
        proof = BalanceProof(account="A1", balance_minor=-10_000, currency="CNY", as_of=NOON - age, fence=1)
        return rules_of(policy, an_order(proof=proof))

    assert aged(timedelta(minutes=10)) == []
    assert aged(timedelta(minutes=10, seconds=1)) == ["proof-age"]
    assert aged(-timedelta(minutes=3)) == ["proof-age"]


STEPS = (
    NoticeStep(step="s1", before_s=86400, age_s_max=30 * 86400),
    NoticeStep(step="s2", before_s=86400, age_s_max=30 * 86400, after_previous_s=86400),
    NoticeStep(step="s3", before_s=1800, age_s_max=86400, after_previous_s=86400, channels=("sms", "voice")),
)


@pytest.mark.parametrize(
    ("ages", "is_enough"),
    [
        ((5 * DAY, 3 * DAY, HOUR), True),
        ((5 * DAY, 4 * DAY, HOUR / 2), True),
        ((5 * DAY, 4 * DAY, HOUR / 2 - SECOND), False),  # the last one too late
        ((5 * DAY, 4 * DAY + SECOND, HOUR), False),  # the second too soon after the first
        ((31 * DAY, 3 * DAY, HOUR), False),  # the first of another debt
        ((5 * DAY, 3 * DAY), False),
        ((5 * DAY, 24 * HOUR, HOUR), False),  # the last too soon after the second
        ((), False),
    ],
)
def test_notices_are_proven_and_far_enough_apart(ages: tuple[timedelta, ...], is_enough: bool) -> None:
    policy = a_policy(rules={"notices": STEPS})
    assert rules_of(policy, an_order(notices=notices(NOON, *ages))) == ([] if is_enough else ["notice"])


def test_a_notice_without_reference_or_by_a_wrong_way_or_used_twice_proves_nothing() -> None:
    policy = a_policy(rules={"notices": STEPS})
    good = notices(NOON, 5 * DAY, 3 * DAY, HOUR)

    def with_last(**changes: Any) -> list[str]:
        fields: dict[str, Any] = {
            "step": "s3",
            "sent_at": NOON - HOUR,
            "delivered_at": NOON - HOUR,
            "channel": "sms",
            "reference": "r3",
        }
        return rules_of(policy, an_order(notices=(*good[:2], NoticeProof(**(fields | changes)))))

    assert with_last() == []
    assert with_last(channel="voice") == []
    assert with_last(channel="post") == ["notice"]
    assert with_last(reference="") == ["notice"]
    assert with_last(reference="r1") == ["notice"]
    assert with_last(step="s4") == ["notice"]
    assert with_last(sent_at=NOON) == ["notice"]  # delivered before it was sent
    assert with_last(sent_at=NOON + HOUR, delivered_at=NOON + HOUR) == ["notice"]


VIRGINIA = Weather(forecast_hours=24, age_s_max=6 * 3600, unit="F", at_or_below=Decimal(32), at_or_above=Decimal(92))


@pytest.mark.parametrize(
    ("lowest", "highest", "rules"),
    [
        ("0.1", "20", []),
        ("0.0", "20", ["weather"]),
        ("10", "33.3", []),  # 91.94 °F
        ("10", "33.34", ["weather"]),  # 92.01 °F
        ("-5", "40", ["weather", "weather"]),
    ],
)
def test_weather_holds(lowest: str, highest: str, rules: list[str]) -> None:
    policy = a_policy(rules={"weather": VIRGINIA})
    assert rules_of(policy, forecast=a_forecast(lowest=lowest, highest=highest)) == rules


def test_a_missing_stale_future_or_short_forecast_refuses() -> None:
    policy = a_policy(rules={"weather": VIRGINIA})
    assert rules_of(policy) == ["forecast"]
    assert rules_of(policy, forecast=a_forecast(age=6 * HOUR - 2 * SECOND)) == []
    assert rules_of(policy, forecast=a_forecast(age=6 * HOUR)) == ["forecast"]  # stale before the last byte has left
    assert rules_of(policy, forecast=a_forecast(age=-3 * HOUR)) == ["forecast"]
    assert rules_of(policy, now=NOON, forecast=a_forecast(NOON - 24 * HOUR - 3 * SECOND, age=-20 * HOUR)) == [
        "forecast"
    ]


def test_protected_customers_stay_on_to_the_end_of_their_last_day() -> None:
    policy = a_policy(
        protected=(
            ProtectedClass(customer_class="medical", reason="life support", until=None),
            ProtectedClass(customer_class="school", reason="term", until=date(2026, 11, 23)),
        )
    )
    assert rules_of(policy, meter=a_meter(customer_class="medical")) == ["protected-class"]
    assert rules_of(policy, meter=a_meter(customer_class="school")) == ["protected-class"]
    assert rules_of(policy, now=NOON + DAY, meter=a_meter(customer_class="school")) == []
    assert rules_of(policy, meter=a_meter(customer_class="")) == ["unknown-class"]
    assert rules_of(a_policy(allow_unknown_class=True), meter=a_meter(customer_class="")) == []


def test_a_season_may_go_over_new_year() -> None:
    season = Season(customer_classes=("pensioner",), first=(10, 1), last=(3, 31), reason="winter")
    policy = a_policy(seasons=(season,), years=(a_year(2025), a_year(2026), a_year(2027)))
    pensioner = a_meter(customer_class="pensioner")
    assert rules_of(policy, meter=pensioner) == ["season"]
    for month, day, rules in ((3, 31, ["season"]), (4, 1, []), (9, 30, []), (10, 1, ["season"])):
        assert rules_of(policy, now=datetime(2026, month, day, 4, tzinfo=UTC), meter=pensioner) == rules
    assert rules_of(policy) == []


@pytest.mark.parametrize(
    ("since", "until", "is_protected"),
    [
        (-DAY, None, True),
        (-DAY, DAY, True),
        (-DAY, timedelta(0), False),
        (-DAY, SECOND, True),
        (SECOND, DAY, True),  # begins before the last byte has left
        (3 * SECOND, DAY, False),
    ],
)
def test_a_protection_holds_from_its_beginning_to_its_end(
    since: timedelta, until: timedelta | None, is_protected: bool
) -> None:
    protection = Protection(
        id="p1",
        scope=Scope.METER,
        target="M000001",
        category="medical",
        reason="ventilator",
        since=NOON + since,
        until=None if until is None else NOON + until,
        added_by="Wang Fang",
    )
    assert rules_of(a_policy(), meter=a_meter(protections=(protection,))) == (["protection"] if is_protected else [])


def test_a_tariff_group_has_rules_of_its_own() -> None:
    business = Rules(
        times=OpenTimes(windows=tuple(Span(weekday=day, first=0, last=1440) for day in range(7))),
        debt=Debt(currency="CNY", minimum_minor=1, grace_minor=0, proof_age_s_max=600),
    )
    policy = a_policy(groups={"commercial": business})
    night = datetime(2026, 11, 22, 19, tzinfo=UTC)
    shop = a_meter(tariff_group="commercial")
    assert rules_of(policy, an_order(now=night, balance_minor=-1), now=night, meter=shop) == []
    assert "window" in rules_of(policy, an_order(now=night, balance_minor=-1), now=night)
    assert policy.next_allowed(night, tariff_group="commercial") == night
    assert policy.next_allowed(night) == datetime(2026, 11, 23, 1, tzinfo=UTC)


def test_a_direct_close_is_only_for_those_who_are_named() -> None:
    policy = a_policy(
        reconnect=Reconnect(
            close_directly=False,
            direct_meters=frozenset({"M000007"}),
            direct_tariff_groups=frozenset({"pump"}),
            spread_s=600,
            spread_from=20,
        )
    )
    close = an_order(Kind.CLOSE)
    assert rules_of(policy, close) == ["reconnect"]
    assert rules_of(policy, close, meter=a_meter("M000007")) == []
    assert rules_of(policy, close, meter=a_meter(tariff_group="pump")) == []
    assert policy.reconnect_kind(a_meter()) is Kind.PERMIT_CLOSE
    assert policy.reconnect_kind(a_meter("M000007")) is Kind.CLOSE
    assert rules_of(policy, an_order(Kind.PERMIT_CLOSE)) == []


def test_two_policies_have_one_version_only_when_they_say_the_same() -> None:
    assert a_policy().version == a_policy().version
    assert a_policy().version != a_policy(margin_s=3).version
    assert a_policy().version != a_policy(years=(a_year(2025), a_year(2026), a_year(2027))).version
