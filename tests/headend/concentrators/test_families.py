"""Every family through a real broker: readings into the store, a command and its answer, and what the family waits for."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client

from firmware_contracts.concentrator_contract import load_concentrator
from headend.clock import SystemClock
from headend.concentrators.errors import ConcentratorDown, UnknownConcentrator
from headend.concentrators.forward import forward_url
from headend.concentrators.settings import ConcentratorSettings
from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.line import Line, Priority
from headend.model import MeterRecord
from headend.store import Store
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import Command, CommandAnswer, MeterData, Op, PushedValue, Status
from protocols.dlt645.frame import Frame
from protocols.dlt645.messages import ReadReply, ReadRequest, decode, encode
from protocols.errors import BadEnvelope
from protocols.exchange import Timing
from protocols.values import Obis, Unit
from tests.brokers import Broker, mosquitto
from tests.headend.concentrators.support import HES, broker_settings, events_of, eventually, publisher, running_park
from tests.headend.concentrators.test_commands import METER, TOTAL
from tests.headend.support import new_store

AT = datetime(2026, 6, 1, 4, 0, tzinfo=UTC)
# contract, the concentrator's and the meter's names as the family has them, a quantity it knows
FAMILIES = [
    (HES, "C1", METER, "1-0:1.8.0", Unit.KWH),
    ("concentrator/neuron", "app1", "modbus1", "1-0:1.8.0", Unit.KWH),
    ("concentrator/thingsboard", "thingsboard", "Meter A", "1-0:32.7.0", Unit.V),
    ("concentrator/tasmota_sml", "house-3", "MT1", "1-0:1.8.0", Unit.KWH),
    ("concentrator/aliyun", "a1Key", "dev7", "1-0:32.7.0", Unit.V),
    ("concentrator/state_grid", "terminal", "ADC_guid7", "1-0:32.7.0", Unit.V),
]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.close()


def contract_of(name: str, concentrator: str) -> ConcentratorContract:
    zone = "Asia/Shanghai" if name.endswith("tasmota_sml") else None
    contract = load_concentrator(name, timezone=zone)
    return contract if not contract.concentrator else load_concentrator(name, timezone=zone, concentrator=concentrator)


@asynccontextmanager
async def answering(
    broker: Broker, contract: ConcentratorContract, concentrator: str, detail: Any = None
) -> AsyncIterator[list[Command]]:
    """The other end: does what it is told at once, and says so."""
    told: list[Command] = []

    async def serve(client: Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            try:
                command = contract.decode_command(str(message.topic), message.payload, now=datetime.now(UTC))
            except BadEnvelope:  # our own answer, where both directions share a topic
                continue
            told.append(command)
            found = None if detail is None else detail(command)
            answer = CommandAnswer.to(concentrator, command, Status.DONE, detail=found)
            for outgoing in contract.encode_uplink(answer):
                await client.publish(outgoing.topic, outgoing.payload, qos=1)

    async with publisher(broker) as client:
        for topic in contract.topics_down(concentrator):
            await client.subscribe(topic, qos=1)
        task = asyncio.create_task(serve(client))
        yield told
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize(
    ("name", "concentrator", "meter", "obis", "unit"), FAMILIES, ids=lambda one: str(one).split("/")[-1]
)
async def test_a_family_s_readings_arrive_and_its_relay_command_is_answered(
    broker: Broker, store: Store, name: str, concentrator: str, meter: str, obis: str, unit: Unit, version: int
) -> None:
    zone = "Asia/Shanghai" if name.endswith("tasmota_sml") else None
    contract = contract_of(name, concentrator)
    known = [ConcentratorSettings(name=concentrator, broker="b1", contract=name, timezone=zone)]
    record = MeterRecord(
        id="M1", line=concentrator, address=meter, contract="dlt645/base_2007", plan="", protocol="mqtt"
    )
    value = PushedValue(name=obis, obis=Obis(obis), amount=Decimal("123.5"), unit=unit)
    reading = MeterData(concentrator=concentrator, meter=meter, at=AT, values=(value,))
    settings = broker_settings(broker.url, version=version)
    async with running_park(settings, store, concentrators=known, meters=[record]) as park:
        await park.connection.wait_up()
        async with answering(broker, contract, concentrator) as told, publisher(broker) as client:
            for outgoing in contract.encode_uplink(reading):
                await client.publish(outgoing.topic, outgoing.payload, qos=1)
            await eventually(lambda: events_of(store))
            command = Command(
                id="42", meter=meter, op=Op.CLOSE, params={}, expires_at=SystemClock().now() + timedelta(seconds=10)
            )
            answer = await park.send(concentrator, command)
            assert answer.status == "done", answer
            assert [one.op for one in told] == [Op.CLOSE]
        refused = park.broker_status().refused
        assert refused == {}, refused
    [event] = events_of(store)
    assert (event["data"]["obis"], event["data"]["value"], event["data"]["unit"]) == (obis, "123.5", unit.value)
    assert event["data"]["interval_end"] == "2026-06-01T04:00:00Z"
    assert event["data"]["source"] == f"{name}:{obis}"


async def test_a_device_that_waits_for_an_acknowledgement_gets_it_when_its_reading_is_durable(
    broker: Broker, store: Store
) -> None:
    """The thing model: a post that is not answered on its _reply topic is sent again."""
    known = [ConcentratorSettings(name="a1Key", broker="b1", contract="concentrator/aliyun")]
    record = MeterRecord(id="M1", line="a1Key", address="dev7", contract="dlt645/base_2007", plan="", protocol="mqtt")
    post = "/sys/a1Key/dev7/thing/event/property/post"
    async with running_park(broker_settings(broker.url), store, concentrators=known, meters=[record]) as park:
        await park.connection.wait_up()
        async with publisher(broker) as client:
            await client.subscribe(f"{post}_reply", qos=1)
            body = (
                b'{"id":"123","version":"1.0","params":{"Ua":{"value":230.1,"time":1700000000000}},'
                b'"method":"thing.event.property.post"}'
            )
            await client.publish(post, body, qos=1)
            message = await asyncio.wait_for(anext(aiter(client.messages)), 10)
            assert len(events_of(store)) == 1
            assert message.payload == b'{"id":"123","code":200,"data":{},"method":"thing.event.property.post"}'


async def test_a_meter_behind_a_concentrator_is_read_over_a_real_broker(broker: Broker, store: Store) -> None:
    def the_meter_s_reply(command: Command) -> dict[str, str]:
        frame = Frame.from_bytes(bytes.fromhex(str(command.params["frame"])))
        request = decode(frame)
        assert isinstance(request, ReadRequest)
        return {
            "frame": encode(ReadReply(di=request.di, data=bytes.fromhex("56341200")), frame.address).to_bytes().hex()
        }

    numbers = iter(range(100))
    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        async with answering(broker, load_concentrator(HES), "C1", detail=the_meter_s_reply):
            connect = park.forwarding("C1", new_id=lambda: f"f{next(numbers)}", reply_timeout_s=3.0)
            line = Line("C1", forward_url("C1"), Timing(reply_timeout_s=4.0), connect=connect, clock=SystemClock())
            await line.connect()
            reading = await Dlt645Driver(line).read(METER, TOTAL, Priority.ON_DEMAND)
            assert [str(value.content) for value in reading.values] == ["1234.56"]
            line.close()
    assert events_of(store) == []  # a read on demand does not enter the feed


async def test_a_command_is_not_sent_where_nobody_can_get_it(broker: Broker, store: Store) -> None:
    def a_command() -> Command:
        return Command(
            id="c1", meter=METER, op=Op.OPEN, params={}, expires_at=SystemClock().now() + timedelta(seconds=10)
        )

    async with running_park(broker_settings(broker.url), store) as park:
        await park.connection.wait_up()
        with pytest.raises(UnknownConcentrator):
            await park.send("C9", a_command())
        async with publisher(broker) as client:
            await client.publish("hes/v1/C1/status", b'{"online":false,"ts":1780000000000}', qos=1, retain=True)
            await eventually(lambda: park.statuses()[0].state == "offline")
        with pytest.raises(ConcentratorDown, match="offline since"):
            await park.send("C1", a_command())
        broker.kill()
        await eventually(lambda: not park.connection.is_up)
        with pytest.raises(ConcentratorDown, match="its broker b1 is not connected"):
            await park.send("C1", a_command())
        assert park.connection.counters.published == 0


@pytest.mark.parametrize("version", [5, 4])
async def test_a_reading_without_a_time_is_fresh_only_when_it_has_not_lain_at_the_broker(
    broker: Broker, store: Store, version: int
) -> None:
    """ThingsBoard's short form has no time: what was said while we were away is filed under now, and must say so."""
    known = [ConcentratorSettings(name="tb", broker="b1", contract="concentrator/thingsboard")]
    record = MeterRecord(id="M1", line="tb", address="dev7", contract="dlt645/base_2007", plan="", protocol="mqtt")
    settings = broker_settings(broker.url, version=version)

    async def tell(volts: float, *, retain: bool = False) -> None:
        async with publisher(broker) as client:
            body = b'{"dev7":[{"U_a":%.1f}]}' % volts
            await client.publish("v1/gateway/telemetry", body, qos=1, retain=retain)

    async with running_park(settings, store, concentrators=known, meters=[record]) as park:
        await park.connection.wait_up()
        await tell(230.1)
        await eventually(lambda: park.connection.counters.acknowledged == 1)
    await tell(230.2)
    async with running_park(settings, store, concentrators=known, meters=[record]) as park:
        await eventually(lambda: len(events_of(store)) == 2)
        await asyncio.sleep(1.1)  # the silence that tells the end of what had waited
        await tell(230.3)
        await eventually(lambda: len(events_of(store)) == 3)
        await tell(230.4, retain=True)
        await eventually(lambda: park.connection.counters.acknowledged == 3)
    async with running_park(settings, store, concentrators=known, meters=[record]) as park:
        await eventually(lambda: park.broker_status().refused.get("retained-without-time") == 1)
    qualities = {event["data"]["value"]: event["data"]["quality"] for event in events_of(store)}
    assert qualities == {
        "230.1": ["measured"],
        "230.2": ["measured", "suspect"],
        "230.3": ["measured"],
        "230.4": ["measured"],
    }
