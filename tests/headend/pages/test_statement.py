"""Monthly statements as pages and on paper: the same figures as the office's, for those who may see them."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import httpx
import pypdfium2
import pytest
from msgspec.structs import replace

from headend.pages.statement_pdf import statement_pdf
from headend.pages.statement_view import sheet_of
from headend.pages.words import load_words
from headend.prepayment.model import Cause
from headend.prepayment.settlement.settlement import UnsettledDay
from headend.prepayment.tariffs.tariff import Line
from headend.prepayment.views.statement_data import StatementData
from tests.headend.pages.paper_browser import read, sign_in
from tests.headend.pages.village import Site, Village
from tests.headend.prepayment.fleet import SHANGHAI

EN, ZH = load_words("en", SHANGHAI), load_words("zh", SHANGHAI)
FEBRUARY = date(2026, 2, 1)


def data_of(village: Village, account: str = "A1001") -> StatementData:
    found = village.office.statement(account, FEBRUARY)
    assert found is not None
    return found


def on_paper(content: bytes) -> list[str]:
    """Text by page, as an independent reader finds it."""
    document = pypdfium2.PdfDocument(content)
    pages = [page.get_textpage().get_text_range() for page in document]
    document.close()
    return pages


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_page_and_paper_say_the_same_and_what_the_office_says(
    site: Site, client: httpx.Client, village: Village, lang: str
) -> None:
    t, data = load_words(lang, SHANGHAI), data_of(village)
    sign_in(client, site.customers["A1001"], lang=lang)
    page = read(client.get("/my/statement.html?month=2026-02"))
    answer = client.get("/my/statement.pdf?month=2026-02")
    assert answer.headers["content-type"] == "application/pdf"
    paper = " ".join(" ".join(on_paper(answer.content)).split())
    wanted = [
        f"{t('statement.opening')} {t.number(data.opening_minor, 'CNY')}",
        f"{t('statement.closing')} {t.number(data.closing_minor, 'CNY')}",
        f"{t('band.sharp')} {t.kwh(data.totals[0].kwh or Decimal(0))} 1.182",
        f"{t('statement.total')} {t.kwh(data.use.kwh)}",
        "王小明",
        "洛阳市涧西区南昌路01号院2单元301",
        "A2602101001",
        *(f"{t.short_day(one.day)} {t.kwh(one.kwh)} {t.exact(one.exact_minor, 'CNY')}" for one in data.days),
    ]
    assert len(data.days) == 28
    for text in wanted:
        assert text in page.text
        assert text in paper


def test_every_page_of_paper_is_numbered_and_a4(village: Village) -> None:
    content = statement_pdf(sheet_of(data_of(village), "王小明", ZH), ZH)
    pages = on_paper(content)
    assert len(pages) == 2
    for number, text in enumerate(pages, 1):
        assert f"第 {number} 页，共 2 页" in text
    document = pypdfium2.PdfDocument(content)
    assert [round(side) for side in document[0].get_size()] == [595, 842]
    assert document.get_metadata_dict()["Title"] == "电费账单 A1001 2026-02"
    document.close()


def test_the_sums_add_up(village: Village) -> None:
    for account in ("A1001", "A1002", "A1003", "A1004"):
        data = data_of(village, account)
        assert data.closing_minor == data.opening_minor - data.charged_minor + data.paid_minor + data.other_minor
        summary = sheet_of(data, "", EN).tables[0]
        figures = [Decimal(row[1].removesuffix(" yuan").replace("−", "-")) for row in summary.rows]
        assert sum(figures[:-1]) == figures[-1]


def test_a_month_with_days_missing_corrections_and_a_minimum_says_so(village: Village) -> None:
    data = data_of(village)
    entry = next(one for one in data.entries if one.entry.cause is Cause.DAILY_CHARGE)
    late = replace(
        entry, entry=replace(entry.entry, cause=Cause.CORRECTION, note="by Ann"), is_late=True, moved_minor=-123
    )
    lines = (*data.totals, Line(what="minimum", kwh=None, price=Decimal(2000), exact=Decimal("55.5")))
    waits = (UnsettledDay(account="A1001", day=date(2026, 2, 3), reason="missing"),)
    odd = replace(data, entries=(late,), totals=lines, unsettled=waits, is_final=False, other_minor=-500)
    sheet = sheet_of(odd, "王小明", EN)
    assert sheet.final == "Not charged yet: 3 Feb. That comes in a later statement."
    rows = [row for table in sheet.tables for row in table.rows]
    assert ("Monthly minimum", "", "", "0.56") in rows
    assert ("Other", "−5.00") in rows
    assert any(row[1] == "Correction of charges (of an earlier month)" and row[3] == "−1.23" for row in rows)
    paper = " ".join(on_paper(statement_pdf(sheet, EN)))
    assert "Correction of charges" in paper
    assert "by Ann" not in paper  # what staff noted


def test_a_tax_is_shown_with_its_rate_and_steps_with_their_number(village: Village) -> None:
    prices = sheet_of(data_of(village, "A1004"), "", ZH).tables[1]
    names = [row[0] for row in prices.rows]
    assert names == ["电能", "第 1 档加价", "第 2 档加价", "fund", "VAT", "合计"]
    assert next(row[2] for row in prices.rows if row[0] == "VAT") == "13 %"


def test_names_that_look_like_markup_are_printed_as_they_are(village: Village) -> None:
    sheet = sheet_of(data_of(village), "<b>Ann & 李</b> <font", EN)
    assert "<b>Ann & 李</b> <font" in on_paper(statement_pdf(sheet, EN))[0]


# ------------------------------------------------------------------------------------------------ under /v1


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("kind", ["html", "pdf"])
def test_programs_get_statements_with_a_token_that_may_see_them(site: Site, client: httpx.Client, kind: str) -> None:
    path = f"/v1/accounts/A1001/statement.{kind}?month=2026-02"
    assert client.get(path).status_code == 401
    assert client.get(path, headers=bearer(site.customers["A1002"])).status_code == 404
    for token in (site.reader, site.cashier, site.customers["A1001"]):
        assert client.get(path, headers=bearer(token)).status_code == 200


def test_what_is_asked_wrongly_is_answered_with_a_problem(site: Site, client: httpx.Client) -> None:
    headers = bearer(site.reader)
    for path, status in (
        ("/v1/accounts/A1001/statement.pdf", 400),
        ("/v1/accounts/A1001/statement.pdf?month=2026-13", 400),
        ("/v1/accounts/A1001/statement.html?month=2026-02&lang=fr", 400),
        ("/v1/accounts/A1001/statement.html?month=2026-02&moth=1", 400),
        ("/v1/accounts/A1001/statement.html?month=2025-12", 404),
        ("/v1/accounts/nobody/statement.html?month=2026-02", 404),
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_statement_that_was_saved_carries_its_style_with_it(site: Site, client: httpx.Client, tmp_path: Path) -> None:
    answer = client.get("/v1/accounts/A1001/statement.html?month=2026-02&lang=en", headers=bearer(site.reader))
    page = read(answer)
    assert page.all("style")
    assert not [own for own in page.all("link") if own["rel"] == "stylesheet"]
    assert "'sha256-" in answer.headers["content-security-policy"]


def test_a_month_without_a_statement_is_told_as_a_page(site: Site, client: httpx.Client) -> None:
    sign_in(client, site.customers["A1001"])
    for asked in ("?month=2026-03", "?month=x", ""):
        for kind in ("html", "pdf"):
            assert "no statement" in read(client.get(f"/my/statement.{kind}{asked}"), 404).text
