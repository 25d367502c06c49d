"""A webhook that takes everything and counts the events, as a process of its own.

python -m tests.bench.drain_receiver
> {"url": "http://127.0.0.1:40123/reads"}
> 96000                                      after its standard input is closed
"""

import asyncio
import gzip
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

MARK = b'{"specversion":'  # each event begins so


class Receiver:
    def __init__(self) -> None:
        self.events = 0

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if (b"content-encoding", b"gzip") in scope["headers"]:
            body = gzip.decompress(body)
        self.events += body.count(MARK)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


async def main() -> None:
    receiver = Receiver()
    config = uvicorn.Config(receiver, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        print(json.dumps({"url": f"http://127.0.0.1:{bound.getsockname()[1]}/reads"}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving
    print(receiver.events, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
