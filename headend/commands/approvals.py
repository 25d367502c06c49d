"""Where two people meet: one asks, another agrees, and what was agreed to happens in the very transaction that says so.

An approval is bound to the digest of what it is about. It is computed again, of what is there, when somebody agrees; what was added
or edited meanwhile makes the approval void. What ended meanwhile (a customer has paid) does not: less is done than was agreed to.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection

from headend.commands import roles
from headend.commands.approval import Approval, Purpose
from headend.commands.governor import Limits
from headend.commands.intake import Intake, refusals_of
from headend.commands.journal import Journal, NoSuchCommand, Page
from headend.commands.machine import Event
from headend.commands.model import TWO_PEOPLE, Command, Refusal, State
from headend.commands.roles import Action, Caller
from headend.commands.rulebook import Rulebook
from headend.store import commands as rows
from headend.store import governor_approvals as approvals
from headend.store.commands_lists import LIST_MAX, commands_of_list
from headend.store.governor_approvals import NotApproved

__all__ = ["Approvals", "Outcome"]

_LISTS = (Purpose.BATCH, Purpose.ORDER)
_ASKED = {Purpose.RELEASE: "released", Purpose.DELETE: "deleted"}


class Outcome(Struct, frozen=True, kw_only=True):
    """approval: as it is now. commands: those that it moved. refusals: by command, of those that a rule stops all the same.

    effective_in_s: of limits, how much governor time has to pass first; None for everything else.
    """

    approval: Approval
    commands: tuple[Command, ...] = ()
    refusals: dict[str, tuple[Refusal, ...]] = {}
    effective_in_s: float | None = None


class Approvals:
    """Every method raises NotApproved with what is in the way, and StoreUnavailable; then nothing happened."""

    def __init__(self, journal: Journal, rulebook: Rulebook, intake: Intake) -> None:
        self._journal = journal
        self._rulebook = rulebook
        self._intake = intake

    # -------------------------------------------------------------------------------------------- asking

    async def ask_list(self, purpose: Purpose, subject: str, caller: Caller) -> Approval:
        """For commands that wait for a second person: of a batch, by its name, or a single one, by its id.

        The request that is there is given back, if it is about the same list.
        """

        def ask(page: Page) -> Approval:
            listed = self._listed(page.connection, purpose, subject)
            if not any(command.state is State.CHECKED for command in listed):
                raise NotApproved(f"no command of {subject!r} waits for approval")
            digest = self._rulebook.list_digest([command.order for command in listed])
            there = approvals.standing(page.connection, purpose, subject)
            if there is not None and there.digest == digest and self.is_open(there, page.now):
                return there
            _check(roles.refusals(caller, {roles.action_of(command.kind) for command in listed}))
            asked = approvals.ask(
                page.connection,
                purpose,
                subject,
                digest,
                caller.person,
                page.now,
                others=sorted({command.order.requester for command in listed}),
                commands=[command.id for command in listed],
            )
            _record_asked(page, asked)
            return asked

        return await self._journal.write(ask, "asking for approval of a list")

    async def ask_quarantined(self, ids: Sequence[str], caller: Caller, *, delete: bool) -> Approval:
        """Raises NoSuchCommand."""

        def ask(page: Page) -> Approval:
            commands = [page.command(identity) for identity in dict.fromkeys(ids)]
            _check_quarantined(commands)
            asked = self._rulebook.ask_quarantined(page.connection, commands, caller, page.now, delete=delete)
            _record_asked(page, asked)
            return asked

        return await self._journal.write(ask, "asking about the quarantine")

    async def ask_unprotect(self, protection: str, caller: Caller) -> Approval:
        def ask(page: Page) -> Approval:
            asked = self._rulebook.ask_unprotect(page.connection, protection, caller, page.now)
            _record_asked(page, asked)
            return asked

        return await self._journal.write(ask, "asking for the end of a protection")

    async def ask_limits(self, limits: Limits, caller: Caller) -> Approval | None:
        """None: they hold already, since they are nowhere wider."""

        def ask(page: Page) -> Approval | None:
            before = self._rulebook.limits
            asked = self._rulebook.ask_limits(page.connection, limits, caller, page.now)
            if asked is not None:
                _record_asked(page, asked)
            # What is narrower holds from this moment on, also where something else is wider and waits.
            self._rulebook.refresh(page.connection)
            if self._rulebook.limits != before:
                data: dict[str, object] = {"before": _words(before), "after": _words(self._rulebook.limits)}
                page.record("limits-changed", "limits", caller.name, data, is_needed=False)
            return asked

        return await self._journal.write(ask, "asking for limits")

    # -------------------------------------------------------------------------------------------- agreeing

    async def approve(self, identity: str, digest: str, caller: Caller) -> Outcome:
        """digest: of what this person has seen."""

        def approve(page: Page) -> Outcome:
            asked = _found(page.connection, identity)
            if asked.digest != digest:
                raise NotApproved(
                    f"{identity} is about something else than what this approval names; look at it, and approve its digest"
                )
            outcome = self._agree(page, asked, caller)
            given = outcome.approval
            data: dict[str, object] = {
                "approval": given.id,
                "purpose": given.purpose.value,
                "digest": given.digest,
                "asked_by": given.asked_by,
                "commands": list(given.commands),
            }
            page.record("approved", given.subject, caller.person, data, is_needed=True)
            return outcome

        outcome = await self._journal.write(approve, "approving")
        if outcome.approval.purpose in (Purpose.UNPROTECT, Purpose.LIMITS):
            await self._journal.read(self._rulebook.refresh, "looking up limits and protections")
        return outcome

    def _agree(self, page: Page, asked: Approval, caller: Caller) -> Outcome:
        connection, purpose = page.connection, asked.purpose
        if purpose in _LISTS:
            return self._agree_to_list(page, asked, caller)
        if purpose in _ASKED:
            return self._agree_to_leave(page, asked, caller)
        if purpose is Purpose.UNPROTECT:
            given = self._rulebook.unprotect(connection, asked.id, caller, page.now)
            data: dict[str, object] = {"protection": given.subject, "removed_by": [given.asked_by, given.approved_by]}
            page.record("fact", given.subject, caller.person, data, is_needed=True)
            return Outcome(approval=given)
        before = self._rulebook.limits
        limits, wait_s = self._rulebook.approve_limits(connection, asked.id, caller, page.now)
        data = {"before": _words(before), "after": _words(limits), "effective_in_s": str(wait_s)}
        page.record("limits-changed", "limits", caller.person, data, is_needed=True)
        return Outcome(approval=_found(connection, asked.id), effective_in_s=float(wait_s))

    def _agree_to_list(self, page: Page, asked: Approval, caller: Caller) -> Outcome:
        listed = self._listed(page.connection, asked.purpose, asked.subject)
        # Who has added an order since is somebody who asked, too, and his order makes the digest another one.
        people = {asked.asked_by, *asked.others, *(command.order.requester for command in listed)}
        askers = [Caller(token="", person=person, roles=frozenset()) for person in sorted(people)]
        _check(roles.refusals(caller, [Action.APPROVE], asked_by=askers))
        digest = self._rulebook.list_digest([command.order for command in listed])
        given = approvals.approve(page.connection, asked.id, digest, caller.person, page.now)
        waiting = [command for command in listed if command.state is State.CHECKED]
        return Outcome(
            approval=given,
            commands=tuple(self._intake.plan(page, command.id, approver=caller.person) for command in waiting),
        )

    def _agree_to_leave(self, page: Page, asked: Approval, caller: Caller) -> Outcome:
        commands = [page.command(identity) for identity in asked.commands]
        given = self._rulebook.approve_quarantined(page.connection, asked.id, commands, caller, page.now)
        people = f"{given.asked_by} and {given.approved_by}"
        # What has ended meanwhile is left as it is: its customer has paid, or its time is over.
        there = [command for command in commands if command.state is State.QUARANTINED]
        moved: list[Command] = []
        refusals: dict[str, tuple[Refusal, ...]] = {}
        for command in there:
            if given.purpose is Purpose.DELETE:
                note = {"deleted_by": people, "problem": "deleted from quarantine"}
                moved.append(page.step(command.id, Event.DELETED, actor=people, note=note))
                continue
            answer = self._intake.go_on(page, command.id, note={"released_by": people})
            assert answer.command is not None
            moved.append(answer.command)
            if answer.command.state is State.REFUSED:
                refusals[command.id] = answer.refusals or refusals_of(answer.command, self._rulebook.version)
        return Outcome(approval=given, commands=tuple(moved), refusals=refusals)

    async def refuse(self, identity: str, caller: Caller, reason: str) -> Outcome:
        """Somebody does not agree: what waited ends, what was in quarantine stays there."""

        def refuse(page: Page) -> Outcome:
            asked = _found(page.connection, identity)
            _check(roles.refusals(caller, [Action.APPROVE], asked_by=[_nobody(caller)]))
            if asked.voided or asked.approved_by:
                state = f"void: {asked.voided}" if asked.voided else f"given by {asked.approved_by}"
                raise NotApproved(f"{identity} is {state}; expected one that waits")
            approvals.void(page.connection, asked.purpose, asked.subject, f"refused by {caller.person}: {reason}")
            note = {"rejected_by": caller.person, "problem": reason}
            moved = [
                page.step(command.id, Event.PERSON_REFUSED, actor=caller.person, note=note)
                for command in (self._listed(page.connection, asked.purpose, asked.subject) if _is_list(asked) else [])
                if command.state is State.CHECKED
            ]
            data: dict[str, object] = {"approval": identity, "purpose": asked.purpose.value, "reason": reason}
            page.record("approval-void", asked.subject, caller.person, data, is_needed=False)
            return Outcome(approval=_found(page.connection, identity), commands=tuple(moved))

        return await self._journal.write(refuse, "refusing an approval")

    # -------------------------------------------------------------------------------------------- questions

    async def newest(self, limit: int) -> list[Approval]:
        """The one that was asked for last first."""
        return await self._journal.read(lambda connection: approvals.newest(connection, limit), "listing approvals")

    async def view(self, identity: str) -> tuple[Approval, list[Command]] | None:
        """With the commands that it is about."""

        def look(connection: Connection) -> tuple[Approval, list[Command]] | None:
            asked = approvals.find_approval(connection, identity)
            if asked is None:
                return None
            found = (rows.command(connection, one) for one in asked.commands)
            return asked, [command for command in found if command is not None]

        return await self._journal.read(look, "looking up an approval")

    def is_open(self, approval: Approval, now: datetime) -> bool:
        """Whether somebody else can still give it."""
        return not approval.why_not_by("\0", approval.digest, now)

    def _listed(self, connection: Connection, purpose: Purpose, subject: str) -> list[Command]:
        """The list as it was ordered: without what was refused at once, and what was, or is, other people's in quarantine.

        Of the name's newest list only: what somebody once ordered under the same name is none of it.
        """
        if purpose is Purpose.BATCH:
            found = commands_of_list(connection, subject, limit=LIST_MAX) if subject else []
        else:
            one = rows.command(connection, subject)
            found = [] if one is None else [one]
        left_out = (State.REFUSED, State.QUARANTINED)
        return [
            command
            for command in found
            if command.kind in TWO_PEOPLE and command.state not in left_out and "released_by" not in command.detail
        ]


def _is_list(asked: Approval) -> bool:
    return asked.purpose in _LISTS


def _found(connection: Connection, identity: str) -> Approval:
    found = approvals.find_approval(connection, identity)
    if found is None:
        raise NoSuchCommand(f"there is no approval {identity!r}")
    return found


def _check_quarantined(commands: Sequence[Command]) -> None:
    if not commands:
        raise NotApproved("no command is named; expected ids of quarantined ones")
    for command in commands:
        if command.state is not State.QUARANTINED:
            raise NotApproved(f"command {command.id} is {command.state.value}; expected a quarantined one")


def _check(refused: Sequence[Refusal]) -> None:
    if refused:
        raise NotApproved("; ".join(f"{one.text} (needed: {one.needed})" for one in refused))


def _nobody(caller: Caller) -> Caller:
    """Not agreeing takes no second person: who has asked may also take it back."""
    return Caller(token=f"not {caller.token}", person=f"not {caller.person}", roles=frozenset())


def _record_asked(page: Page, asked: Approval) -> None:
    data: dict[str, object] = {
        "approval": asked.id,
        "purpose": asked.purpose.value,
        "digest": asked.digest,
        "others": list(asked.others),
        "commands": list(asked.commands),
    }
    page.record("approval-asked", asked.subject, asked.asked_by, data, is_needed=True)


def _words(limits: Limits | None) -> dict[str, str] | None:
    if limits is None:
        return None
    return {name: str(getattr(limits, name)) for name in limits.__struct_fields__}
