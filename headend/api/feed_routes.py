"""The feed: pulled by cursor, or the same as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from headend.api.auth import needs
from headend.api.deps import ApiDeps
from headend.api.parameters import refuse_unknown
from headend.api.problems import problem
from headend.store.tokens import Role

__all__ = ["pull_feed", "stream_feed"]

LIMIT_MAX = 10_000  # about 4.5 MB of events
_STREAM_PULL = 500  # events per write of a stream


class FeedPage(Struct, frozen=True):
    """events: CloudEvents 1.0 in the order of their sequence. next: the `after` of the following request."""

    events: list[dict[str, Any]]
    next: int


@get("/v1/feed", opt=needs(Role.READ), responses={200: ResponseSpec(FeedPage, description="Events after the cursor.")})
async def pull_feed(
    request: Request[Any, Any, Any],
    state: State,
    after: Annotated[int, QueryParameter(description="Sequence of the last event you have; 0 from the beginning.")] = 0,
    limit: Annotated[int, QueryParameter(description="Events at most, 1 to 10000.")] = 1000,
) -> Response[bytes]:
    """Events after a sequence number, oldest first. An empty list means there is nothing newer yet."""
    deps: ApiDeps = state.deps
    refuse_unknown(request, "after", "limit")
    if not 1 <= limit <= LIMIT_MAX:
        raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
    await _check_cursor(deps, after)
    events = await asyncio.to_thread(deps.store.events_after, after, limit)
    # The events are stored as they are sent: spliced in, not encoded again.
    body = b'{"events":[%b],"next":%d}' % (b",".join(events), after + len(events))
    return Response(body, media_type="application/json")


@get(
    "/v1/feed/stream",
    opt=needs(Role.READ),
    media_type="text/event-stream",
    responses={200: ResponseSpec(str, media_type="text/event-stream", description="id: sequence, data: the event.")},
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
    await _check_cursor(deps, start)
    # A full house is told here, with a 503. The place itself is taken when the stream begins, since a reader that goes
    # away before would never give it back; one that loses the last place in between finds an empty stream and retries.
    deps.signal.subscribe().leave()
    return Stream(
        _events(deps, start),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(deps: ApiDeps, after: int) -> AsyncIterator[bytes]:
    with deps.signal.subscribe() as subscription:
        yield b": headend feed\n\n"
        while not deps.signal.closed:
            events = await asyncio.to_thread(deps.store.events_after, after, _STREAM_PULL)
            if events:
                yield b"".join(
                    b"id: %d\ndata: %b\n\n" % (sequence, event) for sequence, event in enumerate(events, after + 1)
                )
                after += len(events)
            elif not await subscription.wait(after, deps.heartbeat_s):
                yield b": heartbeat\n\n"


async def _check_cursor(deps: ApiDeps, after: int) -> None:
    if after < 0:
        raise problem(400, f"after must not be negative, found {after}.")
    last = await asyncio.to_thread(deps.store.last_sequence)
    if after > last:
        raise problem(
            400,
            f"after is {after}, but the feed ends at {last}.",
            name="cursor-ahead",
            next_step="Was the store restored from a backup, or is this another head-end? Pull again from the last "
            "sequence both sides have; repeated events have the same id.",
        )
