"""Random policies, calendars, zones, protections and instants: what is opened is judged by an oracle that shares no code.

The oracle paints each local day minute by minute from the policy as a dictionary, and looks the instant up in the picture.
"""

import random
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest

from headend.commands.calendar import CalendarYear
from headend.commands.policy import Policy
from headend.commands.protections import Protection, Scope
from headend.commands.rules import OpenTimes, Span
from tests.headend.commands.rules_support import FINE, a_meter, a_policy, a_year, an_order

ZONES = (
    "Asia/Shanghai", "America/New_York", "Europe/London", "Pacific/Apia", "Pacific/Kiritimati", "Australia/Lord_Howe",
    "Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns", "Africa/Casablanca", "America/Santiago", "Asia/Kolkata",
    "Pacific/Pago_Pago", "Asia/Beirut", "UTC",
)  # fmt: skip
PER_POLICY = 100
TIME_RULES = {"window", "quiet", "holiday", "eve", "worked-day", "calendar"}


class Case:
    """One random policy, as what the oracle reads and as a `Policy`."""

    def __init__(self, dice: random.Random) -> None:
        self.zone = ZoneInfo(dice.choice(ZONES))
        self.years = sorted(dice.sample((2024, 2025, 2026, 2027), dice.randint(1, 4)))
        self.windows = [self._span(dice) for _ in range(dice.randint(1, 9))]
        self.quiet = [self._span(dice) for _ in range(dice.randint(0, 5))]
        self.rest_days = dice.sample(range(7), dice.randint(0, 3))
        self.worked_as = dice.choice((None, 0, 3, 6))
        self.on_holidays = dice.random() < 0.1
        self.eves, self.rest_eves = dice.choice((0, 0, 1, 2)), dice.choice((0, 0, 1))
        self.back = dice.choice((0, 0, 3))
        self.holidays: dict[int, list[tuple[date, date]]] = {}
        self.worked: dict[int, list[date]] = {}
        for year in self.years:
            starts = [date(year, 1, 1) + timedelta(days=dice.randrange(360)) for _ in range(12)]
            self.holidays[year] = [(first, first + timedelta(days=dice.randrange(4))) for first in starts]
            off = {
                first + timedelta(days=n) for first, last in self.holidays[year] for n in range((last - first).days + 1)
            }
            worked = {date(year, 1, 1) + timedelta(days=dice.randrange(365)) for _ in range(12)}
            self.worked[year] = sorted(worked - off)

    @staticmethod
    def _span(dice: random.Random) -> tuple[int, int, int]:
        first = dice.randrange(0, 1440)
        return dice.randrange(7), first, dice.randint(first + 1, 1440)

    def policy(self) -> Policy:
        years: tuple[CalendarYear, ...] = tuple(
            a_year(year, *self.holidays[year], worked=tuple(self.worked[year]), back=self.back) for year in self.years
        )
        times = OpenTimes(
            windows=tuple(Span(weekday=day, first=first, last=last) for day, first, last in self.windows),
            quiet=tuple(Span(weekday=day, first=first, last=last) for day, first, last in self.quiet),
            rest_days=tuple(self.rest_days),
            worked_as=self.worked_as,
            on_holidays=self.on_holidays,
            eves_of_holidays=self.eves,
            eves_of_rest_days=self.rest_eves,
        )
        return a_policy(times, years=years, timezone=self.zone.key)

    # the oracle

    def kind(self, day: date) -> str:
        if day.year not in self.years:
            return "?"
        if any(first <= day <= last for year in self.years for first, last in self.holidays[year]):
            return "holiday"
        if self.back and day >= date(day.year, 12, 32 - self.back) and day.year + 1 not in self.years:
            return "?"
        return "worked" if any(day in self.worked[year] for year in self.years) else "plain"

    def picture(self, day: date) -> bytearray:
        """1 for each minute of the local day in which something may be opened."""
        minutes = bytearray(1440)
        kind = self.kind(day)
        if kind == "?" or (kind == "holiday" and not self.on_holidays):
            return minutes
        weekday = day.weekday() if kind != "worked" else self.worked_as
        if weekday is None:
            return minutes
        for distance in (1, 2):
            ahead = self.kind(day + timedelta(days=distance))
            is_near = distance <= self.eves or distance <= self.rest_eves
            if is_near and ahead in ("?", "holiday"):
                return minutes
            is_rest = ahead == "plain" and (day + timedelta(days=distance)).weekday() in self.rest_days
            if distance <= self.rest_eves and is_rest:
                return minutes
        for day_of, first, last in self.windows:
            if day_of == weekday:
                minutes[first:last] = b"\1" * (last - first)
        for day_of, first, last in self.quiet:
            if day_of == weekday:
                minutes[first:last] = bytes(last - first)
        return minutes

    def judge(self) -> "Judge":
        return Judge(self)


class Judge:
    def __init__(self, case: Case) -> None:
        self._zone = case.zone
        self._picture = cache(case.picture)

    def allows(self, moment: datetime) -> bool:
        local = moment.astimezone(self._zone)
        return bool(self._picture(local.date())[local.hour * 60 + local.minute])


