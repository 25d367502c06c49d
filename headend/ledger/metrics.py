"""Figures of the ledger for Prometheus, read when asked for. No meter is ever a label."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.ledger.keeper import LedgerKeeper

__all__ = ["LedgerCollector"]


class LedgerCollector(Collector):
    """To be registered once. Rates are of the day that was closed last, as it was then."""

    def __init__(self, keeper: LedgerKeeper) -> None:
        self._keeper = keeper

    def collect(self) -> Iterator[Metric]:
        keeper = self._keeper
        yield CounterMetricFamily("headend_ledger_manifests", "Manifests issued since the start", keeper.issued)
        yield GaugeMetricFamily(
            "headend_ledger_problems", "Days that cannot be closed: reads and events disagree", len(keeper.problems)
        )
        closed = GaugeMetricFamily("headend_ledger_closed_until_seconds", "End of the newest closed day, Unix time")
        if keeper.closed_until is not None:
            closed.add_metric([], keeper.closed_until.timestamp())
        states = GaugeMetricFamily("headend_ledger_intervals", "Intervals of that day by state", labels=["state"])
        expected = GaugeMetricFamily("headend_collection_expected", "Intervals expected", labels=["kind", "line"])
        collected = GaugeMetricFamily(
            "headend_collection_collected", "Intervals measured or back-filled", labels=["kind", "line"]
        )
        report = keeper.collection
        if report is not None:
            for state, count in report.intervals.states.items():
                states.add_metric([state], count)
            for line in report.lines:
                expected.add_metric([line.kind, line.name], line.intervals.expected)
                collected.add_metric([line.kind, line.name], line.intervals.collected)
            yield GaugeMetricFamily(
                "headend_collection_target", "Collected of expected as it should be", float(report.target)
            )
        yield from (closed, states, expected, collected)
