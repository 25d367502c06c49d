"""Figures of store and feed for Prometheus, read when asked for. No meter is ever a label."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.feed.live import FeedSignal
from headend.store.writer import Writer

__all__ = ["StoreCollector"]


class StoreCollector(Collector):
    """To be registered once in the registry of `ApiDeps`."""

    def __init__(self, writer: Writer, signal: FeedSignal) -> None:
        self._writer = writer
        self._signal = signal

    def collect(self) -> Iterator[Metric]:
        health = self._writer.health()
        yield GaugeMetricFamily("headend_store_healthy", "1 while commits succeed", int(health.healthy))
        yield GaugeMetricFamily("headend_store_queued_items", "Items not yet durable", health.queued)
        yield CounterMetricFamily("headend_store_stored_items", "Items made durable", health.stored_total)
        yield CounterMetricFamily("headend_store_duplicate_items", "Reads stored already", health.duplicates_total)
        yield CounterMetricFamily("headend_store_refused_items", "Items never storable", health.refused_total)
        yield CounterMetricFamily("headend_store_groups", "Commits", health.groups_total)
        yield CounterMetricFamily(
            "headend_store_failures", "Commits that failed and were tried again", health.failures_total
        )
        yield GaugeMetricFamily("headend_feed_sequence", "Newest event of this run", self._signal.sequence)
        yield GaugeMetricFamily("headend_feed_subscribers", "Readers on the live stream", self._signal.subscribers)
