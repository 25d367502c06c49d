"""An MQTT broker inside the process, for the demo and for tests: amqtt on a port of this machine's own.

It speaks MQTT 3.1.1 only, keeps nothing over a restart and lets anybody on the machine in: not for anything that
matters. amqtt is needed only where this is used.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["embedded_broker"]

HOST = "127.0.0.1"


@asynccontextmanager
async def embedded_broker(port: int = 0) -> AsyncIterator[str]:
    """Runs with the block; gives its URL. port: 0 takes a free one. Raises ImportError without amqtt, OSError for a port in use."""
    from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
    from amqtt.broker import Broker

    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.ERROR)  # every connection that ends is a warning there
    # The listener is ours, so that the system chooses the port: amqtt would not tell which.
    broker = Broker(
        {
            "listeners": {"default": {"type": "external", "bind": f"{HOST}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await broker.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), "default")

    server = await asyncio.start_server(accept, HOST, port)
    try:
        await broker.start()
        try:
            yield f"mqtt://{HOST}:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await broker.shutdown()
    finally:
        server.close()
