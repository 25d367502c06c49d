"""What the command room refuses, as a problem document: each rule with its version and what would be needed instead."""

from collections.abc import Sequence
from typing import Any

from litestar import Request
from msgspec import UNSET
from msgspec.structs import replace

from headend.api.problems import ProblemRaised, problem
from headend.commands import roles
from headend.commands.journal import NoSuchCommand
from headend.commands.machine import NotPossible
from headend.commands.model import Refusal
from headend.commands.roles import Action, Caller
from headend.commands.room import CommandRoom
from headend.store.governor_approvals import NotApproved
from headend.store.tokens import Role

__all__ = ["LOOKERS", "LOOKERS_AND_CASHIERS", "PROBLEMS", "allow", "as_problem", "caller_of", "refused", "switches"]

# For `needs_one_of`: whoever may look is told by the rule why they may do no more, and the audit log has it: see `allow`.
LOOKERS = (Role.READ, Role.OPERATE, Role.DISCONNECT, Role.APPROVE)
LOOKERS_AND_CASHIERS = (*LOOKERS, Role.CASHIER)
# Rules about who asks; another person or token would be served.
_WHO = frozenset({"role", "person", "one-request", "two-people", "asked-by", "requester"})
# What stands in the way will be over some time.
_STATE = frozenset({"idempotency-key", "reference", "one-active-command", "cancel", "obligation", "approval", "owed"})
# What the command room raises; a route that calls it turns these into problems by `as_problem`.
PROBLEMS = (NoSuchCommand, NotApproved, NotPossible)


def refused(refusals: Sequence[Refusal], *, command: str = "", status: int = 0) -> ProblemRaised:
    """status: 0 chooses by the first rule: 403 for who asks, 404 for no such meter, 409 for what is under way, else 422."""
    first = refusals[0].rule
    if not status:
        status = 403 if first in _WHO else 404 if first == "meter" else 409 if first in _STATE else 422
    told = problem(
        status,
        "; ".join(f"{one.rule} ({one.version}): {one.text}" for one in refusals),
        next_step="needed: " + "; ".join(one.needed for one in refusals),
        name="refused" if status == 422 else None,
    )
    document = replace(told.problem, refusals=list(refusals), command=command or UNSET)
    return ProblemRaised(document, told.headers)


def as_problem(error: Exception) -> ProblemRaised:
    """error: one of PROBLEMS."""
    if isinstance(error, NoSuchCommand):
        return problem(404, f"{error}.")
    if isinstance(error, NotApproved):
        needed = "what is there now looked at, and asked for or approved anew"
        return refused(
            [Refusal(rule="approval", version=roles.VERSION, text=str(error), needed=needed)],
            status=409,
        )
    return problem(409, f"{error}.")


async def caller_of(room: CommandRoom, request: Request[Any, Any, Any]) -> Caller:
    return await room.caller_of(request.state.token)


async def allow(
    room: CommandRoom, caller: Caller, actions: Sequence[Action], *, asked_by: Sequence[Caller] = ()
) -> None:
    """What the request asks for must be this caller's to ask. Raises the 403 problem, which the audit log has then."""
    found = roles.refusals(caller, actions, asked_by=asked_by)
    if not found:
        return
    data: dict[str, object] = {
        "token_name": caller.token,
        "actions": [action.value for action in actions],
        "rules": [one.rule for one in found],
    }
    await room.record("access-refused", caller.token, caller.name, data)
    raise refused(found, status=403)


def switches(room: CommandRoom) -> None:
    """Raises the problem that this head-end switches nothing."""
    if (closed := room.closed_by_configuration()) is not None:
        raise refused([closed])
