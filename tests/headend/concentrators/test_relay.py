"""The switch of meters behind MQTT concentrators: simulated concentrators at a real broker, counted by somebody who listens there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from firmware_contracts.concentrator_contract import load_concentrator
from headend.clock import SystemClock
from headend.commands.model import CapturedRegister, Kind, State
from headend.concentrators.broker import MaybeLeft
from headend.concentrators.meters import ConcentratorMeters
from headend.concentrators.relay import ConcentratorSwitch, NotTaken
from headend.concentrators.settings import ConcentratorSettings
from headend.drivers.dlt645_relay import Dlt645Switch
from headend.drivers.errors import (
    LineDown,
    MeterSwapped,
    NoAnswer,
    NoFinalReading,
    NotIdentified,
    NotOffered,
    RefusedByMeter,
    SendingTooOld,
    SilentBehind,
    StopOrder,
)
from headend.drivers.relay import (
    BadSwitchAddress,
    Expected,
    Identity,
    SwitchUnconfirmed,
    Told,
    Witness,
    check_identity,
)
from headend.model import MeterRecord
from headend.store import Store
from protocols.concentrator.messages import Command, CommandAnswer, Op, Status
from protocols.errors import BadEnvelope
from protocols.values import MeterAddress
from simulators.concentrator import SimulatedConcentrator
from simulators.concentrator_client import BrokerAddress, ConcentratorClient
from simulators.concentrator_faults import ConcentratorPlan, parse_fault
from simulators.faults import FaultKind as K
from simulators.load_curve import Kind as Household
from simulators.meter import MeterModel
from simulators.virtual_time import VirtualClock
from tests.brokers import Broker, mosquitto
from tests.headend.concentrators.support import broker_settings, eventually, publisher, running_park
from tests.headend.concentrators.test_commands import Answering, FarEnd, with_far_end
from tests.headend.drivers.relay_support import AUTHORITY, OPERATOR, Site, fault, plan
from tests.headend.support import new_store

METER = "000000000001"
REGISTER = CapturedRegister(
    obis="1-0:1.8.0", amount=Decimal("12.5"), unit="kWh", read_at=datetime(2026, 6, 1, tzinfo=UTC)
)
LOOKS_S = (0.05, 0.5, 0.9)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


class Rig:
    """site: what a story orders with. told: the commands that passed the broker, whoever obeys them."""

    def __init__(self, site: Site, client: ConcentratorClient, told: list[Op]) -> None:
        self.site = site
        self.client = client
        self.told = told

    @property
    def model(self) -> MeterModel:
        [meter] = self.client.concentrator.meters.values()
        return meter.model

    @property
    def orders(self) -> list[Op]:
        return [op for op in self.told if op in (Op.OPEN, Op.CLOSE, Op.PERMIT_CLOSE)]

    async def heard(self, count: int) -> None:
        await eventually(lambda: len(self.orders) >= count)


@asynccontextmanager
async def rig(
    broker: Broker,
    store: Store,
    *faults: Any,
    family: str = "hes_v1",
    of_concentrator: str = "",
    forwards: bool = True,
    name: str = METER,
) -> AsyncIterator[Rig]:
    clock = SystemClock()
    zone = None if family in ("hes_v1", "thingsboard", "aliyun") else "Asia/Shanghai"
    contract = load_concentrator(f"concentrator/{family}", concentrator="C1", timezone="Asia/Shanghai")
    model = MeterModel(
        MeterAddress(METER), seed=11, kind=Household.FACTORY, clock_set_at=datetime.now(UTC), drift_ppm=0
    )
    own = ConcentratorPlan(seed=1, faults=(parse_fault(of_concentrator),) if of_concentrator else ())
    simulated = SimulatedConcentrator("C1", contract, [model], meter_names=[name], period_s=None, faults=own)
    simulated.meters[name].reply_delay_s = 0.01  # these tests run by the clock on the wall
    simulated.faults = ConcentratorPlan(seed=1, faults=own.faults, meters=plan(*faults))
    client = ConcentratorClient(simulated, BrokerAddress(host=broker.host, port=broker.port), lambda: datetime.now(UTC))
    known = [ConcentratorSettings(name="C1", broker="b1", contract=f"concentrator/{family}", timezone=zone)]
    record = MeterRecord(id="M1", line="C1", address=name, contract="dlt645/base_2007", plan="", protocol="mqtt")
    numbers = iter(range(1, 10_000))
    told: list[Op] = []
    async with (
        running_park(broker_settings(broker.url), store, concentrators=known, meters=[record]) as park,
        publisher(broker) as ear,
        asyncio.timeout(60),
    ):
        await park.connection.wait_up()
        for topic in contract.topics_down("C1"):
            await ear.subscribe(topic, qos=1)

        async def listen() -> None:
            async for message in ear.messages:
                assert isinstance(message.payload, bytes)
                try:
                    command = contract.decode_command(str(message.topic), message.payload, now=datetime.now(UTC))
                except BadEnvelope:
                    continue
                told.append(command.op)

        meters = ConcentratorMeters([park], known, clock=clock, new_id=lambda: f"{next(numbers)}")
        behind = None
        running = [asyncio.create_task(client.run()), asyncio.create_task(listen())]
        running += [asyncio.create_task(line.run()) for line in meters.lines.values()]
        try:
            await client.ready.wait()
            if forwards and "C1" in meters.lines:
                line = meters.lines["C1"]
                await line.wait_up()
                behind = Dlt645Switch(line, zone=ZoneInfo("Asia/Shanghai"), clock=clock, authority=lambda _: AUTHORITY)
            switch = ConcentratorSwitch("C1", park, clock=clock, new_id=lambda: f"{next(numbers)}", behind=behind)
            yield Rig(Site(switch, None, None, simulated.bus, clock, record), client, told)  # type: ignore[arg-type]
        finally:
            client.stop()
            for task in running[1:]:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def test_open_permit_and_close_are_one_command_each_and_the_meter_itself_is_asked(
    broker: Broker, store: Store
) -> None:
    async with rig(broker, store) as found:
        site = found.site
        sent, verdict = await site.whole(Kind.OPEN, looks_s=LOOKS_S)
        assert (verdict.state, sent.acknowledged) == (State.VERIFIED, True)
        assert found.model.relay_open(datetime.now(UTC))
        assert verdict.evidence["identity_number"] == METER
        assert verdict.evidence["trips"] == "1, 1 since the order"
        assert verdict.evidence["reply"] == "acknowledged: done"
        assert sent.register is not None
        assert site.ready[0].wire.startswith("hes/v1/C1/cmd/req")
        assert '"op":"open"' in site.ready[0].wire.replace(" ", "")
        assert "c-1" in site.ready[0].wire  # an open goes under the command's own id
        assert sent.sending_to_wire_s < 1
        _, verdict = await site.whole(Kind.PERMIT_CLOSE, looks_s=LOOKS_S)
        assert (verdict.state, verdict.waiting_for_customer) == (State.VERIFIED, True)
        _, verdict = await site.whole(Kind.CLOSE, looks_s=LOOKS_S)
        assert (verdict.state, verdict.evidence["contact"]) == (State.VERIFIED, "closed")
        await found.heard(3)
        assert found.orders == [Op.OPEN, Op.PERMIT_CLOSE, Op.CLOSE]


U, C, V = State.UNCONFIRMED, State.CONTRADICTED, State.VERIFIED


@pytest.mark.parametrize(
    ("name", "faults", "of_concentrator", "state", "evidence"),
    [
        (
            "stuck, sensed",
            [K.STUCK_RELAY],
            "",
            C,
            {"contact": "closed", "reply": "none: unconfirmed by the concentrator"},
        ),
        ("stuck, not sensed", [fault(K.STUCK_RELAY, senses=False)], "", C, {"because": "cut, but consuming"}),
        ("protected", [K.PROTECTED_METER], "", C, {"reply": "refused: failed refused", "protected": "yes"}),
        ("slow contact", [fault(K.SLOW_CONTACT, after_s=1.0)], "", V, {"contact": "open", "reply": "relay-differs"}),
    ],
)
async def test_each_fault_ends_in_its_own_verdict_with_evidence_and_one_command(
    broker: Broker,
    store: Store,
    name: str,
    faults: list[Any],
    of_concentrator: str,
    state: State,
    evidence: dict[str, str],
) -> None:
    async with rig(broker, store, *faults, of_concentrator=of_concentrator) as found:
        _, verdict = await found.site.whole(Kind.OPEN, looks_s=LOOKS_S)
        assert verdict.state is state, (name, verdict)
        for key, text in evidence.items():
            assert text in verdict.evidence[key], (key, verdict.evidence)
        await found.heard(1)
        assert found.orders == [Op.OPEN]


async def test_another_meter_behind_the_concentrator_is_sent_nothing(broker: Broker, store: Store) -> None:
    async with rig(broker, store, fault(K.METER_SWAP, seed=5)) as found:
        with pytest.raises(MeterSwapped, match="900000000005"):
            await found.site.order(Kind.OPEN)
        assert found.orders == []
        assert found.site.ready == []


async def test_the_last_look_stops_the_command_and_a_silent_meter_too(broker: Broker, store: Store) -> None:
    async with rig(broker, store) as found:

        def no() -> None:
            raise StopOrder("a payment came")

        found.site.look_says = no
        with pytest.raises(StopOrder):
            await found.site.order(Kind.OPEN)
        assert len(found.site.ready) == 1
        await asyncio.sleep(0.2)
        assert found.orders == []
        found.client.concentrator.faults = ConcentratorPlan(meters=plan(K.SILENCE))
        found.site.look_says = lambda: None
        with pytest.raises((NoAnswer, SwitchUnconfirmed)) as silent:
            async with asyncio.timeout(40):
                await found.site.order(Kind.OPEN)
        assert isinstance(silent.value, NoAnswer)
        assert found.orders == []


async def test_protecting_a_supply_goes_through_the_concentrator_to_the_meter_itself(
    broker: Broker, store: Store
) -> None:
    """The family has no command for it; the meter has a frame."""
    async with rig(broker, store) as found:
        for kind, protected in ((Kind.PROTECT, True), (Kind.UNPROTECT, False)):
            _, verdict = await found.site.whole(kind, looks_s=LOOKS_S)
            assert verdict.state is State.VERIFIED
            assert found.model.relay.protected is protected
        assert found.orders == []


@pytest.mark.parametrize("family", ["hes_v1", "neuron"])
async def test_without_a_way_to_the_meter_nothing_is_opened_and_a_supply_is_given_back_on_the_concentrators_word(
    broker: Broker, store: Store, family: str
) -> None:
    """No family tells a number in its answers: which meter would be opened is not known."""
    async with rig(broker, store, family=family, forwards=False, name="MT1") as found:
        with pytest.raises(NotIdentified, match="does not pass on questions to the meter itself") as refused:
            await found.site.order(Kind.OPEN)
        assert not refused.value.retryable
        assert found.orders == []
        found.model.relay.open(datetime.now(UTC), bytes(4))
        sent, verdict = await found.site.whole(Kind.CLOSE, looks_s=LOOKS_S)
        assert not found.model.relay_open(datetime.now(UTC))
        assert sent.identity is not None
        assert not sent.identity.is_proven
        assert "does not pass on questions" in verdict.evidence["identity_number"]
        if family == "hes_v1":
            assert "as the concentrator said" in verdict.evidence["no_status"]
            assert (verdict.state, verdict.evidence["because"]) == (
                State.VERIFIED,
                "the contact is closed and current flows",
            )
        else:
            assert "does not read relays back" in verdict.evidence["no_status"]
            with pytest.raises(NotOffered, match="no command permit-close"):
                await found.site.order(Kind.PERMIT_CLOSE)


# ------------------------------------------------------------------------------------------------ in virtual time


class Park:
    """One concentrator's commands, as a park gives them."""

    def __init__(self, far_end: FarEnd) -> None:
        self.send_to = far_end.head_end.send
        self.contract = far_end.contract

    async def send(self, concentrator: str, command: Command, **steps: Any) -> CommandAnswer:
        return await self.send_to(command, **steps)

    def offers(self, concentrator: str, op: Op) -> bool:
        return op in self.contract.offers

    def confirms(self, concentrator: str) -> bool:
        return self.contract.confirms


