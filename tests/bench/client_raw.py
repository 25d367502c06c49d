"""The same bytes over as many connections, and nothing else: no framing, no decoding, no store. What asyncio itself costs."""

import asyncio
from itertools import cycle
from typing import cast

from tests.bench.figures import Stretch, between
from tests.bench.prepared import DIS, HOST, reply_of, request_of

__all__ = ["measure"]

METERS_MAX = 20  # per line; it has nothing that more of them would show


class _Asker(asyncio.Protocol):
    """Sends the next request when as many bytes have come as its reply has."""

    def __init__(self, conversation: list[tuple[bytes, int]]) -> None:
        self.replies = 0
        self.last_chunk = b""
        self._turns = cycle(conversation)
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left <= 0:
            self.replies += 1
            self.last_chunk = data
            self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        request, self._left = next(self._turns)
        self._transport.write(request)


async def measure(port: int, lines: int, meters: int, seconds: float) -> Stretch:
    loop = asyncio.get_running_loop()
    askers = []
    for line in range(lines):
        numbers = [line + 1 + lines * place for place in range(min(meters, METERS_MAX))]
        conversation = [(request_of(n, di), len(reply_of(n, di))) for n in numbers for di in DIS]
        transport, asker = await loop.create_connection(lambda wires=conversation: _Asker(wires), HOST, port)  # type: ignore[misc]
        askers.append((transport, asker, {reply_of(n, di) for n in numbers for di in DIS}))
    measured = await between(lambda: sum(asker.replies for _, asker, _ in askers), seconds)
    for transport, asker, replies in askers:
        transport.abort()
        assert asker.last_chunk in replies
    return measured
