"""Simulated DTUs: modems with a line of meters behind them that dial in to a head-end, as those in mobile networks do.

A DTU connects, says who it is, and is transparent from then on: what comes goes to its line, what the meters answer goes back. When it
has had nothing to send for a while it sends a heartbeat. When its connection is lost it dials again, with a pause that
doubles and is drawn from its own seed, so that a thousand of them do not come back in the same second.
"""

import asyncio
import random
import re
import ssl
from typing import cast

from msgspec import Struct

from simulators.line import SimulatedLine

__all__ = ["BadPacket", "DtuCounters", "DtuSettings", "SimulatedDtu", "count_up", "packet"]

UNREAD_MAX = 65_536  # a head-end that does not read is dropped rather than remembered
CONNECT_TIMEOUT_S = 20.0
_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


class BadPacket(ValueError):
    """A template or first id that cannot be used."""


def packet(template: str, dtu: str) -> bytes:
    """{id} becomes the id; \\r \\n \\t \\0 \\\\ and \\xNN the bytes they stand for. Raises BadPacket."""

    def byte(found: "re.Match[bytes]") -> bytes:
        name = found[1].decode("latin-1")
        if name.startswith("x") and len(name) == 3:
            return bytes([int(name[1:], 16)])
        if name not in _ESCAPES:
            raise BadPacket(f"{template!r}: \\{name} is none of \\r \\n \\t \\0 \\\\ \\xNN")
        return _ESCAPES[name]

    text = template.replace("{id}", dtu).encode()
    return re.sub(rb"\\(x[0-9A-Fa-f]{2}|.?)", byte, text, flags=re.DOTALL)


def count_up(first: str, count: int) -> list[str]:
    """`count` ids from the first on: its last digits count, its length stays. Raises BadPacket."""
    found = re.fullmatch(r"(.*?)(\d+)", first)
    if found is None or not first.isprintable():
        raise BadPacket(f"{first!r}, expected an id that ends in digits, such as 860000000000001")
    start, width = int(found[2]), len(found[2])
    if len(str(start + count - 1)) > width:
        raise BadPacket(f"{count} ids from {first} do not fit its {width} digits")
    return [f"{found[1]}{start + index:0{width}}" for index in range(count)]


class DtuSettings(Struct, frozen=True, kw_only=True):
    """Where to dial in, and what to say. heartbeat: empty for none, else after heartbeat_s without anything sent.

    tls: None for plain TCP. redial_s: the first pause, and the longest.
    """

    host: str
    port: int
    registration: bytes
    heartbeat: bytes = b""
    heartbeat_s: float = 30.0
    tls: ssl.SSLContext | None = None
    tls_name: str = ""
    redial_s: tuple[float, float] = (1.0, 30.0)


class DtuCounters(Struct):
    """Since start. bytes_received: from the head-end."""

    dialled: int = 0
    connected: int = 0
    lost: int = 0
    heartbeats: int = 0
    bytes_received: int = 0


class SimulatedDtu(asyncio.Protocol):
    """One DTU. `run` it in a task; it dials until it is cancelled.

    is_mute: True lets it take everything and answer nothing, heartbeats neither, as one whose network is gone.
    problem: why the last attempt failed; empty while connected.
    """

    def __init__(self, dtu: str, settings: DtuSettings, line: SimulatedLine, *, seed: int) -> None:
        self.dtu = dtu
        self.counters = DtuCounters()
        self.is_mute = False
        self.problem = "has not dialled yet"
        self._settings = settings
        self._line = line
        self._random = random.Random(seed)
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    @property
    def is_connected(self) -> bool:
        return self._transport is not None

    async def run(self, wait_s: float = 0.0) -> None:
        """wait_s: before it dials for the first time."""
        await asyncio.sleep(wait_s)
        first_s, longest_s = self._settings.redial_s
        pause_s = first_s
        loop = asyncio.get_running_loop()
        try:
            while True:
                dialled_at = loop.time()
                if await self._dial():
                    await self._lost.wait()
                    if loop.time() - dialled_at > longest_s:
                        pause_s = first_s
                await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.5))
                pause_s = min(pause_s * 2, longest_s)
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _dial(self) -> bool:
        settings = self._settings
        self.counters.dialled += 1
        self._lost.clear()
        name = settings.tls_name or settings.host if settings.tls is not None else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: self, settings.host, settings.port, ssl=settings.tls, server_hostname=name
                )
        except (OSError, ssl.SSLError) as error:  # a TimeoutError is an OSError
            self.problem = getattr(error, "verify_message", "") or str(error) or type(error).__name__
            return False
        return True

    # -------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.counters.connected += 1
        self.problem = ""
        self._line.attach(self, self._hear)
        self._send(self._settings.registration)
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        self.counters.bytes_received += len(data)
        if not self.is_mute:
            self._line.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._line.detach(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.counters.lost += 1
        self.problem = str(exc) if exc else "the head-end hung up"
        self._lost.set()

    def _hear(self, chunk: bytes) -> None:
        if not self.is_mute:
            self._send(chunk)

    def _send(self, wire: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or not wire:
            return
        if transport.get_write_buffer_size() > UNREAD_MAX:
            transport.abort()
            return
        self._sent_at = asyncio.get_running_loop().time()
        transport.write(wire)

    def _set_timer(self) -> None:
        if self._settings.heartbeat and self._transport is not None:
            at = self._sent_at + self._settings.heartbeat_s
            self._timer = asyncio.get_running_loop().call_at(at, self._beat)

    def _beat(self) -> None:
        if asyncio.get_running_loop().time() >= self._sent_at + self._settings.heartbeat_s:
            if self.is_mute:
                self._sent_at = asyncio.get_running_loop().time()
            else:
                self.counters.heartbeats += 1
                self._send(self._settings.heartbeat)
        self._set_timer()
