"""Meters behind concentrators, read because somebody asks, over a real broker: forwarded where that is possible, else told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from firmware_contracts.concentrator_contract import load_concentrator
from headend.clock import SystemClock
from headend.concentrators.meters import ConcentratorMeters
from headend.concentrators.park import ConcentratorPark
from headend.concentrators.settings import ConcentratorSettings
from headend.model import MeterRecord
from headend.on_demand import OnDemandRead
from headend.quantities import BadQuantity
from headend.store import Store
from protocols.concentrator.messages import Command, CommandAnswer, MeterData, Op, PushedValue, Status
from protocols.dlt645.frame import Frame
from protocols.dlt645.messages import ReadReply, ReadRequest, decode, encode
from protocols.errors import BadEnvelope
from protocols.values import Obis, Unit
from tests.brokers import Broker, mosquitto
from tests.headend.concentrators.support import HES, broker_settings, events_of, eventually, publisher, running_park
from tests.headend.support import new_store

METER = "000000000001"
AT = datetime(2026, 6, 1, 4, 0, tzinfo=UTC)
TASMOTA = "concentrator/tasmota_sml"
PLAN = ("1-0:1.8.0", "reg:4:0x0048:float32", "1-0:32.7.0")
Answer = Callable[[Command], CommandAnswer]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


class Site:
    """One concentrator as the head-end sees it, and what it was told."""

    def __init__(self, park: ConcentratorPark, meters: ConcentratorMeters, record: MeterRecord) -> None:
        self.park = park
        self.told: list[Command] = []
        self._meters = meters
        self._record = record

    @property
    def line_is_up(self) -> bool:
        return all(line.is_up for line in self._meters.lines.values())

    async def read(self, *quantities: str, planned: Sequence[str] = PLAN) -> list[OnDemandRead]:
        return await self._meters.read_now(self._record, quantities, planned=planned)


@asynccontextmanager
async def site(
    broker: Broker,
    store: Store,
    answer: Answer,
    *,
    concentrator: str = HES,
    contract: str = "dlt645/base_2007",
    name: str = "C1",
    meter: str = METER,
) -> AsyncIterator[Site]:
    zone = "Asia/Shanghai" if concentrator == TASMOTA else None
    known = [ConcentratorSettings(name=name, broker="b1", contract=concentrator, timezone=zone)]
    record = MeterRecord(id="M1", line=name, address=meter, contract=contract, plan="", protocol="mqtt")
    spoken = load_concentrator(concentrator, timezone=zone)
    numbers = iter(range(1, 1000))
    async with running_park(broker_settings(broker.url), store, concentrators=known, meters=[record]) as park:
        meters = ConcentratorMeters([park], known, clock=SystemClock(), new_id=lambda: f"{next(numbers)}")
        found = Site(park, meters, record)
        tasks = [asyncio.create_task(line.run()) for line in meters.lines.values()]

        async def obey(client: Client) -> None:
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                try:
                    command = spoken.decode_command(str(message.topic), message.payload, now=datetime.now(UTC))
                except BadEnvelope:
                    continue
                found.told.append(command)
                for outgoing in spoken.encode_uplink(answer(command)):
                    await client.publish(outgoing.topic, outgoing.payload, qos=1)

        try:
            await park.connection.wait_up()
            async with publisher(broker) as client:
                for topic in spoken.topics_down(name):
                    await client.subscribe(topic, qos=1)
                tasks.append(asyncio.create_task(obey(client)))
                yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def forwarded(command: Command) -> CommandAnswer:
    """What a meter says of which every register is 1234.56, or 123.4 V."""
    assert command.op is Op.FORWARD
    frame = Frame.from_bytes(bytes.fromhex(str(command.params["frame"])))
    request = decode(frame)
    assert isinstance(request, ReadRequest)
    content = bytes.fromhex("56341200" if str(request.di).startswith("00") else "3412")
    reply = encode(ReadReply(di=request.di, data=content), frame.address).to_bytes()
    return CommandAnswer.to("C1", command, Status.DONE, detail={"frame": reply.hex()})


def telling(*values: PushedValue, meter: str = METER, concentrator: str = "C1") -> Answer:
    def answer(command: Command) -> CommandAnswer:
        data = MeterData(concentrator=concentrator, meter=meter, at=AT, values=values)
        return CommandAnswer.to(concentrator, command, Status.DONE, values=(data,))

    return answer


def value(obis: str, amount: str | None, unit: Unit, problem: str = "") -> PushedValue:
    return PushedValue(
        name=obis, obis=Obis(obis), amount=None if amount is None else Decimal(amount), unit=unit, problem=problem
    )


async def test_a_meter_is_asked_through_its_concentrator_with_its_own_bytes(broker: Broker, store: Store) -> None:
    async with site(broker, store, forwarded) as found:
        energy, voltage = await found.read("1-0:1.8.0", "di:02010100")
        assert (energy.value, energy.unit, energy.quality) == ("1234.56", "kWh", ["measured"])
        assert (voltage.value, voltage.obis, voltage.quantity) == ("123.4", "1-0:32.7.0", "di:02010100")
        assert energy.wire_sent.endswith("16")
        assert energy.wire_received.startswith("68 01 00 00 00 00 00 68 91")
        assert [command.meter for command in found.told] == [METER, METER]
        assert {command.params["timeout_ms"] for command in found.told} == {10_000}
    assert events_of(store) == []


async def test_without_quantities_the_plan_is_read_as_far_as_the_meter_has_it(broker: Broker, store: Store) -> None:
    """A plan may be shared with meters of other contracts, so what this one does not have is no mistake of who asks."""
    async with site(broker, store, forwarded) as found:
        assert [read.quantity for read in await found.read()] == ["1-0:1.8.0", "1-0:32.7.0"]
        with pytest.raises(BadQuantity, match="speaks DL/T 645"):
            await found.read("reg:4:0x0048:float32")
        assert len(found.told) == 2


async def test_after_an_outage_the_first_read_is_answered(broker: Broker, store: Store) -> None:
    async with site(broker, store, forwarded) as found:
        async with publisher(broker) as client:
            for online in ("false", "true"):
                body = f'{{"online":{online},"ts":1780000000000}}'.encode()
                await client.publish("hes/v1/C1/status", body, qos=1)
                await eventually(lambda online=online: found.park.statuses()[0].state != "unknown")  # type: ignore[misc]
                state = "online" if online == "true" else "offline"
                await eventually(lambda state=state: found.park.statuses()[0].state == state)  # type: ignore[misc]
                if state == "offline":
                    [read] = await found.read("1-0:1.8.0")
                    assert (read.kind, read.value) == ("line-down", None)
                    assert "offline since" in str(read.problem)
                    assert found.told == []
        # The outage was met, so the line is connected anew, a second after it was lost; nothing has to be waited for beyond that.
        await eventually(lambda: found.line_is_up)
        assert (await found.read("1-0:1.8.0"))[0].value == "1234.56"


async def test_a_concentrator_that_does_not_forward_tells_what_it_reads_itself(broker: Broker, store: Store) -> None:
    tell = telling(
        value("1-0:1.8.0", "123.40", Unit.KWH), value("1-0:16.7.0", "0.5", Unit.KW), meter="MT1", concentrator="house-3"
    )
    async with site(broker, store, tell, concentrator=TASMOTA, name="house-3", meter="MT1") as found:
        energy, absent = await found.read("1-0:1.8.0*255", "1-0:32.7.0")
        assert (energy.quantity, energy.obis, energy.value, energy.unit) == (
            "1-0:1.8.0*255",
            "1-0:1.8.0",
            "123.40",
            "kWh",
        )
        assert (energy.read_at, energy.wire_sent, energy.quality) == ("2026-06-01T04:00:00Z", "", ["measured"])
        assert (absent.value, absent.obis, absent.quality, absent.kind) == (None, "1-0:32.7.0", ["missing"], "refused")
        assert absent.problem == "the concentrator's answer does not hold it"
        assert [command.op for command in found.told] == [Op.READ]
        for quantity in ("di:00010000", "reg:4:0:float32"):
            with pytest.raises(BadQuantity, match="by OBIS code"):
                await found.read(quantity)
        assert len(found.told) == 1
    assert events_of(store) == []


async def test_a_meter_that_speaks_modbus_behind_it_is_told_too(broker: Broker, store: Store) -> None:
    """`forward` carries frames of DL/T 645; and what a concentrator can tell is not for the meter's contract to say."""
    tell = telling(value("1-0:1.8.0", "5", Unit.KWH), value("1-0:96.3.10", "1", Unit.NONE))
    async with site(broker, store, tell, contract="modbus/eastron_sdm630") as found:
        reads = await found.read("1-0:1.8.0", "1-0:96.3.10")
        assert [read.value for read in reads] == ["5", "1"]
        assert found.told[0].params == {"quantities": ["1-0:1.8.0", "1-0:96.3.10"]}
        planned = await found.read(planned=("1-0:1.8.0", "reg:4:0x0048:float32"))
        assert [read.quantity for read in planned] == ["1-0:1.8.0"]


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ({"status": Status.FAILED, "code": "unknown-meter"}, "refused", "could not read it: unknown-meter"),
        ({"status": Status.FAILED, "code": "silent", "detail": "for 3 s"}, "silent", "silent for 3 s"),
        ({"status": Status.UNCONFIRMED, "code": "no-answer"}, "silent", "did not answer in time"),
        ({"status": Status.DONE, "values": ["1-0:2.8.0"]}, "refused", "does not hold it"),
        ({"status": Status.DONE, "values": ["1-0:2.8.0", "1-0:1.8.0"]}, "refused", "not-measured"),
    ],
)
async def test_what_could_not_be_told_comes_back_with_its_reason(
    broker: Broker, store: Store, answer: dict[str, Any], kind: str, says: str
) -> None:
    values = {
        "1-0:1.8.0": value("1-0:1.8.0", None, Unit.KWH, "not-measured"),
        "1-0:2.8.0": value("1-0:2.8.0", "1", Unit.KWH),
    }

    def say(command: Command) -> CommandAnswer:
        if answer["status"] == Status.DONE:
            return telling(*(values[name] for name in answer["values"]))(command)
        others = {name: answer[name] for name in ("code", "detail") if name in answer}
        return CommandAnswer.to("C1", command, answer["status"], **others)

    async with site(broker, store, say, contract="modbus/eastron_sdm630") as found:
        [read] = await found.read("1-0:1.8.0")
    assert (read.kind, read.value, read.quality) == (kind, None, ["missing"])
    assert says in str(read.problem)


async def test_a_broker_that_is_gone_is_said_at_once(broker: Broker, store: Store) -> None:
    async with site(broker, store, forwarded, contract="modbus/eastron_sdm630") as found:
        broker.kill()
        await eventually(lambda: not found.park.connection.is_up)
        async with asyncio.timeout(5):
            [read] = await found.read("1-0:1.8.0")
        assert "its broker b1 is not connected" in str(read.problem)
        broker.start()
        await eventually(lambda: found.park.connection.is_up)
