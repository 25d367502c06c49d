"""An order becomes a command, inside one transaction: idempotency, one active command per meter, rules, limits, its time.

Pure but for the page: everything is decided on what the tables say in this very transaction.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from headend.commands.gate import Gate
from headend.commands.journal import Page
from headend.commands.machine import Event
from headend.commands.model import CLOSES, UNSENT, Command, Kind, Order, Refusal, State, order_digest
from headend.commands.obligations import Obligation
from headend.store import commands as rows

__all__ = ["HEAD_END", "Answer", "Circumstances", "Intake", "fence_objection", "refusals_of"]

HEAD_END = "head-end"
TRY_VALID = timedelta(hours=24)  # of a close that pays a debt; after it the debt makes the next
BESIDE = 2  # the place of a `status`: it stands in nobody's way, and nobody in its
SOON = timedelta(minutes=15)  # a close that is due so soon is not replaced by one that is due now


class Answer(Struct, frozen=True, kw_only=True):
    """What became of an order. command: None when there is none, because the order cannot be one.

    refusals: empty: it is on its way. A refused order that could be one is a command too, `refused`, and the same key gives the same
    answer again. is_repeat: the key was known. is_conflict: the key is known for another order.
    """

    command: Command | None
    refusals: tuple[Refusal, ...] = ()
    is_repeat: bool = False
    is_conflict: bool = False


class Circumstances(Struct, frozen=True, kw_only=True):
    """What the rules are told besides the order. clock_synchronised: None when nobody knows."""

    clock_synchronised: bool | None
    audit_ok: bool
    store_ok: bool


class Intake:
    """new_id: of commands and debts. circumstances: as they are now; asked on the store's thread."""

    def __init__(self, gate: Gate, *, new_id: Callable[[], str], circumstances: Callable[[], Circumstances]) -> None:
        self._gate = gate
        self._new_id = new_id
        self._circumstances = circumstances

    def take(
        self, page: Page, order: Order, *, over: Refusal | None = None, waits_for_approval: bool = False
    ) -> Answer:
        """over: the limit that the order goes over. waits_for_approval: another person must agree before it is planned."""
        if (known := page.by_key(order.requester, order.idempotency_key)) is not None:
            return self._repeat(page, order, *known)
        if impossible := self.impossible(page, order):
            data: dict[str, object] = {"meter": order.meter, "kind": order.kind.value, "rule": impossible.rule}
            page.record("refused", order.idempotency_key, order.requester, data, is_needed=False)
            return Answer(command=None, refusals=(impossible,))
        new = Command(
            id=self._new_id(),
            order=order,
            state=State.REQUESTED,
            created_at=page.now,
            changed_at=page.now,
            due_at=max(page.now, order.not_before or page.now),
        )
        if order.batch:
            there = page.list_under_way(order.batch)
            new = replace(new, list_head=new.id if there is None else there.list_head)
        new, refusals = self._planned(new) if order.kind in CLOSES else (new, ())
        # A close that the rules refuse takes nobody's place.
        place, busy = (0, None) if refusals else self._place(page, new)
        refusals += () if busy is None else (busy,)
        if order.kind is Kind.OPEN:
            refusals += self._open_objections(page, order)
        if not refusals and order.kind not in CLOSES:
            new, refusals = self._planned(new)
        if refusals:
            new = page.request(new, place=None)
            note = {"rule": refusals[0].rule, **_worded(refusals)}
            new = page.step(new.id, Event.RULE_REFUSED, actor=HEAD_END, note=note, policy_version=self._gate.version)
            return Answer(command=new, refusals=refusals)
        return self._accepted(page, new, place, over, waits_for_approval)

    def go_on(self, page: Page, identity: str, *, note: dict[str, str], waits_for_approval: bool = False) -> Answer:
        """A command that was released from quarantine takes the whole way again, but for the limits."""
        command = page.step(identity, Event.RELEASED, actor=note.get("released_by", HEAD_END), note=note)
        planned, refusals = self._planned(command)
        if refusals:
            note = {"rule": refusals[0].rule, **_worded(refusals)}
            command = page.step(identity, Event.RULE_REFUSED, actor=HEAD_END, note=note)
            return Answer(command=command, refusals=refusals)
        page.step(identity, Event.PASSED, actor=HEAD_END, policy_version=self._gate.version, due_at=planned.due_at)
        if waits_for_approval:
            return Answer(command=page.command(identity))
        return Answer(command=self.plan(page, identity, approver=""))

    def plan(self, page: Page, identity: str, *, approver: str) -> Command:
        """approver: "" where nobody needs to."""
        page.step(identity, Event.APPROVED, actor=approver or HEAD_END, approver=approver)
        return page.step(identity, Event.PLANNED, actor=HEAD_END)

    # -------------------------------------------------------------------------------------------- debts

    def owe(self, page: Page, debt: Obligation) -> Obligation:
        """A new debt, or the one that is there: a meter has one, with the older clock, and it ends with the last order that made it."""
        there = page.open_debt_of(debt.meter)
        if there is None:
            page.owe(debt)
            return debt
        since = min(there.since, debt.since)
        if debt.expires_at is None and (there.expires_at is not None or since < there.since):
            # What was only ordered may lapse; what has been paid for may not.
            joined = replace(there, cause=debt.cause, reference=debt.reference, expires_at=None, since=since)
            page.change_debt(joined, "owed", tell=True)
        elif debt.expires_at is not None and there.expires_at is not None:
            expires_at = max(there.expires_at, debt.expires_at)
            page.change_debt(replace(there, since=since, expires_at=expires_at, kind=debt.kind), "owed")
        return page.debt(there.id)

    def new_debt(self, page: Page, *, meter: str, cause: str, reference: str) -> Obligation:
        return Obligation(
            id=self._new_id(),
            meter=meter,
            cause=cause,
            reference=reference,
            since=page.now,
            opened_at=page.now,
            due_at=page.now,
            kind=self._gate.reconnect_kind(meter),
        )

    def try_debt(
        self, page: Page, debt: Obligation, *, wait_s: float = 0.0, looks_first: bool = False
    ) -> Command | None:
        """A close for the debt. None when there is one already, or none can be made now: then it is tried again later.

        wait_s: a turn in a ramp. looks_first: nobody knows whether the supply is off, so it is only looked at; the next try is a close.
        """
        if self.is_being_paid(page, debt):
            return None
        looks_first = looks_first and not page.active_of(debt.meter) and not debt.tries
        if debt.cause == "payment":
            # As the rules are now: where they could not be obeyed, somebody may have changed them since.
            debt = replace(debt, kind=self._gate.reconnect_kind(debt.meter))
        order = Order(
            kind=Kind.STATUS if looks_first else debt.kind,
            meter=debt.meter,
            reason=f"supply is owed since {debt.since:%Y-%m-%d %H:%M:%S}Z ({debt.cause} {debt.reference})",
            requester=HEAD_END,
            idempotency_key=f"{debt.id}:{debt.tries + 1}",
            expires_at=debt.expires_at or page.now + TRY_VALID,
        )
        if order.expires_at <= page.now:
            return None
        new = Command(
            id=self._new_id(),
            order=order,
            state=State.REQUESTED,
            created_at=page.now,
            changed_at=page.now,
            due_at=page.now + timedelta(seconds=wait_s),
            obligation=debt.id,
        )
        place, busy = self._place(page, new)
        if busy is not None:
            return None
        page.request(new, place=place)
        page.step(new.id, Event.PASSED, actor=HEAD_END, policy_version=self._gate.version)
        changed = replace(debt, tries=debt.tries + 1, command=new.id)
        page.change_debt(changed, "tried", tell=True)
        return self.plan(page, new.id, approver="")

    @staticmethod
    def is_being_paid(page: Page, debt: Obligation) -> bool:
        """Whether a command of its own is under way. A close that somebody has ordered for later does not do for a payment."""
        return any(
            own.obligation == debt.id and not (debt.cause == "payment" and _is_for_later(own, page.now))
            for _, own in page.active_of(debt.meter)
        )

    # -------------------------------------------------------------------------------------------- inside

    def _repeat(self, page: Page, order: Order, known: Command, digest: str) -> Answer:
        data: dict[str, object] = {"meter": known.meter, "idempotency_key": order.idempotency_key}
        page.record("duplicate", known.id, order.requester, data, is_needed=False)
        if digest == order_digest(order):
            refusals = refusals_of(known, self._gate.version) if known.state is State.REFUSED else ()
            return Answer(command=known, refusals=refusals, is_repeat=True)
        refusal = self._refusal(
            "idempotency-key",
            f"{order.requester} used the key {order.idempotency_key!r} on {known.created_at:%Y-%m-%d %H:%M}Z for another order, "
            f"command {known.id}",
            "the same order again, or a new key",
        )
        return Answer(command=None, refusals=(refusal,), is_repeat=True, is_conflict=True)

    def impossible(self, page: Page, order: Order) -> Refusal | None:
        """Why this is no order at all, and can be no command."""
        if not self._gate.knows(order.meter):
            return self._refusal("meter", f"no meter {order.meter!r} is served here", "one meter's asset number")
        if not order.idempotency_key or not order.requester:
            return self._refusal(
                "idempotency-key",
                "the order has no key of its caller",
                "a key that the caller uses for this order only",
            )
        times = [order.expires_at, *([] if order.not_before is None else [order.not_before])]
        if any(moment.tzinfo is None for moment in times):
            return self._refusal("times", "a time has no zone", "times with their offset, such as 2026-11-22T08:00:00Z")
        if order.expires_at <= page.now:
            text = f"the order expired {order.expires_at:%Y-%m-%d %H:%M:%S}Z, and it is {page.now:%Y-%m-%d %H:%M:%S}Z"
            return self._refusal("expired", text, "a time to come in expires_at")
        if order.not_before is not None and order.not_before >= order.expires_at:
            return self._refusal("times", "not_before is not before expires_at", "not_before earlier than expires_at")
        return self._not_ones_own(page, order)

    def _not_ones_own(self, page: Page, order: Order) -> Refusal | None:
        """None: the name of its list is free, or the requester's own.

        A list is one requester's: a second person approves all of it, and its canary speaks for all of it.
        """
        there = page.list_under_way(order.batch) if order.batch else None
        if there is None or there.order.requester == order.requester:
            return None
        text = f"a list of {there.order.requester} is under way under the name {order.batch!r} (command {there.id})"
        return self._refusal("batch", text, "another name in `batch`, or the end of that list")

    def _place(self, page: Page, new: Command) -> tuple[int, Refusal | None]:
        """Where the command stands among the meter's active ones, after a close has taken the place of what it supersedes."""
        if new.kind is Kind.STATUS:
            looking = [other for taken, other in page.active_of(new.meter) if taken == BESIDE]
            return BESIDE, self._busy(looking[0]) if looking else None
        place = 0
        for taken, other in page.active_of(new.meter):
            if taken == BESIDE:
                continue
            is_close = new.kind in CLOSES
            if is_close and other.state in UNSENT and self._is_superseded(new, other, page):
                page.step(other.id, Event.SUPERSEDED, actor=new.order.requester, note={"superseded_by": new.id})
            elif is_close and other.kind not in CLOSES and taken == 0:
                place = 1
            else:
                return 0, self._busy(other)
        return place, None

    def _busy(self, other: Command) -> Refusal:
        return self._refusal(
            "one-active-command",
            f"command {other.id} ({other.kind.value}, {other.state.value}) of {other.meter} is under way",
            f"the end of command {other.id}; it can be cancelled while it is unsent",
        )

    @staticmethod
    def _is_superseded(new: Command, other: Command, page: Page) -> bool:
        if other.kind is Kind.OPEN:
            return True
        return other.kind in CLOSES and _is_for_later(other, page.now) and new.due_at < other.due_at

    def _open_objections(self, page: Page, order: Order) -> tuple[Refusal, ...]:
        """What stands against an open in the tables, beyond the policy."""
        found = []
        supply = page.supply(order.meter)
        if (fenced := fence_objection(order, supply)) is not None:
            found.append(self._refusal("fence", *fenced))
        if (stop := page.stop or rows.stop_switch(page.connection)).is_on:
            text = f"{stop.actor} stopped all opens: {stop.reason}"
            found.append(self._refusal("stop-switch", text, "the stop switch turned off"))
        if (debt := page.open_debt_of(order.meter)) is not None:
            text = f"a reconnection is owed to this customer since {debt.since:%Y-%m-%d %H:%M}Z ({debt.id})"
            found.append(self._refusal("owed", text, "the end of this debt, or somebody with the right to forgive it"))
        for doubtful in rows.unconfirmed_of(page.connection, order.meter):
            if doubtful.kind is not Kind.STATUS and (supply.at is None or supply.at < doubtful.changed_at):
                text = f"nobody knows what command {doubtful.id} ({doubtful.kind.value}) has done"
                found.append(self._refusal("unconfirmed", text, "a read-back of the supply: order `status` first"))
                break
        return tuple(found)

    def _planned(self, command: Command) -> tuple[Command, tuple[Refusal, ...]]:
        """The command with the moment at which the rules allow it; or what they say of the moment that was asked for."""
        refusals = self._examine(command, command.due_at)
        if not refusals or command.kind is not Kind.OPEN:
            return command, refusals
        later = self._gate.next_allowed(command.order, command.due_at)
        if later is None or later >= command.expires_at or self._examine(command, later):
            return command, refusals
        return replace(command, due_at=later), ()

    def _examine(self, command: Command, at: datetime) -> tuple[Refusal, ...]:
        now = self._circumstances()
        return self._gate.examine(
            command.order,
            now=at,
            clock_synchronised=now.clock_synchronised,
            audit_ok=now.audit_ok,
            store_ok=now.store_ok,
        )

    def _accepted(self, page: Page, new: Command, place: int, over: Refusal | None, waits_for_approval: bool) -> Answer:
        order = new.order
        if order.kind in CLOSES:
            debt = self.owe(
                page,
                replace(
                    self.new_debt(page, meter=order.meter, cause="order", reference=new.id),
                    since=new.due_at,
                    kind=order.kind,
                    expires_at=order.expires_at,
                ),
            )
            new = replace(new, obligation=debt.id)
            page.change_debt(replace(debt, tries=debt.tries + 1, command=new.id), "tried")
        page.request(new, place=place)
        if over is not None:
            note = {"rule": over.rule, "limit": over.text, "needed": over.needed, "policy": over.version}
            new = page.step(new.id, Event.WENT_OVER_LIMIT, actor=HEAD_END, note=note)
            return Answer(command=new, refusals=(over,))
        new = page.step(new.id, Event.PASSED, actor=HEAD_END, policy_version=self._gate.version)
        if not waits_for_approval:
            new = self.plan(page, new.id, approver="")
        return Answer(command=new)

    def _refusal(self, rule: str, text: str, needed: str) -> Refusal:
        return Refusal(rule=rule, version=self._gate.version, text=text, needed=needed)


