"""When an account is warned, and what must have been proven before its supply is disconnected: versioned data, from a TOML file.

The switch has its own policy and its own last word (`docs/policy.md`). The plan decides what is asked of it and when; where the two
differ, the stricter one holds, because an order that the policy does not like is refused.
"""

import re
import tomllib
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from headend.errors import ConfigError

__all__ = ["WARNINGS", "Hours", "NoticePlan", "Step", "load_plan", "parse_plan"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WARNINGS = ("low", "used-up", "last-warning")  # kinds of message, in order; each is proven before a disconnection
_PLANS = Path(__file__).parent / "plans"
_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_APART_MIN = timedelta(hours=1)
_QUARTER = timedelta(minutes=15)


class Hours(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Local. days: of the week on which they hold. [start, end); over midnight when the end is not after the start."""

    start: time
    end: time
    days: tuple[str, ...] = DAYS

    def has(self, local: datetime) -> bool:
        at, today, yesterday = local.time(), DAYS[local.weekday()], DAYS[(local.weekday() - 1) % 7]
        if self.start < self.end:
            return today in self.days and self.start <= at < self.end
        return (today in self.days and at >= self.start) or (yesterday in self.days and at < self.end)


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A warning. name: as the switch's policy names it. after_previous: behind the delivery of the step before.

    before: the disconnection, at least. valid: how long it counts once it was delivered. hours: when it may begin to be sent; None:
    whenever it is not quiet. give_up: after so long without a proof it counts as undeliverable.
    """

    name: str
    before: timedelta
    valid: timedelta
    after_previous: timedelta = timedelta(0)
    hours: Hours | None = None
    give_up: timedelta = timedelta(days=2)


class NoticePlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """low_days: below, the first warning goes out. good_days: from there on the account is well again; more than low_days, or an
    average that wavers would begin a new episode every other day. rest: how long an account must be well before it is warned anew.

    owed_more_than_minor: nobody is disconnected for less. pay_within: what the second warning grants. settled_within_days: how
    many local days may have passed since the last settled one when somebody is disconnected.

    order_hours: when orders are asked. order_valid: how long one may wait at the switch; its balance must be fresh at the end of it.
    order_pause: between two orders. again: after a last warning that came to nothing; after last_warnings_max of them a person
    is to look. wait_for: rules of the switch that change by
    themselves; a refusal by any other needs a person.

    proof: "delivered" by receipt, or "sent" where the channel gives none. prompt: kinds of message that go out in quiet hours, too.
    after_reversal: "usual-notices" from the first one, or "last-warning" when the notices before the payment still count.
    back_within: of a payment; later the operator is told.

    quiet: "none" where there are no quiet hours. count_today: what was heard and is not settled yet counts against the balance, so that
    it can be used up within a day; utilities settle by whole days. trial: for demonstrations with simulated meters; steps may follow
    each other within seconds.
    """

    id: str
    version: str
    timezone: str
    low: Step
    used_up: Step
    last_warning: Step
    quiet: Hours | Literal["none"]
    order_hours: Hours
    low_days: int = 5
    good_days: int = 7
    rest: timedelta = timedelta(hours=24)
    owed_more_than_minor: int = 0
    pay_within: timedelta = timedelta(days=7)
    settled_within_days: int = 2
    order_valid: timedelta = timedelta(minutes=8)
    order_pause: timedelta = timedelta(minutes=30)
    again: timedelta = timedelta(hours=20)
    last_warnings_max: int = 5
    wait_for: tuple[str, ...] = ()
    proof: Literal["delivered", "sent"] = "delivered"
    prompt: tuple[str, ...] = ("paid", "restored")
    after_reversal: Literal["usual-notices", "last-warning"] = "usual-notices"
    back_within: timedelta = timedelta(hours=4)
    tries_max: int = 30
    pause_first: timedelta = timedelta(minutes=1)
    pause_max: timedelta = timedelta(hours=1)
    count_today: bool = False
    trial: bool = False

    @property
    def steps(self) -> tuple[Step, Step, Step]:
        return self.low, self.used_up, self.last_warning

    def step_of(self, kind: str) -> Step | None:
        """None of a message that is no warning."""
        return dict(zip(WARNINGS, self.steps, strict=True)).get(kind)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def may_send(self, kind: str, now: datetime) -> bool:
        return kind in self.prompt or self.quiet == "none" or not self.quiet.has(now.astimezone(self.zone))

    def when_to_send(self, kind: str, now: datetime) -> datetime:
        """Now, or the end of the quiet hours, to a quarter of an hour."""
        moment = now
        for _ in range(7 * 96):
            if self.may_send(kind, moment):
                return moment
            moment = moment - (moment - datetime.min.replace(tzinfo=moment.tzinfo)) % _QUARTER + _QUARTER
        return now + timedelta(days=1)  # quiet for a whole week: the claim refuses it anyway


def load_plan(name: str, *, base: Path | None = None) -> NoticePlan:
    """Of a plan that comes with the program, or a file (relative to `base`). Raises ConfigError."""
    path = _PLANS / f"{name}.toml" if re.fullmatch(r"[\w-]+", name) else (base or Path()) / name
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        known = ", ".join(sorted(one.stem for one in _PLANS.glob("*.toml")))
        raise ConfigError(f"notice plan {name!r}: {error.strerror}; expected a file, or one of {known}") from error
    return parse_plan(text, str(path))


def parse_plan(text: str, where: str) -> NoticePlan:
    """Raises ConfigError with all that is wrong beyond the first misspelt key."""
    try:
        plan = msgspec.convert(_prepared(tomllib.loads(text)), NoticePlan, builtin_types=(time, timedelta))
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"notice plan {where}: {error}; lengths are written 30m, 36h or 7d, times of day 08:00"
        ) from error
    if problems := _problems(plan):
        raise ConfigError(f"notice plan {where}: {'; '.join(problems)}")
    return plan


def _prepared(found: Any) -> Any:
    """Lengths and times of day out of their texts."""
    if isinstance(found, dict):
        return {key: _prepared(value) for key, value in found.items()}
    if isinstance(found, str) and (match := _DURATION.fullmatch(found)):
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    if isinstance(found, str) and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", found):
        return time.fromisoformat(found)
    return found


def _problems(plan: NoticePlan) -> list[str]:
    found = []
    try:
        _ = plan.zone
    except (KeyError, ValueError, OSError):
        found.append(f"timezone {plan.timezone!r}; expected an IANA name such as Asia/Shanghai")
    if len({step.name for step in plan.steps}) < len(plan.steps):
        found.append("two steps have the same name; expected three, as the switch's policy asks for them")
    for step in plan.steps[1:]:
        if step.after_previous < _APART_MIN and not plan.trial:
            found.append(
                f"step {step.name}: after_previous; expected 1h or more, nobody is sent two steps at once (less with trial = true)"
            )
    for step in plan.steps:
        if step.valid <= step.before:
            found.append(f"step {step.name}: valid; expected more than `before`, or it never fits")
    if plan.good_days < plan.low_days:
        found.append("good_days; expected low_days or more")
    if plan.last_warning.valid < plan.last_warning.before + plan.order_pause:
        found.append("last_warning.valid leaves no time for an order; expected more than before and order_pause")
    if plan.owed_more_than_minor < 0:
        found.append("owed_more_than_minor; expected 0 or more")
    if plan.quiet != "none" and all(plan.quiet.has(datetime(2026, 3, 2, hour, tzinfo=UTC)) for hour in range(24)):
        found.append('quiet leaves no hour of the day; expected some hours in which messages go out, or quiet = "none"')
    named = (plan.order_hours, plan.quiet, *(step.hours for step in plan.steps))
    hours = [one for one in named if isinstance(one, Hours)]
    if stray := {day for one in hours for day in one.days} - set(DAYS):
        found.append(f"days {', '.join(sorted(stray))}; expected some of {', '.join(DAYS)}")
    return found
