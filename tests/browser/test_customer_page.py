"""The customer's page on a phone and on a desk, with and without JavaScript, by eye, by keyboard and by ear."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.visit import DESK, PHONE, Visits, nameless, violations
from tests.headend.pages.village import Village

INK = """canvas => {
  const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colors = new Map();
  for (let at = 0; at < drawn.length; at += 4)
    if (drawn[at + 3] > 200) { const key = drawn.slice(at, at + 3).join(); colors.set(key, (colors.get(key) || 0) + 1); }
  return Math.max(0, ...colors.values()) / (drawn.length / 4);
}"""


def fits(page: Page) -> bool:
    """Nobody has to scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_the_chart_is_drawn_from_the_table_and_follows_the_window(visits: Visits, size: tuple[int, int]) -> None:
    page = visits.open(size, lang="zh")
    visits.enter(page, visits.site.customers["A1001"], "/my")
    chart = page.locator("#chart")
    expect(chart).to_have_attribute("data-drawn", "2")
    canvases = page.locator("#chart canvas")
    expect(canvases).to_have_count(2)
    for number in range(2):
        assert canvases.nth(number).evaluate(INK) > 0.1  # of its area are bars
    assert not page.locator("#use-details").evaluate("one => one.open")
    name = chart.get_attribute("aria-label")
    assert name is not None
    assert "30 天" in name
    assert fits(page)
    page.set_viewport_size({"width": 360, "height": 800})
    expect(canvases.first).to_have_js_property("offsetWidth", page.locator("#chart").evaluate("one => one.clientWidth"))
    assert fits(page)


def test_the_day_under_the_pointer_is_told(visits: Visits) -> None:
    page = visits.open(DESK)
    visits.enter(page, visits.site.customers["A1001"], "/my?lang=en")
    told = page.locator(".chart-head strong").first
    expect(told).to_contain_text("23 Mar")
    page.locator(".u-over").first.hover(position={"x": 12, "y": 40})
    expect(told).to_contain_text("21 Feb · 10.15")
    expect(page.locator(".chart-head strong").nth(1)).to_contain_text("21 Feb · 7.51")


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_without_javascript_the_table_stands_where_the_chart_would(visits: Visits, size: tuple[int, int]) -> None:
    page = visits.open(size, script=False)
    visits.enter(page, visits.site.customers["A1002"], "/my")
    expect(page.locator("#chart")).to_be_hidden()
    expect(page.locator("#use-table")).to_be_visible()
    expect(page.locator("#use-table tbody tr")).to_have_count(31)
    expect(page.get_by_role("heading", level=1)).to_have_text("Your electricity")
    expect(page.get_by_role("heading", name="Disconnection is near")).to_be_visible()
    page.get_by_text("Earlier ones").click()
    expect(page.get_by_text("prepaid and settled every day")).to_be_visible()


@pytest.mark.parametrize(
    ("account", "lang", "size", "dark"),
    [
        ("A1001", "zh", PHONE, False),
        ("A1003", "en", DESK, True),
    ],
)
def test_nothing_stands_in_anybodys_way(
    visits: Visits, account: str, lang: str, size: tuple[int, int], dark: bool
) -> None:
    page = visits.open(size, lang=lang, dark=dark)
    page.goto(f"/sign-in?lang={lang}")
    assert violations(page) == []
    assert nameless(page) == []
    visits.enter(page, visits.site.customers[account], f"/my?lang={lang}")
    assert violations(page) == []
    assert nameless(page) == []
    assert fits(page)
    page.goto("/my/statement.html?month=2026-02")
    assert violations(page) == []
    assert fits(page)


def test_the_language_is_changed_by_a_link_and_kept(visits: Visits) -> None:
    page = visits.open(PHONE, lang="zh")
    visits.sign_in(page, visits.site.customers["A1001"])
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.get_by_role("link", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.get_by_role("link", name="Statement of Feb 2026", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Electricity statement")
    expect(page.get_by_role("row", name=re.compile("^Closing balance"))).to_contain_text("244.55 yuan")
    page.get_by_role("link", name="Back to the start").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    page.goto("/my")
    expect(page).to_have_url(re.compile("/sign-in"))


def test_by_keyboard_the_first_stop_skips_to_the_content_and_every_stop_is_seen(visits: Visits) -> None:
    page = visits.open(DESK)
    visits.enter(page, visits.site.customers["A1001"], "/my?lang=en")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(8):
        box = page.evaluate(
            """() => { const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
            return [one.tagName, style.outlineStyle, parseFloat(style.outlineWidth), box.width]; }"""
        )
        assert box[1] != "none"
        assert box[2] >= 2
        assert box[3] > 0
        seen.append(box[0])
        page.keyboard.press("Tab")
    assert {"A", "BUTTON", "SUMMARY"} <= set(seen)


def test_a_statement_is_a_pdf_one_link_away(visits: Visits, village: Village) -> None:
    page = visits.open(DESK)
    visits.enter(page, visits.site.customers["A1001"], "/my?lang=en")
    link = page.get_by_role("link", name="Statement of Feb 2026, PDF").get_attribute("href")
    assert link is not None
    answer = page.request.get(link)
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.body().startswith(b"%PDF-")
