"""The monthly statement as data; how it looks on paper is somebody else's. Every function works inside its caller's transaction.

A statement is made once, when the month's days are charged, or some days into the next month, with the days that are still unsettled
named. What is booked later for a day of that month stands in the next statement as late. So each one begins with what the one before it
ended with, and no entry is in two of them, or in none.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from headend.prepayment.accounts.accounts import account_of, premises_of
from headend.prepayment.books.books import entries_of
from headend.prepayment.days import LocalDays, day_number, epoch_ms, from_epoch_ms
from headend.prepayment.errors import UnknownAccount
from headend.prepayment.model import Account, AccountState, Entry
from headend.prepayment.settlement.daily import DayUse, MonthUse, daily_use, month_of
from headend.prepayment.settlement.settlement import UnsettledDay, unsettled_days
from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.tables import accounts, entries, positions, statements
from headend.prepayment.tariffs.tariff import Line
from headend.prepayment.views.standing import CHARGES, PAID

__all__ = [
    "PATIENCE_DAYS",
    "StatementData",
    "StatementEntry",
    "due_statements",
    "make_statement",
    "statement",
    "statements_of",
]

PATIENCE_DAYS = 4  # a statement waits so long into the next month for unsettled days


class StatementEntry(Struct, frozen=True, kw_only=True):
    """number: of the books. moved_minor: what it did to the customer's credit. is_late: of a day of an earlier month."""

    number: int
    entry: Entry
    moved_minor: int
    is_late: bool


class StatementData(Struct, frozen=True, kw_only=True):
    """closing = opening - charged + paid + other. totals: the month's lines, added up by name and price. Minor units of `currency`.

    is_final: every day of the month is charged. unsettled: the days that are not, at the moment it is asked for.
    """

    account: str
    customer: str
    premises: str
    address: str
    currency: str
    month: str
    made_at: datetime
    opening_minor: int
    charged_minor: int
    paid_minor: int
    other_minor: int
    closing_minor: int
    use: MonthUse
    last_month: MonthUse
    days: tuple[DayUse, ...]
    totals: tuple[Line, ...]
    entries: tuple[StatementEntry, ...]
    unsettled: tuple[UnsettledDay, ...]
    is_final: bool


def due_statements(connection: Connection, now: datetime, days: LocalDays) -> Iterator[str]:
    """Accounts whose statement of last month can be made; each once."""
    today = days.today(now)
    last = today.replace(day=1) - timedelta(days=1)
    rows = connection.execute(
        select(accounts.c.id, positions.c.day)
        .join(positions, positions.c.account == accounts.c.number, isouter=True)
        .join(
            statements,
            (statements.c.account == accounts.c.number) & (statements.c.month == f"{last:%Y-%m}"),
            isouter=True,
        )
        .where(
            statements.c.month.is_(None),
            accounts.c.state != AccountState.ENROLLED.value,
            accounts.c.opened_on <= day_number(last),
            func.coalesce(accounts.c.closed_on, day_number(last)) >= day_number(last.replace(day=1)),
        )
        .order_by(accounts.c.id)
    ).all()
    for account, charged in rows:
        if today.day > PATIENCE_DAYS or (charged is not None and charged >= day_number(last)):
            yield account


def make_statement(connection: Connection, account: str, month: date, now: datetime, days: LocalDays) -> StatementData:
    """Once; asked again it is the same one. month: any day of it. Raises UnknownAccount, ValueError for a month that is not over."""
    first = month.replace(day=1)
    if days.today(now) < _next_month(first):
        raise ValueError(f"the month {first:%Y-%m} is not over; expected an earlier one")
    found = account_of(connection, account)
    before = _before(connection, account, first)
    made = _made(connection, before.number, first)
    mark = made.last_entry if made is not None else connection.execute(select(func.max(entries.c.number))).scalar() or 0
    listed = _entries(connection, account, first, before, mark)
    if made is None:
        closing = before.closing_minor + sum(one.moved_minor for one in listed)
        made = _Made(f"{first:%Y-%m}", epoch_ms(now), mark, before.closing_minor, closing)
        put_rows(connection, statements, [(before.number, *msgspec.structs.astuple(made))])
    return _data(connection, found, made, listed, now, days)


