"""The head-end put together: lines, pollers, store, feed. Only this module chooses the real clock, transports and store.

`HeadEnd` is the part that needs no sockets of its own and runs in virtual time as well; `run_service` adds the HTTP interface
and the signals of a real process.
"""

import asyncio
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import structlog
from prometheus_client import CollectorRegistry

from firmware_contracts.contract import load
from headend.api.app import create_app
from headend.api.deps import ApiDeps, Health, LineStatus
from headend.api.deps import MeterStatus as ApiMeterStatus
from headend.api.metrics import StoreCollector
from headend.api.server import Listening, serve
from headend.clock import Clock, SystemClock
from headend.config import Config
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.errors import DriverError
from headend.drivers.line import Line, Priority
from headend.drivers.transport import Connect, connect
from headend.errors import HeadendError
from headend.feed.live import FeedSignal
from headend.model import MeterRecord, Read
from headend.observability import LineCollector
from headend.quantities import BadQuantity, resolve, resolve_register
from headend.scheduling.poller import MeterStatus, PlannedMeter, Poller, feed_reason, reads_of
from headend.store.store import Store, open_store
from headend.store.tokens import Tokens
from headend.store.writer import Execute, Writer, in_thread
from protocols.dlt645.items import ItemSpec

__all__ = ["HeadEnd", "run_service"]

COMMIT_LINGER_S = 0.2  # reads of many lines gather for one disk sync; the feed is later by at most this
STOP_S = 10.0  # a read in flight may take its time-out and its longest reply; then it is given up

log = structlog.get_logger(__name__)


class UnknownMeter(HeadendError):
    pass


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
        linger_s: float = COMMIT_LINGER_S,
    ) -> None:
        self.signal = FeedSignal()
        self.writer = Writer(store, execute, clock=clock, linger_s=linger_s, on_commit=self.signal.advance)
        self._config = config
        self._clock = clock
        self._store = store
        self._status: dict[str, MeterStatus] = {meter.id: MeterStatus() for meter in config.meters}
        self._meters: dict[str, MeterRecord] = {meter.id: meter for meter in config.meters}
        self._per_line: dict[str, int] = defaultdict(int)
        for meter in config.meters:
            self._per_line[meter.line] += 1
        self._lines = {
            line.name: Line(line.name, line.url, line.timing, connect=connect, clock=clock) for line in config.lines
        }
        self._drivers = {line.name: Dlt645Driver(self._lines[line.name], retries=line.retries) for line in config.lines}
        self._pollers = self._make_pollers()

    # -------------------------------------------------------------------------------------------- running

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the reads in flight end, and everything read is durable when this returns."""
        gone = {meter.id for meter in self._store.meters()} - self._meters.keys()
        self._store.delete_meters(sorted(gone))
        self._store.upsert_meters(self._config.meters)
        async with self.writer:
            lines = [asyncio.create_task(line.run(), name=f"line-{name}") for name, line in self._lines.items()]
            pollers = [
                asyncio.create_task(poller.run(), name=f"poller-{name}") for name, poller in self._pollers.items()
            ]
            stopping = asyncio.create_task(stop.wait(), name="stop")
            try:
                await _first_of([stopping, *lines, *pollers])
            finally:
                for poller in self._pollers.values():
                    poller.stop()
                if pollers:
                    await asyncio.wait(pollers, timeout=STOP_S)
                await _end([stopping, *pollers, *lines])

    def _make_pollers(self) -> dict[str, Poller]:
        stored = self._store.latest_slots()
        wanted: dict[tuple[str, str], tuple[ItemSpec, ...]] = {}
        groups: dict[tuple[str, str], list[PlannedMeter]] = defaultdict(list)
        plans = {plan.name: plan for plan in self._config.plans}
        for meter in self._config.meters:
            key = (meter.contract, meter.plan)
            if key not in wanted:
                wanted[key] = _specs(meter.contract, plans[meter.plan].quantities)
            groups[meter.line, meter.plan].append(PlannedMeter(meter, wanted[key]))

        def is_stored(meter: str, obis: str, slot: datetime) -> bool:
            return stored.get((meter, obis), -1) >= slot.timestamp()

        pollers = {}
        for name, line in self._lines.items():
            poller = Poller(
                line,
                self._drivers[name],
                zone=self._config.zone,
                clock=self._clock,
                writer=self.writer,
                status=self._status,
                is_stored=is_stored,
            )
            for (line_name, plan_name), meters in groups.items():
                if line_name == name:
                    plan = plans[plan_name]
                    poller.add_plan(period_s=plan.period_s, late_after_s=plan.late_after_s, meters=meters)
            if self._per_line[name]:
                pollers[name] = poller
        return pollers

    # -------------------------------------------------------------------------------------------- for the HTTP interface

    @property
    def line_owners(self) -> Sequence[Line]:
        return list(self._lines.values())

    def lines(self) -> Sequence[LineStatus]:
        return [self._line_status(line) for line in self._lines.values()]

    def _line_status(self, line: Line) -> LineStatus:
        counters = {name: getattr(line.counters, name) for name in line.counters.__struct_fields__}
        return LineStatus(
            name=line.name,
            protocol="dlt645",
            state="up" if line.is_up else "down",
            meters=self._per_line[line.name],
            problem=line.problem,
            since=line.since,
            last_reply_at=line.last_reply_at,
            queued=line.queued,
            counters=counters | {"noise_bytes": line.noise_bytes, "echoes": line.echoes},
        )

    def meters(self) -> Mapping[str, ApiMeterStatus]:
        return _StatusView(self._status)

    def health(self) -> Health:
        """The store speaks for itself; a dead line is no problem of the service."""
        return Health()

    async def read_now(self, meter_id: str, quantities: Sequence[str], /) -> Sequence[Read]:
        """On-demand read, ahead of the plan; answers the caller and does not enter the feed. Raises HeadendError."""
        meter = self._meters.get(meter_id)
        if meter is None:
            raise UnknownMeter(f"no meter {meter_id!r} is served here; GET /v1/meters lists them")
        contract = load(meter.contract)
        plan = next(plan for plan in self._config.plans if plan.name == meter.plan)
        reads: list[Read] = []
        for quantity in quantities or plan.quantities:
            spec = resolve(contract, quantity)
            try:
                reading = await self._drivers[meter.line].read(meter.address, spec, Priority.ON_DEMAND)
            except DriverError as error:
                now = self._clock.now()
                moment = now.replace(microsecond=0)
                reads += reads_of(
                    meter.id,
                    spec,
                    None,
                    slot=moment,
                    now=now,
                    zone=self._config.zone,
                    late=False,
                    reason=feed_reason(error.kind),
                )
            else:
                now = self._clock.now()
                reads += reads_of(
                    meter.id,
                    spec,
                    reading.values,
                    slot=now.replace(microsecond=0),
                    now=now,
                    zone=self._config.zone,
                    late=False,
                )
        return reads


class _StatusView(Mapping[str, ApiMeterStatus]):
    """The pollers' own records in the words of the HTTP interface, made one at a time."""

    def __init__(self, status: dict[str, MeterStatus]) -> None:
        self._status = status

    def __getitem__(self, meter_id: str) -> ApiMeterStatus:
        status = self._status[meter_id]
        return ApiMeterStatus(
            last_read_at=status.last_read_at, last_problem=status.problem, last_problem_at=status.failing_since
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._status)

    def __len__(self) -> int:
        return len(self._status)


