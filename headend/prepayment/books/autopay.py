"""Automatic top-up: what a bank agreement draws when the available balance falls below the reminder amount.

Once a settlement and account, within limits. A try is noted, durable, before the bank is asked; where no answer says what became of it,
the same key is asked again, so nothing is drawn twice. A refusal is tried again under a new key, a few times. Whatever would be drawn
under a new key is drawn only while the customer still wants it: the agreement stands, and the balance is still low.
"""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Row, and_, func, literal, or_, select, update

from headend.clock import Clock
from headend.prepayment.books.books import balance_of
from headend.prepayment.days import LocalDays, day_number, day_of, epoch_ms, from_epoch_ms
from headend.prepayment.errors import BadPayment, KeyReused, SwitchboardUnavailable, UnknownAccount
from headend.prepayment.model import AccountState, Payment
from headend.prepayment.ports import Bank, DebitOutcome
from headend.prepayment.storage.database import Database, put_rows
from headend.prepayment.storage.tables import accounts, books, debits
from headend.prepayment.trouble.faults import is_own_fault

__all__ = ["CHANNEL", "OWN_RECEIPT", "Autopay", "Debit", "Drawn", "Limits", "debits_of", "is_unanswered"]

CHANNEL = "bank-debit"
OWN_RECEIPT = "debit:"  # how the keys of our debits begin, which are their receipts
BATCH = 200  # debits noted in one transaction
SLOW_S = 5.0  # after an answer that took longer and said nothing, the others of the same run wait for the next one
ASKED, ACCEPTED, REFUSED, UNKNOWN = "asked", "accepted", "refused", "unknown"
_DAY = timedelta(days=1)
_log = structlog.get_logger(__name__)


class Limits(Struct, frozen=True, kw_only=True):
    """Of one account; it is once a settlement anyway. retry_after: of a refusal, one wait for each further try.

    ask_again_after: when no answer came.
    """

    per_day_minor: int = 500_000
    per_month: int = 8
    per_month_minor: int = 1_000_000
    retry_after: tuple[timedelta, ...] = (timedelta(hours=4), timedelta(hours=24))
    ask_again_after: timedelta = timedelta(minutes=5)


class Debit(Struct, frozen=True, kw_only=True):
    """day: of the settlement it belongs to. state: "asked", "unknown", "refused" or "accepted". tries: 0 where the bank was not asked
    yet. next_try_at: None when it is over. agreement: that the bank was asked under for `key`; "" before it was asked."""

    account: str
    day: date
    key: str
    amount_minor: int
    state: str
    tries: int
    asked_at: datetime
    next_try_at: datetime | None
    problem: str
    agreement: str


