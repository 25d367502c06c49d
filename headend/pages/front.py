"""Who asks, in which language, and what a page says when something is wrong: what all routes of the pages share."""

import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException
from msgspec import Struct

from headend.api.auth import PUBLIC
from headend.api.prepaid import Prepaid
from headend.api.problems import EXCEPTION_HANDLERS
from headend.clock import Clock
from headend.errors import StoreError
from headend.pages.forms import BadForm
from headend.pages.paper import page, redirect
from headend.pages.sessions import Attempts, Sessions
from headend.pages.words import LANGUAGES, Words, language_of, load_words
from headend.prepayment.errors import BadInput, SwitchboardUnavailable, UnknownAccount, UnknownPayment, UnknownTariff
from headend.store.tokens import Role, Token, Tokens

__all__ = ["SESSION", "Front", "NotAllowed", "SignInNeeded", "Visitor", "account_url", "is_https"]

Asked = Request[Any, Any, Any]

SESSION = "headend_session"
LANGUAGE = "headend_language"
LANGUAGE_S = 365 * 24 * 3600
_log = structlog.get_logger(__name__)
_TEXTS = {
    400: "trouble.bad",
    403: "trouble.forbidden",
    404: "trouble.not_found",
    405: "trouble.not_found",
    413: "trouble.too_large",
    415: "trouble.bad",
    503: "trouble.unavailable",
}
_STATUS: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
    ((UnknownAccount, UnknownPayment, UnknownTariff), 404),
    ((BadInput,), 400),
    ((StoreError, SwitchboardUnavailable), 503),
)


class SignInNeeded(Exception):
    """Nobody is signed in, or not any more."""


class NotAllowed(Exception):
    """Who is signed in may not use this page, or sent a form that is not of this session."""

    def __init__(self, status: int = 403) -> None:
        super().__init__(f"not allowed: {status}")
        self.status = status


class Visitor(Struct, frozen=True, kw_only=True):
    """key: of the session, as in the cookie. account: of a customer; "" of a cashier."""

    key: str
    csrf: str
    token: Token

    @property
    def is_cashier(self) -> bool:
        return self.token.allows(Role.CASHIER) and not self.account

    @property
    def is_customer(self) -> bool:
        return self.token.allows(Role.CUSTOMER) and bool(self.account)

    @property
    def account(self) -> str:
        return self.token.account

    def check(self, form: Mapping[str, str]) -> None:
        """Whether the form is one of this session's own. Raises NotAllowed."""
        if not hmac.compare_digest(self.csrf.encode(), form.get("csrf", "").encode()):
            raise NotAllowed(400)

    @property
    def home(self) -> str:
        return "/counter" if self.is_cashier else "/my"


