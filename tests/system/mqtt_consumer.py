"""A billing system behind an MQTT broker: a session that outlives its absence, and everything it was given by id."""

import json
import threading
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

__all__ = ["MqttConsumer"]

SESSION_S = 3600


class MqttConsumer:
    """Acknowledges a message after it has taken it down (QoS 1). repeats: messages with an id that it had already.

    changed: such messages whose content was another one.
    """

    def __init__(self, host: str, port: int, topic: str) -> None:
        self.events: dict[str, Any] = {}
        self.repeats = 0
        self.changed: list[str] = []
        self._place = (host, port)
        self._topic = topic
        self._subscribed = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="billing", protocol=paho.MQTTv5, manual_ack=True
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def come(self) -> None:
        """Returns when it is there and its session exists."""
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = SESSION_S
        self._subscribed.clear()
        self._client.connect(*self._place, clean_start=False, properties=session)
        self._client.loop_start()
        assert self._subscribed.wait(20)

    def go(self) -> None:
        """Away without a word, like a crash: what it has not acknowledged comes again."""
        if (connection := self._client.socket()) is not None:
            connection.close()
        self._client.loop_stop()
        self._client.disconnect()

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe(self._topic, qos=1)

    def _on_message(self, client: paho.Client, _: object, message: paho.MQTTMessage) -> None:
        event = json.loads(message.payload)
        known = self.events.setdefault(event["id"], event)
        if known is not event:
            self.repeats += 1
            if known != event:
                self.changed.append(event["id"])
        client.ack(message.mid, message.qos)
