"""Webhooks against a real HTTP server, signatures against the specification's own library."""

import base64
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headend.clock import SystemClock
from headend.feed.sinks.settings import WebhookSettings
from headend.feed.sinks.signature import BadSigningSecret, signed_headers, signing_keys
from headend.feed.sinks.sink import BatchRefused, BatchTooLarge, DestinationAway
from headend.feed.sinks.webhook import WebhookSink
from tests.brokers import make_certificates
from tests.headend.sinks.support import SIGNING_SECRET, a_batch, resolve
from tests.headend.support import START, StillClock
from tests.servers import Answer, HttpEndpoint, free_port, http_endpoint


@pytest.fixture
def endpoint() -> Iterator[HttpEndpoint]:
    with http_endpoint() as running:
        yield running


@asynccontextmanager
async def a_sink(url: str, *, clock: Any = None, **changes: Any) -> AsyncIterator[WebhookSink]:
    settings = msgspec.structs.replace(WebhookSettings(url=url, timeout_s=5.0), **changes)
    sink = WebhookSink(settings, clock=clock or SystemClock(), resolve=resolve)
    try:
        yield sink
    finally:
        await sink.aclose()


async def away(url: str, **changes: Any) -> DestinationAway:
    async with a_sink(url, **changes) as sink:
        with pytest.raises(DestinationAway) as raised:
            await sink.push(a_batch(1))
        return raised.value


async def test_a_batch_is_a_json_array_of_cloudevents_just_as_they_are_stored(endpoint: HttpEndpoint) -> None:
    batch = a_batch(100)
    async with a_sink(endpoint.url) as sink:
        assert await sink.push(batch) == ()
        assert await sink.push(a_batch(1)) == ()
    large, small = endpoint.requests
    assert (large.path, large.headers["content-encoding"]) == ("/reads", "gzip")
    assert large.headers["content-type"].startswith("application/cloudevents-batch+json")
    assert gzip.decompress(large.body) == b"[" + b",".join(batch.events) + b"]"
    assert len(large.body) < len(gzip.decompress(large.body)) / 5
    assert "content-encoding" not in small.headers
    assert json.loads(small.body)[0]["data"]["value"] == "1.50"
    assert "webhook-signature" not in small.headers


async def test_the_signature_satisfies_the_library_of_the_specification(endpoint: HttpEndpoint) -> None:
    webhooks = pytest.importorskip("standardwebhooks.webhooks", reason="standardwebhooks is not installed")
    async with a_sink(endpoint.url, secret="env:SECRET", token="env:TOKEN") as sink:
        for _ in range(2):
            await sink.push(a_batch(30))
        await sink.push(a_batch(30, first=31))
    verifier = webhooks.Webhook(SIGNING_SECRET)
    for request in endpoint.requests:
        body = gzip.decompress(request.body)
        assert len(verifier.verify(body, request.headers)) == 30
        with pytest.raises(webhooks.WebhookVerificationError):
            verifier.verify(body.replace(b"1.50", b"9.50"), request.headers)
        assert request.headers["authorization"] == "Bearer hdt_token"
    first, again, other = (request.headers["webhook-id"] for request in endpoint.requests)
    assert first == again != other


def test_the_example_of_the_specification_is_signed_as_it_says() -> None:
    # From the test vectors of github.com/standard-webhooks/standard-webhooks: id, time, body and secret give this signature. Our id
    # comes from the body, so the signature is computed here for theirs.
    import hashlib
    import hmac

    (key,) = signing_keys(SIGNING_SECRET)
    told = hmac.new(key, b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}', hashlib.sha256).digest()
    assert base64.b64encode(told) == b"g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    headers = signed_headers(b'{"test": 2432232314}', keys=(key,), timestamp=1614265330)
    signed = f'{headers["webhook-id"]}.1614265330.{{"test": 2432232314}}'.encode()
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_two_secrets_give_two_signatures_and_a_bad_one_is_not_repeated() -> None:
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    keys = signing_keys(f"{SIGNING_SECRET} {other}")
    assert len(signed_headers(b"[]", keys=keys, timestamp=1)["webhook-signature"].split(" ")) == 2
    for bad in ("", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_!!!"):
        with pytest.raises(BadSigningSecret) as raised:
            signing_keys(bad)
        assert not bad or bad not in str(raised.value)


@pytest.mark.parametrize("status", [400, 422])
async def test_these_answers_blame_the_batch(endpoint: HttpEndpoint, status: int) -> None:
    endpoint.answers.append(Answer(status=status, body=b'{"detail": "value\r\nis odd"}'))
    async with a_sink(endpoint.url) as sink:
        with pytest.raises(BatchRefused, match="value is odd"):
            await sink.push(a_batch(2))


async def test_413_asks_for_less(endpoint: HttpEndpoint) -> None:
    endpoint.answers.append(Answer(status=413))
    async with a_sink(endpoint.url) as sink:
        with pytest.raises(BatchTooLarge):
            await sink.push(a_batch(2))
        assert await sink.push(a_batch(1)) == ()


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "`token`"),
        (403, "signature"),
        (404, "`url`"),
        (410, "gone for good"),
        (301, "we do not follow"),
        (418, "418"),
        (500, "500"),
        (503, "503"),
    ],
)
async def test_any_other_answer_waits_and_says_why(endpoint: HttpEndpoint, status: int, advice: str) -> None:
    endpoint.answers.append(Answer(status=status, headers={"Location": "https://elsewhere.example/"}))
    assert advice in str(await away(endpoint.url))


@pytest.mark.parametrize(
    ("header", "expected"), [("120", 120.0), ("Sat, 31 Jan 2026 16:05:00 GMT", 300.0), ("soon", None), ("-1", None)]
)
async def test_retry_after_is_read_in_both_spellings(
    endpoint: HttpEndpoint, header: str, expected: float | None
) -> None:
    endpoint.answers.append(Answer(status=429, headers={"Retry-After": header}))
    error = await away(endpoint.url, clock=StillClock(START))
    assert error.retry_after_s == expected


async def test_no_answer_a_wrong_name_and_nobody_there_are_told_apart(endpoint: HttpEndpoint) -> None:
    endpoint.answers.append(Answer(after_s=2))
    assert "no answer within 0.3 s" in str(await away(endpoint.url, timeout_s=0.3))
    assert "nothing listens there" in str(await away(f"http://127.0.0.1:{free_port()}/"))
    assert "cannot be resolved" in str(await away("http://no-such-host.invalid/"))


async def test_an_endless_answer_is_cut_off(endpoint: HttpEndpoint) -> None:
    endpoint.answers.append(Answer(status=500, body=b"x" * 5_000_000))
    assert len(str(await away(endpoint.url))) < 400


async def test_a_secret_that_is_missing_or_wrong_waits(endpoint: HttpEndpoint) -> None:
    assert "whsec_" in str(await away(endpoint.url, secret="env:TOKEN"))
    assert endpoint.requests == []


async def test_tls_is_checked_and_its_problems_are_named(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.broker_certificate, certificates.broker_key)
    with http_endpoint(tls=context) as endpoint:
        trusting = ssl.create_default_context(cafile=str(certificates.ca))
        async with a_sink(endpoint.url, tls=trusting) as sink:
            assert await sink.push(a_batch(3)) == ()
        other = ssl.create_default_context(cafile=str(certificates.other_ca))
        assert "certificate is not accepted" in str(await away(endpoint.url, tls=other))
    with http_endpoint() as plain:
        assert "does this port speak TLS" in str(await away(plain.url.replace("http:", "https:"), tls=trusting))
