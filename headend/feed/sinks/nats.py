"""NATS JetStream: one message per event, `Nats-Msg-Id` is the event's id, and the stream's own acknowledgement counts.

The stream drops a repeat by itself within its duplicate window (two minutes unless configured otherwise); beyond that, consumers
know repeats by their id. The stream is made by whoever runs the servers: this one only publishes, and says so when there is none.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from headend.feed.sinks.names import nats_subject
from headend.feed.sinks.settings import NatsSettings
from headend.feed.sinks.sink import Bad, Batch, DestinationAway, head_of
from headend.secrets import BadSecret

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

__all__ = ["NatsSink"]

CONNECT_TIMEOUT_S = 5
IN_FLIGHT_MAX = 200
PENDING_BYTES = 8 * 1024 * 1024
HEADERS_BYTES = 1024  # they count as payload, too; an id is some hundred bytes
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
TOO_LARGE = 10054  # error code of JetStream: message size exceeds maximum allowed


class _Refusal(Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(Struct):
    """Of a stream to a publish."""

    stream: str = ""
    seq: int = 0
    error: _Refusal | None = None


_answer_of = msgspec.json.Decoder(_Answer).decode


class NatsSink:
    """name: of the head-end. resolve: what is behind a reference. nats-py is loaded at the first connection."""

    def __init__(self, settings: NatsSettings, *, name: str, resolve: Callable[[str], str]) -> None:
        self._settings = settings
        self._subject = nats_subject(settings.subject, name)
        self._resolve = resolve
        self._link: _Link | None = None

    async def push(self, batch: Batch) -> Sequence[Bad]:
        """Raises DestinationAway. Events that were published and not acknowledged by then are sent again, with the same ids."""
        from nats.errors import Error

        told = _Told()
        settled = _Settled(0, [])
        try:
            if self._link is None or not self._link.is_up:
                await self.aclose()
                self._link = await self._connected(told)
            told = self._link.told
            await self._publish_all(self._link, batch, settled)
        except (Error, OSError, TimeoutError, BadSecret) as error:
            await self.aclose()
            raise DestinationAway(self._why(error, told.error), taken=settled.count, bad=settled.bad) from error
        except DestinationAway as away:
            await self.aclose()
            raise DestinationAway(str(away), taken=settled.count, bad=settled.bad) from away
        return settled.bad

    async def aclose(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(OSError, TimeoutError):  # nobody is left to say good-bye to
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await link.client.close()

    async def _connected(self, told: "_Told") -> "_Link":
        import nats

        settings = self._settings
        options: dict[str, Any] = {}
        if settings.username:
            password = self._resolve(settings.password) if settings.password else ""
            options |= {"user": settings.username, "password": password}
        if settings.token:
            options["token"] = self._resolve(settings.token)
        if settings.tls is not None:
            options["tls"] = settings.tls
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        # Whether and when to connect again is the pusher's affair: it alone knows what was acknowledged.
        async with asyncio.timeout(2 * CONNECT_TIMEOUT_S * len(settings.servers)):
            client = await nats.connect(
                servers=list(settings.servers),
                name="headend",
                allow_reconnect=False,
                connect_timeout=CONNECT_TIMEOUT_S,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                pending_size=PENDING_BYTES,
                error_cb=told.take,
                closed_cb=on_closed,
                **options,
            )
        link = _Link(client, closed, told)
        await client.subscribe(f"{link.inbox}.*", cb=link.answered)
        return link

    async def _publish_all(self, link: "_Link", batch: Batch, settled: "_Settled") -> None:
        """In order, with some ahead of their answers."""
        under_way: deque[tuple[int, asyncio.Future[Msg] | Bad]] = deque()
        room = link.client.max_payload - HEADERS_BYTES
        timeout_s = self._settings.timeout_s
        for index, event in enumerate(batch.events):
            if len(under_way) >= IN_FLIGHT_MAX:
                await _settle_next(link, under_way, settled, timeout_s)
            if len(event) > room:
                large = f"its {len(event)} bytes are more than the server takes ({link.client.max_payload})"
                under_way.append((index, Bad(index, large)))
                continue
            head = head_of(event)
            headers = {"Nats-Msg-Id": head.id, "Content-Type": CONTENT_TYPE}
            if self._settings.stream:
                headers["Nats-Expected-Stream"] = self._settings.stream
            under_way.append((index, await link.publish(self._subject(head), event, headers)))
        while under_way:
            await _settle_next(link, under_way, settled, timeout_s)

    def _why(self, error: BaseException, told: str) -> str:
        """What to look at, in a sentence. told: what the client heard last."""
        from nats import errors

        settings = self._settings
        if isinstance(error, BadSecret):
            return str(error)
        if isinstance(error, errors.AuthorizationError) or "uthorization" in f"{error}{told}":
            return "the server does not accept us; compare `username`, `password` and `token`"
        if isinstance(error, ssl.SSLError) or "SSL" in told or "certificate" in told:
            return f"no TLS with the server: {told or error}; is `ca` the authority that signed its certificate?"
        if isinstance(error, errors.NoServersError | ConnectionRefusedError):
            return f"no server answers at {', '.join(settings.servers)}{f': {told}' if told else ''}"
        if isinstance(error, errors.TimeoutError | TimeoutError):
            return f"no acknowledgement within {settings.timeout_s:g} s"
        return f"the connection was lost ({type(error).__name__}{f': {error}' if str(error) else ''})"


class _Told:
    """The last error that the client was told of; it says more than what it raises."""

    def __init__(self) -> None:
        self.error = ""

    async def take(self, error: Exception) -> None:
        self.error = str(error) or type(error).__name__


class _Link:
    """One connection, and the answers it waits for. nats-py's own requests would cost a task each, and sit out the loss of the
    connection until their time is up."""

    def __init__(self, client: "Client", closed: asyncio.Event, told: _Told) -> None:
        self.client = client
        self.told = told
        self.inbox = client.new_inbox()
        self._closed = asyncio.ensure_future(closed.wait())
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._count = 0

    @property
    def is_up(self) -> bool:
        return bool(self.client.is_connected)

    async def answered(self, message: "Msg") -> None:
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is not None and not future.done():
            future.set_result(message)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> "asyncio.Future[Msg]":
        self._count += 1
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[str(self._count)] = future
        await self.client.publish(subject, payload, reply=f"{self.inbox}.{self._count}", headers=headers)
        return future

    async def answer(self, future: "asyncio.Future[Msg]", timeout_s: float) -> "Msg":
        """Raises TimeoutError, ConnectionResetError."""
        if not future.done():
            await asyncio.wait((future, self._closed), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if self._closed.done():
            raise ConnectionResetError(self.told.error or "the server hung up")
        raise TimeoutError


class _Settled(Struct):
    """How many events from the first on are acknowledged or refused for good; and the latter."""

    count: int
    bad: list[Bad]


async def _settle_next(
    link: _Link, under_way: "deque[tuple[int, asyncio.Future[Msg] | Bad]]", settled: _Settled, timeout_s: float
) -> None:
    """Raises DestinationAway, TimeoutError, ConnectionResetError."""
    index, answer = under_way.popleft()
    refused = answer if isinstance(answer, Bad) else _judged(index, await link.answer(answer, timeout_s))
    settled.count += 1
    if refused is not None:
        settled.bad.append(refused)


def _judged(index: int, message: "Msg") -> Bad | None:
    """Whether the stream has taken it. Raises DestinationAway."""
    if not message.data and (message.headers or {}).get("Status") == "503":
        raise DestinationAway("no stream takes our subjects; add one on the server, or correct `topic`")
    try:
        answer = _answer_of(message.data)
    except msgspec.DecodeError:
        answer = _Answer()
    if answer.error is not None and answer.error.err_code == TOO_LARGE:
        return Bad(index, f"the stream does not take it: {answer.error.description}")
    if answer.error is not None:
        raise DestinationAway(f"the stream does not take it: {answer.error.description or answer.error.code}")
    if not answer.stream:
        raise DestinationAway(
            "what answers there is no stream of JetStream; does another program listen on these subjects?"
        )
    return None
