"""Modbus TCP on a socket: every connection has its own stream of transactions, all of them reach the same meters.

A transparent serial server (RTU over TCP) is `line.serve_tcp`: there whoever is connected hears every reply.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import cast

from simulators.line import UNREAD_MAX, SimulatedLine
from simulators.modbus_bus import ModbusBus

__all__ = ["CONNECTIONS_MAX", "serve_modbus_tcp"]

CONNECTIONS_MAX = 64  # real meters take between one and sixteen


class _Connections:
    """What the connections of one place share. baud: of the line behind it; None: bytes take no time."""

    def __init__(self, bus: ModbusBus, now: Callable[[], datetime], baud: int | None) -> None:
        self.bus = bus
        self.now = now
        self.baud = baud
        self.count = 0


class _Connection(asyncio.Protocol):
    def __init__(self, all_of_them: _Connections) -> None:
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self._bus: ModbusBus | None = None
        self._line: SimulatedLine | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._all.count += 1
        if self._all.count > CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._bus = self._all.bus.connection()
        self._bus.on_broken = self._transport.close  # as meters do with what they cannot follow
        self._line = SimulatedLine(self._bus, self._all.now, baud=self._all.baud)
        self._line.attach(self, self._hear)

    def data_received(self, data: bytes) -> None:
        if self._line is not None:
            self._line.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.count -= 1
        if self._line is not None and self._bus is not None:
            self._line.close()
            self._bus.close()

    def _hear(self, chunk: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > UNREAD_MAX:
            self._transport.abort()
            return
        self._transport.write(chunk)


async def serve_modbus_tcp(
    bus: ModbusBus, now: Callable[[], datetime], host: str, port: int, *, baud: int | None = None
) -> asyncio.Server:
    """Serve the meters of a bus with TCP framing; each connection is one of `bus.connection()`. Raises OSError."""
    if bus.framing != "tcp":
        raise ValueError("a bus with RTU framing is served by line.serve_tcp")
    connections = _Connections(bus, now, baud)
    return await asyncio.get_running_loop().create_server(lambda: _Connection(connections), host, port)
