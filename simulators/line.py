"""The wire between a master and simulated meters: in memory, over TCP, or through a pseudo-terminal.

A line is half duplex and has one pair of wires: whoever is attached hears every reply. With a rate, bytes take the time
they would take (11 bits each, 8E1), in both directions; without one they arrive at once. Only `call_at` of the running
loop is used, so that it works alike in virtual and in real time.

The shells attach a socket or a pseudo-terminal to the same line that tests use in memory.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol, cast

from protocols.exchange import BITS_PER_BYTE

__all__ = ["Bus", "LineTransport", "PtyPort", "SimulatedLine", "serve_pty", "serve_tcp"]

# A client that does not read is dropped rather than remembered: a reply is at most 271 bytes, this is hundreds of them.
UNREAD_MAX = 65_536


class Bus(Protocol):
    """What hangs on a line. Monotonic seconds drive it, true time is for what the meters measure.

    byte_s: how long a byte takes on the wire, 0 for no time. on_wake: called when `deadline` has moved by itself.
    """

    byte_s: float
    on_wake: Callable[[], None] | None

    @property
    def deadline(self) -> float | None: ...
    def receive(self, chunk: bytes, monotonic: float, now: datetime) -> None: ...
    def tick(self, monotonic: float, now: datetime) -> None: ...
    def take_output(self) -> list[bytes]: ...


class SimulatedLine:
    """One line and the bus on it; belongs to the loop that first uses it.

    now: true time, aware UTC. baud: None for a line without rate. byte_by_byte: replies are delivered in chunks of one.
    reachable: False refuses new connections, as a gateway without power does.
    """

    def __init__(
        self, bus: Bus, now: Callable[[], datetime], *, baud: int | None = None, byte_by_byte: bool = False
    ) -> None:
        if baud is not None and baud <= 0:
            raise ValueError(f"baud {baud}, expected a positive rate or None")
        self.bus = bus
        self.byte_by_byte = byte_by_byte
        self.reachable = True
        self._now = now
        self._byte_s = 0.0 if baud is None else BITS_PER_BYTE / baud
        bus.byte_s = self._byte_s
        bus.on_wake = self._wake
        self._loop: asyncio.AbstractEventLoop | None = None
        self._to_meters_free_at = 0.0
        self._to_master_free_at = 0.0
        self._listeners: dict[object, Callable[[bytes], None]] = {}
        self._transports: list[LineTransport] = []
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0

    async def connect(self, protocol: asyncio.Protocol) -> "LineTransport":
        """Attach a master in memory. Raises ConnectionRefusedError while the line is not reachable."""
        if not self.reachable:
            raise ConnectionRefusedError("the simulated line is not reachable")
        transport = LineTransport(self, protocol)
        self._transports.append(transport)
        protocol.connection_made(transport)
        return transport

    def drop(self) -> None:
        """Cut every connection, as a gateway that restarts does; its masters see a reset."""
        for transport in list(self._transports):
            transport.lose(ConnectionResetError("the simulated line was dropped"))

    def attach(self, key: object, hear: Callable[[bytes], None]) -> None:
        """From now on `hear` gets what the meters send."""
        self._listeners[key] = hear
        self._loop = asyncio.get_running_loop()
        self._set_timer()

    def detach(self, key: object) -> None:
        self._listeners.pop(key, None)
        if isinstance(key, LineTransport) and key in self._transports:
            self._transports.remove(key)

    def send(self, chunk: bytes) -> None:
        """Bytes from a master. The meters hear them when the last has passed."""
        loop = asyncio.get_running_loop()
        if not self._byte_s:
            self._reach_meters(bytes(chunk))
            return
        start = max(loop.time(), self._to_meters_free_at)
        self._to_meters_free_at = start + len(chunk) * self._byte_s
        loop.call_at(self._to_meters_free_at, self._reach_meters, bytes(chunk))

    def close(self) -> None:
        """Nothing more is sent. Connections stay, and stay silent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None
        self._listeners.clear()

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._set_timer()

    def _reach_meters(self, chunk: bytes) -> None:
        self.bus.receive(chunk, asyncio.get_running_loop().time(), self._now())
        self._set_timer()

    def _tick(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self.bus.tick(loop.time(), self._now())
        for wire in self.bus.take_output():
            self._reply(wire, loop)
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self.bus.deadline
        if self._timer is not None:
            if self._timer_at == deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._loop is not None:
            self._timer, self._timer_at = self._loop.call_at(deadline, self._tick), deadline

    def _reply(self, wire: bytes, loop: asyncio.AbstractEventLoop) -> None:
        chunks = [bytes([byte]) for byte in wire] if self.byte_by_byte else [wire]
        if not self._byte_s:
            for chunk in chunks:
                self._reach_masters(chunk)
            return
        at = max(loop.time(), self._to_master_free_at)
        for chunk in chunks:
            at += len(chunk) * self._byte_s
            loop.call_at(at, self._reach_masters, chunk)
        self._to_master_free_at = at

    def _reach_masters(self, chunk: bytes) -> None:
        for hear in list(self._listeners.values()):
            hear(chunk)


class LineTransport(asyncio.Transport):
    """A master's end of a line in memory; what it may call is what serial and TCP transports have."""

    def __init__(self, line: SimulatedLine, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._line = line
        self._protocol = protocol
        self._closing = False
        self._paused = False
        self._unread: list[bytes] = []
        line.attach(self, self._hear)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._line.send(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.lose(None)

    def abort(self) -> None:
        self.lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": "simulated line"}.get(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        unread, self._unread = self._unread, []
        for chunk in unread:
            self._hear(chunk)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer: the line takes everything."""

    def lose(self, problem: Exception | None) -> None:
        """End the connection; `problem` is what the protocol is told."""
        if self._closing:
            return
        self._closing = True
        self._line.detach(self)
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, problem)

    def _hear(self, chunk: bytes) -> None:
        if self._closing:
            return
        if self._paused:
            self._unread.append(chunk)
        elif isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(chunk)


class _SocketShell(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, line: SimulatedLine) -> None:
        self._line = line
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._line.attach(self, self._hear)

    def data_received(self, data: bytes) -> None:
        self._line.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.detach(self)

    def _hear(self, chunk: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > UNREAD_MAX:
            self._transport.abort()
            return
        self._transport.write(chunk)


async def serve_tcp(line: SimulatedLine, host: str, port: int) -> asyncio.Server:
    """Serve the line as a transparent serial server does: every connection is attached to it. Raises OSError."""
    return await asyncio.get_running_loop().create_server(lambda: _SocketShell(line), host, port)


class PtyPort:
    """A pseudo-terminal attached to a line. path: what a client opens, as often as it likes. Made by `serve_pty`."""

    def __init__(self, line: SimulatedLine, loop: asyncio.AbstractEventLoop) -> None:
        import termios  # not on Windows, where nothing else here is missing
        import tty

        self._line = line
        self._loop = loop
        # Our own handle on the client's end stays open: without it the kernel hangs up when a client closes.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave, termios.TCSANOW)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        line.attach(self, self._hear)
        loop.add_reader(self._master, self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._master)
        self._line.detach(self)
        os.close(self._master)
        os.close(self._slave)

    def _readable(self) -> None:
        try:
            chunk = os.read(self._master, 4096)
        except (BlockingIOError, OSError):
            return
        self._line.send(chunk)

    def _hear(self, chunk: bytes) -> None:
        try:
            os.write(self._master, chunk)
        except BlockingIOError:
            return  # nobody reads, and the kernel's buffer is full: the bytes are lost, as on a wire


async def serve_pty(line: SimulatedLine) -> PtyPort:
    """Raises ImportError or OSError where the system has no pseudo-terminals."""
    return PtyPort(line, asyncio.get_running_loop())
