"""A world for the command room: meters with relays on lines, a wire that is watched, a store that takes time, a machine with clocks.

What the checkers look at is what this world was told: every switching frame with the true time at which it left, and what was
durable then. Nothing of it comes from the head-end's own records.
"""

import asyncio
import heapq
import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select

from headend.audit.record import AuditRecord
from headend.commands.aftercare import Aftercare
from headend.commands.debts import DebtKeeper
from headend.commands.desk import Desk
from headend.commands.executor import Executor
from headend.commands.intake import Circumstances
from headend.commands.journal import Journal
from headend.commands.machine import Event as MachineEvent
from headend.commands.model import BalanceProof, CapturedRegister, Command, Kind, Order, Refusal, State
from headend.commands.obligations import Obligation, Spread
from headend.commands.trust import ClockTrust
from headend.database.hot import HotStatement
from headend.drivers.errors import DriverError, LineDown, MeterSwapped, StopOrder
from headend.drivers.relay import (
    Identity,
    Look,
    OnSending,
    Ready,
    Sent,
    SwitchUnconfirmed,
    Told,
    Witness,
    check_age,
    lane_of,
)
from headend.errors import StoreUnavailable
from headend.model import Event, MeterRecord
from headend.store import commands as rows
from headend.store import commands_debts as debt_rows
from headend.store.commands_tables import command_payments
from headend.store.store import Store
from headend.store.tables import metadata
from simulators.virtual_time import VirtualClock
from tests.databases import database_url
from tests.headend.commands.light_store import LightStore

T = TypeVar("T")
Work = Callable[[Connection], tuple[T, Sequence[Any]]]

_PAYMENTS = HotStatement(
    select(func.count()).select_from(command_payments).where(command_payments.c.meter == bindparam("meter_is")),
    "meter_is",
)
EXCHANGE_S = 0.25
SILENCE_S = 1.5
ORDER_ANSWER_S, LOOK_ANSWER_S = 125.0, 30.0


class Silent(DriverError):
    kind = "silent"
    retryable = True


class Killed(BaseException):
    """The process ended here."""


class Frame(Struct, frozen=True, kw_only=True):
    """A switching frame that left. at: true time. audited: whether the audit record of its sending was durable then."""

    command: str
    meter: str
    kind: Kind
    at: datetime
    monotonic: float
    audited: bool
    stopped: bool
    paid: int  # payments of this meter that were durable then
    expires_at: datetime


class SimMeter(Struct):
    """fault: "" | stuck | silent-after | reply-lost | swapped | refuses | dead | lazy (switches 4 s later) | wrong-operator |
    answers-late (as a silent concentrator: an order is answered after two minutes, a look after half of one).
    """

    record: MeterRecord
    contact: str = "closed"
    fault: str = ""
    trips: int = 0
    closes: int = 0
    actuations: list[tuple[str, str]] = []
    load_a: Decimal = Decimal("1.2")


class LightAudit:
    """The audit log's interface over a set: what is durable, and what a transaction is about to make so."""

    def __init__(self) -> None:
        self.ok = True
        self.problem = ""
        self.durable: list[AuditRecord] = []
        self.subjects: set[tuple[str, str]] = set()
        self._pending: list[AuditRecord] = []

    def append(self, connection: Connection, record: AuditRecord, now: datetime) -> int:
        self._pending.append(record)
        return len(self.durable) + len(self._pending)

    def committed(self) -> None:
        self.durable += self._pending
        self.subjects.update((record.kind, record.subject) for record in self._pending)
        self._pending.clear()

    def rolled_back(self) -> None:
        self._pending.clear()


