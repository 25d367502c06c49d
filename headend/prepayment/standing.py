"""How an account stands: available balance, what is owed as the utility shows it, days left; and what a landlord sees of his tenants.

Every function works inside its caller's transaction.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal

from msgspec import Struct
from sqlalchemy import Connection

from headend.prepayment.accounts import account_of, of_landlord
from headend.prepayment.books import balance_of, entries_of
from headend.prepayment.daily import costs_of, daily_use, month_of
from headend.prepayment.forecast import Forecast, forecast
from headend.prepayment.heard import LocalDays
from headend.prepayment.model import Cause
from headend.prepayment.settlement import UnsettledDay, unsettled_days

__all__ = ["CHARGES", "LandlordRow", "Standing", "landlord_view", "standing"]

CHARGES = frozenset((Cause.DAILY_CHARGE, Cause.MINIMUM, Cause.CORRECTION))
PAID = frozenset((Cause.PAYMENT, Cause.REVERSAL))
_LOOK_BACK = 62  # days in which the thirty charged ones of an average lie, as a rule


class Standing(Struct, frozen=True, kw_only=True):
    """Minor units of `currency`.

    available = month_opening + paid + other - charged. charged: of days from the 1st of the month to yesterday, and corrections made in
    it; so something is owed again on the 2nd by somebody who paid last month's bill to the fen. owed: what available lacks, or 0.
    settled_through: the last charged day, None before the first. unsettled: days before today that are not charged, and why.
    """

    account: str
    currency: str
    today: date
    available_minor: int
    owed_minor: int
    month_opening_minor: int
    charged_minor: int
    paid_minor: int
    other_minor: int
    month_kwh: Decimal
    settled_through: date | None
    unsettled: tuple[UnsettledDay, ...]
    forecast: Forecast


class LandlordRow(Struct, frozen=True, kw_only=True):
    """A tenancy's totals. day_kwh: of the last charged day. No name, phone, or payment of the tenant."""

    account: str
    premises: str
    since: date
    until: date | None
    currency: str
    available_minor: int
    month_kwh: Decimal
    month_minor: int
    last_day: date | None
    day_kwh: Decimal | None
    days_left: int | None


def standing(connection: Connection, account: str, now: datetime, days: LocalDays) -> Standing:
    """Raises UnknownAccount."""
    found = account_of(connection, account)
    today = days.today(now)
    first = today.replace(day=1)
    available = balance_of(connection, account, found.currency)
    charged = paid = other = 0
    for _, entry, moved in entries_of(connection, account, since=first):
        if entry.cause in CHARGES:
            charged -= moved
        elif entry.cause in PAID:
            paid += moved
        else:
            other += moved
    uses = daily_use(connection, account, max(found.opened_on, today - timedelta(days=_LOOK_BACK)), today)
    return Standing(
        account=account,
        currency=found.currency,
        today=today,
        available_minor=available,
        owed_minor=max(0, -available),
        month_opening_minor=available + charged - paid - other,
        charged_minor=charged,
        paid_minor=paid,
        other_minor=other,
        month_kwh=month_of(uses, first).kwh,
        settled_through=uses[-1].day if uses else None,
        unsettled=tuple(unsettled_days(connection, today, account=account)),
        forecast=forecast(available, costs_of(uses)),
    )


def landlord_view(connection: Connection, landlord: str, now: datetime, days: LocalDays) -> list[LandlordRow]:
    """Of the tenancies that last, and of those that ended this month; as new as the last settlement."""
    first = days.today(now).replace(day=1)
    rows = []
    for tenancy in of_landlord(connection, landlord):
        if tenancy.until is not None and tenancy.until < first:
            continue
        own = standing(connection, tenancy.account, now, days)
        last = own.settled_through
        uses = [] if last is None else daily_use(connection, tenancy.account, last, last + timedelta(days=1))
        rows.append(
            LandlordRow(
                account=tenancy.account,
                premises=account_of(connection, tenancy.account).premises,
                since=tenancy.since,
                until=tenancy.until,
                currency=own.currency,
                available_minor=own.available_minor,
                month_kwh=own.month_kwh,
                month_minor=own.charged_minor,
                last_day=last,
                day_kwh=uses[-1].kwh if uses else None,
                days_left=own.forecast.days_left,
            )
        )
    return rows
