"""The cashier's counter without JavaScript: finding, checking, taking once, and every mistake beside its field with nothing lost."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import quote

import httpx
import pytest

from headend.pages.counter_view import TAKINGS_MAX
from headend.prepayment.errors import SwitchboardUnavailable
from headend.prepayment.model import Payment, PaymentState
from tests.headend.pages.paper_browser import Page, read, sign_in
from tests.headend.pages.village import Site, Village, site_fixture, village_fixture

ACCOUNT = "/counter/accounts/A1005"


village = village_fixture("module")  # its own: days pass here
site = site_fixture("module")


@pytest.fixture
def till(site: Site, client: httpx.Client) -> httpx.Client:
    sign_in(client, site.cashier)
    return client


def check(till: httpx.Client, amount: str, *, receipt: str = "", account: str = ACCOUNT, status: int = 200) -> Page:
    """From the account's page to the one that is to be confirmed."""
    typed = read(till.get(account)).fields | {"amount": amount}
    asked = {"amount": amount, "receipt": receipt or typed["receipt"]}
    return read(till.get(f"{account}/check", params=asked), status)


def fields(page: Page) -> dict[str, str]:
    return {name: page.fields[name] for name in ("csrf", "amount", "receipt", "paid_at")}


def credit(village: Village, account: str = "A1005") -> int:
    return village.office.standing(account).available_minor


def booked(village: Village) -> list[Payment]:
    """Of today, at the counter."""
    today = village.town.now.astimezone(village.zone).date()
    found = village.office.reconciliation("counter", today).payments
    return [one for one in found if one.state is PaymentState.BOOKED]


@pytest.mark.parametrize(
    ("text", "account"),
    [("A1002", "A1002"), ("Li Hua", "A1002"), ("13800001004", "A1004"), ("M1003", "A1003"), ("欧阳", "A1004")],
)
def test_one_account_is_found_by_what_the_customer_knows(till: httpx.Client, text: str, account: str) -> None:
    answer = till.get("/counter", params={"q": text})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/counter/accounts/{account}")


def test_several_are_listed_and_none_is_said(till: httpx.Client) -> None:
    page = read(till.get("/counter", params={"q": "洛阳"}))
    assert "6 accounts found" in page.text
    assert "A1003 陈静" in page.text
    assert "Supply is off" in page.text
    assert "Nothing found for “99%”" in read(till.get("/counter", params={"q": "99%"})).text
    assert read(till.get("/counter", params={"q": "x" * 500})).text


def test_a_payment_is_checked_booked_and_its_receipt_shows_what_it_did(till: httpx.Client, village: Village) -> None:
    before = credit(village)
    page = check(till, "50")
    for text in ("A1005", "*伟", "50.00 yuan"):
        assert text in page.text
    assert "张伟" not in page.text
    assert credit(village) == before
    answer = till.post(f"{ACCOUNT}/payments", data=fields(page))
    assert answer.status_code == 303
    receipt = read(till.get(answer.headers["location"]))
    assert credit(village) == before + 5000
    for text in (
        "Booked",
        "50.00 yuan",
        page.fields["receipt"],
        f"Balance now {(before + 5000) / 100:.2f} yuan",
        "stays on",
    ):
        assert text in receipt.text
    payment = village.office.payments("A1005")[-1]
    assert (payment.channel, payment.receipt, payment.amount_minor) == ("counter", page.fields["receipt"], 5000)
    assert page.fields["receipt"] in read(till.get("/counter")).text


def test_a_double_click_a_reload_and_a_way_back_book_it_once(till: httpx.Client, village: Village) -> None:
    before, form = credit(village), fields(check(till, "12.30"))
    cookies = dict(till.cookies)
    with ThreadPoolExecutor(8) as several:
        answers = list(
            several.map(
                lambda _: httpx.post(f"{till.base_url}{ACCOUNT}/payments", data=form, cookies=cookies, timeout=20),
                range(8),
            )
        )
    assert {answer.status_code for answer in answers} == {303}
    again = till.post(f"{ACCOUNT}/payments", data=form)
    assert "nothing was taken twice" in read(till.get(again.headers["location"])).text
    assert credit(village) == before + 1230
    village.town.now += timedelta(hours=1)  # a page that was left open
    assert till.post(f"{ACCOUNT}/payments", data=form).status_code == 303
    assert credit(village) == before + 1230


