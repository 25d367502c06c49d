"""How long a balance lasts, by what the account itself used. Pure."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from msgspec import Struct

__all__ = ["AVERAGE_DAYS", "DayCost", "Forecast", "average_of", "forecast"]

AVERAGE_DAYS = 30  # a month: weekends and a cold week weigh what they should


class DayCost(Struct, frozen=True, kw_only=True):
    """A charged stretch, nearly always of one day. minor: exact, in minor units."""

    since: date
    day: date
    minor: Decimal

    @property
    def days(self) -> int:
        return (self.day - self.since).days + 1


class Forecast(Struct, frozen=True, kw_only=True):
    """average_minor: of a day; None without any charged day. days_left: whole days that the balance covers; None while nothing is used.

    runs_out_on: the local day on which it will not suffice, None with days_left.
    """

    average_minor: Decimal | None
    days_left: int | None
    runs_out_on: date | None


def average_of(costs: Sequence[DayCost], days: int = AVERAGE_DAYS) -> Decimal | None:
    """Minor units a day, of the last so many charged days. A stretch counts with all its days, or not at all.

    None without any. costs: by day.
    """
    total, counted = Decimal(0), 0
    for cost in reversed(costs):
        if counted and counted + cost.days > days:
            break
        total += cost.minor
        counted += cost.days
    return total / counted if counted else None


def forecast(balance_minor: int, costs: Sequence[DayCost]) -> Forecast:
    """balance_minor: available, after the last of the costs. A balance that is used up lasts for 0 days."""
    average = average_of(costs)
    if balance_minor <= 0:
        left: int | None = 0
    elif not average or average < 0:
        left = None
    else:
        left = int(balance_minor // average)
    runs_out = None
    if left is not None and costs:
        runs_out = costs[-1].day + timedelta(days=min(left, 36_500) + 1)
    return Forecast(average_minor=average, days_left=left, runs_out_on=runs_out)
