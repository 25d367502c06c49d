"""MQTT 5: one message per event, QoS 1, and the broker's reason code decides what became of it.

CloudEvents, structured mode: the payload is the event as it is stored, `content type` says what it is; the event's id and sequence
stand in user properties, too, for bridges that do not look into payloads.

A broker that answers a publish with 0 (or 16, nobody is subscribed) has taken it. Whether a subscriber gets it is the broker's
promise: subscribers that must not miss anything need a session that outlives their absence, and look for gaps in `sequence`.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import paho.mqtt.client as paho
from aiomqtt import MqttError
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from headend.concentrators.client import MqttClient, why
from headend.concentrators.errors import BadBrokerUrl
from headend.concentrators.settings import BrokerSettings
from headend.feed.sinks.names import mqtt_topic
from headend.feed.sinks.settings import MqttSettings
from headend.feed.sinks.sink import Bad, Batch, DestinationAway, EventHead, head_of
from headend.secrets import BadSecret

__all__ = ["MqttSink"]

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
IN_FLIGHT_MAX = 200  # sent and not yet acknowledged, if the broker allows so many (mosquitto: 20)
PACKET_BYTES_MAX = 268_435_455  # of MQTT itself
FRAME_BYTES_MAX = (
    10  # of a PUBLISH beside topic, properties and payload: fixed header, length of the topic, packet identifier
)
TOO_LARGE = 149
REFUSED_FROM = 128
# Reason codes of MQTT 5 that blame the message; every other refusal is about us or the broker's state, and waits.
_BAD_MESSAGE = {
    144: "the broker does not accept its topic",
    TOO_LARGE: "it is larger than the broker takes",
    153: "the broker does not accept its payload",
}
_WAITING = {
    131: "the broker has a reason of its own not to take it",
    135: "this user may not publish there; compare `username` and the broker's access list with `topic`",
    151: "the broker's quota is used up",
}


class MqttSink:
    """name: of the head-end. resolve: what is behind a reference.

    The session with the broker ends with each connection: what was not acknowledged is sent again anyway.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        name: str,
        resolve: Callable[[str], str],
    ) -> None:
        self._settings = settings.broker
        self._topic = mqtt_topic(settings.topic, name)
        self._timeout_s = settings.timeout_s
        self._resolve = resolve
        self._client: _Publisher | None = None

    async def push(self, batch: Batch) -> Sequence[Bad]:
        """Raises DestinationAway. Events that were published and not acknowledged by then are sent again, with the same ids."""
        codes: list[int] = []
        problem: Exception | None = None
        try:
            client = await self._connected()
            messages = [self._message(event) for event in batch.events]
            await client.publish_all(messages, codes, timeout_s=self._timeout_s)
        except (MqttError, BadBrokerUrl, BadSecret) as error:
            problem = error
            await self.aclose()
        bad: list[Bad] = []
        for index, code in enumerate(codes):
            if code in _BAD_MESSAGE:
                bad.append(Bad(index, _BAD_MESSAGE[code]))
            elif code >= REFUSED_FROM:
                told = _WAITING.get(code, f"the broker does not take it (reason code {code})")
                raise DestinationAway(told, taken=index, bad=bad)
        if problem is not None:
            raise DestinationAway(why(problem), taken=len(codes), bad=bad) from problem
        return bad

    def _message(self, event: bytes) -> tuple[str, bytes, "_EventProperties"]:
        head = head_of(event)
        return self._topic(head), event, _EventProperties(head)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _connected(self) -> "_Publisher":
        if self._client is not None and not self._client.is_lost:
            return self._client
        await self.aclose()
        settings = self._settings
        client = _Publisher(
            settings,
            password=self._resolve(settings.password) if settings.password else None,
            tls=await asyncio.to_thread(settings.tls),
        )
        await client.connect()
        self._client = client
        return client


