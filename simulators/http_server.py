"""As much of an HTTP server as a simulated service needs, and one thing that real ones do not offer: to hang up without an answer.

One request a connection, HTTP/1.1 with Content-Length. What is too large, too slow or not HTTP is hung up on.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from msgspec import Struct

__all__ = ["Answer", "Request", "answer_of", "serve_http"]

HEAD_MAX = 16_384  # bytes of request line and headers
BODY_MAX = 1_000_000
READ_S = 30.0


class Request(Struct, frozen=True, kw_only=True):
    """headers: names in lower case; of repeated ones the last."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    status: int
    body: bytes


Answering = Callable[[Request], Awaitable[Answer | None]]


def answer_of(status: int, body: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(body, ensure_ascii=False).encode())


async def serve_http(answering: Answering, host: str, port: int) -> asyncio.Server:
    """answering: None hangs up without a byte. Raises OSError."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_S):
                request = await _read(reader)
            answer = await answering(request)
            if answer is None:
                writer.transport.abort()
                return
            writer.write(_written(answer))
            async with asyncio.timeout(READ_S):
                await writer.drain()
        except (ValueError, EOFError, ConnectionError, TimeoutError):
            writer.transport.abort()
        finally:
            writer.close()

    return await asyncio.start_server(serve, host, port, limit=HEAD_MAX)


async def _read(reader: asyncio.StreamReader) -> Request:
    """Raises ValueError for what is not HTTP, EOFError when the other end is gone."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise ValueError("headers without end") from error
    first, *lines = head[:-4].split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    size = int(headers.get("content-length", "0"))
    if not 0 <= size <= BODY_MAX:
        raise ValueError(f"a body of {size} bytes")
    return Request(method=method, path=path.partition("?")[0], headers=headers, body=await reader.readexactly(size))


def _written(answer: Answer) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + answer.body
