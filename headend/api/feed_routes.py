"""The feed: pulled by cursor as JSON or as lines of it, or followed as server-sent events.

What is stored is what is sent: whole batches are passed on, and no event is decoded or encoded on the way. A page is at most some
megabytes; a longer pull is sent piece by piece, as fast as the reader takes it, so that nobody's pace costs memory here.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.datastructures.headers import Accept
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from headend.api.auth import needs
from headend.api.deps import ApiDeps
from headend.api.parameters import refuse_unknown
from headend.api.problems import Problem, ProblemRaised, problem
from headend.store.stretches import Bounds, FeedStretch
from headend.store.tokens import Role

__all__ = ["NEXT_HEADER", "follow", "pull_feed", "stream_feed", "takes_gzip"]

LIMIT_MAX = 10_000  # of a JSON page: about 4.5 MB of events
LINES_MAX = 1_000_000  # of a pull of lines, which is sent in pieces
PIECE = 2_000  # events per piece; about 1 MB
STREAM_PULL = 1_000  # events per write of a stream; there may be a hundred of them
COMPRESSED_MIN = 1_400  # bytes: what fits into one packet gains nothing
COMPRESSION = 1  # zlib's fastest; events repeat each other so much that it makes a tenth of them
GZIP = 31  # zlib's word for a gzip header and trailer
LINES = "application/x-ndjson"
NEXT_HEADER = "Headend-Next"


class FeedPage(Struct, frozen=True):
    """events: CloudEvents 1.0 in the order of their sequence. next: the `after` of the following request."""

    events: list[dict[str, Any]]
    next: int


class CursorProblem(Problem, frozen=True, kw_only=True):
    """first_sequence, last_sequence: of the events that are there."""

    first_sequence: int
    last_sequence: int


_RESPONSES = {
    410: ResponseSpec(
        CursorProblem,
        media_type="application/problem+json",
        description="Events after the cursor are not kept any more.",
    )
}


@get(
    "/v1/feed",
    opt=needs(Role.READ),
    responses={
        200: ResponseSpec(
            FeedPage,
            description=f"Events after the cursor. With `Accept: {LINES}` one event per line instead, and the `after` of "
            f"the following request in the header {NEXT_HEADER}.",
        ),
        **_RESPONSES,
    },
)
async def pull_feed(
    request: Request[Any, Any, Any],
    state: State,
    after: Annotated[int, QueryParameter(description="Sequence of the last event you have; 0 from the beginning.")] = 0,
    limit: Annotated[int, QueryParameter(description="Events at most, 1 to 10000; of lines 1 to 1000000.")] = 1000,
) -> Response[bytes] | Stream:
    """Events after a sequence number, oldest first. An empty list means there is nothing newer yet."""
    deps: ApiDeps = state.deps
    refuse_unknown(request, "after", "limit")
    as_lines = Accept(request.headers.get("accept", "")).best_match(["application/json", LINES]) == LINES
    limit_max = LINES_MAX if as_lines else LIMIT_MAX
    if not 1 <= limit <= limit_max:
        raise problem(400, f"limit must be 1 to {limit_max}, found {limit}.")
    is_compressed = takes_gzip(request.headers.get("accept-encoding", ""))
    if as_lines:
        return await _lines(deps, after, limit, is_compressed=is_compressed)

    def page() -> tuple[bytes, bool]:
        start = _start(deps, after)
        stretch = _checked(deps, start, limit)
        events = b",".join(text.replace(b"\n", b",") for text in stretch.texts)
        return _packed(b'{"events":[%b],"next":%d}' % (events, start + stretch.count), is_compressed)

    body, packed = await asyncio.to_thread(page)
    return Response(body, media_type="application/json", headers=_headers(packed))


async def _lines(deps: ApiDeps, after: int, limit: int, *, is_compressed: bool) -> Response[bytes] | Stream:
    """At once what is little, and in pieces what is much."""

    def begin() -> tuple[bytes, bool, int, int]:
        start = _start(deps, after)
        stretch = _checked(deps, start, min(limit, PIECE))
        if stretch.count < min(limit, PIECE) or limit <= PIECE:
            body, packed = _packed(_lines_of(stretch), is_compressed)
            return body, packed, start, start + stretch.count
        return b"", is_compressed, start, min(start + limit, deps.store.place_of(start).last)

    body, packed, start, last = await asyncio.to_thread(begin)
    headers = _headers(packed) | {NEXT_HEADER: str(last)}
    if last == start or body:
        return Response(body, media_type=LINES, headers=headers)
    return Stream(_pieces(deps, start, last, is_compressed=packed), media_type=LINES, headers=headers)


async def _pieces(deps: ApiDeps, after: int, last: int, *, is_compressed: bool) -> AsyncIterator[bytes]:
    """Events up to number `last`. When the store fails or events go meanwhile, the answer breaks off, which HTTP tells the reader."""
    packer = zlib.compressobj(COMPRESSION, wbits=GZIP) if is_compressed else None

    def piece(after: int) -> tuple[bytes, int]:
        stretch = _checked(deps, after, min(PIECE, last - after))
        text = _lines_of(stretch)
        return text if packer is None else packer.compress(text), stretch.count

    while after < last:
        text, count = await asyncio.to_thread(piece, after)
        after += count
        if text:
            yield text
    if packer is not None:
        yield packer.flush()


@get(
    "/v1/feed/stream",
    opt=needs(Role.READ),
    media_type="text/event-stream",
    responses={
        200: ResponseSpec(str, media_type="text/event-stream", description="id: sequence, data: the event."),
        **_RESPONSES,
    },
)
async def stream_feed(
    request: Request[Any, Any, Any],
    state: State,
    after: Annotated[int, QueryParameter(description="As for /v1/feed.")] = 0,
    last_event_id: Annotated[
        int | None,
        HeaderParameter(name="Last-Event-ID", description="Sent by a reconnecting reader; wins over `after`."),
    ] = None,
) -> Stream:
    """The feed as server-sent events, from a sequence number on and then as it grows."""
    deps: ApiDeps = state.deps
    refuse_unknown(request, "after")
    start = after if last_event_id is None else last_event_id
    await asyncio.to_thread(lambda: _checked(deps, _start(deps, start), 1))
    # A full house is told here, with a 503. The place itself is taken when the stream begins, since a reader that goes
    # away before would never give it back; one that loses the last place in between finds an empty stream and retries.
    deps.signal.subscribe().leave()
    return Stream(
        follow(deps, start),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def follow(deps: ApiDeps, after: int) -> AsyncIterator[bytes]:
    """Server-sent events from the cursor on, until the service stops or what comes next is not kept any more."""

    def pull(after: int) -> tuple[bytes, int]:
        after = _start(deps, after)
        stretch = deps.store.stretch_after(after, STREAM_PULL)
        if stretch.count and stretch.first != after + 1:
            raise _gone(after, deps.store.bounds())
        events = (event for text in stretch.texts for event in text.split(b"\n"))
        return b"".join(
            b"id: %d\ndata: %b\n\n" % numbered for numbered in enumerate(events, after + 1)
        ), after + stretch.count

    with deps.signal.subscribe() as subscription:
        yield b": headend feed\n\n"
        while not deps.signal.closed:
            try:
                text, after = await asyncio.to_thread(pull, after)
            except ProblemRaised as gone:
                # Pruned under a reader that was too slow. When it comes again, it gets this as an answer of its own.
                yield b": %b\n\n" % gone.problem.detail.encode()
                return
            if text:
                yield text
            elif not await subscription.wait(after, deps.heartbeat_s):
                yield b": heartbeat\n\n"


# -------------------------------------------------------------------------------------------- what both have


def _start(deps: ApiDeps, after: int) -> int:
    """The cursor, taken over numbers that a restore has made void."""
    return deps.store.place_of(after).first if after > 0 else after


def _checked(deps: ApiDeps, after: int, limit: int) -> FeedStretch:
    """What is there after the cursor. Raises ProblemRaised when that is not the feed's next event, StoreUnavailable."""
    if after < 0:
        raise problem(400, f"after must not be negative, found {after}.")
    stretch = deps.store.stretch_after(after, limit)
    if stretch.first != after + 1:
        found = deps.store.bounds()
        if after > found.last:
            raise _ahead(after, found)
        if after + 1 < found.first:
            raise _gone(after, found)
    return stretch


