"""Concentrators behind MQTT brokers: who is there, what came from them, and who speaks without being configured."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from msgspec import Struct

from headend.api.auth import needs
from headend.api.parameters import refuse_unknown
from headend.api.problems import problem
from headend.concentrators.park import BrokerStatus, ConcentratorPark, ConcentratorStatus, Unknown
from headend.store.tokens import Role

__all__ = ["concentrator_routes"]

UNKNOWN_MAX = 1000  # per answer


class Concentrators(Struct, frozen=True):
    brokers: list[BrokerStatus]
    concentrators: list[ConcentratorStatus]


class UnknownPage(Struct, frozen=True):
    """overflow: messages of further ones; so many names were new that no more of them is known."""

    unknown: list[Unknown]
    overflow: int


def concentrator_routes(parks: Callable[[], Sequence[ConcentratorPark]]) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`. parks: asked at every request."""

    @get("/v1/concentrators", opt=needs(Role.READ))
    async def list_concentrators() -> Concentrators:
        """Every broker and concentrator with its state, problem and counters."""
        there = parks()
        return Concentrators(
            [park.broker_status() for park in there], [status for park in there for status in park.statuses()]
        )

    @get("/v1/concentrators/unknown", opt=needs(Role.READ))
    async def list_unknown(
        request: Request[Any, Any, Any],
        limit: Annotated[int, QueryParameter(description="Entries at most, 1 to 1000.")] = 100,
    ) -> UnknownPage:
        """Concentrators and meters that speak and are not configured: copy their names into the configuration to serve them."""
        refuse_unknown(request, "limit")
        if not 1 <= limit <= UNKNOWN_MAX:
            raise problem(400, f"limit must be 1 to {UNKNOWN_MAX}, found {limit}.")
        there = parks()
        found = [one for park in there for one in park.unknown()]
        return UnknownPage(found[:limit], sum(park.unknown_overflow() for park in there))

    @get("/v1/concentrators/{name:str}", opt=needs(Role.READ))
    async def one_concentrator(name: str) -> ConcentratorStatus:
        """One concentrator."""
        for park in parks():
            for status in park.statuses():
                if status.name == name:
                    return status
        raise problem(
            404, f"No concentrator {name!r} is configured.", next_step="GET /v1/concentrators lists all of them."
        )

    return list_concentrators, list_unknown, one_concentrator
