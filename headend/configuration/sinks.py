"""`[[sinks]]` of a configuration: where the feed is pushed to, and how.

[[sinks]]
name = "billing"
kind = "webhook"                   # webhook | mqtt | nats | file
url = "https://billing.example/reads"
secret = "env:BILLING_SECRET"      # whsec_…, signs every push
protect = "14d"                    # what it has not got is kept so long at least; without, for ever
"""

import importlib.util
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from headend.concentrators.errors import BadBrokerUrl
from headend.concentrators.settings import BrokerSettings, BrokerUrl
from headend.configuration.brokers import Duration
from headend.configuration.reader import Entry, Reader
from headend.configuration.words import Name, Secret
from headend.feed.sinks.names import BadTemplate, mqtt_topic, nats_subject
from headend.feed.sinks.settings import (
    FarEnd,
    FileSettings,
    MqttSettings,
    NatsSettings,
    PushSettings,
    SinkConfig,
    WebhookSettings,
)

__all__ = ["BadSinkUrl", "SinkTable", "sinks_of"]

_DURATION_S = {"m": 60, "h": 3600, "d": 86400}
_PORTS_LOCAL = ("127.0.0.1", "::1", "localhost")
_TOPICS = {"mqtt": "headend/{name}/{kind}/{subject}", "nats": "headend.{name}.{kind}.{subject}"}
_COMMON = {"name", "kind", "url", "start", "protect"}
_PUSHED = {"batch", "live_within", "live_age", "live_rate", "back_fill_rate", "park_max", "timeout_s"}
_TLS = {"ca", "certificate", "key"}
_KEYS = {
    "webhook": _COMMON | _PUSHED | _TLS | {"secret", "token", "gzip"},
    "mqtt": _COMMON | _PUSHED | _TLS | {"username", "password", "client_id", "topic"},
    "nats": _COMMON | _PUSHED | _TLS | {"username", "password", "token", "topic", "stream"},
    "file": _COMMON | {"format"},
}


class BadSinkUrl(ValueError):
    """Says what was expected."""


Secret = Secret


class SinkTable(BaseModel):
    """Keys that a kind has no use for are a mistake. Rates are events per second, 0 for no limit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    kind: Literal["webhook", "mqtt", "nats", "file"]
    url: str
    secret: Secret | None = None
    token: Secret | None = None
    username: str = ""
    password: Secret | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    client_id: Annotated[str, Field(pattern=r"^[!-~]{1,128}$")] | None = None
    topic: str | None = None
    stream: Annotated[str, Field(pattern=r"^[^\s.*>/\\]{1,128}$")] | None = None
    format: Literal["csv", "ndjson", "parquet", "cim-xml"] = "ndjson"
    gzip: bool = True
    timeout_s: Annotated[float, Field(ge=1, le=300, strict=False)] = 30.0
    batch: Annotated[int, Field(ge=1, le=5000)] = 500
    live_within: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    live_age: Duration = "15m"
    live_rate: Annotated[float, Field(ge=0, le=1_000_000, strict=False)] = 0.0
    back_fill_rate: Annotated[float, Field(ge=0, le=1_000_000, strict=False)] = 2000.0
    start: Literal["beginning", "now"] = "beginning"
    protect: Duration | None = None
    park_max: Annotated[int, Field(ge=1, le=10_000)] = 100


def sinks_of(reader: Reader, entries: Sequence[Entry], *, head_end: str, zone: ZoneInfo) -> dict[str, SinkConfig]:
    """The usable ones, by name. entries: uniquely named. head_end: its name. Paths start from the file's folder."""
    folder = reader.path.resolve().parent
    found: dict[str, SinkConfig] = {}
    for entry in entries:
        if (table := entry.good) is None:
            continue
        unfit = sorted(key for key in table.model_fields_set if key not in _KEYS[table.kind])
        if unfit:
            entry.report(
                unfit[0], f"has no meaning for kind {table.kind}; expected of {', '.join(sorted(_KEYS[table.kind]))}"
            )
            continue
        try:
            far_end, shown = _far_end(entry, table, folder, head_end, zone)
        except BadSinkUrl as error:
            entry.report("url", f"{error}; the destination is left out")
        except BadTemplate as error:
            entry.report("topic", f"{error}; the destination is left out")
        except BadBrokerUrl as error:
            key = "ca" if "authority" in str(error) else "certificate" if "certificate" in str(error) else "url"
            entry.report(key, f"{error}; the destination is left out")
        else:
            found[table.name] = SinkConfig(push=_push(table, shown), far_end=far_end)
    return found


def _push(table: SinkTable, shown: str) -> PushSettings:
    return PushSettings(
        name=table.name,
        kind=table.kind,
        url=shown,
        batch_max=table.batch,
        live_within=table.live_within,
        live_age_s=float(_seconds(table.live_age)),
        live_per_s=table.live_rate,
        back_fill_per_s=table.back_fill_rate,
        from_beginning=table.start == "beginning",
        protect_s=None if table.protect is None else float(_seconds(table.protect)),
        park_max=table.park_max,
    )


