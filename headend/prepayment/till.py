"""Where every payment goes through, whatever its channel: its fence first, then the books, then what it earns."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from headend.clock import Clock
from headend.prepayment import fences, payments, points
from headend.prepayment.accounts import account_of, meters_of, of_meter
from headend.prepayment.database import Database
from headend.prepayment.errors import SwitchboardUnavailable, SwitchedOff, UnknownPayment
from headend.prepayment.heard import LocalDays
from headend.prepayment.model import AccountState, Payment, PaymentState
from headend.prepayment.notice_texts import Figure, Money
from headend.prepayment.points_file import PointsRule
from headend.prepayment.ports import Switchboard
from headend.prepayment.reconciliation import clear_if_booked
from headend.prepayment.supply_flags import raise_flag
from headend.prepayment.supply_store import all_orders, restores, touch

__all__ = ["Till"]

SLOW_S = 5.0  # of a call to the command interface that came to nothing
AWAY_S = 10.0  # so long after such a call the others are not tried; the channel tells those payments again
_DAY = timedelta(days=1)


class Till:
    """rule: what top-ups earn; None for nothing. reversed_: what follows from a reversal, in its transaction (`SupplyDesk.reversed`).

    counted: what is counted against an account's balance beyond its books, minor units.
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
            meters = _meters(connection, payment.account, self._days.today(now))
        for meter in meters:
            # Who switches nothing has nothing to stop; what is to come back, the supply desk tells until it is heard.
            with suppress(SwitchedOff):
                self._tell(meter, payment, number)
        with self._database.writing("taking a payment") as connection:
            return self._book(connection, payment, self._clock.now())

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

    def reverse(self, channel: str, receipt: str, *, reason: str, by: str = "") -> Payment:
        """The channel took it back: once, with what it had earned, and the customer is told. Raises UnknownPayment."""
        now = self._clock.now()
        with self._database.writing("reversing a payment") as connection:
            found = payments.find(connection, channel, receipt)
            if found is None:
                raise UnknownPayment(channel, receipt)
            if found.state is PaymentState.REVERSED:
                return found
            taken_back = payments.reverse(connection, found, now, self._days.zone, reason=reason, by=by)
            points.take_back(connection, taken_back, now, self._days)
            if taken_back.booked_for:
                self._follow(connection, taken_back, now)
            return taken_back

    def _is_to_be_told(self, connection: Connection, payment: Payment, now: datetime) -> bool:
        """Not what is nobody's credit, or leaves a disconnected customer owing: neither is to bring a supply back."""
        if payments.problem_of(connection, payment):
            return False
        counted = 0 if self._counted is None else self._counted(connection, payment.account, now)
        return restores(connection, payment.account, payment.amount_minor, counted_minor=counted)

    def _book(self, connection: Connection, payment: Payment, now: datetime) -> Payment:
        taken = payments.take(connection, payment, self._days.zone)
        fences.booked(connection, payment.channel, payment.receipt)
        clear_if_booked(connection, payment.account)
        if taken.state is PaymentState.BOOKED:
            if self._rule is not None:
                points.award(connection, taken, self._rule, now, self._days)
            touch(connection, taken.booked_for, now)
        return taken

    def _follow(self, connection: Connection, taken_back: Payment, now: datetime) -> None:
        account = account_of(connection, taken_back.booked_for)
        if account.state is AccountState.CLOSED:
            text = f"payment {taken_back.receipt} of {taken_back.channel} was taken back after the account was closed"
            raise_flag(connection, account.id, "reversed-after-closing", now, text)
        if self._reversed is not None:
            figures: dict[str, Figure] = {
                "amount": Money(taken_back.amount_minor, taken_back.currency),
                "channel": taken_back.channel,
                "receipt": taken_back.receipt,
                "reason": taken_back.problem,
            }
            self._reversed(connection, account.id, now, figures)


def _meters(connection: Connection, account: str, today: date) -> list[str]:
    """Those that measure the account, or will: an exchange may be noted ahead of its day. And those that an order is under way for;
    but none that is another account's by now."""
    measuring = {one.meter for one in meters_of(connection, account) if one.until is None or one.until >= today - _DAY}
    asked = {one.meter for one in all_orders(connection, account) if not one.is_final}
    return sorted(meter for meter in measuring | asked if of_meter(connection, meter) in (None, account))
