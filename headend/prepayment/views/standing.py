"""How an account stands: available balance, what is owed as the utility shows it, days left; and what a landlord sees of his tenants.

Every function works inside its caller's transaction.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal

from msgspec import Struct
from sqlalchemy import Connection

from headend.prepayment.accounts.accounts import account_of, of_landlord
from headend.prepayment.books.books import balance_of, entries_of
from headend.prepayment.days import LocalDays
from headend.prepayment.model import Cause
from headend.prepayment.settlement.daily import costs_of, daily_use, month_of
from headend.prepayment.settlement.forecast import Forecast, forecast
from headend.prepayment.settlement.settlement import UnsettledDay, unsettled_days
from headend.prepayment.settlement.so_far import SoFar, Tariffs, so_far_of

__all__ = ["CHARGES", "LandlordRow", "Standing", "landlord_view", "standing"]

CHARGES = frozenset((Cause.DAILY_CHARGE, Cause.MINIMUM, Cause.CORRECTION))
PAID = frozenset((Cause.PAYMENT, Cause.REVERSAL))
_LOOK_BACK = 62  # days in which the thirty charged ones of an average lie, as a rule


class Standing(Struct, frozen=True, kw_only=True):
    """Minor units of `currency`.

    available = month_opening + paid + other - charged - counted. charged: of days from the 1st of the month to yesterday, and
    corrections made in it; so something is owed again on the 2nd by somebody who paid last month's bill to the fen. owed: what
    available lacks, or 0. settled_through: the last charged day, None before the first. unsettled: days before today that are not
    charged, and why.

    today_kwh, today_until, today_minor: of today so far, as it was heard; not settled, and None where nothing was heard.
    counted_minor: what available has less for all that was heard and is not settled; 0 where only whole days count.
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
    today_kwh: Decimal | None = None
    today_until: datetime | None = None
    today_minor: int | None = None
    counted_minor: int = 0


class LandlordRow(Struct, frozen=True, kw_only=True):
    """A tenancy's totals. day_kwh: of the last charged day. today_kwh: of today until then, not settled; None where nothing was heard.
    No name, phone, or payment of the tenant."""

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
    today_kwh: Decimal | None = None
    today_until: datetime | None = None


def standing(
    connection: Connection,
    account: str,
    now: datetime,
    days: LocalDays,
    *,
    tariffs: Tariffs | None = None,
    counts_today: bool = False,
) -> Standing:
    """tariffs: None leaves out what is not settled yet. counts_today: it is taken off what is available. Raises UnknownAccount."""
    found = account_of(connection, account)
    so_far = SoFar() if tariffs is None else so_far_of(connection, [found], now, days, tariffs).get(account, SoFar())
    counted = so_far.minor if counts_today else 0
    today = days.today(now)
    first = today.replace(day=1)
    available = balance_of(connection, account, found.currency) - counted
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
        month_opening_minor=available + counted + charged - paid - other,
        charged_minor=charged,
        paid_minor=paid,
        other_minor=other,
        month_kwh=month_of(uses, first).kwh,
        settled_through=uses[-1].day if uses else None,
        unsettled=tuple(unsettled_days(connection, today, account=account)),
        forecast=forecast(available, costs_of(uses)),
        today_kwh=so_far.today_kwh,
        today_until=so_far.today_until,
        today_minor=so_far.today_minor,
        counted_minor=counted,
    )


def landlord_view(
    connection: Connection,
    landlord: str,
    now: datetime,
    days: LocalDays,
    *,
    tariffs: Tariffs | None = None,
    counts_today: bool = False,
) -> list[LandlordRow]:
    """Of the tenancies that last, and of those that ended this month; as new as the last settlement, today's energy as last heard."""
    first = days.today(now).replace(day=1)
    rows = []
    for tenancy in of_landlord(connection, landlord):
        if tenancy.until is not None and tenancy.until < first:
            continue
        own = standing(connection, tenancy.account, now, days, tariffs=tariffs, counts_today=counts_today)
        is_over = tenancy.until is not None and tenancy.until < own.today
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
                # What is used behind the end of the tenancy is not the tenant's.
                today_kwh=None if is_over else own.today_kwh,
                today_until=None if is_over else own.today_until,
            )
        )
    return rows
