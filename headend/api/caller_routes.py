"""DTUs that dial in: who is there, who is unknown, and adopting an unknown one for a line."""

import asyncio
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, QueryParameter
from msgspec import Struct
from msgspec.structs import asdict

from headend.api.auth import needs
from headend.api.parameters import refuse_unknown
from headend.api.problems import problem
from headend.drivers.listener_connect import DialInConnect
from headend.drivers.listener_settings import BadListener
from headend.drivers.listener_unknown import UnknownCaller
from headend.store.store import Store
from headend.store.tokens import Role

__all__ = ["caller_routes"]

CALLERS_MAX = 1000  # per answer
DTU_MAX = 512  # the longest packet, all of it as hex


class ListenerStatus(Struct, frozen=True, kw_only=True):
    """One port that DTUs dial in to. connected: those that a line owns; unowned: callers that none does."""

    listen: str
    connected: int
    unowned: int
    unknown: int
    forgotten: int
    counters: dict[str, int]


class Callers(Struct, frozen=True):
    """unknown: the one heard of last first."""

    listeners: list[ListenerStatus]
    unknown: list[UnknownCaller]


class AdoptRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """dtu: the id of its registration packet. line: the name of a line whose url begins with listen://."""

    dtu: str
    line: str


class Adopted(Struct, frozen=True):
    """connected: the DTU is here already, and the line has it."""

    dtu: str
    line: str
    connected: bool


def caller_routes(dial_in: DialInConnect, store: Store) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""
    in_order = asyncio.Lock()

    @get("/v1/callers", opt=needs(Role.READ))
    async def list_callers(
        request: Request[Any, Any, Any],
        limit: Annotated[int, QueryParameter(description="Unknown callers at most, 1 to 1000.")] = 100,
    ) -> Callers:
        """The ports that DTUs dial in to, and who called there whom nobody knows. Unknown callers are never polled."""
        refuse_unknown(request, "limit")
        if not 1 <= limit <= CALLERS_MAX:
            raise problem(400, f"limit must be 1 to {CALLERS_MAX}, found {limit}.")
        listeners = [
            ListenerStatus(
                listen=one.name,
                connected=one.connected - one.unowned,
                unowned=one.unowned,
                unknown=len(one.unknown()),
                forgotten=one.forgotten,
                counters=asdict(one.counters),
            )
            for one in dial_in.listeners
        ]
        unknown = [caller for one in dial_in.listeners for caller in one.unknown()]
        unknown.sort(key=lambda caller: caller.last_seen, reverse=True)
        return Callers(listeners, unknown[:limit])

    # The id is no part of the path: ids may hold slashes, and servers decode a path before it is taken apart.
    @post("/v1/callers/adopt", opt=needs(Role.ADMIN), status_code=200)
    async def adopt(data: JSONBody[AdoptRequest]) -> Adopted:
        """Give a DTU to a line, instead of the one it had. Holds at once and over restarts."""
        dtu = data.dtu
        if not 1 <= len(dtu) <= DTU_MAX or not dtu.isprintable():
            raise problem(400, f"dtu must be the id of a DTU, 1 to {DTU_MAX} printable characters.")
        async with in_order:  # what is stored last is what took effect last
            try:
                connected = dial_in.adopt(dtu, data.line)
            except BadListener as error:
                raise problem(
                    409, f"{error}.", next_step="GET /v1/callers lists who called, GET /v1/lines the lines."
                ) from error
            await asyncio.to_thread(store.adopt, data.line, dtu)
        return Adopted(dtu, data.line, connected)

    return list_callers, adopt