def _far_end(entry: Entry, table: SinkTable, folder: Path, head_end: str, zone: ZoneInfo) -> tuple[FarEnd, str]:
    """And its address as it may be shown. Raises BadSinkUrl, BadTemplate, BadBrokerUrl."""
    if table.kind == "webhook":
        return _webhook(entry, table, folder), table.url
    if table.kind == "mqtt":
        return _mqtt(table, folder, head_end), table.url
    if table.kind == "nats":
        return _nats(table, folder, head_end), table.url
    path = _folder(table.url, folder)
    if table.format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BadSinkUrl("Parquet needs the extra: install headend[parquet]")
    settings = FileSettings(folder=path, format=table.format, zone=zone, name=head_end, source=f"/headend/{head_end}")
    return settings, path.as_uri()


def _webhook(entry: Entry, table: SinkTable, folder: Path) -> WebhookSettings:
    example = "expected https://host/path"
    try:
        parts = urlsplit(table.url)
        port_is_right = parts.port != 0
    except ValueError as error:
        raise BadSinkUrl(f"{table.url!r}: {error}; {example}") from error
    if "@" in parts.netloc:
        raise BadSinkUrl("user names and passwords do not belong here: put a bearer token behind `token`")
    if parts.scheme not in ("https", "http") or not parts.hostname or not port_is_right or not table.url.isascii():
        raise BadSinkUrl(f"{table.url!r}; {example}")
    if table.token and parts.scheme == "http" and parts.hostname not in _PORTS_LOCAL:
        entry.report(
            "token", f"goes to {parts.hostname} in the clear, because {table.url} has no TLS; https:// hides it"
        )
    return WebhookSettings(
        url=table.url,
        secret=table.secret or "",
        token=table.token or "",
        timeout_s=table.timeout_s,
        gzip=table.gzip,
        tls=_tls(table, folder, has_tls=parts.scheme == "https"),
    )


def _mqtt(table: SinkTable, folder: Path, head_end: str) -> MqttSettings:
    template = table.topic if table.topic is not None else _TOPICS["mqtt"]
    mqtt_topic(template, head_end)
    broker = BrokerSettings(
        name=table.name,
        url=BrokerUrl.parse(table.url),
        client_id=table.client_id or f"headend-{head_end}-to-{table.name}",
        username=table.username,
        password=table.password or "",
        ca=_file(folder, table.ca),
        certificate=_file(folder, table.certificate),
        key=_file(folder, table.key),
        session_expiry_s=0,  # nothing is waited for; what was not acknowledged is sent again
    )
    if not broker.url.tls and (table.ca or table.certificate or table.key):
        raise BadSinkUrl(f"{table.url} has no TLS; expected mqtts:// with `ca`, `certificate` and `key`")
    broker.tls()
    return MqttSettings(broker=broker, topic=template, timeout_s=table.timeout_s)


def _nats(table: SinkTable, folder: Path, head_end: str) -> NatsSettings:
    if importlib.util.find_spec("nats") is None:
        raise BadSinkUrl("NATS needs the extra: install headend[nats]")
    servers = tuple(part.strip() for part in table.url.split(","))
    for server in servers:
        try:
            parts = urlsplit(server)
            is_good = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            parts, is_good = urlsplit(""), False
        if "@" in parts.netloc:
            raise BadSinkUrl("user names and passwords do not belong here: use `username`, `password` and `token`")
        if not is_good or parts.path.strip("/") or parts.query:
            raise BadSinkUrl(f"{server!r}; expected nats://host:4222 or tls://host:4222, several with commas between")
    template = table.topic if table.topic is not None else _TOPICS["nats"]
    nats_subject(template, head_end)
    return NatsSettings(
        servers=servers,
        subject=template,
        stream=table.stream or "",
        username=table.username,
        password=table.password or "",
        token=table.token or "",
        tls=_tls(table, folder, has_tls=any(server.startswith("tls:") for server in servers)),
        timeout_s=table.timeout_s,
    )


def _tls(table: SinkTable, folder: Path, *, has_tls: bool) -> ssl.SSLContext | None:
    if not has_tls:
        if table.ca or table.certificate or table.key:
            raise BadSinkUrl(f"{table.url} has no TLS; `ca`, `certificate` and `key` are for https:// and tls://")
        return None
    doing = f"the authority's certificate {table.ca}"
    try:
        context = ssl.create_default_context(cafile=None if table.ca is None else str(folder / table.ca))
        if table.certificate is not None:
            doing = f"our certificate {table.certificate} with the key {table.key or table.certificate}"
            context.load_cert_chain(folder / table.certificate, None if table.key is None else folder / table.key)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadBrokerUrl(table.url, f"{doing} cannot be used: {reason}; expected a PEM file") from error
    return context


def _folder(url: str, base: Path) -> Path:
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") or parts.netloc or not parts.path:
        raise BadSinkUrl(f"{url!r}; expected a folder: file:///var/lib/headend/days, or one beside this file: days")
    return (base / unquote(parts.path)).resolve()


def _file(folder: Path, text: str | None) -> Path | None:
    return None if text is None else folder / text


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * _DURATION_S[duration[-1]]
