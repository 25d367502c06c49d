"""Logs and line metrics. Logs go to standard error: readable on a terminal, JSON lines otherwise."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import asdict
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.feed.envelope import iso_utc

if TYPE_CHECKING:  # every command line sets up its logs here, and most need no line and no store
    from headend.concentrators.park import ConcentratorPark
    from headend.drivers.line import Line
    from headend.drivers.listener_connect import DialInConnect

__all__ = ["ConcentratorCollector", "LineCollector", "ListenerCollector", "configure_logs"]


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

    def __init__(self, lines: "Iterable[Line]") -> None:
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


class ListenerCollector(Collector):
    """Ports that DTUs dial in to."""

    def __init__(self, dial_in: "DialInConnect") -> None:
        self._dial_in = dial_in

    def collect(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily("headend_dtus_connected", "DTUs that a line owns", labels=["listen"])
        unknown = GaugeMetricFamily("headend_dtus_unknown", "Callers on the quarantine list", labels=["listen"])
        events = CounterMetricFamily("headend_dtu_events", "What happened at a port", labels=["listen", "event"])
        for listener in self._dial_in.listeners:
            connected.add_metric([listener.name], listener.connected)
            unknown.add_metric([listener.name], len(listener.unknown()))
            for event, count in asdict(listener.counters).items():
                events.add_metric([listener.name, event], count)
        yield from (connected, unknown, events)


class ConcentratorCollector(Collector):
    """Brokers and the concentrators behind them, by broker only: a fleet has thousands of concentrators."""

    def __init__(self, parks: "Iterable[ConcentratorPark]") -> None:
        self._parks = list(parks)

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("headend_broker_up", "1 while the broker is connected", labels=["broker"])
        online = GaugeMetricFamily("headend_concentrators", "Concentrators by state", labels=["broker", "state"])
        taken = CounterMetricFamily("headend_broker_messages", "Messages of the broker", labels=["broker", "kind"])
        refused = CounterMetricFamily("headend_broker_refused", "Messages refused, by why", labels=["broker", "reason"])
        for park in self._parks:
            status = park.broker_status()
            up.add_metric([park.name], int(status.state == "up"))
            states = Counter(one.state for one in park.statuses())
            for state in ("online", "offline", "unknown"):
                online.add_metric([park.name, state], states[state])
            for kind, count in status.counters.items():
                taken.add_metric([park.name, kind], count)
            for reason, count in status.refused.items():
                refused.add_metric([park.name, reason], count)
        yield from (up, online, taken, refused)
