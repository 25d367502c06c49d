"""Simulated concentrators at a real broker: mosquitto, and its command-line clients as the head-end's end of the wire."""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from firmware_contracts.concentrator_contract import load_concentrator
from protocols.concentrator.codec import ConcentratorContract
from protocols.concentrator.messages import Command, CommandAnswer, MeterData, Op, Uplink
from protocols.dlt645 import messages as m
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di
from protocols.values import MeterAddress
from simulators.concentrator import SimulatedConcentrator
from simulators.concentrator_client import BrokerAddress, ConcentratorClient
from simulators.concentrator_faults import ConcentratorPlan, parse_fault, read_concentrator_plan
from simulators.concentrator_readings import Numbered
from simulators.concentrator_store import UnsentStore
from simulators.embedded_broker import embedded_broker
from simulators.meter import MeterModel
from tests.brokers import Broker, Certificates, make_certificates, make_password_file, mosquitto

METER = "000000000001"
COMMANDS = "hes/v1/C1/cmd/req"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def at(broker: Broker, **settings: Any) -> BrokerAddress:
    return BrokerAddress(host=broker.host, port=broker.port, **settings)


@asynccontextmanager
async def concentrator(
    address: BrokerAddress,
    *faults: str,
    plan: dict[str, Any] | None = None,
    said: asyncio.Queue[str] | None = None,
    waits: bool = True,
    ends: bool = False,
    family: str = "hes_v1",
    **settings: Any,
) -> AsyncIterator[ConcentratorClient]:
    """A running one with two meters. said: what it reports. ends: by itself, when its numbered readings are acknowledged."""
    began = datetime.now(UTC)
    models = [MeterModel(MeterAddress(f"{n:012}"), seed=n, clock_set_at=began, clock_offset_s=0) for n in (1, 2)]
    own = read_concentrator_plan(plan or {}, began)
    own = ConcentratorPlan(seed=1, faults=(*own.faults, *map(parse_fault, faults)), meters=own.meters)
    settings = {"period_s": None, "faults": own} | settings
    contract = load_concentrator(f"concentrator/{family}", concentrator="C1", timezone="Asia/Shanghai")
    simulated = SimulatedConcentrator("C1", contract, models, **settings)
    report = (lambda _: None) if said is None else said.put_nowait
    simulated.report = report
    client = ConcentratorClient(simulated, address, lambda: datetime.now(UTC), report=report)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(client.run())
        if waits:
            await client.ready.wait()
        try:
            yield client
        finally:
            if not ends:
                client.stop()
            await running


