"""An event as a row: the same columns for every type, so that a day fits into one table. Pure.

`value` is a decimal string with the digits the meter gave, of an interval its amount; `data` is the whole of an event that is
neither read nor interval, as JSON.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["COLUMNS", "Row", "columns_of", "row_of"]

COLUMNS = (
    "sequence",
    "id",
    "type",
    "subject",
    "time",
    "meter",
    "obis",
    "value",
    "unit",
    "interval_start",
    "interval_end",
    "read_at",
    "received_at",
    "occurred_at",
    "quality",
    "reason",
    "revision",
    "side",
    "ratio",
    "primary",
    "secondary",
    "source",
    "data",
)
# Column of a table, where an event has it under another name.
_ALSO = {"value": "amount", "interval_start": "start", "interval_end": "end"}
_IN_COLUMNS = ("headend.read.v1", "headend.interval.v1")
_FROM_DATA = COLUMNS[COLUMNS.index("meter") : COLUMNS.index("data")]

Row = dict[str, Any]  # by column; None where the event has nothing. sequence, revision: int; quality: list of texts


class _Event(Struct, gc=False):
    id: str
    type: str
    subject: str
    time: str
    sequence: str
    data: msgspec.Raw


_event_of = msgspec.json.Decoder(_Event).decode
_data_of = msgspec.json.Decoder(dict[str, Any]).decode


def row_of(event: bytes) -> Row:
    """Of an encoded event."""
    decoded = _event_of(event)
    data = _data_of(decoded.data)
    row: Row = {
        "sequence": int(decoded.sequence),
        "id": decoded.id,
        "type": decoded.type,
        "subject": decoded.subject,
        "time": decoded.time,
    }
    for column in _FROM_DATA:
        found = data.get(column)
        if found is None and column in _ALSO:
            found = data.get(_ALSO[column])
        row[column] = found if isinstance(found, _kind_of(column)) else None
    row["data"] = None if decoded.type in _IN_COLUMNS else bytes(decoded.data).decode()
    return row


def _kind_of(column: str) -> type:
    """An event of a later version may have something else under a name; then its `data` has it."""
    return {"quality": list, "revision": int}.get(column, str)


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {column: [row[column] for row in rows] for column in COLUMNS}
