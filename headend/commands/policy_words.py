"""A policy in plain words, for the people who answer for it."""

from collections.abc import Iterator, Sequence

from headend.commands.conditions import in_words, step_in_words
from headend.commands.policy import Policy
from headend.commands.rules import WEEKDAYS, OpenTimes, Rules, Span

__all__ = ["explain"]


def explain(policy: Policy) -> str:
    """Every rule, in the order in which one would ask for it."""
    return "\n".join(_lines(policy)) + "\n"


def _lines(policy: Policy) -> Iterator[str]:
    data = policy.data
    signed = f"signed by key {policy.signed_by}" if policy.signed_by else "not signed"
    yield f"{data.title}"
    yield f"Policy {data.id}, version {data.version}, {signed}"
    yield f"SHA-256 {policy.sha256}"
    yield ""
    yield f"All times are local, {data.timezone}. Calendar: {data.calendar}, years {_years(policy)}; opens nothing on other days."
    for year in data.years:
        published = f", published {year.published}" if year.published else ""
        holidays = sum((holiday.last - holiday.first).days + 1 for holiday in year.holidays)
        yield f"  {year.year}: {holidays} holidays, {len(year.worked)} rest days worked{published}. {year.source}"
        if year.reaches_back_days and year.year == policy.calendar.last_year:
            yield f"  Its last {year.reaches_back_days} days are unknown until the next year's list is there."
    yield ""
    yield "A supply may be opened"
    yield from _rules(data.rules)
    for group, rules in data.groups.items():
        yield ""
        yield f"For the tariff group {group} instead"
        yield from _rules(rules)
    yield ""
    yield "Nobody opens, whatever they owe,"
    for protected in data.protected:
        until = "for ever" if protected.until is None else f"until {protected.until} included"
        yield f"  customers of the class {protected.customer_class}, {until}: {protected.reason}"
    for season in data.seasons:
        first, last = (f"{month:02}-{day:02}" for month, day in (season.first, season.last))
        yield f"  customers of the classes {', '.join(season.customer_classes)} from {first} to {last}: {season.reason}"
    if not data.allow_unknown_class:
        yield "  customers of whom nobody has said what class they are"
    yield "  meters, lines, feeders or fleets under a protection, while it lasts"
    yield ""
    yield "A supply is given back at any hour,"
    way = data.reconnect
    if way.close_directly:
        yield "  by closing it directly"
    else:
        yield "  by permitting the customer to close it"
        if way.direct_meters:
            yield f"  but directly: meters {', '.join(sorted(way.direct_meters))}"
        if way.direct_tariff_groups:
            yield f"  but directly: tariff groups {', '.join(sorted(way.direct_tariff_groups))}"
    yield f"  {way.spread_from} and more at once spread over {in_words(way.spread_s)}"
    yield ""
    yield "Sources"
    for source in data.sources:
        yield f"  {source}"


def _rules(rules: Rules) -> Iterator[str]:
    times, debt = rules.times, rules.debt
    yield f"  within {_spans(times.windows) or '(never)'}"
    if times.quiet:
        yield f"  but not within the quiet hours {_spans(times.quiet)}"
    yield "  on holidays as on other days" if times.on_holidays else "  not on holidays"
    yield from _eves(times)
    if times.worked_as is None:
        yield "  not on rest days that are worked in exchange for a holiday"
    else:
        yield f"  on rest days that are worked in exchange for a holiday as on a {WEEKDAYS[times.worked_as]}"
    yield (
        f"  for a debt of at least {debt.minimum_minor} and of more than the credit of {debt.grace_minor} "
        f"(minor units, {debt.currency}), by a balance not older than {in_words(debt.proof_age_s_max)}"
    )
    if not rules.notices:
        yield "  WITHOUT ANY NOTICE"
    for number, step in enumerate(rules.notices, start=1):
        yield f"  after notice {number}, {step_in_words(step, number)}"
    if rules.weather is None:
        yield "  IN ANY WEATHER"
        return
    weather = rules.weather
    limits = []
    if weather.at_or_below is not None:
        limits.append(f"at or below {weather.at_or_below} °{weather.unit}")
    if weather.at_or_above is not None:
        limits.append(f"at or above {weather.at_or_above} °{weather.unit}")
    yield (
        f"  not when the forecast of the next {weather.forecast_hours} h reaches {' or '.join(limits)}, nor without a "
        f"forecast younger than {in_words(weather.age_s_max)}"
    )


def _eves(times: OpenTimes) -> Iterator[str]:
    for count, what in ((times.eves_of_holidays, "a holiday"), (times.eves_of_rest_days, "a rest day")):
        if count:
            yield f"  not on the {'day' if count == 1 else f'{count} days'} before {what}"


def _spans(spans: Sequence[Span]) -> str:
    """Days with the same hours together: "mon tue wed thu 09:00-16:00, fri 09:00-11:30"."""
    hours: dict[int, list[str]] = {}
    for span in sorted(spans, key=lambda span: span.first):
        text = f"{span.first // 60:02}:{span.first % 60:02}-{span.last // 60:02}:{span.last % 60:02}"
        hours.setdefault(span.weekday, []).append(text)
    days: dict[str, list[str]] = {}
    for weekday in sorted(hours):
        days.setdefault(" and ".join(hours[weekday]), []).append(WEEKDAYS[weekday])
    return ", ".join(f"{'every day' if len(names) == 7 else ' '.join(names)} {text}" for text, names in days.items())


def _years(policy: Policy) -> str:
    years = [year.year for year in policy.calendar.years]
    return "none" if not years else str(years[0]) if len(years) == 1 else f"{years[0]} to {years[-1]}"
