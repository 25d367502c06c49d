"""How events of prepaid supply come into the feed. Only a part of the same service may tell them, under a token that no store holds."""

import hashlib
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from headend.api.auth import needs
from headend.api.problems import problem
from headend.clock import Clock
from headend.feed.account_event import ACCOUNT_TYPE
from headend.model import Event
from headend.store.account_events import take_account_event
from headend.store.tokens import Role
from headend.store.writer import Writer

__all__ = ["account_event_routes"]


class ToldEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """number: of whoever tells it; with the same content it is the same event. data: of `headend.account.v1`."""

    number: Annotated[int, Meta(ge=1, le=2**53)]
    type: str
    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    at: datetime
    data: dict[str, Any]


class Taken(Struct, frozen=True):
    id: str
    is_repeat: bool


def account_event_routes(writer: Writer, clock: Clock) -> tuple[HTTPRouteHandler, ...]:
    @post("/v1/account-events", opt=needs(Role.ACCOUNT_EVENTS), status_code=202, include_in_schema=False)
    async def take_event(data: JSONBody[ToldEvent]) -> Response[Taken]:
        """202 for a new event, 200 for one that is in the feed already; durable in either case."""
        if data.type != ACCOUNT_TYPE:
            raise problem(422, f"type is {data.type!r}; expected {ACCOUNT_TYPE}.")
        if data.at.tzinfo is None:
            raise problem(422, "at has no offset; expected a moment such as 2026-01-31T16:00:00Z.")
        event = Event(type=data.type, subject=data.subject, data=data.data, time=data.at, id=_id_of(data))
        is_new = await writer.transact(take_account_event(event, clock.now()), "taking an event about an account")
        return Response(Taken(event.id, not is_new), status_code=202 if is_new else 200)

    return (take_event,)


def _id_of(told: ToldEvent) -> str:
    """Of the content, too: a database that was restored counts its numbers a second time, for other events."""
    content = msgspec.json.encode([told.at.timestamp(), told.data], order="sorted")
    return f"account:{told.subject}:{told.number}:{hashlib.sha256(content).hexdigest()[:16]}"
