"""How the service itself is: health, metrics, lines."""

import asyncio

import msgspec
from litestar import Response, get, head
from litestar.datastructures import State
from msgspec import Struct
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from headend.api.auth import PUBLIC, needs
from headend.api.deps import ApiDeps, LineStatus
from headend.api.problems import ProblemRaised, problem, problem_response
from headend.errors import StoreUnavailable
from headend.store.tokens import Role

__all__ = ["healthz", "healthz_head", "list_lines", "metrics"]


class Healthy(Struct, frozen=True):
    """status: always "ok"; anything else is a 503 problem document that lists `problems`.

    last_sequence: number of the newest event in the feed, 0 before the first.
    """

    status: str
    name: str
    last_sequence: int


class Lines(Struct, frozen=True):
    lines: list[LineStatus]


@get("/healthz", opt=PUBLIC, security=[{}])
async def healthz(state: State) -> Response[bytes]:
    """200 while the head-end can do its work, 503 with what is wrong otherwise. Needs no token."""
    return await _health(state.deps)


@head("/healthz", opt=PUBLIC, security=[{}])
async def healthz_head(state: State) -> Response[None]:
    """The status of GET without its body, as load balancers ask for it."""
    return Response(None, status_code=(await _health(state.deps)).status_code)


async def _health(deps: ApiDeps) -> Response[bytes]:
    problems = list(deps.status.health().problems)
    writer = deps.writer_health()
    if not writer.healthy:
        problems.append(f"Reads cannot be stored; {writer.queued} are kept in memory: {writer.last_error}.")
    last: int | msgspec.UnsetType = msgspec.UNSET
    try:
        last = await asyncio.to_thread(deps.store.last_sequence)
    except StoreUnavailable as error:
        problems.append(f"The store cannot be read: {error}.")
    if not problems and last is not msgspec.UNSET:
        return Response(msgspec.json.encode(Healthy("ok", deps.name, last)), media_type="application/json")
    raised = problem(503, problems[0], name="unhealthy", next_step="See the runbook entry of each problem.")
    document = msgspec.structs.replace(raised.problem, problems=problems, last_sequence=last)
    return problem_response(ProblemRaised(document))


@get("/metrics", opt=needs(Role.READ), media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """Counters in the Prometheus text format. No meter is ever a label."""
    deps: ApiDeps = state.deps
    return Response(generate_latest(deps.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@get("/v1/lines", opt=needs(Role.READ))
async def list_lines(state: State) -> Lines:
    """Every line with its state, problem and counters."""
    deps: ApiDeps = state.deps
    return Lines(list(deps.status.lines()))
