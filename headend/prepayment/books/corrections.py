"""What a person books by hand: a correction of an account, and money given back. Each inside its caller's transaction."""

from datetime import date, datetime

from sqlalchemy import Connection, select

from headend.prepayment.accounts.accounts import not_closed
from headend.prepayment.books.books import held, post
from headend.prepayment.errors import BadInput
from headend.prepayment.model import AMOUNT_MAX, Account, AccountState, Cause, Entry, Posted, customer_book
from headend.prepayment.money import shown
from headend.prepayment.storage.tables import entries

__all__ = ["ADJUSTMENTS", "PAID_OUT", "adjust", "is_new_credit", "refund"]

ADJUSTMENTS = "adjustments"
PAID_OUT = "paid-out:refunds"


def adjust(
    connection: Connection, account: Account, amount_minor: int, *, key: str, note: str, now: datetime, day: date
) -> Posted:
    """Signed: more than 0 is to the customer's credit. Raises AccountClosed, KeyReused, BadInput."""
    not_closed(connection, account.id)
    if not 0 < abs(amount_minor) <= AMOUNT_MAX:
        raise BadInput(f"amount_minor {amount_minor}; expected 1 to {AMOUNT_MAX} minor units, or less than nothing")
    customer, is_credit = customer_book(account.id), amount_minor > 0
    entry = Entry(
        from_book=ADJUSTMENTS if is_credit else customer,
        to_book=customer if is_credit else ADJUSTMENTS,
        amount_minor=abs(amount_minor),
        currency=account.currency,
        cause=Cause.ADJUSTMENT,
        key=f"adjust:{key}",
        day=day,
        at=now,
        reference=key,
        note=note,
    )
    return post(connection, [entry])[0]


def is_new_credit(connection: Connection, amount_minor: int, *, key: str) -> bool:
    """Whether `adjust` would book a credit that is not booked yet."""
    known = select(entries.c.number).where(entries.c.key == f"adjust:{key}")
    return 0 < amount_minor <= AMOUNT_MAX and connection.execute(known).first() is None


def refund(
    connection: Connection, account: Account, amount_minor: int, *, key: str, note: str, now: datetime, day: date
) -> Posted:
    """No more than there is: an open account's credit, or what a closed one left over. Raises KeyReused, BadInput."""
    if not 0 < amount_minor <= AMOUNT_MAX:
        raise BadInput(f"amount_minor {amount_minor}; expected 1 to {AMOUNT_MAX} minor units")
    is_closed = account.state is AccountState.CLOSED
    book = f"refund:{account.id}" if is_closed else customer_book(account.id)
    full_key = f"refund:{key}"
    is_known = connection.execute(select(entries.c.number).where(entries.c.key == full_key)).first() is not None
    there = held(connection, book, account.currency)
    if not is_known and amount_minor > there:
        raise BadInput(
            f"amount_minor {amount_minor}; account {account.id!r} has {shown(max(0, there), account.currency)} "
            f"{account.currency} that can be given back, expected no more"
        )
    entry = Entry(
        from_book=book,
        to_book=PAID_OUT,
        amount_minor=amount_minor,
        currency=account.currency,
        cause=Cause.REFUND,
        key=full_key,
        day=day,
        at=now,
        reference=key,
        note=note,
    )
    return post(connection, [entry])[0]
