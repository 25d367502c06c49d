"""Figures of prepaid supply for Prometheus. No account, customer or meter is ever a label."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headend.prepayment.model import AccountState
from headend.prepayment.notices.notice import NoticeState
from headend.prepayment.office.service import DutyState
from headend.prepayment.supply.engine import State
from headend.prepayment.views.figures import Figures

__all__ = ["PrepaidCollector"]

# Shown also while there is none: an alarm must not wait for the first.
ACCOUNT_STATES = tuple(state.value for state in AccountState)
MESSAGE_STATES = tuple(state.value for state in NoticeState)
SUPPLY_STATES = tuple(state.value for state in State if state is not State.WELL)


class PrepaidCollector(Collector):
    """figures: as counted last. To be registered once."""

    def __init__(self, figures: Callable[[], Figures], duties: Mapping[str, DutyState]) -> None:
        self._figures = figures
        self._duties = duties

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        yield _by("headend_prepayment_accounts", "Accounts", "state", ACCOUNT_STATES, figures.accounts)
        yield _by(
            "headend_prepayment_episodes",
            "Accounts on their way to a disconnection or back from one",
            "state",
            SUPPLY_STATES,
            {state: count for state, count in figures.episodes.items() if state != State.WELL.value},
        )
        yield _by("headend_prepayment_messages", "Messages to customers", "state", MESSAGE_STATES, figures.messages)
        yield _by("headend_prepayment_flags", "Accounts that somebody is to look at", "kind", (), figures.flags)
        payments = GaugeMetricFamily("headend_prepayment_payments", "Payments taken", labels=["channel", "state"])
        for (channel, state), count in sorted(figures.payments.items()):
            payments.add_metric([channel, state], count)
        yield payments
        yield GaugeMetricFamily(
            "headend_prepayment_payments_told_not_booked",
            "Payments that the switch was told of, and that no channel has told again since a crash",
            figures.told_not_booked,
        )
        yield GaugeMetricFamily(
            "headend_prepayment_days_behind",
            "Whole days of active accounts up to yesterday that are not charged",
            figures.days_behind,
        )
        yield GaugeMetricFamily(
            "headend_prepayment_unsettled_days",
            "Days that could not be charged, for a reason that is known",
            figures.unsettled_days,
        )
        yield GaugeMetricFamily(
            "headend_prepayment_events_waiting", "Events that the feed has not got yet", figures.events_waiting
        )
        failures = CounterMetricFamily("headend_prepayment_duty_failures", "Duties that failed", labels=["duty"])
        for name, duty in self._duties.items():
            failures.add_metric([name], duty.failures)
        yield failures


def _by(name: str, says: str, label: str, known: tuple[str, ...], counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=[label])
    for word in (*known, *sorted(counts.keys() - set(known))):
        family.add_metric([word], counts.get(word, 0))
    return family
