"""The cashier's counter: find an account, take a payment, print its receipt.

A payment is typed, then checked, then booked. Its time is that of the check, which the form brings back, so that a second click, a
reload, or another try after the control of supplies did not answer is the same payment.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from headend.pages.counter_view import COUNTER, account_facts, find, payment_of, takings
from headend.pages.forms import Mistake, Said, amount_minor, masked, read_form, receipt_number
from headend.pages.front import Front, NotAllowed, Visitor, account_url
from headend.pages.paid_rows import paid_rows
from headend.pages.paper import redirect
from headend.pages.statement_routes import statement_html, statement_paper
from headend.pages.supply_words import effect_of_payment, supply_words
from headend.pages.words import Words
from headend.prepayment.errors import BadPayment, KeyReused, SwitchboardUnavailable
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.views.account_card import AccountCard

__all__ = ["counter_routes"]

CHECK_FOR = timedelta(minutes=15)  # so old may a check be when it is confirmed; the customer's 24 hours run from it
SEARCH_MAX = 64


class _Typed(Struct, frozen=True, kw_only=True):
    """What stands in the fields of a payment, right or wrong."""

    amount: str
    receipt: str


def counter_routes(front: Front) -> Sequence[HTTPRouteHandler]:
    desk = _Desk(front)

    @get("/counter", **front.options)
    async def counter(request: Request[Any, Any, Any]) -> Response[Any]:
        return await desk.search(request, await front.cashier(request))

    @get("/counter/accounts/{account:str}", **front.options)
    async def one_account(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[str]:
        visitor, asked = await front.cashier(request), request.query_params
        typed = _Typed(amount=asked.get("amount", ""), receipt=asked.get("receipt", ""))
        return await desk.account(request, visitor, account, typed)

    @get("/counter/accounts/{account:str}/check", **front.options)
    async def check(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[Any]:
        visitor, asked = await front.cashier(request), request.query_params
        typed = _Typed(amount=asked.get("amount", ""), receipt=asked.get("receipt", ""))
        return await desk.check(request, visitor, account, typed)

    @post("/counter/accounts/{account:str}/payments", status_code=200, **front.options)
    async def take(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[Any]:
        visitor, form = await front.cashier(request), await read_form(request)
        visitor.check(form)
        return await desk.take(request, visitor, account, form)

    @get("/counter/accounts/{account:str}/receipt", **front.options)
    async def receipt(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[str]:
        return await desk.receipt(request, await front.cashier(request), account)

    @get("/counter/accounts/{account:str}/statement.html", **front.options)
    async def statement(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[Any]:
        await front.cashier(request)
        paper = account_url(account, "/statement.pdf")
        return await statement_html(front, request, account, back=account_url(account), pdf=paper)

    @get("/counter/accounts/{account:str}/statement.pdf", **front.options)
    async def paper(request: Request[Any, Any, Any], account: FromPath[str]) -> Response[Any]:
        await front.cashier(request)
        return await statement_paper(front, request, account)

    return counter, one_account, check, take, receipt, statement, paper


class _Desk:
    def __init__(self, front: Front) -> None:
        self._front = front
        self._ask, self._pay = front.supply.ask, front.supply.pay
        self._office = front.supply.office

    async def search(self, request: Request[Any, Any, Any], visitor: Visitor) -> Response[Any]:
        t = self._front.words(request)
        text = " ".join(request.query_params.get("q", "").split())[:SEARCH_MAX]
        found, more = await self._ask(find, self._office, text, t) if text else ((), False)
        if len(found) == 1 and "lang" not in request.query_params:
            return redirect(account_url(found[0].row.account.id))
        today = self._front.clock.now().astimezone(self._front.supply.zone).date()
        taken = None if text else await self._ask(takings, self._office, today, t)
        return self._front.page(
            request, "counter.html", t, visitor, q=text, found=found, more=more, takings=taken, today=today
        )

    async def account(
        self,
        request: Request[Any, Any, Any],
        visitor: Visitor,
        account: str,
        typed: _Typed,
        found: Sequence[Said] = (),
    ) -> Response[str]:
        """With what was typed, and what was wrong with it."""
        facts, t = await self._ask(account_facts, self._office, account), self._front.words(request)
        return self._front.page(
            request,
            "account.html",
            t,
            visitor,
            status=422 if found else 200,
            card=facts.card,
            supply=supply_words(facts.card, facts.letters, t),
            payments=paid_rows(facts.payments, facts.awards, t),
            statements=facts.statements,
            amount=typed.amount,
            receipt=typed.receipt or self._new_receipt(),
            found=found,
        )

    async def check(
        self,
        request: Request[Any, Any, Any],
        visitor: Visitor,
        account: str,
        typed: _Typed,
    ) -> Response[Any]:
        """The fields are good: what is going to happen, before it happens. Or what is wrong with them."""
        card, t = await self._ask(self._office.card, account), self._front.words(request)
        minor, receipt, found = _read(card, typed, t)
        if found:
            return await self.account(request, visitor, account, typed, found)
        if await self._ask(payment_of, self._office, account, receipt) is not None:
            used = Said(field="receipt", text=t("error.receipt_used", receipt=receipt))
            return await self.account(request, visitor, account, typed, [used])
        return self._check_page(request, visitor, card, minor, typed, self._front.clock.now(), ())

    async def take(
        self, request: Request[Any, Any, Any], visitor: Visitor, account: str, form: dict[str, str]
    ) -> Response[Any]:
        """Book it once, then lead to its receipt. Whatever goes wrong, what was typed stays."""
        now, t = self._front.clock.now(), self._front.words(request)
        card = await self._ask(self._office.card, account)
        typed = _Typed(amount=form.get("amount", ""), receipt=form.get("receipt", ""))
        paid_at = _moment(form.get("paid_at", ""))
        minor, receipt, found = _read(card, typed, t)
        known = await self._ask(payment_of, self._office, account, receipt) if receipt else None
        if known is not None:
            return await self._known(request, visitor, card, typed, minor, known)
        if found:
            return await self.account(request, visitor, account, typed, found)
        if paid_at is None or not now - CHECK_FOR <= paid_at <= now + timedelta(minutes=1):
            stale = [Said(field="", text=t("error.stale"))]
            return self._check_page(request, visitor, card, minor, typed, now, stale)
        payment = Payment(
            channel=COUNTER,
            receipt=receipt,
            account=account,
            amount_minor=minor,
            currency=card.account.currency,
            paid_at=paid_at,
            received_at=now,
        )
        try:
            taken = await self._pay(self._office.take, payment)
        except SwitchboardUnavailable:
            away = [Said(field="", text=t("error.away"))]
            return self._check_page(request, visitor, card, minor, typed, paid_at, away, status=503)
        except (KeyReused, BadPayment) as error:
            known = await self._ask(payment_of, self._office, account, receipt)
            if known is not None:
                return await self._known(request, visitor, card, typed, minor, known)
            used = t("error.receipt_used", receipt=receipt) if isinstance(error, KeyReused) else str(error)
            return await self.account(request, visitor, account, typed, [Said(field="receipt", text=used)])
        if taken.state is PaymentState.UNMATCHED:  # closed a moment ago: the money is kept, and shown with the takings
            kept = [Said(field="", text=t("receipt.unmatched", problem=taken.problem))]
            return await self.account(request, visitor, account, _Typed(amount="", receipt=""), kept)
        return redirect(account_url(account, "/receipt", number=receipt))

    async def _known(
        self,
        request: Request[Any, Any, Any],
        visitor: Visitor,
        card: AccountCard,
        typed: _Typed,
        minor: int,
        known: Payment,
    ) -> Response[Any]:
        """The same receipt again: the same payment, or somebody's mistake. minor: 0 where the amount is none."""
        if minor == known.amount_minor:
            return redirect(account_url(card.account.id, "/receipt", number=known.receipt, again="1"))
        t = self._front.words(request)
        used = Said(field="receipt", text=t("error.receipt_used", receipt=known.receipt))
        return await self.account(request, visitor, card.account.id, typed, [used])

    async def receipt(self, request: Request[Any, Any, Any], visitor: Visitor, account: str) -> Response[str]:
        number = request.query_params.get("number", "")
        payment = await self._ask(payment_of, self._office, account, number) if number.isprintable() else None
        if payment is None:
            raise NotAllowed(404)
        card, t = await self._ask(self._office.card, account), self._front.words(request)
        return self._front.page(
            request,
            "receipt.html",
            t,
            visitor,
            card=card,
            payment=payment,
            holder=masked(card.holder.name),
            supply=effect_of_payment(card, t),
            was_done="again" in request.query_params,
        )

    def _check_page(
        self,
        request: Request[Any, Any, Any],
        visitor: Visitor,
        card: AccountCard,
        minor: int,
        typed: _Typed,
        paid_at: datetime,
        found: Sequence[Said],
        *,
        status: int | None = None,
    ) -> Response[str]:
        return self._front.page(
            request,
            "check.html",
            self._front.words(request),
            visitor,
            status=status or (422 if found else 200),
            card=card,
            holder=masked(card.holder.name),
            minor=minor,
            amount=typed.amount,
            receipt=typed.receipt.strip(),
            paid_at=int(paid_at.timestamp() * 1000),
            found=found,
        )

    def _new_receipt(self) -> str:
        """By day and time, to be found again on paper; two counters in the same second still differ."""
        local = self._front.clock.now().astimezone(self._front.supply.zone)
        return f"{local:%Y%m%d-%H%M%S}-{secrets.token_hex(2).upper()}"


def _read(card: AccountCard, typed: _Typed, t: Words) -> tuple[int, str, list[Said]]:
    """Minor units, receipt number, and every mistake beside its field."""
    minor, receipt, found = 0, "", []
    if card.account.closed_on is not None:
        found.append(Said(field="", text=t("error.closed")))
    try:
        minor = amount_minor(typed.amount, card.account.currency)
    except Mistake as mistake:
        found.append(Said(field="amount", text=t(mistake.name, **mistake.figures)))
    try:
        receipt = receipt_number(typed.receipt)
    except Mistake as mistake:
        found.append(Said(field="receipt", text=t(mistake.name, **mistake.figures)))
    return minor, receipt, found


def _moment(text: str) -> datetime | None:
    """Epoch milliseconds; None for anything else."""
    if not text.isascii() or not text.isdecimal() or len(text) > 14:
        return None
    return datetime.fromtimestamp(int(text) / 1000, UTC)
