"""The feed over HTTP beyond the plain pull: lines, compression, long pulls in pieces, and cursors that the feed does not have."""

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from headend.api.feed_routes import LINES, LINES_MAX, NEXT_HEADER, PIECE, follow, takes_gzip
from headend.store.cursors_retention import Retention
from tests.headend.api.test_api import Site, assert_problem
from tests.headend.support import a_read

PLAIN = {"Accept-Encoding": "identity"}
AS_LINES = {"Accept": LINES, **PLAIN}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def store_reads(site: Site, count: int, batch: int = 100) -> None:
    first = site.store.last_sequence()
    for begin in range(first, first + count, batch):
        site.store.commit([a_read(slot=slot) for slot in range(begin, min(begin + batch, first + count))])
    site.signal.advance(site.store.last_sequence())


def sequences(lines: bytes) -> list[int]:
    assert lines == b"" or lines.endswith(b"\n")
    return [int(json.loads(line)["sequence"]) for line in lines.splitlines()]


async def test_lines_are_the_events_of_the_page_one_each(site: Site) -> None:
    async with site.running() as client:
        store_reads(site, 250)
        for after, limit in ((0, 1000), (0, 100), (99, 2), (150, 37), (249, 10), (250, 10)):
            page = await client.get(f"/v1/feed?after={after}&limit={limit}")
            lines = await client.get(f"/v1/feed?after={after}&limit={limit}", headers=AS_LINES)
            assert lines.headers["content-type"] == LINES
            assert [json.loads(line) for line in lines.content.splitlines()] == page.json()["events"]
            assert lines.headers[NEXT_HEADER] == str(page.json()["next"])
            assert sequences(lines.content) == list(range(after + 1, min(250, after + limit) + 1))


async def test_what_a_reader_accepts_decides_the_form(site: Site) -> None:
    async with site.running() as client:
        store_reads(site, 3)
        for accept, expected in (
            ("*/*", "application/json"),
            ("", "application/json"),
            ("text/html", "application/json"),
            ("application/json, application/x-ndjson;q=0.5", "application/json"),
            ("application/x-ndjson, application/json;q=0.5", LINES),
        ):
            answer = await client.get("/v1/feed", headers={"Accept": accept})
            assert answer.headers["content-type"] == expected, accept
            assert "Accept" in answer.headers["vary"]


async def test_a_long_pull_comes_in_pieces_and_is_the_same(site: Site) -> None:
    count = 2 * PIECE + 700
    async with site.running() as client:
        store_reads(site, count, batch=1000)
        url = f"/v1/feed?after=5&limit={LINES_MAX}"
        plain = await client.get(url, headers=AS_LINES)
        assert plain.headers["transfer-encoding"] == "chunked"
        assert sequences(plain.content) == list(range(6, count + 1))
        assert plain.headers[NEXT_HEADER] == str(count)
        packed = await client.get(url, headers={"Accept": LINES, "Accept-Encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.content == plain.content
        cut = await client.get(f"/v1/feed?after=5&limit={PIECE + 1}", headers=AS_LINES)
        assert sequences(cut.content) == list(range(6, PIECE + 7))
        assert cut.headers[NEXT_HEADER] == str(PIECE + 6)
        exact = await client.get(f"/v1/feed?after={count - PIECE}&limit={LINES_MAX}", headers=AS_LINES)
        assert sequences(exact.content) == list(range(count - PIECE + 1, count + 1))


async def test_pages_are_compressed_where_it_is_accepted_and_pays(site: Site) -> None:
    async with site.running() as client:
        store_reads(site, 500)
        plain = await client.get("/v1/feed", headers=PLAIN)
        assert "content-encoding" not in plain.headers
        async with client.stream("GET", "/v1/feed", headers={"Accept-Encoding": "gzip"}) as answer:
            wire = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert len(wire) == int(answer.headers["content-length"]) < len(plain.content) / 5
        assert gzip.decompress(wire) == plain.content
        little = await client.get("/v1/feed?limit=1", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in little.headers


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*, gzip;q=0", False),
        ("identity", False),
        ("gzip;q=much", False),
    ],
)
def test_accept_encoding_is_read_as_the_rfc_has_it(accepted: str, expected: bool) -> None:
    assert takes_gzip(accepted) is expected


async def test_limits_of_both_forms_are_told(site: Site) -> None:
    async with site.running() as client:
        assert_problem(await client.get("/v1/feed?limit=10001"), 400, "10000", "10001")
        assert_problem(await client.get(f"/v1/feed?limit={LINES_MAX + 1}", headers=AS_LINES), 400, str(LINES_MAX))
        assert (await client.get("/v1/feed?limit=10001", headers=AS_LINES)).status_code == 200


@asynccontextmanager
async def pruned(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """1 to 300 were there, 201 to 300 are."""
    async with site.running() as client:
        store_reads(site, 300)
        assert Retention(site.store.engine).prune_feed(250) == 2  # whole batches of a hundred
        yield client


@pytest.mark.parametrize("after", [0, 1, 150, 199])
async def test_a_cursor_behind_the_oldest_event_that_is_kept_is_told_so(site: Site, after: int) -> None:
    async with pruned(site) as client:
        for url in (f"/v1/feed?after={after}", f"/v1/feed/stream?after={after}"):
            for headers in (PLAIN, AS_LINES):
                answer = await client.get(url, headers=headers)
                assert_problem(answer, 410, str(after), "201")
                assert answer.json()["type"] == "urn:headend:problem:cursor-gone"
                assert (answer.json()["first_sequence"], answer.json()["last_sequence"]) == (201, 300)
                assert "after=200" in answer.json()["next_step"]
        resumed = await client.get("/v1/feed/stream?after=250", headers={"Last-Event-ID": str(after)})
        assert_problem(resumed, 410)


async def test_a_cursor_at_the_edge_of_what_is_kept_goes_on(site: Site) -> None:
    async with pruned(site) as client:
        page = (await client.get("/v1/feed?after=200&limit=2")).json()
        assert ([event["sequence"] for event in page["events"]], page["next"]) == (["201", "202"], 202)
        assert (await client.get("/v1/feed?after=300")).json() == {"events": [], "next": 300}


@pytest.mark.parametrize("after", [301, 2**63, 10**30])
async def test_a_cursor_ahead_of_the_feed_is_told_where_it_ends(site: Site, after: int) -> None:
    """As after a restore from a backup."""
    async with pruned(site) as client:
        for url in (f"/v1/feed?after={after}", f"/v1/feed/stream?after={after}"):
            answer = await client.get(url)
            assert_problem(answer, 400, str(after), "300")
            assert answer.json()["type"] == "urn:headend:problem:cursor-ahead"
            assert answer.json()["last_sequence"] == 300


async def test_a_stream_whose_next_event_is_pruned_ends_and_never_numbers_wrongly(site: Site) -> None:
    """Taken by hand, so that the reader is surely too slow."""
    store_reads(site, 100)
    stream = follow(site.deps, 50)
    assert await anext(stream) == b": headend feed\n\n"
    assert (await anext(stream)).startswith(b"id: 51\n")
    store_reads(site, 200)
    Retention(site.store.engine).prune_feed(201)
    last_words = (await anext(stream)).decode()
    assert last_words.startswith(": after is 100, but the feed begins at 201")
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert site.signal.subscribers == 0
