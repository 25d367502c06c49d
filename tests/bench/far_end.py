"""The other end of every measured client: answers read requests with replies prepared beforehand.

    python -m tests.bench.far_end METERS

Prints {"port": …} when it listens, answers until standard input ends, then prints {"answered": …, "unknown": …}. A reply
costs it one look-up, so that it does not limit what is measured against it.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import uvloop
from msgspec import Struct

from tests.bench.prepared import DIS, reply_of, request_of

__all__ = ["REPOSITORY", "Counters", "FarEnd", "far_end", "serve_until_eof"]

REPOSITORY = Path(__file__).parents[2]
REQUEST_SIZE = len(request_of(1, DIS[0]))


class Counters(Struct):
    answered: int = 0
    unknown: int = 0


class _Responder(asyncio.Protocol):
    """One connection. A request that came in pieces is put together; what is then unknown is counted and left unanswered."""

    def __init__(self, replies: dict[bytes, bytes], counters: Counters) -> None:
        self._replies = replies
        self._counters = counters
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        request = self._held + data if self._held else data
        reply = self._replies.get(request)
        if reply is not None:
            self._held = b""
            self._counters.answered += 1
            self._transport.write(reply)
        elif len(request) < REQUEST_SIZE:
            self._held = request
        else:
            self._held = b""
            self._counters.unknown += 1


async def _serve(meters: int) -> None:
    replies = {request_of(number, di): reply_of(number, di) for number in range(1, meters + 1) for di in DIS}
    await serve_until_eof(lambda counters: _Responder(replies, counters))


async def serve_until_eof(responder: Callable[[Counters], asyncio.Protocol]) -> None:
    """What every far end's process does: see the module's text. responder: makes one for each connection."""
    counters = Counters()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: responder(counters), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    print(json.dumps({"answered": counters.answered, "unknown": counters.unknown}), flush=True)


class FarEnd(Struct):
    """port: where it listens. answered, unknown: set when the `with` block has ended."""

    port: int
    answered: int = 0
    unknown: int = 0


@contextmanager
def far_end(*arguments: object, module: str = "tests.bench.far_end") -> Iterator[FarEnd]:
    """A far end in a process of its own. arguments: of its module; of this one, for meters 1 to as many."""
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            running = FarEnd(_answer(process.stdout.readline())["port"])
            yield running
            process.stdin.close()
            last = _answer(process.stdout.readline())
            running.answered, running.unknown = last["answered"], last["unknown"]
        finally:
            process.terminate()


def _answer(line: str) -> dict[str, Any]:
    assert line, "the far end ended before its time"
    answer: dict[str, Any] = json.loads(line)
    return answer


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
