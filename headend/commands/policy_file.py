"""Policy files: TOML, checked whole, so that one run tells every problem with its place. `docs/policy.md` explains the keys.

A weekday that has no window must be named as one without opens, and an end that never comes is written "never": what a policy
does not say was forgotten, and a forgotten line must not cut anybody off.

A signature lies beside the file as FILE.sig: Ed25519 in base64 over "headend.policy.v1", newline, and the canonical content, which
holds the calendars too.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from headend.commands.calendar import CalendarYear
from headend.commands.calendar_file import CALENDARS, read_years
from headend.commands.policy import Policy, PolicyData, ProtectedClass, Reconnect, canonical
from headend.commands.policy_shapes import (
    DebtTable,
    FileTable,
    GroupTable,
    NoticesTable,
    OpensTable,
    QuietTable,
    WeatherTable,
    shape_at,
)
from headend.commands.rules import WEEKDAYS, Debt, NoticeStep, OpenTimes, Rules, Season, Span, Weather
from headend.configuration.reader import Problem, Reader, Where, explain_errors, read_toml
from headend.errors import ConfigError
from headend.keys import PublicKey, SigningKey

__all__ = ["POLICIES", "check_policy", "load_policy", "sign_policy"]

POLICIES = Path(__file__).parent / "policies"
SPREAD_S_MAX = 600  # the longest random delay of re-closing that we know of in service, in Great Britain
MARGIN_S_MAX = 30
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NO_RULES = Rules(
    times=OpenTimes(windows=()), debt=Debt(currency="", minimum_minor=0, grace_minor=0, proof_age_s_max=0)
)


def load_policy(path: Path, *, key: PublicKey | None = None) -> Policy:
    """Raises ConfigError that names every problem. key: of whoever signs policies; with it an unsigned one is refused."""
    data, problems = check_policy(path)
    if data is None:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{path} is no usable policy, so nothing can be opened under it:\n{listed}")
    if key is None:
        return Policy(data)
    signature = path.with_name(path.name + ".sig")
    try:
        text = signature.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} has no signature: expected {signature} with the signature of key {key.id}"
        ) from error
    if not key.is_right(text, _signed(data)):
        raise ConfigError(
            f"{signature} is not the signature of key {key.id} over this policy and its calendars: expected the policy "
            f"as it was signed; sign it again after a change"
        )
    return Policy(data, signed_by=key.id)


def sign_policy(data: PolicyData, key: SigningKey) -> str:
    """What belongs into FILE.sig."""
    return key.sign(_signed(data))


def check_policy(path: Path) -> tuple[PolicyData | None, list[Problem]]:
    """The policy of a file, calendars included, and every problem; None with any."""
    text, document, problems = read_toml(path)
    if problems:
        return None, problems
    reader = Reader(path, text)
    try:
        file = FileTable.model_validate(document)
    except ValidationError as error:
        for where, told in explain_errors(error, FileTable):
            known = ", ".join(shape_at(where).model_fields)
            reader.problem(where, f"unknown key; expected one of {known}" if told.startswith("unknown key") else told)
        return None, reader.problems
    years, calendar_problems = _calendars(reader, path, file.policy.calendars)
    rules = _rules(reader, (), file, _NO_RULES)
    groups: dict[str, Rules] = {}
    for index, group in enumerate(file.groups):
        where = ("groups", index)
        for name in group.tariff_groups:
            if name in groups:
                reader.problem((*where, "tariff_groups"), f"{name!r} has rules already; expected each group once")
            groups[name] = _rules(reader, where, group, rules)
        if group.without_weather and group.weather is not None:
            reader.problem((*where, "without_weather"), "there is a table weather too; expected one of them")
    for index, protected in enumerate(file.protected):
        if protected.customer_class in [other.customer_class for other in file.protected[:index]]:
            reader.problem(("protected", index, "customer_class"), f"{protected.customer_class!r} is protected already")
    margin_s, spread_s = _length(file.policy.margin), _length(file.reconnect.spread)
    if margin_s > MARGIN_S_MAX:
        reader.problem(("policy", "margin"), f"{file.policy.margin}; expected at most {MARGIN_S_MAX}s")
    if spread_s > SPREAD_S_MAX:
        reader.problem(("reconnect", "spread"), f"{file.reconnect.spread}; expected at most {SPREAD_S_MAX}s")
    problems = [*reader.fatal, *reader.problems, *calendar_problems]
    if problems:
        return None, problems
    return PolicyData(
        id=file.policy.id,
        version=file.policy.version,
        title=file.policy.title,
        timezone=file.policy.timezone,
        sources=tuple(file.policy.sources),
        calendar=" + ".join(Path(name).stem for name in file.policy.calendars),
        years=tuple(years),
        margin_s=margin_s,
        allow_unknown_class=file.policy.allow_unknown_class,
        rules=rules,
        groups=groups,
        protected=tuple(
            ProtectedClass(
                customer_class=one.customer_class,
                reason=one.reason,
                until=one.until if isinstance(one.until, date) else None,
            )
            for one in file.protected
        ),
        seasons=tuple(
            Season(
                customer_classes=tuple(one.customer_classes),
                first=_month_and_day(one.first),
                last=_month_and_day(one.last),
                reason=one.reason,
            )
            for one in file.seasons
        ),
        reconnect=Reconnect(
            close_directly=file.reconnect.close == "directly",
            direct_meters=frozenset(file.reconnect.direct_meters),
            direct_tariff_groups=frozenset(file.reconnect.direct_tariff_groups),
            spread_s=spread_s,
            spread_from=file.reconnect.spread_from,
        ),
    ), []


def _calendars(reader: Reader, path: Path, names: Sequence[str]) -> tuple[list[CalendarYear], list[Problem]]:
    """A name that ends in .toml is a file beside the policy, any other comes with the program."""
    years: list[CalendarYear] = []
    problems: list[Problem] = []
    for index, name in enumerate(names):
        where = ("policy", "calendars", index)
        known = sorted(file.stem for file in CALENDARS.glob("*.toml"))
        if not name.endswith(".toml") and name not in known:
            reader.problem(where, f"{name!r}; expected one of {', '.join(known)}, or a file such as our-holidays.toml")
            continue
        found, wrong = read_years(path.parent / name if name.endswith(".toml") else CALENDARS / f"{name}.toml")
        problems += wrong
        for year in found:
            if any(other.year == year.year for other in years):
                reader.problem(where, f"{name!r} tells {year.year} again; expected each year once")
            years.append(year)
    years.sort(key=lambda year: year.year)
    for before, after in pairwise(years):
        if after.year > before.year + 1:
            reader.problem(("policy", "calendars"), f"no year between {before.year} and {after.year}; expected no gap")
    return years, problems


def _rules(reader: Reader, where: Where, table: FileTable | GroupTable, default: Rules) -> Rules:
    weather = default.weather if table.weather is None else _weather(reader, (*where, "weather"), table.weather)
    if isinstance(table, GroupTable) and table.without_weather:
        weather = None
    return Rules(
        times=default.times if table.opens is None else _times(reader, (*where, "opens"), table.opens),
        debt=default.debt if table.debt is None else _debt(table.debt),
        weather=weather,
        notices=default.notices if table.notices is None else _notices(reader, (*where, "notices"), table.notices),
    )


def _times(reader: Reader, where: Where, opens: OpensTable) -> OpenTimes:
    windows: list[Span] = []
    for index, window in enumerate(opens.windows):
        first, last = _minutes(window.start), _minutes(window.end)
        if first >= last:
            text = (
                f"{window.start} to {window.end}; expected a window within one day, start before end (24:00 ends a day)"
            )
            reader.problem((*where, "windows", index), text)
            continue
        for day in window.days:
            span = Span(weekday=WEEKDAYS.index(day), first=first, last=last)
            if any(_overlap(span, other) for other in windows):
                text = f"{day} {window.start} to {window.end} overlaps a window before it; expected them apart"
                reader.problem((*where, "windows", index), text)
            windows.append(span)
    quiet: list[Span] = []
    for index, hours in enumerate(opens.quiet):
        for span in _quiet_spans(hours):
            if any(_overlap(span, other) for other in quiet):
                text = f"{hours.start} to {hours.end} overlaps quiet hours before it on a {WEEKDAYS[span.weekday]}"
                reader.problem((*where, "quiet", index), text)
            quiet.append(span)
    _check_days(reader, where, opens, windows, quiet)
    return OpenTimes(
        windows=tuple(windows),
        quiet=tuple(quiet),
        rest_days=tuple(sorted(WEEKDAYS.index(day) for day in set(opens.rest_days))),
        worked_as=None if opens.worked_as == "never" else WEEKDAYS.index(opens.worked_as),
        on_holidays=opens.on_holidays,
        eves_of_holidays=opens.eves_of_holidays,
        eves_of_rest_days=opens.eves_of_rest_days,
    )


def _check_days(reader: Reader, where: Where, opens: OpensTable, windows: list[Span], quiet: list[Span]) -> None:
    for number, day in enumerate(WEEKDAYS):
        here = [span for span in windows if span.weekday == number]
        if not here and day not in opens.no_opens_on:
            reader.problem((*where, "windows"), f"no window on {day}; expected one, or {day} under no_opens_on")
        if here and day in opens.no_opens_on:
            reader.problem((*where, "no_opens_on"), f"{day} has a window; expected one of them")
    for span in windows:
        for hours in quiet:
            if hours.weekday == span.weekday and hours.first <= span.first and span.last <= hours.last:
                text = f"the window on {WEEKDAYS[span.weekday]} lies wholly in quiet hours; expected one of them"
                reader.problem((*where, "quiet"), text)
    if opens.worked_as in opens.no_opens_on:
        text = f'{opens.worked_as!r} is a day without opens; expected a day with windows, or "never"'
        reader.problem((*where, "worked_as"), text)


def _quiet_spans(hours: QuietTable) -> list[Span]:
    """Hours over midnight belong to the day they begin on, and are two spans."""
    first, last = _minutes(hours.start), _minutes(hours.end)
    spans = []
    for day in dict.fromkeys(hours.days):
        number = WEEKDAYS.index(day)
        if first < last:
            spans.append(Span(weekday=number, first=first, last=last))
            continue
        spans.append(Span(weekday=number, first=first, last=1440))
        if last:
            spans.append(Span(weekday=(number + 1) % 7, first=0, last=last))
    return [span for span in spans if span.first < span.last]


def _weather(reader: Reader, where: Where, weather: WeatherTable) -> Weather:
    low = None if weather.at_or_below is None else Decimal(weather.at_or_below)
    high = None if weather.at_or_above is None else Decimal(weather.at_or_above)
    if low is None and high is None:
        reader.problem(where, "no limit; expected at_or_below, at_or_above, or both")
    if low is not None and high is not None and low >= high:
        reader.problem((*where, "at_or_above"), f"{high} is not above at_or_below, {low}; nothing could ever be opened")
    return Weather(
        forecast_hours=weather.forecast_hours,
        age_s_max=_length(weather.age_max),
        unit=weather.unit,
        at_or_below=low,
        at_or_above=high,
    )


def _debt(debt: DebtTable) -> Debt:
    return Debt(
        currency=debt.currency,
        minimum_minor=debt.minimum_minor,
        grace_minor=debt.grace_minor,
        proof_age_s_max=_length(debt.proof_age_max),
    )


def _notices(reader: Reader, where: Where, notices: NoticesTable) -> tuple[NoticeStep, ...]:
    steps: list[NoticeStep] = []
    for index, step in enumerate(notices.steps):
        here = (*where, "steps", index)
        before_s, age_s_max = _length(step.before), _length(step.age_max)
        after_s = 0 if step.after_previous is None else _length(step.after_previous)
        if before_s > age_s_max:
            reader.problem(here, f"before {step.before} is longer ago than age_max {step.age_max}; nothing could fit")
        if step.step in [other.step for other in steps]:
            reader.problem(here, f"{step.step!r} is there already; expected each step once")
        if index and step.after_previous is None:
            reader.problem(here, f"{step.step!r} does not say after_previous, how long after the step before it comes")
        if not index and step.after_previous is not None:
            reader.problem(here, "after_previous in the first step; there is none before it")
        if steps and before_s + after_s > steps[-1].age_s_max:
            reader.problem(
                here, f"{step.step!r} and {steps[-1].step!r} cannot both fit: the step before is too old by then"
            )
        steps.append(
            NoticeStep(
                step=step.step,
                before_s=before_s,
                age_s_max=age_s_max,
                after_previous_s=after_s,
                channels=tuple(step.channels),
            )
        )
    return tuple(steps)


def _signed(data: PolicyData) -> bytes:
    return b"headend.policy.v1\n" + canonical(data)


def _overlap(one: Span, other: Span) -> bool:
    return one.weekday == other.weekday and one.first < other.last and other.first < one.last


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _length(duration: str) -> int:
    return int(duration[:-1]) * _UNITS_S[duration[-1]]


def _month_and_day(text: str) -> tuple[int, int]:
    return int(text[:2]), int(text[3:])
