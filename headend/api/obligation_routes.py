"""Reconnections that are owed over HTTP: a payment or an order makes one, and everybody can see what became of it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from headend.api.auth import needs_one_of
from headend.api.parameters import refuse_unknown
from headend.api.problems import Problem, problem
from headend.api.refusals import LOOKERS_AND_CASHIERS, PROBLEMS, allow, as_problem, caller_of, refused, switches
from headend.api.relay_shapes import (
    CommandShape,
    ObligationShape,
    aware,
    checked_text,
    command_shape,
    obligation_shape,
)
from headend.commands.desk import Payment
from headend.commands.model import Order, Refusal, State
from headend.commands.roles import Action, action_of
from headend.commands.room import CommandRoom
from headend.store import commands_debts as debt_rows
from headend.store.commands_pages import obligations_page
from headend.store.tokens import Role

__all__ = ["obligation_routes"]

LIMIT_MAX = 1000
METERS_MAX = 100


class PaymentShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="cause", tag="payment"):
    """Money that came in. reference: the payment system's own; the same one is the same payment. paid_at: its own stamp.

    fence: billing's token of these meters after the payment; opens with a lower one are void from now on.
    """

    meters: Annotated[list[str], Meta(min_length=1, max_length=METERS_MAX)]
    reference: Annotated[str, Meta(min_length=1, max_length=128)]
    paid_at: datetime
    amount_minor: Annotated[int, Meta(ge=1, le=2**53)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    fence: Annotated[int, Meta(ge=0, le=2**62)]


class ReconnectShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="cause", tag="order"):
    """An order to give a supply back, in the way that the policy says (closed, or permitted to be). It ends at expires_at."""

    meter: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=128)]
    expires_at: datetime


class Taken(Struct, frozen=True, kw_only=True):
    """What a payment did, durable. cancelled: ids of the opens that it took back. obligations: id by meter.

    A meter without an obligation was seen to be on: nothing is owed to it. One of which nobody knows is owed until somebody has
    looked; where it is on, the obligation ends as already-on. is_repeat: it was known already.
    """

    cause: Literal["payment"] = "payment"
    cancelled: list[str]
    obligations: dict[str, str]
    is_repeat: bool


class Ordered(Struct, frozen=True, kw_only=True):
    """obligation: the debt that the order made or joined; "" when its command has ended already."""

    cause: Literal["order"] = "order"
    command: CommandShape
    obligation: str
    is_repeat: bool


class ObligationPage(Struct, frozen=True):
    obligations: list[ObligationShape]


class Why(Struct, frozen=True, forbid_unknown_fields=True):
    reason: str


_ANSWER: Any = Taken | Ordered


def obligation_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    async def take_payment(told: PaymentShape, who: str) -> Response[Taken | Ordered]:
        if not told.reference.isprintable():
            raise problem(400, "reference must be printable characters.")
        taken = await room.desk.payment(
            Payment(
                meters=tuple(told.meters),
                reference=told.reference,
                paid_at=aware("paid_at", told.paid_at),
                amount_minor=told.amount_minor,
                currency=told.currency,
                fence=told.fence,
            ),
            by=who,
        )
        if taken.refusals:
            raise refused(taken.refusals)
        answer = Taken(cancelled=list(taken.cancelled), obligations=dict(taken.obligations), is_repeat=taken.is_repeat)
        return Response(answer, status_code=200 if taken.is_repeat else 202)

    async def take_order(told: ReconnectShape, who: str) -> Response[Taken | Ordered]:
        if not told.idempotency_key.isprintable():
            raise problem(400, "idempotency_key must be printable characters.")
        order = Order(
            kind=room.rulebook.reconnect_kind(told.meter),
            meter=told.meter,
            reason=checked_text("reason", told.reason),
            requester=who,
            idempotency_key=told.idempotency_key,
            expires_at=aware("expires_at", told.expires_at),
        )
        answer = await room.desk.request(order, who)
        if answer.command is None or answer.command.state is State.REFUSED:
            raise refused(answer.refusals, command="" if answer.command is None else answer.command.id)
        shown = Ordered(
            command=command_shape(answer.command, room.problem_of(answer.command.id)),
            obligation=answer.command.obligation,
            is_repeat=answer.is_repeat,
        )
        return Response(shown, status_code=200 if answer.is_repeat else 202)

    @post(
        "/v1/obligations",
        opt=needs_one_of(Role.CASHIER, Role.OPERATE),
        status_code=202,
        responses={
            202: ResponseSpec(_ANSWER, description="Durable; what is owed is being carried out."),
            200: ResponseSpec(_ANSWER, description="Known: the same payment or order came before."),
            409: ResponseSpec(Problem, description="The reference or key stands for something else."),
        },
    )
    async def owe(
        request: Request[Any, Any, Any], data: JSONBody[PaymentShape | ReconnectShape]
    ) -> Response[Taken | Ordered]:
        """Tell of a payment (`"cause": "payment"`), or order a reconnection (`"cause": "order"`)."""
        caller = await caller_of(room, request)
        who = caller.name
        if isinstance(data, ReconnectShape):
            await allow(room, caller, [action_of(room.rulebook.reconnect_kind(data.meter))])
        switches(room)
        return await (take_order(data, who) if isinstance(data, ReconnectShape) else take_payment(data, who))

    @get("/v1/obligations", opt=needs_one_of(*LOOKERS_AND_CASHIERS))
    async def list_obligations(
        request: Request[Any, Any, Any],
        meter: Annotated[str, QueryParameter(description="Only of this asset number.")] = "",
        ended: Annotated[bool, QueryParameter(description="Those that have ended, too.")] = False,
        limit: Annotated[int, QueryParameter(description="Obligations at most, 1 to 1000.")] = 100,
    ) -> ObligationPage:
        """What is owed, the oldest first; with `ended` all, the newest first."""
        refuse_unknown(request, "meter", "ended", "limit")
        if not 1 <= limit <= LIMIT_MAX:
            raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
        found = await room.journal.read(
            lambda connection: obligations_page(connection, meter=meter, is_open=None if ended else True, limit=limit),
            "listing obligations",
        )
        return ObligationPage([obligation_shape(debt) for debt in found])

    @get("/v1/obligations/{obligation_id:str}", opt=needs_one_of(*LOOKERS_AND_CASHIERS))
    async def one_obligation(obligation_id: FromPath[str]) -> ObligationShape:
        """One of them; its newest command is `GET /v1/commands/{command}`."""
        found = await room.journal.read(
            lambda connection: debt_rows.obligation(connection, obligation_id), "looking up an obligation"
        )
        if found is None:
            raise problem(404, f"There is no obligation {obligation_id!r}.")
        return obligation_shape(found)

    @post("/v1/obligations/{obligation_id:str}/forgive", opt=needs_one_of(*LOOKERS_AND_CASHIERS), status_code=200)
    async def forgive(
        request: Request[Any, Any, Any], obligation_id: FromPath[str], data: JSONBody[Why]
    ) -> ObligationShape:
        """A person says that it is owed no more: the customer has moved out, the payment bounced."""
        caller = await caller_of(room, request)
        # What it takes away is what an open takes away.
        await allow(room, caller, [Action.ASK_OPEN])
        try:
            outcome = await room.desk.forgive(obligation_id, caller.person, checked_text("reason", data.reason))
        except PROBLEMS as error:
            raise as_problem(error) from error
        if isinstance(outcome, Refusal):
            raise refused([outcome])
        return obligation_shape(outcome)

    return owe, list_obligations, one_obligation, forgive
