"""Monthly statements to look at and to print: for programs under /v1 with a bearer token, and for the pages."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from urllib.parse import quote, urlencode

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from headend.api.account_access import OWN, seen_by_customer
from headend.api.parameters import month_of_text, month_or_none, refuse_unknown
from headend.api.problems import problem
from headend.pages.front import Front
from headend.pages.paper import HEADERS, own_style_headers, render
from headend.pages.statement_pdf import statement_pdf
from headend.pages.statement_view import Sheet, sheet_of
from headend.pages.words import LANGUAGES, Words, language_of, load_words
from headend.prepayment.office.office import Office

__all__ = ["statement_html", "statement_paper", "statement_routes"]


def statement_routes(front: Front) -> Sequence[HTTPRouteHandler]:
    """The same tokens as /v1/accounts/{account}/statement; a customer's sees the own account."""
    supply = front.supply

    async def sheet(request: Request[Any, Any, Any], account: str) -> tuple[Sheet, Words]:
        seen_by_customer(request, account)
        refuse_unknown(request, "month", "lang")
        language = request.query_params.get("lang", "")
        if language and language not in LANGUAGES:
            raise problem(400, f"lang is {language!r}; expected one of {', '.join(LANGUAGES)}.")
        month = month_of_text(request.query_params.get("month", ""))
        found = await supply.ask(_sheet, front, account, month, language)
        if found is None:
            raise problem(
                404,
                f"There is no statement of account {account!r} for {month:%Y-%m}.",
                next_step="GET /v1/accounts/{id}/statement lists the months that have one.",
            )
        return found

    @get("/v1/accounts/{account:str}/statement.html", **OWN, media_type="text/html")
    async def statement_page(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[str]:
        """The statement of a month as a page that carries its style inside. Parameters: month (YYYY-MM), lang (zh, en)."""
        return _html(*await sheet(request, account), back="", pdf="")

    @get("/v1/accounts/{account:str}/statement.pdf", **OWN, media_type="application/pdf")
    async def statement_on_paper(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[bytes]:
        """The statement of a month on A4. Parameters: month (YYYY-MM), lang (zh, en)."""
        found, t = await sheet(request, account)
        return _pdf(found, await supply.ask(statement_pdf, found, t))

    return statement_page, statement_on_paper


async def statement_html(
    front: Front, request: Request[Any, Any, Any], account: str, *, back: str, pdf: str
) -> Response[str]:
    """For a page; whoever may see it was asked before. pdf: path of the same on paper."""
    month = _month(request)
    found = None if month is None else await front.supply.ask(_sheet, front, account, month, front.chosen(request))
    if month is None or found is None:
        return _none(front, request, back)
    return _html(*found, back=back, pdf=f"{pdf}?{urlencode({'month': f'{month:%Y-%m}'})}")


async def statement_paper(front: Front, request: Request[Any, Any, Any], account: str) -> Response[Any]:
    month = _month(request)
    found = None if month is None else await front.supply.ask(_sheet, front, account, month, front.chosen(request))
    if found is None:
        return _none(front, request, "/my" if request.url.path.startswith("/my") else "/counter")
    return _pdf(found[0], await front.supply.ask(statement_pdf, *found))


def _sheet(front: Front, account: str, month: date, language: str) -> tuple[Sheet, Words] | None:
    """Blocking. language: "" is the customer's own. Raises UnknownAccount."""
    office: Office = front.supply.office
    data = office.statement(account, month)
    if data is None:
        return None
    card = office.card(account)
    t = load_words(language or language_of(card.contact.language), front.supply.zone)
    return sheet_of(data, card.holder.name, t), t


def _html(sheet: Sheet, t: Words, *, back: str, pdf: str) -> Response[str]:
    text = render("statement.html", t, s=sheet, back=back, pdf=pdf)
    return Response(text, media_type="text/html; charset=utf-8", headers=own_style_headers(t))


def _pdf(sheet: Sheet, paper: bytes) -> Response[bytes]:
    name = quote(f"statement-{sheet.account}-{sheet.month}.pdf")
    headers = {**HEADERS, "Content-Disposition": f"inline; filename*=UTF-8''{name}"}
    return Response(paper, media_type="application/pdf", headers=headers)


def _none(front: Front, request: Request[Any, Any, Any], back: str) -> Response[str]:
    t = front.words(request)
    text = t("statement.no_month", month=request.query_params.get("month", "")[:20] or "–")
    return front.page(request, "trouble.html", t, None, status=404, text=text, home=back)


def _month(request: Request[Any, Any, Any]) -> date | None:
    return month_or_none(request.query_params.get("month", ""))
