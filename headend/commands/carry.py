"""One command on its way over the wire: the last look, the durable "sending", the order, and the looking back.

Once bytes have left, what follows is only looked at: silence is unknown, and nothing here ever sends an order twice.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from headend.clock import Clock
from headend.commands.agenda import Job
from headend.commands.gate import Gate
from headend.commands.intake import HEAD_END, Circumstances, fence_objection
from headend.commands.journal import Journal, Page
from headend.commands.machine import Event
from headend.commands.model import IN_FLIGHT, SWITCHES, UNSENT, Command, Kind, Refusal, State
from headend.commands.obligations import pause_s
from headend.commands.verification import LOOKS_S, Verdict, verdict
from headend.drivers.errors import DriverError, LineDown, StopOrder
from headend.drivers.relay import Ready, Sent, Switch, SwitchUnconfirmed, Witness
from headend.errors import StoreUnavailable
from headend.model import MeterRecord
from headend.store import commands as rows

__all__ = ["Carrier", "Lines", "Objection"]

LINE_PAUSE_S = 5.0  # before a line that broke is tried again
AGAIN_S = 60.0  # before an open is looked at again that could not go for a reason that passes
PAID_LOOKS_MAX = 3  # tries to see whether a supply that was paid for is on at all; then it is switched on unseen
STORE_PAUSE_S = (0.2, 5.0)  # first and longest between two tries to write down what has happened

_OWED = {"problem": "a reconnection is owed to this customer", "rule": "owed"}

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Lines(Protocol):
    """The meters and what leads to them."""

    def record(self, meter: str) -> MeterRecord: ...
    def switch(self, meter: str) -> Switch: ...
    def is_up(self, line: str) -> bool: ...


class Objection(Struct, frozen=True, kw_only=True):
    """Why a command may not leave. event: what happens to it; HELD_BACK: it may later, from `again_at` on."""

    event: Event
    note: dict[str, str]
    again_at: datetime | None = None


class Stopped(StopOrder):
    """objection: None when the command has gone another way meanwhile."""

    def __init__(self, objection: Objection | None) -> None:
        super().__init__("the command has changed meanwhile" if objection is None else objection.note["problem"])
        self.objection = objection


class Carrier:
    """may_go: whether the command's batch lets it go. circumstances: clock, audit log and store as they are now.

    gave_place: told when another may have the job's place on its line, though the job has not ended.
    """

    def __init__(
        self,
        journal: Journal,
        gate: Gate,
        lines: Lines,
        *,
        clock: Clock,
        circumstances: Callable[[], Circumstances],
        operator_of: Callable[[Command], bytes | str],
        may_go: Callable[[Command], bool],
        gave_place: Callable[[Job], None],
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._lines = lines
        self._clock = clock
        self._circumstances = circumstances
        self._operator_of = operator_of
        self._may_go = may_go
        self._gave_place = gave_place

    async def carry(self, job: Job) -> None:
        """From due to its end, or to the next try."""
        command = job.command
        if command.kind is Kind.STATUS:
            await self._ask(job)
            return
        if (objection := self.objection(job)) is not None:
            await self._hold_back(job, objection)
            return
        if (sent := await self._order(job)) is None:
            return
        if await self._write_sent(job, sent) in IN_FLIGHT:
            await self.look_back(job, sent)

    # -------------------------------------------------------------------------------------------- may it go

    def objection(self, job: Job) -> Objection | None:
        """The last look, and the same look earlier. Waits for nothing; None: it may leave now."""
        command, now = job.command, self._clock.now()
        if job.deadline.is_passed(self._clock):
            text = f"not sent before {command.expires_at:%Y-%m-%d %H:%M:%S}Z" + (f": {job.problem}" * bool(job.problem))
            return Objection(event=Event.DEADLINE_PASSED, note={"problem": text})
        if command.kind is not Kind.OPEN:
            return None
        order, meter = command.order, command.meter
        soon = now + timedelta(seconds=AGAIN_S)
        if (fenced := fence_objection(order, self._journal.supply(meter))) is not None:
            note = {"problem": fenced[0], "rule": "fence", "needed": fenced[1], "policy": self._gate.version}
            return Objection(event=Event.FENCED, note=note)
        if self._journal.is_owed(meter):
            return Objection(event=Event.SUPERSEDED, note=_OWED)
        if self._journal.is_forbidden(meter):
            note = {"problem": "a payment, or a close, is being written down for this meter"}
            return Objection(event=Event.HELD_BACK, note=note, again_at=now + timedelta(seconds=1))
        if self._journal.is_stopped:
            stop = self._journal.stop
            note = {"problem": f"all opens are stopped by {stop.actor}: {stop.reason}", "rule": "stop-switch"}
            return Objection(event=Event.HELD_BACK, note=note, again_at=soon)
        if not self._may_go(command):
            note = {"problem": "the first of its batch is not verified yet", "rule": "canary"}
            return Objection(event=Event.HELD_BACK, note=note, again_at=now + timedelta(seconds=LINE_PAUSE_S))
        if command.due_at > now:  # the wall clock was set back, or the rules' window is yet to come
            return Objection(event=Event.HELD_BACK, note={"problem": "it is not time yet"}, again_at=command.due_at)
        return self._by_rules(command, now)

    def _by_rules(self, command: Command, now: datetime) -> Objection | None:
        order, here = command.order, self._circumstances()

        def examine(at: datetime, as_it_is: Circumstances) -> tuple[Refusal, ...]:
            return self._gate.examine(
                order,
                now=at,
                clock_synchronised=as_it_is.clock_synchronised,
                audit_ok=as_it_is.audit_ok,
                store_ok=as_it_is.store_ok,
            )

        if not (refusals := examine(now, here)):
            return None
        first = refusals[0]
        note = {"problem": first.text, "rule": first.rule, "needed": first.needed, "policy": first.version}
        well = Circumstances(clock_synchronised=True, audit_ok=True, store_ok=True)
        if not examine(now, well):  # only our own troubles stand against it, and those pass
            return Objection(event=Event.HELD_BACK, note=note, again_at=now + timedelta(seconds=AGAIN_S))
        later = self._gate.next_allowed(order, now)
        if later is not None and now < later < command.expires_at and not examine(later, well):
            return Objection(event=Event.HELD_BACK, note=note, again_at=later)
        return Objection(event=Event.RULE_REFUSED, note=note)

    # -------------------------------------------------------------------------------------------- the order

    async def _order(self, job: Job) -> Sent | None:
        """None: nothing has left, and what that means is written down."""
        command = job.command

        async def on_sending(ready: Ready) -> None:
            if (objection := self.objection(job)) is not None:
                raise Stopped(objection)
            await self._commit(job, ready)

        def look() -> None:
            if (objection := self.objection(job)) is not None:
                raise Stopped(objection)

        job.is_ordering = True
        try:
            return await self._lines.switch(command.meter).order(
                self._lines.record(command.meter),
                command.kind,
                expires_at=command.expires_at,
                operator=self._operator_of(command),
                look=look,
                command_id=command.id,
                on_sending=on_sending,
                hurry=job.hurry,
            )
        except SwitchUnconfirmed as error:
            return error.sent
        except Stopped as stopped:
            if stopped.objection is not None:
                await self._hold_back(job, stopped.objection)
            else:
                self._later(job, str(stopped), LINE_PAUSE_S)
        except StopOrder as error:
            await self._hold_back(job, Objection(event=Event.DEADLINE_PASSED, note={"problem": str(error)}))
        except DriverError as error:
            await self._nothing_left(job, error)
        except StoreUnavailable as error:
            self._later(job, str(error), LINE_PAUSE_S)
        finally:
            job.is_ordering = False
        return None

    async def _commit(self, job: Job, ready: Ready) -> None:
        """Durable "sending". Raises Stopped, StoreUnavailable: then nothing may leave."""
        identity = job.command.id

        def commit(page: Page) -> bool:
            command = page.command(identity)
            if command.state not in UNSENT:
                return False
            if command.kind is Kind.OPEN:
                stopped = rows.stop_switch(page.connection).is_on
                if stopped or fence_objection(command.order, page.supply(command.meter)) is not None:
                    return False
                if page.open_debt_of(command.meter) is not None:
                    return False
                if (over := self._gate.admit(page.connection, command)) is not None:
                    note = {"rule": over.rule, "limit": over.text, "needed": over.needed, "policy": over.version}
                    page.step(identity, Event.WENT_OVER_LIMIT, actor=HEAD_END, note=note)
                    return False
            # Under this policy it was looked at last; it may have been accepted under another one.
            version = self._gate.version if command.kind is Kind.OPEN else None
            _commit_steps(page, command, _ready_note(ready), ready, policy_version=version)
            return True

        try:
            is_committed = await self._journal.write(commit, "recording what is about to be sent")
        except StoreUnavailable as error:
            if not job.is_close:
                raise
            # A supply is given back also while the disk is full: what was done is written down as soon as it can be.
            log.error("a close goes out before its record is durable", command=identity, problem=str(error))
            self._give_place(job)
            return
        if not is_committed:
            raise Stopped(None)

    async def _nothing_left(self, job: Job, error: DriverError, *, is_last: bool = False) -> None:
        """is_last: it is not tried again, unless it is the line that is down."""
        identity, problem = job.command.id, str(error)
        if not error.retryable or (is_last and not isinstance(error, LineDown)):

            def fail(page: Page) -> None:
                note = {"problem": problem, "kind_of_problem": error.kind}
                command = page.command(identity)
                if command.state is State.SENDING:
                    command = page.step(identity, Event.NOTHING_LEFT, actor=HEAD_END, note=note)
                if command.state is State.SCHEDULED:
                    command = page.step(identity, Event.CAME_DUE, actor=HEAD_END)
                if command.state is State.DUE:
                    page.step(identity, Event.GAVE_UP, actor=HEAD_END, note=note)

            await self.insist(fail, "recording that a command failed", job)
            return
        job.pauses = 0 if isinstance(error, LineDown) else job.pauses + 1
        wait_s = LINE_PAUSE_S if isinstance(error, LineDown) else pause_s(job.pauses)
        if job.command.state is State.SENDING:

            def back(page: Page) -> None:
                if (command := page.command(identity)).state is State.SENDING:
                    again_at = page.now + timedelta(seconds=wait_s)
                    event, note = _unless_owed(page, command, Event.NOTHING_LEFT, {"problem": problem})
                    page.step(identity, event, actor=HEAD_END, note=note, due_at=again_at)

            await self.insist(back, "recording that nothing was sent", job)
        self._later(job, problem, wait_s)

    async def _hold_back(self, job: Job, objection: Objection) -> None:
        """What the objection does to the command. A wait before "sending" is no step: it would fill the journal."""
        identity = job.command.id
        wait_s = AGAIN_S
        if objection.again_at is not None:
            wait_s = min(max(0.0, (objection.again_at - self._clock.now()).total_seconds()), AGAIN_S)
        if objection.event is Event.HELD_BACK and job.command.state is not State.SENDING:
            self._later(job, objection.note["problem"], wait_s)
            return

        def hold_back(page: Page) -> None:
            command = page.command(identity)
            if command.state not in UNSENT and command.state is not State.SENDING:
                return
            due_at = max(command.due_at, objection.again_at or command.due_at)
            event, note = objection.event, objection.note
            if event is Event.HELD_BACK:
                event, note = _unless_owed(page, command, event, note)
            page.step(identity, event, actor=HEAD_END, note=note, due_at=due_at)

        await self.insist(hold_back, "recording why a command was not sent", job)
        self._later(job, objection.note["problem"], wait_s)

    def _later(self, job: Job, problem: str, wait_s: float) -> None:
        job.problem = problem
        job.due = max(job.due, self._clock.monotonic() + wait_s)

    # -------------------------------------------------------------------------------------------- after the bytes

    async def _write_sent(self, job: Job, sent: Sent) -> State:
        """What the order's reply was, durable, however long that takes."""
        identity = job.command.id
        note = {
            "sent_at": sent.at.isoformat(timespec="milliseconds"),
            "wire_sent": sent.wire_sent,
            "wire_received": sent.wire_received,
            "silence": sent.silence,
            "refused": sent.refused,
            "look_to_wire_s": f"{sent.look_to_wire_s:.3f}",
        }
        note = {name: text for name, text in note.items() if text}

        def write(page: Page) -> State:
            command = page.command(identity)
            if command.state in UNSENT:  # a close that went out while nothing could be written
                command = _commit_steps(page, command, {"recorded": "after it was sent"}, None)
            if command.state is not State.SENDING:
                return command.state
            page.step(identity, Event.BYTES_LEFT, actor=HEAD_END, note=note, register=sent.register)
            if sent.refused:
                refused = {"problem": f"the meter refused: {sent.refused}"}
                if command.kind is Kind.OPEN:
                    page.doubt_supply(command)
                return page.step(identity, Event.METER_REFUSED, actor="meter", note=refused).state
            if sent.acknowledged:
                return page.step(identity, Event.METER_ACCEPTED, actor="meter").state
            return State.SENT

        return await self.insist(write, "recording what was sent", job)

    async def look_back(self, job: Job, sent: Sent | None) -> None:
        """Until the contact is as ordered or has had its time. sent: None for a command that was found in flight.

        When something more urgent waits for this meter, the looking ends: a payment is not kept waiting for an open's proof.
        """
        command = job.command
        before = None if sent is None else sent.before
        witnesses: list[Witness] = []
        began = self._clock.monotonic()
        # Of one that was answered the journal knows the reply already.
        is_unknown = sent is None and command.state is State.SENDING
        found = verdict(command.kind, sent, witnesses, before=before)
        for look_s in LOOKS_S:
            if not await self._wait(job, began + look_s):
                break
            if (witness := await self._witness(job)) is None:
                continue
            witnesses.append(witness)
            found = verdict(command.kind, sent, witnesses, before=before, settled=look_s >= LOOKS_S[-1])
            if found.state is State.VERIFIED:
                break
        if is_unknown:
            found = replace(found, evidence={"reply": "not known: found in flight", **found.evidence})
        await self.settle(command.id, found, witnesses[-1] if witnesses else None, job)

    async def settle(self, identity: str, found: Verdict, witness: Witness | None, job: Job | None = None) -> None:
        """Write down what became of a command in flight, or of one that was unconfirmed. job: as in `insist`."""

        def settle(page: Page) -> None:
            command = page.command(identity)
            if command.state not in IN_FLIGHT and command.state is not State.UNCONFIRMED:
                return
            if command.state is State.UNCONFIRMED and command.kind in SWITCHES and page.was_switched_since(command):
                return  # what is seen now may be the work of the newer one
            contact = "" if witness is None or witness.contact == "unknown" else witness.contact
            if witness is not None and command.kind is Kind.STATUS and _is_outdated(page, command, witness):
                contact = ""
            if found.state is State.UNCONFIRMED:
                if command.state is not State.UNCONFIRMED:
                    page.step(identity, Event.READ_BACK_EXHAUSTED, actor=HEAD_END, note=found.evidence)
                return
            is_verified = found.state is State.VERIFIED
            page.step(
                identity,
                Event.READ_BACK_MATCHED if is_verified else Event.READ_BACK_DIFFERED,
                actor=HEAD_END,
                note=found.evidence,
                contact=contact if command.kind not in (Kind.PROTECT, Kind.UNPROTECT) else "",
                waiting_for_customer=is_verified and found.waiting_for_customer and command.kind is Kind.PERMIT_CLOSE,
            )

        await self.insist(settle, "recording what was read back", job)

    async def _ask(self, job: Job) -> None:
        """A status command: nothing is switched, so nothing is looked at before."""
        command = job.command
        if (objection := self.objection(job)) is not None:
            await self._hold_back(job, objection)
            return
        switch, record, register = self._lines.switch(command.meter), self._lines.record(command.meter), None
        try:
            if command.obligation:
                # In the lane behind every close and before the reads; what is owed for needs no more than the contact.
                witness = await switch.look_back(record, kind=Kind.OPEN)
            else:
                witness = await switch.look_back(record)
                register = await switch.register(record)
        except DriverError as error:
            await self._nothing_left(job, error, is_last=bool(command.obligation) and job.pauses >= PAID_LOOKS_MAX - 1)
            return
        found = verdict(Kind.STATUS, None, [witness])

        def write(page: Page) -> None:
            now = page.command(command.id)
            if now.state in UNSENT:
                _commit_steps(page, now, {}, None)
                page.step(command.id, Event.BYTES_LEFT, actor=HEAD_END, register=register)

        await self.insist(write, "recording a status")
        await self.settle(command.id, found, witness)

    async def _witness(self, job: Job) -> Witness | None:
        """None: nothing was seen, or something more urgent came: behind a silent concentrator a look takes half a minute."""
        command = job.command
        switch, record = self._lines.switch(command.meter), self._lines.record(command.meter)
        looking = asyncio.ensure_future(switch.look_back(record, kind=command.kind))
        hurried = asyncio.ensure_future(job.hurry.wait())
        try:
            await asyncio.wait((looking, hurried), return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else None
        except DriverError as error:
            job.problem = str(error)
            return None
        finally:
            looking.cancel()
            hurried.cancel()
            await asyncio.gather(looking, hurried, return_exceptions=True)

    async def _wait(self, job: Job, until: float) -> bool:
        """False when something more urgent came."""
        wait_s = until - self._clock.monotonic()
        if job.hurry.is_set():
            return False
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await job.hurry.wait()
            except TimeoutError:
                return True
            return False
        return True

    async def insist(self, work: Callable[[Page], T], doing: str, job: Job | None = None) -> T:
        """Write what has happened, until the store takes it. job: whose place on its line others have as long as it does not."""
        wait_s, wait_s_max = STORE_PAUSE_S
        while True:
            try:
                written = await self._journal.write(work, doing)
            except StoreUnavailable as error:
                log.error("what has happened cannot be written down yet", doing=doing, problem=str(error))
                if job is not None:
                    self._give_place(job)
            else:
                if job is not None:
                    job.waits_for_store = False
                return written
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, wait_s_max)

    def _give_place(self, job: Job) -> None:
        """To other closes of its line, while what became of this one cannot be written."""
        if job.is_close and not job.waits_for_store:
            job.waits_for_store = True
            self._gave_place(job)


