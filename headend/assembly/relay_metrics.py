"""Figures of the command room for Prometheus and /healthz. No meter and no person is ever a label."""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.commands.alarms import ALARMS
from headend.commands.events import RELAY_TYPE
from headend.commands.governor_keeper import GovernorHealth
from headend.commands.journal import Journal, Page
from headend.commands.model import State
from headend.commands.obligations import ESCALATIONS
from headend.store import commands_debts as debt_rows
from headend.store import commands_pages as pages

__all__ = ["RECONNECT_BUCKETS_S", "RelayCollector", "RelayFigures"]

# From the payment's stamp to the proof: what is hoped for, what was promised, and the steps of the ladder.
RECONNECT_BUCKETS_S = (30, 60, 180, 900, 3600, 4 * 3600, 12 * 3600, 20 * 3600, 24 * 3600)
_TOLD = (*ALARMS, "quarantined", "batch-stopped")


class RelayFigures:
    """Follows the journal's pages. Counts are since the start; `load` says what stands."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.steps: Counter[tuple[str, str]] = Counter()
        self.alarms: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.escalated: Counter[int] = Counter()  # by step of the ladder, from 1
        self.reconnect_buckets = [0] * len(RECONNECT_BUCKETS_S)
        self.reconnects = 0
        self.reconnect_sum_s = 0.0
        self._open: dict[str, bool] = {}  # obligation to whether it is overdue
        self._stages: dict[str, int] = {}
        self._quarantined: set[str] = set()
        journal.listen(self._saw)

    async def load(self) -> None:
        for debt in await self._journal.read(debt_rows.open_obligations, "counting obligations"):
            self._open.setdefault(debt.id, debt.is_incident)
            self._stages.setdefault(debt.id, debt.stage)
        found = await self._journal.read(
            lambda connection: pages.commands_page(connection, states=[State.QUARANTINED], limit=1_000_000),
            "counting the quarantine",
        )
        self._quarantined |= {command.id for command in found or ()}

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def overdue(self) -> int:
        return sum(self._open.values())

    @property
    def quarantined(self) -> int:
        return len(self._quarantined)

    def _saw(self, page: Page) -> None:
        for item in page.items:
            if item.type != RELAY_TYPE:
                continue
            about = item.data.get("about")
            if about == "command":
                self.steps[str(item.data["kind"]), str(item.data["state"])] += 1
            elif about == "alarm" and item.data["state"] == "raised":
                self.alarms[str(item.data["alarm"])] += 1
        for command in page.commands.values():
            if command.state is State.QUARANTINED:
                self._quarantined.add(command.id)
            else:
                self._quarantined.discard(command.id)
        for debt in page.obligations.values():
            for step in range(self._stages.get(debt.id, 0) + 1, debt.stage + 1):
                self.escalated[step] += 1
            if debt.is_open:
                self._open[debt.id] = debt.is_incident
                self._stages[debt.id] = debt.stage
                continue
            self._stages.pop(debt.id, None)
            if self._open.pop(debt.id, None) is None:
                continue
            self.ended[debt.ended] += 1
            if debt.took_s is not None and debt.ended in ("verified", "permitted"):  # else nothing was switched for it
                self._took(max(debt.took_s, 0.0))

    def _took(self, seconds: float) -> None:
        self.reconnects += 1
        self.reconnect_sum_s += seconds
        for place, limit_s in enumerate(RECONNECT_BUCKETS_S):
            self.reconnect_buckets[place] += seconds <= limit_s


class RelayCollector(Collector):
    """To be registered once."""

    def __init__(
        self,
        figures: RelayFigures,
        *,
        active: Callable[[], int],
        waiting_for_customer: Callable[[], int],
        governor: Callable[[], GovernorHealth],
        audit_ok: Callable[[], bool],
        is_stopped: Callable[[], bool],
        clock_synchronised: Callable[[], bool | None],
        failures: Callable[[], int],
    ) -> None:
        self._figures = figures
        self._active = active
        self._waiting = waiting_for_customer
        self._governor = governor
        self._audit_ok = audit_ok
        self._is_stopped = is_stopped
        self._clock_synchronised = clock_synchronised
        self._failures = failures

    def collect(self) -> Iterator[Metric]:
        figures, governor = self._figures, self._governor()
        steps = CounterMetricFamily(
            "headend_relay_commands", "Commands that came into a state", labels=["kind", "state"]
        )
        for (kind, state), count in sorted(figures.steps.items()):
            steps.add_metric([kind, state], count)
        yield steps
        yield GaugeMetricFamily("headend_relay_active_commands", "Commands that have not ended", self._active())
        yield GaugeMetricFamily(
            "headend_relay_waiting_for_customer", "Closing is permitted, and no power was seen yet", self._waiting()
        )
        yield GaugeMetricFamily("headend_relay_quarantined", "Opens that wait for two people", figures.quarantined)
        yield CounterMetricFamily("headend_relay_over_limit", "Opens that went over a limit", governor.over_total)
        yield GaugeMetricFamily("headend_relay_has_limits", "1 while limits of opens are set", int(governor.has_limits))
        alarms = CounterMetricFamily("headend_relay_alarms", "Alarms raised", labels=["alarm"])
        for alarm in _TOLD:
            alarms.add_metric([alarm], figures.alarms[alarm] + (governor.alarms_total if alarm == "quarantined" else 0))
        yield alarms
        yield GaugeMetricFamily("headend_obligations_open", "Reconnections that are owed", figures.open)
        yield GaugeMetricFamily(
            "headend_obligations_overdue", "Reconnections owed for more than 24 hours", figures.overdue
        )
        escalated = CounterMetricFamily(
            "headend_obligations_escalated", "Reconnections that became as old as this", labels=["hours"]
        )
        for step, after in enumerate(ESCALATIONS, start=1):
            escalated.add_metric([f"{after.total_seconds() / 3600:.0f}"], figures.escalated[step])
        yield escalated
        ended = CounterMetricFamily("headend_obligations_ended", "Reconnections that ended", labels=["how"])
        for how, count in sorted(figures.ended.items()):
            ended.add_metric([how], count)
        yield ended
        buckets = [
            (f"{limit_s:.1f}", float(count))
            for limit_s, count in zip(RECONNECT_BUCKETS_S, figures.reconnect_buckets, strict=True)
        ]
        reconnects = HistogramMetricFamily("headend_reconnect_seconds", "From the payment's stamp to the proof")
        reconnects.add_metric([], [*buckets, ("+Inf", float(figures.reconnects))], figures.reconnect_sum_s)
        yield reconnects
        yield GaugeMetricFamily("headend_relay_opens_stopped", "1 while the stop switch is on", int(self._is_stopped()))
        yield GaugeMetricFamily("headend_audit_ok", "1 while the audit log is as it was left", int(self._audit_ok()))
        yield GaugeMetricFamily(
            "headend_clock_synchronised",
            "1 while the clock may be trusted with an open",
            int(self._clock_synchronised() is True),
        )
        yield CounterMetricFamily(
            "headend_relay_failures", "Commands whose carrying ended by an error of ours", self._failures()
        )
