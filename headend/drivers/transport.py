"""Where a line's bytes come from: LINE URLs and the connections behind them.

    serial:///dev/ttyUSB0?baud=2400&parity=E     tcp://host:port     listen://0.0.0.0:9001?dtu=ID

A connection is an asyncio protocol/transport pair. `Connect` is the seam: the real one opens ports and sockets, tests hand in
a simulated line.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from headend.drivers.errors import BadLineUrl, LineDown, RateFixed
from headend.drivers.parity import Unmarking, mark_parity_errors

_SERIAL_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError)
with contextlib.suppress(ImportError):  # not on Windows
    from termios import error as termios_error  # no OSError, although it is one

    _SERIAL_ERRORS = (*_SERIAL_ERRORS, termios_error)

__all__ = [
    "DEAD_PEER_S",
    "Connect",
    "LineUrl",
    "RateSettable",
    "can_set_baud",
    "connect",
    "notice_a_dead_peer",
    "set_baud",
]

CONNECT_TIMEOUT_S = 10.0
# A far end that is gone without a word is noticed within so long, also when it goes between two probes and a request follows.
DEAD_PEER_S = 24.0
DTU_ID_MAX = 64
BAUD_DEFAULT = 2400  # RS-485 and contact optical head, DL/T 645-2007 §5.1
BAUDS = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
PARITIES = ("E", "N", "O")
_EXAMPLES = "serial:///dev/ttyUSB0?baud=2400&parity=E, tcp://192.168.1.20:9001 or listen://0.0.0.0:9001?dtu=ID"


class LineUrl(Struct, frozen=True, kw_only=True):
    """A LINE URL taken apart. device is set for serial lines, host and port for tcp and listen.

    scheme: serial, tcp or listen; listens:// is listen with is_tls. dtu: the id that the caller registers with; empty: any.
    """

    text: str
    scheme: str
    device: str = ""
    host: str = ""
    port: int = 0
    baud: int | None = None
    parity: str = "E"
    stop_bits: int = 1
    dtu: str = ""
    is_tls: bool = False

    @property
    def awaited(self) -> str:
        """What a line that somebody has to dial in for is waiting for; empty for the others, which connect by themselves."""
        if self.scheme != "listen":
            return ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"waiting for {f'DTU {self.dtu}' if self.dtu else 'a DTU'} to dial in on {host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "LineUrl":
        """Raises BadLineUrl, saying what was expected."""
        if not text.isprintable():
            raise BadLineUrl(text, f"it holds a character that cannot be printed; expected {_EXAMPLES}")
        try:
            parts = urlsplit(text)
        except ValueError as error:  # brackets that hold no IPv6 address
            raise BadLineUrl(text, f"{error}; expected {_EXAMPLES}, an IPv6 address as tcp://[::1]:9001") from error
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme == "serial":
            return _serial_url(text, (parts.netloc + parts.path) if parts.netloc else parts.path, options)
        if parts.scheme == "tcp":
            return _tcp_url(text, options)
        if parts.scheme in ("listen", "listens"):
            return _listen_url(text, options)
        raise BadLineUrl(text, f"expected {_EXAMPLES}")


def _serial_url(text: str, device: str, options: dict[str, str]) -> LineUrl:
    if not device:
        raise BadLineUrl(text, "no device in it; expected serial:///dev/ttyUSB0?baud=2400")
    if device.startswith("/COM"):
        device = device[1:]  # serial:///COM3 on Windows
    _only(text, options, "baud", "parity", "stop")
    baud = _number(text, options.get("baud", str(BAUD_DEFAULT)), "baud", BAUDS)
    parity = options.get("parity", "E").upper()
    if parity not in PARITIES:
        raise BadLineUrl(text, f"parity={parity}, expected one of {', '.join(PARITIES)}")
    stop_bits = _number(text, options.get("stop", "1"), "stop", (1, 2))
    return LineUrl(text=text, scheme="serial", device=device, baud=baud, parity=parity, stop_bits=stop_bits)


def _tcp_url(text: str, options: dict[str, str]) -> LineUrl:
    _only(text, options, "baud")
    host, port = _place(text, "tcp://host:port with a port of 1..65535")
    return LineUrl(text=text, scheme="tcp", host=host, port=port, baud=_baud(text, options))


def _listen_url(text: str, options: dict[str, str]) -> LineUrl:
    _only(text, options, "dtu", "baud")
    host, port = _place(
        text, "listen://HOST:PORT with a port of 1..65535, 0.0.0.0 to listen on every address of this machine"
    )
    dtu = options.get("dtu", "")
    if "dtu" in options and (not dtu.strip() or dtu != dtu.strip() or not dtu.isprintable() or len(dtu) > DTU_ID_MAX):
        raise BadLineUrl(text, f"dtu={dtu!r}, expected the id of its registration packet, 1 to {DTU_ID_MAX} characters")
    is_tls = urlsplit(text).scheme == "listens"
    return LineUrl(text=text, scheme="listen", host=host, port=port, baud=_baud(text, options), dtu=dtu, is_tls=is_tls)


def _place(text: str, expected: str) -> tuple[str, int]:
    parts = urlsplit(text)
    try:
        host, port = parts.hostname, parts.port
        if host:
            host.encode("idna")
    except UnicodeError as error:
        raise BadLineUrl(text, f"{host!r} is no host name: a label between dots is empty or too long") from error
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise BadLineUrl(text, f"expected {expected}")
    return host, port


def _baud(text: str, options: dict[str, str]) -> int | None:
    return _number(text, options["baud"], "baud", BAUDS) if "baud" in options else None


def _only(text: str, options: dict[str, str], *known: str) -> None:
    for name in options:
        if name not in known:
            raise BadLineUrl(text, f"unknown option {name!r}; expected {', '.join(known)}")


def _number(text: str, number: str, name: str, allowed: tuple[int, ...]) -> int:
    if not number.isdecimal() or int(number) not in allowed:
        raise BadLineUrl(text, f"{name}={number}, expected one of {', '.join(map(str, allowed))}")
    return int(number)


Connect = Callable[[LineUrl, asyncio.Protocol], Awaitable[asyncio.Transport]]


async def connect(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
    """Open the line; `protocol` gets its bytes. Raises LineDown with the reason and what to look at."""
    loop = asyncio.get_running_loop()
    if url.scheme == "listen":
        raise LineDown(url.text, "nobody listens for DTUs here; such lines are connected by a listener")
    try:
        if url.scheme == "tcp":
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port)
            notice_a_dead_peer(transport.get_extra_info("socket"))
            return transport
        return await _open_serial(url, protocol)
    except TimeoutError as error:
        raise LineDown(
            url.text, f"no connection within {CONNECT_TIMEOUT_S:.0f} s; is the serial server switched on and reachable?"
        ) from error
    except (OSError, UnicodeError) as error:  # the latter from a host name that no resolver would take
        raise LineDown(url.text, _why(url, error)) from error


def notice_a_dead_peer(connection: Any, within_s: float = DEAD_PEER_S) -> None:
    """A far end that lost its power or its mobile network says nothing: the system must find out within `within_s`.

    An idle connection is probed after a third of that and given up at half of it. Bytes sent are given up when they have not been
    acknowledged for half of it. The halves add up when a request is sent just before an idle connection would be given up: from
    then on the system waits for its acknowledgement instead.
    """
    half_s = within_s / 2
    idle_s = max(1, round(within_s / 3))
    step_s = max(1, int((half_s - idle_s) / 2))
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", idle_s),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", step_s),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 2),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(half_s * 1000)),  # ms; Linux, and there it rules the probes, too
    ):
        option = getattr(socket, name, None)
        if connection is not None and option is not None:
            with contextlib.suppress(OSError):  # a system that knows the name and refuses the value keeps its default
                connection.setsockopt(level, option, value)


async def _open_serial(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
    import serial_asyncio_fast  # here, not above: a head-end with TCP lines only must start where pyserial has no backend

    options: dict[str, Any] = {
        "baudrate": url.baud,
        "bytesize": 8,
        "stopbits": url.stop_bits,
        "parity": "N" if _is_pseudo_terminal(url.device) else url.parity,
    }
    port = None if _is_pseudo_terminal(url.device) else Unmarking(protocol)
    try:
        transport, _ = await serial_asyncio_fast.create_serial_connection(
            asyncio.get_running_loop(), lambda: port or protocol, url.device, exclusive=True, **options
        )
        # Nothing has been read yet: the transport begins to read in the next turn of the loop.
        if port is not None:
            port.marking = mark_parity_errors(cast(Any, transport.serial).fd)
    except _SERIAL_ERRORS as error:  # pyserial's SerialException is an OSError
        raise LineDown(url.text, _why(url, error)) from error
    return cast(asyncio.Transport, transport)


@runtime_checkable
class RateSettable(Protocol):
    """A transport that can change its own rate, as a simulated line's can."""

    def set_baud(self, baud: int) -> None: ...


