"""The desk: where people and billing come with orders, cancellations, payments, and the stop switch.

Nothing here touches a line. What it decides is durable when its methods return, and the executor hears of it at once.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from headend.clock import Clock
from headend.commands.events import stop_switch_event
from headend.commands.gate import Gate
from headend.commands.intake import HEAD_END, Answer, Circumstances, Intake
from headend.commands.journal import Journal, Page
from headend.commands.machine import Event
from headend.commands.model import CLOSES, IN_FLIGHT, TWO_PEOPLE, UNSENT, Command, Kind, Order, Refusal
from headend.commands.obligations import Obligation, Ramp
from headend.store import commands as rows
from headend.store import commands_debts as debts
from headend.store.commands import Step, StopSwitch
from headend.store.commands_lists import active_of_list

__all__ = ["Desk", "Payment", "PaymentTaken"]

ORDERS_PER_PAGE = 200  # of a list, in one transaction: the store serves others in between

T = TypeVar("T")


class Payment(Struct, frozen=True, kw_only=True):
    """Money that came in for one or several meters. reference: the payment system's own; the same one is the same payment.

    paid_at: the payment system's stamp; the 24 hours begin here. fence: billing's token of these meters after the payment.
    """

    meters: tuple[str, ...]
    reference: str
    paid_at: datetime
    amount_minor: int
    currency: str
    fence: int


class PaymentTaken(Struct, frozen=True, kw_only=True):
    """cancelled: ids of the opens that it took back. obligations: id of the debt that it made or joined, by meter.

    refusals: why it was not taken; then nothing happened. is_repeat: it was known, nothing happened again.
    """

    cancelled: tuple[str, ...] = ()
    obligations: dict[str, str] = {}
    refusals: tuple[Refusal, ...] = ()
    is_repeat: bool = False
    is_conflict: bool = False


class Desk:
    """new_id: of commands and debts. circumstances: clock, audit log and store as they are now. random_: of the ramp's jitter.

    Every method raises StoreUnavailable when nothing could be made durable; then nothing happened.
    """

    def __init__(
        self,
        journal: Journal,
        gate: Gate,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        circumstances: Callable[[], Circumstances],
        random_: random.Random,
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._clock = clock
        self._ramp = Ramp(random_)
        self._writing: set[asyncio.Task[Any]] = set()
        self.intake = Intake(gate, new_id=new_id, circumstances=circumstances)

    # -------------------------------------------------------------------------------------------- orders

    async def request(self, order: Order, caller: str) -> Answer:
        """One order. caller: who stands behind the token that it came with."""
        return (await self.request_all([order], caller))[0]

    async def request_all(self, orders: Sequence[Order], caller: str) -> list[Answer]:
        """A list of orders, each with its own answer. A list of more than one must be one batch and name no meter twice."""
        if refusal := self._wrong_list(orders, caller):
            return [Answer(command=None, refusals=(refusal,)) for _ in orders]
        waits: bool | None = None
        answers: list[Answer] = []
        for start in range(0, len(orders), ORDERS_PER_PAGE):
            part = orders[start : start + ORDERS_PER_PAGE]

            def take(page: Page, part: Sequence[Order] = part) -> list[Answer]:
                nonlocal waits
                if waits is None:
                    waits = self._gate.needs_approval([*orders, *_opens_added_to(page, orders)])
                # What can be no command takes no room under the limits: no command's end would ever give it back.
                counted = [order for order in part if self.intake.impossible(page, order) is None]
                limits = self._gate.over_limit(page.connection, counted)
                over = {order.meter: limit for order, limit in zip(counted, limits, strict=True)}
                return [
                    self.intake.take(
                        page,
                        order,
                        over=over.get(order.meter),
                        waits_for_approval=waits and order.kind in TWO_PEOPLE,
                    )
                    for order in part
                ]

            # No last look of an open passes while a close of its meter is being written.
            closing = [order.meter for order in part if order.kind in CLOSES]
            answers += await self._forbidding(closing, self._journal.write(take, "taking orders"))
        return answers

    async def _forbidding(self, meters: Sequence[str], writing: Coroutine[Any, Any, T]) -> T:
        async def write() -> T:
            try:
                return await writing
            finally:
                self._journal.allow(meters)

        self._journal.forbid(meters)
        return await self._to_its_end(write())

    def _wrong_list(self, orders: Sequence[Order], caller: str) -> Refusal | None:
        def refusal(rule: str, text: str, needed: str) -> Refusal:
            return Refusal(rule=rule, version=self._gate.version, text=text, needed=needed)

        if caller == HEAD_END or any(order.requester != caller for order in orders):
            asked = sorted({order.requester for order in orders} - {caller}) or [caller]
            text = f"{caller} asks in the name of {', '.join(asked[:3])}"
            return refusal("requester", text, "orders in one's own name")
        batches = {order.batch for order in orders}
        if len(orders) > 1 and (len(batches) > 1 or "" in batches):
            return refusal("batch", "the orders of the list name no batch, or several", "one name in `batch` of all")
        seen: set[str] = set()
        for order in orders:
            if order.meter in seen:
                return refusal("batch", f"the list names {order.meter} twice", "each meter once")
            seen.add(order.meter)
        return None

    async def cancel(self, identity: str, caller: str, reason: str) -> Command | Refusal:
        """While no byte has left. What it was to pay stays owed. Raises NoSuchCommand."""

        def cancel(page: Page) -> Command | Refusal:
            command = page.command(identity)
            if command.state not in UNSENT:
                text = f"command {identity} is {command.state.value}"
                return self._refusal("cancel", text, "a command of which no byte has left")
            return page.step(identity, Event.CANCELLED, actor=caller, note={"problem": reason})

        return await self._journal.write(cancel, "cancelling a command")

    # -------------------------------------------------------------------------------------------- stop switch

    @property
    def stop(self) -> StopSwitch:
        return self._journal.stop

    async def set_stop(self, is_on: bool, actor: str, reason: str) -> StopSwitch:
        """Effective on opens that wait already, from the moment of the call; closes go on."""
        journal = self._journal

        def switch(page: Page) -> StopSwitch:
            stop = StopSwitch(is_on=is_on, at=page.now, actor=actor, reason=reason)
            page.set_stop(stop)
            page.record("stop-switch", "all", actor, {"on": is_on, "reason": reason}, is_needed=not is_on)
            page.items.append(stop_switch_event(is_on, actor, reason, page.now))
            return stop

        if not is_on:
            return await journal.write(switch, "turning the stop switch off")

        async def stop() -> StopSwitch:
            try:
                # When this fails, the caller hears so; until somebody has turned it on, it is not on.
                return await journal.write(switch, "turning the stop switch on")
            finally:
                journal.end_stopping()

        journal.begin_stopping()
        return await self._to_its_end(stop())

    # -------------------------------------------------------------------------------------------- payments and debts

    async def payment(self, payment: Payment, by: str = "billing") -> PaymentTaken:
        """In one transaction: fences rise, opens that have not begun to be sent end, what is off is owed, and its close is queued.

        by: who told of it, for the record.
        """
        if refusal := self._wrong_payment(payment):
            return PaymentTaken(refusals=(refusal,))
        digest = hashlib.sha256(msgspec.json.encode(payment, order="deterministic")).hexdigest()
        writing = self._journal.write(lambda page: self._take_payment(page, payment, digest, by), "taking a payment")
        return await self._forbidding(payment.meters, writing)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Also where the caller goes away: what it has forbidden is forbidden until it is written, or has failed."""
        task = asyncio.ensure_future(work)
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it, or went away

    def _wrong_payment(self, payment: Payment) -> Refusal | None:
        unknown = [meter for meter in payment.meters if not self._gate.knows(meter)]
        if not payment.meters or unknown or len(set(payment.meters)) < len(payment.meters):
            text = f"meters {', '.join(unknown[:5])} are not served here" if unknown else "no meter, or one twice"
            return self._refusal("meter", text, "asset numbers of meters that are served here, each once")
        if not payment.reference:
            return self._refusal("reference", "the payment has no reference", "the payment system's own reference")
        if payment.paid_at.tzinfo is None:
            return self._refusal("times", "paid_at has no zone", "a time with its offset, such as 2026-11-22T08:00:00Z")
        return None

    def _take_payment(self, page: Page, payment: Payment, digest: str, by: str) -> PaymentTaken:
        if known := debts.payments_under(page.connection, payment.reference):
            if known[0].digest == digest:
                return PaymentTaken(
                    obligations={one.meter: one.obligation for one in known if one.obligation}, is_repeat=True
                )
            text = f"{payment.reference} was another payment, of {known[0].paid_at:%Y-%m-%d %H:%M:%S}Z"
            refusal = self._refusal("reference", text, "the same payment again, or a new reference")
            return PaymentTaken(refusals=(refusal,), is_repeat=True, is_conflict=True)
        cancelled: list[str] = []
        owed: dict[str, str] = {}
        for meter in payment.meters:
            supply = page.supply(meter)
            paid_at = payment.paid_at if supply.paid_at is None else max(supply.paid_at, payment.paid_at)
            page.set_supply(replace(supply, fence=max(supply.fence, payment.fence), paid_at=paid_at))
            data: dict[str, object] = {
                "meter": meter,
                "paid_at": payment.paid_at.isoformat(),
                "amount_minor": payment.amount_minor,
                "currency": payment.currency,
                "fence": payment.fence,
            }
            page.record("payment", payment.reference, by, data, is_needed=False)
            off, under_way = _is_off(page, supply), False
            for _, command in page.active_of(meter):
                if command.kind is Kind.OPEN and command.state in UNSENT:
                    note = {"problem": f"payment {payment.reference} came first"}
                    page.step(command.id, Event.FENCED, actor=by, note=note)
                    cancelled.append(command.id)
                under_way = under_way or (command.kind is Kind.OPEN and command.state in IN_FLIGHT)
            doubtful = rows.unconfirmed_of(page.connection, meter)
            off = off or any(
                one.kind is Kind.OPEN and (supply.at is None or supply.at < one.changed_at) for one in doubtful
            )
            # What nobody knows is not on: it is owed until somebody has looked.
            is_unknown = supply.contact == "unknown"
            if off or under_way or is_unknown or page.open_debt_of(meter) is not None:
                looks_first = is_unknown and not off and not under_way
                owed[meter] = self._owe_now(page, meter, payment, is_first=under_way, looks_first=looks_first).id
            debts.add_payment(page.connection, _stored(payment, meter, digest, page.now, owed.get(meter, "")))
        return PaymentTaken(cancelled=tuple(cancelled), obligations=owed)

    def _owe_now(self, page: Page, meter: str, payment: Payment, *, is_first: bool, looks_first: bool) -> Obligation:
        """is_first: an open is under way, and what it takes off the feeder comes back at once. looks_first: see `Intake.try_debt`."""
        debt = self.intake.new_debt(page, meter=meter, cause="payment", reference=payment.reference)
        debt = self.intake.owe(page, replace(debt, since=min(payment.paid_at, page.now)))
        if self.intake.is_being_paid(page, debt):
            return page.debt(debt.id)  # it needs no other turn
        wait_s = 0.0 if looks_first else self.turn_s(meter, is_first=is_first)
        self.intake.try_debt(page, debt, wait_s=wait_s, looks_first=looks_first)
        return page.debt(debt.id)

    def turn_s(self, meter: str, *, is_first: bool = False) -> float:
        """How long the next close of this meter's feeder waits for its turn; a look at a supply takes none."""
        return self._ramp.turn_s(
            self._gate.feeder(meter),
            self._clock.monotonic(),
            self._gate.spread(),
            is_first=is_first or self._gate.is_first(meter),
        )

    async def drop_opens(self, reason: str) -> int:
        """Takes back every open of which no byte has left; how many there were. For a head-end that may not switch any more."""
        waiting = await self._journal.read(lambda connection: rows.commands_in(connection, UNSENT), "looking for opens")
        opens = [one.id for one in waiting if one.kind is Kind.OPEN]
        for start in range(0, len(opens), ORDERS_PER_PAGE):
            some = opens[start : start + ORDERS_PER_PAGE]

            def drop(page: Page, some: Sequence[str] = some) -> None:
                for identity in some:
                    page.step(identity, Event.CANCELLED, actor=HEAD_END, note={"problem": reason})

            await self._journal.write(drop, "taking back opens")
        return len(opens)

    async def forgive(self, obligation: str, actor: str, reason: str) -> Obligation | Refusal:
        """A person says that the debt is none: the customer has moved out, the payment bounced. Raises NoSuchCommand."""

        def forgive(page: Page) -> Obligation | Refusal:
            debt = page.debt(obligation)
            if not debt.is_open:
                return self._refusal("obligation", f"it has ended: {debt.ended}", "an open obligation")
            for _, command in page.active_of(debt.meter):
                if command.obligation == debt.id and command.state in UNSENT:
                    page.step(command.id, Event.CANCELLED, actor=actor, note={"problem": reason})
            page.end_debt(replace(page.debt(obligation), problem=reason), "forgiven", actor=actor)
            return page.debt(obligation)

        return await self._journal.write(forgive, "forgiving an obligation")

    # -------------------------------------------------------------------------------------------- questions

    async def command(self, identity: str) -> tuple[Command, list[Step]] | None:
        """With its journal."""

        def look(connection: Connection) -> tuple[Command, list[Step]] | None:
            found = rows.command(connection, identity)
            return None if found is None else (found, rows.journal_of(connection, identity))

        return await self._journal.read(look, "looking up a command")

    def _refusal(self, rule: str, text: str, needed: str) -> Refusal:
        return Refusal(rule=rule, version=self._gate.version, text=text, needed=needed)