class OpenGate:
    """Rules small enough to be written down twice: here, and in the checker.

    Opens between 8:00 and 18:00 UTC only, none of a protected meter, at most `limit` of them.
    """

    version = "test@1"

    def __init__(self, world: "World") -> None:
        self._world = world
        self.protected: set[str] = set()
        self.first: set[str] = set()
        self.limit: int | None = None
        self.used = 0
        self.approval = False
        self.feeder_of: Callable[[str], str] = lambda meter: meter
        self.direct = True
        self.hours = (8, 18)

    def knows(self, meter: str) -> bool:
        return meter in self._world.meters

    def feeder(self, meter: str) -> str:
        return self.feeder_of(meter)

    def spread(self) -> Spread:
        return Spread()

    def is_first(self, meter: str) -> bool:
        return meter in self.first

    def examine(
        self, order: Order, *, now: datetime, clock_synchronised: bool | None, audit_ok: bool, store_ok: bool
    ) -> tuple[Refusal, ...]:
        if order.kind is not Kind.OPEN:
            return ()
        found = []
        if clock_synchronised is not True:
            found.append(self._refusal("clock"))
        if not audit_ok:
            found.append(self._refusal("audit"))
        if not store_ok:
            found.append(self._refusal("store"))
        if not self.hours[0] <= now.hour < self.hours[1]:
            found.append(self._refusal("window"))
        if order.meter in self.protected:
            found.append(self._refusal("protection"))
        return tuple(found)

    def next_allowed(self, order: Order, now: datetime) -> datetime | None:
        if self.hours[0] <= now.hour < self.hours[1]:
            return now
        start = now.replace(hour=self.hours[0], minute=0, second=0, microsecond=0)
        return start if now < start else start + timedelta(days=1)

    def reconnect_kind(self, meter: str) -> Kind:
        return Kind.CLOSE if self.direct else Kind.PERMIT_CLOSE

    def over_limit(self, connection: Connection, orders: Sequence[Order]) -> tuple[Refusal | None, ...]:
        return tuple(None for _ in orders)

    def admit(self, connection: Connection, command: Command) -> Refusal | None:
        if self.limit is not None and self.used >= self.limit and "released_by" not in command.detail:
            return self._refusal("limit")
        self.used += 1
        return None

    def needs_approval(self, orders: Sequence[Order]) -> bool:
        return self.approval

    def _refusal(self, rule: str) -> Refusal:
        return Refusal(rule=rule, version=self.version, text=f"{rule} forbids it", needed=f"no {rule}")


