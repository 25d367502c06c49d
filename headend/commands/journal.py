"""The journal: every step of every command is one transaction of row, journal line, audit record and feed event.

Whatever somebody wants to change, they write a `Page`: a function that is given the connection of the transaction, asks the tables
as they are now, and takes steps. Either all of the page is durable, or nothing of it happened.

When the audit log fails, nothing that concerns an open is written, so it does not happen. Everything else goes on without its
record, and says so in the command's detail: a supply is given back whatever the log is like.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import structlog
from msgspec.structs import replace
from sqlalchemy import Connection

from headend.audit.record import AuditError, AuditRecord
from headend.clock import Clock
from headend.commands.events import alarm_event, command_event, obligation_event
from headend.commands.machine import Event, advance
from headend.commands.model import IN_FLIGHT, SWITCHES, CapturedRegister, Command, Kind, Order, State
from headend.commands.obligations import Obligation, pause_s
from headend.errors import HeadendError
from headend.model import Event as FeedEvent
from headend.store import commands as rows
from headend.store import commands_debts as debts
from headend.store import commands_lists as lists
from headend.store.commands import StopSwitch, Supply

__all__ = ["NEWER_MAX", "Audit", "Journal", "NoSuchCommand", "Page", "Transact"]

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)

log = structlog.get_logger(__name__)

# What a proven command says of the contact.
_PROVEN = {Kind.OPEN: "open", Kind.CLOSE: "closed", Kind.PERMIT_CLOSE: "permitted"}
_MAY_HAVE_MOVED = IN_FLIGHT | {State.VERIFIED, State.CONTRADICTED, State.UNCONFIRMED}
NEWER_MAX = 200  # commands of one meter that are looked through for a newer one
# Steps whose audit kind is not the state that they lead to.
_AUDITED = {
    Event.SUPERSEDED.value: "superseded",
    Event.RELEASED.value: "released",
    Event.DELETED.value: "deleted",
    "reminded": "waiting-for-customer",
    "power-seen": "read-back",
}
_DEBT_AUDITED = {
    "owed": "obligation-begun",
    "tried": "obligation-tried",
    "escalated": "obligation-escalated",
    "overdue": "obligation-overdue",
}


class Audit(Protocol):
    """The audit log, as `headend.audit` has it. problem: why not ok, in words."""

    @property
    def ok(self) -> bool: ...
    @property
    def problem(self) -> str: ...
    def append(self, connection: Connection, record: AuditRecord, now: datetime) -> int: ...


class Transact(Protocol):
    """`Writer.transact`."""

    def __call__(self, work: Callable[[Connection], tuple[T, Sequence[FeedEvent]]], doing: str, /) -> Awaitable[T]: ...


class NoSuchCommand(HeadendError):
    """There is no command, or debt, of this id."""


class Page:
    """One transaction in the making. now: wall time, the same for all of it."""

    def __init__(self, connection: Connection, audit: Audit, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.items: list[FeedEvent] = []
        self.commands: dict[str, Command] = {}
        self.obligations: dict[str, Obligation] = {}
        self.supplies: dict[str, Supply] = {}
        self.stop: StopSwitch | None = None
        self._audit = audit
        self._dirty: set[str] = set()
        self._new: dict[str, int | None] = {}  # place of commands that are not in the table yet
        self._dirty_debts: set[str] = set()
        self._lists: dict[str, Command | None] = {}
        self._lines: list[tuple[str, rows.Step]] = []

    def flush(self) -> None:
        """What was written so far is in the tables: before they are asked for anything but one thing by its id."""
        for identity in self._dirty_debts:
            debts.save_obligation(self.connection, self.obligations[identity])
        self._dirty_debts.clear()
        if not self._dirty:
            return
        # Places are given up before new commands take them.
        changed = [self.commands[identity] for identity in self._dirty if identity not in self._new]
        rows.save_commands(self.connection, changed)
        new = [(self.commands[identity], place) for identity, place in self._new.items()]
        rows.add_commands(self.connection, [(one, place if one.is_active else None) for one, place in new])
        rows.add_steps(self.connection, self._lines)
        self._dirty.clear()
        self._new.clear()
        self._lines.clear()

    def active_of(self, meter: str) -> list[tuple[int, Command]]:
        """Place and command of what is active at this meter, the lower place first."""
        self.flush()
        return rows.active_of(self.connection, meter)

    def by_key(self, requester: str, key: str) -> tuple[Command, str] | None:
        """The command that this caller made under this key, and the digest of its order."""
        if self._new:
            self.flush()
        return rows.by_key(self.connection, requester, key)

    def command(self, identity: str) -> Command:
        """As it stands now. Raises NoSuchCommand."""
        found = self.commands.get(identity) or rows.command(self.connection, identity)
        if found is None:
            raise NoSuchCommand(f"there is no command {identity!r}")
        return found

    def supply(self, meter: str) -> Supply:
        return self.supplies.get(meter) or rows.supply_of(self.connection, meter)

    def list_under_way(self, batch: str) -> Command | None:
        """One of the commands of the list that has this name now; None: all that ever had it have ended, and the name is free.

        What came in this very page is one list, whatever became of its first orders.
        """
        if batch not in self._lists:
            self.flush()
            self._lists[batch] = lists.under_way(self.connection, batch)
        return self._lists[batch]

    def was_switched_since(self, command: Command) -> bool:
        """Whether bytes of a later command may have moved this meter's contact: what is seen now says nothing about this one."""
        self.flush()
        for other in rows.commands_of(self.connection, meter=command.meter, limit=NEWER_MAX):
            if other.id == command.id or other.created_at < command.created_at:
                return False
            if other.kind in SWITCHES and other.attempts and other.state in _MAY_HAVE_MOVED:
                return True
        return True  # so many are newer that nobody can say

    # -------------------------------------------------------------------------------------------- steps

    def request(self, new: Command, *, place: int | None) -> Command:
        """The first step of a command. place: see the table; None: it ends in this very transaction."""
        self._new[new.id] = place
        if (name := new.order.batch) and self._lists.get(name) is None:
            self._lists[name] = new
        self._took_step(new, "requested", new.order.requester)
        return new

    def step(
        self,
        identity: str,
        event: Event,
        *,
        actor: str,
        note: Mapping[str, str] | None = None,
        due_at: datetime | None = None,
        policy_version: str | None = None,
        approver: str | None = None,
        register: CapturedRegister | None = None,
        waiting_for_customer: bool = False,
        contact: str = "",
    ) -> Command:
        """The command takes a step of the machine. Raises NotPossible, NoSuchCommand.

        note: joins the command's detail. contact: what was read back, where the step rests on that.
        """
        before = self.command(identity)
        after = replace(
            before,
            state=advance(before.state, event),
            changed_at=self.now,
            steps=before.steps + 1,
            detail={**before.detail, **(note or {})},
            due_at=due_at or before.due_at,
            policy_version=before.policy_version if policy_version is None else policy_version,
            approver=before.approver if approver is None else approver,
            attempts=before.attempts + (event is Event.COMMITTED),
            register=register or before.register,
            waiting_for_customer=waiting_for_customer,
        )
        after = self._took_step(after, event.value, actor, note)
        if after.state is State.VERIFIED:
            # Some meters show what was ordered open in the bits of what may be closed; nobody has permitted that.
            contact = "open" if after.kind is Kind.OPEN else contact or _PROVEN.get(after.kind, "")
        if contact:
            self._contact_proven(after, contact)
        if after.obligation and before.is_active and not after.is_active:
            self._try_ended(after)
        return after

    def remark(self, identity: str, word: str, *, actor: str, note: Mapping[str, str], is_waiting: bool) -> Command:
        """A line in the journal that is no step of the machine: the customer was reminded, or has pressed the button."""
        before = self.command(identity)
        after = replace(
            before,
            changed_at=self.now,
            steps=before.steps + 1,
            detail={**before.detail, **note},
            waiting_for_customer=is_waiting,
        )
        return self._took_step(after, word, actor, note)

    def _took_step(self, after: Command, word: str, actor: str, note: Mapping[str, str] | None = None) -> Command:
        data: dict[str, object] = {
            "step": after.steps,
            "event": word,
            "state": after.state.value,
            "kind": after.kind.value,
            "meter": after.meter,
            **(note or {}),
        }
        if after.steps == 1:
            data |= order_data(after.order)
        problem = self.record(
            _AUDITED.get(word, after.state.value), after.id, actor, data, is_needed=after.kind is Kind.OPEN
        )
        if problem:
            after = replace(after, detail={**after.detail, "audit": f"not recorded: {problem}"})
        self._dirty.add(after.id)
        line = rows.Step(
            number=after.steps, at=self.now, event=word, state=after.state, actor=actor, detail=dict(note or {})
        )
        self._lines.append((after.id, line))
        self.items.append(command_event(after))
        self.commands[after.id] = after
        return after

    def record(self, kind: str, subject: str, actor: str, data: dict[str, object], *, is_needed: bool) -> str:
        """An audit record. Gives "" or, where it is not needed, why there is none; where it is, raises what the log raises."""
        record = AuditRecord(kind=kind, subject=subject, actor=actor, data=data)
        if is_needed:
            self._audit.append(self.connection, record, self.now)
            return ""
        try:
            self._audit.append(self.connection, record, self.now)
        except AuditError as error:  # what it cannot write as it is; nothing of it is in the transaction
            log.error("audit record missing", kind=kind, subject=subject, problem=str(error))
            return str(error)
        return ""

    # -------------------------------------------------------------------------------------------- supplies and debts

    def set_supply(self, supply: Supply) -> None:
        rows.set_supply(self.connection, supply)
        self.supplies[supply.meter] = supply

    def doubt_supply(self, by: Command) -> None:
        """What was known of a supply that was on is not known any more: something was sent, and nobody has looked since."""
        supply = self.supply(by.meter)
        if supply.contact in ("closed", "permitted"):
            self.set_supply(replace(supply, contact="unknown", at=self.now, by=by.id))

    def set_stop(self, stop: StopSwitch) -> None:
        rows.set_stop_switch(self.connection, stop)
        self.stop = stop

    def owe(self, new: Obligation) -> None:
        debts.add_obligation(self.connection, new)
        self._debt_changed(new, "owed", tell=True)

    def debt(self, identity: str) -> Obligation:
        """Raises NoSuchCommand."""
        found = self.obligations.get(identity) or debts.obligation(self.connection, identity)
        if found is None:
            raise NoSuchCommand(f"there is no obligation {identity!r}")
        return found

    def open_debt_of(self, meter: str) -> Obligation | None:
        for changed in self.obligations.values():
            if changed.meter == meter and changed.is_open:
                return changed
        found = debts.open_obligation_of(self.connection, meter)
        return None if found is None or found.id in self.obligations else found

    def change_debt(self, changed: Obligation, word: str, *, actor: str = "head-end", tell: bool = False) -> None:
        """tell: in the feed too."""
        self._dirty_debts.add(changed.id)
        self._debt_changed(changed, word, actor=actor, tell=tell)

    def end_debt(self, debt: Obligation, how: str, *, actor: str = "head-end") -> None:
        self.change_debt(replace(debt, ended=how, ended_at=self.now), how, actor=actor, tell=True)

    def alarm(self, meter: str, alarm: str, *, is_raised: bool, detail: dict[str, str]) -> None:
        self.items.append(alarm_event(meter, alarm, is_raised=is_raised, detail=detail, now=self.now))
        data: dict[str, object] = {"alarm": alarm, "raised": is_raised, **detail}
        self.record("alarm", meter, "head-end", data, is_needed=False)

    def _debt_changed(self, changed: Obligation, word: str, *, actor: str = "head-end", tell: bool) -> None:
        self.obligations[changed.id] = changed
        if not tell:
            return
        data: dict[str, object] = {
            "event": word,
            "meter": changed.meter,
            "cause": changed.cause,
            "reference": changed.reference,
            "tries": changed.tries,
            "stage": changed.stage,
        }
        self.record(_DEBT_AUDITED.get(word, "obligation-met"), changed.id, actor, data, is_needed=False)
        self.items.append(obligation_event(changed, self.now))

    def _contact_proven(self, by: Command, contact: str) -> None:
        supply = self.supply(by.meter)
        # Who only looks cannot tell an ordered open from a permitted close: what was off is off until somebody has closed it.
        known = "open" if (by.kind, contact, supply.contact) == (Kind.STATUS, "permitted", "open") else contact
        self.set_supply(replace(supply, contact=known, at=self.now, by=by.id))
        debt = self.open_debt_of(by.meter)
        # What was looked at before the debt was known proves nothing about it, unless the supply was given back by this order.
        # A stuck contact looks "permitted" after a direct close, too, and at some meters an open one does: only where permission
        # was ordered and proven it pays.
        is_permitted = (
            contact == "permitted"
            and by.kind is Kind.PERMIT_CLOSE
            and by.state is State.VERIFIED
            and debt is not None
            and debt.kind is Kind.PERMIT_CLOSE
        )
        is_supplied = contact == "closed" or is_permitted
        if debt is not None and is_supplied and (by.obligation or by.created_at >= debt.opened_at):
            is_its_own = by.obligation == debt.id and by.kind is not Kind.STATUS
            self.end_debt(debt, "permitted" if contact == "permitted" else "verified" if is_its_own else "already-on")

    def _try_ended(self, command: Command) -> None:
        """A command that was to pay a debt has ended, or nobody knows how it ended: when to try again."""
        debt = self.open_debt_of(command.meter)
        if debt is None or debt.id != command.obligation:
            return
        problem = command.detail.get("problem") or f"the last try ended {command.state.value}"
        again = self.now + timedelta(seconds=pause_s(debt.tries))
        if command.kind is Kind.STATUS:  # nobody has tried to switch it on yet
            problem, again = command.detail.get("because") or problem, self.now
        self.change_debt(replace(debt, due_at=again, problem=problem), "try-ended")


