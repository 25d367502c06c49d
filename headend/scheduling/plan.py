"""Interval boundaries, pure. A slot is the UTC instant of a boundary; boundaries are even in the site's local time.

A period divides the local day, counted from local midnight, so that quarter hours are :00 :15 :30 :45 on the customer's clock
also in zones that are off by 30 or 45 minutes, and a daily read falls on local midnight on 23- and 25-hour days.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = ["next_slot", "slot_at"]

# Changes are at most two hours wide (Antarctica/Troll), and the longest period is a day of 26 hours.
_EARLIER = (timedelta(), timedelta(hours=3), timedelta(hours=26))


def slot_at(now: datetime, period_s: int, zone: ZoneInfo) -> datetime:
    """The latest boundary at or before `now`, UTC. It never runs backwards, whatever the site's clock does.

    A boundary is looked for in the offsets that hold now and held before; it counts where its offset did hold, up to the instant
    of a change. So a boundary that a change skips (02:30 in spring, midnight in Havana) falls on the change itself.
    """
    epoch_s = int(now.timestamp())
    offsets = {_offset_s(now - earlier, zone) for earlier in _EARLIER}
    if len(offsets) == 1:
        (offset_s,) = offsets
        return _instant((epoch_s + offset_s) // period_s * period_s - offset_s)
    return max(_latest_in(offset_s, epoch_s, period_s, zone) for offset_s in offsets)


def _latest_in(offset_s: int, epoch_s: int, period_s: int, zone: ZoneInfo) -> datetime:
    """The latest boundary that fell while `offset_s` held, or on the change that ended it."""
    boundary_s = (epoch_s + offset_s) // period_s * period_s - offset_s
    while True:
        instant = _instant(boundary_s)
        if offset_s in (_offset_s(instant, zone), _offset_s(instant - timedelta(seconds=1), zone)):
            return instant
        boundary_s -= period_s


def next_slot(slot: datetime, period_s: int, zone: ZoneInfo) -> datetime:
    """The boundary after `slot`, itself a boundary."""
    for extra_s in (0, 3600, 7200):  # a clock change makes a period longer by at most two hours (Antarctica/Troll)
        after = slot_at(slot + timedelta(seconds=period_s + extra_s), period_s, zone)
        if after > slot:
            return after
    raise AssertionError(f"no boundary of {period_s} s follows {slot} in {zone}")


def _offset_s(instant: datetime, zone: ZoneInfo) -> int:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _instant(epoch_s: int) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)
