"""Payments over HTTP: told by channels, taken back, given to whom they belong, reconciled; and what people tell for lack of a read.

`POST /v1/payments` answers 202 for a new payment, 200 for one that is known, whatever became of it then. Money that cannot be booked
for the account that was told is kept: the answer is 202, too, with `"state": "unmatched"` and the reason in `problem`.
"""

from decimal import Decimal
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from headend.api.account_access import DESK, OFFICE, PROOF, name_of, sane_day, strictly
from headend.api.deps import ApiDeps
from headend.api.parameters import day_of_text, refuse_unknown
from headend.api.payment_shapes import (
    Assignment,
    PaymentAnswer,
    PaymentTold,
    ReceiptAnswer,
    ReceiptTold,
    ReconciliationShape,
    Reversal,
    ToldShape,
    Unmatched,
    UseAnswer,
    UseTold,
    payment_answer,
    payment_of,
    reconciliation_csv,
    reconciliation_shape,
    unmatched_shape,
)
from headend.api.prepaid import Prepaid
from headend.api.problems import Problem, problem
from headend.api.shaping import shaped
from headend.prepayment.books.payments import receipt_of

__all__ = ["payment_routes"]

CSV = "text/csv"


def payment_routes(supply: Prepaid) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""
    office = supply.office

    @post(
        "/v1/payments",
        **DESK,
        status_code=202,
        responses={
            202: ResponseSpec(PaymentAnswer, description="Taken, and durable: booked, or kept as unmatched."),
            200: ResponseSpec(PaymentAnswer, description="Known: the same receipt came before."),
            409: ResponseSpec(Problem, description="The receipt stands for another payment."),
            422: ResponseSpec(Problem, description="It cannot be money; nothing was booked."),
            503: ResponseSpec(Problem, description="Not booked now; tell it again with the same receipt."),
        },
    )
    async def take(request: Request[Any, Any, Any], data: JSONBody[PaymentTold]) -> Response[PaymentAnswer]:
        """Money that a channel took; once, however often it is told."""
        told = await strictly(request, data)
        deps: ApiDeps = request.app.state.deps
        now = deps.clock.now()
        # The books keep milliseconds: a payment that comes back with this very moment came from us, now.
        received_at = now.replace(microsecond=now.microsecond | 1)
        taken = await supply.pay(office.take, payment_of(told, received_at))
        is_repeat = taken.received_at != received_at
        return Response(payment_answer(taken, is_repeat=is_repeat), status_code=200 if is_repeat else 202)

    @post(
        "/v1/payments/{channel:str}/{receipt:str}/reversal",
        **OFFICE,
        status_code=200,
    )
    async def reverse(
        request: Request[Any, Any, Any], channel: FromPath[str], receipt: FromPath[str], data: JSONBody[Reversal]
    ) -> PaymentAnswer:
        """The channel took it back; once, however often it is told. A slash in a receipt is sent as %252F."""
        told = await strictly(request, data)
        return payment_answer(
            await supply.ask(office.reverse, channel, _receipt(receipt), reason=told.reason, by=name_of(request))
        )

    @post(
        "/v1/payments/{channel:str}/{receipt:str}/assignment",
        **OFFICE,
        status_code=200,
    )
    async def assign(
        request: Request[Any, Any, Any], channel: FromPath[str], receipt: FromPath[str], data: JSONBody[Assignment]
    ) -> PaymentAnswer:
        """An unmatched payment was this account's."""
        told = await strictly(request, data)
        return payment_answer(
            await supply.pay(office.assign, channel, _receipt(receipt), told.account, by=name_of(request))
        )

    @delete("/v1/payments/{channel:str}/{receipt:str}/telling", **OFFICE, status_code=200)
    async def drop(request: Request[Any, Any, Any], channel: FromPath[str], receipt: FromPath[str]) -> ToldShape:
        """The channel has no such payment: what the switch was told of it holds up no disconnection any more."""
        return shaped(ToldShape, await supply.ask(office.drop_told, channel, _receipt(receipt), by=name_of(request)))

    @get("/v1/payments/unmatched", **DESK)
    async def unmatched() -> Unmatched:
        """Money that waits for somebody to say whose it is, and payments that were told and never booked."""
        return unmatched_shape(await supply.ask(office.unmatched), await supply.ask(office.told_not_booked))

    @get(
        "/v1/payments/reconciliation",
        **DESK,
        responses={200: ResponseSpec(ReconciliationShape, description="Or text/csv, as Accept says.")},
    )
    async def reconcile(
        request: Request[Any, Any, Any],
        channel: Annotated[str, QueryParameter(description="Such as app, bank, counter.")],
        day: Annotated[str, QueryParameter(description="Local day, 2026-11-21, by the channel's own times.")],
    ) -> Response[Any]:
        """What a channel told of a day, each payment and the sums; as JSON, or with `Accept: text/csv` as a file."""
        refuse_unknown(request, "channel", "day")
        found = await supply.ask(office.reconciliation, channel, day_of_text("day", day))
        # Not on the event loop: a day of a large channel has ten thousands of payments.
        if request.accept.best_match(["application/json", CSV]) == CSV:
            name = f"{channel}-{found.day}.csv"
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            return Response(await supply.ask(reconciliation_csv, found), media_type=CSV, headers=headers)
        return Response(await supply.ask(reconciliation_shape, found))

    @post(
        "/v1/meter-use",
        **OFFICE,
        status_code=200,
    )
    async def tell_use(request: Request[Any, Any, Any], data: JSONBody[UseTold]) -> UseAnswer:
        """What a meter counted on a local day for which no read will ever come. It is marked as told by a person."""
        told = await strictly(request, data)
        used = {obis: Decimal(kwh) for obis, kwh in told.used.items()}
        await supply.ask(
            office.tell_use, told.meter, sane_day("day", told.day), used, by=name_of(request), note=told.note
        )
        return UseAnswer(meter=told.meter, day=told.day, used=told.used)

    @post(
        "/v1/notice-receipts",
        **PROOF,
        status_code=200,
    )
    async def receipt(request: Request[Any, Any, Any], data: JSONBody[ReceiptTold]) -> ReceiptAnswer:
        """What a messenger tells later of a message that it took: delivered, or not."""
        told = await strictly(request, data)
        is_known = await supply.ask(office.receipt, told.reference, delivered=told.delivered, problem=told.problem)
        if not is_known:
            raise problem(
                404,
                f"No message has the reference {told.reference!r}.",
                next_step="Send the reference that the messenger gave when it took the message.",
            )
        return ReceiptAnswer(told.reference)

    return take, reverse, assign, drop, unmatched, reconcile, tell_use, receipt


def _receipt(text: str) -> str:
    """As the channel told it: a path is taken apart at its slashes after it was decoded once."""
    return receipt_of(text.replace("%2F", "/").replace("%2f", "/"))