class Drawn(Struct, frozen=True, kw_only=True):
    """What one run did."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0


class Autopay:
    """take: where payments go through (`Till.take`)."""

    def __init__(
        self,
        database: Database,
        bank: Bank,
        take: Callable[[Payment], Payment],
        days: LocalDays,
        clock: Clock,
        *,
        limits: Limits | None = None,
        answered: Callable[[Connection, Debit, datetime], None] | None = None,
    ) -> None:
        """answered: told in the transaction that notes a debit as accepted or refused."""
        self._database = database
        self._answered = answered
        self._bank = bank
        self._take = take
        self._days = days
        self._clock = clock
        self._limits = Limits() if limits is None else limits

    def note(self, after: str) -> str:
        """Of the next accounts behind that one that are below their reminder amount; gives the last of them, "" when that was all."""
        now = self._clock.now()
        with self._database.writing("noting debits") as connection:
            looked_at, last = self._note(connection, now, after)
        return last if looked_at == BATCH else ""

    def draw(self, *, limit: int | None = None) -> Drawn:
        """Asks the bank for what is due, the oldest first.

        One that cannot be dealt with is put off, and holds up no other; in the end the first of their problems is raised.
        Raises StoreError at once: call it again.
        """
        counts = {ACCEPTED: 0, REFUSED: 0, UNKNOWN: 0}
        problems: list[Exception] = []
        for debit in self._to_try(self._clock.now(), limit):
            began = self._clock.monotonic()
            try:
                state = self._try(debit)
            except Exception as problem:
                # Whatever it is: it is of one account, and others want their money drawn.
                if not is_own_fault(problem):
                    raise
                _log.error("a debit could not be dealt with", account=debit.account, day=debit.day, exc_info=problem)
                self._put_off(debit)
                problems.append(problem)
                state = UNKNOWN
            counts[state] += 1
            if state == UNKNOWN and self._clock.monotonic() - began >= SLOW_S:
                break  # orders and messages have their turn on the same thread
        if problems:
            raise problems[0]
        return Drawn(accepted=counts[ACCEPTED], refused=counts[REFUSED], unknown=counts[UNKNOWN])

    def _note(self, connection: Connection, now: datetime, after: str) -> tuple[int, str]:
        """The next accounts that are below their reminder amount: how many were looked at, and the last one."""
        today = self._days.today(now)
        statement = (
            select(accounts.c.id, accounts.c.topup_minor)
            .join(
                books,
                and_(books.c.name == literal("customer:") + accounts.c.id, books.c.currency == accounts.c.currency),
                isouter=True,
            )
            .where(
                accounts.c.id > after,
                accounts.c.state == AccountState.ACTIVE.value,
                accounts.c.topup_minor > 0,
                accounts.c.bank != "",
                func.coalesce(books.c.balance_minor, 0) < accounts.c.reminder_minor,
            )
            .order_by(accounts.c.id)
            .limit(BATCH)
        )
        found = connection.execute(statement).all()
        rows = [
            (
                account,
                day_number(today),
                f"{OWN_RECEIPT}{account}:{today}:1",
                amount,
                ASKED,
                0,
                epoch_ms(now),
                epoch_ms(now),
                "",
                "",
            )
            for account, amount in found
            if self._may(connection, account, amount, today)
        ]
        put_rows(connection, debits, rows)
        return len(found), found[-1].id if found else ""

    def _may(self, connection: Connection, account: str, amount_minor: int, today: date) -> bool:
        """Once a settlement, nothing while another is under way, and within the limits."""
        own = debits.c
        month = day_number(today.replace(day=1))
        rows = connection.execute(
            select(own.day, own.amount_minor, own.state, own.next_try_at).where(
                own.account == account, or_(own.day >= month, own.next_try_at.is_not(None))
            )
        ).all()
        if any(row.day == day_number(today) or row.next_try_at is not None for row in rows):
            return False
        drawn = [row for row in rows if row.state == ACCEPTED]
        limits = self._limits
        return (
            amount_minor <= limits.per_day_minor
            and len(drawn) < limits.per_month
            and sum(row.amount_minor for row in drawn) + amount_minor <= limits.per_month_minor
        )

    def _to_try(self, now: datetime, limit: int | None) -> list[Debit]:
        with self._database.reading("looking for debits") as connection:
            statement = select(debits).where(debits.c.next_try_at <= epoch_ms(now)).order_by(debits.c.next_try_at)
            statement = statement.limit(limit)
            return [_debit(row) for row in connection.execute(statement)]

    def _put_off(self, debit: Debit) -> None:
        """As it stands in the table: the bank may have been asked, and its answer could not be noted."""
        own = debits.c
        where = (own.account == debit.account, own.day == day_number(debit.day))
        again = epoch_ms(self._clock.now() + self._limits.ask_again_after)
        with self._database.writing("putting a debit off") as connection:
            connection.execute(update(debits).where(*where).values(next_try_at=again))
            # One that the bank was not asked for stays what it is, so that it is drawn only while the customer still wants it.
            asked = (own.state == ASKED, own.tries > 0)
            connection.execute(update(debits).where(*where, *asked).values(state=UNKNOWN))

    def _try(self, debit: Debit) -> str:
        now = self._clock.now()
        with self._database.writing("noting a debit's try") as connection:
            account = connection.execute(select(accounts).where(accounts.c.id == debit.account)).first()
            if account is None:
                raise UnknownAccount(debit.account)
            if debit.state == REFUSED or debit.tries == 0:
                if problem := _unwanted(connection, account, debit):
                    _store(connection, replace(debit, state=REFUSED, next_try_at=None, problem=problem))
                    return REFUSED
                tries = debit.tries + 1
                key = f"{OWN_RECEIPT}{debit.account}:{debit.day}:{tries}"
                debit = replace(debit, key=key, tries=tries, asked_at=now, agreement=account.bank)
            elif not account.bank:
                problem = f"the agreement was ended before the bank has said what became of {debit.key}"
                _store(connection, replace(debit, state=UNKNOWN, next_try_at=now + _DAY, problem=problem))
                _log.warning("a debit cannot be asked for any more", account=debit.account, key=debit.key)
                return UNKNOWN
            elif not debit.agreement:
                # Noted by a program that did not keep it, of an account that had none for a while.
                debit = replace(debit, agreement=account.bank)
            # Asked, before it is: after a crash the same key is asked again.
            _store(connection, replace(debit, state=ASKED, next_try_at=now))
        # Under the agreement it was first asked with: another one would be refused, whatever was drawn under that.
        after = self._answer(debit, account.currency)
        with self._database.writing("noting a debit's answer") as connection:
            _store(connection, after)
            if self._answered is not None and after.state != UNKNOWN:
                self._answered(connection, after, self._clock.now())
        return after.state

    def _answer(self, debit: Debit, currency: str) -> Debit:
        """What the bank says now, and what was drawn booked."""
        answer = self._bank.debit(debit.agreement, debit.amount_minor, currency, debit.key)
        now = self._clock.now()
        again = now + self._limits.ask_again_after
        if answer.outcome is DebitOutcome.ACCEPTED:
            paid = Payment(
                channel=CHANNEL,
                receipt=debit.key,
                account=debit.account,
                amount_minor=debit.amount_minor,
                currency=currency,
                paid_at=debit.asked_at,
                received_at=now,
            )
            try:
                self._take(paid)
            except (SwitchboardUnavailable, KeyReused, BadPayment) as error:
                _log.warning(
                    "a debit was drawn and not booked", account=debit.account, key=debit.key, problem=str(error)
                )
                # Asked again, the bank says again that it has drawn. Others must not wait for this account's meters.
                return replace(debit, state=UNKNOWN, next_try_at=again, problem="drawn, and not booked yet")
            return replace(debit, state=ACCEPTED, next_try_at=None, problem="")
        if answer.outcome is DebitOutcome.REFUSED:
            waits = self._limits.retry_after
            again_at = now + waits[debit.tries - 1] if debit.tries <= len(waits) else None
            return replace(debit, state=REFUSED, next_try_at=again_at, problem=answer.reason)
        return replace(debit, state=UNKNOWN, next_try_at=again, problem=answer.reason or "no answer from the bank")


def _unwanted(connection: Connection, account: Row[Any], debit: Debit) -> str:
    """Why the customer, who agreed to it when it was noted, does not want it drawn now; "" when he does."""
    if account.state != AccountState.ACTIVE.value:
        return f"not drawn: the account is {account.state}"
    if not account.bank or account.topup_minor != debit.amount_minor:
        return "not drawn: the agreement was changed or ended"
    if balance_of(connection, account.id, account.currency) >= account.reminder_minor:
        return "not drawn: the balance is no longer below the reminder amount"
    return ""


def is_unanswered(connection: Connection, account: str, now: datetime) -> bool:
    """Whether the bank was asked within a day and has not said: the money may be drawn already."""
    own = debits.c
    asked = select(own.day).where(
        own.account == account,
        own.state.in_((ASKED, UNKNOWN)),
        own.tries > 0,
        own.asked_at > epoch_ms(now - _DAY),
        own.next_try_at.is_not(None),
    )
    return connection.execute(asked).first() is not None


def debits_of(connection: Connection, account: str) -> list[Debit]:
    """Oldest first."""
    statement = select(debits).where(debits.c.account == account).order_by(debits.c.day)
    return [_debit(row) for row in connection.execute(statement)]


def _store(connection: Connection, debit: Debit) -> None:
    row = (
        debit.account,
        day_number(debit.day),
        debit.key,
        debit.amount_minor,
        debit.state,
        debit.tries,
        epoch_ms(debit.asked_at),
        None if debit.next_try_at is None else epoch_ms(debit.next_try_at),
        debit.problem,
        debit.agreement,
    )
    put_rows(connection, debits, [row])


def _debit(row: Row[Any]) -> Debit:
    found = dict(row._mapping)
    return Debit(
        **found
        | {
            "day": day_of(found["day"]),
            "asked_at": from_epoch_ms(found["asked_at"]),
            "next_try_at": None if found["next_try_at"] is None else from_epoch_ms(found["next_try_at"]),
        }
    )