def _is_for_later(command: Command, now: datetime) -> bool:
    return command.state in UNSENT and command.due_at > now + SOON


def fence_objection(order: Order, supply: rows.Supply) -> tuple[str, str] | None:
    """Why the balance proof is void, and what would be needed; None: it holds."""
    proof = order.proof
    if proof is None:
        return None  # the policy asks for one
    if proof.fence < supply.fence:
        return (
            f"the balance proof has the fence token {proof.fence}, and a payment has raised it to {supply.fence}",
            f"a balance made after that payment, with fence {supply.fence} or higher",
        )
    if supply.paid_at is not None and proof.as_of < supply.paid_at:
        return (
            f"the balance is as of {proof.as_of:%Y-%m-%d %H:%M:%S}Z, and the customer paid {supply.paid_at:%Y-%m-%d %H:%M:%S}Z",
            "a balance made after that payment",
        )
    return None


def refusals_of(command: Command, version: str) -> tuple[Refusal, ...]:
    """Out of a refused command's detail, what its order was told."""
    found = []
    number = 1
    while (rule := command.detail.get(f"refusal_{number}_rule")) is not None:
        found.append(
            Refusal(
                rule=rule,
                version=command.policy_version or version,
                text=command.detail.get(f"refusal_{number}_text", ""),
                needed=command.detail.get(f"refusal_{number}_needed", ""),
            )
        )
        number += 1
    return tuple(found)


def _worded(refusals: tuple[Refusal, ...]) -> dict[str, str]:
    detail = {}
    for number, one in enumerate(refusals, start=1):
        detail[f"refusal_{number}_rule"] = one.rule
        detail[f"refusal_{number}_text"] = one.text
        detail[f"refusal_{number}_needed"] = one.needed
    return detail
