"""Local days and their intervals: 92, 96 or 100 quarter hours, whatever the zone does."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from headend.scheduling.plan import next_slot, slot_at

__all__ = ["day_starts", "local_day"]


def local_day(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """First instant of the local day, and of the next one, UTC.

    A midnight that a clock change skips is the change itself; of one that comes twice the first counts. Days join without gap.
    """
    return _midnight(day, zone), _midnight(day + timedelta(days=1), zone)


def day_starts(day: date, period_s: int, zone: ZoneInfo) -> list[datetime]:
    """Where the intervals of a local day begin, UTC; each ends where the next begins, the last at the day's end."""
    start, end = local_day(day, zone)
    starts = []
    slot = slot_at(start, period_s, zone)
    while slot < end:
        if slot >= start:
            starts.append(slot)
        slot = next_slot(slot, period_s, zone)
    return starts


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
