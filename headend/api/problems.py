"""Every error as an RFC 9457 problem document, with one member more: `next_step`, what to do about it."""

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import Struct

from headend.commands.model import Refusal
from headend.errors import HeadendError, ItemRefused, StoreUnavailable, TooManySubscribers, UnknownMeter
from headend.prepayment.errors import (
    AccountClosed,
    BadContact,
    BadInput,
    BadPayment,
    BadTelling,
    FeedUnavailable,
    KeyReused,
    NotEligible,
    NotSettled,
    OutboxUnavailable,
    SwitchboardUnavailable,
    UnknownAccount,
    UnknownPayment,
    UnknownTariff,
)
from headend.quantities import BadQuantity

__all__ = [
    "EXCEPTION_HANDLERS",
    "MEDIA_TYPE",
    "UNKNOWN_METER",
    "Problem",
    "ProblemRaised",
    "problem",
    "problem_response",
]

MEDIA_TYPE = "application/problem+json"
_log = structlog.get_logger(__name__)


class Problem(Struct, frozen=True, kw_only=True):
    """type: stable name for programs. detail: what happened here. next_step: what to do about it.

    problems, last_sequence: only in the 503 of /healthz; last_sequence is absent when the store cannot be read.
    refusals, command: of an order: every rule that forbids it, with its version and what would be needed; the command that was made
    of it, where one was.
    """

    type: str
    title: str
    status: int
    detail: str
    next_step: str
    problems: list[str] | msgspec.UnsetType = msgspec.UNSET
    last_sequence: int | msgspec.UnsetType = msgspec.UNSET
    refusals: list[Refusal] | msgspec.UnsetType = msgspec.UNSET
    command: str | msgspec.UnsetType = msgspec.UNSET


