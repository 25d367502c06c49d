"""A monthly statement as titles and tables of text: the same for HTML and for paper. Pure."""

from collections.abc import Sequence
from decimal import Decimal

from msgspec import Struct

from headend.feed.envelope import plain
from headend.pages.words import Words
from headend.prepayment.model import Cause
from headend.prepayment.tariffs.tariff import Line
from headend.prepayment.views.standing import CHARGES, PAID
from headend.prepayment.views.statement_data import StatementData, StatementEntry

__all__ = ["Sheet", "Table", "sheet_of"]

_BANDS = frozenset(("all", "sharp", "peak", "flat", "valley"))
_ONE_FIGURE = (0.7, 0.3)
_TWO_FIGURES = (0.5, 0.25, 0.25)
_THREE_FIGURES = (0.34, 0.22, 0.22, 0.22)
_ENTRIES = (0.16, 0.26, 0.38, 0.20)


class Table(Struct, frozen=True, kw_only=True):
    """widths: of the columns, as parts of a page's. figures: numbers of those that are set right. has_total: the last row sums up."""

    title: str
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[float, ...]
    figures: frozenset[int] = frozenset()
    has_total: bool = False

    def is_figure(self, column: int) -> bool:
        return column in self.figures


class Sheet(Struct, frozen=True, kw_only=True):
    """heads: name and text. final: whether all days are charged, in words."""

    title: str
    account: str
    month: str
    month_words: str
    heads: tuple[tuple[str, str], ...]
    final: str
    is_final: bool
    tables: tuple[Table, ...]
    rounding: str
    made: str


def sheet_of(data: StatementData, holder: str, t: Words) -> Sheet:
    return Sheet(
        title=t("statement.title"),
        account=data.account,
        month=data.month,
        month_words=t.month(data.month),
        heads=(
            (t("statement.account"), data.account),
            (t("statement.holder"), holder),
            (t("statement.address"), data.address),
            (t("statement.premises"), data.premises),
        ),
        final=_final(data, t),
        is_final=data.is_final,
        tables=(
            _summary(data, t),
            _prices(data, t),
            _compare(data, t),
            _payments(data, t),
            _others(data, t),
            _days(data, t),
        ),
        rounding=t("statement.rounding"),
        made=t("statement.made", at=t.moment(data.made_at)),
    )


def _final(data: StatementData, t: Words) -> str:
    if data.is_final:
        return t("statement.final")
    days = ", ".join(t.short_day(one.day) for one in data.unsettled)
    return t("statement.not_final", days=days)


def _summary(data: StatementData, t: Words) -> Table:
    currency = data.currency
    rows = [
        (t("statement.opening"), t.number(data.opening_minor, currency)),
        (t("statement.charged"), t.number(-data.charged_minor, currency)),
        (t("statement.paid"), t.number(data.paid_minor, currency)),
    ]
    if data.other_minor:
        rows.append((t("statement.other"), t.number(data.other_minor, currency)))
    rows.append((t("statement.closing"), t.money(data.closing_minor, currency)))
    return Table(
        title=t("statement.summary"), rows=tuple(rows), widths=_ONE_FIGURE, figures=frozenset({1}), has_total=True
    )


def _prices(data: StatementData, t: Words) -> Table:
    unit = t.unit(data.currency)
    rows = [_price(line, data.currency, t) for line in sorted(data.totals, key=_place)]
    if rows:
        exact = sum((line.exact for line in data.totals), Decimal(0))
        rows.append((t("statement.total"), t.kwh(data.use.kwh), "", t.exact(exact, data.currency)))
    return Table(
        title=t("statement.prices"),
        heads=(
            t("statement.line"),
            t("statement.kwh"),
            t("statement.price", unit=unit),
            t("statement.amount", unit=unit),
        ),
        rows=tuple(rows),
        widths=_THREE_FIGURES,
        figures=frozenset({1, 2, 3}),
        has_total=bool(rows),
    )


def _place(line: Line) -> int:
    """Energy, steps, surcharges, taxes, the minimum: as a bill is read."""
    if line.what in _BANDS:
        return 0
    if line.what == "minimum":
        return 4
    if line.kwh is None:
        return 3
    return 1 if line.what.startswith("step ") else 2


def _price(line: Line, currency: str, t: Words) -> tuple[str, str, str, str]:
    name = t(f"band.{line.what}") if line.what in _BANDS else line.what
    step = line.what.removeprefix("step ")
    if line.what == "minimum":
        return t("cause.minimum-charge"), "", "", t.exact(line.exact, currency)
    if line.kwh is None:  # a tax: its price is a rate
        return name, "", f"{plain((line.price * 100).normalize())} %", t.exact(line.exact, currency)
    if step != line.what:
        name = t("statement.step", number=step)
    return name, t.kwh(line.kwh), plain(line.price), t.exact(line.exact, currency)


def _compare(data: StatementData, t: Words) -> Table:
    return Table(
        title=t("statement.compare"),
        heads=(
            t("compare.month"),
            t("statement.days_charged"),
            t("statement.kwh"),
            t("statement.amount", unit=t.unit(data.currency)),
        ),
        rows=tuple(
            (f"{name} ({t.month(one.month)})", str(one.days), t.kwh(one.kwh), t.exact(one.exact_minor, data.currency))
            for name, one in ((t("statement.this_month"), data.use), (t("statement.last_month"), data.last_month))
        ),
        widths=_THREE_FIGURES,
        figures=frozenset({1, 2, 3}),
    )


def _payments(data: StatementData, t: Words) -> Table:
    return _entries(t("statement.payments"), [one for one in data.entries if one.entry.cause in PAID], data.currency, t)


def _others(data: StatementData, t: Words) -> Table:
    """All that is no day's own charge: corrections, the minimum, adjustments, and what came late."""
    own = [
        one
        for one in data.entries
        if one.entry.cause not in PAID
        and (one.is_late or one.entry.cause not in CHARGES - {Cause.CORRECTION, Cause.MINIMUM})
    ]
    return _entries(t("statement.corrections"), own, data.currency, t)


def _entries(title: str, entries: Sequence[StatementEntry], currency: str, t: Words) -> Table:
    rows = []
    for one in entries:
        what = t(f"cause.{one.entry.cause.value}")
        if one.is_late:
            what += f" ({t('statement.late')})"
        # What staff noted with an entry is not for the customer's paper.
        rows.append((t.short_day(one.entry.day), what, one.entry.reference, t.number(one.moved_minor, currency)))
    if rows:
        rows.append((t("statement.total"), "", "", t.number(sum(one.moved_minor for one in entries), currency)))
    return Table(
        title=title,
        heads=(
            t("statement.at"),
            t("statement.what"),
            t("statement.reference"),
            t("statement.amount", unit=t.unit(currency)),
        ),
        rows=tuple(rows),
        widths=_ENTRIES,
        figures=frozenset({3}),
        has_total=bool(rows),
    )


def _days(data: StatementData, t: Words) -> Table:
    rows = [(t.span(one.since, one.day), t.kwh(one.kwh), t.exact(one.exact_minor, data.currency)) for one in data.days]
    if rows:
        rows.append((t("statement.total"), t.kwh(data.use.kwh), t.exact(data.use.exact_minor, data.currency)))
    return Table(
        title=t("statement.days"),
        heads=(t("statement.day"), t("statement.kwh"), t("statement.amount", unit=t.unit(data.currency))),
        rows=tuple(rows),
        widths=_TWO_FIGURES,
        figures=frozenset({1, 2}),
        has_total=bool(rows),
    )
