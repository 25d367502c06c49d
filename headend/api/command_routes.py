"""Orders to supply switches over HTTP: asking, looking, taking back, and trying without doing.

`POST /v1/commands` answers 202 for a new command that is on its way (also into quarantine), 200 for one that the same key made
before, and a problem otherwise: 403 who asks, 404 no such meter, 409 the key stands for another order or a command is under way,
422 a rule says no. A refused order is a command, too: the problem names its id, and the same key gives the same answer again.
"""

from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Struct

from headend.api.auth import needs_one_of
from headend.api.parameters import refuse_unknown
from headend.api.problems import Problem, problem
from headend.api.refusals import LOOKERS_AND_CASHIERS, PROBLEMS, allow, as_problem, caller_of, refused, switches
from headend.api.relay_shapes import (
    ApprovalShape,
    CommandShape,
    CommandWithSteps,
    OrderShape,
    checked_text,
    command_shape,
    order_of,
    step_shapes,
)
from headend.commands.approval import Approval, Purpose
from headend.commands.intake import Answer
from headend.commands.model import CLOSES, Command, Kind, Order, Refusal, State
from headend.commands.roles import Action, Caller, action_of
from headend.commands.room import CommandRoom
from headend.store.commands_pages import commands_page

__all__ = ["command_routes"]

ORDERS_MAX = 1000
LIMIT_MAX = 1000


class OrderAnswer(Struct, frozen=True, kw_only=True):
    """What became of an order. refusals: empty: it is on its way; of a quarantined one, the limit.

    approval: a second person must agree first. is_repeat: the key was known, nothing happened again.
    """

    command: CommandShape | None
    refusals: list[Refusal]
    is_repeat: bool = False
    approval: ApprovalShape | None = None


class ListAnswer(Struct, frozen=True, kw_only=True):
    """answers: in the order of the list. approval: for all that wait for a second person."""

    answers: list[OrderAnswer]
    approval: ApprovalShape | None = None


class CommandPage(Struct, frozen=True):
    """The newest first. next: the `after` of the following page; "" when this is the last."""

    commands: list[CommandShape]
    next: str


class Why(Struct, frozen=True, forbid_unknown_fields=True):
    reason: str


class Trial(Struct, frozen=True, kw_only=True):
    """What would become of an order. would_be: the state it would come into; "" when it could be no command at all.

    allowed_at: when it would go, as far as is known now; null: never as it is. protections: why its customer must stay on.
    """

    meter: str
    kind: str
    would_be: str
    refusals: list[Refusal]
    allowed_at: str | None
    calendar_allows_at: str | None
    protections: list[str]


class TrialRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """orders: as for POST /v1/commands; nothing is stored of them."""

    orders: list[OrderShape]


class Trials(Struct, frozen=True, kw_only=True):
    """policy_version: that was asked. trials: in the order of the orders."""

    policy_version: str
    trials: list[Trial]


_ANSWER: Any = OrderAnswer | ListAnswer