def statement(
    connection: Connection, account: str, month: date, now: datetime, days: LocalDays
) -> StatementData | None:
    """The one that was made for that month; None before. Raises UnknownAccount."""
    first = month.replace(day=1)
    found = account_of(connection, account)
    before = _before(connection, account, first)
    made = _made(connection, before.number, first)
    if made is None:
        return None
    listed = _entries(connection, account, first, before, made.last_entry)
    return _data(connection, found, made, listed, now, days)


class _Made(Struct, frozen=True):
    """As the table has it, behind the account's number."""

    month: str
    made_at: int
    last_entry: int
    opening_minor: int
    closing_minor: int


def _made(connection: Connection, number: int, first: date) -> _Made | None:
    own = select(statements).where(statements.c.account == number, statements.c.month == f"{first:%Y-%m}")
    row = connection.execute(own).first()
    return None if row is None else _Made(*row[1:])


def _data(
    connection: Connection,
    found: Account,
    row: _Made,
    listed: Sequence[StatementEntry],
    now: datetime,
    days: LocalDays,
) -> StatementData:
    account, first = found.id, date.fromisoformat(f"{row.month}-01")
    last_month = (first - timedelta(days=1)).replace(day=1)
    uses = daily_use(connection, account, last_month, _next_month(first))
    until = min(_next_month(first), days.today(now))
    missing = [one for one in unsettled_days(connection, until, account=account) if one.day >= first]
    place = premises_of(connection, found.premises)
    charged = -sum(one.moved_minor for one in listed if one.entry.cause in CHARGES)
    paid = sum(one.moved_minor for one in listed if one.entry.cause in PAID)
    return StatementData(
        account=account,
        customer=found.customer,
        premises=found.premises,
        address="" if place is None else place.address,
        currency=found.currency,
        month=row.month,
        made_at=from_epoch_ms(row.made_at),
        opening_minor=row.opening_minor,
        charged_minor=charged,
        paid_minor=paid,
        other_minor=row.closing_minor - row.opening_minor + charged - paid,
        closing_minor=row.closing_minor,
        use=month_of(uses, first),
        last_month=month_of(uses, last_month),
        days=tuple(use for use in uses if use.day >= first),
        totals=_totals([use for use in uses if use.day >= first]),
        entries=tuple(listed),
        unsettled=tuple(missing),
        is_final=not missing,
    )


def statements_of(connection: Connection, account: str) -> list[str]:
    """Months that have one, as 2026-03; the newest first."""
    own = (
        select(statements.c.month)
        .join(accounts, accounts.c.number == statements.c.account)
        .where(accounts.c.id == account)
        .order_by(statements.c.month.desc())
    )
    return list(connection.execute(own).scalars())


class _Before(Struct, frozen=True, kw_only=True):
    """What the newest statement before a month ended with. number: the account's. known: the first day behind that one's month."""

    number: int
    closing_minor: int = 0
    last_entry: int = 0
    known: date = date.min


def _before(connection: Connection, account: str, first: date) -> _Before:
    number = connection.execute(select(accounts.c.number).where(accounts.c.id == account)).scalar()
    if number is None:
        raise UnknownAccount(account)
    newest = (
        select(statements)
        .where(statements.c.account == number, statements.c.month < f"{first:%Y-%m}")
        .order_by(statements.c.month.desc())
        .limit(1)
    )
    row = connection.execute(newest).first()
    if row is None:
        return _Before(number=number)
    known = _next_month(date.fromisoformat(f"{row.month}-01"))
    return _Before(number=number, closing_minor=row.closing_minor, last_entry=row.last_entry, known=known)


def _entries(connection: Connection, account: str, first: date, before: _Before, mark: int) -> list[StatementEntry]:
    """Of the month's days and booked by the mark; and of earlier days, booked since the statement before."""
    found = entries_of(
        connection, account, since=before.known, until=_next_month(first), booked_after=before.last_entry
    )
    return [
        StatementEntry(number=number, entry=entry, moved_minor=moved, is_late=entry.day < first)
        for number, entry, moved in found
        if number <= mark
    ]


def _totals(uses: list[DayUse]) -> tuple[Line, ...]:
    found: dict[tuple[str, Decimal], Line] = {}
    for use in uses:
        for line in use.lines:
            key = (line.what, line.price)
            held = found.get(key)
            kwh = line.kwh if held is None or held.kwh is None or line.kwh is None else held.kwh + line.kwh
            exact = line.exact + (held.exact if held is not None else 0)
            found[key] = Line(what=line.what, kwh=kwh, price=line.price, exact=exact)
    return tuple(found.values())


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)