class Hold:
    """One holder of a line at a time, by lane."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def by(self, lane: int) -> AsyncIterator[None]:
        if self._is_held:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (lane, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        self._is_held = True
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        self._is_held = False
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._is_held = True
                turn.set_result(None)
                return


class World:
    """meters: how many; per_line of them on each line. folder: of the store. light: instead of one that lasts."""

    def __init__(
        self,
        clock: VirtualClock,
        random_: random.Random,
        *,
        meters: int = 10,
        per_line: int = 5,
        folder: Path | None = None,
        commit_s: float = 0.004,
        light: LightStore | None = None,
    ) -> None:
        self.clock = clock
        self.random = random_
        self.commit_s = commit_s
        self.asleep_s = 0.0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._store: Store | LightStore
        if light is not None:
            self._store = light
        else:
            if folder is None:
                self._folder = tempfile.TemporaryDirectory(dir=_fast_folder())
                folder = Path(self._folder.name)
            self._store = Store(database_url(folder, "commands"), "test", busy_timeout_s=1.0)
            metadata.create_all(self._store.engine)
        self.meters: dict[str, SimMeter] = {}
        for number in range(meters):
            record = MeterRecord(
                id=f"M{number:06d}",
                line=f"line-{number // per_line}",
                address=f"{number + 1:012d}",
                contract="dlt645/base_2007",
                plan="residential",
                protocol="dlt645",
            )
            self.meters[record.id] = SimMeter(record)
        self.down: set[str] = set()
        self.holds: dict[str, Hold] = {}
        self.wire: list[Frame] = []
        self.left = asyncio.Condition()
        self.audit = LightAudit()
        self.gate = OpenGate(self)
        self.is_store_broken = False
        self.synchronised: bool | None = True
        self.is_stopped = False
        self.events: list[Event] = []
        self.escalations: list[Obligation] = []
        self.points = 0
        self.kill_at: int | None = None
        self.generation = 0
        self._ids = itertools.count(1)
        self.stall: Callable[[], float] = lambda: 0.0
        self._one_at_a_time = asyncio.Lock()

    @property
    def store(self) -> Store:
        assert isinstance(self._store, Store)
        return self._store

    def close(self) -> None:
        self._store.close()
        if self._folder is not None:
            self._folder.cleanup()

    # -------------------------------------------------------------------------------------------- time

    def true_now(self) -> datetime:
        return self.clock.world() + timedelta(seconds=self.asleep_s)

    def sleep_machine(self, seconds: float) -> None:
        """The machine was suspended: the wall clock comes back right, the monotonic one never noticed."""
        self.asleep_s += seconds
        self.clock.step(seconds)

    def stand_still(self, seconds: float) -> None:
        """The process stood still: every clock went on, and no timer rang."""
        asyncio.get_running_loop()._virtual_s += seconds  # type: ignore[attr-defined]

    async def sent(self, count: int) -> None:
        """Until so many switching frames have left."""
        async with self.left:
            await self.left.wait_for(lambda: len(self.wire) >= count)

    # -------------------------------------------------------------------------------------------- points at which it may die

    def point(self) -> None:
        self.points += 1
        if self.kill_at is not None and self.points >= self.kill_at:
            self.kill_at = None
            self.generation += 1
            raise Killed

    # -------------------------------------------------------------------------------------------- the store

    def transact_of(self, generation: int) -> Callable[[Work[T], str], Awaitable[T]]:
        async def transact(work: Work[T], doing: str, /) -> T:
            async with self._one_at_a_time:
                await asyncio.sleep(self.commit_s * self.random.random())
                if generation != self.generation:
                    raise Killed
                self.point()
                if self.is_store_broken:
                    raise StoreUnavailable(f"{doing}: disk full; nothing was stored by this call")
                try:
                    result, _ = self._store.transact(self._noting(work), doing)
                except BaseException:
                    self.audit.rolled_back()
                    raise
                self.audit.committed()
                self.point()
                await asyncio.sleep(self.commit_s * self.random.random())
                if generation != self.generation:
                    raise Killed
                return result

        return transact

    def _noting(self, work: Work[T]) -> Work[T]:
        def noting(connection: Connection) -> tuple[T, Sequence[Any]]:
            result, items = work(connection)
            self.events += items
            return result, items

        return noting

    def payments_of(self, meter: str) -> int:
        """How many are durable now."""
        return self._store.transact(lambda connection: (_PAYMENTS.all(connection, meter), ()), "counting")[0][0][0]  # type: ignore[no-any-return]

    def new_id(self) -> str:
        return f"c{next(self._ids):07d}"

    # -------------------------------------------------------------------------------------------- Lines

    def record(self, meter: str) -> MeterRecord:
        return self.meters[meter].record

    def switch(self, meter: str) -> "WorldSwitch":
        return WorldSwitch(self)

    def is_up(self, line: str) -> bool:
        return line not in self.down


class WorldSwitch:
    """The driver's side and the meter's, with nothing but time between them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._generation = world.generation

    async def prepare(self, meter: MeterRecord) -> Identity:
        await self._exchange(meter)
        return Identity(told=Told(number=meter.address), is_proven=True)

    async def order(
        self,
        meter: MeterRecord,
        kind: Kind,
        *,
        expires_at: datetime,
        operator: bytes | str,
        look: Look,
        command_id: str,
        on_sending: OnSending,
        hurry: asyncio.Event | None = None,
    ) -> Sent:
        world = self._world
        simulated = world.meters[meter.id]
        async with world.holds.setdefault(meter.line, Hold()).by(lane_of(kind)):
            identity = await self.prepare(meter)
            if simulated.fault == "swapped":
                raise MeterSwapped(meter.id, "meter number", meter.address, "999")
            before = self._witness(simulated)
            register = CapturedRegister(
                obis="1-0:1.8.0", amount=Decimal("123.45"), unit="kWh", read_at=world.clock.now()
            )
            await on_sending(Ready(wire="68 ** 16", identity=identity, before=before, register=register))
            durable_at = world.clock.monotonic()
            if (stall_s := world.stall()) > 0:
                world.stand_still(stall_s)
            self._point()
            check_age(meter.line, world.clock.monotonic() - durable_at)
            if meter.line in world.down:
                raise LineDown(meter.line, "lost")
            if world.clock.now() >= expires_at:  # as the drivers do, whatever they were given
                raise StopOrder(f"the order was good until {expires_at.isoformat()}")
            look()
            sent_at = world.clock.now()
            self._leaves(simulated, kind, command_id, expires_at)
            async with world.left:
                world.left.notify_all()
            self._point()
            known = {"at": sent_at, "wire_sent": "68 ** 16", "before": before, "register": register}
            if simulated.fault == "answers-late":
                with suppress(TimeoutError):
                    async with asyncio.timeout(ORDER_ANSWER_S):
                        await (hurry or asyncio.Event()).wait()
                sent = Sent(acknowledged=False, silence="silent", **known)  # type: ignore[arg-type]
                raise SwitchUnconfirmed(meter.address, kind.value, "look back", sent)
            if simulated.fault in ("silent-after", "reply-lost"):
                await asyncio.sleep(SILENCE_S)
                sent = Sent(acknowledged=False, silence="silent", **known)  # type: ignore[arg-type]
                raise SwitchUnconfirmed(meter.address, kind.value, "look back", sent)
            await asyncio.sleep(EXCHANGE_S)
            self._point()
            if meter.line in world.down:
                sent = Sent(acknowledged=False, silence="line-down", **known)  # type: ignore[arg-type]
                raise SwitchUnconfirmed(meter.address, kind.value, "look back", sent)
            if simulated.fault in ("refuses", "wrong-operator") and kind is Kind.OPEN:
                said = "protected" if simulated.fault == "refuses" else "wrong operator or password"
                return Sent(acknowledged=False, refused=said, **known)  # type: ignore[arg-type]
            return Sent(acknowledged=True, **known)  # type: ignore[arg-type]

    async def look_back(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        if self._world.meters[meter.id].fault == "answers-late":
            await asyncio.sleep(LOOK_ANSWER_S)
        async with self._world.holds.setdefault(meter.line, Hold()).by(lane_of(kind)):
            await self._exchange(meter)
        return self._witness(self._world.meters[meter.id])

    async def register(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> CapturedRegister | None:
        return None

    async def _exchange(self, meter: MeterRecord) -> None:
        world = self._world
        if meter.line in world.down:
            raise LineDown(meter.line, "no connection")
        self._point()
        if world.meters[meter.id].fault == "dead":
            await asyncio.sleep(SILENCE_S)
            raise Silent("no byte came")
        await asyncio.sleep(EXCHANGE_S)
        self._point()
        if meter.line in world.down:
            raise LineDown(meter.line, "lost")

    def _point(self) -> None:
        if self._generation != self._world.generation:
            raise Killed
        self._world.point()

    def _leaves(self, simulated: SimMeter, kind: Kind, command_id: str, expires_at: datetime) -> None:
        world = self._world
        world.wire.append(
            Frame(
                command=command_id,
                meter=simulated.record.id,
                kind=kind,
                at=world.true_now(),
                monotonic=world.clock.monotonic(),
                audited=("sending", command_id) in world.audit.subjects,
                stopped=world.is_stopped,
                paid=world.payments_of(simulated.record.id),
                expires_at=expires_at,
            )
        )
        if simulated.fault in ("stuck", "silent-after") or (
            simulated.fault in ("refuses", "wrong-operator") and kind is Kind.OPEN
        ):
            return
        simulated.actuations.append((command_id, kind.value))
        if simulated.fault == "lazy":
            asyncio.get_running_loop().call_later(4.0, self._switch, simulated, kind)
        else:
            self._switch(simulated, kind)

    @staticmethod
    def _switch(simulated: SimMeter, kind: Kind) -> None:
        if kind is Kind.OPEN and simulated.contact == "closed":
            simulated.contact, simulated.trips = "open", simulated.trips + 1
        elif kind is Kind.CLOSE and simulated.contact != "closed":
            simulated.contact, simulated.closes = "closed", simulated.closes + 1
        elif kind is Kind.PERMIT_CLOSE and simulated.contact == "open":
            simulated.contact = "permitted"

    def _witness(self, simulated: SimMeter) -> Witness:
        closed = simulated.contact == "closed"
        return Witness(
            contact=simulated.contact,  # type: ignore[arg-type]
            at=self._world.clock.now(),
            trips=simulated.trips,
            closes=simulated.closes,
            current_a=simulated.load_a if closed else Decimal(0),
            voltage_v=Decimal(230),
            protected=False,
        )


class Room:
    """One process of the head-end's command room on the world: ends with `kill`, or in order with `aclose`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.trust = ClockTrust(world.clock, lambda: world.synchronised)
        self.journal = Journal(world.transact_of(world.generation), world.audit, clock=world.clock)
        self.desk = Desk(
            self.journal,
            world.gate,
            clock=world.clock,
            new_id=world.new_id,
            circumstances=self.circumstances,
            random_=random.Random(world.random.random()),
        )
        self.executor = Executor(
            self.journal,
            world.gate,
            world,
            clock=world.clock,
            trust=self.trust,
            circumstances=self.circumstances,
        )
        self.debts = DebtKeeper(
            self.journal,
            self.desk.intake,
            world,
            clock=world.clock,
            random_=random.Random(world.random.random()),
            on_escalation=world.escalations.append,
            turn_s=self.desk.turn_s,
        )
        self.aftercare = Aftercare(self.journal, self.executor.carrier, world, clock=world.clock)
        self._tasks: list[asyncio.Task[None]] = []

    def circumstances(self) -> Circumstances:
        world = self.world
        return Circumstances(
            clock_synchronised=self.trust.look(), audit_ok=world.audit.ok, store_ok=not world.is_store_broken
        )

    async def commands(self, *, meter: str | None = None, batch: str | None = None) -> list[Command]:
        return await self.journal.read(
            lambda connection: rows.commands_of(connection, meter=meter, batch=batch, limit=100), "listing commands"
        )

    async def quarantined(self) -> list[Command]:
        return await self.journal.read(
            lambda connection: rows.commands_in(connection, (State.QUARANTINED,)), "listing the quarantine"
        )

    async def obligations(self) -> list[Obligation]:
        return await self.journal.read(debt_rows.open_obligations, "listing obligations")

    async def approve(self, ids: Sequence[str], person: str) -> list[Command]:
        """As somebody's approval does it, whose own rules are shown elsewhere."""
        plan = self.desk.intake.plan
        return await self.journal.write(
            lambda page: [plan(page, one, approver=person) for one in ids], "approving a list"
        )

    async def release(self, identity: str) -> None:
        note = {"released_by": "ann and bob"}
        await self.journal.write(lambda page: self.desk.intake.go_on(page, identity, note=note), "releasing")

    async def delete(self, identity: str) -> None:
        people = "ann and bob"
        await self.journal.write(
            lambda page: page.step(identity, MachineEvent.DELETED, actor=people, note={"deleted_by": people}),
            "deleting",
        )

    async def start(self) -> None:
        await self.journal.load()
        for part in (self.executor, self.debts, self.aftercare):
            await part.load()
        self._tasks = [asyncio.create_task(part.run()) for part in (self.executor, self.debts, self.aftercare)]

    async def aclose(self) -> None:
        """As a process that is told to stop."""
        self.executor.stop()
        await asyncio.wait(self._tasks[:1])
        await self.end()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.journal.settle()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Room]:
    room = Room(world)
    await room.start()
    try:
        yield room
    finally:
        await room.end()
        world.close()


def an_order(
    world: World,
    kind: Kind,
    meter: str,
    *,
    key: str = "",
    valid_s: float = 3600,
    after_s: float | None = None,
    fence: int = 0,
    batch: str = "",
    requester: str = "billing",
) -> Order:
    now = world.clock.now()
    proof = None
    if kind is Kind.OPEN:
        proof = BalanceProof(account=meter, balance_minor=-50_00, currency="CNY", as_of=now, fence=fence)
    return Order(
        kind=kind,
        meter=meter,
        reason="arrears" if kind is Kind.OPEN else "paid",
        requester=requester,
        idempotency_key=key or f"{kind.value}-{meter}-{world.new_id()}",
        expires_at=now + timedelta(seconds=valid_s),
        not_before=None if after_s is None else now + timedelta(seconds=after_s),
        proof=proof,
        batch=batch,
    )


def _fast_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
