"""How callers on one listening port are recognised, checked and limited.

The defaults take what the usual DTUs send. No standard says what that is; this is what their manuals offer:

- registration: the ICCID (20 digits), the IMEI (15), a MAC address, or a text of the operator's choice of at most 40 bytes, once after
  connecting or before every message (USR-N580 manual 5.6; USR-GPRS232 manual 6.2; LuatOS iRTU, `register`).
- heartbeat: the same again, or a short text: "www.usr.cn" (USR), "ping" (iRTU); every 30 to 60 s while nothing else is sent.
"""

import re
import ssl
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from headend.drivers.dtu_pattern import BadPattern, PacketPattern
from headend.drivers.transport import DEAD_PEER_S
from headend.errors import HeadendError

__all__ = ["BadListener", "ListenerSettings", "Network", "TlsSettings", "bytes_of", "networks", "tls_context"]

Network = IPv4Network | IPv6Network

# An id of 8 to 20 characters without spaces, which ICCID and IMEI are, too, and a line end if there is one.
REGISTRATION = r"(?P<id>[!-~]{8,20})[\r\n]{0,2}"
HEARTBEAT = r"(?i)(?:ping|heart[ _-]?beat|www\.usr\.cn)[\r\n]{0,2}"
REPLY_MAX = 256


class BadListener(HeadendError):
    """A setting of a listening port that cannot be used."""


class TlsSettings(Struct, frozen=True, kw_only=True):
    """PEM files. client_ca: callers must show a certificate of this authority; None: any caller may come."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class ListenerSettings(Struct, frozen=True, kw_only=True):
    """Of one HOST:PORT.

    registration: has a group "id". heartbeat: None when the DTUs send none but repeats of their registration.
    repeats_are_heartbeats: the id or the registration packet again never reaches the meters' session.
    registration_reply, heartbeat_reply: sent to known DTUs only; empty: nothing. A transparent DTU hands them on to the meters.
    register_within_s: a caller that has not said by then who it is is hung up on.
    heartbeat_timeout_s: a DTU that has sent nothing for so long is hung up on; 0: never, TCP finds out by itself.
    dead_peer_s: within this a far end that is gone without a word is noticed; less than 12 gives up too easily.
    allow: networks that callers may come from; empty: any.
    callers_max: callers that no line owns; beyond it the one that has waited longest is hung up on.
    unknown_max: of the quarantine list. connects_per_s_max: accepted, over all; peer_…: from one address.
    handshakes_max: TLS handshakes at once.
    """

    registration: PacketPattern = PacketPattern(REGISTRATION, group="id")
    heartbeat: PacketPattern | None = PacketPattern(HEARTBEAT)
    repeats_are_heartbeats: bool = True
    registration_reply: bytes = b""
    heartbeat_reply: bytes = b""
    register_within_s: float = 15.0
    heartbeat_timeout_s: float = 0.0
    dead_peer_s: float = DEAD_PEER_S
    allow: tuple[Network, ...] = ()
    tls: TlsSettings | None = None
    callers_max: int = 1000
    unknown_max: int = 1000
    connects_per_s_max: float = 200.0
    peer_connects_per_s_max: float = 50.0  # many DTUs of one mobile operator may share an address
    handshakes_max: int = 200

    def with_patterns(self, *, registration: str | None = None, heartbeat: str | None = None) -> "ListenerSettings":
        """Other patterns, as texts; an empty heartbeat for none. Raises BadListener."""
        try:
            changed = self
            if registration is not None:
                changed = replace(changed, registration=PacketPattern(registration, what="registration", group="id"))
            if heartbeat is not None:
                pattern = PacketPattern(heartbeat, what="heartbeat") if heartbeat else None
                changed = replace(changed, heartbeat=pattern)
        except BadPattern as error:
            raise BadListener(str(error)) from error
        return changed


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """An allow list. Raises BadListener."""
    found = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise BadListener(
                f"allow {text!r}: {error}; expected a network such as 10.20.0.0/16 or one address"
            ) from error
    return tuple(found)


def bytes_of(text: str, *, what: str = "reply") -> bytes:
    """A packet to send: text as it stands, or hex digits after "hex:". Raises BadListener."""
    if not text.startswith("hex:"):
        wire = text.encode()
    else:
        digits = re.sub(r"[\s_-]", "", text[4:])
        if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", digits):
            raise BadListener(f"{what} {text!r}: expected pairs of hex digits after hex:")
        wire = bytes.fromhex(digits)
    if len(wire) > REPLY_MAX:
        raise BadListener(f"{what} is {len(wire)} bytes long, expected at most {REPLY_MAX}")
    return wire


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Reads the files. Raises BadListener, saying which file and what is wrong with it."""
    for what, path in (
        ("certificate", settings.certificate),
        ("key", settings.key),
        ("client CA", settings.client_ca),
    ):
        if path is None:
            continue
        try:
            path.read_bytes()
        except OSError as error:
            raise BadListener(f"TLS {what} {path}: {error.strerror or error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # what the modems of DTUs speak
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except ssl.SSLError as error:
        raise BadListener(
            f"TLS certificate {settings.certificate} and key {settings.key} cannot be used together: {error.reason or error}; "
            f"expected PEM files, the certificate first and its key without a password"
        ) from error
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError as error:
            raise BadListener(f"TLS client CA {settings.client_ca}: {error.reason or error}; expected PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
