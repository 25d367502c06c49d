"""What stands on the cashier's pages: accounts that were found, the day's takings, a payment. All but the values block."""

from collections.abc import Sequence
from datetime import date

from msgspec import Struct

from headend.pages.supply_words import SupplyWords, supply_words
from headend.pages.words import Words
from headend.prepayment.books.points import Award
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.notices.notices import Letter
from headend.prepayment.office.office import Office
from headend.prepayment.views.account_card import AccountCard
from headend.prepayment.views.account_rows import AccountRow

__all__ = ["COUNTER", "AccountFacts", "Found", "Takings", "account_facts", "find", "payment_of", "takings"]

COUNTER = "counter"  # the channel
FOUND_MAX = 20
RECENT = 5
TAKINGS_MAX = 50  # rows of the day; all of them are in the reconciliation


class Found(Struct, frozen=True):
    row: AccountRow
    supply: SupplyWords


class AccountFacts(Struct, frozen=True, kw_only=True):
    """payments, statements: the newest first. awards: of all payments."""

    card: AccountCard
    letters: Sequence[Letter]
    payments: Sequence[Payment]
    awards: Sequence[Award]
    statements: Sequence[str]


class Takings(Struct, frozen=True, kw_only=True):
    """rows: the newest, newest first. more: whether there are earlier ones. sums: of all that is booked, by currency.

    not_booked: receipts that have to be told again.
    """

    rows: tuple[Payment, ...]
    more: bool
    sums: tuple[str, ...]
    not_booked: tuple[str, ...]


def find(office: Office, text: str, t: Words) -> tuple[Sequence[Found], bool]:
    """And whether there are more. A row knows no deadlines; its title does without. Raises BadInput."""
    rows = office.search(text, limit=FOUND_MAX + 1)
    return [Found(row, supply_words(row, (), t)) for row in rows[:FOUND_MAX]], len(rows) > FOUND_MAX


def account_facts(office: Office, account: str) -> AccountFacts:
    """Raises UnknownAccount."""
    return AccountFacts(
        card=office.card(account),
        letters=office.letters(account),
        payments=office.payments(account)[::-1][:RECENT],
        awards=office.awards(account),
        statements=office.statements(account),
    )


def payment_of(office: Office, account: str, receipt: str) -> Payment | None:
    """That was taken at the counter for the account. receipt: printable, or a database could not be asked for it."""
    found = office.payment(COUNTER, receipt)
    return found if found is not None and found.booked_for == account else None


def takings(office: Office, day: date, t: Words) -> Takings:
    found = office.reconciliation(COUNTER, day)
    booked = PaymentState.BOOKED.value
    return Takings(
        rows=found.payments[::-1][:TAKINGS_MAX],
        more=len(found.payments) > TAKINGS_MAX,
        sums=tuple(t.money(one.amount_minor, one.currency) for one in found.sums if one.state == booked),
        not_booked=tuple(f"{one.receipt} ({one.account})" for one in found.not_booked),
    )
