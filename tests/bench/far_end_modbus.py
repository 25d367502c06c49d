"""The other end of every measured Modbus TCP client: answers read requests with replies prepared beforehand.

    python -m tests.bench.far_end_modbus

Speaks as `tests.bench.far_end` does to who started it. Requests that came together are answered together, as a meter's own network
interface would; an answer costs one look-up.
"""

import asyncio
import sys
from itertools import cycle
from typing import cast

import uvloop

from tests.bench.far_end import Counters, serve_until_eof
from tests.bench.prepared_modbus import UNITS, VARIANTS, answer_of, request_of

TRANSACTION_SIZE = 2
REQUEST_SIZE = TRANSACTION_SIZE + len(request_of(1))


class _Responder(asyncio.Protocol):
    """One connection. A request that came in pieces is put together; an unknown one is counted and left unanswered."""

    def __init__(self, answers: dict[bytes, "cycle[bytes]"], counters: Counters) -> None:
        self._answers = answers
        self._counters = counters
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        asked = self._held + data if self._held else data
        replies: list[bytes] = []
        at, whole = 0, len(asked) - len(asked) % REQUEST_SIZE
        while at < whole:
            behind = at + TRANSACTION_SIZE
            answers = self._answers.get(asked[behind : at + REQUEST_SIZE])
            if answers is None:
                self._counters.unknown += 1
            else:
                self._counters.answered += 1
                replies += (asked[at:behind], next(answers))
            at += REQUEST_SIZE
        self._held = asked[whole:]
        if replies:
            self._transport.write(b"".join(replies))


async def _serve() -> None:
    answers = {request_of(unit): cycle([answer_of(unit, variant) for variant in range(VARIANTS)]) for unit in UNITS}
    await serve_until_eof(lambda counters: _Responder(answers, counters))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_serve()))
