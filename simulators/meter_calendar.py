"""When a meter does something by its clock: settlements, freezes. Times are its wall time, without zone, latest first."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

__all__ = ["moments_back", "settlements_back"]


def settlements_back(days: Sequence[tuple[int, int]], local: datetime) -> Iterator[datetime]:
    """Settlements at or before `local`, without end. days: (day 1..28, hour) of every month; none: months alone count."""
    days = days or [(1, 0)]
    month = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while True:
        for day, hour in sorted(days, reverse=True):
            at = month.replace(day=day, hour=hour)
            if at <= local:
                yield at
        month = _month_before(month)


def moments_back(pattern: str, local: datetime) -> Iterator[datetime]:
    """Moments of an MMDDhhmm pattern (99: every) at or before `local`, without end."""
    month, day, hour, minute = (int(pattern[at : at + 2]) for at in range(0, 8, 2))
    at = local.replace(minute=minute, second=0, microsecond=0)
    back: Callable[[datetime], datetime]
    if hour == 99:
        back = _hour_before
    elif day == 99:
        at, back = at.replace(hour=hour), _day_before
    elif month == 99:
        at, back = at.replace(hour=hour, day=day), _month_before
    else:
        at, back = at.replace(hour=hour, day=day, month=month), _year_before
    if at > local:
        at = back(at)
    while True:
        yield at
        at = back(at)


def _hour_before(moment: datetime) -> datetime:
    return moment - timedelta(hours=1)


def _day_before(moment: datetime) -> datetime:
    return moment - timedelta(days=1)


def _month_before(moment: datetime) -> datetime:
    return (moment.replace(day=1) - timedelta(days=1)).replace(day=moment.day)


def _year_before(moment: datetime) -> datetime:
    return moment.replace(year=moment.year - 1)