def _specs(contract_name: str, quantities: Sequence[str]) -> tuple[ItemSpec, ...]:
    """What a plan asks of a contract; quantities it cannot give were reported when the configuration was read."""
    contract = load(contract_name)
    specs = []
    for quantity in quantities:
        try:
            specs.append(resolve_register(contract, quantity))
        except BadQuantity:
            continue
    return tuple(specs)


async def _first_of(tasks: Sequence["asyncio.Task[object]"]) -> None:
    """Wait for the first task to end; an error in it is raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _end(tasks: Sequence["asyncio.Task[object]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run_service(
    config: Config, *, on_ready: Callable[[Listening], None], stop: asyncio.Event | None = None
) -> None:
    """The whole service of one process, until SIGTERM or SIGINT. Raises StoreError, ListenError."""
    clock = SystemClock()
    stop = stop or asyncio.Event()
    _stop_on_signals(stop)
    store = open_store(config.store, config.name)
    try:
        head_end = HeadEnd(config, store, clock=clock, connect=connect, execute=in_thread)
        head_end.signal.advance(store.last_sequence())
        registry = CollectorRegistry()
        registry.register(StoreCollector(head_end.writer, head_end.signal))
        registry.register(LineCollector(head_end.line_owners))
        deps = ApiDeps(
            name=config.name,
            store=store,
            tokens=Tokens(store, clock),
            signal=head_end.signal,
            status=head_end,
            writer_health=head_end.writer.health,
            registry=registry,
            clock=clock,
            read_now=head_end.read_now,
        )
        host = f"[{config.host}]" if ":" in config.host else config.host
        async with serve(create_app(deps), f"{host}:{config.port}") as listening:
            log.info("head-end is running", api=listening.url, lines=len(config.lines), meters=len(config.meters))
            on_ready(listening)
            await head_end.run(stop)
            log.info("head-end has stopped", last_sequence=store.last_sequence())
    finally:
        store.close()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: no loop support; a plain handler reaches the loop from the main thread
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