def instants(case: Case, dice: random.Random, count: int) -> list[datetime]:
    """Half of them anywhere, half within seconds of an edge: of windows, of days, of years, of clock changes."""
    found = []
    for _ in range(count):
        moment = datetime(2023, 12, 20, tzinfo=UTC) + timedelta(seconds=dice.uniform(0, 4.1 * 365 * 86400))
        if dice.random() < 0.5:
            _, first, last = dice.choice(case.windows + case.quiet)
            minute = dice.choice((first, last, 0, 60, 120, 180)) % 1440
            day = moment.astimezone(case.zone).date()
            if dice.random() < 0.2:
                day = dice.choice(
                    (date(day.year, 12, 31), date(day.year, 1, 1), date(day.year, 3, 8), date(day.year, 11, 1))
                )
            edge = datetime(
                day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=case.zone, fold=dice.randrange(2)
            )
            moment = edge.astimezone(UTC) + timedelta(seconds=dice.choice((-3, -2, -1, 0, 1, 2)))
        found.append(moment)
    return found


def test_nothing_is_opened_at_a_forbidden_instant_and_nothing_else_is_refused(request: pytest.FixtureRequest) -> None:
    """The full run takes `--policy-instants 1000000`."""
    count: int = request.config.getoption("--policy-instants")
    opened = refused = 0
    for seed in range(count // PER_POLICY):
        dice = random.Random(seed)
        case = Case(dice)
        policy, judge = case.policy(), case.judge()
        for now in instants(case, dice, PER_POLICY):
            protection = a_random_protection(dice, now)
            meter = a_meter(protections=(protection,))
            told = {one.rule for one in policy.examine(an_order(now=now), now=now, meter=meter, **FINE)}
            margin = now + timedelta(seconds=2)
            is_forbidden = not (judge.allows(now) and judge.allows(margin))
            is_protected = protection.since <= margin and (protection.until is None or now < protection.until)
            where = f"seed {seed}, {now}, {case.zone}: {told}"
            assert bool(told & TIME_RULES) == is_forbidden, where
            assert ("protection" in told) == is_protected, where
            assert told <= TIME_RULES | {"protection"}, where
            opened += not told
            refused += bool(told)
    assert opened > count // 50, "the test must meet moments at which something may be opened"
    assert refused > count // 4


def a_random_protection(dice: random.Random, now: datetime) -> Protection:
    since = now + timedelta(seconds=dice.choice((-86400, -1, 0, 1, 2, 3, 86400)))
    return Protection(
        id="p",
        scope=Scope.METER,
        target="M000001",
        category="medical",
        reason="ventilator",
        since=since,
        until=None if dice.random() < 0.1 else max(now, since) + timedelta(seconds=dice.choice((-5, 0, 1, 3600))),
        added_by="Wang Fang",
    )


def test_the_next_moment_is_allowed_and_none_before_it_is() -> None:
    none = some = 0
    for seed in range(150):
        dice = random.Random(f"next {seed}")
        case = Case(dice)
        policy, judge = case.policy(), case.judge()
        for now in instants(case, dice, 2):
            found = policy.next_allowed(now)
            until = now + timedelta(days=3) if found is None else min(found, now + timedelta(days=3))
            moment = now
            while moment < until:
                assert not (judge.allows(moment) and judge.allows(moment + timedelta(seconds=2))), (
                    seed,
                    now,
                    moment,
                    found,
                )
                moment += timedelta(seconds=90)
            if found is None:
                none += 1
            else:
                some += 1
                assert judge.allows(found), (seed, now, found)
                assert judge.allows(found + timedelta(seconds=2))
                assert found >= now
    assert none > 20
    assert some > 100


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", date(2026, 3, 8), 0),  # 02:00 to 03:00 is skipped
        ("America/New_York", date(2026, 11, 1), 1),
        ("Australia/Lord_Howe", date(2026, 4, 5), 1),  # by half an hour
        ("Asia/Shanghai", date(2026, 3, 8), 1),
    ],
)
def test_a_window_on_a_day_with_a_clock_change(zone: str, day: date, hours: int) -> None:
    """The window is 02:00 to 03:00; how long it is open is counted second by second."""
    windows = tuple(Span(weekday=weekday, first=120, last=180) for weekday in range(7))
    policy = a_policy(OpenTimes(windows=windows, rest_days=()), timezone=zone, margin_s=0)
    start = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    open_s = 0
    for second in range(0, 26 * 3600, 30):
        now = start + timedelta(seconds=second)
        if now.astimezone(ZoneInfo(zone)).date() == day:
            told = policy.examine(an_order(now=now), now=now, meter=a_meter(), **FINE)
            open_s += 30 * (not told)
    assert open_s == hours * 3600


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    windows = tuple(Span(weekday=weekday, first=60, last=120) for weekday in range(7))
    policy = a_policy(OpenTimes(windows=windows), timezone="America/New_York")
    first, second = datetime(2026, 11, 1, 5, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)
    for start in (first, second):
        assert policy.next_allowed(start) == start
    assert policy.next_allowed(second + timedelta(hours=1)) == datetime(2026, 11, 2, 6, tzinfo=UTC)


def test_a_day_that_the_date_line_skips_has_no_moments() -> None:
    """Apia had no 30 December 2011, a Friday."""
    windows = (Span(weekday=4, first=0, last=1440),)
    policy = a_policy(OpenTimes(windows=windows), timezone="Pacific/Apia", years=(a_year(2011), a_year(2012)))
    found = policy.next_allowed(datetime(2011, 12, 29, 10, 0, tzinfo=UTC))
    assert found is not None
    assert found.astimezone(ZoneInfo("Pacific/Apia")).date() == date(2012, 1, 6)
