"""What one group of customers may rely on before its supply is opened: the parts of a policy, as data.

A moment is judged by the local clock alone: by its day and its time of day. So a day with 23 or 25 hours needs no rule of its own:
an hour that a clock change skips has no instants, and one that comes twice is judged the same both times.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal

from msgspec import Struct

__all__ = [
    "WEEKDAYS",
    "Debt",
    "Forecast",
    "NoticeStep",
    "OpenTimes",
    "Rules",
    "Season",
    "Span",
    "Weather",
    "days_after",
    "in_unit",
]

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Span(Struct, frozen=True, kw_only=True):
    """first <= time of day < last on one weekday, in minutes from midnight; 1440 is the midnight that ends the day."""

    weekday: int
    first: int
    last: int


class OpenTimes(Struct, frozen=True, kw_only=True):
    """When supplies may be opened. A moment must be in one of `windows` and in none of `quiet`.

    worked_as: whose weekday's windows and quiet hours hold on a rest day that is worked; None: no opens then.
    on_holidays: whether holidays are days like others. eves_of_holidays: no opens so many days before one;
    eves_of_rest_days: nor before a day on which people rest. rest_days: weekdays; a holiday rests, a worked day does not.
    """

    windows: tuple[Span, ...]
    quiet: tuple[Span, ...] = ()
    rest_days: tuple[int, ...] = (5, 6)
    worked_as: int | None = None
    on_holidays: bool = False
    eves_of_holidays: int = 0
    eves_of_rest_days: int = 0


class Weather(Struct, frozen=True, kw_only=True):
    """No opens when the forecast of the next hours reaches a limit, or when there is no forecast young enough that reaches as far.

    at_or_below, at_or_above: None: no such limit. unit: "C" or "F", of both.
    """

    forecast_hours: int
    age_s_max: int
    unit: str
    at_or_below: Decimal | None
    at_or_above: Decimal | None


class Forecast(Struct, frozen=True, kw_only=True):
    """What a weather service expects where the meter is, from `issued_at` to `reaches`, in degrees Celsius."""

    issued_at: datetime
    reaches: datetime
    lowest_c: Decimal
    highest_c: Decimal
    source: str


class Debt(Struct, frozen=True, kw_only=True):
    """Money in minor units. minimum_minor: no opens for less. grace_minor: credit that everybody has; a balance of minus this
    is still served. proof_age_s_max: of the balance proof."""

    currency: str
    minimum_minor: int
    grace_minor: int
    proof_age_s_max: int


class NoticeStep(Struct, frozen=True, kw_only=True):
    """before_s: delivered at least so long before the open; age_s_max: and at most so long.

    after_previous_s: so long after the step before was delivered. channels: empty: any.
    """

    step: str
    before_s: int
    age_s_max: int
    after_previous_s: int = 0
    channels: tuple[str, ...] = ()


class Season(Struct, frozen=True, kw_only=True):
    """No opens for these customers between two days of the year, both included; over New Year when `last` is before `first`.

    first, last: (month, day).
    """

    customer_classes: tuple[str, ...]
    first: tuple[int, int]
    last: tuple[int, int]
    reason: str

    def covers(self, day: date) -> bool:
        here = (day.month, day.day)
        if self.first <= self.last:
            return self.first <= here <= self.last
        return here >= self.first or here <= self.last


class Rules(Struct, frozen=True, kw_only=True):
    """weather: None: none asked for. notices: in the order in which they are given; empty: none asked for."""

    times: OpenTimes
    debt: Debt
    weather: Weather | None = None
    notices: tuple[NoticeStep, ...] = ()


def in_unit(celsius: Decimal, unit: str) -> Decimal:
    return celsius if unit == "C" else celsius * 9 / 5 + 32


def days_after(day: date, count: int) -> list[date]:
    """The next `count` days."""
    return [day + timedelta(days=ahead) for ahead in range(1, count + 1)]
