"""What a top-up earns, at most once a month an account. Every function works inside its caller's transaction."""

from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, insert, select, update

from headend.prepayment.books.books import post
from headend.prepayment.books.points_file import PointsRule
from headend.prepayment.days import LocalDays
from headend.prepayment.model import Cause, Entry, Payment, customer_book
from headend.prepayment.storage.tables import points

__all__ = ["Award", "award", "awards_of", "take_back"]

BONUS_BOOK = "bonus:top-up"


class Award(Struct, frozen=True, kw_only=True):
    """month: 2026-03. points: counted beside the books; bonus_minor: booked to the customer's credit."""

    account: str
    month: str
    rule: str
    points: int
    bonus_minor: int
    channel: str
    receipt: str
    is_taken_back: bool


def award(connection: Connection, payment: Payment, rule: PointsRule, now: datetime, days: LocalDays) -> Award | None:
    """For the first payment of a local month that reaches a tier; None of any other. The month is the payment's own."""
    day = days.today(payment.paid_at)
    tier = rule.tier_of(payment.amount_minor, payment.currency, payment.channel, day)
    if tier is None:
        return None
    month = f"{day:%Y-%m}"
    own = points.c
    held = select(own.month).where(own.account == payment.booked_for, own.month == month)
    if connection.execute(held).first() is not None:
        return None
    number = None
    if tier.bonus_minor:
        entry = Entry(
            from_book=BONUS_BOOK,
            to_book=customer_book(payment.booked_for),
            amount_minor=tier.bonus_minor,
            currency=payment.currency,
            cause=Cause.POINTS,
            key=f"points:{payment.booked_for}:{month}",
            day=days.today(now),
            at=now,
            reference=payment.receipt,
            note=rule.name,
        )
        number = post(connection, [entry])[0].number
    row = {
        "account": payment.booked_for, "month": month, "rule": rule.name, "points": tier.points,
        "bonus_minor": tier.bonus_minor, "entry": number, "channel": payment.channel, "receipt": payment.receipt,
        "taken_back": 0,
    }  # fmt: skip
    connection.execute(insert(points), [row])
    return _award(row)


def take_back(connection: Connection, payment: Payment, now: datetime, days: LocalDays) -> Award | None:
    """What a payment had earned that was reversed. The month stays used: paying and taking back earns nothing."""
    own = points.c
    earned = (own.channel == payment.channel, own.receipt == payment.receipt, own.taken_back == 0)
    row = connection.execute(select(points).where(*earned)).first()
    if row is None:
        return None
    if row.bonus_minor:
        entry = Entry(
            from_book=customer_book(row.account),
            to_book=BONUS_BOOK,
            amount_minor=row.bonus_minor,
            currency=payment.currency,
            cause=Cause.POINTS,
            key=f"points-back:{row.account}:{row.month}",
            day=days.today(now),
            at=now,
            reference=payment.receipt,
            note="the payment that earned it was reversed",
            reverses=row.entry,
        )
        post(connection, [entry])
    connection.execute(update(points).where(*earned).values(taken_back=1))
    return _award(dict(row._mapping) | {"taken_back": 1})


def awards_of(connection: Connection, account: str) -> list[Award]:
    """By month."""
    rows = connection.execute(select(points).where(points.c.account == account).order_by(points.c.month))
    return [_award(row._mapping) for row in rows]


def _award(row: Any) -> Award:
    return Award(
        account=row["account"],
        month=row["month"],
        rule=row["rule"],
        points=row["points"],
        bonus_minor=row["bonus_minor"],
        channel=row["channel"],
        receipt=row["receipt"],
        is_taken_back=bool(row["taken_back"]),
    )
