"""What stands on a customer's page: gathered from the office in one go, then put into rows. The page itself decides nothing."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from msgspec import Struct

from headend.pages.paid_rows import PaidRow, paid_rows
from headend.pages.supply_words import SupplyWords, supply_words
from headend.pages.words import Words, language_of
from headend.prepayment.books.autopay import Debit
from headend.prepayment.books.points import Award
from headend.prepayment.errors import UnknownTariff
from headend.prepayment.model import Payment
from headend.prepayment.notices.notices import Letter
from headend.prepayment.office.office import Office
from headend.prepayment.settlement.daily import Comparison, DayUse, MonthUse
from headend.prepayment.views.account_card import AccountCard
from headend.prepayment.views.standing import LandlordRow

__all__ = ["Bar", "CustomerFacts", "CustomerView", "UseRow", "Uses", "customer_view", "gather", "uses_of"]

CHART_DAYS = 31
LISTED_MAX = 200  # payments of one page; statements have the others
AT_FIRST = 4  # payments and notices shown before the earlier ones are opened


class CustomerFacts(Struct, frozen=True, kw_only=True):
    card: AccountCard
    daily: Sequence[DayUse]
    comparison: Comparison
    payments: Sequence[Payment]
    awards: Sequence[Award]
    letters: Sequence[Letter]
    debits: Sequence[Debit]
    statements: Sequence[str]
    tenants: Sequence[LandlordRow]
    tariff_words: Sequence[str]


def gather(office: Office, account: str, language: str) -> CustomerFacts:
    """Blocking. language: "" is the customer's own. Raises UnknownAccount."""
    card = office.card(account)
    today = card.standing.today
    return CustomerFacts(
        card=card,
        daily=office.daily(account, today - timedelta(days=CHART_DAYS), today),
        comparison=office.comparison(account),
        payments=office.payments(account),
        awards=office.awards(account),
        letters=office.letters(account),
        debits=office.debits(account),
        statements=office.statements(account),
        tenants=office.landlord(card.account.customer),
        tariff_words=_tariff_words(office, card.account.tariff, language or language_of(card.contact.language)),
    )


def _tariff_words(office: Office, tariff: str, language: str) -> Sequence[str]:
    try:
        return office.tariff_words(tariff, language=language)
    except UnknownTariff:  # its file was taken away; the account's figures do not need it
        return ()


class UseRow(Struct, frozen=True, kw_only=True):
    """A charged day, or a stretch of several. kwh_plain, cost_plain: for the chart, in the main unit."""

    day: date
    label: str
    kwh: str
    cost: str
    kwh_plain: str
    cost_plain: str


class Uses(Struct, frozen=True, kw_only=True):
    rows: tuple[UseRow, ...]
    kwh: str
    cost: str
    since: date | None = None
    until: date | None = None
    summary: str = ""


class Bar(Struct, frozen=True, kw_only=True):
    """width: 0 to 100."""

    label: str
    kwh: str
    cost: str
    width: str
    is_this: bool = False


class CustomerView(Struct, frozen=True, kw_only=True):
    supply: SupplyWords
    uses: Uses
    bars: tuple[Bar, ...]
    verdict: str
    payments: tuple[PaidRow, ...]
    letters: tuple[Letter, ...]
    statements: tuple[str, ...]
    debits: tuple[Debit, ...]


def customer_view(facts: CustomerFacts, t: Words) -> CustomerView:
    """Lists begin with the newest."""
    currency = facts.card.account.currency
    return CustomerView(
        supply=supply_words(facts.card, facts.letters, t),
        uses=uses_of(facts.daily, currency, t),
        bars=_bars(facts.comparison, currency, t),
        verdict=_verdict(facts.comparison, t),
        payments=paid_rows(facts.payments[::-1][:LISTED_MAX], facts.awards, t),
        letters=tuple(facts.letters),
        statements=tuple(facts.statements),
        debits=tuple(sorted(facts.debits, key=lambda one: one.asked_at, reverse=True)),
    )


def uses_of(daily: Sequence[DayUse], currency: str, t: Words) -> Uses:
    rows = tuple(
        UseRow(
            day=one.day,
            label=t.span(one.since, one.day),
            kwh=t.kwh(one.kwh),
            cost=t.exact(one.exact_minor, currency),
            kwh_plain=_ascii(t.kwh(one.kwh)),
            cost_plain=_ascii(t.exact(one.exact_minor, currency)),
        )
        for one in daily
    )
    kwh = sum((one.kwh for one in daily), Decimal(0))
    cost = sum((one.exact_minor for one in daily), Decimal(0))
    if not daily:
        return Uses(rows=(), kwh=t.kwh(kwh), cost=t.exact(cost, currency))
    most = max(daily, key=lambda one: one.kwh)
    return Uses(
        rows=rows,
        kwh=t.kwh(kwh),
        cost=t.exact(cost, currency),
        since=daily[0].since,
        until=daily[-1].day,
        summary=t(
            "use.chart",
            count=len(daily),
            kwh=t.kwh(kwh),
            cost=f"{t.exact(cost, currency)} {t.unit(currency)}",
            day=t.span(most.since, most.day),
            most=t.kwh(most.kwh),
        ),
    )


def _ascii(text: str) -> str:
    return text.replace("−", "-")


def _bars(found: Comparison, currency: str, t: Words) -> tuple[Bar, ...]:
    months: tuple[tuple[str, MonthUse], ...] = (
        ("compare.this", found.this),
        ("compare.last_so_far", found.last_so_far),
        ("compare.last", found.last),
    )
    most = max(one.kwh for _, one in months)
    return tuple(
        Bar(
            label=t.count(name, one.days),
            kwh=t.kwh(one.kwh),
            cost=t.exact(one.exact_minor, currency),
            width=f"{100 * one.kwh / most:.1f}" if most else "0",
            is_this=one is found.this,
        )
        for name, one in months
        if one.days or one is found.this
    )


def _verdict(found: Comparison, t: Words) -> str:
    """Only where as many days stand behind both."""
    before, now = found.last_so_far, found.this
    if not before.kwh or before.days != now.days:
        return ""
    percent = round(100 * (now.kwh - before.kwh) / before.kwh)
    if percent == 0:
        return t("compare.same")
    return t("compare.more" if percent > 0 else "compare.less", percent=abs(percent))