def _opens_added_to(page: Page, orders: Sequence[Order]) -> list[Order]:
    """Those under way that came under the same name before: what is added to a list makes it longer, and what is repeated does not."""
    opens = {(order.requester, order.idempotency_key) for order in orders if order.kind is Kind.OPEN}
    batch = orders[0].batch if orders else ""
    if not opens or not batch or page.list_under_way(batch) is None:
        return []
    listed = [command.order for command in active_of_list(page.connection, batch) if command.kind is Kind.OPEN]
    return [order for order in listed if (order.requester, order.idempotency_key) not in opens]


def _is_off(page: Page, supply: rows.Supply) -> bool:
    """Also where it may be yet: a meter that has taken an open and was seen closed may still wait with it, for the load to go down.

    Not every meter tells an ordered open from a permitted close: only what was permitted by order is no longer off.
    """
    if supply.contact in ("open", "unknown"):
        return supply.contact == "open"
    by = rows.command(page.connection, supply.by) if supply.by else None
    if supply.contact == "closed":
        return by is not None and by.kind is Kind.OPEN
    return by is None or by.kind is not Kind.PERMIT_CLOSE


def _stored(payment: Payment, meter: str, digest: str, now: datetime, obligation: str) -> debts.StoredPayment:
    return debts.StoredPayment(
        reference=payment.reference,
        meter=meter,
        digest=digest,
        paid_at=payment.paid_at,
        received_at=now,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        fence=payment.fence,
        obligation=obligation,
    )