def _gone(after: int, found: Bounds) -> ProblemRaised:
    return ProblemRaised(
        CursorProblem(
            type="urn:headend:problem:cursor-gone",
            title="Events after the cursor are not kept any more",
            status=410,
            detail=f"after is {after}, but the feed begins at {found.first}: what is older was pruned, as feed_retention says.",
            next_step=f"A new consumer asks with after={found.first - 1}. One that has lost events between takes them from the "
            f"daily files or the stored reads, compares with the daily manifests, and then goes on with after={found.first - 1}; "
            f"a destination in [[sinks]] protects what it has not got.",
            first_sequence=found.first,
            last_sequence=found.last,
        )
    )


def _ahead(after: int, found: Bounds) -> ProblemRaised:
    return ProblemRaised(
        CursorProblem(
            type="urn:headend:problem:cursor-ahead",
            title="The cursor is ahead of the feed",
            status=400,
            detail=f"after is {after}, but the feed ends at {found.last}.",
            next_step="Is this another head-end, or one whose store was replaced without `headend restore`? Compare with its "
            f"daily manifests, and go on with after={found.last}; repeated events have the same id.",
            first_sequence=found.first,
            last_sequence=found.last,
        )
    )


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding wants gzip (RFC 9110 §12.5.3)."""
    weights: dict[str, float] = {}
    for one in accepted.lower().split(","):
        name, _, parameter = one.partition(";")
        key, _, weight = parameter.strip().partition("=")
        try:
            weights[name.strip()] = float(weight) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _lines_of(stretch: FeedStretch) -> bytes:
    return b"".join(text + b"\n" for text in stretch.texts)


def _packed(body: bytes, is_compressed: bool) -> tuple[bytes, bool]:
    """The body, and whether it is compressed now."""
    if not is_compressed or len(body) < COMPRESSED_MIN:
        return body, False
    return zlib.compress(body, COMPRESSION, wbits=GZIP), True


def _headers(is_compressed: bool) -> dict[str, str]:
    return {"Vary": "Accept, Accept-Encoding"} | ({"Content-Encoding": "gzip"} if is_compressed else {})