def test_a_receipt_number_takes_one_payment_only(till: httpx.Client, village: Village) -> None:
    form = fields(check(till, "5", receipt="BOOK 17"))
    till.post(f"{ACCOUNT}/payments", data=form)
    before = credit(village)
    assert "was used for another payment" in check(till, "6", receipt="BOOK 17", status=422).text
    assert "no such account" in read(till.get("/counter/accounts/A1001/receipt?number=BOOK+17"), 404).text
    other = till.post(f"{ACCOUNT}/payments", data={**form, "amount": "6"})
    assert "was used for another payment" in read(other, 422).text
    elsewhere = fields(check(till, "5", account="/counter/accounts/A1001", receipt="BOOK 17"))
    page = read(till.post("/counter/accounts/A1001/payments", data=elsewhere), 422)
    assert "was used for another payment" in page.text
    assert page.fields["amount"] == "5"
    assert credit(village) == before


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("", "Enter an amount"),
        ("fifty", "“fifty” is no amount"),
        ("0", "must be more than 0"),
        ("1.234", "too many decimals"),
        ("-5", "is no amount"),
    ],
)
def test_a_mistake_stands_beside_its_field_and_nothing_is_lost(till: httpx.Client, amount: str, text: str) -> None:
    page = check(till, amount, receipt="KEEP 1", status=422)
    assert text in page.text
    assert page.fields["receipt"] == "KEEP 1"
    assert page.fields["amount"] == amount
    field = next(own for own in page.all("input") if own.get("name") == "amount")
    assert field["aria-invalid"] == "true"
    assert "amount-wrong" in field["aria-describedby"].split()
    assert any(own.get("id") == "amount-wrong" for own in page.all("p"))


def test_a_check_that_was_left_for_long_is_made_again(till: httpx.Client, village: Village) -> None:
    form, before = fields(check(till, "7")), credit(village)
    village.town.now += timedelta(minutes=16)
    page = read(till.post(f"{ACCOUNT}/payments", data=form), 422)
    assert "check was made too long ago" in page.text
    assert credit(village) == before
    assert till.post(f"{ACCOUNT}/payments", data=fields(page)).status_code == 303
    assert credit(village) == before + 700


@pytest.mark.parametrize("paid_at", ["", "x", "-1", "99999999999999999", "9999999999999", "٣"])
def test_a_time_that_no_check_gave_is_not_taken(till: httpx.Client, village: Village, paid_at: str) -> None:
    form, before = fields(check(till, "7")), credit(village)
    read(till.post(f"{ACCOUNT}/payments", data={**form, "paid_at": paid_at}), 422)
    assert credit(village) == before


def test_while_the_control_of_supplies_is_away_nothing_is_booked_and_the_same_form_does_it_later(
    till: httpx.Client, village: Village
) -> None:
    form, before = fields(check(till, "8.80")), credit(village)
    village.switch.away = 1.0
    try:
        page = read(till.post(f"{ACCOUNT}/payments", data=form), 503)
        assert "Nothing was booked" in page.text
        assert fields(page) == form
        assert form["receipt"] in read(till.get("/counter")).text  # as not booked yet
        with pytest.raises(SwitchboardUnavailable):
            village.switch.supply("M1005")
    finally:
        village.switch.away = 0.0
    assert credit(village) == before
    assert till.post(f"{ACCOUNT}/payments", data=form).status_code == 303
    assert credit(village) == before + 880
    assert "Not booked yet" not in read(till.get("/counter")).text


def test_a_form_of_another_session_takes_nothing(till: httpx.Client, village: Village) -> None:
    form, before = fields(check(till, "9")), credit(village)
    for csrf in ("", "x", form["csrf"][:-1]):
        assert till.post(f"{ACCOUNT}/payments", data={**form, "csrf": csrf}).status_code == 400
    assert credit(village) == before


def test_todays_takings_are_the_channels_and_their_sum_is_right(till: httpx.Client, village: Village) -> None:
    till.post(f"{ACCOUNT}/payments", data=fields(check(till, "1.11")))
    today = village.town.now.astimezone(village.zone).date()
    found = village.office.reconciliation("counter", today)
    total = sum(one.amount_minor for one in booked(village))
    page = read(till.get("/counter"))
    assert f"Total booked {total / 100:.2f} yuan" in page.text
    assert len([own for own in page.all("a") if "/receipt?" in own["href"]]) == len(found.payments)


def test_a_receipt_typed_in_other_letters_of_the_same_look_is_one_payment_for_everybody(
    till: httpx.Client, site: Site, village: Village
) -> None:
    before, typed, kept = credit(village), "Cafe\u0301 9", "Caf\u00e9 9"
    assert till.post(f"{ACCOUNT}/payments", data=fields(check(till, "9", receipt=typed))).status_code == 303
    assert village.office.payments("A1005")[-1].receipt == kept
    assert "was used for another payment" in check(till, "9", receipt=kept, status=422).text
    headers = {"Authorization": f"Bearer {site.office}"}
    paid = village.office.payments("A1005")[-1]
    told = {"channel": "counter", "receipt": typed, "account": "A1005", "amount_minor": 900, "currency": "CNY"}
    again = till.post("/v1/payments", json=told | {"paid_at": paid.paid_at.isoformat()}, headers=headers)
    assert (again.status_code, credit(village)) == (200, before + 900)
    path = f"/v1/payments/counter/{quote(typed)}/reversal"
    back = till.post(path, json={"reason": "a mistake"}, headers=headers)
    assert (back.status_code, credit(village)) == (200, before), back.text


