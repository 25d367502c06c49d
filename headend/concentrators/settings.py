"""What is configured of brokers and of the concentrators behind them.

mqtt://host:1883     mqtts://host:8883     (these ports where none is given)
"""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from headend.concentrators.errors import BadBrokerUrl

__all__ = ["BrokerSettings", "BrokerUrl", "ConcentratorSettings"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_EXAMPLES = "mqtt://192.168.1.20:1883 or mqtts://broker.example:8883"

SESSION_EXPIRY_S = 7 * 86400  # a week of outage on our side is kept by the broker
IN_FLIGHT_MAX = 500  # sent to us and not yet acknowledged; the broker may have a lower limit of its own (mosquitto: 20)
PACKET_BYTES_MAX = 256 * 1024  # two thousand values fit; a broker of MQTT 5 sends us nothing larger
KEEP_ALIVE_S = 15  # a broker that is gone without a word is noticed within twice this
SILENT_AFTER_S = 900.0


class BrokerUrl(Struct, frozen=True):
    text: str
    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Raises BadBrokerUrl, saying what was expected."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BadBrokerUrl(text, f"{error}; expected {_EXAMPLES}") from error
        if "@" in parts.netloc:
            shown = f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}"
            raise BadBrokerUrl(shown, "user names and passwords do not belong here: use `username` and `password`")
        if (
            parts.scheme not in _PORTS
            or not host
            or port == 0
            or parts.path.strip("/")
            or parts.query
            or parts.fragment
        ):
            raise BadBrokerUrl(text, f"expected {_EXAMPLES}")
        return cls(text, host, port or _PORTS[parts.scheme], parts.scheme == "mqtts")


class BrokerSettings(Struct, frozen=True, kw_only=True):
    """One broker and who we are to it.

    version: of MQTT, 5 or 4 (which is 3.1.1). client_id: the same at every start, or the broker keeps nothing for us; no other
    client may use it. password: a reference, "env:NAME" or "file:PATH". ca: of a private authority; None trusts the system's.
    certificate, key: for brokers that want to know us by one. session_expiry_s: how long the broker keeps our session (MQTT 5).
    in_flight_max: messages that the broker may send ahead of our acknowledgements. packet_bytes_max: larger ones are refused.
    clear_retained_commands: delete a retained message found on a command topic, instead of only reporting it.
    """

    name: str
    url: BrokerUrl
    client_id: str
    version: int = 5
    username: str = ""
    password: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    session_expiry_s: int = SESSION_EXPIRY_S
    keep_alive_s: int = KEEP_ALIVE_S
    in_flight_max: int = IN_FLIGHT_MAX
    packet_bytes_max: int = PACKET_BYTES_MAX
    clear_retained_commands: bool = False

    def tls(self) -> ssl.SSLContext | None:
        """None without TLS. Raises BadBrokerUrl when a file cannot be used."""
        if not self.url.tls:
            return None
        doing = f"the authority's certificate {self.ca}"
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.certificate is not None:
                doing = f"our certificate {self.certificate} with the key {self.key or self.certificate}"
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BadBrokerUrl(self.url.text, f"{doing} cannot be used: {reason}; expected a PEM file") from error
        return context


class ConcentratorSettings(Struct, frozen=True, kw_only=True):
    """One concentrator. name: as it stands in its topics, and what meters name as their line. contract: "concentrator/hes_v1".

    timezone: of times that its payloads write without one; prefix: stands before every topic; settings: constants of the contract's
    templates. None: as the contract says. silent_after_s: without any message for this long it counts as offline.
    """

    name: str
    broker: str
    contract: str
    timezone: str | None = None
    prefix: str | None = None
    settings: dict[str, str | int | bool] = {}
    silent_after_s: float = SILENT_AFTER_S

    @property
    def protocol(self) -> str:
        """Of the meters behind it, as far as the head-end's own line to them goes."""
        return "mqtt"
