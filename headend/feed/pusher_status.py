"""How deliveries are doing, for the HTTP interface and for Prometheus."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CapacityStatus", "DeliveryCollector", "SinkCounters", "SinkStatus"]


class SinkCounters(Struct):
    """Events, since the start, but `batches` and `failures`: pushes, and pushes that were not acknowledged.

    lost: pruned before they were delivered, because more than `protect` allows had gathered.
    """

    live: int = 0
    back_filled: int = 0
    batches: int = 0
    failures: int = 0
    parked: int = 0
    lost: int = 0


class SinkStatus(Struct, frozen=True, kw_only=True):
    """One destination as its pusher sees it now.

    url: without secrets. state: "up" | "waiting" | "starting" | "unconfigured". problem: why it waits; "" when nothing is wrong.
    since: when `state` began. next_try_at: null unless it waits. delivered_up_to: everything up to here is delivered or parked.
    delivered_ahead: stretches above it that are delivered already. live_after: the live lane goes on behind this one.
    lag_events: events of the feed not delivered yet, `backlog_events` of them behind the live lane. lag_s: age of the oldest of
    them, to within one batch; 0 when there is none. parked: events it would not take, now.
    """

    name: str
    kind: str
    url: str
    state: str
    problem: str
    since: datetime
    next_try_at: datetime | None
    delivered_up_to: int
    delivered_ahead: list[tuple[int, int]]
    live_after: int
    lag_events: int
    lag_s: float
    backlog_events: int
    parked: int
    last_delivered_at: datetime | None
    counters: dict[str, int]


class CapacityStatus(Struct, frozen=True, kw_only=True):
    """How long the store can go on taking events when nothing is deleted. hours_left: null when it does not grow, or nothing is
    known of the disk. level: "ok" | "72h" | "24h" | "4h", the alarm that stands."""

    hours_left: float | None
    level: str
    used_bytes: int
    free_bytes: int | None
    bytes_per_event: float
    events_per_hour: float
    measured_at: datetime


class DeliveryCollector(Collector):
    """Figures of the destinations, read when asked for. To be registered once. Destinations are labels, meters never."""

    def __init__(
        self, statuses: Callable[[], Sequence[SinkStatus]], capacity: Callable[[], CapacityStatus | None]
    ) -> None:
        self._statuses = statuses
        self._capacity = capacity

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("headend_sink_up", "1 while a destination takes what it is offered", labels=["sink"])
        lag = GaugeMetricFamily("headend_sink_lag_events", "Events not yet delivered", labels=["sink"])
        lag_s = GaugeMetricFamily("headend_sink_lag_seconds", "Age of the oldest of them", labels=["sink"])
        backlog = GaugeMetricFamily("headend_sink_backlog_events", "Of them behind the live lane", labels=["sink"])
        parked = GaugeMetricFamily("headend_sink_parked_events", "Events a destination would not take", labels=["sink"])
        delivered = CounterMetricFamily("headend_sink_delivered_events", "Acknowledged", labels=["sink", "lane"])
        failures = CounterMetricFamily("headend_sink_failures", "Pushes not acknowledged", labels=["sink"])
        refused = CounterMetricFamily("headend_sink_refused_events", "Parked since the start", labels=["sink"])
        lost = CounterMetricFamily("headend_sink_lost_events", "Pruned before delivery, see protect", labels=["sink"])
        for status in self._statuses():
            labels, counters = [status.name], status.counters
            up.add_metric(labels, int(status.state == "up"))
            lag.add_metric(labels, status.lag_events)
            lag_s.add_metric(labels, status.lag_s)
            backlog.add_metric(labels, status.backlog_events)
            parked.add_metric(labels, status.parked)
            for lane in ("live", "back_filled"):
                delivered.add_metric([status.name, lane], counters.get(lane, 0))
            failures.add_metric(labels, counters.get("failures", 0))
            refused.add_metric(labels, counters.get("parked", 0))
            lost.add_metric(labels, counters.get("lost", 0))
        yield from (up, lag, lag_s, backlog, parked, delivered, failures, refused, lost)
        capacity = self._capacity()
        hours = GaugeMetricFamily("headend_store_capacity_hours", "Until the disk is full if nothing is deleted")
        free = GaugeMetricFamily("headend_store_free_bytes", "What the store may still write")
        if capacity is not None and capacity.hours_left is not None:
            hours.add_metric([], capacity.hours_left)
        if capacity is not None and capacity.free_bytes is not None:
            free.add_metric([], capacity.free_bytes)
        yield from (hours, free)
