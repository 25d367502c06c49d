"""Registered meters, their stored reads, and reads on demand."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Struct

from headend.api.auth import needs
from headend.api.deps import ApiDeps, MeterStatus
from headend.api.parameters import refuse_unknown
from headend.api.problems import UNKNOWN_METER, problem
from headend.feed.envelope import encode_read_data
from headend.model import MeterClock, MeterRecord, Read
from headend.on_demand import OnDemandRead
from headend.quantities import BadQuantity, channel_of
from headend.store.tokens import Role

__all__ = ["list_meters", "list_reads", "one_meter", "read_meter_now"]

METERS_MAX = 1000  # per page
READS_MAX = 10_000  # per answer
QUANTITIES_MAX = 50  # per on-demand request; each costs the line a second or two


class MeterPage(Struct, frozen=True):
    """next: the `after` of the following request; null on the last page."""

    meters: list[MeterRecord]
    next: str | None


class MeterDetail(Struct, frozen=True, kw_only=True):
    """last_read_at: when we received the newest read; null when there is none. last_problem: "" when none is known."""

    id: str
    line: str
    address: str
    contract: str
    plan: str
    protocol: str
    last_read_at: datetime | None
    last_problem: str
    last_problem_at: datetime | None
    clock: MeterClock | None = None


class ReadRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """quantities: OBIS codes, `di:00010000` or `reg:4:0x0048:float32`, anything the meter's contract offers; empty means those of
    its plan."""

    quantities: list[str] = []


class ReadsNow(Struct, frozen=True):
    """As `headend read --json` prints them, `meter` being the asset number; a block gives one per value."""

    reads: list[OnDemandRead]


class ReadShape(Struct, frozen=True):
    """One stored read. value: decimal string, null when missing; `reason` then says why.

    side, ratio, primary or secondary: only where a transformer ratio is known, see docs/feed.md.
    """

    meter: str
    obis: str
    value: str | None
    unit: str
    interval_end: datetime
    read_at: datetime | None
    received_at: datetime
    quality: list[str]
    source: str
    revision: int
    reason: str = ""
    occurred_at: datetime | None = None
    side: str = ""
    ratio: str = ""
    primary: str = ""
    secondary: str = ""


class ReadPage(Struct, frozen=True):
    """truncated: there are more than `limit`; ask again with `since` = the last interval_end, and drop the repeats."""

    reads: list[ReadShape]
    truncated: bool


@get("/v1/meters", opt=needs(Role.READ))
async def list_meters(
    request: Request[Any, Any, Any],
    state: State,
    after: Annotated[str, QueryParameter(description="Last id of the page before.")] = "",
    limit: Annotated[int, QueryParameter(description="Meters at most, 1 to 1000.")] = 100,
) -> MeterPage:
    """Registered meters by asset number."""
    deps: ApiDeps = state.deps
    refuse_unknown(request, "after", "limit")
    if not 1 <= limit <= METERS_MAX:
        raise problem(400, f"limit must be 1 to {METERS_MAX}, found {limit}.")
    found = await asyncio.to_thread(lambda: deps.store.meters(after=after, limit=limit + 1))
    page = found[:limit]
    return MeterPage(page, page[-1].id if len(found) > limit else None)


@get("/v1/meters/{meter_id:str}", opt=needs(Role.READ))
async def one_meter(state: State, meter_id: FromPath[str]) -> MeterDetail:
    """One meter, with its newest read and last problem."""
    deps: ApiDeps = state.deps
    record = await _registered(deps, meter_id)
    seen = deps.status.meters().get(meter_id, MeterStatus())
    last_read_at = seen.last_read_at
    if last_read_at is None:
        newest = await asyncio.to_thread(deps.store.latest_read, meter_id)
        last_read_at = None if newest is None else newest.received_at
    return MeterDetail(
        id=record.id,
        line=record.line,
        address=record.address,
        contract=record.contract,
        plan=record.plan,
        protocol=record.protocol,
        last_read_at=last_read_at,
        last_problem=seen.last_problem,
        last_problem_at=seen.last_problem_at,
        clock=seen.clock,
    )


@get("/v1/meters/{meter_id:str}/reads", opt=needs(Role.READ), responses={200: ResponseSpec(ReadPage)})
async def list_reads(
    request: Request[Any, Any, Any],
    state: State,
    meter_id: FromPath[str],
    since: Annotated[datetime | None, QueryParameter(description="First interval end, with zone; inclusive.")] = None,
    until: Annotated[datetime | None, QueryParameter(description="Last interval end, with zone; exclusive.")] = None,
    obis: Annotated[str | None, QueryParameter(description="Only this quantity: an OBIS code or di:….")] = None,
    limit: Annotated[int, QueryParameter(description="Reads at most, 1 to 10000.")] = 1000,
) -> Response[bytes]:
    """Stored reads of one meter by interval end, all revisions."""
    deps: ApiDeps = state.deps
    refuse_unknown(request, "since", "until", "obis", "limit")
    if not 1 <= limit <= READS_MAX:
        raise problem(400, f"limit must be 1 to {READS_MAX}, found {limit}.")
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise problem(400, f"{name} must carry a zone, as in 2026-01-31T00:00:00Z, found {moment.isoformat()}.")
    try:
        quantity = None if obis is None else channel_of(obis)
    except BadQuantity as error:
        raise problem(400, str(error)) from error
    await _registered(deps, meter_id)
    found = await asyncio.to_thread(
        lambda: deps.store.reads(meter_id, quantity, since=since, until=until, limit=limit + 1),
    )
    return _reads_response(found[:limit], truncated=len(found) > limit)


@post("/v1/meters/{meter_id:str}/reads", opt=needs(Role.READ), status_code=200)
async def read_meter_now(state: State, meter_id: FromPath[str], data: JSONBody[ReadRequest]) -> ReadsNow:
    """Read one meter now, ahead of the plan; the feed does not get it. What could not be read comes back with its problem."""
    deps: ApiDeps = state.deps
    if deps.read_now is None:
        raise problem(501, "This process owns no lines.")
    if len(data.quantities) > QUANTITIES_MAX:
        raise problem(400, f"at most {QUANTITIES_MAX} quantities in one request, found {len(data.quantities)}.")
    await _registered(deps, meter_id)
    return ReadsNow(list(await deps.read_now(meter_id, data.quantities)))


async def _registered(deps: ApiDeps, meter_id: str) -> MeterRecord:
    record = await asyncio.to_thread(deps.store.meter, meter_id)
    if record is None:
        raise problem(404, f"No meter {meter_id!r} is registered.", next_step=UNKNOWN_METER)
    return record


def _reads_response(found: Sequence[Read], *, truncated: bool) -> Response[bytes]:
    """Stored reads look the same here and in the feed, down to the spelling of times."""
    body = b'{"reads":[%b],"truncated":%b}' % (
        b",".join(encode_read_data(read) for read in found),
        b"true" if truncated else b"false",
    )
    return Response(body, media_type="application/json", status_code=200)
