"""A customer's own page, and his statements."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from headend.pages.customer_view import AT_FIRST, customer_view, gather
from headend.pages.front import Front
from headend.pages.statement_routes import statement_html, statement_paper

__all__ = ["customer_routes"]


def customer_routes(front: Front) -> Sequence[HTTPRouteHandler]:
    supply = front.supply

    @get("/my", **front.options)
    async def my(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = await front.customer(request)
        facts = await supply.ask(gather, supply.office, visitor.account, front.chosen(request))
        t = front.words(request, facts.card.contact.language)
        return front.page(
            request,
            "my.html",
            t,
            visitor,
            card=facts.card,
            view=customer_view(facts, t),
            tenants=facts.tenants,
            tariff_words=facts.tariff_words,
            phone=_masked_phone(facts.card.contact.phone),
            at_first=AT_FIRST,
        )

    @get("/my/statement.html", **front.options)
    async def my_statement(request: Request[Any, Any, Any]) -> Response[Any]:
        visitor = await front.customer(request)
        return await statement_html(front, request, visitor.account, back="/my", pdf="/my/statement.pdf")

    @get("/my/statement.pdf", **front.options)
    async def my_statement_paper(request: Request[Any, Any, Any]) -> Response[Any]:
        visitor = await front.customer(request)
        return await statement_paper(front, request, visitor.account)

    return my, my_statement, my_statement_paper


def _masked_phone(phone: str) -> str:
    return phone[:-8] + "****" + phone[-4:] if len(phone) > 8 else phone