async def read_only(command: Command, far_end: FarEnd) -> None:
    """Reads are answered, orders are not."""
    if command.op is Op.READ:
        far_end.answer(command, Status.DONE)


class MeterItself:
    """As forwarded frames show it; these tests are about what goes to the concentrator. number: that it tells. final: its register;
    what is raised where it is an error. is_silent: nothing comes, for as long as a forwarded question is asked twice.
    """

    def __init__(
        self, clock: VirtualClock, number: str = METER, final: CapturedRegister | Exception | None = None
    ) -> None:
        self._clock = clock
        self._number = number
        self._final = final
        self.is_silent = False

    async def prepare(self, meter: MeterRecord) -> Identity:
        return check_identity(meter, Told(number=self._number), Expected(), {"asset": "it has none"})

    async def look_back(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> Witness:
        if self.is_silent:
            await asyncio.sleep(30)
            raise SilentBehind(METER, "no answer", b"", b"")
        return Witness(contact="unknown", at=self._clock.now())

    async def register(self, meter: MeterRecord, *, kind: Kind = Kind.STATUS) -> CapturedRegister | None:
        if isinstance(self._final, Exception):
            raise self._final
        return self._final


def with_site(
    story: Callable[[Site, FarEnd], Awaitable[None]],
    script: Answering = read_only,
    *,
    number: str = METER,
    final: CapturedRegister | Exception | None = REGISTER,
) -> None:
    async def whole(far_end: FarEnd, clock: VirtualClock) -> None:
        numbers = iter(range(1, 100))
        meter = MeterItself(clock, number, final)
        switch = ConcentratorSwitch(
            "C1",
            Park(far_end),
            clock=clock,
            new_id=lambda: f"{next(numbers)}",
            behind=meter,  # type: ignore[arg-type]
        )
        record = MeterRecord(id="M1", line="C1", address=METER, contract="dlt645/base_2007", plan="", protocol="mqtt")
        await story(Site(switch, None, None, meter, clock, record), far_end)  # type: ignore[arg-type]

    with_far_end(whole, script)


def orders_of(far_end: FarEnd) -> list[Command]:
    return [command for command in far_end.commands if command.op is not Op.READ]


def test_what_a_concentrator_said_of_its_order_is_not_what_a_later_look_sees() -> None:
    async def obeys(command: Command, far_end: FarEnd) -> None:
        far_end.answer(command, Status.DONE)

    async def whole(far_end: FarEnd, clock: VirtualClock) -> None:
        numbers = iter(range(1, 100))
        switch = ConcentratorSwitch("C1", Park(far_end), clock=clock, new_id=lambda: f"{next(numbers)}")
        record = MeterRecord(id="M1", line="C1", address=METER, contract="dlt645/base_2007", plan="", protocol="mqtt")
        site = Site(switch, None, None, None, clock, record)  # type: ignore[arg-type]
        await site.order(Kind.CLOSE)
        assert (await switch.look_back(record, kind=Kind.CLOSE)).contact == "closed"
        await asyncio.sleep(120)
        late = await switch.look_back(record)
        assert late.contact == "unknown", "nobody has looked since"
        assert "does not read relays back" in late.problems["status"]

    with_far_end(whole, obeys)


def test_a_lost_answer_is_an_unknown_and_the_command_left_once() -> None:
    async def story(site: Site, far_end: FarEnd) -> None:
        began = site.clock.monotonic()
        with pytest.raises(SwitchUnconfirmed) as unknown:
            await site.order(Kind.OPEN, lasts_s=3600)
        sent = unknown.value.sent
        assert (sent.silence, sent.wire_received, sent.acknowledged) == ("silent", "", False)
        [order] = orders_of(far_end)
        assert (order.op, order.id, order.meter) == (Op.OPEN, "c-1", METER)
        # However long the order was good for, the concentrator must have begun within a minute, and is not waited for longer.
        assert (order.expires_at - sent.at).total_seconds() <= 60
        assert site.clock.monotonic() - began < 70
        witness = await site.switch.look_back(site.record)
        assert witness.contact == "unknown"

    with_site(story)


def test_a_message_that_may_have_left_is_treated_as_if_it_had() -> None:
    async def story(site: Site, far_end: FarEnd) -> None:
        site.look_says = lambda: setattr(far_end, "fails", MaybeLeft("connection lost"))
        with pytest.raises(SwitchUnconfirmed):
            await site.order(Kind.OPEN)
        assert len(orders_of(far_end)) == 1

    with_site(story)


@pytest.mark.parametrize(
    "when",
    ["it runs out", "the commit takes a minute", "the look takes two seconds", "the number was read long ago"],
)
def test_what_comes_too_late_at_the_last_step_does_not_leave(when: str) -> None:
    async def story(site: Site, far_end: FarEnd) -> None:
        loop = asyncio.get_running_loop()

        def stall() -> None:
            loop._virtual_s += 2  # type: ignore[attr-defined]

        if when == "it runs out":
            site.commit_s = 5.0
        elif when == "the commit takes a minute":
            site.commit_s = 61.0
        elif when == "the number was read long ago":
            wait_for_a_place = site.switch._park.send  # type: ignore[attr-defined]

            async def send_late(concentrator: str, command: Command, **steps: Any) -> CommandAnswer:
                await asyncio.sleep(16)
                answer: CommandAnswer = await wait_for_a_place(concentrator, command, **steps)
                return answer

            site.switch._park.send = send_late  # type: ignore[attr-defined]
        else:
            site.look_says = stall
        with pytest.raises((StopOrder, SendingTooOld, NotTaken)):
            await site.order(Kind.OPEN, lasts_s=4.0 if when == "it runs out" else 3600.0)
        assert orders_of(far_end) == []
        assert far_end.head_end.counters.not_sent == 1

    with_site(story)


def test_an_open_is_never_sent_twice_under_its_id_and_a_close_may_be_ordered_again() -> None:
    async def obey(command: Command, far_end: FarEnd) -> None:
        far_end.answer(command, Status.DONE)

    async def story(site: Site, far_end: FarEnd) -> None:
        await site.order(Kind.OPEN)
        with pytest.raises(NotTaken, match="sent before"):
            await site.order(Kind.OPEN)
        for _ in range(2):
            await site.order(Kind.CLOSE)
        assert [command.op for command in orders_of(far_end)] == [Op.OPEN, Op.CLOSE, Op.CLOSE]

    with_site(story, obey)


@pytest.mark.parametrize(("number", "error"), [("", NotIdentified), ("000000777777", MeterSwapped)])
def test_a_meter_that_tells_no_number_or_another_is_not_opened(number: str, error: type[Exception]) -> None:
    async def story(site: Site, far_end: FarEnd) -> None:
        with pytest.raises(error, match="nothing was sent"):
            await site.order(Kind.OPEN)
        assert orders_of(far_end) == []
        assert site.ready == []

    with_site(story, number=number)


@pytest.mark.parametrize("final", [None, RefusedByMeter(METER, "no such data", 2, b"", b"")])
def test_a_meter_that_gives_no_register_is_closed_and_never_opened(final: Exception | None) -> None:
    """None: marked as not measured, or not in its contract."""

    async def obeys(command: Command, far_end: FarEnd) -> None:
        far_end.answer(command, Status.DONE)

    async def story(site: Site, far_end: FarEnd) -> None:
        with pytest.raises(NoFinalReading, match="no such data" if final else "marks it as not measured"):
            await site.order(Kind.OPEN)
        assert orders_of(far_end) == []
        assert site.ready == []
        sent = await site.order(Kind.CLOSE)
        assert (sent.acknowledged, sent.register) == (True, None)
        assert sent.identity is not None
        assert sent.identity.is_proven

    with_site(story, obeys, final=final)


@pytest.mark.parametrize("paid_after_s", [3.0, 40.0])
def test_a_close_is_on_the_wire_within_ten_seconds_of_a_payment_though_the_concentrator_says_nothing(
    paid_after_s: float,
) -> None:
    """The open was accepted, and would be waited for for two minutes; the meter behind has gone silent, too."""
    left: dict[Op, float] = {}

    async def accepts_only(command: Command, far_end: FarEnd) -> None:
        left[command.op] = far_end.clock.monotonic()
        far_end.answer(command, Status.ACCEPTED)

    async def story(site: Site, far_end: FarEnd) -> None:
        hurry = asyncio.Event()
        ordering = asyncio.create_task(site.order(Kind.OPEN, lasts_s=3600, hurry=hurry))
        await asyncio.sleep(paid_after_s)
        assert not ordering.done()
        site.bus.is_silent = True
        paid_at = site.clock.monotonic()
        hurry.set()
        with pytest.raises(SwitchUnconfirmed, match="something more urgent came") as unknown:
            await ordering
        sent = unknown.value.sent
        assert (sent.acknowledged, sent.refused, sent.wire_received) == (False, "", "")
        assert sent.register == REGISTER
        closing = asyncio.create_task(site.order(Kind.CLOSE))
        await asyncio.sleep(15)
        assert left[Op.CLOSE] - paid_at < 10
        assert [command.op for command in far_end.commands] == [Op.OPEN, Op.CLOSE]
        assert far_end.head_end.counters.sent == 2
        [open_, close] = far_end.commands
        far_end.answer(open_, Status.DONE)
        assert not closing.done(), "the open's late answer is not the close's"
        far_end.answer(close, Status.DONE)
        assert (await closing).acknowledged
        # Who answers was told for the open, and is not asked of a meter that is silent.
        assert site.ready[-1].identity.is_proven

    with_site(story, accepts_only)


def test_only_the_close_right_behind_such_an_open_asks_nothing() -> None:
    async def story(site: Site, far_end: FarEnd) -> None:
        for lasts_s in (0, 100):
            hurry = asyncio.Event()
            hurry.set()
            with pytest.raises(SwitchUnconfirmed):
                await site.switch.order(
                    site.record,
                    Kind.OPEN,
                    expires_at=site.clock.now() + timedelta(seconds=3600),
                    operator=OPERATOR,
                    look=site.look,
                    command_id=f"c-{lasts_s}",
                    on_sending=site.on_sending,
                    hurry=hurry,
                )
            await asyncio.sleep(lasts_s)
            for _ in range(2):
                with pytest.raises(SwitchUnconfirmed):
                    await site.order(Kind.CLOSE)
        registers = [ready.register for ready in site.ready]
        assert registers == [REGISTER, None, REGISTER, REGISTER, REGISTER, REGISTER]

    with_site(story)


def test_hurry_neither_lets_an_open_out_nor_keeps_another_order_in() -> None:
    async def story(site: Site, far_end: FarEnd) -> None:
        hurry = asyncio.Event()
        hurry.set()

        def no() -> None:
            raise StopOrder("a payment came")

        site.look_says = no
        with pytest.raises(StopOrder):
            await site.order(Kind.OPEN, hurry=hurry)
        assert orders_of(far_end) == []
        site.look_says = lambda: None
        with pytest.raises(SwitchUnconfirmed):
            await site.order(Kind.PERMIT_CLOSE, hurry=hurry)
        assert [command.op for command in orders_of(far_end)] == [Op.PERMIT_CLOSE]

    with_site(story)


@pytest.mark.parametrize("name", ["AAAAAAAAAAAA", "999999999999", "+", "MT/1", "#", "", "MT*"])
async def test_wildcards_cannot_be_said_to_a_concentrator(name: str) -> None:
    switch = ConcentratorSwitch("C1", None, clock=SystemClock(), new_id=lambda: "1")  # type: ignore[arg-type]
    record = MeterRecord(id="M1", line="C1", address=name, contract="", plan="", protocol="mqtt")
    site = Site(switch, None, None, None, SystemClock(), record)  # type: ignore[arg-type]
    with pytest.raises(BadSwitchAddress):
        await site.order(Kind.OPEN)


async def test_a_concentrator_that_is_away_is_sent_nothing_and_the_error_may_be_tried_again(
    broker: Broker, store: Store
) -> None:
    async with rig(broker, store, forwards=False) as found:
        found.client.stop()
        async with publisher(broker) as client:
            body = b'{"online":false,"ts":1780000000000}'
            await client.publish("hes/v1/C1/status", body, qos=1)
            await asyncio.sleep(0.3)
        with pytest.raises(LineDown) as down:
            await found.site.order(Kind.CLOSE)
        assert down.value.retryable
        assert found.site.ready == []
        assert found.orders == []
