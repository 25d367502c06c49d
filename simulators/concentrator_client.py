"""A simulated concentrator at a real broker: aiomqtt around `concentrator.SimulatedConcentrator`.

The broker keeps its session, so commands that come while it is away wait for it. What it publishes stays in its store
until the broker has acknowledged it. An end in order publishes that it goes; any other leaves that to the last will.
"""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import struct
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import aiomqtt
from msgspec import Struct
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from simulators.concentrator import SimulatedConcentrator
from simulators.concentrator_faults import ConcentratorFault
from simulators.concentrator_traffic import Departing

__all__ = ["BrokerAddress", "ConcentratorClient"]

IN_FLIGHT_MAX = 20  # unacknowledged publications; what mosquitto and most brokers allow a client by default
REPLY_S = 10.0  # what a broker may take for any acknowledgement before the connection counts as lost
FAREWELL_S = 2.0
RETRY_S = (0.2, 5.0)
TICK_S_MIN = 0.002
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class BrokerAddress(Struct, frozen=True, kw_only=True):
    """ca: of the broker's certificate; None with tls uses the system's. certificate, key: the concentrator's own.

    version: 5, or 4 for MQTT 3.1.1. session_expiry_s: how long the broker keeps the session (MQTT 5).
    """

    host: str
    port: int
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password: str | None = None
    version: int = 5
    keepalive_s: int = 30
    session_expiry_s: int = 86_400

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class ConcentratorClient:
    """now: true time; monotonic time is the loop's. client_id: the concentrator's name when not given.

    ready: set when it is connected and subscribed for the first time. connections: how often it has been.
    """

    def __init__(
        self,
        concentrator: SimulatedConcentrator,
        broker: BrokerAddress,
        now: Callable[[], datetime],
        *,
        client_id: str | None = None,
        seed: int = 0,
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.concentrator = concentrator
        self.broker = broker
        self.ready = asyncio.Event()
        self.connections = 0
        self._client_id = client_id or concentrator.name
        self._now = now
        self._random = random.Random(f"{seed}/{concentrator.name}")
        self._report = report
        self._problem = ""
        self._stopping = asyncio.Event()
        self._to_tick = asyncio.Event()
        self._to_send = asyncio.Event()
        self._tls = _tls_context(broker)

    def stop(self) -> None:
        """End in order: `run` says farewell and returns."""
        self._stopping.set()
        self._to_send.set()

    async def run(self) -> None:
        """Until `stop`, or until all numbered readings are acknowledged."""
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(self._tick())
            try:
                await self._stay_connected()
            finally:
                ticking.cancel()

    async def _tick(self) -> None:
        """Meters are read and commands done whether or not the broker is there."""
        loop, concentrator = asyncio.get_running_loop(), self.concentrator
        while True:
            self._to_tick.clear()
            concentrator.tick(loop.time(), self._now())
            self._to_send.set()
            deadline = concentrator.deadline
            until = None if deadline is None else max(deadline, loop.time() + TICK_S_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._to_tick.wait()

    async def _stay_connected(self) -> None:
        wait_s = RETRY_S[0]
        while not self._stopping.is_set():
            before = self.connections
            client = self._client()
            try:
                async with client:
                    fault = await self._converse(client)
                    self.concentrator.lost()
                    if fault is None:
                        return
                    await self._vanish(client, fault)
            except aiomqtt.MqttError as error:
                self.concentrator.lost()
                self._tell(f"{self.broker.url}: {error}")
            wait_s = RETRY_S[0] if self.connections > before else min(wait_s * 2, RETRY_S[1])
            await self._pause(wait_s * (0.5 + self._random.random() / 2))

    async def _converse(self, client: "_Client") -> ConcentratorFault | None:
        """Until the end is wanted (None) or a fault wants the concentrator gone. Raises MqttError."""
        loop, concentrator = asyncio.get_running_loop(), self.concentrator
        for topic in concentrator.subscriptions:
            await self._subscribe(client, topic)
        self.connections += 1
        self._problem = ""
        concentrator.connected(loop.time(), self._now())
        self.ready.set()
        self._to_tick.set()
        publishing: set[asyncio.Task[None]] = set()

        def done(task: asyncio.Task[None]) -> None:
            publishing.discard(task)
            self._to_send.set()  # only now: woken earlier, the loop below would still count the task

        try:
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(self._receive(client))
                while not (self._stopping.is_set() or concentrator.is_finished):
                    self._to_send.clear()
                    fault = concentrator.drop(self._now())
                    if fault is not None:
                        break
                    if (room := IN_FLIGHT_MAX - len(publishing)) > 0:
                        for departing in concentrator.take_output(room, loop.time(), self._now()):
                            task = group.create_task(self._publish(client, departing))
                            publishing.add(task)
                            task.add_done_callback(done)
                    if concentrator.has_output and len(publishing) < IN_FLIGHT_MAX:
                        await asyncio.sleep(0)
                        continue
                    await self._to_send.wait()
                else:
                    fault = None
                for task in (receiving, *publishing):
                    task.cancel()
        except* aiomqtt.MqttError as errors:
            raise _first(errors) from errors
        if fault is None:
            await self._say_farewell(client)
        return fault

    async def _subscribe(self, client: "_Client", topic: str) -> None:
        if self.broker.version == 5:
            # Retained commands are wanted, with their flag: they are reported, not done.
            options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True)
            granted = await client.subscribe(topic, options=options)
        else:
            granted = await client.subscribe(topic, qos=1)
        if any(_code(one) >= 0x80 for one in granted):
            self._tell(f"{self.broker.url} refuses the subscription to {topic}: commands will not arrive")

    async def _receive(self, client: "_Client") -> None:
        loop = asyncio.get_running_loop()
        async for message in client.messages:
            payload = message.payload
            wire = payload if isinstance(payload, bytes) else str(payload or "").encode()
            self.concentrator.receive(str(message.topic), wire, message.retain, loop.time(), self._now())
            self._to_tick.set()
            self._to_send.set()

    async def _publish(self, client: "_Client", departing: Departing) -> None:
        message = departing.message
        await client.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)
        if departing.key is not None:
            self.concentrator.acknowledged(departing.key)

    async def _say_farewell(self, client: "_Client") -> None:
        with contextlib.suppress(TimeoutError, aiomqtt.MqttError):
            async with asyncio.timeout(FAREWELL_S):
                for message in self.concentrator.farewell(self._now()):
                    await client.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)

    async def _vanish(self, client: "_Client", fault: ConcentratorFault) -> None:
        """Nothing is read or sent, and nobody is told."""
        if fault.get("socket") == "stays":
            client.freeze()
        else:
            client.abandon()
        await self._pause(fault.get("for_s"))
        client.abandon()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _tell(self, problem: str) -> None:
        """Once, until it is another or has been overcome."""
        if problem != self._problem:
            self._problem = problem
            self._report(f"{self.concentrator.name}: {problem}")

    def _client(self) -> "_Client":
        broker, will = self.broker, self.concentrator.will
        fifth = broker.version == 5
        properties = None
        if fifth:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = broker.session_expiry_s
        client = _Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password,
            logger=_LOGGER,
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if fifth else aiomqtt.ProtocolVersion.V311,
            will=None
            if will is None
            else aiomqtt.Will(will.topic, payload=will.payload, qos=will.qos, retain=will.retain),
            clean_session=None if fifth else False,
            clean_start=False if fifth else MQTT_CLEAN_START_FIRST_ONLY,
            timeout=REPLY_S,
            keepalive=broker.keepalive_s,
            max_inflight_messages=IN_FLIGHT_MAX,
            properties=properties,
            tls_context=self._tls,
        )
        client.pending_calls_threshold = 2 * IN_FLIGHT_MAX
        return client


class _Client(aiomqtt.Client):
    """aiomqtt has no way to vanish without DISCONNECT: that is what these two are for."""

    def freeze(self) -> None:
        """Neither read nor send any more; the connection stays as it is."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket) and sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        if self._misc_task is not None:
            self._misc_task.cancel()

    def abandon(self) -> None:
        """Close the socket with a reset. The context manager then has nothing left to end."""
        self.freeze()
        sock = self._client.socket()
        if isinstance(sock, socket.socket) and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            sock.close()
        if not self._disconnected.done():
            self._disconnected.set_result(None)


_LOGGER = logging.getLogger("meter-sim.mqtt")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False


def _tls_context(broker: BrokerAddress) -> ssl.SSLContext | None:
    """Raises OSError for files that are not there or no certificates."""
    if not broker.tls:
        return None
    context = ssl.create_default_context(cafile=None if broker.ca is None else str(broker.ca))
    if broker.certificate is not None:
        context.load_cert_chain(broker.certificate, broker.key)
    return context


def _first(errors: ExceptionGroup[aiomqtt.MqttError]) -> aiomqtt.MqttError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


def _code(granted: object) -> int:
    value = getattr(granted, "value", granted)
    return value if isinstance(value, int) else 0
