"""Logs and line metrics. Logs go to standard error: readable on a terminal, JSON lines otherwise."""

import sys
from collections.abc import Iterable, Iterator

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.drivers.line import Line

__all__ = ["LineCollector", "configure_logs"]


def configure_logs(*, level: int) -> None:
    """Once per process, by the command line; `run` calls it again with its own level."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class LineCollector(Collector):
    """Figures of the lines, read when asked for, so that counting costs the per-frame path nothing."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = list(lines)

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("headend_line_up", "1 while the line is connected", labels=["line"])
        queued = GaugeMetricFamily("headend_line_queued_requests", "Requests waiting for their turn", labels=["line"])
        requests = CounterMetricFamily(
            "headend_line_requests", "Requests by how they ended", labels=["line", "outcome"]
        )
        moved = CounterMetricFamily("headend_line_bytes", "Bytes on the line", labels=["line", "direction"])
        stray = CounterMetricFamily("headend_line_stray", "What came and answered nothing", labels=["line", "kind"])
        connects = CounterMetricFamily("headend_line_connects", "Connection attempts", labels=["line", "outcome"])
        for line in self._lines:
            counters, name = line.counters, line.name
            up.add_metric([name], int(line.is_up))
            queued.add_metric([name], line.queued)
            for outcome in ("replied", "silent", "corrupt", "unmatched_only", "lost"):
                requests.add_metric([name, outcome], getattr(counters, outcome))
            moved.add_metric([name, "sent"], counters.bytes_sent)
            moved.add_metric([name, "received"], counters.bytes_received)
            stray.add_metric([name, "unmatched_frames"], counters.unmatched_frames)
            stray.add_metric([name, "noise_bytes"], line.noise_bytes)
            stray.add_metric([name, "echoes"], line.echoes)
            connects.add_metric([name, "good"], counters.connects)
            connects.add_metric([name, "failed"], counters.failed_connects)
        yield from (up, queued, requests, moved, stray, connects)
