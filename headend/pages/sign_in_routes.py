"""Signing in with a token, once, and out again."""

import math
import re
import secrets
from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from headend.pages.forms import Said, read_form
from headend.pages.front import SESSION, Front, Visitor, is_https
from headend.pages.paper import redirect
from headend.pages.words import Words

__all__ = ["sign_in_routes"]

FORM = "headend_form"
_NOTES = frozenset(("forgotten", "signed_out", "expired"))
_NEXT = re.compile(r"/(my|counter)([/?][\w./?=&%:+~-]*)?", re.ASCII)


def sign_in_routes(front: Front) -> Sequence[HTTPRouteHandler]:
    @get("/sign-in", **front.options)
    async def show_sign_in(request: Request[Any, Any, Any]) -> Response[str]:
        t = front.words(request)
        note = request.query_params.get("note", "")
        told = t(f"sign_in.{note}") if note in _NOTES else ""
        return _form(front, request, t, next_=_next(request.query_params.get("next", "")), note=told)

    @post("/sign-in", status_code=200, **front.options)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
        t, form = front.words(request), await read_form(request)
        next_ = _next(form.get("next", ""))
        held = request.cookies.get(FORM, "")
        if not held or not secrets.compare_digest(held.encode(), form.get("csrf", "").encode()):
            return _form(front, request, t, next_=next_, note=t("sign_in.expired"), status=403)
        plain = form.get("token", "").strip()
        if not plain:
            return _form(front, request, t, next_=next_, wrong=t("sign_in.empty"), status=422)
        client = request.client.host if request.client is not None else ""
        if wait_s := front.attempts.wait_s(client):
            wrong = t("sign_in.wait", minutes=math.ceil(wait_s / 60))
            answer = _form(front, request, t, next_=next_, wrong=wrong, status=429)
            answer.set_header("Retry-After", str(math.ceil(wait_s)))
            return answer
        front.attempts.count(client)
        begun = await front.sessions.begin(plain)
        if begun is None:
            return _form(front, request, t, next_=next_, wrong=t("sign_in.wrong"), status=422)
        key, token = begun
        front.attempts.forgive(client)
        visitor = Visitor(key=key, csrf="", token=token)
        if not visitor.is_cashier and not visitor.is_customer:
            front.sessions.end(key)
            return _form(front, request, t, next_=next_, wrong=t("sign_in.no_page"), status=403)
        if before := request.cookies.get(SESSION, ""):
            front.sessions.end(before)
        place = next_ if next_.startswith(visitor.home) else visitor.home
        return redirect(place, cookies=[front.session_cookie(request, key)])

    @post("/sign-out", status_code=303, **front.options)
    async def sign_out(request: Request[Any, Any, Any]) -> Response[bytes]:
        visitor, form = await front.visitor(request), await read_form(request)
        visitor.check(form)
        front.sessions.end(visitor.key)
        return redirect("/sign-in?note=signed_out", cookies=[front.session_cookie(request, "")])

    return show_sign_in, sign_in, sign_out


def _form(
    front: Front,
    request: Request[Any, Any, Any],
    t: Words,
    *,
    next_: str,
    note: str = "",
    wrong: str = "",
    status: int = 200,
) -> Response[str]:
    """With a mark in a cookie that must come back in the form: another site cannot sign anybody in."""
    mark = request.cookies.get(FORM, "") or secrets.token_urlsafe(24)
    cookie = Cookie(key=FORM, value=mark, path="/sign-in", httponly=True, samesite="strict", secure=is_https(request))
    found = [Said(field="token", text=wrong)] if wrong else []
    return front.page(
        request, "sign_in.html", t, None, status=status, cookies=[cookie], form=mark, next=next_, note=note, found=found
    )


def _next(text: str) -> str:
    """Where to go afterwards: a page of ours, or nowhere."""
    return text if len(text) <= 500 and ".." not in text and _NEXT.fullmatch(text) else ""