class Ear:
    """What arrives under a filter. It is subscribed before anything else happens."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._messages = client.messages
        self.heard: list[aiomqtt.Message] = []

    async def next(self, end: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """The next JSON message on a topic that ends so; others are passed over."""
        async with asyncio.timeout(timeout_s):
            async for message in self._messages:
                self.heard.append(message)
                if message.topic.value.endswith(end):
                    found: dict[str, Any] = json.loads(payload_of(message))
                    return found
        raise AssertionError("the connection ended")

    async def read(self, contract: ConcentratorContract, timeout_s: float = 20.0) -> tuple[Uplink, ...]:
        """What the next message says."""
        async with asyncio.timeout(timeout_s):
            message = await anext(aiter(self._messages))
        return contract.decode(message.topic.value, payload_of(message), now=datetime.now(UTC))

    async def subscribe(self, topic: str) -> None:
        await self._client.subscribe(topic, qos=1)

    async def say(self, topic: str, payload: bytes | str, *, retain: bool = False) -> None:
        await self._client.publish(topic, payload, qos=1, retain=retain)


def payload_of(message: aiomqtt.Message) -> bytes:
    assert isinstance(message.payload, bytes)
    return message.payload


@asynccontextmanager
async def ear(broker: Broker, topics: str = "hes/#", **settings: Any) -> AsyncIterator[Ear]:
    async with aiomqtt.Client(broker.host, broker.port, protocol=aiomqtt.ProtocolVersion.V5, **settings) as client:
        await client.subscribe(topics, qos=1)
        yield Ear(client)


def request(op: str, *, id: str = "a-1", meter: str = METER, ttl_ms: int = 30_000, **params: Any) -> str:
    command = {"id": id, "meter": meter, "op": op, "params": params, "ttl_ms": ttl_ms, "ts": int(time.time() * 1000)}
    return json.dumps(command)


# ------------------------------------------------------------------------------------------ mosquitto's clients


async def test_mosquitto_sub_sees_the_documented_messages(broker: Broker) -> None:
    async with ear(broker) as first, concentrator(at(broker), period_s=1):
        await first.next("/meters")  # from now on status and meters come because the broker has kept them
        listening = await asyncio.create_subprocess_exec(
            *("mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", "hes/v1/#"),
            *("-F", "%t %q %r %p", "-C", "6", "-W", "20"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await listening.communicate()
    seen = {}
    for line in output.decode().splitlines():
        topic, qos, retained, payload = line.split(" ", 3)
        assert qos == "1"
        seen[topic] = (retained, json.loads(payload))
    assert seen["hes/v1/C1/status"][0] == "1"
    assert seen["hes/v1/C1/status"][1]["online"] is True
    assert seen["hes/v1/C1/meters"][0] == "1"
    assert [meter["address"] for meter in seen["hes/v1/C1/meters"][1]] == [METER, "000000000002"]
    retained, reading = seen[f"hes/v1/C1/meter/{METER}/data"]
    assert retained == "0"
    assert reading["ts"] % 1000 == 0
    assert set(reading["values"]) >= {"1-0:1.8.0", "1-0:32.7.0"}


async def test_mosquitto_pub_gives_a_command_and_sees_its_answer(broker: Broker) -> None:
    async with concentrator(at(broker)) as client, ear(broker) as heard:
        to = ("-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", COMMANDS)
        saying = await asyncio.create_subprocess_exec("mosquitto_pub", *to, "-m", request("open"))
        assert await saying.wait() == 0
        event = await heard.next(f"/meter/{METER}/event")
        assert event["event"] == "relay-opened"
        answer = await heard.next("/cmd/resp")
        assert (answer["id"], answer["status"]) == ("a-1", "done")
        assert client.concentrator.meters[METER].model.relay_open(datetime.now(UTC))


# ------------------------------------------------------------------------------------------ commands


async def test_a_forwarded_frame_comes_back_as_a_right_dlt645_frame(broker: Broker) -> None:
    wire = m.encode(m.ReadRequest(di=Di("00010000")), METER).to_bytes(4)
    async with concentrator(at(broker)), ear(broker) as heard:
        await heard.say(COMMANDS, request("forward", frame=wire.hex()))
        answer = await heard.next("/cmd/resp")
    frame = Frame.from_bytes(bytes.fromhex(answer["detail"]["frame"]))
    assert frame.address == METER
    assert isinstance(m.decode(frame), m.ReadReply)


@pytest.mark.parametrize("version", [5, 4])
async def test_a_retained_command_moves_nothing_and_is_reported(broker: Broker, version: int) -> None:
    async with ear(broker) as heard:
        await heard.say(COMMANDS, request("open"), retain=True)
        async with concentrator(at(broker, version=version)) as client:
            event = await heard.next("/event")
            assert event["event"] == "retained-command"
            await heard.say(COMMANDS, request("read", id="a-2"))
            assert (await heard.next("/cmd/resp"))["id"] == "a-2"  # nothing was answered to the other
            assert not client.concentrator.meters[METER].model.relay_open(datetime.now(UTC))
            assert client.concentrator.retained_commands == 1


async def test_with_mqtt_5_a_command_published_retained_is_not_done_even_at_once(broker: Broker) -> None:
    async with concentrator(at(broker)) as client, ear(broker) as heard:
        await heard.say(COMMANDS, request("open"), retain=True)
        assert (await heard.next("/event"))["event"] == "retained-command"
        assert not client.concentrator.meters[METER].model.relay_open(datetime.now(UTC))


async def test_a_command_waits_at_the_broker_for_a_concentrator_that_is_away(broker: Broker) -> None:
    async with concentrator(at(broker)):
        pass
    async with ear(broker) as heard:
        await heard.say(COMMANDS, request("open"))
        await heard.say(COMMANDS, request("read", id="late", ttl_ms=1))
        async with concentrator(at(broker)):
            first = await heard.next("/cmd/resp")
            second = await heard.next("/cmd/resp")
    assert {first["id"]: first["status"], second["id"]: second["status"]} == {"a-1": "done", "late": "failed"}


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("family", ["hes_v1", "neuron", "thingsboard", "tasmota_sml", "aliyun", "state_grid"])
async def test_every_family_pushes_readings_and_answers_commands(broker: Broker, family: str, version: int) -> None:
    names = ["MT1", "MT2"]
    contract = load_concentrator(f"concentrator/{family}", concentrator="C1", timezone="Asia/Shanghai")
    found: dict[type, Any] = {}
    async with (
        ear(broker, "$SYS/none") as heard,
        concentrator(at(broker, version=version), family=family, period_s=1, meter_names=names) as client,
    ):
        for topic in contract.topics_up:
            await heard.subscribe(topic)
        now = datetime.now(UTC)
        order = Command(id="77", meter="MT1", op=Op.OPEN, params={}, expires_at=now + timedelta(seconds=30))
        sent = contract.encode_command("C1", order, now=now)
        await heard.say(sent.topic, sent.payload, retain=sent.retain)
        while MeterData not in found or CommandAnswer not in found:
            for one in await heard.read(contract):
                found[type(one)] = one
        assert client.concentrator.meters["MT1"].model.relay_open(datetime.now(UTC))
    assert (found[CommandAnswer].status, contract.is_answer(order, found[CommandAnswer])) == ("done", True)
    assert found[MeterData].values
    assert abs(found[MeterData].at - now) < timedelta(seconds=60)


# ------------------------------------------------------------------------------------------ presence


async def test_an_orderly_end_and_a_lost_connection_both_leave_it_offline(broker: Broker) -> None:
    async with ear(broker, "hes/v1/C1/status") as heard:
        async with concentrator(at(broker)):
            assert (await heard.next("/status"))["online"] is True
        assert (await heard.next("/status"))["online"] is False
        plan = {"faults": [{"kind": "silent-drop", "socket": "vanishes", "for_s": 0.5, "from": "0.5s"}]}
        async with concentrator(at(broker), plan=plan):
            assert (await heard.next("/status"))["online"] is True
            assert await heard.next("/status") == {"online": False}  # the last will
            assert (await heard.next("/status"))["online"] is True


async def test_a_silent_drop_is_noticed_by_nothing_but_the_brokers_keepalive(broker: Broker) -> None:
    plan = {"faults": [{"kind": "silent-drop", "for_s": 30, "from": "0.3s"}]}
    async with ear(broker, "hes/v1/C1/#") as heard, concentrator(at(broker, keepalive_s=1), plan=plan) as client:
        assert (await heard.next("/status"))["online"] is True
        began = time.monotonic()
        assert await heard.next("/status") == {"online": False}
        assert time.monotonic() - began > 1.4  # one and a half times the keepalive; mosquitto looks every 5 s
        broker.wait_for("C1 has exceeded timeout")
        assert client.connections == 1


# ------------------------------------------------------------------------------------------ losses and disorder


async def numbers(heard: Ear, count: int, timeout_s: float = 40.0) -> list[int]:
    """Readings until so many different ones have come, as often as they come."""
    found: list[int] = []
    seen: set[int] = set()
    while len(seen) < count:
        reading = await heard.next("/data", timeout_s)
        number = int(reading["values"]["1-0:1.8.0"])
        found.append(number)
        seen.add(number)
    return found


async def test_numbered_readings_arrive_in_order_and_the_concentrator_ends_by_itself(broker: Broker) -> None:
    async with ear(broker) as heard:
        async with concentrator(at(broker), numbered=Numbered(rate=2000, most=1000), ends=True) as client:
            assert await numbers(heard, 1000) == list(range(1, 1001))
        assert client.concentrator.is_finished


@pytest.mark.parametrize("socket", ["stays", "vanishes"])
async def test_nothing_is_lost_when_it_vanishes_again_and_again(broker: Broker, socket: str) -> None:
    fault = {"kind": "silent-drop", "for_s": 0.2, "every_s": 0.5, "socket": socket, "from": "0.1s"}
    async with ear(broker) as heard:
        async with concentrator(at(broker), plan={"faults": [fault]}, numbered=Numbered(rate=500, most=1000)) as client:
            found = await numbers(heard, 1000)
        assert set(found) == set(range(1, 1001))
        assert client.connections > 1


async def test_what_the_concentrator_still_held_when_the_broker_died_arrives_after_its_return(tmp_path: Path) -> None:
    file = tmp_path / "C1.db"
    kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    kept.SessionExpiryInterval = 600
    lasting: dict[str, Any] = {"identifier": "ear", "clean_start": False, "properties": kept}
    with mosquitto(tmp_path, saves_each_change=True) as broker:
        store = UnsentStore(file)
        said: asyncio.Queue[str] = asyncio.Queue()
        numbered = Numbered(rate=300, most=600)
        async with concentrator(at(broker), numbered=numbered, store=store, said=said, ends=True) as client:
            with contextlib.suppress(aiomqtt.MqttError):
                async with ear(broker, **lasting) as heard:
                    await numbers(heard, 50)
                    broker.kill()
            await said.get()  # it has noticed, and has had every acknowledgement that the broker could still send
            while len(store) < 50:  # noqa: ASYNC110  with the broker away it goes on, and keeps what it makes
                await asyncio.sleep(0.01)
            rows = sqlite3.connect(file).execute("SELECT payload FROM unsent").fetchall()
            held = {int(json.loads(payload)["values"]["1-0:1.8.0"]) for (payload,) in rows}
            await asyncio.to_thread(broker.start)
            async with ear(broker, **lasting) as heard:
                wanted = held | set(range(max(held) + 1, 601))  # what was acknowledged may have been heard before
                while wanted:
                    reading = await heard.next("/data")
                    wanted.discard(int(reading["values"]["1-0:1.8.0"]))
        assert client.connections == 2
        assert client.concentrator.is_finished
        store.close()


async def test_duplicates_reordering_and_damage_lose_nothing(broker: Broker) -> None:
    faults = ("duplicate=0.2", "reorder=100", "malformed=0.1")
    async with ear(broker) as heard:
        async with concentrator(at(broker), *faults, numbered=Numbered(rate=2000, most=1000)) as client:
            found: list[int] = []
            damaged = 0
            while len(set(found)) < 1000:
                async with asyncio.timeout(30):
                    message = await anext(heard._messages)
                if not message.topic.value.endswith("/data"):
                    continue
                try:
                    reading = json.loads(payload_of(message), parse_constant=lambda _: 1 / 0)
                    found.append(int(reading["values"]["1-0:1.8.0"]))
                except (ValueError, KeyError, RecursionError, ZeroDivisionError):
                    damaged += 1
            struck = client.concentrator.struck
        assert 130 < len(found) - 1000 <= struck["duplicate"]
        assert damaged > 50
        assert found != sorted(found)


# ------------------------------------------------------------------------------------------ who is let in


async def test_tls_with_a_private_ca_and_a_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    users = make_password_file(tmp_path, {"C1": "secret"})
    with mosquitto(tmp_path, tls=certificates, client_certificates=True, password_file=users) as broker:
        right = {
            "tls": True,
            "ca": certificates.ca,
            "certificate": certificates.client_certificate,
            "key": certificates.client_key,
            "username": "C1",
            "password": "secret",
        }
        async with concentrator(at(broker, **right)) as client:
            assert client.connections == 1
        for wrong, expected in (
            ({"ca": certificates.other_ca}, "certificate verify failed"),
            ({"password": "guessed"}, "Not authorized"),
        ):
            said: asyncio.Queue[str] = asyncio.Queue()
            async with concentrator(at(broker, **(right | wrong)), said=said, waits=False) as client:
                assert expected in await said.get()
            assert client.connections == 0


async def test_a_broker_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        broker.kill()
        said: asyncio.Queue[str] = asyncio.Queue()
        async with concentrator(at(broker), said=said, waits=False) as client:
            assert "refused" in await said.get()
            await asyncio.to_thread(broker.start)
            await client.ready.wait()
        assert said.empty()


# ------------------------------------------------------------------------------------------ the embedded broker


async def test_the_embedded_broker_serves_a_concentrator_and_a_foreign_client() -> None:
    async with embedded_broker() as url:
        port = int(url.rpartition(":")[2])
        address = BrokerAddress(host="127.0.0.1", port=port, version=4)
        async with concentrator(address, numbered=Numbered(rate=100)):
            listening = await asyncio.create_subprocess_exec(
                *("mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", "hes/v1/C1/meter/+/data"),
                *("-C", "5", "-W", "20"),
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await listening.communicate()
    found = [int(json.loads(line)["values"]["1-0:1.8.0"]) for line in output.splitlines()]
    assert len(found) == 5
    assert found == list(range(found[0], found[0] + 5))
