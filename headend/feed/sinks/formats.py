"""Files of events: NDJSON, CSV, Parquet, CIM MeterReadings. Each is written piece by piece, so that a day needs no memory.

A writer gets the events of one file in order. CIM files hold no more than CIM_EVENTS_MAX events each, since such a document cannot
be written piece by piece, and the systems that read them take them whole; a day then has several.
"""

import csv
import importlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from headend.feed.cim import meter_readings
from headend.feed.sinks.columns import COLUMNS, columns_of, row_of

__all__ = ["CIM_EVENTS_MAX", "FORMATS", "Format", "MissingExtra", "Writing"]

CIM_EVENTS_MAX = 10_000  # about 6 MB of XML
ROW_GROUP = 10_000  # rows; what a reader of Parquet takes at once, and what the writer holds: some 40 MB
AMOUNT_DIGITS = (38, 12)  # of Parquet's exact decimal: 26 before the point


class MissingExtra(Exception):
    """A library that only this format needs is not installed. The message says how to get it."""


class Writing(Protocol):
    """One file in the making. left_out: ids of events that the format cannot say."""

    left_out: list[str]

    def add(self, events: Sequence[bytes], /) -> None: ...

    def close(self) -> int:
        """How many records the file has. The file is complete, but not yet durable."""
        ...


class Format:
    """suffix: of its files. events_max: of one file. begin: opens a new file. Raises OSError, MissingExtra."""

    def __init__(self, suffix: str, begin: Callable[[Path], Writing], events_max: int | None = None) -> None:
        self.suffix = suffix
        self.begin = begin
        self.events_max = events_max


class _Ndjson:
    """The events as they are stored, one per line."""

    def __init__(self, path: Path) -> None:
        self.left_out: list[str] = []
        self._file: BinaryIO = path.open("wb")
        self._count = 0

    def add(self, events: Sequence[bytes]) -> None:
        self._file.write(b"\n".join(events) + b"\n")
        self._count += len(events)

    def close(self) -> int:
        self._file.close()
        return self._count


class _Csv:
    """UTF-8, a header, commas, RFC 4180 quotes, lines end with a line feed. Qualities are joined by blanks."""

    def __init__(self, path: Path) -> None:
        self.left_out: list[str] = []
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n", restval="")
        self._writer.writeheader()
        self._count = 0

    def add(self, events: Sequence[bytes]) -> None:
        for event in events:
            row = row_of(event)
            row["quality"] = " ".join(row["quality"] or ())
            self._writer.writerow(row)
        self._count += len(events)

    def close(self) -> int:
        self._file.close()
        return self._count


class _Parquet:
    """Times are timestamps in UTC, `amount` is `value` as an exact decimal: null where it has more than 12 digits behind the point."""

    def __init__(self, path: Path) -> None:
        self.left_out: list[str] = []
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise MissingExtra("Parquet needs the extra: install headend[parquet]") from error
        self._schema = _schema(self._arrow)
        self._file = parquet.ParquetWriter(str(path), self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._count = 0

    def add(self, events: Sequence[bytes]) -> None:
        self._rows += map(row_of, events)
        self._count += len(events)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> int:
        if self._rows:
            self._flush()
        self._file.close()
        return self._count

    def _flush(self) -> None:
        arrow, columns = self._arrow, columns_of(self._rows)
        columns["amount"] = [_amount(value) for value in columns["value"]]
        arrays = []
        for field in self._schema:
            if arrow.types.is_timestamp(field.type):
                arrays.append(arrow.array(columns[field.name], arrow.string()).cast(field.type))
            else:
                arrays.append(arrow.array(columns[field.name], field.type))
        self._file.write_table(arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()


class _Cim:
    """One MeterReadings document. Only reads and intervals are readings; other events are not written, and not left out either."""

    def __init__(self, path: Path) -> None:
        self.left_out: list[str] = []
        self._path = path
        self._events: list[dict[str, Any]] = []

    def add(self, events: Sequence[bytes]) -> None:
        self._events += map(msgspec.json.decode, events)

    def close(self) -> int:
        document = meter_readings(self._events)
        self._events.clear()
        self._path.write_bytes(document.xml)
        self.left_out += document.left_out
        return document.written


def _schema(arrow: Any) -> Any:
    text, time = arrow.string(), arrow.timestamp("ms", tz="UTC")
    kinds = {
        "sequence": arrow.int64(),
        "revision": arrow.int32(),
        "quality": arrow.list_(text),
        **dict.fromkeys(("time", "interval_start", "interval_end", "read_at", "received_at", "occurred_at"), time),
    }
    fields = [arrow.field(column, kinds.get(column, text)) for column in COLUMNS]
    fields.insert(COLUMNS.index("value") + 1, arrow.field("amount", arrow.decimal128(*AMOUNT_DIGITS)))
    return arrow.schema(fields)


def _amount(value: str | None) -> Decimal | None:
    """None where the column cannot hold it exactly."""
    if value is None:
        return None
    amount = Decimal(value)
    digits, behind = AMOUNT_DIGITS
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -behind or amount.adjusted() >= digits - behind:
        return None
    return amount


FORMATS: dict[str, Format] = {
    "ndjson": Format(".ndjson", _Ndjson),
    "csv": Format(".csv", _Csv),
    "parquet": Format(".parquet", _Parquet),
    "cim-xml": Format(".xml", _Cim, CIM_EVENTS_MAX),
}
