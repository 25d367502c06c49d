"""The head-end put together: lines, pollers, store, feed. It needs no sockets of its own and runs in virtual time as well.

`headend.serving` adds the HTTP interface and the signals of a real process.
"""

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog

from headend.api.deps import Health, LineStatus
from headend.api.deps import MeterStatus as ApiMeterStatus
from headend.assembly.guarding import guard_of
from headend.assembly.switchgear import Switchgear
from headend.assembly.upstream import Threads, Upstream
from headend.budgets import loads_of
from headend.clock import Clock
from headend.concentrators.meters import ConcentratorMeters
from headend.concentrators.park import ConcentratorPark
from headend.config import Config, PlanConfig
from headend.drivers.dlt645 import Dlt645Driver, ItemQuestion
from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.drivers.protocols import reader_of, session_of
from headend.drivers.reading import Question
from headend.drivers.transport import Connect
from headend.errors import UnknownMeter
from headend.feed.live import FeedSignal
from headend.model import MeterClock, MeterRecord
from headend.on_demand import OnDemandRead, answered, unanswered
from headend.quantities import load_contract, plan_questions, plannable, question_of, resolve
from headend.ratios import Ratios
from headend.scheduling.back_fill import BackFiller, FilledMeter
from headend.scheduling.budget import LineBudget, line_budget
from headend.scheduling.clock_keeper import ClockKeeper
from headend.scheduling.poller import MeterStatus, PlannedMeter, Poller
from headend.scheduling.spare_time import SpareTime
from headend.secrets import SecretStore
from headend.store.reserve import DiskWatch
from headend.store.store import Store
from headend.store.writer import Execute, Writer
from headend.supervision import Supervisor
from headend.synchronised import kernel_synchronised
from protocols.dlt645.items import ItemSpec

if TYPE_CHECKING:
    from headend.assembly.prepaid_supply import PrepaidSupply

__all__ = ["HeadEnd"]

COMMIT_LINGER_S = 0.2  # reads of many lines gather for one disk sync; the feed is later by at most this
SPARE_RETRIES = 1  # in spare time there is another time
PREPAID_STOP_S = 45.0  # a piece of a duty: some hundred messages, or a batch of accounts
SWITCH_STOP_S = 45.0  # an order on the wire ends with its reply, and all of it is recorded and signed
STOP_S = 10.0  # a read in flight may take its time-out and its longest reply; then it is given up

log = structlog.get_logger(__name__)


