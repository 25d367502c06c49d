"""What customers are told outside of an episode: agreements, debits, statements, findings. Every function works inside its caller's
transaction and tells the same once."""

from datetime import date, datetime

from msgspec import Struct
from sqlalchemy import Connection

from headend.feed.envelope import plain
from headend.prepayment.accounts.accounts import account_of, contacts_of
from headend.prepayment.books.autopay import ACCEPTED, Debit
from headend.prepayment.books.books import balance_of
from headend.prepayment.model import Account
from headend.prepayment.notices.notices import Draft, post
from headend.prepayment.notices.plan import NoticePlan
from headend.prepayment.notices.texts import Figure, Money, NoticeTexts
from headend.prepayment.settlement.findings import Found
from headend.prepayment.views.statement_data import StatementData

__all__ = ["LetterDrafts"]


class LetterDrafts(Struct, frozen=True):
    """Every method gives False when it was told already, and raises UnknownAccount."""

    plan: NoticePlan
    texts: NoticeTexts

    def agreement(self, connection: Connection, account: str, now: datetime) -> bool:
        """Once for each day on which it begins, and for each number."""
        found = account_of(connection, account)
        numbers = len({contact.phone for contact in contacts_of(connection, account)})
        begins = f"{found.opened_on}" if numbers == 1 else f"{found.opened_on}/{numbers}"
        figures: dict[str, Figure] = {
            "day": found.opened_on,
            "reminder": Money(found.reminder_minor, found.currency),
            "topup": Money(found.topup_minor, found.currency) if found.topup_minor else None,
        }
        return self._post(connection, account, "agreement", begins, figures, now)

    def debit(self, connection: Connection, debit: Debit, now: datetime) -> None:
        """That it was drawn; and once a settlement that the bank refuses it, however often it is tried again."""
        account = account_of(connection, debit.account)
        figures: dict[str, Figure] = {
            "amount": Money(debit.amount_minor, account.currency),
            "day": debit.day,
            "balance": self._balance(connection, account),
        }
        if debit.state == ACCEPTED:
            self._post(connection, account.id, "topped-up", f"{debit.day}", figures, now)
        else:
            figures["reason"] = debit.problem or "?"
            self._post(connection, account.id, "debit-refused", f"{debit.day}", figures, now)

    def statement(self, connection: Connection, made: StatementData, now: datetime) -> bool:
        figures: dict[str, Figure] = {
            "month": made.month,
            "used": plain(made.use.kwh),
            "charged": Money(made.charged_minor, made.currency),
            "paid": Money(made.paid_minor, made.currency),
            "balance": Money(made.closing_minor, made.currency),
        }
        return self._post(connection, made.account, "statement", made.month, figures, now)

    def finding(self, connection: Connection, found: Found, today: date, now: datetime) -> bool:
        day = found.day or today
        figures: dict[str, Figure] = {"day": day, "kwh": plain(found.kwh), "found": found.rule}
        return self._post(connection, found.account, "finding", f"{found.rule}/{day}", figures, now)

    def _post(
        self, connection: Connection, account: str, kind: str, what: str, figures: dict[str, Figure], now: datetime
    ) -> bool:
        draft = Draft(id=f"{account}/{kind}/{what}", account=account, kind=kind, figures=figures)
        return post(connection, draft, now, plan=self.plan, texts=self.texts)

    @staticmethod
    def _balance(connection: Connection, account: Account) -> Money:
        return Money(balance_of(connection, account.id, account.currency), account.currency)
