"""What is said over HTTP about an account's days, months, entries and messages. Energy is decimal text in kWh.

What a customer is not told of the own account is left out here: `is_customer`.
"""

from collections.abc import Sequence
from datetime import date, datetime

from msgspec import Struct

from headend.api.shaping import shaped
from headend.feed.envelope import plain
from headend.prepayment.model import Entry
from headend.prepayment.settlement.daily import Comparison, DayUse, MonthUse
from headend.prepayment.settlement.settlement import UnsettledDay
from headend.prepayment.tariffs.tariff import Line
from headend.prepayment.views.standing import LandlordRow
from headend.prepayment.views.statement_data import StatementData

__all__ = [
    "ComparisonShape",
    "Daily",
    "DayShape",
    "DebitShape",
    "Debits",
    "Entries",
    "EntryShape",
    "Landlord",
    "LetterShape",
    "Notices",
    "StatementShape",
    "UnsettledShape",
    "comparison_shape",
    "day_shape",
    "entry_shape",
    "landlord_shape",
    "statement_shape",
    "unsettled_shapes",
]


class LineShape(Struct, frozen=True, kw_only=True):
    """A part of a charge. price: of a kWh, main unit of the currency; a rate for a tax. exact_minor: not rounded."""

    what: str
    kwh: str | None
    price: str
    exact_minor: str


class DayShape(Struct, frozen=True, kw_only=True):
    """A charged day. since: the first day of a stretch that could only be charged as one. used: kWh by band.

    booked_minor: as booked with the day; a correction is an entry of its own. exact_minor: as it is known now.
    """

    day: date
    since: date
    kwh: str
    used: dict[str, str]
    booked_minor: int
    exact_minor: str
    revision: int
    tariff: str
    version: str
    lines: list[LineShape]


class MonthShape(Struct, frozen=True, kw_only=True):
    """days: so many were charged."""

    month: str
    days: int
    kwh: str
    exact_minor: str


class ComparisonShape(Struct, frozen=True, kw_only=True):
    """This month so far, the same days of last month, and all of last month."""

    this: MonthShape
    last_so_far: MonthShape
    last: MonthShape


class Daily(Struct, frozen=True, kw_only=True):
    """days: the charged ones of [since, until)."""

    since: date
    until: date
    currency: str
    days: list[DayShape]
    comparison: ComparisonShape


class EntryShape(Struct, frozen=True, kw_only=True):
    """Money that moved. moved_minor: what it did to the customer's credit. note: "" to customers."""

    number: int
    day: date
    at: datetime
    cause: str
    moved_minor: int
    currency: str
    reference: str
    note: str
    reverses: int | None


class Entries(Struct, frozen=True):
    """The newest last."""

    entries: list[EntryShape]


class LateEntry(Struct, frozen=True, kw_only=True):
    """is_late: of a day of an earlier month."""

    entry: EntryShape
    is_late: bool


class UnsettledShape(Struct, frozen=True, kw_only=True):
    day: date
    reason: str


class StatementShape(Struct, frozen=True, kw_only=True):
    """A month. closing = opening - charged + paid + other. totals: the month's lines, added up by name and price.

    is_final: every day of the month is charged. months: of which there are statements, the newest first.
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
    use: MonthShape
    last_month: MonthShape
    days: list[DayShape]
    totals: list[LineShape]
    entries: list[LateEntry]
    unsettled: list[UnsettledShape]
    is_final: bool
    months: list[str]


class LetterShape(Struct, frozen=True, kw_only=True):
    """A message to the customer, and what became of it. step: as the switch's policy names it; "" of what proves nothing."""

    id: str
    kind: str
    step: str
    attempt: int
    language: str
    phone: str
    title: str
    text: str
    state: str
    created_at: datetime
    deadline: datetime | None
    tries: int
    channel: str
    reference: str
    sent_at: datetime | None
    delivered_at: datetime | None
    problem: str


class Notices(Struct, frozen=True):
    """The newest first."""

    notices: list[LetterShape]


class DebitShape(Struct, frozen=True, kw_only=True):
    """What the bank was asked to draw. day: of the settlement it belongs to. next_try_at: null when it is over."""

    day: date
    key: str
    amount_minor: int
    state: str
    tries: int
    asked_at: datetime
    next_try_at: datetime | None
    problem: str


class Debits(Struct, frozen=True, kw_only=True):
    """The newest last."""

    currency: str
    debits: list[DebitShape]


class TenantShape(Struct, frozen=True, kw_only=True):
    """A tenancy's totals: no name, phone or payment of the tenant. day_kwh: of the last charged day.

    today_kwh: of today until then, not settled yet; null where nothing was heard.
    """

    account: str
    premises: str
    since: date
    until: date | None
    currency: str
    available_minor: int
    month_kwh: str
    month_minor: int
    last_day: date | None
    day_kwh: str | None
    days_left: int | None
    today_kwh: str | None
    today_until: datetime | None


class Landlord(Struct, frozen=True):
    customer: str
    accounts: list[TenantShape]


def day_shape(use: DayUse) -> DayShape:
    used = {band.name.lower(): plain(kwh) for band, kwh in use.used.items()}
    return shaped(DayShape, use, used=used, lines=_lines(use.lines))


def comparison_shape(found: Comparison) -> ComparisonShape:
    return ComparisonShape(this=_month(found.this), last_so_far=_month(found.last_so_far), last=_month(found.last))


def entry_shape(number: int, entry: Entry, moved_minor: int, *, is_customer: bool = False) -> EntryShape:
    note = "" if is_customer else entry.note
    return shaped(EntryShape, entry, number=number, moved_minor=moved_minor, note=note)


def statement_shape(found: StatementData, months: Sequence[str], *, is_customer: bool = False) -> StatementShape:
    return shaped(
        StatementShape,
        found,
        use=_month(found.use),
        last_month=_month(found.last_month),
        days=[day_shape(use) for use in found.days],
        totals=_lines(found.totals),
        entries=[
            LateEntry(
                entry=entry_shape(one.number, one.entry, one.moved_minor, is_customer=is_customer), is_late=one.is_late
            )
            for one in found.entries
        ],
        unsettled=unsettled_shapes(found.unsettled),
        months=list(months),
    )


def landlord_shape(customer: str, rows: Sequence[LandlordRow]) -> Landlord:
    return Landlord(customer, [shaped(TenantShape, row) for row in rows])


def unsettled_shapes(days: Sequence[UnsettledDay]) -> list[UnsettledShape]:
    return [shaped(UnsettledShape, one) for one in days]


def _lines(lines: Sequence[Line]) -> list[LineShape]:
    return [shaped(LineShape, one, exact_minor=plain(one.exact)) for one in lines]


def _month(use: MonthUse) -> MonthShape:
    return shaped(MonthShape, use)
