"""Whether a moment is one in which supplies may be opened, and when the next such moment comes. Pure; the calendar is given."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.commands.calendar import Calendar, DayKind
from headend.commands.rules import WEEKDAYS, OpenTimes, Span, days_after

__all__ = ["Objection", "clock", "next_moment", "objections"]

DAYS_AHEAD_MAX = 400  # beyond, a calendar is unknown in every country we have seen
_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Objection(Struct, frozen=True, kw_only=True):
    """rule: "window", "quiet", "holiday", "eve", "worked-day" or "calendar"."""

    rule: str
    text: str
    needed: str


def objections(times: OpenTimes, calendar: Calendar, local: datetime) -> list[Objection]:
    """All that speaks against an open at this moment. local: on the policy's own clock; its offset does not matter."""
    day = local.date()
    found = _whole_day(times, calendar, day)
    weekday = _weekday(times, calendar, day)
    return found if weekday is None else found + _hours(times, weekday, local)


def _whole_day(times: OpenTimes, calendar: Calendar, day: date) -> list[Objection]:
    """What speaks against every moment of the day."""
    kind = calendar.kind_of(day)
    if kind is DayKind.UNKNOWN:
        return [_unknown(calendar, day)]
    found = _eves(times, calendar, day)
    if kind is DayKind.HOLIDAY and not times.on_holidays:
        text = f"{day} is a holiday: {calendar.name_of(day)} (calendar {calendar.name})"
        found.append(Objection(rule="holiday", text=text, needed="a day that is no holiday"))
    if kind is DayKind.WORKED and times.worked_as is None:
        text = (
            f"{day} is a rest day that is worked in exchange for a holiday, and the policy opens nothing on such days"
        )
        found.append(Objection(rule="worked-day", text=text, needed="an ordinary day"))
    return found


def _weekday(times: OpenTimes, calendar: Calendar, day: date) -> int | None:
    """Whose windows and quiet hours hold; None: no moment of the day is looked at."""
    kind = calendar.kind_of(day)
    if kind is DayKind.UNKNOWN:
        return None
    return times.worked_as if kind is DayKind.WORKED else day.weekday()


def _hours(times: OpenTimes, weekday: int, local: datetime) -> list[Objection]:
    second = local.hour * 3600 + local.minute * 60 + local.second
    found = []
    if not any(_holds(span, weekday, second) for span in times.windows):
        windows = [clock(span) for span in times.windows if span.weekday == weekday]
        needed = (
            f"a time within {' or '.join(windows)}" if windows else f"another day: no opens on a {_DAY_NAMES[weekday]}"
        )
        text = f"{local:%Y-%m-%d %H:%M:%S} local time is outside the windows for opens"
        found.append(Objection(rule="window", text=text, needed=needed))
    for span in times.quiet:
        if _holds(span, weekday, second):
            text = f"{local:%Y-%m-%d %H:%M:%S} local time is within the quiet hours {clock(span)}"
            found.append(Objection(rule="quiet", text=text, needed="a time outside the quiet hours"))
            break
    return found


def _eves(times: OpenTimes, calendar: Calendar, day: date) -> list[Objection]:
    for ahead in days_after(day, max(times.eves_of_holidays, times.eves_of_rest_days)):
        kind = calendar.kind_of(ahead)
        distance = (ahead - day).days
        if kind is DayKind.UNKNOWN:
            return [_unknown(calendar, ahead)]
        if kind is DayKind.HOLIDAY:  # a holiday is a rest day, too: whichever of the two reaches further
            what = f"the holiday {calendar.name_of(ahead)}"
        elif kind is DayKind.ORDINARY and ahead.weekday() in times.rest_days and distance <= times.eves_of_rest_days:
            what = f"the rest day {ahead}"
        else:
            continue
        text = f"{day} is {distance} day{'s' if distance > 1 else ''} before {what}"
        return [Objection(rule="eve", text=text, needed="a day that is not so close before a holiday or rest day")]
    return []


def _unknown(calendar: Calendar, day: date) -> Objection:
    return Objection(
        rule="calendar",
        text=f"the calendar {calendar.name} does not say what kind of day {day} is (last year: {calendar.last_year or 'none'})",
        needed=f"the published calendar that covers {day}, added to the policy",
    )


def next_moment(
    times: OpenTimes, calendar: Calendar, zone: ZoneInfo, now: datetime, *, margin_s: int
) -> datetime | None:
    """The first moment from `now` on without objection that stays so for `margin_s`, UTC; None when none is known of.

    A judgement changes only where a window or quiet hour begins or ends, at midnight, and where the zone's offset changes.
    """
    margin = timedelta(seconds=margin_s)

    def is_free(moment: datetime) -> bool:
        return not any(objections(times, calendar, at.astimezone(zone)) for at in (moment, moment + margin))

    if is_free(now):
        return now
    first = now.astimezone(zone).date()
    for day in days_after(first - timedelta(days=1), DAYS_AHEAD_MAX):
        if day.year > calendar.last_year:
            return None
        weekday = _weekday(times, calendar, day)
        if _whole_day(times, calendar, day) or not any(span.weekday == weekday for span in times.windows):
            continue
        for moment in sorted(set(_changes(times, zone, day))):
            if moment > now and is_free(moment):
                return moment
    return None


def _changes(times: OpenTimes, zone: ZoneInfo, day: date) -> Iterator[datetime]:
    minutes = {0} | {minute for span in (*times.windows, *times.quiet) for minute in (span.first, span.last)}
    for minute in minutes - {1440}:
        for fold in (0, 1):
            local = datetime.combine(day, time(minute // 60, minute % 60, fold=fold), zone)
            moment = local.astimezone(UTC)
            if moment.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):  # else it is skipped
                yield moment
    before, after = (datetime.combine(ahead, time(), zone).astimezone(UTC) for ahead in (day, day + timedelta(days=1)))
    offset = before.astimezone(zone).utcoffset()
    if after.astimezone(zone).utcoffset() == offset:
        return
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    yield (before + timedelta(seconds=1)).replace(microsecond=0)


def _holds(span: Span, weekday: int, second: int) -> bool:
    return span.weekday == weekday and span.first * 60 <= second < span.last * 60


def clock(span: Span) -> str:
    """ "mon 09:00-16:00"."""
    return (
        f"{WEEKDAYS[span.weekday]} {span.first // 60:02}:{span.first % 60:02}-{span.last // 60:02}:{span.last % 60:02}"
    )