def command_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    @post(
        "/v1/commands",
        opt=needs_one_of(*LOOKERS_AND_CASHIERS),
        status_code=202,
        responses={
            202: ResponseSpec(_ANSWER, description="Taken; it is on its way, waits, or is in quarantine."),
            200: ResponseSpec(_ANSWER, description="Known: the same key and order came before."),
            409: ResponseSpec(Problem, description="The key stands for another order, or a command is under way."),
            422: ResponseSpec(Problem, description="A rule says no: `refusals` names each."),
        },
    )
    async def order_command(
        request: Request[Any, Any, Any], data: JSONBody[OrderShape | list[OrderShape]]
    ) -> Response[OrderAnswer | ListAnswer]:
        """Order a supply to be opened, closed, protected, or looked at; one order, or a list of up to 1000 as one batch."""
        shapes = data if isinstance(data, list) else [data]
        if not 1 <= len(shapes) <= ORDERS_MAX:
            raise problem(400, f"expected 1 to {ORDERS_MAX} orders, found {len(shapes)}.")
        caller = await caller_of(room, request)
        await allow(room, caller, [action_of(Kind(shape.kind)) for shape in shapes])
        switches(room)
        orders = [order_of(shape, caller.name) for shape in shapes]
        answers, approval = await _ordered(room, orders, caller)
        shown = None if approval is None else ApprovalShape.of(approval, is_open=True)
        told = [_told(room, answer, shown) for answer in answers]
        if not isinstance(data, list):
            answer = answers[0]
            _raise_refused(answer)
            return Response(told[0], status_code=200 if answer.is_repeat else 202)
        if all(answer.command is None or answer.command.state is State.REFUSED for answer in answers):
            raise refused([one for answer in answers for one in answer.refusals][:20])
        is_repeat = all(answer.is_repeat for answer in answers)
        return Response(ListAnswer(answers=told, approval=shown), status_code=200 if is_repeat else 202)

    @get("/v1/commands", opt=needs_one_of(*LOOKERS_AND_CASHIERS))
    async def list_commands(
        request: Request[Any, Any, Any],
        meter: Annotated[str, QueryParameter(description="Only of this asset number.")] = "",
        command_state: Annotated[
            str, QueryParameter(name="state", description="Only in this state, or these, with commas.")
        ] = "",
        batch: Annotated[str, QueryParameter(description="Only of this batch.")] = "",
        after: Annotated[
            str, QueryParameter(description="Id of the last command you have; the page goes on to older ones.")
        ] = "",
        limit: Annotated[int, QueryParameter(description="Commands at most, 1 to 1000.")] = 100,
    ) -> CommandPage:
        """Commands, the newest first."""
        refuse_unknown(request, "meter", "state", "batch", "after", "limit")
        if not 1 <= limit <= LIMIT_MAX:
            raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
        states = _states(command_state)
        found = await room.journal.read(
            lambda connection: commands_page(
                connection, meter=meter, states=states, batch=batch, after=after, limit=limit
            ),
            "listing commands",
        )
        if found is None:
            raise problem(404, f"There is no command {after!r} to go on from.")
        shown = [command_shape(command, room.problem_of(command.id)) for command in found]
        return CommandPage(shown, found[-1].id if len(found) == limit else "")

    @get("/v1/commands/{command_id:str}", opt=needs_one_of(*LOOKERS_AND_CASHIERS))
    async def one_command(command_id: FromPath[str]) -> CommandWithSteps:
        """A command with its journal: every step, who took it, and the evidence."""
        found = await room.desk.command(command_id)
        if found is None:
            raise problem(404, f"There is no command {command_id!r}.")
        command, steps = found
        return CommandWithSteps(command=command_shape(command, room.problem_of(command.id)), steps=step_shapes(steps))

    @post("/v1/commands/{command_id:str}/cancel", opt=needs_one_of(*LOOKERS_AND_CASHIERS), status_code=200)
    async def cancel_command(
        request: Request[Any, Any, Any], command_id: FromPath[str], data: JSONBody[Why]
    ) -> CommandShape:
        """Take a command back of which no byte has left."""
        caller = await caller_of(room, request)
        await allow(room, caller, [Action.CANCEL_OPEN])
        reason = checked_text("reason", data.reason)
        found = await room.desk.command(command_id)
        if found is None:
            raise problem(404, f"There is no command {command_id!r}.")
        if found[0].kind in CLOSES and found[0].obligation:
            text = f"command {command_id} gives a supply back that is owed (obligation {found[0].obligation})"
            needed = f"the end of the debt: POST /v1/obligations/{found[0].obligation}/forgive"
            raise refused([Refusal(rule="owed", version=room.rulebook.version, text=text, needed=needed)])
        try:
            outcome = await room.desk.cancel(command_id, caller.name, reason)
        except PROBLEMS as error:
            raise as_problem(error) from error
        if isinstance(outcome, Refusal):
            raise refused([outcome])
        return command_shape(outcome)

    @post("/v1/policy/check", opt=needs_one_of(*LOOKERS_AND_CASHIERS), status_code=200)
    async def check_orders(request: Request[Any, Any, Any], data: JSONBody[TrialRequest]) -> Trials:
        """Who would be cut off, who is protected, and when: orders are tried as if they had come now, and nothing is kept of it."""
        if not 1 <= len(data.orders) <= ORDERS_MAX:
            raise problem(400, f"expected 1 to {ORDERS_MAX} orders, found {len(data.orders)}.")
        caller = await caller_of(room, request)
        orders = [order_of(shape, caller.name) for shape in data.orders]
        answers = await room.dry_run(orders)
        return Trials(
            policy_version=room.rulebook.version,
            trials=[_trial(room, order, answer) for order, answer in zip(orders, answers, strict=True)],
        )

    return order_command, list_commands, one_command, cancel_command, check_orders


