"""Where every payment goes through, whatever its channel: its fence first, then the books, then what it earns."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace
from sqlalchemy import Connection

from headend.clock import Clock
from headend.errors import HeadendError
from headend.prepayment.accounts.accounts import account_of
from headend.prepayment.accounts.changes import note_change
from headend.prepayment.books import corrections, fences, payments, points
from headend.prepayment.books.points_file import PointsRule
from headend.prepayment.books.reconciliation import clear_if_booked
from headend.prepayment.days import LocalDays
from headend.prepayment.errors import SwitchboardUnavailable, SwitchedOff, UnknownPayment
from headend.prepayment.model import AccountState, Payment, PaymentState, Posted
from headend.prepayment.notices.texts import Figure, Money
from headend.prepayment.ports import Switchboard
from headend.prepayment.storage.database import Database
from headend.prepayment.supply.store import is_ordered, meters_to_tell, restores, touch
from headend.prepayment.trouble.flags import raise_flag
from headend.prepayment.trouble.kinds import REVERSED_AFTER_CLOSING

__all__ = ["Till"]

SLOW_S = 5.0  # of a call to the command interface that came to nothing
AWAY_S = 10.0  # so long after such a call the others are not tried; the channel tells those payments again
T = TypeVar("T")


class Till:
    """rule: what top-ups earn; None for nothing. reversed_: what follows from a reversal, in its transaction (`SupplyDesk.reversed`).

    counted: what is counted against an account's balance beyond its books, minor units; None where nothing is.
    """

    def __init__(
        self,
        database: Database,
        switchboard: Switchboard,
        days: LocalDays,
        clock: Clock,
        *,
        rule: PointsRule | None = None,
        reversed_: Callable[[Connection, str, datetime, Mapping[str, Figure]], None] | None = None,
        counted: Callable[[Connection, str, datetime], int] | None = None,
    ) -> None:
        self._database = database
        self._switchboard = switchboard
        self._days = days
        self._clock = clock
        self._rule = rule
        self._reversed = reversed_
        self._counted = counted
        self._tried_from = clock.monotonic()  # no call before

    def take(self, payment: Payment) -> Payment:
        """Once, however often it is told. What became of it is durable at return, and the supply desk looks at the account next.

        Raises BadPayment, KeyReused; SwitchboardUnavailable when its fence could not be raised: then it is not booked, nothing of the
        account is disconnected meanwhile, and the channel tells it again.
        """
        now = self._clock.now()
        payments.check(payment, now)
        with self._database.writing("noting a payment's fence") as connection:
            if payments.find(connection, payment.channel, payment.receipt) is not None:
                return payments.take(connection, payment, self._days.zone)
            if not self._is_to_be_told(connection, payment, now):
                return self._book(connection, payment, now)
            number = fences.raise_fence(connection, payment.account, payment.channel, payment.receipt, now)
            meters = meters_to_tell(connection, payment.account, self._days.today(now))
        self._tell_all(meters, payment, number)
        with self._database.writing("taking a payment") as connection:
            return self._book(connection, payment, self._clock.now())

    def credit(self, told: Payment, book: Callable[[Connection], T]) -> T:
        """`book`, in a transaction of its own, for money that a person books by hand. told: as the command interface hears of it.

        Where an order may be under way, its fence comes first, as a payment's does. Where none is, none is decided on a balance
        without this money. Raises SwitchboardUnavailable, with nothing booked; and what `book` raises.
        """
        now = self._clock.now()
        with self._database.writing("booking a credit") as connection:
            if not is_ordered(connection, told.account) or not self._is_to_be_told(connection, told, now):
                return self._booked(connection, told, book)
            number = fences.raise_fence(connection, told.account, told.channel, told.receipt, now)
            meters = meters_to_tell(connection, told.account, self._days.today(now))
        try:
            self._tell_all(meters, told, number)
            with self._database.writing("booking a credit") as connection:
                return self._booked(connection, told, book)
        except HeadendError:
            # The person is told so, and nobody is on the way with this money: it holds up nothing.
            with self._database.writing("lifting a credit's fence") as connection:
                self._lift(connection, told)
            raise

    def _booked(self, connection: Connection, told: Payment, book: Callable[[Connection], T]) -> T:
        self._lift(connection, told)
        return book(connection)

    @staticmethod
    def _lift(connection: Connection, told: Payment) -> None:
        fences.booked(connection, told.channel, told.receipt)
        clear_if_booked(connection, told.account)

    def _tell_all(self, meters: Sequence[str], payment: Payment, number: int) -> None:
        for meter in meters:
            # Who switches nothing has nothing to stop; what is to come back, the supply desk tells until it is heard.
            with suppress(SwitchedOff):
                self._tell(meter, payment, number)

    def _tell(self, meter: str, payment: Payment, number: int) -> None:
        """Raises SwitchboardUnavailable, at once where somebody has just waited in vain: threads that wait are soon all there are."""
        began = self._clock.monotonic()
        if began < self._tried_from:
            raise SwitchboardUnavailable(
                "the command interface kept a payment waiting a moment ago; tell this one again"
            )
        try:
            self._switchboard.payment(
                meter,
                reference=f"{payment.channel}:{payment.receipt}",
                paid_at=payment.paid_at,
                amount_minor=payment.amount_minor,
                currency=payment.currency,
                fence=number,
            )
        except SwitchboardUnavailable:
            if self._clock.monotonic() - began >= SLOW_S:
                self._tried_from = self._clock.monotonic() + AWAY_S
            raise

    def assign(self, channel: str, receipt: str, account: str, *, by: str) -> Payment:
        """An unmatched payment was this account's; told again it is the same.

        Raises UnknownPayment, BadPayment; SwitchboardUnavailable as `take`.
        """
        now = self._clock.now()

        def book(connection: Connection) -> Payment:
            found = self._known(connection, channel, receipt)
            if found.state is PaymentState.BOOKED and found.booked_for == account:
                return found
            assigned = payments.assign(connection, found, account, now, self._days.zone, by=by)
            self._earned(connection, assigned, now)
            note_change(connection, account, "payment", now, by=by, after=f"{channel} receipt {receipt} assigned")
            return assigned

        with self._database.reading("looking at a payment") as connection:
            found = self._known(connection, channel, receipt)
        if found.state is PaymentState.UNMATCHED:
            return self.credit(replace(found, account=account), book)
        with self._database.writing("assigning a payment") as connection:
            return book(connection)

    def adjust(self, account: str, amount_minor: int, *, key: str, note: str, by: str) -> Posted:
        """More than 0 is to the customer's credit. The same key is booked once.

        Raises UnknownAccount, AccountClosed, KeyReused, BadInput; of a credit SwitchboardUnavailable, as `take`.
        """
        now = self._clock.now()

        def book(connection: Connection) -> Posted:
            found, day = account_of(connection, account), self._days.today(now)
            told = f"{note} ({by})"
            posted = corrections.adjust(connection, found, amount_minor, key=key, note=told, now=now, day=day)
            touch(connection, account, now)
            return posted

        with self._database.reading("looking at an account") as connection:
            currency = account_of(connection, account).currency
            is_credit = corrections.is_new_credit(connection, amount_minor, key=key)
        if is_credit:
            credit = Payment(
                channel="adjustment",
                receipt=key,
                account=account,
                amount_minor=amount_minor,
                currency=currency,
                paid_at=now,
                received_at=now,
            )
            return self.credit(credit, book)
        with self._database.writing("adjusting an account") as connection:
            return book(connection)

    def reverse(self, channel: str, receipt: str, *, reason: str, by: str = "") -> Payment:
        """The channel took it back: once, with what it had earned, and the customer is told. Raises UnknownPayment."""
        now = self._clock.now()
        with self._database.writing("reversing a payment") as connection:
            found = self._known(connection, channel, receipt)
            if found.state is PaymentState.REVERSED:
                return found
            taken_back = payments.reverse(connection, found, now, self._days.zone, reason=reason, by=by)
            points.take_back(connection, taken_back, now, self._days)
            if taken_back.booked_for:
                self._follow(connection, taken_back, now)
            return taken_back

    @staticmethod
    def _known(connection: Connection, channel: str, receipt: str) -> Payment:
        found = payments.find(connection, channel, receipt)
        if found is None:
            raise UnknownPayment(channel, receipt)
        return found

    def _is_to_be_told(self, connection: Connection, payment: Payment, now: datetime) -> bool:
        """Not what is nobody's credit, or leaves a disconnected customer owing: neither is to bring a supply back."""
        if payments.problem_of(connection, payment):
            return False
        counted = self._counted or _nothing
        return restores(
            connection,
            payment.account,
            payment.amount_minor,
            counted_minor=lambda: counted(connection, payment.account, now),
        )

    def _book(self, connection: Connection, payment: Payment, now: datetime) -> Payment:
        taken = payments.take(connection, payment, self._days.zone)
        self._lift(connection, payment)
        if taken.state is PaymentState.BOOKED:
            self._earned(connection, taken, now)
        return taken

    def _earned(self, connection: Connection, payment: Payment, now: datetime) -> None:
        """What follows from a payment that is booked for an account: its points, and the supply desk looks at the account next."""
        if self._rule is not None:
            points.award(connection, payment, self._rule, now, self._days)
        touch(connection, payment.booked_for, now)

    def _follow(self, connection: Connection, taken_back: Payment, now: datetime) -> None:
        account = account_of(connection, taken_back.booked_for)
        if account.state is AccountState.CLOSED:
            text = f"payment {taken_back.receipt} of {taken_back.channel} was taken back after the account was closed"
            raise_flag(connection, account.id, REVERSED_AFTER_CLOSING, now, text)
        if self._reversed is not None:
            figures: dict[str, Figure] = {
                "amount": Money(taken_back.amount_minor, taken_back.currency),
                "channel": taken_back.channel,
                "receipt": taken_back.receipt,
                "reason": taken_back.problem,
            }
            self._reversed(connection, account.id, now, figures)


def _nothing(connection: Connection, account: str, now: datetime) -> int:
    """Counted, where only the books count."""
    return 0