def _commit_steps(
    page: Page, command: Command, note: dict[str, str], ready: Ready | None, *, policy_version: str | None = None
) -> Command:
    if command.state is State.SCHEDULED:
        page.step(command.id, Event.CAME_DUE, actor=HEAD_END)
    register = None if ready is None else ready.register
    return page.step(
        command.id, Event.COMMITTED, actor=HEAD_END, note=note, register=register, policy_version=policy_version
    )


def _unless_owed(page: Page, command: Command, event: Event, note: dict[str, str]) -> tuple[Event, dict[str, str]]:
    """What befalls a command that comes back from "sending": a close that was ordered meanwhile takes the place of an open now."""
    if command.kind is not Kind.OPEN or page.open_debt_of(command.meter) is None:
        return event, note
    return Event.SUPERSEDED, {**_OWED, "before": note["problem"]}


def _is_outdated(page: Page, asked: Command, witness: Witness) -> bool:
    """Whether something has switched, or is switching, since this was seen: then it says nothing about the supply as it is."""
    supply = page.supply(asked.meter)
    if supply.at is not None and supply.at >= witness.at:
        return True
    return any(other.kind in SWITCHES and other.state in IN_FLIGHT for _, other in page.active_of(asked.meter))


def _ready_note(ready: Ready) -> dict[str, str]:
    note = {"wire": ready.wire, **ready.identity.evidence}
    if ready.before is not None:
        note["contact_before"] = ready.before.contact
    return note