class ProblemRaised(Exception):
    """Ends a request with this problem."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers or {}


# status: (name, title, what to do)
_KINDS: dict[int, tuple[str, str, str]] = {
    400: (
        "bad-request",
        "The request cannot be understood",
        "Correct the named parameter; /schema describes all of them.",
    ),
    401: (
        "unauthorized",
        "A valid token is needed",
        "Send `Authorization: Bearer hdt_…`; `headend token create CONFIG` makes one with role read.",
    ),
    403: ("forbidden", "The token does not allow this", "Use a token with the role named in the detail."),
    404: ("not-found", "There is no such thing here", "Check the path and the id; /schema lists all paths."),
    405: ("method-not-allowed", "The path is right, the method is not", "See /schema for the methods of this path."),
    409: ("conflict", "The request contradicts what is stored", "Look at the present state and decide again."),
    413: ("too-large", "The request is too large", "Send less at once."),
    415: ("unsupported-media-type", "The body has the wrong media type", "Send application/json."),
    422: ("unprocessable", "The request breaks a rule", "Correct what the detail names."),
    500: (
        "internal",
        "The head-end made a mistake",
        "Look into the head-end's log at this moment; the request may be retried.",
    ),
    501: ("not-here", "This process cannot do that", "Ask the head-end process that owns the lines."),
    502: ("meter-failed", "The meter or its line did not do what was asked", "Look at /v1/lines, then try again."),
    503: (
        "unavailable",
        "The head-end cannot do this at the moment",
        "Wait, then try again; /healthz says what is wrong.",
    ),
}


UNKNOWN_METER = "Check the asset number; GET /v1/meters lists all."
_QUANTITY = "Name a quantity that the meter's contract offers: an OBIS code such as 1-0:1.8.0, di:00010000 or reg:4:0x0048:float32."

RETRY_S = "5"
_NOT_NOW = "Wait, then try again."
# error: (status, name, what to do); of accounts and payments. A kind of one of them is answered as that one.
_PREPAYMENT: dict[type[HeadendError], tuple[int, str, str]] = {
    UnknownAccount: (404, "unknown-account", "Check the customer number; GET /v1/accounts?search= finds accounts."),
    UnknownPayment: (404, "unknown-payment", "Check channel and receipt; GET /v1/accounts/{id}/payments lists them."),
    UnknownTariff: (404, "unknown-tariff", "GET /v1/tariffs lists all."),
    AccountClosed: (409, "account-closed", "It stays closed: enrol the customer with a new customer number."),
    KeyReused: (409, "key-reused", "Tell the same content again, or use a new key or receipt."),
    NotSettled: (
        409,
        "not-settled",
        "Wait for the reads of the days that are named, or tell what was used: POST /v1/meter-use.",
    ),
    BadPayment: (422, "bad-payment", "Correct what the detail names and tell the payment again; nothing was booked."),
    NotEligible: (422, "not-eligible", "Correct what the detail names; nothing was changed."),
    BadContact: (422, "bad-contact", "Tell the number again; nothing was changed."),
    BadInput: (422, "bad-input", "Correct what the detail names; nothing was changed."),
    BadTelling: (422, "bad-telling", "Correct what the detail names; nothing was noted."),
    SwitchboardUnavailable: (
        503,
        "switchboard-unavailable",
        "Nothing is booked; tell it again with the same receipt or key.",
    ),
    FeedUnavailable: (503, "feed-unavailable", _NOT_NOW),
    OutboxUnavailable: (503, "outbox-unavailable", _NOT_NOW),
}


def problem(status: int, detail: str, *, next_step: str | None = None, name: str | None = None) -> ProblemRaised:
    """An exception to raise in a route."""
    kind, title, advice = _KINDS.get(status, _KINDS[400 if status < 500 else 500])
    headers = {"WWW-Authenticate": 'Bearer realm="headend"'} if status == 401 else {}
    return ProblemRaised(
        Problem(
            type=f"urn:headend:problem:{name or kind}",
            title=title,
            status=status,
            detail=detail,
            next_step=next_step or advice,
        ),
        headers,
    )


def problem_response(raised: ProblemRaised) -> Response[bytes]:
    return Response(
        msgspec.json.encode(raised.problem),
        status_code=raised.problem.status,
        media_type=MEDIA_TYPE,
        headers=raised.headers,
    )


def _on_problem(request: Request[Any, Any, Any], error: ProblemRaised) -> Response[bytes]:
    return problem_response(error)


def _on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What the framework itself refuses: unknown paths, wrong methods, parameters and bodies of the wrong type."""
    if error.status_code >= 500:
        return _on_any(request, error)
    detail = error.detail
    if isinstance(error.extra, list):
        named = [f"{one.get('key', '')}: {one.get('message', '')}" for one in error.extra if isinstance(one, dict)]
        detail = "; ".join([detail, *named])
    return problem_response(problem(error.status_code, detail))


def _on_headend(request: Request[Any, Any, Any], error: HeadendError) -> Response[bytes]:
    """Our own errors are written to be read by those who ask."""
    if isinstance(error, StoreUnavailable | TooManySubscribers):
        raised = problem(503, str(error))
        raised.headers["Retry-After"] = RETRY_S
        return problem_response(raised)
    known = next((_PREPAYMENT[kind] for kind in type(error).__mro__ if kind in _PREPAYMENT), None)
    if known is not None:
        status, name, next_step = known
        text = str(error)
        raised = problem(status, text if text.endswith(".") else f"{text}.", next_step=next_step, name=name)
        if status == 503:
            raised.headers["Retry-After"] = RETRY_S
        return problem_response(raised)
    if isinstance(error, BadQuantity):
        return problem_response(problem(400, str(error), next_step=_QUANTITY))
    if isinstance(error, ItemRefused):
        return problem_response(problem(422, str(error)))
    if isinstance(error, UnknownMeter):
        return problem_response(problem(404, str(error), next_step=UNKNOWN_METER))
    return problem_response(problem(502, str(error)))


def _on_depth(request: Request[Any, Any, Any], error: RecursionError) -> Response[bytes]:
    """A body of brackets in brackets; nothing was done with it."""
    return problem_response(problem(400, "The body is nested too deeply."))


def _on_any(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return problem_response(problem(500, "Something that should not happen happened; the log has the details."))


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    ProblemRaised: _on_problem,
    HTTPException: _on_http,
    HeadendError: _on_headend,
    RecursionError: _on_depth,
    Exception: _on_any,
}
