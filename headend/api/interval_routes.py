"""Interval values of one meter, as the feed has them."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from litestar.response import Response
from msgspec import Struct

from headend.api.auth import needs
from headend.api.parameters import refuse_unknown
from headend.api.problems import UNKNOWN_METER, problem
from headend.feed.envelope import iso_utc
from headend.feed.payloads import IntervalData
from headend.intervals.teller import PeriodOf
from headend.intervals.view import IntervalView, Place
from headend.quantities import BadQuantity, channel_of
from headend.store.tokens import Role

__all__ = ["interval_routes"]

LIMIT_MAX = 5000


class IntervalPage(Struct, frozen=True):
    """intervals: as `data` in the feed, the newest revision of each, by end and quantity. next: `after` of the following request; null
    on the last page."""

    intervals: list[IntervalData]
    next: str | None


def interval_routes(view: IntervalView, *, period_of: PeriodOf) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    @get("/v1/intervals", opt=needs(Role.READ), responses={200: ResponseSpec(IntervalPage)})
    async def list_intervals(
        request: Request[Any, Any, Any],
        meter: Annotated[str | None, QueryParameter(description="Asset number.")] = None,
        obis: Annotated[str | None, QueryParameter(description="Only this quantity: an OBIS code.")] = None,
        since: Annotated[datetime | None, QueryParameter(description="Earliest start, with zone; inclusive.")] = None,
        until: Annotated[datetime | None, QueryParameter(description="Latest end, with zone; inclusive.")] = None,
        after: Annotated[str | None, QueryParameter(description="`next` of the page before.")] = None,
        limit: Annotated[int, QueryParameter(description="Intervals at most, 1 to 5000.")] = 1000,
    ) -> Response[bytes]:
        """What the registers of a meter counted, interval by interval, or why it is not known."""
        refuse_unknown(request, "meter", "obis", "since", "until", "after", "limit")
        if not meter:
            raise problem(400, "meter is missing; expected an asset number, as in ?meter=M000001.")
        if not 1 <= limit <= LIMIT_MAX:
            raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
        for name, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise problem(400, f"{name} must carry a zone, as in 2026-01-31T00:00:00Z, found {moment.isoformat()}.")
        if since is not None and until is not None and until <= since:
            raise problem(400, f"until must be later than since, found {until.isoformat()} and {since.isoformat()}.")
        try:
            quantity = None if obis is None else channel_of(obis)
        except BadQuantity as error:
            raise problem(400, str(error)) from error
        place = None if after is None else _place(after)
        if period_of(meter) is None and not await asyncio.to_thread(view.knows, meter):
            raise problem(404, f"No meter {meter!r} is registered.", next_step=UNKNOWN_METER)
        found, following = await asyncio.to_thread(
            lambda: view.page(meter, obis=quantity, since=since, until=until, after=place, limit=limit)
        )
        page = IntervalPage(found, None if following is None else f"{iso_utc(following.end)}/{following.obis}")
        return Response(msgspec.json.encode(page), media_type="application/json", status_code=200)

    return (list_intervals,)


def _place(text: str) -> Place:
    end, slash, obis = text.partition("/")
    try:
        moment = datetime.fromisoformat(end)
        if not slash or moment.tzinfo is None:
            raise ValueError(text)
    except ValueError as error:
        raise problem(400, f"after must be the `next` of the page before, found {text!r}.") from error
    return Place(moment, obis)