def order_data(order: Order) -> dict[str, object]:
    """What the audit log keeps of an order: all that a decision rests on."""
    data: dict[str, object] = {
        "reason": order.reason,
        "requester": order.requester,
        "idempotency_key": order.idempotency_key,
        "not_before": None if order.not_before is None else order.not_before.isoformat(),
        "expires_at": order.expires_at.isoformat(),
        "batch": order.batch,
        "notices": [
            {"step": one.step, "delivered_at": one.delivered_at.isoformat(), "reference": one.reference}
            for one in order.notices
        ],
    }
    if (proof := order.proof) is not None:
        data |= {
            "account": proof.account,
            "balance_minor": proof.balance_minor,
            "currency": proof.currency,
            "balance_as_of": proof.as_of.isoformat(),
            "fence": proof.fence,
        }
    return data


class Journal:
    """Writes pages, and remembers what the last look must know without waiting: fences, contacts, debts, the stop switch.

    What it remembers is never laxer than the tables: whoever is about to write something that forbids an open says so first
    (`forbidding`, `stopping`), so that no last look passes while that is being committed.
    """

    def __init__(self, transact: Transact, audit: Audit, *, clock: Clock) -> None:
        self._transact = transact
        self.audit = audit
        self._clock = clock
        self.supplies: dict[str, Supply] = {}
        self.stop = StopSwitch()
        self._owed: set[str] = set()
        self._forbidden: dict[str, int] = {}
        self._stopping = 0
        self._listeners: list[Callable[[Page], None]] = []
        self._writing: set[asyncio.Task[object]] = set()

    def listen(self, listener: Callable[[Page], None]) -> None:
        """listener: called on the loop with every page that has become durable."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """What the tables have. Before anything else is asked."""

        def work(connection: Connection) -> tuple[dict[str, Supply], StopSwitch, set[str]]:
            owed = {debt.meter for debt in debts.open_obligations(connection)}
            return rows.supplies(connection), rows.stop_switch(connection), owed

        self.supplies, self.stop, self._owed = await self.read(work, "loading fences, the stop switch and debts")

    async def write(self, work: Callable[[Page], T], doing: str) -> T:
        """All of the page is durable when this returns, and the listeners know. A cancelled caller does not stop it.

        Raises what `work` raises, and StoreUnavailable: then nothing of it happened.
        """
        task: asyncio.Task[T] = asyncio.ensure_future(self._write(work, doing))
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    async def read(self, work: Callable[[Connection], T], doing: str) -> T:
        """Ask the tables, behind everything that is being written."""
        return await self._transact(lambda connection: (work(connection), ()), doing)

    async def settle(self) -> None:
        """Until every page that was begun is durable or has failed: before the store is closed."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    # -------------------------------------------------------------------------------------------- what the last look asks

    def supply(self, meter: str) -> Supply:
        return self.supplies.get(meter) or Supply(meter=meter)

    @property
    def is_stopped(self) -> bool:
        return self.stop.is_on or self._stopping > 0

    def is_owed(self, meter: str) -> bool:
        """Whether a reconnection is owed to this customer."""
        return meter in self._owed

    def is_forbidden(self, meter: str) -> bool:
        """Whether something that forbids an open of this meter is being written right now."""
        return self._forbidden.get(meter, 0) > 0

    def forbid(self, meters: Sequence[str]) -> None:
        """Until `allow`, no last look of an open of these meters passes."""
        for meter in meters:
            self._forbidden[meter] = self._forbidden.get(meter, 0) + 1

    def allow(self, meters: Sequence[str]) -> None:
        for meter in meters:
            if (left := self._forbidden.get(meter, 0) - 1) > 0:
                self._forbidden[meter] = left
            else:
                self._forbidden.pop(meter, None)

    def begin_stopping(self) -> None:
        self._stopping += 1

    def end_stopping(self) -> None:
        self._stopping -= 1

    # -------------------------------------------------------------------------------------------- inside

    async def _write(self, work: Callable[[Page], T], doing: str) -> T:
        def in_transaction(connection: Connection) -> tuple[tuple[T, Page], Sequence[FeedEvent]]:
            page = Page(connection, self.audit, self._clock.now())
            result = work(page)
            page.flush()
            return (result, page), page.items

        result, page = await self._transact(in_transaction, doing)
        self.supplies.update(page.supplies)
        if page.stop is not None:
            self.stop = page.stop
        for debt in sorted(
            page.obligations.values(), key=lambda debt: debt.is_open
        ):  # of two of a meter the open one counts
            (self._owed.add if debt.is_open else self._owed.discard)(debt.meter)
        for listener in self._listeners:
            listener(page)
        return result

    def _written(self, task: asyncio.Task[object]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it, or went away