class _Publisher(MqttClient):
    """Publishes many and waits for all, with no more under way than the broker wants."""

    def __init__(self, settings: BrokerSettings, *, password: str | None, tls: ssl.SSLContext | None) -> None:
        super().__init__(settings, password=password, tls=tls, take=lambda message: None)
        self._window = IN_FLIGHT_MAX
        self._packet_max = PACKET_BYTES_MAX
        self._is_proven = False  # the broker has answered a publish of this connection

    @property
    def is_lost(self) -> bool:
        return self._disconnected.done()

    async def publish_all(
        self, messages: Sequence[tuple[str, bytes, "_EventProperties"]], codes: list[int], *, timeout_s: float
    ) -> None:
        """Appends the broker's reason codes in the order of the messages. Raises MqttError as soon as one is not acknowledged in time.

        The first of a connection goes alone: a broker that does not let us publish may hang up on what comes behind it, and then
        nobody would hear why.
        """
        under_way: deque[asyncio.Future[ReasonCode] | int] = deque()
        try:
            for topic, payload, properties in messages:
                if len(under_way) >= (self._window if self._is_proven else 1):
                    codes.append(await self._answer(under_way.popleft(), timeout_s))
                    self._is_proven = True
                under_way.append(self._publish(topic, payload, properties))
            while under_way:
                codes.append(await self._answer(under_way.popleft(), timeout_s))
        except BaseException:
            # What was answered meanwhile counts.
            codes += takewhile(lambda code: code >= 0, map(_code_of, under_way))
            self._answers.clear()
            raise

    def _publish(
        self, topic: str, payload: bytes, properties: "_EventProperties"
    ) -> "asyncio.Future[ReasonCode] | int":
        """The broker's answer to come; or what it would be, if that is known before."""
        size = len(topic.encode()) + len(payload) + len(properties.pack()) + FRAME_BYTES_MAX
        if size > self._packet_max:  # the broker has said so at the beginning, and would hang up
            return TOO_LARGE
        try:
            info = self._client.publish(topic, payload, 1, False, properties)
        except ValueError as error:  # what MQTT cannot say at all
            raise MqttError(f"not a message of MQTT: {error}") from error
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise MqttError("the connection was lost")
        answer: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._answers[info.mid] = answer
        return answer

    async def _answer(self, answer: "asyncio.Future[ReasonCode] | int", timeout_s: float) -> int:
        if not isinstance(answer, int) and not answer.done():
            await asyncio.wait((answer, self._disconnected), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if (code := _code_of(answer)) >= 0:
            return code
        if self._disconnected.done():
            raise MqttError(await self.wait_lost())
        raise MqttError(f"the broker did not acknowledge within {timeout_s:g} s")

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        with contextlib.suppress(AttributeError):  # a broker that names no limit allows 65,535
            self._window = max(1, min(IN_FLIGHT_MAX, properties.ReceiveMaximum))
        with contextlib.suppress(AttributeError):
            self._packet_max = properties.MaximumPacketSize
        super()._on_connect(client, userdata, flags, reason_code, properties)


def _code_of(answer: "asyncio.Future[ReasonCode] | int") -> int:
    """-1 while there is none."""
    if isinstance(answer, int):
        return answer
    return int(answer.result().value) if answer.done() else -1


class _EventProperties(Properties):
    """Content type, and id and sequence as user properties: the encoding of MQTT 5 §2.2.2, §3.3.2.3.

    paho's own takes longer than everything else that happens to a message together.
    """

    def __init__(self, head: EventHead) -> None:
        content = _CONTENT + _pair("id", head.id) + _pair("sequence", head.sequence)
        object.__setattr__(self, "_packed", _varint(len(content)) + content)

    def pack(self) -> bytes:
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed


def _pair(name: str, text: str) -> bytes:
    return b"\x26" + _text(name) + _text(text)


def _text(text: str) -> bytes:
    encoded = text.encode()[:65535]
    return len(encoded).to_bytes(2, "big") + encoded


def _varint(number: int) -> bytes:
    """§1.5.5: seven bits per byte, the lowest first."""
    encoded = bytearray()
    while True:
        number, low = divmod(number, 128)
        encoded.append(low | (128 if number else 0))
        if not number:
            return bytes(encoded)


_CONTENT = b"\x03" + _text(CONTENT_TYPE)
