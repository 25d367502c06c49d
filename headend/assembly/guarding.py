"""The guard of a head-end as its configuration has it, and its figures for Prometheus. No meter is ever a label."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.clock import Clock
from headend.config import Config
from headend.intervals.guard import Guard, GuardedMeter
from headend.model import MeterClock
from headend.ratios import Ratios
from headend.store.store import Store

__all__ = ["TruthCollector", "guard_of"]


def guard_of(config: Config, store: Store, *, clock: Clock, clocks: Mapping[str, MeterClock], ratios: Ratios) -> Guard:
    """With what the store remembers of the channels. clocks: as last measured; what changes in it is known at once."""
    periods = {plan.name: plan.period_s for plan in config.plans}
    return Guard(
        (
            GuardedMeter(
                id=meter.id,
                contract=meter.contract,
                period_s=periods[meter.plan],
                connection=config.connections.get(meter.id),
            )
            for meter in config.meters
        ),
        histories=store.histories(meter.id for meter in config.meters),
        clock=clock,
        clocks=clocks,
        ratios=ratios,
    )


class TruthCollector(Collector):
    """To be registered once."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def collect(self) -> Iterator[Metric]:
        found = CounterMetricFamily(
            "headend_truth_findings", "Reads that a truth check held or remarked on", labels=["rule", "outcome"]
        )
        changed = CounterMetricFamily(
            "headend_truth_suspicions", "Suspicions that began, were confirmed or lifted", labels=["rule", "state"]
        )
        for (rule, is_held), count in sorted(self._guard.findings.items()):
            found.add_metric([rule, "held" if is_held else "remarked"], count)
        for (rule, state), count in sorted(self._guard.changes.items()):
            changed.add_metric([rule, state], count)
        yield from (found, changed)
