"""`headend feed tail` against head-ends that are unwell, go away, or are something else."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.system.processes import BIN

EVENT = {
    "sequence": "7",
    "time": "2026-01-31T16:00:00Z",
    "subject": "M[/]1",
    "type": "headend.read.v1",
    "data": {
        "obis": "1-0:1.8.0",
        "value": None,
        "unit": "kWh",
        "reason": "[/silent]",
        "interval_end": "2026-01-31T16:00:00Z",
        "quality": ["missing"],
    },
}
UNWELL = (503, "application/problem+json", {"title": "unwell", "detail": "disk is full", "last_sequence": 20})
BLIND = (503, "application/problem+json", {"title": "unwell", "detail": "the store cannot be read"})
WELL = (200, "application/json", {"status": "ok", "last_sequence": 20})
PAGE = (200, "application/json", {"events": [EVENT], "next": 7})
LAST_PAGE = (200, "application/json", {"events": [], "next": 7})
STREAM = (200, "text/event-stream", f": headend feed\n\nid: 7\ndata: {json.dumps(EVENT)}\n\n")
Answer = tuple[int, str, object]


@contextmanager
def head_end(**answers: Answer) -> Iterator[tuple[str, list[str]]]:
    """A server with one answer for healthz, feed and stream each; the paths asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.partition("?")[0].rsplit("/", 1)[-1]
            status, media_type, content = answers[name]
            if name == "feed" and "after=7" in self.path:
                status, media_type, content = LAST_PAGE
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


def tail(url: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    done = subprocess.run(
        [BIN / "headend", "feed", "tail", "--url", url, "--token", "hdt_x", *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("arguments", [("--no-follow",), ()])
def test_a_feed_that_cannot_be_served_is_three_with_a_sentence(arguments: tuple[str, ...]) -> None:
    with head_end(healthz=WELL, feed=UNWELL, stream=UNWELL) as (url, _):
        done = tail(url, *arguments)
    assert done.returncode == 3
    assert b"cannot serve this at the moment: unwell: disk is full" in done.stderr


def test_the_newest_ten_of_an_unwell_head_end_are_not_all() -> None:
    with head_end(healthz=UNWELL, feed=PAGE) as (url, asked):
        assert tail(url, "--no-follow").returncode == 0
        assert "/v1/feed?after=10&limit=1000" in asked
    with head_end(healthz=BLIND, feed=PAGE) as (url, asked):
        assert tail(url, "--no-follow").returncode == 3
        assert asked == ["/healthz"]


def test_a_stream_that_ends_is_three_with_a_sentence_unless_the_limit_is_reached() -> None:
    with head_end(stream=STREAM) as (url, _):
        done = tail(url, "--after", "6", PYTHONIOENCODING="gbk")
        assert done.returncode == 3
        assert b"ended the stream after 1 event(s)" in done.stderr
        assert b"missing: [/silent]" in done.stdout
        assert tail(url, "--after", "6", "--limit", "1").returncode == 0


@pytest.mark.parametrize("answer", [(200, "text/html", "<p>hello"), (404, "text/html", "<p>no"), (200, "a/b", "[1]")])
def test_something_else_at_the_address_is_a_matter_of_usage(answer: Answer) -> None:
    with head_end(healthz=answer, feed=answer, stream=answer) as (url, _):
        for arguments in ([], ["--after", "6"], ["--no-follow"], ["--no-follow", "--after", "6"]):
            assert tail(url, *arguments).returncode == 2


@pytest.mark.parametrize("token", ["é", "hdt_\n1", "读"])
def test_a_token_that_cannot_be_one_is_said(token: str) -> None:
    done = tail("http://127.0.0.1:9", "--token", token)
    assert done.returncode == 2
    assert b"expected hdt_" in done.stderr
