"""Days of meters as they are kept. Works inside its caller's transaction."""

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, select

from headend.prepayment.storage.database import AT_ONCE
from headend.prepayment.storage.tables import meter_days
from headend.prepayment.usage.heard import Told, decode_day

__all__ = ["bodies_of_days", "told_of_days"]


def told_of_days(connection: Connection, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[Told]]:
    """wanted: meter and day; those that nothing was told of are absent. Raises MsgspecError, ValueError for one that
    cannot be read."""
    return {of: decode_day(body) for of, body in bodies_of_days(connection, wanted)}


def bodies_of_days(
    connection: Connection, wanted: Iterable[tuple[str, int]]
) -> Iterator[tuple[tuple[str, int], bytes]]:
    """As `told_of_days`, not read yet."""
    by_day: dict[int, list[str]] = {}
    for meter, day in wanted:
        by_day.setdefault(day, []).append(meter)
    for day, meters in by_day.items():
        for start in range(0, len(meters), AT_ONCE):
            statement = select(meter_days.c.meter, meter_days.c.body).where(
                meter_days.c.day == day, meter_days.c.meter.in_(meters[start : start + AT_ONCE])
            )
            for meter, body in connection.execute(statement):
                yield (meter, day), body
