"""What needs two people over HTTP: asking, seeing exactly what is asked for, agreeing to it by its digest, not agreeing."""

from typing import Annotated, Any, Literal

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from headend.api.auth import needs_one_of
from headend.api.parameters import refuse_unknown
from headend.api.problems import problem
from headend.api.refusals import LOOKERS, PROBLEMS, allow, as_problem, caller_of, switches
from headend.api.relay_shapes import ApprovalShape, CommandShape, checked_text, command_shape
from headend.commands.approval import Approval, Purpose
from headend.commands.approvals import Outcome
from headend.commands.model import Refusal
from headend.commands.roles import Action, Caller
from headend.commands.room import CommandRoom

__all__ = ["approval_routes"]

LIMIT_MAX = 1000
COMMANDS_MAX = 20_000
_ACTIONS = {
    "batch": Action.ASK_OPEN,
    "order": Action.ASK_UNPROTECT,
    "release": Action.ASK_RELEASE,
    "delete": Action.ASK_DELETE,
    "unprotect": Action.ASK_UNPROTECT,
}


class ApprovalRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a second person is asked about.

    purpose batch: `subject` is the name of a batch that waits; order: the id of a command that does; release, delete: `commands`
    are the ids of those in quarantine; unprotect: `subject` is the id of a protection. Higher limits are asked for at /v1/limits.
    """

    purpose: Literal["batch", "order", "release", "delete", "unprotect"]
    subject: Annotated[str, Meta(max_length=128)] = ""
    commands: Annotated[list[str], Meta(max_length=COMMANDS_MAX)] = []


class Agreement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """digest: of what this person has seen, as `GET /v1/approvals/{id}` shows it."""

    digest: str


class NoAgreement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: str


class ApprovalView(Struct, frozen=True, kw_only=True):
    """commands: exactly what would be approved."""

    approval: ApprovalShape
    commands: list[CommandShape]


class Moved(Struct, frozen=True, kw_only=True):
    """commands: that went on. refusals: by command, of those that a rule stops all the same.

    effective_in_s: of limits, after how much of the governor's own time they hold; null for everything else.
    """

    approval: ApprovalShape
    commands: list[CommandShape]
    refusals: dict[str, list[Refusal]]
    effective_in_s: float | None


class ApprovalList(Struct, frozen=True):
    """The one that was asked for last first."""

    approvals: list[ApprovalShape]


def approval_routes(room: CommandRoom) -> tuple[HTTPRouteHandler, ...]:
    """Handlers for `create_app(deps, routes=…)`."""

    def shape(asked: Approval) -> ApprovalShape:
        return ApprovalShape.of(asked, is_open=room.approvals.is_open(asked, room.clock.now()))

    def moved(outcome: Outcome) -> Moved:
        return Moved(
            approval=shape(outcome.approval),
            commands=[command_shape(command, room.problem_of(command.id)) for command in outcome.commands],
            refusals={identity: list(refusals) for identity, refusals in outcome.refusals.items()},
            effective_in_s=outcome.effective_in_s,
        )

    @post("/v1/approvals", opt=needs_one_of(*LOOKERS), status_code=201)
    async def ask_for_approval(request: Request[Any, Any, Any], data: JSONBody[ApprovalRequest]) -> ApprovalShape:
        """Ask for a second person. A list of orders that needs one is asked for by itself, when it is ordered."""
        caller = await caller_of(room, request)
        await allow(room, caller, [_ACTIONS[data.purpose]])
        switches(room)
        if (data.purpose in ("release", "delete")) != bool(data.commands) or bool(data.commands) == bool(data.subject):
            raise problem(400, f"purpose {data.purpose} is about {_about(data.purpose)}.")
        approvals = room.approvals
        try:
            if data.commands:
                asked = await approvals.ask_quarantined(data.commands, caller, delete=data.purpose == "delete")
            elif data.purpose == "unprotect":
                asked = await approvals.ask_unprotect(data.subject, caller)
            else:
                asked = await approvals.ask_list(Purpose(data.purpose), data.subject, caller)
        except PROBLEMS as error:
            raise as_problem(error) from error
        return shape(asked)

    @get("/v1/approvals", opt=needs_one_of(*LOOKERS))
    async def list_approvals(
        request: Request[Any, Any, Any],
        waiting: Annotated[bool, QueryParameter(description="Only those that somebody can still give.")] = False,
        limit: Annotated[int, QueryParameter(description="Looked at, the newest, 1 to 1000.")] = 100,
    ) -> ApprovalList:
        """What was asked for, the newest first."""
        refuse_unknown(request, "waiting", "limit")
        if not 1 <= limit <= LIMIT_MAX:
            raise problem(400, f"limit must be 1 to {LIMIT_MAX}, found {limit}.")
        found = [shape(asked) for asked in await room.approvals.newest(limit)]
        return ApprovalList([one for one in found if not waiting or one.state == "waiting"])

    @get("/v1/approvals/{approval_id:str}", opt=needs_one_of(*LOOKERS))
    async def one_approval(approval_id: FromPath[str]) -> ApprovalView:
        """Exactly what would be approved."""
        found = await room.approvals.view(approval_id)
        if found is None:
            raise problem(404, f"There is no approval {approval_id!r}.")
        asked, commands = found
        shown = [command_shape(command, room.problem_of(command.id)) for command in commands]
        return ApprovalView(approval=shape(asked), commands=shown)

    @post("/v1/approvals/{approval_id:str}/approve", opt=needs_one_of(*LOOKERS), status_code=200)
    async def approve(request: Request[Any, Any, Any], approval_id: FromPath[str], data: JSONBody[Agreement]) -> Moved:
        """Agree, as another person than those who asked. It happens in the same transaction."""
        caller = await caller_of(room, request)
        found = await room.approvals.view(approval_id)
        # Who may not approve at all is told so, whatever there is: what there is not was asked for by somebody else.
        people = (f"not {caller.person}",) if found is None else (found[0].asked_by, *found[0].others)
        askers = [Caller(token="", person=person, roles=frozenset()) for person in people]
        await allow(room, caller, [Action.APPROVE], asked_by=askers)
        if found is None:
            raise problem(404, f"There is no approval {approval_id!r}.")
        switches(room)
        try:
            return moved(await room.approvals.approve(approval_id, data.digest, caller))
        except PROBLEMS as error:
            raise as_problem(error) from error

    @post("/v1/approvals/{approval_id:str}/refuse", opt=needs_one_of(*LOOKERS), status_code=200)
    async def refuse(request: Request[Any, Any, Any], approval_id: FromPath[str], data: JSONBody[NoAgreement]) -> Moved:
        """Do not agree: commands that waited are refused, what was in quarantine stays there."""
        caller = await caller_of(room, request)
        somebody = Caller(token="", person=f"not {caller.person}", roles=frozenset())
        await allow(room, caller, [Action.APPROVE], asked_by=[somebody])
        try:
            return moved(await room.approvals.refuse(approval_id, caller, checked_text("reason", data.reason)))
        except PROBLEMS as error:
            raise as_problem(error) from error

    return ask_for_approval, list_approvals, one_approval, approve, refuse


def _about(purpose: str) -> str:
    if purpose in ("release", "delete"):
        return "`commands`, the ids of those in quarantine, and about no `subject`"
    what = {"batch": "the name of a batch", "order": "the id of a command", "unprotect": "the id of a protection"}
    return f"`subject`, {what[purpose]}, and about no `commands`"