def can_set_baud(transport: asyncio.Transport) -> bool:
    return isinstance(transport, RateSettable) or transport.get_extra_info("serial") is not None


def set_baud(transport: asyncio.Transport, url: LineUrl, baud: int) -> None:
    """Change the rate of an open connection. Raises RateFixed where the other end of a tunnel decides, LineDown."""
    if isinstance(transport, RateSettable):
        transport.set_baud(baud)
        return
    port = transport.get_extra_info("serial")
    if port is None:
        raise RateFixed(url.text, baud)
    try:
        port.baudrate = baud
        if not _is_pseudo_terminal(url.device):
            mark_parity_errors(port.fd)  # pyserial has just written the settings without them
    except _SERIAL_ERRORS as error:
        raise LineDown(url.text, _why(url, error)) from error


def _is_pseudo_terminal(device: str) -> bool:
    """It has no parity bit, and Linux refuses the setting the second time it is made."""
    return os.path.realpath(device).startswith("/dev/pts/")


def _why(url: LineUrl, error: Exception) -> str:
    text = str(error)
    if url.scheme == "tcp":
        reason = getattr(error, "strerror", None) or text
        return f"{reason}; is something listening on {url.host} port {url.port}?"
    if "ermission" in text:
        return f"no permission to open {url.device}; add this user to the device's group (dialout on Debian)"
    if "No such file" in text:
        return f"{url.device} does not exist; is the adapter plugged in? `ls -l /dev/serial/by-id` names what is there"
    if "exclusively lock" in text:
        return f"{url.device} is used by another program; a line has one owner"
    return text
