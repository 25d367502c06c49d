"""The audit log over HTTP: what was written, the checkpoints that vouch for it, and the end of an alarm."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, QueryParameter
from msgspec import Struct

from headend.api.auth import needs
from headend.api.parameters import refuse_unknown
from headend.api.problems import problem
from headend.audit.log import AuditLog
from headend.keys import PublicKey
from headend.store.audit import AuditBook, Row
from headend.store.tokens import Role

__all__ = ["audit_routes"]

LIMIT_MAX = 1000
REASON_MAX = 500


class AuditRow(Struct, frozen=True):
    """hash: over the one before it and the record as it stands here, byte for byte."""

    hash: str
    record: dict[str, Any]


class AuditPage(Struct, frozen=True):
    """next: the `after` of the following request."""

    records: list[AuditRow]
    next: int


class CheckpointPage(Struct, frozen=True):
    """ok, problem: whether the log is as it was left. key: PEM of the key that signs now; null without one."""

    checkpoints: list[dict[str, Any]]
    next: int
    ok: bool
    problem: str
    key: str | None


class Acknowledgement(Struct, frozen=True, forbid_unknown_fields=True):
    reason: str


class Acknowledged(Struct, frozen=True):
    """number: of the record that says so."""

    number: int


def audit_routes(
    book: AuditBook,
    log: AuditLog,
    acknowledge: Callable[[str, str], Awaitable[int | None]],
    *,
    key: PublicKey | None = None,
) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`. acknowledge: `AuditKeeper.acknowledge`."""

    @get("/v1/audit", opt=needs(Role.ADMIN), responses={200: ResponseSpec(AuditPage)})
    async def list_records(
        request: Request[Any, Any, Any],
        after: Annotated[int, QueryParameter(description="Number of the last record you have; 0 from the first.")] = 0,
        limit: Annotated[int, QueryParameter(description="Records at most, 1 to 1000.")] = 100,
        meter: Annotated[str | None, QueryParameter(description="Only this meter's.")] = None,
    ) -> Response[bytes]:
        """The audit log, record by record."""
        refuse_unknown(request, "after", "limit", "meter")
        _check(after, limit)
        rows = await asyncio.to_thread(lambda: book.records(after=after, limit=limit, meter=meter))
        listed = b",".join(_row(row) for row in rows)
        body = b'{"records":[%b],"next":%d}' % (listed, rows[-1].number if rows else after)
        return Response(body, media_type="application/json")

    @get("/v1/audit/checkpoints", opt=needs(Role.ADMIN), responses={200: ResponseSpec(CheckpointPage)})
    async def list_checkpoints(
        request: Request[Any, Any, Any],
        after: Annotated[int, QueryParameter(description="Number of the last checkpoint you have.")] = 0,
        limit: Annotated[int, QueryParameter(description="Checkpoints at most, 1 to 1000.")] = 100,
    ) -> CheckpointPage:
        """What vouches for the log, and whether it is as it was left."""
        refuse_unknown(request, "after", "limit")
        _check(after, limit)
        rows = await asyncio.to_thread(lambda: book.checkpoints(after=after, limit=limit))
        return CheckpointPage(
            [_checkpoint(body) for _, body in rows],
            rows[-1][0] if rows else after,
            log.ok,
            log.problem,
            None if key is None else key.pem,
        )

    @post("/v1/audit/acknowledge", opt=needs(Role.ADMIN), status_code=200)
    async def acknowledge_break(request: Request[Any, Any, Any], data: JSONBody[Acknowledgement]) -> Acknowledged:
        """End the alarm of a broken log: somebody has looked, and says why it may go on."""
        reason = data.reason.strip()
        if not 1 <= len(reason) <= REASON_MAX or not reason.isprintable():
            raise problem(400, f"reason must be 1 to {REASON_MAX} printable characters that say what was found.")
        number = await acknowledge(request.state.token.name, reason)
        if number is None:
            raise problem(409, "There is nothing to acknowledge: the log is as it was left.")
        return Acknowledged(number)

    return list_records, list_checkpoints, acknowledge_break


def _row(row: Row) -> bytes:
    """The record as it stands; one that somebody has made unreadable comes as text."""
    try:
        record = msgspec.Raw(row.body.encode())
        msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeError, AttributeError):
        record = msgspec.Raw(msgspec.json.encode(str(row.body)))
    return msgspec.json.encode({"hash": row.hash, "record": record})


def _checkpoint(body: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, TypeError):
        return {"unreadable": str(body)}


def _check(after: int, limit: int) -> None:
    if after < 0:
        raise problem(400, f"after must be 0 or more, found {after}.")
    if not 1 <= limit <= LIMIT_MAX:
        raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
