"""Replay of the feed over HTTP, beside a plain file of the same bytes from the same server.

Server and client are processes of their own and share the machine, as a consumer on the same machine would. The client counts events
and looks whether the bytes are the file's; it decodes nothing, since that is the consumer's own affair, except in the one figure that
says so.
"""

import hashlib
import http.client
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from tests.bench.far_end import REPOSITORY
from tests.bench.figures import Figure, Goal, ratio, spread

__all__ = ["measure_replay"]

EVENTS = 200_000
PER_S = Goal(least=100_000)
CHUNK = 1 << 20
PAGE = 10_000
LINES = {"Accept": "application/x-ndjson"}


class _Source(Struct, frozen=True):
    host: str
    port: int
    token: str
    file_size: int

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def headers(self, more: dict[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Accept-Encoding": "identity", **more}


def measure_replay(*, rounds: int, events: int = EVENTS, note: Callable[[str], None] = lambda _: None) -> list[Figure]:
    ways: dict[str, Callable[[_Source, int], str]] = {
        "a plain file of the same bytes": _file,
        "lines in one pull": _lines,
        "lines, compressed": _lines_compressed,
        "JSON pages of 10,000": _pages,
        "JSON pages of 10,000, decoded by the client": _pages_decoded,
        "server-sent events": _stream,
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="headend-bench-") as folder, _serving(folder, events) as source:
        for number in range(rounds):
            digests = set()
            for way, take in ways.items():
                note(f"replay, round {number + 1} of {rounds}: {way}")
                began = time.perf_counter()
                digest = take(source, events)
                found[way].append(events / (time.perf_counter() - began))
                if digest:
                    digests.add(digest)
            assert len(digests) == 1, "the ways do not give the same bytes"
    names = list(ways)
    figures = {
        way: spread(f"replay: {way}", "events/s", rates, PER_S if way in names[1:4] else None)
        for way, rates in found.items()
    }
    return [
        *figures.values(),
        ratio("replay: lines over the plain file", figures[names[1]], figures[names[0]]),
        ratio("replay: JSON pages over the plain file", figures[names[3]], figures[names[0]]),
    ]


@contextmanager
def _serving(folder: str, events: int) -> Iterator[_Source]:
    command = [sys.executable, "-m", "tests.bench.replay_server", folder, str(events)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told: dict[str, Any] = json.loads(process.stdout.readline())
            place = urlsplit(told["url"])
            assert place.hostname is not None
            assert place.port is not None
            yield _Source(place.hostname, place.port, told["token"], told["file"])
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=20)


def _file(source: _Source, events: int) -> str:
    return _whole(source, "/file", {}, events)


def _lines(source: _Source, events: int) -> str:
    return _whole(source, f"/v1/feed?limit={events}", LINES, events)


def _lines_compressed(source: _Source, events: int) -> str:
    return _whole(source, f"/v1/feed?limit={events}", {**LINES, "Accept-Encoding": "gzip"}, events)


def _whole(source: _Source, path: str, headers: dict[str, str], events: int) -> str:
    """SHA-256 of the lines."""
    connection = source.connection()
    connection.request("GET", path, headers=source.headers(headers))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    unpacking = zlib.decompressobj(wbits=31) if answer.headers["Content-Encoding"] == "gzip" else None
    digest, count = hashlib.sha256(), 0
    while chunk := answer.read(CHUNK):
        text = chunk if unpacking is None else unpacking.decompress(chunk)
        digest.update(text)
        count += text.count(b"\n")
    connection.close()
    assert count == events
    return digest.hexdigest()


def _pages(source: _Source, events: int) -> str:
    after = 0
    connection = source.connection()
    while after < events:
        page = _page(connection, source, after)
        after = int(page[page.rindex(b":") + 1 : -1])
        assert page.startswith(b'{"events":[{')
    assert after == events
    connection.close()
    return ""


def _pages_decoded(source: _Source, events: int) -> str:
    after = count = 0
    connection = source.connection()
    while after < events:
        page = msgspec.json.decode(_page(connection, source, after))
        count += len(page["events"])
        after = page["next"]
    assert (count, after) == (events, events)
    connection.close()
    return ""


def _page(connection: http.client.HTTPConnection, source: _Source, after: int) -> bytes:
    connection.request("GET", f"/v1/feed?after={after}&limit={PAGE}", headers=source.headers({}))
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.read()


def _stream(source: _Source, events: int) -> str:
    connection = source.connection()
    connection.request("GET", "/v1/feed/stream", headers=source.headers({}))
    answer = connection.getresponse()
    count = 0
    while count < events:
        # What there is, and no more: the stream does not end.
        count += answer.read1(CHUNK).count(b"\ndata: ")
    connection.close()
    return ""