def test_the_counter_shows_the_newest_of_a_long_day_and_the_sum_of_all(till: httpx.Client, village: Village) -> None:
    today = village.town.now.astimezone(village.zone).date()
    start = len(village.office.reconciliation("counter", today).payments)
    for number in range(TAKINGS_MAX + 2 - start):
        now = village.town.now + timedelta(milliseconds=number)
        village.office.take(
            Payment(
                channel="counter",
                receipt=f"LONG {number}",
                account="A1004",
                amount_minor=1,
                currency="CNY",
                paid_at=now,
                received_at=now,
            )
        )
    total = sum(one.amount_minor for one in booked(village))
    page = read(till.get("/counter"))
    assert f"The newest {TAKINGS_MAX} are shown" in page.text
    assert f"Total booked {total / 100:.2f} yuan" in page.text
    receipts = [own["href"] for own in page.all("a") if "/receipt?" in own["href"]]
    assert len(receipts) == TAKINGS_MAX
    assert f"LONG%20{TAKINGS_MAX + 1 - start}" in receipts[0]
    assert "Taken today" not in read(till.get("/counter", params={"q": "洛阳"})).text


def test_a_payment_that_does_not_cover_what_is_owed_says_so_and_one_that_does_brings_the_supply_back(
    till: httpx.Client, village: Village
) -> None:
    account = "/counter/accounts/A1003"
    owed = village.office.standing("A1003").owed_minor
    part = till.post(f"{account}/payments", data=fields(check(till, "1", account=account)))
    assert "is still owed. The supply comes back once it is paid" in read(till.get(part.headers["location"])).text
    rest = till.post(f"{account}/payments", data=fields(check(till, f"{(owed - 100) / 100:.2f}", account=account)))
    assert "within 24 hours of the payment" in read(till.get(rest.headers["location"])).text


def test_a_closed_account_takes_no_payment(till: httpx.Client, site: Site, village: Village) -> None:
    village.office.enrol(village.enrolment("A1009", meter="M9999"), by="clerk")
    village.office.confirm("A1009", by="clerk")
    before = fields(check(till, "5", account="/counter/accounts/A1009"))
    village.office.move_out("A1009", village.town.now.astimezone(village.zone).date(), by="clerk")
    village.tell_zero("M9999")
    village.town.now += timedelta(days=1)
    village.turn()
    sign_in(till, site.cashier)  # the session of yesterday is over
    assert village.office.card("A1009").account.closed_on == village.town.now.astimezone(
        village.zone
    ).date() - timedelta(days=1)
    page = read(till.get("/counter/accounts/A1009"))
    assert "was closed on" in page.text
    assert "amount" not in page.fields
    form = {**before, "csrf": read(till.get("/counter")).fields["csrf"]}
    assert "account is closed" in read(till.post("/counter/accounts/A1009/payments", data=form), 422).text
    assert village.office.unmatched() == []


def test_what_does_not_exist_is_a_page_that_says_so(till: httpx.Client) -> None:
    for path in (
        "/counter/accounts/nobody",
        "/counter/accounts/A1005/receipt?number=none",
        "/counter/accounts/A1005/receipt?number=%00",
        "/counter/accounts/nobody/check?amount=5",
        "/counter/accounts/A%00",
    ):
        assert "no such account" in read(till.get(path), 404).text
    assert till.post("/counter/accounts/nobody/payments", data={"csrf": ""}).status_code == 400


def test_a_session_that_ended_over_a_check_leads_back_to_what_was_typed(
    till: httpx.Client, site: Site, village: Village
) -> None:
    page, before = check(till, "31.50", receipt="BOOK 31"), credit(village)
    action = next(own["action"] for own in page.all("form") if "/payments" in own["action"])
    village.town.now += timedelta(hours=1)
    answer = till.post(action, data=fields(page))
    assert answer.status_code == 303
    form = read(till.get(answer.headers["location"]))
    assert "Your session has ended" in form.text
    assert credit(village) == before
    back = till.post("/sign-in", data={**form.fields, "token": site.cashier})
    typed = read(till.get(back.headers["location"])).fields
    assert (typed["amount"], typed["receipt"]) == ("31.50", "BOOK 31")
