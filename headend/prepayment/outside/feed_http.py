"""The feed as prepaid supply reads it: GET /v1/feed, page by page, over whatever reaches the head-end."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from headend.prepayment.errors import FeedBroken, FeedPruned, FeedUnavailable
from headend.prepayment.outside.calling import Asked, Caller, NoAnswer

__all__ = ["HttpFeed"]

PAGE_MAX = 10_000  # of the interface


class _Page(Struct):
    events: list[msgspec.Raw]


class _Problem(Struct):
    type: str = ""
    detail: str = ""
    next_step: str = ""
    first_sequence: int = 0


_PAGE = msgspec.json.Decoder(_Page)


class HttpFeed:
    """Blocking, for threads of prepaid supply."""

    def __init__(self, call: Caller) -> None:
        self._call = call

    def events_after(self, sequence: int, limit: int) -> Sequence[bytes]:
        """Raises FeedUnavailable; FeedPruned where the feed no longer has what comes next, FeedBroken where it ends before it."""
        try:
            answer = self._call(
                "GET", "/v1/feed", query={"after": str(sequence), "limit": str(max(1, min(limit, PAGE_MAX)))}
            )
        except NoAnswer as error:
            raise FeedUnavailable(f"the feed cannot be read: {error}") from error
        if answer.status != 200:
            raise _problem(answer, sequence)
        try:
            return [bytes(event) for event in _PAGE.decode(answer.body).events]
        except msgspec.MsgspecError as error:
            raise FeedBroken(
                f"a page of the feed cannot be understood: {error}; expected an object with `events`"
            ) from error


def _problem(answer: Asked, sequence: int) -> FeedBroken | FeedUnavailable:
    try:
        told = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.MsgspecError:
        told = _Problem(detail=answer.body[:200].decode("utf-8", "replace"))
    if told.type.endswith(("cursor-gone", "cursor-ahead")):
        text = (
            f"accounts are settled up to event {sequence} of the feed, and it cannot go on from there: {told.detail} "
            f"docs/operation.md says what to do (Restoring, prepaid supply)"
        )
        is_pruned = told.type.endswith("cursor-gone") and told.first_sequence > 0
        return FeedPruned(text, told.first_sequence) if is_pruned else FeedBroken(text)
    return FeedUnavailable(f"the feed was answered {answer.status}: {told.detail}")
