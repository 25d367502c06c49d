"""One request to the head-end and its answer, over HTTP or within the process: what feed, switchboard and outbox are asked through."""

import asyncio
from concurrent.futures import CancelledError
from typing import Protocol

import httpx
from msgspec import Struct

from headend.prepayment.errors import PrepaymentError

__all__ = ["Asked", "CallOverLoop", "Caller", "NoAnswer"]

TIMEOUT_S = 30.0


class NoAnswer(PrepaymentError):
    """Nothing is known to have happened. Whoever asks says what it means, in an error of its own."""


class Asked(Struct, frozen=True):
    status: int
    body: bytes


class Caller(Protocol):
    """One request; token and address are its own affair. Raises NoAnswer when no answer came."""

    def __call__(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None
    ) -> Asked: ...


class CallOverLoop:
    """The client waits for the answer on its own loop, and prepaid supply on a thread of its own.

    client: over `httpx.ASGITransport` for a head-end in this process; over HTTP it reaches any other. Never called from the loop
    itself, which would wait for itself.
    """

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def __call__(self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> Asked:
        request = self._client.request(method, path, params=query, json=body)
        try:
            asking = asyncio.run_coroutine_threadsafe(request, self._loop)
        except RuntimeError as error:
            request.close()
            raise NoAnswer(f"{method} {path}: the head-end has stopped") from error
        try:
            answer = asking.result(TIMEOUT_S)
        except TimeoutError as error:
            asking.cancel()
            raise NoAnswer(f"{method} {path}: no answer within {TIMEOUT_S:g} s") from error
        except httpx.HTTPError as error:
            raise NoAnswer(f"{method} {path}: {error or type(error).__name__}") from error
        except (RuntimeError, CancelledError) as error:
            # A client that was closed, or a loop that ended, while we were on our way to it.
            raise NoAnswer(f"{method} {path}: the head-end is stopping") from error
        return Asked(answer.status_code, answer.content)