async def _ordered(room: CommandRoom, orders: list[Order], caller: Caller) -> tuple[list[Answer], Approval | None]:
    """The desk's answers; and what a second person must agree to, when the list waits."""
    without_code = {order.meter: why for order in orders if (why := room.operator_refusal(order)) is not None}
    sent = [order for order in orders if order.meter not in without_code]
    for order in orders:
        if order.meter in without_code:
            data: dict[str, object] = {"meter": order.meter, "kind": order.kind.value, "rule": "operator"}
            await room.record("refused", order.idempotency_key, order.requester, data)
    taken = iter(await room.desk.request_all(sent, caller.name) if sent else ())
    answers = [
        Answer(command=None, refusals=(without_code[order.meter],)) if order.meter in without_code else next(taken)
        for order in orders
    ]
    waiting = [
        answer.command for answer in answers if answer.command is not None and answer.command.state is State.CHECKED
    ]
    if not waiting:
        return answers, None
    first = waiting[0]
    purpose, subject = (Purpose.BATCH, first.order.batch) if first.order.batch else (Purpose.ORDER, first.id)
    return answers, await room.approvals.ask_list(purpose, subject, caller)


def _raise_refused(answer: Answer) -> None:
    """Where a single order is not on its way."""
    if answer.command is None or answer.command.state is State.REFUSED:
        raise refused(answer.refusals, command="" if answer.command is None else answer.command.id)


def _told(room: CommandRoom, answer: Answer, approval: ApprovalShape | None) -> OrderAnswer:
    command = answer.command
    waits = command is not None and command.state is State.CHECKED
    return OrderAnswer(
        command=None if command is None else command_shape(command, room.problem_of(command.id)),
        refusals=list(answer.refusals),
        is_repeat=answer.is_repeat,
        approval=approval if waits else None,
    )


def _trial(room: CommandRoom, order: Order, answer: Answer) -> Trial:
    command: Command | None = answer.command
    goes = command is not None and command.state not in (State.REFUSED, State.QUARANTINED)
    later = room.next_allowed(order, room.clock.now())
    protections = room.rulebook.facts_of(order.meter).protections
    return Trial(
        meter=order.meter,
        kind=order.kind.value,
        would_be="" if command is None else command.state.value,
        refusals=list(answer.refusals),
        allowed_at=command.due_at.isoformat() if command is not None and goes else None,
        calendar_allows_at=None if later is None else later.isoformat(),
        protections=[f"{one.category}: {one.reason}" for one in protections],
    )


def _states(text: str) -> list[State]:
    known = {one.value: one for one in State}
    wanted = [one for one in text.split(",") if one]
    if unknown := [one for one in wanted if one not in known]:
        raise problem(400, f"state {', '.join(unknown)} is none; expected {', '.join(known)}.")
    return [known[one] for one in wanted]
