"""A street whose supplies may be switched: the whole head-end with `[control]`, a policy, limits, people, in virtual time."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from headend.app import HeadEnd
from headend.commands.desk import Payment
from headend.commands.forecasts import ForecastShape
from headend.commands.governor import Limits
from headend.commands.intake import Answer
from headend.commands.model import BalanceProof, Command, Kind, NoticeProof, Order
from headend.commands.obligations import Obligation
from headend.commands.policy_file import POLICIES
from headend.commands.roles import Caller
from headend.commands.room import CommandRoom
from headend.keys import make_key_files
from headend.store.commands import Step
from headend.store.commands_pages import obligations_page
from headend.store.reserve import DiskWatch
from headend.store.tokens import Role
from headend.store.writer import inline
from simulators.dlt645_bus import Dlt645Bus
from simulators.dlt645_meter import Dlt645Meter
from simulators.load_curve import Kind as LoadKind
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock, run
from tests.headend.drivers.relay_support import Wire
from tests.scenarios.street import Street, build, transport_to

__all__ = ["ANN", "BOB", "LIMITS", "MORNING", "RelayStreet", "play", "running"]

CONTRACT = "dlt645/generic_single_phase_fee_control_2013"
MORNING = datetime(2025, 6, 4, 1, 30, tzinfo=UTC)  # a Wednesday, half past nine in China
ANN = Caller(token="ann", person="Ann", roles=frozenset({Role.DISCONNECT, Role.OPERATE}))
BOB = Caller(token="bob", person="Bob", roles=frozenset({Role.APPROVE}))
LIMITS = Limits(per_hour=20, of_fleet_per_day=Decimal(1), of_feeder_per_day=Decimal(1), raise_delay_s=0)


class RelayStreet:
    """head_end: as it runs. meters: the simulated ones, by asset number."""

    def __init__(self, street: Street, head_end: HeadEnd, clock: VirtualClock) -> None:
        self.street = street
        self.head_end = head_end
        self.clock = clock
        self._keys = 0

    @property
    def room(self) -> CommandRoom:
        return self.head_end.switchgear.room

    @property
    def meters(self) -> dict[str, Dlt645Meter]:
        return self.street.meters

    @property
    def wire(self) -> Wire:
        """The one line, as somebody sees it who listens there."""
        [line] = self.street.lines.values()
        assert isinstance(line, Wire)
        return line

    def exchange(self, meter: str, *, number: str) -> None:
        """Another meter is hung there, with the same address on the line."""
        old = self.meters[meter]
        model = MeterModel(
            old.model.address, seed=7, kind=LoadKind.HOUSEHOLD, clock_set_at=self.clock.world(), number=number
        )
        model.relay.press_after_s = None
        new = Dlt645Meter(model, old.contract)
        bus = self.wire.bus
        assert isinstance(bus, Dlt645Bus)
        bus.meters[bus.meters.index(old)] = new
        self.meters[meter] = new

    def is_on(self, meter: str) -> bool:
        """Whether this customer has power, as nobody but the simulation knows."""
        return not self.meters[meter].model.relay.is_open(self.clock.world())

    def an_order(self, kind: Kind, meter: str, *, valid: timedelta = timedelta(hours=2), **more: Any) -> Order:
        """With what the policy asks for, unless something else is given."""
        now = self.clock.now()
        self._keys += 1
        given: dict[str, Any] = {
            "kind": kind,
            "meter": meter,
            "reason": "arrears since April" if kind is Kind.OPEN else "paid at the counter",
            "requester": "Ann",
            "idempotency_key": f"{kind.value}-{self._keys}",
            "expires_at": now + valid,
        }
        if kind is Kind.OPEN:
            given |= {"proof": self.a_debt(meter), "notices": self.notices()}
        return Order(**(given | more))

    def a_debt(self, meter: str, *, fence: int = 0) -> BalanceProof:
        return BalanceProof(
            account=f"A-{meter}", balance_minor=-120_00, currency="CNY", as_of=self.clock.now(), fence=fence
        )

    def notices(self) -> tuple[NoticeProof, ...]:
        now = self.clock.now()

        def notice(step: str, ago: timedelta) -> NoticeProof:
            return NoticeProof(
                step=step,
                sent_at=now - ago,
                delivered_at=now - ago + timedelta(seconds=20),
                channel="sms",
                reference=f"sms-{step}",
            )

        return (
            notice("first", timedelta(days=8)),
            notice("second", timedelta(days=3)),
            notice("final", timedelta(hours=1)),
        )

    async def ask(self, order: Order) -> Answer:
        return await self.room.desk.request(order, order.requester)

    async def pays(self, meter: str, *, reference: str = "P1", fence: int = 1) -> Obligation | None:
        """Somebody pays now; what is owed for it, if anything is."""
        paid = Payment(
            meters=(meter,),
            reference=reference,
            paid_at=self.clock.now(),
            amount_minor=150_00,
            currency="CNY",
            fence=fence,
        )
        taken = await self.room.desk.payment(paid)
        assert taken.refusals == ()
        return await self.debt_of(meter) if taken.obligations else None

    async def debt_of(self, meter: str) -> Obligation | None:
        """The newest, open or not."""
        found = await self.room.journal.read(
            lambda connection: obligations_page(connection, meter=meter, limit=1), "looking"
        )
        return found[0] if found else None

    async def command(self, identity: str) -> Command:
        return (await self.steps(identity))[0]

    async def steps(self, identity: str) -> tuple[Command, list[Step]]:
        found = await self.room.desk.command(identity)
        assert found is not None
        return found

    async def ended(self, identity: str, *, within_s: float = 300.0) -> Command:
        """As it ends."""
        until = self.clock.monotonic() + within_s
        while (command := await self.command(identity)).is_active:
            assert self.clock.monotonic() < until, f"{identity} is still {command.state.value}: {command.detail}"
            await asyncio.sleep(0.5)
        return command

    async def set_limits(self, limits: Limits = LIMITS) -> None:
        asked = await self.room.approvals.ask_limits(limits, ANN)
        assert asked is not None
        await self.room.approvals.approve(asked.id, asked.digest, BOB)

    async def set_limits_lower(self, **lower: Any) -> None:
        """They hold at once."""
        assert await self.room.approvals.ask_limits(replace(LIMITS, **lower), ANN) is None

    def tell_weather(self, *, lowest_c: str = "18", highest_c: str = "29") -> None:
        now = self.clock.now()
        told = ForecastShape(
            issued_at=now,
            reaches=now + timedelta(hours=48),
            lowest_c=Decimal(lowest_c),
            highest_c=Decimal(highest_c),
            source="weather service",
        )
        self.room.forecasts.tell(told)

    def events(self, kind: str = "headend.relay.v1") -> list[dict[str, Any]]:
        return [event for event in self.street.events() if event["type"] == kind]


Story = Callable[[RelayStreet], Awaitable[None]]


def play(
    folder: Path,
    story: Story,
    *,
    meters: int = 4,
    seed: int = 1,
    start: datetime = MORNING,
    edit: Callable[[str], str] = str,
    is_ready: bool = True,
    enabled: bool = True,
    disk: DiskWatch | None = None,
) -> None:
    """is_ready: limits are set and the weather is told; a head-end without them opens nothing."""

    async def main(clock: VirtualClock, random_: random.Random) -> None:
        async with running(folder, clock, meters=meters, seed=seed, edit=edit, enabled=enabled, disk=disk) as street:
            if is_ready:
                await street.set_limits()
                street.tell_weather()
            await story(street)

    run(main, start=start, seed=seed)


@asynccontextmanager
async def running(
    folder: Path,
    clock: VirtualClock,
    *,
    meters: int,
    seed: int,
    edit: Callable[[str], str],
    enabled: bool = True,
    there: Mapping[str, Dlt645Meter] | None = None,
    disk: DiskWatch | None = None,
) -> AsyncIterator[RelayStreet]:
    """there: meters of an earlier run, which stand as it left them."""
    street = build(
        folder,
        clock,
        seed=seed,
        lines=1,
        meters_per_line=meters,
        quantities=["1-0:1.8.0"],
        period="15m",
        baud=2400,
        edit=lambda text: edit(with_control(folder, text, enabled=enabled)),
        meter_contract=CONTRACT,
    )
    street.meters.update(there or {})
    for name, line in street.lines.items():
        assert isinstance(line.bus, Dlt645Bus)
        line.bus.meters = [street.meters[meter] for meter in street.meters]
        street.lines[name] = Wire(line.bus, clock, baud=2400)
    for meter in street.meters.values():
        meter.model.relay.press_after_s = None  # customers press the button when the story says so
    head_end = HeadEnd(
        street.config,
        street.store,
        clock=clock,
        connect=transport_to(street.lines),
        execute=inline,
        linger_s=0.5,
        synchronised=lambda: True,
        random_=random.Random(seed),
        disk=disk,
    )
    stop = asyncio.Event()
    running_ = asyncio.create_task(head_end.run(stop))
    await asyncio.sleep(30)
    try:
        yield RelayStreet(street, head_end, clock)
    finally:
        stop.set()
        await running_
        street.store.close()


def with_control(folder: Path, text: str, *, enabled: bool = True) -> str:
    """The configuration with all that an open needs; keys and codes beside it."""
    if not (folder / "audit-key.pem").exists():
        make_key_files(folder, "audit-key")
    for name, digits in (("password.txt", "02000000"), ("operator.txt", "00000099"), ("ann.txt", "00000017")):
        (folder / name).write_text(digits)
    extra = f'contract = "{CONTRACT}"\ncustomer_class = "resident"\nfeeder = "F1"\nplan = "plan"\n'
    return (
        text.replace('plan = "plan"\n', extra)
        + '\n[secrets]\npassword = "file:password.txt"\noperator = "file:operator.txt"\n'
        + '\n[audit]\nsigning_key = "file:audit-key.pem"\n'
        + f"\n[control]\nenabled = {json.dumps(enabled)}\npolicy = {json.dumps(str(POLICIES / 'cn-residential.toml'))}\n"
        + '[control.operators]\nAnn = "file:ann.txt"\n'
    )
