"""A Modbus RTU far end behind TCP that queues requests, as serial servers and concentrators do, and answers every tenth of them late.

    python -m tests.bench.far_end_late TIMEOUT_S

What misses the asker's time-out still comes, up to five time-outs later, and what was asked meanwhile comes after it. The registers
say whom the answer is from, what it answers, and when that was asked: see `content_of`. Speaks as `tests.bench.far_end` does.
"""

import asyncio
import random
import sys
import time
from itertools import count
from typing import cast

from protocols.modbus.adu import RtuFrame
from protocols.modbus.pdu import ReadRegisters, Registers, decode_request, encode_reply
from tests.bench.far_end import Counters, serve_until_eof

__all__ = ["LATE", "REGISTERS", "content_of", "taken_apart"]

LATE = 0.10
REPLY_S = 0.002  # of a reply in time
REGISTERS = 6
REQUEST_SIZE = 8
_WIDTHS = (2, 2, 8)  # unit, start, moment of the asking


def content_of(unit: int, start: int) -> bytes:
    """Six registers: unit, start, and the present moment in nanoseconds of the clock that all processes of a machine share."""
    fields = (unit, start, time.monotonic_ns())
    return b"".join(field.to_bytes(width, "big") for field, width in zip(fields, _WIDTHS, strict=True))


def taken_apart(content: bytes) -> tuple[int, int, int]:
    """Unit, start, moment."""
    return int.from_bytes(content[:2], "big"), int.from_bytes(content[2:4], "big"), int.from_bytes(content[4:], "big")


class _Queueing(asyncio.Protocol):
    """One connection, on which requests are answered one after the other. A number that grows with each keeps its dice its own."""

    def __init__(self, timeout_s: float, number: int, counters: Counters) -> None:
        self._timeout_s = timeout_s
        self._dice = random.Random(number)
        self._counters = counters
        self._held = b""
        self._free_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= REQUEST_SIZE:
            wire, self._held = self._held[:REQUEST_SIZE], self._held[REQUEST_SIZE:]
            self._answer(wire)

    def _answer(self, wire: bytes) -> None:
        frame = RtuFrame.from_bytes(wire)
        request = decode_request(frame.pdu)
        assert isinstance(request, ReadRegisters)
        assert request.count == REGISTERS
        reply = encode_reply(Registers(request.function, content_of(frame.unit, request.start)))
        loop = asyncio.get_running_loop()
        is_late = self._dice.random() < LATE
        delay_s = self._timeout_s * self._dice.uniform(1.01, 5) if is_late else REPLY_S
        self._free_at = max(self._free_at, loop.time()) + delay_s
        loop.call_at(self._free_at, self._send, RtuFrame(frame.unit, reply).to_bytes())

    def _send(self, wire: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():  # some clients hang up on what is late
            self._counters.answered += 1
            self._transport.write(wire)


async def _serve(timeout_s: float) -> None:
    numbers = count(1)
    await serve_until_eof(lambda counters: _Queueing(timeout_s, next(numbers), counters))


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
