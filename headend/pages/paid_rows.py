"""Payments as rows of a page, each with what it earned. Pure."""

from collections.abc import Sequence

from msgspec import Struct

from headend.pages.words import Words
from headend.prepayment.books.points import Award
from headend.prepayment.model import Payment

__all__ = ["PaidRow", "paid_rows"]


class PaidRow(Struct, frozen=True):
    """earned: in words; "" where it earned nothing."""

    payment: Payment
    earned: str


def paid_rows(payments: Sequence[Payment], awards: Sequence[Award], t: Words) -> tuple[PaidRow, ...]:
    """awards: of the same account."""
    by_payment = {(one.channel, one.receipt): one for one in awards}
    return tuple(PaidRow(one, _earned(by_payment.get((one.channel, one.receipt)), one.currency, t)) for one in payments)


def _earned(award: Award | None, currency: str, t: Words) -> str:
    if award is None:
        return ""
    parts = [t.count("payments.points", award.points)] if award.points else []
    if award.bonus_minor:
        parts.append(t("payments.bonus", bonus=t.money(award.bonus_minor, currency)))
    earned = t("payments.and").join(parts)
    return t("payments.earned_back", earned=earned) if award.is_taken_back and earned else earned
