"""What is configured of destinations. Light to load: every command reads the configuration, and few of them push."""

import ssl
from pathlib import Path
from zoneinfo import ZoneInfo

from msgspec import Struct

from headend.concentrators.settings import BrokerSettings

__all__ = [
    "FarEnd",
    "FileSettings",
    "MqttSettings",
    "NatsSettings",
    "PushSettings",
    "SinkConfig",
    "WebhookSettings",
]


class PushSettings(Struct, frozen=True, kw_only=True):
    """What every destination has, whatever its kind.

    url: as shown, without secrets. batch_max, bytes_max: of one push. live_within, live_age_s: a destination that comes back gets the
    newest events first, so many at most and none older; the rest follows in the second lane. live_per_s, back_fill_per_s: events, 0
    for no limit. from_beginning: where a destination starts that was never served: at the oldest event there is, or at the next one.
    protect_s: how long what it has not got is kept at least; None: for ever. park_max: more parked events make it wait.
    """

    name: str
    kind: str
    url: str
    batch_max: int = 500
    bytes_max: int = 1_000_000
    live_within: int = 2000
    live_age_s: float = 900.0
    live_per_s: float = 0.0
    back_fill_per_s: float = 2000.0
    from_beginning: bool = True
    protect_s: float | None = None
    park_max: int = 100


class WebhookSettings(Struct, frozen=True, kw_only=True):
    """secret, token: references, "env:NAME" or "file:PATH"; "" for none. tls: None for http://."""

    url: str
    secret: str = ""
    token: str = ""
    timeout_s: float = 30.0
    gzip: bool = True
    tls: ssl.SSLContext | None = None


class MqttSettings(Struct, frozen=True, kw_only=True):
    """broker: its session ends with each connection. topic: template of the events' topics."""

    broker: BrokerSettings
    topic: str
    timeout_s: float = 30.0


class NatsSettings(Struct, frozen=True, kw_only=True):
    """servers: nats:// or tls:// addresses. subject: template of the events' subjects. stream: the one that must take the events; ""
    for whichever does. password, token: references.
    """

    servers: tuple[str, ...]
    subject: str
    stream: str = ""
    username: str = ""
    password: str = ""
    token: str = ""
    tls: ssl.SSLContext | None = None
    timeout_s: float = 30.0


class FileSettings(Struct, frozen=True, kw_only=True):
    """format: "ndjson" | "csv" | "parquet" | "cim-xml". name: of the head-end, for the files' names. source: of its events, for the
    manifest. close_after_s: how long after midnight a day's file is written, so that what was read before midnight is stored by then.
    """

    folder: Path
    format: str
    zone: ZoneInfo
    name: str
    source: str
    close_after_s: float = 600.0


FarEnd = WebhookSettings | MqttSettings | NatsSettings | FileSettings


class SinkConfig(Struct, frozen=True, kw_only=True):
    """One destination. push: what all kinds have; far_end: what its kind needs."""

    push: PushSettings
    far_end: FarEnd

    @property
    def name(self) -> str:
        return self.push.name
