"""The supply switches of a head-end, and all that stands between them and whoever orders: audit log, rules, journal, executor, debts.

Where `[control]` is off, no switch is made and nothing is carried out; orders are refused, and say what would be needed. The audit log
runs in any case, and debts of the time before are told, not forgotten.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from litestar.handlers import HTTPRouteHandler
from prometheus_client.registry import Collector
from sqlalchemy import Connection

from headend.api.approval_routes import approval_routes
from headend.api.audit_routes import audit_routes
from headend.api.command_routes import command_routes
from headend.api.obligation_routes import obligation_routes
from headend.api.rule_routes import rule_routes
from headend.assembly.relay_metrics import RelayCollector, RelayFigures
from headend.assembly.switching import ReachableSwitches, operators_of, policy_of, switches_of
from headend.audit.keeper import AuditKeeper
from headend.audit.record import AuditRecord
from headend.audit.settings import log_of, signing_key_of, witness_of
from headend.clock import Clock
from headend.commands.aftercare import Aftercare
from headend.commands.debts import DebtKeeper, EscalationHook
from headend.commands.desk import Desk
from headend.commands.executor import Executor
from headend.commands.forecasts import Forecasts
from headend.commands.governor import Alarm
from headend.commands.governor_clock import GovernorClock
from headend.commands.governor_keeper import GovernorKeeper
from headend.commands.intake import Circumstances
from headend.commands.journal import Journal
from headend.commands.lookout import Lookout
from headend.commands.model import Kind, Order
from headend.commands.obligations import Obligation
from headend.commands.patrol import Patrol
from headend.commands.policy import MeterFacts, Policy
from headend.commands.room import CommandRoom
from headend.commands.rulebook import Rulebook
from headend.commands.trust import ClockTrust
from headend.concentrators.meters import ConcentratorMeters
from headend.concentrators.park import ConcentratorPark
from headend.config import Config
from headend.configuration.control import Customer
from headend.drivers.line import Line
from headend.drivers.relay import Switch
from headend.errors import ConfigError
from headend.model import Event, MeterClock, MeterRecord
from headend.store import commands_debts as debt_rows
from headend.store import governor_approvals as approval_rows
from headend.store.audit import AuditBook, tail
from headend.store.reserve import DiskWatch
from headend.store.store import Store
from headend.store.writer import Execute, Writer

__all__ = ["Switchgear"]

Work = Callable[[], Awaitable[None]]
Keep = Callable[[str, Work], Coroutine[Any, Any, None]]

DEBTS_SHOWN_EVERY_S = 60.0
STOP_S = 20.0  # an order on the wire, its reply, and the journal's last page

log = structlog.get_logger(__name__)


class Switchgear:
    """lines: by name; parks: by concentrator; clocks: of the meters, as last measured. execute: for files.

    synchronised: whether the machine's clock is; None when it does not know. random_: of ramps and pauses.
    Raises ConfigError, BadSecret where the audit log's key cannot be used. A policy that cannot be used is no reason not to start:
    nothing is opened without one, and supplies are given back all the same.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        writer: Writer,
        *,
        clock: Clock,
        lines: Mapping[str, Line],
        behind: ConcentratorMeters,
        parks: Mapping[str, ConcentratorPark],
        clocks: Mapping[str, MeterClock],
        execute: Execute,
        synchronised: Callable[[], bool | None],
        new_id: Callable[[], str],
        random_: random.Random,
        disk: DiskWatch | None = None,
    ) -> None:
        base = config.path.resolve().parent
        control = config.control
        self._config = config
        self._store = store
        self._writer = writer
        self._clock = clock
        self._disk = disk
        self._execute = execute
        self._stopping = asyncio.Event()
        self._opened = asyncio.Event()
        self._problems: list[str] = []
        self._left_owed = 0
        self._escalation_hooks: list[EscalationHook] = []
        # audit
        self._book = AuditBook(store.engine)
        self.audit = log_of(config.audit, store, source=config.source, base=base, clock=clock)
        self._audit_key = signing_key_of(config.audit, base=base)
        witness = witness_of(config.audit, base=base)
        self.audit_keeper = AuditKeeper(self.audit, writer, self._book, clock=clock, execute=execute, witness=witness)
        # rules
        self.trust = ClockTrust(clock, (lambda: True) if control.clock == "vouched" else synchronised)
        self.forecasts = Forecasts(file=base / control.forecast if control.forecast else None, execute=execute)
        facts = {meter.id: _facts(meter, config.customers.get(meter.id, _NOBODY)) for meter in config.meters}
        self.rulebook = Rulebook(
            self._policy(),
            facts,
            GovernorClock(0, clock.monotonic()),  # `open` takes it to where it was durable last
            monotonic=clock.monotonic,
            wall=clock.now,
            control_enabled=control.enabled,
            has_signing_key=self.audit.is_signed,
            forecast=lambda meter: self.forecasts.at(facts[meter].feeder if meter in facts else ""),
        )
        self.governor = GovernorKeeper(self.rulebook, writer, clock.now, audit=self._record_alarm)
        # commands
        self.journal = Journal(partial(writer.transact, urgent=True), self.audit, clock=clock)
        self.desk = Desk(
            self.journal,
            self.rulebook,
            clock=clock,
            new_id=new_id,
            circumstances=self.circumstances,
            random_=random.Random(random_.getrandbits(64)),
        )
        self.figures = RelayFigures(self.journal)
        operators, self._without_code = operators_of(config)
        meters = {meter.id: meter for meter in config.meters}
        made: dict[str, Switch] = {}
        if control.enabled:
            made = switches_of(
                config,
                lines=lines,
                behind=behind,
                parks=parks,
                clock=clock,
                clocks=clocks,
                operators=operators,
                new_id=new_id,
            )
        self.switches = ReachableSwitches(meters, made, lines=lines, parks=parks)
        self.executor: Executor | None = None
        self.debts: DebtKeeper | None = None
        self.aftercare: Aftercare | None = None
        self.patrol: Patrol | None = None
        self.lookout: Lookout | None = None
        if control.enabled:
            self._make_movers(random_)
        self.room = CommandRoom(
            control,
            engine=store.engine,
            clock=clock,
            journal=self.journal,
            desk=self.desk,
            rulebook=self.rulebook,
            forecasts=self.forecasts,
            problem_of=self._problem_of,
            no_operator=partial(self._no_operator, meters),
        )

    def _make_movers(self, random_: random.Random) -> None:
        """What carries orders out; there is none where `[control]` is off."""
        self.executor = Executor(
            self.journal,
            self.rulebook,
            self.switches,
            clock=self._clock,
            trust=self.trust,
            circumstances=self.circumstances,
            operator_of=lambda command: command.order.requester,
        )
        self.debts = DebtKeeper(
            self.journal,
            self.desk.intake,
            self.switches,
            clock=self._clock,
            random_=random.Random(random_.getrandbits(64)),
            on_escalation=self._tell_escalation,
            turn_s=self.desk.turn_s,
        )
        self.patrol = Patrol(self.journal, self.switches, clock=self._clock)
        self.lookout = Lookout(self.journal, self.patrol, self._store, clock=self._clock, execute=self._execute)
        self.aftercare = Aftercare(
            self.journal,
            self.executor.carrier,
            self.switches,
            clock=self._clock,
            on_witness=self.patrol.saw,
        )

    def on_escalation(self, hook: EscalationHook) -> None:
        """Told of each step of the ladder that a debt reaches, 1, 4, 12, 20 and 24 hours, when it is durable: for notices.

        It is called in the loop, and must neither wait nor raise.
        """
        self._escalation_hooks.append(hook)

    def _tell_escalation(self, debt: Obligation) -> None:
        for hook in self._escalation_hooks:
            hook(debt)

    def _policy(self) -> Policy | None:
        try:
            return policy_of(self._config)
        except ConfigError as error:
            log.error("there is no policy, nothing is opened", problem=str(error))
            self._problems.append(
                "The policy of [control] cannot be used, so nothing is opened; `headend check` says why."
            )
            return None

    # -------------------------------------------------------------------------------------------- running

    async def run(self, keep: Keep) -> None:
        """Until `stop`: then what is on the wire gets its reply, all of it is durable, and the log is signed. keep: of a Supervisor."""
        opening = asyncio.create_task(keep("command room", self._open), name="command room")
        tasks = {
            name: asyncio.create_task(keep(name, self._once_open(work)), name=name) for name, work in self._movers()
        }
        audit = asyncio.create_task(keep("audit log", self._once_open(self.audit_keeper.run)), name="audit log")
        try:
            await self._stopping.wait()
            if self.executor is not None and self._opened.is_set():
                self.executor.stop()
                await asyncio.wait([tasks["commands"]], timeout=STOP_S)
        finally:
            await _end([opening, *tasks.values()])
            await self.journal.settle()
            self.audit_keeper.stop()
            if self._opened.is_set():
                await asyncio.wait([audit], timeout=STOP_S)
            await _end([audit])

    def stop(self) -> None:
        """No command is begun any more."""
        self._stopping.set()

    def _movers(self) -> Iterator[tuple[str, Work]]:
        """Where nothing can be switched, no limit has to be kept: the disk is left alone."""
        if self.executor is not None and self.debts is not None:
            assert self.aftercare is not None
            assert self.patrol is not None
            yield "governor", self.governor.run
            yield "forecast", self.forecasts.run
            yield "commands", self.executor.run
            yield "obligations", self.debts.run
            yield "aftercare", self.aftercare.run
            yield "patrol", self.patrol.run
            assert self.lookout is not None
            yield "lookout", self.lookout.run
        else:
            yield "obligations", self._watch_left_owed

    def _once_open(self, work: Work) -> Work:
        async def run() -> None:
            await self._opened.wait()
            await work()

        return run

    async def _open(self) -> None:
        """The log's end is looked at, rules and journal are loaded, and what was under way is taken up; then orders are taken."""
        await self.audit_keeper.begin()
        await self._writer.transact(self._record_start, "opening the command room", urgent=True)
        await self.journal.load()
        for part in (self.figures, self.executor, self.debts, self.aftercare, self.patrol):
            if part is not None:
                await part.load()
        if not self._config.control.enabled:
            # A payment is told to nobody here, so an open that came out of this time would not know of it.
            dropped = await self.desk.drop_opens("[control] was switched off")
            if dropped:
                log.warning("opens that were not sent are taken back: [control] is off", opens=dropped)
        self.room.opened()
        self._opened.set()

    def _record_start(self, connection: Connection) -> tuple[None, Sequence[Event]]:
        now = self._clock.now()
        self.rulebook.refresh(connection)
        self._hold_ceiling(connection)
        config = self._config
        if not config.control.enabled and tail(connection) is None:
            return None, ()  # nothing was ever switched here, and nothing can be
        started: dict[str, object] = {
            "configuration_sha256": _digest_of(config.path),
            "control_enabled": config.control.enabled,
            "lines": len(config.lines),
            "meters": len(config.meters),
        }
        self.audit.append(
            connection, AuditRecord(kind="service-started", subject=config.name, actor="head-end", data=started), now
        )
        policy = self.rulebook.policy
        loaded: dict[str, object] = {"version": self.rulebook.version}
        if policy is not None:
            loaded |= {"sha256": policy.sha256, "signed_by": policy.signed_by, "file": config.control.policy}
        self.audit.append(
            connection, AuditRecord(kind="policy-loaded", subject="policy", actor="head-end", data=loaded), now
        )
        return None, ()

    def _hold_ceiling(self, connection: Connection) -> None:
        """Limits that are wider than what the configuration allows now are lowered, which holds at once."""
        control, there = self._config.control, self.rulebook.limits
        if there is None or not (beyond := control.beyond(there)):
            return
        now, position_ms = self._clock.now(), self.rulebook.position_ms()
        approval_rows.ask_limits(connection, control.under(there), "head-end", now, position_ms)
        data: dict[str, object] = {"lowered_to_the_ceiling_of_the_configuration": list(beyond)}
        self.audit.append(
            connection, AuditRecord(kind="limits-changed", subject="limits", actor="head-end", data=data), now
        )
        self.rulebook.refresh(connection)

    async def _watch_left_owed(self) -> None:
        """Nothing is carried out here, but what is owed from before is somebody's power."""
        while True:
            owed = await self.journal.read(debt_rows.open_obligations, "counting what is owed")
            self._left_owed = len(owed)
            await asyncio.sleep(DEBTS_SHOWN_EVERY_S)

    # -------------------------------------------------------------------------------------------- what the rules are told

    def circumstances(self) -> Circumstances:
        is_full = self._disk is not None and self._disk.is_full
        return Circumstances(
            clock_synchronised=self.trust.look(),
            audit_ok=self.audit.ok and self.audit.is_signed,
            store_ok=self._writer.health().healthy and not is_full,
        )

    def _record_alarm(self, connection: Connection, alarm: Alarm, now: object) -> None:
        data: dict[str, object] = {
            "alarm": "quarantined",
            "requester": alarm.caller,
            "limit": alarm.limit,
            "count": alarm.count,
            "meters": list(alarm.meters),
        }
        record = AuditRecord(kind="alarm", subject=alarm.caller, actor="head-end", data=data)
        self.audit.append(connection, record, self._clock.now())

    def _problem_of(self, identity: str) -> str:
        return "" if self.executor is None else self.executor.problem_of(identity)

    def _no_operator(self, meters: Mapping[str, MeterRecord], order: Order) -> str:
        person, meter = order.requester, order.meter
        record = meters.get(meter)
        if record is None or not record.contract.startswith("dlt645/"):
            return ""  # nobody is told there who orders
        if record.protocol == "mqtt" and order.kind is Kind.OPEN:
            return ""  # nor is a concentrator; it has no word for the rest, which goes to the meter itself in a frame
        if person in self._config.control.operators and person not in self._without_code:
            return ""
        why = self._without_code.get(person, "the configuration gives none")
        return f"{person} has no operator code, which {meter} records with every order: {why}"

    # -------------------------------------------------------------------------------------------- for the rest of the head-end

    def problems(self) -> Sequence[str]:
        """For /healthz, which anybody may ask: no meter and no person in it."""
        found = [*self._problems, *self.audit_keeper.problems]
        if not self._config.control.enabled:
            if self._left_owed:
                found.append(
                    f"{self._left_owed} reconnections are owed, and [control] is off: nobody carries them out."
                )
            return found
        if self.forecasts.problem:
            found.append(self.forecasts.problem)
        if self.figures.overdue:
            found.append(f"{self.figures.overdue} reconnections are overdue: more than 24 hours since their payments.")
        if self._without_code.get(""):
            found.append("The operator code of [secrets] cannot be used; reconnections go out under 00000000.")
        return found

    def collectors(self) -> Sequence[Collector]:
        return (
            RelayCollector(
                self.figures,
                active=lambda: 0 if self.executor is None else len(self.executor),
                waiting_for_customer=lambda: 0 if self.aftercare is None else self.aftercare.waiting,
                governor=self.governor.health,
                audit_ok=lambda: self.audit.ok,
                is_stopped=lambda: self.journal.is_stopped,
                clock_synchronised=self.trust.look,
                failures=lambda: 0 if self.executor is None else self.executor.failures,
            ),
        )

    def routes(self) -> Sequence[HTTPRouteHandler]:
        key = None if self._audit_key is None else self._audit_key.public
        return (
            *command_routes(self.room),
            *approval_routes(self.room),
            *obligation_routes(self.room),
            *rule_routes(self.room),
            *audit_routes(self._book, self.audit, self.audit_keeper.acknowledge, key=key),
        )


_NOBODY = Customer()


def _facts(meter: MeterRecord, customer: Customer) -> MeterFacts:
    return MeterFacts(
        meter=meter.id,
        feeder=customer.feeder,
        line=meter.line,
        tariff_group=customer.tariff_group,
        customer_class=customer.customer_class,
        estimated_kw=customer.estimated_kw,
    )


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


async def _end(tasks: "Sequence[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
