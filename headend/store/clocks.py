"""What is known of the meters' clocks, and when each line's were last set by broadcast."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Table, delete, insert, select

from headend.database.engine import reading, writing
from headend.model import MeterClock
from headend.store.rows import epoch_ms, from_epoch_ms
from headend.store.tables import line_clocks, meter_clocks

__all__ = ["broadcasts", "clocks", "set_broadcast", "set_clocks"]

_MILLI = 1000
_PPM = 1000  # parts per billion in one per million


def clocks(engine: Engine) -> dict[str, MeterClock]:
    with reading(engine, "looking up meter clocks") as connection:
        return {row.meter: _from_row(row) for row in connection.execute(select(meter_clocks))}


def set_clocks(engine: Engine, found: Mapping[str, MeterClock]) -> None:
    _replace(engine, meter_clocks, "meter", [_to_row(meter, clock) for meter, clock in found.items()])


def broadcasts(engine: Engine) -> dict[str, datetime]:
    with reading(engine, "looking up clock broadcasts") as connection:
        return {row.line: from_epoch_ms(row.broadcast_at) for row in connection.execute(select(line_clocks))}


def set_broadcast(engine: Engine, line: str, at: datetime) -> None:
    _replace(engine, line_clocks, "line", [{"line": line, "broadcast_at": epoch_ms(at)}])


def _replace(engine: Engine, table: Table, key: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    with writing(engine, f"storing {table.name}") as connection:
        for row in rows:
            connection.execute(delete(table).where(table.c[key] == row[key]))
        connection.execute(insert(table), rows)


def _to_row(meter: str, clock: MeterClock) -> dict[str, Any]:
    return {
        "meter": meter,
        "measured_at": epoch_ms(clock.measured_at),
        "offset_ms": round(clock.offset_s * _MILLI),
        "uncertainty_ms": round(clock.uncertainty_s * _MILLI),
        "drift_ppb": None if clock.drift_ppm is None else round(clock.drift_ppm * _PPM),
        "corrected_at": None if clock.corrected_at is None else epoch_ms(clock.corrected_at),
        "offset_before_ms": round(clock.offset_before_s * _MILLI),
        "written_at": None if clock.written_at is None else epoch_ms(clock.written_at),
    }


def _from_row(row: Any) -> MeterClock:
    return MeterClock(
        measured_at=from_epoch_ms(row.measured_at),
        offset_s=row.offset_ms / _MILLI,
        uncertainty_s=row.uncertainty_ms / _MILLI,
        drift_ppm=None if row.drift_ppb is None else row.drift_ppb / _PPM,
        corrected_at=None if row.corrected_at is None else from_epoch_ms(row.corrected_at),
        offset_before_s=row.offset_before_ms / _MILLI,
        written_at=None if row.written_at is None else from_epoch_ms(row.written_at),
    )
