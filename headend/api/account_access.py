"""Who may do what with prepaid accounts, in one table; and requests that are taken as they are written, or not at all.

A token of role `customer` sees its own account. Every other one answers it as one that does not exist, and is not looked up for it.
"""

import re
from datetime import date
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import ValidationException
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from headend.api.account_shapes import PRINTABLE
from headend.api.auth import needs_one_of, own_account
from headend.api.parameters import YEARS
from headend.api.problems import problem, problem_response
from headend.store.tokens import Role, Token

__all__ = ["DESK", "LOOK", "OFFICE", "OWN", "PROOF", "name_of", "sane_day", "seen_by_customer", "strictly"]

T = TypeVar("T", bound=Struct)

_READABLE = re.compile(PRINTABLE)


def seen_by_customer(request: Request[Any, Any, Any], account: str) -> bool:
    """Whether a customer asks, about the own account. Raises the 404 problem where it is another's, or nobody's."""
    own_account(request, account)
    token: Token = request.state.token
    return bool(token.account)


def name_of(request: Request[Any, Any, Any]) -> str:
    """Who does it, as books, contacts and flags keep it: the token's name."""
    token: Token = request.state.token
    return token.name


async def strictly(request: Request[Any, Any, Any], told: T) -> T:
    """The body again, without the framework's kindness: "100" is no amount. Raises the 422 problem with the field's path."""
    try:
        return msgspec.json.decode(await request.body(), type=type(told))
    except msgspec.ValidationError as error:
        raise problem(422, _told(str(error))) from error


def sane_day(name: str, day: date) -> date:
    """A slip of the keyboard is no local day. Raises the 422 problem with the field's path."""
    if day.year not in YEARS:
        raise problem(422, f"Expected a local day of the years {YEARS[0]} to {YEARS[-1]}, got {day} - at `$.{name}`")
    return day


async def _printable(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """No account has a number, and no search a text, that a database could not even be asked for. Raises the 400 problem."""
    for name, value in (*connection.path_params.items(), *connection.query_params.items()):
        if isinstance(value, str) and not _READABLE.match(value):
            raise problem(400, f"{name}: expected printable characters, found {value[:40]!r}.")


def _refuse_body(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    """A body of the wrong shape: 422 and the path of the field. Parameters of the wrong type stay 400."""
    named = [one for one in error.extra if isinstance(one, dict)] if isinstance(error.extra, list) else []
    if not any(one.get("source") == "body" for one in named):
        told = "; ".join(f"{one.get('key', '')}: {one.get('message', '')}" for one in named)
        return problem_response(problem(400, f"{error.detail}; {told}" if told else error.detail))
    text = "; ".join(
        f"{one['message']} - at `$.{one['key']}`" if one.get("key") not in (None, "data") else str(one["message"])
        for one in named
    )
    return problem_response(problem(422, _told(text)))


def _told(text: str) -> str:
    """What a person can read in place of the pattern."""
    return text.replace(f"`str` matching regex {PRINTABLE!r}", "printable characters")


def _kept(opt: dict[str, Any]) -> dict[str, Any]:
    """What a route that these roles may use is made with."""
    return {"opt": opt, "guards": [_printable], "exception_handlers": {ValidationException: _refuse_body}}


# Role admin may use all of them.
OWN = _kept(needs_one_of(Role.READ, Role.CASHIER, Role.CUSTOMER))  # a customer: the own account only
LOOK = _kept(needs_one_of(Role.READ, Role.CASHIER))
DESK = _kept(needs_one_of(Role.CASHIER))  # a cashier's daily work
OFFICE = _kept(needs_one_of(Role.ADMIN))  # what moves money back, or decides about a supply
PROOF = _kept(needs_one_of(Role.DISCONNECT))  # a proof may lead to a disconnection, as a notice in an order does
