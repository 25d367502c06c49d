"""Where every payment goes through, whatever its channel: its fence first, then the books, then what it earns."""

from sqlalchemy import Connection

from headend.clock import Clock
from headend.prepayment import fences, payments, points
from headend.prepayment.accounts import meters_of
from headend.prepayment.database import Database
from headend.prepayment.heard import LocalDays
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.points_file import PointsRule
from headend.prepayment.ports import Switchboard

__all__ = ["Till"]


class Till:
    """rule: what top-ups earn; None for nothing."""

    def __init__(
        self,
        database: Database,
        switchboard: Switchboard,
        days: LocalDays,
        clock: Clock,
        *,
        rule: PointsRule | None = None,
    ) -> None:
        self._database = database
        self._switchboard = switchboard
        self._days = days
        self._clock = clock
        self._rule = rule

    def take(self, payment: Payment) -> Payment:
        """Once, however often it is told; what became of it. Durable at return.

        Raises BadPayment, KeyReused; SwitchboardUnavailable when its fence could not be raised: then it is not booked, nothing of the
        account is disconnected meanwhile, and the channel tells it again.
        """
        now = self._clock.now()
        payments.check(payment, now)
        with self._database.writing("noting a payment's fence") as connection:
            if payments.find(connection, payment.channel, payment.receipt) is not None:
                return payments.take(connection, payment, self._days.zone)
            number = fences.raise_fence(connection, payment.account, payment.channel, payment.receipt, now)
            meters = _meters(connection, payment.account)
        for meter in meters:
            self._switchboard.payment(
                meter,
                reference=f"{payment.channel}:{payment.receipt}",
                paid_at=payment.paid_at,
                amount_minor=payment.amount_minor,
                currency=payment.currency,
                fence=number,
            )
        with self._database.writing("taking a payment") as connection:
            taken = payments.take(connection, payment, self._days.zone)
            fences.booked(connection, payment.channel, payment.receipt)
            if self._rule is not None and taken.state is PaymentState.BOOKED:
                points.award(connection, taken, self._rule, now, self._days)
        return taken

    def reverse(self, channel: str, receipt: str, *, reason: str) -> Payment | None:
        """The channel took it back: once, with what it had earned. None when no such payment is known."""
        now = self._clock.now()
        with self._database.writing("reversing a payment") as connection:
            found = payments.find(connection, channel, receipt)
            if found is None:
                return None
            taken_back = payments.reverse(connection, found, now, self._days.zone, reason=reason)
            points.take_back(connection, taken_back, now, self._days)
            return taken_back


def _meters(connection: Connection, account: str) -> list[str]:
    return [one.meter for one in meters_of(connection, account) if one.until is None]
