"""The pages of prepaid supply: sign-in, the customer's page, the cashier's counter, statements, and the files of their looks."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from headend.api.prepaid import Prepaid
from headend.clock import Clock
from headend.pages.counter_routes import counter_routes
from headend.pages.customer_routes import customer_routes
from headend.pages.front import Front
from headend.pages.paper import ASSETS, STATIC
from headend.pages.sign_in_routes import sign_in_routes
from headend.pages.statement_routes import statement_routes
from headend.store.tokens import Tokens

__all__ = ["page_routes"]

KEEP = "public, max-age=31536000, immutable"  # the address carries a mark of the content


def page_routes(supply: Prepaid, tokens: Tokens, clock: Clock) -> Sequence[HTTPRouteHandler]:
    """Handlers for `create_app(deps, routes=…)`. Who is signed in is known to these handlers only, and in memory."""
    front = Front(supply, tokens, clock)

    @get(f"{STATIC}/{{name:str}}", **front.options)
    async def static(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        found = ASSETS.get(name)
        if found is None:
            raise NotFoundException
        kind, content = found
        return Response(content, media_type=kind, headers={"Cache-Control": KEEP, "X-Content-Type-Options": "nosniff"})

    return (
        static,
        *sign_in_routes(front),
        *customer_routes(front),
        *counter_routes(front),
        *statement_routes(front),
    )
