"""Destinations of the feed: how far each has come, what it would not take, and what is to become of that."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from headend.api.auth import needs
from headend.api.parameters import refuse_unknown
from headend.api.problems import ProblemRaised, problem
from headend.feed.pusher_deliveries import Deliveries, StillConfigured, UnknownSink
from headend.feed.pusher_retention import RetentionKeeper
from headend.feed.pusher_status import CapacityStatus, SinkStatus
from headend.feed.sinks.sink import head_of
from headend.store.tokens import Role

__all__ = ["sink_routes"]

PARKED_MAX = 1000  # per answer
NUMBER_MAX = 2**63 - 1  # what databases can be asked for
_LISTED = "GET /v1/sinks lists all of them."


class Sinks(Struct, frozen=True):
    """problems: what will cost events if nobody does anything. capacity: null until it was measured."""

    sinks: list[SinkStatus]
    capacity: CapacityStatus | None
    problems: list[str]


class ParkedEvent(Struct, frozen=True, kw_only=True):
    """reason: what the destination said. since: when it was parked first. tries: how often it was offered. released: it waits to be
    offered again. event: as it stands in the feed."""

    sequence: int
    id: str
    reason: str
    since: datetime
    tries: int
    released: bool
    event: msgspec.Raw


class ParkedPage(Struct, frozen=True):
    """next: the `after` of the following request."""

    parked: list[ParkedEvent]
    next: int


class Count(Struct, frozen=True):
    """How many events it was about."""

    count: int


def sink_routes(deliveries: Deliveries, keeper: RetentionKeeper) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    @get("/v1/sinks", opt=needs(Role.ADMIN))
    async def list_sinks() -> Sinks:
        """Every destination, also those that are no longer configured, with cursor, lag, lanes and problem."""
        statuses = [*deliveries.statuses(), *await deliveries.left_over()]
        return Sinks(statuses, keeper.capacity, list(keeper.problems()))

    @get("/v1/sinks/{name:str}", opt=needs(Role.ADMIN))
    async def one_sink(name: FromPath[str]) -> SinkStatus:
        """One destination."""
        for status in (*deliveries.statuses(), *await deliveries.left_over()):
            if status.name == name:
                return status
        raise _unknown(UnknownSink(name))

    @get("/v1/sinks/{name:str}/parked", opt=needs(Role.ADMIN))
    async def list_parked(
        request: Request[Any, Any, Any],
        name: FromPath[str],
        after: Annotated[
            int, QueryParameter(description="Sequence of the last one you have; 0 from the beginning.")
        ] = 0,
        limit: Annotated[int, QueryParameter(description="Events at most, 1 to 1000.")] = 100,
    ) -> ParkedPage:
        """Events that the destination would not take, by sequence."""
        refuse_unknown(request, "after", "limit")
        if not 1 <= limit <= PARKED_MAX:
            raise problem(400, f"limit must be 1 to {PARKED_MAX}, found {limit}.")
        if not 0 <= after <= NUMBER_MAX:
            raise problem(400, f"after must be 0 to {NUMBER_MAX}, found {after}.")
        try:
            found = await deliveries.parked(name, after=after, limit=limit)
        except UnknownSink as error:
            raise _unknown(error) from error
        events = [
            ParkedEvent(
                sequence=one.sequence,
                id=head_of(one.body).id,
                reason=one.reason,
                since=one.since,
                tries=one.tries,
                released=one.released,
                event=msgspec.Raw(one.body),
            )
            for one in found
        ]
        return ParkedPage(events, events[-1].sequence if events else after)

    @post("/v1/sinks/{name:str}/parked/release", opt=needs(Role.ADMIN), status_code=200)
    async def release_all(request: Request[Any, Any, Any], name: FromPath[str]) -> Count:
        """Offer all parked events of a destination again."""
        return await _release(request, name, None)

    @post("/v1/sinks/{name:str}/parked/{sequence:int}/release", opt=needs(Role.ADMIN), status_code=200)
    async def release_one(request: Request[Any, Any, Any], name: FromPath[str], sequence: FromPath[int]) -> Count:
        """Offer one parked event again."""
        return await _release(request, name, sequence)

    @delete("/v1/sinks/{name:str}/parked", opt=needs(Role.ADMIN), status_code=200)
    async def drop_all(request: Request[Any, Any, Any], name: FromPath[str]) -> Count:
        """Give all parked events of a destination up: it never gets them. They stay in the feed."""
        return await _drop(request, name, None)

    @delete("/v1/sinks/{name:str}/parked/{sequence:int}", opt=needs(Role.ADMIN), status_code=200)
    async def drop_one(request: Request[Any, Any, Any], name: FromPath[str], sequence: FromPath[int]) -> Count:
        """Give one parked event up."""
        return await _drop(request, name, sequence)

    @delete("/v1/sinks/{name:str}", opt=needs(Role.ADMIN), status_code=200)
    async def forget(request: Request[Any, Any, Any], name: FromPath[str]) -> Count:
        """Forget a destination that is no longer configured, so that nothing is kept for it any more."""
        try:
            await deliveries.forget(name, by=_who(request))
        except StillConfigured as error:
            raise problem(409, f"{error}.") from error
        except UnknownSink as error:
            raise _unknown(error) from error
        return Count(1)

    async def _release(request: Request[Any, Any, Any], name: str, sequence: int | None) -> Count:
        _check(name, sequence)
        try:
            count = await deliveries.release(name, sequence, by=_who(request))
        except UnknownSink as error:
            raise _unknown(error) from error
        return _found(count, name, sequence)

    async def _drop(request: Request[Any, Any, Any], name: str, sequence: int | None) -> Count:
        _check(name, sequence)
        try:
            count = await deliveries.drop(name, sequence, by=_who(request))
        except UnknownSink as error:
            raise _unknown(error) from error
        return _found(count, name, sequence)

    return list_sinks, one_sink, list_parked, release_all, release_one, drop_all, drop_one, forget


def _check(name: str, sequence: int | None) -> None:
    """No event has a number that no database can be asked for."""
    if sequence is not None and not 0 <= sequence <= NUMBER_MAX:
        raise _not_parked(name, sequence)


def _found(count: int, name: str, sequence: int | None) -> Count:
    if sequence is not None and not count:
        raise _not_parked(name, sequence)
    return Count(count)


def _not_parked(name: str, sequence: int) -> ProblemRaised:
    return problem(
        404,
        f"Event {sequence} is not parked for {name!r}.",
        next_step=f"GET /v1/sinks/{name}/parked lists those that are.",
    )


def _unknown(error: UnknownSink) -> ProblemRaised:
    return problem(404, f"{error}.", next_step=_LISTED)


def _who(request: Request[Any, Any, Any]) -> str:
    """The token's name, for the log."""
    return str(request.state.token.name)
