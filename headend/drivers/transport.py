"""Where a line's bytes come from: LINE URLs and the connections behind them.

    serial:///dev/ttyUSB0?baud=2400&parity=E     tcp://host:port

A connection is an asyncio protocol/transport pair. `Connect` is the seam: the real one opens ports and sockets, tests hand in
a simulated line.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from headend.drivers.errors import BadLineUrl, LineDown

_SERIAL_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError)
with contextlib.suppress(ImportError):  # not on Windows
    from termios import error as termios_error  # no OSError, although it is one

    _SERIAL_ERRORS = (*_SERIAL_ERRORS, termios_error)

__all__ = ["Connect", "LineUrl", "connect"]

CONNECT_TIMEOUT_S = 10.0
BAUD_DEFAULT = 2400  # RS-485 and contact optical head, DL/T 645-2007 §5.1
BAUDS = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
PARITIES = ("E", "N", "O")
_EXAMPLES = "serial:///dev/ttyUSB0?baud=2400&parity=E or tcp://192.168.1.20:9001"


class LineUrl(Struct, frozen=True, kw_only=True):
    """A LINE URL taken apart. device is set for serial lines, host and port for tcp."""

    text: str
    scheme: str
    device: str = ""
    host: str = ""
    port: int = 0
    baud: int | None = None
    parity: str = "E"
    stop_bits: int = 1

    @classmethod
    def parse(cls, text: str) -> "LineUrl":
        """Raises BadLineUrl, saying what was expected."""
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme == "serial":
            return _serial_url(text, (parts.netloc + parts.path) if parts.netloc else parts.path, options)
        if parts.scheme == "tcp":
            return _tcp_url(text, options)
        if parts.scheme == "listen":
            raise BadLineUrl(
                text, "lines that dial in (listen://) are not served by this version; use tcp:// or serial://"
            )
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
    parts = urlsplit(text)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise BadLineUrl(text, "expected tcp://host:port with a port of 1..65535")
    baud = _number(text, options["baud"], "baud", BAUDS) if "baud" in options else None
    return LineUrl(text=text, scheme="tcp", host=host, port=port, baud=baud)


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
    try:
        if url.scheme == "tcp":
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port)
            return transport
        return await _open_serial(url, protocol)
    except TimeoutError as error:
        raise LineDown(
            url.text, f"no connection within {CONNECT_TIMEOUT_S:.0f} s; is the serial server switched on and reachable?"
        ) from error
    except OSError as error:
        raise LineDown(url.text, _why(url, error)) from error


async def _open_serial(url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
    import serial_asyncio_fast  # here, not above: a head-end with TCP lines only must start where pyserial has no backend

    options: dict[str, Any] = {
        "baudrate": url.baud,
        "bytesize": 8,
        "stopbits": url.stop_bits,
        "parity": "N" if _is_pseudo_terminal(url.device) else url.parity,
    }
    try:
        transport, _ = await serial_asyncio_fast.create_serial_connection(
            asyncio.get_running_loop(), lambda: protocol, url.device, exclusive=True, **options
        )
    except _SERIAL_ERRORS as error:  # pyserial's SerialException is an OSError
        raise LineDown(url.text, _why(url, error)) from error
    return cast(asyncio.Transport, transport)


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
