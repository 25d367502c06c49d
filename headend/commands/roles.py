"""Who may do what: a table of actions, and the rule of two people. Pure.

Roles are a token's; two people are people. A token without a known person can read and close, and takes no part where two people
count: otherwise one person with two tokens would be two.
"""

import enum
from collections.abc import Iterable

from msgspec import Struct

from headend.commands.approval import same_person
from headend.commands.model import Kind, Refusal
from headend.store.tokens import Role

__all__ = ["ASKS", "NEEDS", "NOBODY", "Action", "Caller", "action_of", "refusals"]

VERSION = "roles@1"
NOBODY = "token:"  # begins the name of a caller of whom nobody has said which person they are


class Action(enum.Enum):
    """What one request may do."""

    READ_STATUS = "read the relay's state"
    CLOSE = "close a supply"
    PERMIT_CLOSE = "permit a customer to close"
    PROTECT = "protect a supply"
    ASK_OPEN = "ask for an open"
    ASK_UNPROTECT = "ask for the end of a protection"
    ASK_RELEASE = "ask for the release of quarantined opens"
    ASK_DELETE = "ask for the deletion of quarantined opens"
    ASK_LIMITS = "ask for higher limits"
    LOWER_LIMITS = "lower limits"
    CANCEL_OPEN = "cancel an open"
    STOP_OPENS = "stop all opens"
    ALLOW_OPENS = "allow opens again"
    TELL_FORECAST = "tell the weather"
    APPROVE = "approve what somebody else asked for"


NEEDS: dict[Action, tuple[Role, ...]] = {
    Action.READ_STATUS: (Role.OPERATE,),
    Action.CLOSE: (Role.OPERATE,),
    Action.PERMIT_CLOSE: (Role.OPERATE,),
    Action.PROTECT: (Role.OPERATE,),
    Action.ASK_OPEN: (Role.DISCONNECT,),
    Action.ASK_UNPROTECT: (Role.DISCONNECT,),
    Action.ASK_RELEASE: (Role.DISCONNECT,),
    Action.ASK_DELETE: (Role.DISCONNECT,),
    Action.ASK_LIMITS: (Role.DISCONNECT,),
    Action.LOWER_LIMITS: (Role.OPERATE,),
    Action.CANCEL_OPEN: (Role.OPERATE,),
    Action.STOP_OPENS: (Role.OPERATE,),
    Action.ALLOW_OPENS: (Role.DISCONNECT,),
    Action.TELL_FORECAST: (Role.OPERATE,),
    Action.APPROVE: (Role.APPROVE,),
}
# What makes supplies less safe is asked for by somebody whom we know.
ASKS: frozenset[Action] = frozenset(
    {
        Action.ASK_OPEN,
        Action.ASK_UNPROTECT,
        Action.ASK_RELEASE,
        Action.ASK_DELETE,
        Action.ASK_LIMITS,
        Action.ALLOW_OPENS,
    }
)
_OF_KIND = {
    Kind.OPEN: Action.ASK_OPEN,
    Kind.CLOSE: Action.CLOSE,
    Kind.PERMIT_CLOSE: Action.PERMIT_CLOSE,
    Kind.PROTECT: Action.PROTECT,
    Kind.UNPROTECT: Action.ASK_UNPROTECT,
    Kind.STATUS: Action.READ_STATUS,
}


class Caller(Struct, frozen=True, kw_only=True):
    """Who sends a request. person: "" when nobody has said whose token it is."""

    token: str
    person: str
    roles: frozenset[Role]

    @property
    def name(self) -> str:
        """The person; of a token that is nobody's, one that no person can have."""
        return self.person or f"{NOBODY}{self.token}"


def action_of(kind: Kind) -> Action:
    return _OF_KIND[kind]


def refusals(caller: Caller, actions: Iterable[Action], *, asked_by: Iterable[Caller] = ()) -> tuple[Refusal, ...]:
    """Why one request under this token may not do all of `actions`; empty: it may.

    asked_by: with APPROVE, who asked for what is approved. `admin` stands for every role, and for no second person.
    """
    wanted = tuple(dict.fromkeys(actions))
    found = []

    def refuse(rule: str, text: str, needed: str) -> None:
        found.append(Refusal(rule=rule, version=VERSION, text=text, needed=needed))

    for action in wanted:
        missing = [role.value for role in NEEDS[action] if not {role, Role.ADMIN} & caller.roles]
        if missing:
            roles = ", ".join(sorted(role.value for role in caller.roles)) or "none"
            refuse("role", f"the token {caller.token!r} has {roles} and may not {action.value}", " and ".join(missing))
    if Action.APPROVE in wanted and ASKS & set(wanted):
        refuse("one-request", "one request asks for something and approves it", "two requests, by two people")
    if not caller.person and (Action.APPROVE in wanted or ASKS & set(wanted)):
        refuse("person", f"nobody has said which person holds the token {caller.token!r}", "the person of the token")
    if Action.APPROVE in wanted:
        asked = list(asked_by)
        if not asked:
            refuse("asked-by", "nobody knows who asked for it", "a request by somebody else")
        for asker in asked:
            if asker.token == caller.token or same_person(asker.person, caller.person):
                refuse("two-people", f"{caller.name} has asked for it", "the approval of another person")
                break
    return tuple(found)
