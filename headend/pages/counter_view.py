"""What stands on the cashier's pages: accounts that were found, the day's takings, a payment. All but the values block."""

from collections.abc import Sequence
from datetime import date

from msgspec import Struct

from headend.pages.supply_words import SupplyWords, supply_words
from headend.pages.words import Words
from headend.prepayment.account_card import AccountCard
from headend.prepayment.account_rows import AccountRow
from headend.prepayment.model import Payment, PaymentState
from headend.prepayment.notices import Letter
from headend.prepayment.office import Office

__all__ = ["COUNTER", "AccountFacts", "Found", "Takings", "account_facts", "find", "payment_of", "takings"]

COUNTER = "counter"  # the channel
FOUND_MAX = 20
RECENT = 5


class Found(Struct, frozen=True):
    row: AccountRow
    supply: SupplyWords


class AccountFacts(Struct, frozen=True, kw_only=True):
    """payments: the newest first."""

    card: AccountCard
    letters: Sequence[Letter]
    payments: Sequence[Payment]
    statements: Sequence[str]


class Takings(Struct, frozen=True, kw_only=True):
    """rows: the newest first. sums: of what is booked, by currency. not_booked: receipts that have to be told again."""

    rows: tuple[Payment, ...]
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
        statements=office.statements(account),
    )


def payment_of(office: Office, account: str, receipt: str) -> Payment | None:
    """That was taken at the counter. Raises UnknownAccount."""
    own = (one for one in office.payments(account) if one.channel == COUNTER and one.receipt == receipt)
    return next(own, None)


def takings(office: Office, day: date, t: Words) -> Takings:
    found = office.reconciliation(COUNTER, day)
    booked = PaymentState.BOOKED.value
    return Takings(
        rows=found.payments[::-1],
        sums=tuple(t.money(one.amount_minor, one.currency) for one in found.sums if one.state == booked),
        not_booked=tuple(f"{one.receipt} ({one.account})" for one in found.not_booked),
    )
