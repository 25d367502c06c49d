"""Looks after accounts one by one: gathers the facts, lets the engine decide, makes it durable, and only then asks the switch.

Nothing is asked of anybody inside a transaction, and nothing leaves before it is durable. A crash between the two is made good by the
next look: an order that may not have arrived is asked again under its own key with the same content, a credit is told again under
its own reference. An order carries the fence that the account had in the transaction that decided it; a payment raises the fence
at the switch before it is booked, so an order that a payment overtakes is void there, wherever it happens to be.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace
from sqlalchemy import Connection, select

from headend.prepayment.accounts.events import tell
from headend.prepayment.books.fences import fence_of, next_fence
from headend.prepayment.books.payments import of_account
from headend.prepayment.days import epoch_ms
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.model import Account
from headend.prepayment.money import shown
from headend.prepayment.notices.notices import Draft, Letter, Still, post, withdraw
from headend.prepayment.notices.plan import WARNINGS, NoticePlan
from headend.prepayment.notices.texts import Figure, Money, NoticeTexts
from headend.prepayment.ports import OpenProof, OrderState, ProvenNotice, Supply, Switchboard
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.supply_tables import episodes
from headend.prepayment.supply.engine import (
    MAY_BE_OFF,
    Decision,
    Do,
    Event,
    Facts,
    State,
    advance,
    decide,
    obstacles,
)
from headend.prepayment.supply.facts import Outlook, SupplyFacts
from headend.prepayment.supply.store import (
    Content,
    Order,
    Row,
    Telling,
    add_order,
    load,
    meters_to_tell,
    note_order,
    order_prefix,
    orders_of,
    save,
    touch,
    void_orders,
)
from headend.prepayment.trouble.faults import is_own_fault
from headend.prepayment.trouble.flags import clear_flag, raise_flag
from headend.prepayment.trouble.kinds import OF_EPISODE

__all__ = ["SupplyDesk"]

FAR = timedelta(days=3)  # no look is planned further ahead: the clock was set back
AWAY = timedelta(minutes=1)  # until the switch is asked again, or an account that could not be looked at
_HOUR = timedelta(hours=1)
_QUARTER = timedelta(minutes=15)
_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)
_FINENESS = ((_HOUR, _HOUR), (timedelta(minutes=10), _QUARTER), (_MINUTE, _MINUTE), (timedelta(0), _SECOND))
_STANDS = {"low": State.LOW, "used-up": State.USED_UP, "last-warning": State.WARNED, "disconnected": State.DISCONNECTED}
_log = structlog.get_logger(__name__)


class SupplyDesk:
    """switch: the public command interface. outlook: how long balances last, and how fresh they are."""

    def __init__(
        self,
        database: Database,
        switch: Switchboard,
        *,
        plan: NoticePlan,
        texts: NoticeTexts,
        outlook: Outlook,
    ) -> None:
        self._database = database
        self._switch = switch
        self._plan = plan
        self._texts = texts
        self._facts = SupplyFacts(plan, outlook)

    # -------------------------------------------------------------------------------------------- what runs

    def tick(self, now: datetime, *, limit: int = 200) -> int:
        """Looks at the accounts that are due, and at the next stretch of all of them; gives how many looks there were.

        One that cannot be looked at is put off, and holds up no other; in the end the first of their problems is raised.
        Raises StoreError at once, but for a value of one account's that cannot be stored.
        """
        with self._database.reading("looking for accounts that are due") as connection:
            at = episodes.c.look_at
            due: list[str] = []
            # Two questions, each answered by a stretch of the index: most accounts have no time, and stand before all others in it.
            for when in (at <= epoch_ms(now), at > epoch_ms(now + FAR)):
                statement = select(episodes.c.account).where(when).order_by(at).limit(limit - len(due))
                due += connection.execute(statement).scalars()
        problems = self._look_at(due, now)
        # Behind them, since nothing that the round stumbles over may hold up supplies that come back.
        with self._database.reading("looking for accounts that seem to be due") as connection:
            others = [one for one in self._facts.seem_due(connection, now) if one not in due]
        problems += self._look_at(others, now)
        if problems:
            raise problems[0]
        return len(due) + len(others)

    def _look_at(self, some: Sequence[str], now: datetime) -> list[Exception]:
        """What was wrong with those that were put off."""
        problems = []
        for account in some:
            try:
                self.look(account, now)
            except Exception as problem:
                # Whatever it is: among those behind it are supplies that come back.
                if not is_own_fault(problem):
                    raise
                _log.error("an account could not be looked at", account=account, exc_info=problem)
                self._put_off(account, now)
                problems.append(problem)
        return problems

    def look(self, account: str, now: datetime) -> Decision:
        """One account, one step at most. Raises UnknownAccount, StoreUnavailable."""
        supply = self._ask(account, now)
        with self._database.writing("deciding about an account's supply") as connection:
            row, facts, found = self._facts.of(connection, account, now, supply)
            decision = decide(self._plan, row.episode, facts)
            self._write(connection, row, facts, decision, found)
        if decision.do is Do.TELL:
            self._tell(account, now)
        elif decision.event is Event.ORDERED:
            self._send_orders(account, now)
        return decision

    def still(self, connection: Connection, letter: Letter, now: datetime) -> Still:
        """Whether a message of an episode has its reason yet: for the mailroom, in the transaction that claims it."""
        stands = _STANDS.get(letter.kind)
        if stands is None:
            return Still.SEND
        row, facts, _ = self._facts.of(connection, letter.account, now, "unknown")
        if row.episode.number != letter.episode or row.episode.state is not stands:
            return Still.DROP
        newest = facts.notices.get(letter.kind)
        if newest is not None and newest.attempt != letter.attempt:
            return Still.DROP
        if letter.kind == "low":
            if decide(self._plan, row.episode, facts).event is Event.PUT_RIGHT:
                return Still.DROP
        elif not facts.owes:
            return Still.DROP
        late = letter.deadline is not None and now >= letter.deadline
        if late:
            return Still.DROP  # its text would name a moment that has passed
        return Still.WAIT if facts.is_paying else Still.SEND

    def why_not(self, account: str, now: datetime) -> list[str]:
        """What stands against disconnecting the account at this moment, in words; for operators."""
        with self._database.reading("looking at an account") as connection:
            row, facts, _ = self._facts.of(connection, account, now, "unknown")
            return obstacles(self._plan, row.episode, facts)

    def counted_minor(self, connection: Connection, account: str, now: datetime) -> int:
        """What counts against the account's balance beyond the books. Raises UnknownAccount."""
        return self._facts.counted_minor(connection, account, now)

    def reversed(self, connection: Connection, account: str, now: datetime, figures: Mapping[str, Figure]) -> None:
        """A payment was taken back, in the transaction that booked it. figures: amount, channel, receipt, reason."""
        row, facts, found = self._facts.of(connection, account, now, "unknown")
        episode, rule = row.episode, self._plan.after_reversal
        counts = (
            rule == "last-warning"
            and facts.owes
            and self._facts.still_proven(connection, account, episode.number - 1, facts)
        )
        balance = Money(facts.balance_minor, found.currency)
        draft = Draft(
            id=f"{account}/reversed/{figures['channel']}/{figures['receipt']}",
            account=account,
            kind="reversed",
            figures={**figures, "balance": balance, "follows": rule if counts else "usual-notices"},
        )
        post(connection, draft, now, plan=self._plan, texts=self._texts)
        if counts and episode.state is State.WELL:
            changed = replace(advance(episode, Event.REVERSED, now), carries=episode.number - 1)
            row = replace(row, episode=changed, orders=0)
            tell(connection, "supply-episode", account, now, {"state": changed.state.value, "because": "reversed"})
        save(connection, replace(row, look_at=now))

    def _put_off(self, account: str, now: datetime) -> None:
        with self._database.writing("putting an account off") as connection:
            if touch(connection, account, now + AWAY):
                return
            # It has no episode yet: the round would find it again at once.
            save(connection, replace(load(connection, account, now), look_at=now + AWAY))

    # -------------------------------------------------------------------------------------------- deciding

    def _write(self, connection: Connection, row: Row, facts: Facts, decision: Decision, account: Account) -> None:
        before, now = row, facts.now
        if decision.flag:
            raise_flag(connection, account.id, decision.flag, now, decision.reason)
        if row.episode.state is State.PAID and facts.supply == "off" and row.episode.off_at is None:
            row = replace(row, episode=replace(row.episode, off_at=now))
        if decision.kind:
            self._post(connection, row, facts, decision.kind, account)
        if decision.do is Do.ADVANCE:
            assert decision.event is not None
            row = self._advance(connection, row, facts, decision, account)
        elif decision.do is Do.TELL and row.telling is None:
            row = replace(row, telling=self._telling(connection, row, facts, account))
        # What was decided may open the way for the next step, in a look of its own.
        look_at = decision.look_at if decision.do is Do.NOTHING else now
        row = replace(row, look_at=look_at)
        if row != before or decision.do is not Do.NOTHING:
            save(connection, row)

    def _advance(self, connection: Connection, row: Row, facts: Facts, decision: Decision, account: Account) -> Row:
        assert decision.event is not None
        before, now, event = row.episode, facts.now, decision.event
        episode = advance(before, event, now)
        if decision.retry_at is not None:
            episode = replace(episode, retry_at=decision.retry_at)
        if event is Event.ORDERED:
            row = replace(row, orders=row.orders + 1, telling=None, is_told=False)
            self._order(connection, row, facts, account)
        if event is Event.PUT_RIGHT and before.state in (State.ORDERED, State.DISCONNECTED):
            void_orders(connection, orders_of(connection, account.id, before.number, row.orders), now)
        if event in (Event.PUT_RIGHT, Event.STALE, Event.CAME_BACK):
            withdraw(connection, account.id, before.number, f"{event.value} came first")
            clear_flag(connection, account.id, *OF_EPISODE)
        if episode.state is State.WELL:
            row = replace(row, orders=0, telling=None, is_told=False)
        data: dict[str, object] = {
            "episode": before.number,
            "state": episode.state.value,
            "because": event.value,
            "balance_minor": facts.balance_minor,
            "currency": account.currency,
        }
        if event is Event.CAME_BACK and before.off_at is not None:
            data["off_s"] = int((now - before.off_at).total_seconds())
            data["back_after_s"] = int(self._took(connection, account.id, before.since, now).total_seconds())
        tell(connection, "supply-episode", account.id, now, data)
        return replace(row, episode=episode)

    def _order(self, connection: Connection, row: Row, facts: Facts, account: Account) -> None:
        """Of every meter that measures the account now."""
        now, episode = facts.now, row.episode
        proofs = []
        for kind, step in zip(WARNINGS, self._plan.steps, strict=True):
            notice = facts.notices[kind]
            assert notice.proven_at is not None
            proofs.append(
                ProvenNotice(
                    step=step.name,
                    sent_at=notice.sent_at or notice.proven_at,
                    delivered_at=notice.proven_at,
                    channel=notice.channel,
                    reference=notice.reference,
                )
            )
        proof = OpenProof(
            account=account.id,
            balance_minor=facts.balance_minor,
            currency=account.currency,
            as_of=now,
            fence=fence_of(connection, account.id),
        )
        owed = f"{shown(-facts.balance_minor, account.currency)} {account.currency}"
        content = Content(
            reason=f"prepaid balance used up, {owed} owed; warned three times",
            proof=proof,
            notices=tuple(proofs),
            expires_at=now + self._plan.order_valid,
        )
        for meter in self._facts.meters(connection, account.id, now):
            order = Order(
                key=order_prefix(account.id, episode.number, row.orders) + meter,
                account=account.id,
                meter=meter,
                episode=episode.number,
                command="",
                state="",
                is_final=False,
                content=content,
            )
            add_order(connection, order, now)

    def _telling(self, connection: Connection, row: Row, facts: Facts, account: Account) -> Telling:
        paid = of_account(connection, account.id)
        last = paid[-1] if paid else None
        return Telling(
            reference=f"prepaid:{account.id}:{row.episode.number}:{row.orders}",
            paid_at=facts.now if last is None else min(last.paid_at, facts.now),
            amount_minor=max(1, facts.balance_minor) if last is None else last.amount_minor,
            currency=account.currency,
            fence=next_fence(connection),
            since=facts.now,
        )

    # -------------------------------------------------------------------------------------------- messages

    def _post(self, connection: Connection, row: Row, facts: Facts, kind: str, account: Account) -> None:
        episode, now = row.episode, facts.now
        before = facts.notices.get(kind)
        own = before is not None and before.id.startswith(f"{account.id}/{episode.number}/")
        attempt = before.attempt + 1 if before is not None and own else 1
        deadline = self._deadline(kind, facts)
        balance, owed = (Money(one, account.currency) for one in (facts.balance_minor, max(0, -facts.balance_minor)))
        figures: dict[str, Figure] = {"balance": balance, "owed": owed, "day": now.astimezone(self._plan.zone).date()}
        figures |= {"days": facts.days_left, "pay_by": deadline, "deadline": deadline, "at": now}
        if kind == "restored":
            figures["took"] = self._took(connection, account.id, episode.since, now)
        draft = Draft(
            id=f"{account.id}/{episode.number}/{kind}/{attempt}",
            account=account.id,
            kind=kind,
            figures=figures,
            episode=episode.number,
            attempt=attempt,
            deadline=deadline,
        )
        post(connection, draft, now, plan=self._plan, texts=self._texts)

    def _deadline(self, kind: str, facts: Facts) -> datetime | None:
        """What the text tells the customer; nothing is ordered before."""
        if kind == "last-warning":
            before = self._plan.last_warning.before
            return _rounded_up(facts.now + before, min(_QUARTER, _fineness(before)))
        if kind != "used-up":
            return None
        first = facts.notices.get("low")
        granted = facts.now + self._plan.pay_within
        if first is not None and first.proven_at is not None:
            granted = max(granted, first.proven_at + self._plan.low.before)
        return _rounded_up(granted, _fineness(self._plan.pay_within))

    @staticmethod
    def _took(connection: Connection, account: str, paid_since: datetime, now: datetime) -> timedelta:
        """From the payment, as its channel dates it, to the supply."""
        paid = [one.paid_at for one in of_account(connection, account) if one.paid_at <= now]
        return now - min(paid_since, max(paid, default=paid_since))

    # -------------------------------------------------------------------------------------------- the switch

    def _ask(self, account: str, now: datetime) -> Supply:
        """What has become of orders and of the supply; nothing is decided on it here."""
        with self._database.reading("looking at an account's orders") as connection:
            row = load(connection, account, now)
            if row.episode.state not in MAY_BE_OFF:
                return "unknown"
            asked = orders_of(connection, account, row.episode.number, row.orders)
            # A meter that was exchanged stays as it is for ever; one that came to somebody else says nothing of this account.
            meters = self._facts.meters(connection, account, now) or self._to_tell(connection, account, asked, now)
            telling = row.telling is not None and not row.is_told
        try:
            if telling:
                self._tell(account, now)
            if row.episode.state is State.ORDERED:
                self._send_orders(account, now)
            for order in asked:
                if order.command and not order.is_final:
                    self._note(order, self._switch.state(order.command), now)
            supplies: set[Supply] = {self._switch.supply(meter) for meter in meters}
        except SwitchboardUnavailable as error:
            _log.warning("the command interface does not answer", account=account, problem=str(error))
            return "unknown"
        # Where no meter is left to the account, nothing of it is off.
        return "off" if "off" in supplies else "unknown" if "unknown" in supplies else "on"

    def _send_orders(self, account: str, now: datetime) -> None:
        """Those that are not known to have arrived; none when the customer has paid, or is paying, since they were decided.

        One that arrived before we died is answered with what became of it, however late it is asked again.
        """
        with self._database.reading("looking at an account's orders") as connection:
            row, facts, _ = self._facts.of(connection, account, now, "unknown")
            asked = orders_of(connection, account, row.episode.number, row.orders)
            meters = self._facts.meters(connection, account, now)
        if row.episode.state is not State.ORDERED or not facts.owes or facts.is_paying:
            return
        for order in asked:
            if order.command or order.is_final:
                continue
            if order.meter not in meters:
                with self._database.writing("dropping an order") as connection:
                    void_orders(connection, [order], now)
                    touch(connection, account, now)
                continue
            content = order.content
            try:
                told = self._switch.order_open(
                    order.meter,
                    key=order.key,
                    reason=content.reason,
                    proof=content.proof,
                    notices=content.notices,
                    expires_at=content.expires_at,
                )
            except SwitchboardUnavailable as error:
                _log.warning("an order could not be placed", account=account, meter=order.meter, problem=str(error))
                return
            self._note(order, told, now)

    def _note(self, order: Order, told: OrderState, now: datetime) -> None:
        with self._database.writing("noting what became of an order") as connection:
            note_order(connection, order, told, now)
            touch(connection, order.account, now)

    def _to_tell(self, connection: Connection, account: str, asked: Sequence[Order], now: datetime) -> list[str]:
        return meters_to_tell(connection, account, self._facts.today(now), also=[one.meter for one in asked])

    def _tell(self, account: str, now: datetime) -> None:
        with self._database.reading("looking at a credit") as connection:
            row = load(connection, account, now)
            asked = orders_of(connection, account, row.episode.number, row.orders)
            meters = self._to_tell(connection, account, asked, now)
        telling = row.telling
        if telling is None or row.is_told:
            return
        try:
            for meter in meters:
                self._switch.payment(
                    meter,
                    reference=f"{telling.reference}:{meter}",
                    paid_at=telling.paid_at,
                    amount_minor=telling.amount_minor,
                    currency=telling.currency,
                    fence=telling.fence,
                )
        except SwitchboardUnavailable as error:
            _log.warning("a credit could not be told", account=account, problem=str(error))
            with self._database.writing("planning to tell a credit again") as connection:
                touch(connection, account, now + AWAY)
            return
        with self._database.writing("noting a credit as told") as connection:
            current = load(connection, account, now)
            if current.telling == telling:
                save(connection, replace(current, is_told=True, look_at=now))


def _fineness(wait: timedelta) -> timedelta:
    """To what people are told a moment that lies so far ahead."""
    return next(fine for least, fine in _FINENESS if wait >= least)


def _rounded_up(moment: datetime, to: timedelta) -> datetime:
    past = (moment - datetime.min.replace(tzinfo=moment.tzinfo)) % to
    return moment if not past else moment - past + to