class HeadEnd:
    """Everything between the lines and the store. Implements what the HTTP interface asks of the running part."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        clock: Clock,
        connect: Connect,
        execute: Execute,
        threads: Threads | None = None,
        disk: DiskWatch | None = None,
        linger_s: float = COMMIT_LINGER_S,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        synchronised: Callable[[], bool | None] = kernel_synchronised,
        random_: random.Random | None = None,
        prepaid: "PrepaidSupply | None" = None,
    ) -> None:
        """execute: of the store's writer. threads: for what follows the feed; None: all in `execute`. new_id: of commands.
        synchronised: whether the wall clock is. random_: None: another one each time. prepaid: None where `[prepayment]` is off.
        Raises BadSecret, ConfigError."""
        self.signal = FeedSignal()
        ratios = Ratios(config.ratios)
        self.writer = Writer(
            store,
            execute,
            clock=clock,
            linger_s=linger_s,
            on_commit=self.signal.advance,
            prepare=ratios.applied if ratios else None,
            disk=disk,
        )
        self._clocks = store.clocks()
        self.guard = guard_of(config, store, clock=clock, clocks=self._clocks, ratios=ratios)
        self.upstream = Upstream(
            config,
            store,
            self.writer,
            guard=self.guard,
            signal=self.signal,
            clock=clock,
            threads=Threads.all_in(execute) if threads is None else threads,
            needed=None if prepaid is None else prepaid.needed,
        )
        self._supervisor = Supervisor()
        self._prepaid = prepaid
        self._config = config
        self._execute = execute
        self._clock = clock
        self._store = store
        self._status: dict[str, MeterStatus] = {meter.id: MeterStatus() for meter in config.meters}
        self._meters: dict[str, MeterRecord] = {meter.id: meter for meter in config.meters}
        self._per_line: dict[str, int] = defaultdict(int)
        for meter in config.meters:
            self._per_line[meter.line] += 1
        self._lines = {
            line.name: Line(
                line.name,
                line.url,
                line.timing,
                connect=connect,
                clock=clock,
                session=session_of(line.protocol, in_flight=line.in_flight),
            )
            for line in config.lines
        }
        self._readers = {
            line.name: reader_of(self._lines[line.name], line.protocol, retries=line.retries) for line in config.lines
        }
        self._protocols = {line.name: line.protocol for line in config.lines}
        secrets = SecretStore(config.secrets, base=config.path.resolve().parent)
        self._parks = [
            ConcentratorPark(
                broker,
                [one for one in config.concentrators if one.broker == broker.name],
                config.meters,
                writer=self.writer,
                clock=clock,
                secret=secrets.resolve,
                guard=self.guard,
                heard=self._heard,
            )
            for broker in config.brokers
        ]
        self._behind = ConcentratorMeters(self._parks, config.concentrators, clock=clock, new_id=new_id)
        self.switchgear = Switchgear(
            config,
            store,
            self.writer,
            clock=clock,
            lines=self._lines,
            behind=self._behind,
            parks={one.name: park for park in self._parks for one in config.concentrators if one.broker == park.name},
            clocks=self._clocks,
            execute=execute if threads is None else threads.files,
            synchronised=synchronised,
            new_id=new_id,
            random_=random_ or random.Random(),
            disk=disk,
        )
        self._broadcasts = store.broadcasts()
        self._spare: dict[str, SpareTime] = {}
        self._loads = loads_of(config)
        self._pollers = self._make_pollers()

    # -------------------------------------------------------------------------------------------- running

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the reads in flight end, and everything read is durable when this returns."""
        gone = {meter.id for meter in self._store.meters()} - self._meters.keys()
        self._store.delete_meters(sorted(gone))
        self._store.upsert_meters(self._config.meters)
        async with self.writer:
            keep = self._supervisor.keep
            owners = {**self._lines, **self._behind.lines}
            lines = [asyncio.create_task(keep(f"line {name}", line.run)) for name, line in owners.items()]
            lines += [asyncio.create_task(keep(f"broker {park.name}", park.run)) for park in self._parks]
            pollers = [
                asyncio.create_task(keep(f"polling {name}", poller.run)) for name, poller in self._pollers.items()
            ]
            followers = [asyncio.create_task(keep(name, run), name=name) for name, run in self.upstream.tasks()]
            switching = asyncio.create_task(self.switchgear.run(keep), name="switchgear")
            prepaid = [] if self._prepaid is None else [asyncio.create_task(self._prepaid.run(keep), name="prepaid")]
            try:
                await stop.wait()
            finally:
                if self._prepaid is not None:  # it orders by the command room, which must be there yet
                    self._prepaid.stop()
                    await _within(PREPAID_STOP_S, *prepaid)
                self.switchgear.stop()
                for poller in self._pollers.values():
                    poller.stop()
                await _within(STOP_S, *pollers)
                await _within(SWITCH_STOP_S, switching)
                await _within(STOP_S, *(line.wait_idle() for line in owners.values()))  # reads on demand
                self.upstream.stop()
                await _within(STOP_S, *(task for task in followers if task.get_name() != "retention"))
                await _end([*prepaid, switching, *pollers, *lines, *followers])

    def _make_pollers(self) -> dict[str, Poller]:
        stored = self._store.latest_slots()
        wanted: dict[tuple[str, str], tuple[Question, ...]] = {}
        groups: dict[tuple[str, str], list[PlannedMeter]] = defaultdict(list)
        of_line: dict[str, list[str]] = defaultdict(list)
        plans = {plan.name: plan for plan in self._config.plans}
        for meter in self._config.meters:
            of_line[meter.line].append(meter.id)
            key = (meter.contract, meter.plan)
            if key not in wanted:
                wanted[key] = plan_questions(load_contract(meter.contract), plans[meter.plan].quantities)
            groups[meter.line, meter.plan].append(PlannedMeter(meter, wanted[key]))

        def newest(meter: str, obis: str) -> datetime | None:
            slot = stored.get((meter, obis))
            return None if slot is None else datetime.fromtimestamp(slot, UTC)

        pollers = {}
        for line in self._config.lines:
            poller = Poller(
                self._lines[line.name],
                reader_of(self._lines[line.name], line.protocol, retries=0),
                zone=self._config.zone,
                clock=self._clock,
                writer=self.writer,
                status=self._status,
                stored_at=partial(self._store.stored_at, meters=of_line[line.name]),
                newest=newest,
                guard=self.guard,
                tries_max=line.retries + 1,
                in_flight=line.in_flight,
            )
            on_line = {plans[plan_name]: meters for (name, plan_name), meters in groups.items() if name == line.name}
            for plan, meters in on_line.items():
                poller.add_plan(period_s=plan.period_s, meters=meters)
            if self._per_line[line.name]:
                pollers[line.name] = poller
            if (
                self._per_line[line.name] and line.protocol == "dlt645"
            ):  # Modbus has neither clocks nor records we know of
                self._spare[line.name] = self._spare_time(line.name, on_line)
                poller.give_spare_time_to(self._spare[line.name])
        return pollers

    def _spare_time(self, line_name: str, on_line: Mapping[PlanConfig, Sequence[PlannedMeter]]) -> SpareTime:
        """What the line does between its rounds."""
        config, line = self._config, self._lines[line_name]
        driver = Dlt645Driver(line, retries=SPARE_RETRIES)
        keeper = ClockKeeper(
            driver,
            [meter.record for meters in on_line.values() for meter in meters],
            policy=config.clock,
            zone=config.zone,
            clock=self._clock,
            periods_s=[plan.period_s for plan in on_line],
            clocks=self._clocks,
            broadcast_at=self._broadcasts.get(line_name),
            book=self._store,
            execute=self._execute,
            writer=self.writer,
            is_well=self._is_well,
            authority=SecretStore(config.secrets, base=config.path.resolve().parent).authority,
        )
        filler = BackFiller(
            driver,
            [
                FilledMeter(record=m.record, specs=_specs(m), period_s=plan.period_s, look_back_s=plan.back_fill_s)
                for plan, meters in on_line.items()
                for m in meters
            ],
            zone=config.zone,
            clock=self._clock,
            tolerance_s=config.clock.limit_s,
            clocks=self._clocks,
            book=self._store,
            execute=self._execute,
            writer=self.writer,
            is_well=self._is_well,
            guard=self.guard,
        )
        return SpareTime(line, keeper, filler, clock=self._clock, retries=SPARE_RETRIES)

    def _heard(self, meter: str, at: datetime) -> None:
        self._status[meter].heard(at)

    def _is_well(self, meter: str) -> bool:
        status = self._status[meter]
        return status.last_read_at is not None and not status.problem

    # -------------------------------------------------------------------------------------------- for the HTTP interface

    @property
    def line_owners(self) -> Sequence[Line]:
        return list(self._lines.values())

    @property
    def parks(self) -> Sequence[ConcentratorPark]:
        return self._parks

    def lines(self) -> Sequence[LineStatus]:
        return [self._line_status(line) for line in self._lines.values()]

    def _line_status(self, line: Line) -> LineStatus:
        counters = {name: getattr(line.counters, name) for name in line.counters.__struct_fields__}
        spare = self._spare[line.name].counters if line.name in self._spare else {}
        return LineStatus(
            name=line.name,
            protocol=self._protocols[line.name],
            state="up" if line.is_up else "down",
            meters=self._per_line[line.name],
            problem=line.problem,
            diagnosis=line.diagnosis,
            since=line.since,
            last_reply_at=line.last_reply_at,
            queued=line.queued,
            counters=counters | spare | {"noise_bytes": line.noise_bytes, "echoes": line.echoes},
            budget=self._budget(line),
        )

    def _budget(self, line: Line) -> LineBudget:
        """With the reply delays learnt so far; behind a tunnel whose rate is unknown they have the wire's time in them."""
        learnt_s = line.patience.typical_s if line.timing.baud else None
        return line_budget(line.name, line.timing, self._loads[line.name], reply_delay_s=learnt_s)

    def meters(self) -> Mapping[str, ApiMeterStatus]:
        return _StatusView(self._status, self._clocks)

    def health(self) -> Health:
        """The store speaks for itself; a dead line is no problem of the service, a task of ours that fails is."""
        prepaid = () if self._prepaid is None else self._prepaid.problems()
        problems = (*self._supervisor.problems, *self.upstream.problems(), *self.switchgear.problems(), *prepaid)
        return Health(problems=problems)

    def _plan_of(self, meter: MeterRecord) -> PlanConfig:
        return next(plan for plan in self._config.plans if plan.name == meter.plan)

    async def read_now(self, meter_id: str, quantities: Sequence[str], /) -> Sequence[OnDemandRead]:
        """On-demand read, ahead of the plan; answers the caller and does not enter the feed. Raises UnknownMeter, BadQuantity."""
        meter = self._meters.get(meter_id)
        if meter is None:
            raise UnknownMeter(f"no meter {meter_id!r} is served here; GET /v1/meters lists them")
        if meter.protocol == "mqtt":
            return await self._behind.read_now(meter, quantities, planned=self._plan_of(meter).quantities)
        contract = load_contract(meter.contract)
        if quantities:
            wanted = {quantity: resolve(contract, quantity) for quantity in quantities}
        else:
            wanted = plannable(contract, self._plan_of(meter).quantities)
        reads: list[OnDemandRead] = []
        for quantity, found in wanted.items():
            began = self._clock.monotonic()
            try:
                reading = await self._readers[meter.line].ask(meter.address, question_of(found), Priority.ON_DEMAND)
            except DriverError as error:
                took_s = self._clock.monotonic() - began
                reads.append(unanswered(meter.id, quantity, found, error, self._clock.now(), took_s))
            else:
                reads += answered(meter.id, quantity, reading, self._clock.now())
        return reads


class _StatusView(Mapping[str, ApiMeterStatus]):
    """The pollers' own records in the words of the HTTP interface, made one at a time."""

    def __init__(self, status: dict[str, MeterStatus], clocks: dict[str, MeterClock]) -> None:
        self._status = status
        self._clocks = clocks

    def __getitem__(self, meter_id: str) -> ApiMeterStatus:
        status = self._status[meter_id]
        return ApiMeterStatus(
            last_read_at=status.last_read_at,
            last_problem=status.problem,
            last_problem_at=status.failing_since,
            clock=self._clocks.get(meter_id),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._status)

    def __len__(self) -> int:
        return len(self._status)


def _specs(meter: PlannedMeter) -> tuple[ItemSpec, ...]:
    """What of a plan a DL/T 645 meter may have kept in its own memory."""
    return tuple(question.spec for question in meter.questions if isinstance(question, ItemQuestion))


async def _within(timeout_s: float, *waits: Awaitable[object]) -> None:
    """Wait for all of them, but not for ever."""
    if waits:
        await asyncio.wait([asyncio.ensure_future(wait) for wait in waits], timeout=timeout_s)


async def _end(tasks: Sequence["asyncio.Task[object]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
