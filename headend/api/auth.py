"""Bearer tokens and roles. A route without a role in its `opt` still needs a token that may read."""

import asyncio
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from headend.api.deps import ApiDeps
from headend.api.problems import problem
from headend.store.tokens import Role, Token

__all__ = [
    "PUBLIC",
    "authenticate",
    "needs",
    "needs_one_of",
    "own_account",
    "require_token",
]

Connection = ASGIConnection[Any, Any, Any, Any]

_ROLES = "headend_roles"
_ONE_OF = "headend_one_of_roles"
_OWN_ACCOUNT = "Ask for the account that the token was made for."
PUBLIC: dict[str, Any] = {_ROLES: ()}


def needs(*roles: Role) -> dict[str, Any]:
    """`opt` of a route that all these roles together may use."""
    return {_ROLES: roles}


def needs_one_of(*roles: Role) -> dict[str, Any]:
    """`opt` of a route that each of these roles may use; what one request may do, the route decides."""
    return {_ONE_OF: roles}


def own_account(request: Request[Any, Any, Any], account: str) -> None:
    """To be called by every route that lets customers in. Raises the 404 problem, as of an account that does not exist: a customer
    must not learn whose accounts there are."""
    token: Token = request.state.token
    if token.account and token.account != account:
        raise problem(404, f"There is no account {account!r} that this token may see.", next_step=_OWN_ACCOUNT)


def authenticate(connection: Connection) -> Token:
    """The token of the request, looked up in the store. Raises the 401 problem."""
    deps: ApiDeps = connection.app.state.deps
    header = connection.headers.get("authorization", "")
    scheme, _, plain = header.partition(" ")
    if not header:
        raise problem(401, "The request has no Authorization header.")
    if scheme.lower() != "bearer" or not plain.strip():
        raise problem(401, "The Authorization header is not of the form `Bearer TOKEN`.")
    token = deps.tokens.find_token(plain.strip())
    if token is None:
        raise problem(401, "The token is unknown or revoked.")
    return token


async def require_token(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard of every route. Raises the 401 and 403 problems."""
    wanted: tuple[Role, ...] = handler.opt.get(_ROLES, (Role.READ,))
    if not wanted:
        return
    token = await asyncio.to_thread(authenticate, connection)
    if one_of := handler.opt.get(_ONE_OF, ()):
        if not any(token.allows(role) for role in one_of):
            roles = ", ".join(sorted(role.value for role in token.roles))
            needed = " or ".join(role.value for role in one_of)
            raise problem(403, f"This needs the role {needed}; the token {token.name!r} has {roles}.")
    elif not token.allows(*wanted):
        roles = ", ".join(sorted(role.value for role in token.roles))
        needed = " and ".join(role.value for role in wanted)
        raise problem(403, f"This needs the role {needed}; the token {token.name!r} has {roles}.")
    connection.state.token = token
