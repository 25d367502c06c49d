"""What changes prepaid accounts over HTTP: enrolment, contacts, amounts, meters, move-outs, corrections of the books; new tokens."""

import asyncio
from collections.abc import Callable
from typing import Any

from litestar import Request, Response, delete, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from headend.api.account_access import DESK, OFFICE, name_of, sane_day, strictly
from headend.api.account_shapes import (
    AccountShape,
    Adjustment,
    AmountsTold,
    Booked,
    Confirmed,
    ContactTold,
    Enrolled,
    ExchangeTold,
    HolderTold,
    HoldTold,
    MoveOutShape,
    MoveOutTold,
    NewToken,
    Refund,
    TariffTold,
    account_shape,
    enrolment,
    move_out_shape,
)
from headend.api.deps import ApiDeps
from headend.api.prepaid import Prepaid
from headend.api.problems import Problem
from headend.prepayment.model import Posted
from headend.prepayment.views.account_card import AccountCard
from headend.store.tokens import Role, Tokens

__all__ = ["account_changes"]

_BOOKED = {
    201: ResponseSpec(Booked, description="Booked."),
    200: ResponseSpec(Booked, description="Known: the same key and content came before."),
    409: ResponseSpec(Problem, description="The key stands for another amount."),
}


def account_changes(supply: Prepaid) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""
    office = supply.office
    one_at_a_time = asyncio.Lock()  # of two new tokens for one account, the later one stays

    async def done(work: Callable[..., AccountCard], *told: object, **named: object) -> AccountShape:
        return account_shape(await supply.ask(work, *told, **named))

    @post(
        "/v1/accounts",
        **DESK,
        status_code=201,
    )
    async def enrol(request: Request[Any, Any, Any], data: JSONBody[Enrolled]) -> AccountShape:
        """An account that waits for its agreement, which is sent to the customer. Nothing is charged before it is confirmed."""
        told = await strictly(request, data)
        return await done(office.enrol, enrolment(told), by=name_of(request))

    @post(
        "/v1/accounts/{account:str}/confirm",
        **DESK,
        status_code=200,
    )
    async def confirm(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[Confirmed | None] = None
    ) -> AccountShape:
        """The customer has agreed: from that local day on, days are charged; without a body from today on."""
        told = Confirmed() if data is None else await strictly(request, data)
        return await done(office.confirm, account, by=name_of(request), opens_on=told.opens_on)

    @put(
        "/v1/accounts/{account:str}/contact",
        **DESK,
    )
    async def contact(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[ContactTold]
    ) -> AccountShape:
        """A new number; it is taken to be reachable until a notice shows otherwise."""
        told = await strictly(request, data)
        return await done(office.change_contact, account, told.phone, language=told.language, by=name_of(request))

    @put(
        "/v1/accounts/{account:str}/holder",
        **OFFICE,
    )
    async def holder(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[HolderTold]
    ) -> AccountShape:
        """Another head of household. Tokens that the one before was given stop."""
        told = await strictly(request, data)
        shown = await done(
            office.change_holder, account, told.customer, name=told.name, identity=told.identity, by=name_of(request)
        )
        deps: ApiDeps = request.app.state.deps
        async with one_at_a_time:
            await supply.ask(_revoke_tokens, deps.tokens, account)
        return shown

    @put(
        "/v1/accounts/{account:str}/amounts",
        **OFFICE,
    )
    async def amounts(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[AmountsTold]
    ) -> AccountShape:
        """Below what the first notice goes out, and what the bank draws then."""
        told = await strictly(request, data)
        return await done(
            office.change_amounts,
            account,
            reminder_minor=told.reminder_minor,
            topup_minor=told.topup_minor,
            bank=told.bank,
            by=name_of(request),
        )

    @put(
        "/v1/accounts/{account:str}/tariff",
        **OFFICE,
    )
    async def tariff(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[TariffTold]
    ) -> AccountShape:
        """Another tariff, from the first day that is not charged yet."""
        told = await strictly(request, data)
        return await done(office.change_tariff, account, told.tariff, by=name_of(request))

    @post(
        "/v1/accounts/{account:str}/meter-exchange",
        **OFFICE,
        status_code=200,
    )
    async def exchange(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[ExchangeTold]
    ) -> AccountShape:
        """Another asset number measures from a local day on."""
        told = await strictly(request, data)
        return await done(
            office.exchange_meter, account, told.old, told.new, sane_day("day", told.day), by=name_of(request)
        )

    @post(
        "/v1/accounts/{account:str}/move-out",
        **OFFICE,
        status_code=202,
    )
    async def move_out(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[MoveOutTold]
    ) -> MoveOutShape:
        """The last day that is charged. The account is closed when all its days are settled."""
        told = await strictly(request, data)
        return move_out_shape(
            await supply.ask(office.move_out, account, sane_day("last_day", told.last_day), by=name_of(request))
        )

    @post(
        "/v1/accounts/{account:str}/hold",
        **OFFICE,
        status_code=200,
    )
    async def hold(request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[HoldTold]) -> AccountShape:
        """Not to be disconnected, whatever is owed, until the flag `hold` is taken away."""
        told = await strictly(request, data)
        return await done(office.hold, account, told.reason, by=name_of(request))

    @delete("/v1/accounts/{account:str}/flags/{kind:str}", **OFFICE, status_code=200)
    async def clear_flag(request: Request[Any, Any, Any], account: FromPath[str], kind: FromPath[str]) -> AccountShape:
        """Somebody has looked at it; of `hold`: the supply may be disconnected again."""
        return await done(office.clear_flag, account, kind, by=name_of(request))

    @post(
        "/v1/accounts/{account:str}/adjustments",
        **OFFICE,
        status_code=201,
        responses=_BOOKED,
    )
    async def adjust(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[Adjustment]
    ) -> Response[Booked]:
        """A person's correction of the books: more to the customer's credit, or less of it."""
        told = await strictly(request, data)
        return _booked(
            await supply.pay(
                office.adjust, account, told.amount_minor, key=told.key, note=told.note, by=name_of(request)
            )
        )

    @post(
        "/v1/accounts/{account:str}/refunds",
        **OFFICE,
        status_code=201,
        responses=_BOOKED,
    )
    async def refund(
        request: Request[Any, Any, Any], account: FromPath[str], data: JSONBody[Refund]
    ) -> Response[Booked]:
        """Money that is given back to the customer, out of the credit."""
        told = await strictly(request, data)
        return _booked(
            await supply.ask(
                office.refund, account, told.amount_minor, key=told.key, note=told.note, by=name_of(request)
            )
        )

    @post("/v1/accounts/{account:str}/tokens", **DESK, status_code=201)
    async def new_token(request: Request[Any, Any, Any], account: FromPath[str]) -> NewToken:
        """A token with which the customer sees this account, shown once; those made before stop at once."""
        await supply.ask(office.account, account)
        deps: ApiDeps = request.app.state.deps
        async with one_at_a_time:
            return await supply.ask(_replace_tokens, deps.tokens, account, f"{deps.clock.now():%Y%m%dT%H%M%S.%f}")

    return (
        enrol,
        confirm,
        contact,
        holder,
        amounts,
        tariff,
        exchange,
        move_out,
        hold,
        clear_flag,
        adjust,
        refund,
        new_token,
    )


def _replace_tokens(tokens: Tokens, account: str, suffix: str) -> NewToken:
    """The new one first: a crash in between leaves one too many, never none."""
    name = f"customer {account} {suffix}"
    plain = tokens.create_token(name, [Role.CUSTOMER], account=account)
    return NewToken(account=account, name=name, token=plain, revoked=_revoke_tokens(tokens, account, but=name))


def _revoke_tokens(tokens: Tokens, account: str, *, but: str = "") -> list[str]:
    """Names of those that were valid."""
    own = [token.name for token in tokens.list_tokens() if token.account == account and token.revoked_at is None]
    gone = [name for name in own if name != but]
    for name in gone:
        tokens.revoke_token(name)
    return gone


def _booked(posted: Posted) -> Response[Booked]:
    return Response(
        Booked(number=posted.number, is_repeat=not posted.is_new), status_code=201 if posted.is_new else 200
    )
