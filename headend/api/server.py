"""The HTTP server inside the event loop we already run; signals stay with `app.py`."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from litestar import Litestar
from msgspec import Struct

from headend.api.deps import ApiDeps
from headend.errors import ConfigError, ListenError

__all__ = ["Listening", "serve"]

STOP_S = 5  # an answer takes milliseconds; a reader that does not read its answer is cut off after this


class Listening(Struct, frozen=True):
    """Where the server really listens, the port given by the system where 0 was asked for."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@asynccontextmanager
async def serve(app: Litestar, listen: str) -> AsyncIterator[Listening]:
    """Serve while the block runs. At its end streams are ended, answers under way are finished.

    listen: "HOST:PORT", "[::1]:8645". Raises ConfigError, ListenError.
    """
    bound = _bind(listen)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=STOP_S,
        )
    )
    deps: ApiDeps = app.state.deps
    host, port = bound.getsockname()[:2]
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[bound]), name="http-server")
    task.add_done_callback(lambda _: server.ready.set())
    try:
        await server.ready.wait()
        if task.done():
            task.result()
        yield Listening(host, port)
    finally:
        # Streams wait on the signal; closing it lets them end instead of being cut off.
        deps.signal.close()
        server.should_exit = True
        await task
        bound.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(listen: str) -> socket.socket:
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"api.listen is {listen!r}: expected HOST:PORT, for example 127.0.0.1:8645 or [::1]:8645")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host,
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(100)
            bound.setblocking(False)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ListenError(
            f"cannot listen on {listen} ({error.strerror or error}): is another head-end running? Stop "
            f"it, or choose another address in [api] listen"
        ) from error
    return bound
