"""Interval boundaries, pure. A slot is the UTC instant of a boundary; boundaries are even in the site's local time.

A period divides the local day, counted from local midnight, so that quarter hours are :00 :15 :30 :45 on the customer's clock
also in zones that are off by 30 or 45 minutes, and a daily read falls on local midnight on 23- and 25-hour days.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = ["next_slot", "slot_at"]

_DAY_S = 86400


def slot_at(now: datetime, period_s: int, zone: ZoneInfo) -> datetime:
    """The latest boundary at or before `now`, UTC."""
    local = now.astimezone(zone)
    since_midnight_s = local.hour * 3600 + local.minute * 60 + local.second
    floored_s = since_midnight_s // period_s * period_s
    boundary = local.replace(hour=floored_s // 3600, minute=floored_s // 60 % 60, second=0, microsecond=0)
    utc = boundary.astimezone(UTC)
    # In an hour that a clock change repeats, the floor of the second pass may lie in the first; fold was kept, so it does not
    # for periods up to an hour. Longer periods start before the repeated hour, where both folds are one.
    return utc if utc <= now else utc - timedelta(hours=1)


def next_slot(slot: datetime, period_s: int, zone: ZoneInfo) -> datetime:
    """The boundary after `slot`, itself a boundary."""
    for extra_s in (0, 3600, 7200):  # a clock change makes a period longer by at most two hours (Antarctica/Troll)
        after = slot_at(slot + timedelta(seconds=period_s + extra_s), period_s, zone)
        if after > slot:
            return after
    raise AssertionError(f"no boundary of {period_s} s follows {slot} in {zone}")
