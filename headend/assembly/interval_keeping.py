"""The intervals of a head-end as its configuration has them: who tells them, who answers for them, where facts are recorded."""

from litestar.handlers import HTTPRouteHandler

from headend.api.fact_routes import fact_routes
from headend.api.interval_routes import interval_routes
from headend.clock import Clock
from headend.config import Config
from headend.feed.live import FeedSignal
from headend.intervals.fact_desk import Baselines, FactDesk
from headend.intervals.keeper import IntervalKeeper
from headend.intervals.promised import promised_register
from headend.intervals.registers import TICKS, Register
from headend.intervals.view import IntervalView
from headend.model import MeterRecord
from headend.store.intervals import IntervalBook
from headend.store.store import Store
from headend.store.writer import Execute, Writer
from protocols.values import Unit

__all__ = ["Intervals"]

_STEP = 1 / TICKS  # of a register that nobody describes; only how much it can have counted at most depends on it


class Intervals:
    """execute: where they are reckoned; best a thread of its own. baselines: the guard; None where no truth checks run."""

    def __init__(
        self,
        config: Config,
        store: Store,
        writer: Writer,
        *,
        signal: FeedSignal | None,
        clock: Clock,
        execute: Execute,
        baselines: Baselines | None = None,
    ) -> None:
        self._meters: dict[str, MeterRecord] = {meter.id: meter for meter in config.meters}
        self._periods = {plan.name: plan.period_s for plan in config.plans}
        behind = {fact.meter for fact in config.ratios}
        # A register that counts the primary side runs faster than its connection by the ratio; which do is known read by read.
        self._connections = {
            meter: connection for meter, connection in config.connections.items() if meter not in behind
        }
        book = IntervalBook(store.engine)
        self.keeper = IntervalKeeper(
            book,
            writer,
            zone=config.zone,
            register_of=self.register_of,
            period_of=self.period_of,
            ratios=config.ratios,
            clocks=store.clocks,
            clock=clock,
            execute=execute,
            signal=signal,
        )
        self.desk = FactDesk(
            book,
            writer,
            register_of=self.register_of,
            period_of=self.period_of,
            clock=clock,
            execute=execute,
            baselines=baselines,
        )
        self.view = IntervalView(book, zone=config.zone, register_of=self.register_of)

    def period_of(self, meter: str) -> int | None:
        """Of its plan; None for a meter that is not configured."""
        record = self._meters.get(meter)
        return None if record is None else self._periods[record.plan]

    def register_of(self, meter: str, obis: str, unit: Unit) -> Register | None:
        """What is promised of it. Of a meter that is no longer configured only what its code says."""
        record = self._meters.get(meter)
        contract = "" if record is None or record.protocol == "mqtt" else record.contract
        return promised_register(contract, obis, unit, self._connections.get(meter), step=_STEP)

    def routes(self) -> tuple[HTTPRouteHandler, ...]:
        return (
            *interval_routes(self.view, period_of=self.period_of),
            *fact_routes(self.desk, period_of=self.period_of),
        )
