"""A webhook: batches as a JSON array of CloudEvents, signed after Standard Webhooks, compressed.

The events go out as they are stored, joined by commas; nothing is decoded or encoded. What an answer means:

2xx                  every event is acknowledged
400, 422             one of the events is not liked: the batch is taken apart until it is known which, and that one is parked
413                  too much at once: the batch is taken apart
anything else        the endpoint cannot take anything now, or does not know us: wait. 401, 403, 404 and 410 are a person's affair on
                     either side, and so are redirects; nothing is skipped meanwhile
"""

import asyncio
import contextlib
import gzip
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from headend.clock import Clock
from headend.feed.sinks.settings import WebhookSettings
from headend.feed.sinks.signature import BadSigningSecret, signed_headers, signing_keys
from headend.feed.sinks.sink import Bad, Batch, BatchRefused, BatchTooLarge, DestinationAway
from headend.secrets import BadSecret

__all__ = ["WebhookSink"]

MEDIA_TYPE = "application/cloudevents-batch+json; charset=utf-8"
CONNECT_TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024  # read of an answer, so that its connection can be used again; more is cut off
SAID_MAX = 200  # characters of an answer that are told
GZIP_FROM = 1400  # bytes: below, it is one packet anyway
GZIP_LEVEL = 1  # events repeat each other so much that higher levels gain little

_WAITING = {
    401: "it does not accept our token; compare `token`, and `secret` if it checks signatures",
    403: "it does not accept our token or our signature; compare `token` and `secret`",
    404: "there is nothing under this path; is `url` right?",
    405: "it takes no POST under this path; is `url` right?",
    406: f"it does not take {MEDIA_TYPE}",
    407: "a proxy on the way wants to know who we are",
    408: "it says that we were too slow",
    410: "it says that this endpoint is gone for good; give `url` its new address, or take this destination out of the configuration",
    415: f"it does not take {MEDIA_TYPE}, or no gzip; the latter `gzip = false` would cure",
    429: "it asks us to slow down; `live_rate` and `back_fill_rate` do that",
}
_PARKING = (400, 422)
_TOO_LARGE = 413


class WebhookSink:
    """resolve: what is behind a reference; asked at every push, so that a changed file needs no restart."""

    def __init__(self, settings: WebhookSettings, *, clock: Clock, resolve: Callable[[str], str]) -> None:
        self._settings = settings
        self._clock = clock
        self._resolve = resolve
        self._client: httpx.AsyncClient | None = None

    async def push(self, batch: Batch) -> Sequence[Bad]:
        """Raises DestinationAway, BatchRefused, BatchTooLarge."""
        body = b"[%b]" % b",".join(batch.events)
        headers = self._headers(body)
        if self._settings.gzip and len(body) >= GZIP_FROM:
            body = gzip.compress(body, GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                status, answer_headers, said = await self._post(body, headers)
        except TimeoutError as error:
            raise DestinationAway(f"no answer within {self._settings.timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DestinationAway(_why(error)) from error
        if 200 <= status < 300:
            return ()
        told = f"it answered {status}" + (f": {said}" if said else "")
        if status == _TOO_LARGE:
            raise BatchTooLarge(told)
        if status in _PARKING:
            raise BatchRefused(told)
        advice = _WAITING.get(status, "")
        if 300 <= status < 400:
            where = answer_headers.get("location", "without saying where")
            advice = f"it sends us elsewhere ({where}), and we do not follow; correct `url`"
        raise DestinationAway(
            f"{told}; {advice}" if advice else told, _retry_after_s(answer_headers, self._clock.now())
        )

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _headers(self, body: bytes) -> dict[str, str]:
        settings = self._settings
        try:
            keys = signing_keys(self._resolve(settings.secret)) if settings.secret else ()
            token = self._resolve(settings.token) if settings.token else ""
        except BadSecret as error:
            raise DestinationAway(str(error)) from error
        except BadSigningSecret as error:
            raise DestinationAway(f"the secret behind {settings.secret!r}: {error}") from error
        headers = signed_headers(body, keys=keys, timestamp=int(self._clock.now().timestamp()))
        headers["Content-Type"] = MEDIA_TYPE
        if token:
            if not token.isascii() or not token.isprintable():
                raise DestinationAway(f"the token behind {settings.token!r} holds characters that no header can have")
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, httpx.Headers, str]:
        """Status, headers and the beginning of the text."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=self._settings.tls or True,
                timeout=httpx.Timeout(self._settings.timeout_s, connect=CONNECT_TIMEOUT_S),
                headers={"User-Agent": "headend"},
                follow_redirects=False,
            )
        async with self._client.stream("POST", self._settings.url, content=body, headers=headers) as answer:
            said = b""
            async for chunk in answer.aiter_bytes():
                said += chunk
                if len(said) > ANSWER_BYTES_MAX:
                    break
            return answer.status_code, answer.headers, _first_words(said)


def _first_words(said: bytes) -> str:
    text = " ".join(said[: 8 * SAID_MAX].decode("utf-8", "replace").split())
    return "".join(sign for sign in text if sign.isprintable())[:SAID_MAX]


def _retry_after_s(headers: httpx.Headers, now: datetime) -> float | None:
    """RFC 9110 §10.2.3: seconds, or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    with contextlib.suppress(ValueError):
        until = parsedate_to_datetime(text)
        until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
        return max(0.0, (until - now).total_seconds())
    return None


def _why(error: Exception) -> str:
    """What to look at, in a sentence."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not accepted: {cause.verify_message}; is `ca` the authority that signed it, and does it name the "
                f"host in `url`?"
            )
        if isinstance(cause, ssl.SSLError):
            return f"no TLS with it: {cause.reason or cause}; does this port speak TLS (https://)?"
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved: {cause.strerror}"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there; is it running, and is the port right?"
    if isinstance(error, httpx.TimeoutException):
        return f"it does not answer in time ({type(error).__name__})"
    said = next((str(cause) for cause in reversed(causes) if str(cause)), "")
    return f"the connection broke off ({type(error).__name__}{f': {said}' if said else ''})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """All that is behind an error; attempts at several addresses come as a group."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__
