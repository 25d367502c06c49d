"""Times and days as the tables keep them."""

from datetime import UTC, date, datetime, timedelta

__all__ = ["day_number", "day_of", "epoch_ms", "from_epoch_ms"]

_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = date(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)


def epoch_ms(moment: datetime) -> int:
    return (moment - _BEGIN) // _MILLISECOND


def from_epoch_ms(number: int) -> datetime:
    return _BEGIN + number * _MILLISECOND


def day_number(day: date) -> int:
    return (day - _DAY).days


def day_of(number: int) -> date:
    return _DAY + timedelta(days=number)