class Front:
    """supply: whose office is asked. One for all pages of an app; lives on the event loop."""

    def __init__(self, supply: Prepaid, tokens: Tokens, clock: Clock) -> None:
        self.supply = supply
        self.clock = clock
        self.sessions = Sessions(tokens, clock)
        self.attempts = Attempts(clock)

    @property
    def options(self) -> dict[str, Any]:
        """Of every handler: the app's guard is for bearer tokens, and its problems are for programs."""
        ours: dict[type[Exception] | int, Any] = dict.fromkeys((*EXCEPTION_HANDLERS, Exception), self.trouble)
        return {"opt": PUBLIC, "exception_handlers": ours, "include_in_schema": False}

    # -------------------------------------------------------------------------------------------- who

    async def visitor(self, request: Asked) -> Visitor:
        """Raises SignInNeeded."""
        key = request.cookies.get(SESSION, "")
        found = await self.sessions.find(key) if key else None
        if found is None:
            raise SignInNeeded
        session, token = found
        return Visitor(key=key, csrf=session.csrf, token=token)

    async def customer(self, request: Asked) -> Visitor:
        """Raises SignInNeeded, NotAllowed."""
        visitor = await self.visitor(request)
        if not visitor.is_customer:
            raise NotAllowed
        return visitor

    async def cashier(self, request: Asked) -> Visitor:
        """Raises SignInNeeded, NotAllowed."""
        visitor = await self.visitor(request)
        if not visitor.is_cashier:
            raise NotAllowed
        if not all(str(text).isprintable() for text in request.path_params.values()):
            raise NotAllowed(404)  # no account is called so, and a database may refuse to be asked
        return visitor

    def session_cookie(self, request: Asked, key: str) -> Cookie:
        """key: "" takes it back. Without an age it goes with the browser."""
        return Cookie(
            key=SESSION,
            value=key,
            path="/",
            httponly=True,
            samesite="strict",
            secure=is_https(request),
            max_age=None if key else 0,
        )

    # -------------------------------------------------------------------------------------------- language

    def chosen(self, request: Asked) -> str:
        """The language that was asked for by a link, now or before; "" for none."""
        for wish in (request.query_params.get("lang", ""), request.cookies.get(LANGUAGE, "")):
            if wish in LANGUAGES:
                return wish
        return ""

    def words(self, request: Asked, own: str = "") -> Words:
        """own: the customer's language, where it is known."""
        wishes = (self.chosen(request), own, request.headers.get("accept-language", ""))
        return load_words(language_of(*wishes), self.supply.zone)

    # -------------------------------------------------------------------------------------------- pages

    def page(
        self,
        request: Asked,
        name: str,
        words: Words,
        visitor: Visitor | None,
        *,
        status: int = 200,
        cookies: list[Cookie] | None = None,
        **figures: object,
    ) -> Response[str]:
        wished = request.query_params.get("lang", "")
        kept = list(cookies or [])
        if wished in LANGUAGES:
            kept.append(
                Cookie(
                    key=LANGUAGE,
                    value=wished,
                    path="/",
                    max_age=LANGUAGE_S,
                    httponly=True,
                    samesite="strict",
                    secure=is_https(request),
                )
            )
        return page(
            name,
            words,
            status=status,
            cookies=kept,
            csrf="" if visitor is None else visitor.csrf,
            switch=_switch(request, words) if request.method == "GET" else "",
            **figures,
        )

    def trouble(self, request: Asked, error: Exception) -> Response[Any]:
        """Every error of a page as a page."""
        if isinstance(error, SignInNeeded):
            asked = {"next": _here(request)}
            if request.cookies.get(SESSION):
                asked["note"] = "forgotten"
            return redirect(f"/sign-in?{urlencode(asked)}")
        status = _status_of(error)
        if status == 500:
            _log.error("page failed", path=request.url.path, method=request.method, exc_info=error)
        t = self.words(request)
        text = t(_TEXTS.get(status, "trouble.internal"))
        home = "/counter" if request.url.path.startswith("/counter") else "/my"
        return self.page(request, "trouble.html", t, None, status=status, text=text, home=home)


def account_url(account: str, rest: str = "", **parameters: str) -> str:
    """Of an account at the counter."""
    asked = f"?{urlencode(parameters)}" if parameters else ""
    return f"/counter/accounts/{quote(account, safe='')}{rest}{asked}"


def is_https(request: Asked) -> bool:
    return request.url.scheme == "https"


def _status_of(error: Exception) -> int:
    if isinstance(error, BadForm | NotAllowed):
        return error.status
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kinds, status in _STATUS if isinstance(error, kinds)), 500)


def _here(request: Asked) -> str:
    """Of a form: the page that it was made of; its address brings along what was typed."""
    if request.method != "GET" and not request.url.path.endswith("/payments"):
        return ""
    asked = request.url.query
    return request.url.path.removesuffix("/payments") + (f"?{asked}" if asked else "")


def _switch(request: Asked, words: Words) -> str:
    """The same page in the other language."""
    kept = [(name, text) for name, text in request.query_params.multi_items() if name != "lang"]
    return f"{quote(request.url.path)}?{urlencode([*kept, ('lang', words.other)])}"
