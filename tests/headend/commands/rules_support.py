"""What tests of the rules share: an order that nothing speaks against, a meter, a policy."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from headend.commands.calendar import CalendarYear, Holiday
from headend.commands.model import BalanceProof, Kind, NoticeProof, Order
from headend.commands.policy import Forecast, MeterFacts, Policy, PolicyData, Reconnect
from headend.commands.rules import Debt, OpenTimes, Rules, Span

# A Monday, 10:00 in China; an ordinary day.
NOON = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
FINE: Mapping[str, Any] = {"clock_synchronised": True, "audit_ok": True, "store_ok": True}
OFFICE = tuple(Span(weekday=day, first=9 * 60, last=16 * 60) for day in range(5))


def an_order(
    kind: Kind = Kind.OPEN,
    *,
    now: datetime = NOON,
    meter: str = "M000001",
    requester: str = "Li Wei",
    key: str = "k1",
    balance_minor: int = -10_000,
    currency: str = "CNY",
    **changes: Any,
) -> Order:
    fields: dict[str, Any] = {
        "kind": kind,
        "meter": meter,
        "reason": "not paid",
        "requester": requester,
        "idempotency_key": key,
        "expires_at": now + timedelta(hours=4),
        "proof": BalanceProof(account="A1", balance_minor=balance_minor, currency=currency, as_of=now, fence=1),
        "notices": notices(now),
    }
    return Order(**(fields | changes))


def notices(now: datetime, *ages: timedelta) -> tuple[NoticeProof, ...]:
    """Of steps s1, s2, …; the last is the youngest."""
    return tuple(
        NoticeProof(step=f"s{number}", sent_at=now - age, delivered_at=now - age, channel="sms", reference=f"r{number}")
        for number, age in enumerate(ages, start=1)
    )


def a_meter(meter: str = "M000001", **changes: Any) -> MeterFacts:
    fields: dict[str, Any] = {
        "meter": meter,
        "feeder": "F1",
        "line": "L1",
        "tariff_group": "residential",
        "customer_class": "resident",
        "estimated_kw": Decimal(2),
    }
    return MeterFacts(**(fields | changes))


def a_year(
    year: int = 2026, *holidays: tuple[date, date], worked: tuple[date, ...] = (), back: int = 0
) -> CalendarYear:
    return CalendarYear(
        year=year,
        source="a test",
        published=None,
        holidays=tuple(Holiday(name=f"H{first}", first=first, last=last) for first, last in holidays),
        worked=worked,
        reaches_back_days=back,
    )


def a_policy(
    times: OpenTimes | None = None,
    *,
    years: tuple[CalendarYear, ...] = (a_year(2025), a_year(2026)),
    timezone: str = "Asia/Shanghai",
    debt: Debt | None = None,
    rules: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Policy:
    fields: dict[str, Any] = {
        "id": "test",
        "version": "1",
        "title": "A test",
        "timezone": timezone,
        "sources": ("a test",),
        "calendar": "test",
        "years": years,
        "margin_s": 2,
        "allow_unknown_class": False,
        "rules": Rules(
            times=times or OpenTimes(windows=OFFICE),
            debt=debt or Debt(currency="CNY", minimum_minor=1000, grace_minor=3000, proof_age_s_max=600),
            **(rules or {}),
        ),
        "groups": {},
        "protected": (),
        "seasons": (),
        "reconnect": Reconnect(
            close_directly=False,
            direct_meters=frozenset(),
            direct_tariff_groups=frozenset(),
            spread_s=600,
            spread_from=20,
        ),
    }
    return Policy(PolicyData(**(fields | changes)))


def a_forecast(
    now: datetime = NOON, *, lowest: str = "10", highest: str = "20", age: timedelta = timedelta(hours=1)
) -> Forecast:
    return Forecast(
        issued_at=now - age,
        reaches=now + timedelta(hours=48),
        lowest_c=Decimal(lowest),
        highest_c=Decimal(highest),
        source="a weather service",
    )


def rules_of(policy: Policy, order: Order | None = None, *, now: datetime = NOON, **changes: Any) -> list[str]:
    """Names of the rules that refuse."""
    meter = changes.pop("meter", a_meter())
    told = policy.examine(order or an_order(now=now), now=now, meter=meter, **{**FINE, **changes})
    assert all(refusal.version == policy.version and refusal.text and refusal.needed for refusal in told)
    return [refusal.rule for refusal in told]
