"""The cashier's counter in a browser: a payment by keyboard alone, clicked twice, and without JavaScript."""

import pypdfium2
import pytest
from playwright.sync_api import Page, expect

from tests.browser.visit import DESK, PHONE, Visits, nameless, violations
from tests.headend.pages.village import Village


def credit(village: Village, account: str) -> int:
    return village.office.standing(account).available_minor


def to_check(visits: Visits, page: Page, account: str, amount: str) -> None:
    visits.enter(page, visits.site.cashier, f"/counter/accounts/{account}")
    page.get_by_label("Amount").fill(amount)
    page.get_by_role("button", name="Next: check").click()


@pytest.mark.parametrize("script", [True, False])
def test_a_payment_goes_from_search_to_receipt_by_keyboard_alone(
    visits: Visits, village: Village, script: bool
) -> None:
    page, keys = visits.open(DESK, script=script), None
    keys = page.keyboard
    before = credit(village, "A1004")
    page.goto("/counter")
    for text in (visits.site.cashier, "13800001004", "50"):  # each page waits for its field with the cursor in it
        page.wait_for_load_state()
        expect(page.locator("input:focus")).to_have_count(1)
        keys.type(text)
        keys.press("Enter")
        page.wait_for_load_state()
        page.wait_for_timeout(50) if not script else None
    expect(page.get_by_role("heading", level=1)).to_have_text("Check the payment")
    expect(page.locator("main")).to_contain_text("欧**国")
    expect(page.locator("button:focus")).to_have_text("Confirm: take 50.00 yuan")
    keys.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Payment receipt")
    expect(page.get_by_role("status")).to_have_text("Booked")
    assert credit(village, "A1004") == before + 5000
    expect(page.locator("main")).to_contain_text(f"{(before + 5000) / 100:.2f} yuan")
    keys.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Cashier's counter")


def test_two_clicks_a_reload_and_the_way_back_take_it_once(visits: Visits, village: Village) -> None:
    page, before = visits.open(PHONE), credit(village, "A1005")
    to_check(visits, page, "A1005", "12.34")
    page.get_by_role("button", name="Confirm").dblclick()
    expect(page.get_by_role("heading", level=1)).to_have_text("Payment receipt")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Payment receipt")
    page.go_back()
    if page.get_by_role("button", name="Confirm").count():
        page.get_by_role("button", name="Confirm").click()
        expect(page.get_by_role("status")).to_contain_text("nothing was taken twice")
    assert credit(village, "A1005") == before + 1234
    assert len([one for one in village.office.payments("A1005") if one.amount_minor == 1234]) == 1


def test_a_mistake_keeps_what_was_typed_and_puts_the_cursor_there(visits: Visits) -> None:
    page = visits.open(PHONE)
    to_check(visits, page, "A1005", "5O")
    field = page.get_by_label("Amount")
    expect(field).to_be_focused()
    expect(field).to_have_value("5O")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(
        "For example 50 or 50.00 “5O” is no amount. Enter digits, such as 50 or 50.00."
    )
    expect(page.get_by_role("alert")).to_contain_text("“5O” is no amount")
    receipt = page.get_by_label("Receipt number").input_value()
    field.fill("50")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_contain_text(receipt)
    page.get_by_role("link", name="Change").click()
    expect(page.get_by_label("Amount")).to_have_value("50")
    expect(page.get_by_label("Receipt number")).to_have_value(receipt)


@pytest.mark.parametrize(("size", "lang", "dark"), [(PHONE, "en", False), (DESK, "zh", True)])
def test_nothing_stands_in_a_cashiers_way(visits: Visits, size: tuple[int, int], lang: str, dark: bool) -> None:
    page = visits.open(size, lang=lang, dark=dark)
    visits.enter(page, visits.site.cashier, "/counter")
    for place in (
        f"/counter?q=A100&lang={lang}",
        "/counter/accounts/A1003",
        "/counter/accounts/A1003/check?amount=x&receipt=",
        "/counter/accounts/A1003/check?amount=50&receipt=R1",
        f"/counter/accounts/A1001/receipt?number={_counter_receipt(visits)}",
        "/counter/accounts/nobody",
    ):
        try:
            page.goto(place)
            assert violations(page) == [], place
            assert nameless(page) == [], place
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), place
        finally:
            visits.complaints[:] = [text for text in visits.complaints if "status of 404" not in text]


def test_a_printed_receipt_has_what_counts_and_no_buttons(visits: Visits) -> None:
    page = visits.open(DESK)
    number = _counter_receipt(visits)
    visits.enter(page, visits.site.cashier, f"/counter/accounts/A1001/receipt?number={number}")
    printed = pypdfium2.PdfDocument(page.pdf())
    assert len(printed) == 1
    text = printed[0].get_textpage().get_text_range()
    printed.close()
    for wanted in ("Payment receipt", number, "300.00 yuan", "A1001"):
        assert wanted in text
    assert "Next customer" not in text
    assert "Sign out" not in text


def test_the_days_takings_grow_by_what_was_taken(visits: Visits, village: Village) -> None:
    page = visits.open(DESK)
    to_check(visits, page, "A1005", "7.77")
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("status")).to_have_text("Booked")
    page.get_by_role("link", name="Next customer").click()
    today = village.town.now.astimezone(village.zone).date()
    total = sum(one.amount_minor for one in village.office.reconciliation("counter", today).payments)
    expect(page.locator("#takings-sum")).to_have_text(f"Total booked {total / 100:.2f} yuan")
    expect(page.get_by_role("listitem").filter(has_text="7.77 yuan")).to_contain_text("A1005 · booked")


def _counter_receipt(visits: Visits) -> str:
    return next(one.receipt for one in visits.site.village.office.payments("A1001") if one.channel == "counter")
