"""Logs and line metrics. Logs go to standard error: readable on a terminal, JSON lines otherwise."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.drivers.line import Line
from headend.feed.envelope import iso_utc

__all__ = ["LineCollector", "configure_logs"]


def configure_logs(*, level: int) -> None:
    """Once per process, by the command line; `run` calls it again with its own level."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(default=_readable)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _readable_fields,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _readable_fields(logger: object, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Times as the feed spells them, on the terminal, too."""
    return {name: _readable(value) if isinstance(value, datetime) else value for name, value in fields.items()}


def _readable(value: object) -> str:
    """A field, or something inside one, that JSON has no form for. A time without a zone is a meter's own."""
    if isinstance(value, datetime):
        return iso_utc(value) if value.tzinfo is not None else value.isoformat()
    if isinstance(value, Enum):
        return str(value.value)
    return str(value) if isinstance(value, Decimal) else repr(value)


class LineCollector(Collector):
    """Figures of the lines, read when asked for, so that counting costs the per-frame path nothing."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = list(lines)

    def collect(self) -> Iterator[Metric]:
        babbling = GaugeMetricFamily(
            "headend_line_babbling", "1 while a device talks without being asked", labels=["line"]
        )
        up = GaugeMetricFamily("headend_line_up", "1 while the line is connected", labels=["line"])
        queued = GaugeMetricFamily("headend_line_queued_requests", "Requests waiting for their turn", labels=["line"])
        requests = CounterMetricFamily(
            "headend_line_requests", "Requests by how they ended", labels=["line", "outcome"]
        )
        moved = CounterMetricFamily("headend_line_bytes", "Bytes on the line", labels=["line", "direction"])
        stray = CounterMetricFamily("headend_line_stray", "What came and answered nothing", labels=["line", "kind"])
        parity = CounterMetricFamily(
            "headend_line_parity_errors", "Bytes that came with a wrong parity or no stop bit", labels=["line"]
        )
        connects = CounterMetricFamily("headend_line_connects", "Connection attempts", labels=["line", "outcome"])
        for line in self._lines:
            counters, name = line.counters, line.name
            up.add_metric([name], int(line.is_up))
            babbling.add_metric([name], int(line.diagnosis.startswith("babbling")))
            queued.add_metric([name], line.queued)
            for outcome in ("replied", "silent", "corrupt", "unmatched_only", "lost"):
                requests.add_metric([name, outcome], getattr(counters, outcome))
            moved.add_metric([name, "sent"], counters.bytes_sent)
            moved.add_metric([name, "received"], counters.bytes_received)
            stray.add_metric([name, "unmatched_frames"], counters.unmatched_frames)
            stray.add_metric([name, "noise_bytes"], line.noise_bytes)
            stray.add_metric([name, "echoes"], line.echoes)
            parity.add_metric([name], counters.parity_errors)
            connects.add_metric([name, "good"], counters.connects)
            connects.add_metric([name, "failed"], counters.failed_connects)
        yield from (up, babbling, queued, requests, moved, stray, parity, connects)
