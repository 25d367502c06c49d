"""The customer's page as it is without JavaScript, against what the office says."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import ParamSpec, TypeVar

import httpx
import pytest

from headend.pages.words import load_words
from tests.headend.pages.paper_browser import Page, read, sign_in
from tests.headend.pages.village import TODAY, Site, Village, serving, village_of
from tests.headend.prepayment.fleet import SHANGHAI, at, interval

P = ParamSpec("P")
T = TypeVar("T")
EN, ZH = load_words("en", SHANGHAI), load_words("zh", SHANGHAI)


def my(site: Site, client: httpx.Client, account: str, lang: str = "en") -> Page:
    sign_in(client, site.customers[account], lang=lang)
    return read(client.get("/my", params={"lang": lang}))


def test_balance_month_and_days_left_are_those_of_the_office(
    site: Site, client: httpx.Client, village: Village
) -> None:
    page, standing = my(site, client, "A1001"), village.office.standing("A1001")
    assert standing.forecast.days_left is not None
    for text in (
        f"Available balance {EN.number(standing.available_minor, 'CNY')} yuan",
        f"{standing.forecast.days_left} days",
        f"Balance on the 1st {EN.number(standing.month_opening_minor, 'CNY')}",
        f"Payments this month +{EN.number(standing.paid_minor, 'CNY')}",
        f"Charges, 1st to yesterday −{EN.number(standing.charged_minor, 'CNY')}",
        "1 day not charged yet",
        "Supply is on",
    ):
        assert text in page.text
    assert standing.available_minor == standing.month_opening_minor + standing.paid_minor - standing.charged_minor


def test_the_table_of_daily_use_has_every_charged_day_and_its_sum(
    site: Site, client: httpx.Client, village: Village
) -> None:
    page = my(site, client, "A1001")
    rows = [own for own in page.all("tr") if "data-day" in own]
    assert len(rows) == 30  # of 31 days one is not charged
    assert "2026-03-20" not in [own["data-day"] for own in rows]
    kwh = sum((Decimal(own["data-kwh"]) for own in rows), Decimal(0))
    assert f"Total {EN.kwh(kwh)}" in page.text


def test_a_stretch_that_was_charged_as_one_is_one_row(site: Site, client: httpx.Client) -> None:
    assert "12 Mar to 13 Mar" in my(site, client, "A1004").text


def test_each_customer_is_told_how_the_supply_stands(site: Site, client: httpx.Client) -> None:
    assert (
        "Disconnection is near 31.82 yuan is owed. If it is not paid before 24 Mar 2026 11:00"
        in my(site, client, "A1002").text
    )
    off = my(site, client, "A1003").text
    assert "Supply is off Off since 11 Mar 2026" in off
    assert "Used up" in off
    assert "Balance is low" in my(site, client, "A1004").text
    assert "Daily settlement begins once the agreement is confirmed" in my(site, client, "A1006").text


def test_payments_notices_and_debits_are_told_as_they_were(site: Site, client: httpx.Client, village: Village) -> None:
    page = my(site, client, "A1001")
    assert "Taken back: 重复交费" in page.text
    assert "Collection point · Receipt C2603081001" in page.text
    for letter in village.office.letters("A1001"):
        assert " ".join(letter.text.split()) in page.text
    earned = [own for own in village.office.awards("A1001") if own.points == 20]
    assert page.text.count("20 points") == len(earned) == 2
    debits = my(site, client, "A1004")
    assert "refused by the bank: 余额不足" in debits.text


def test_a_landlord_sees_totals_of_his_tenants_and_nothing_of_themselves(
    site: Site, client: httpx.Client, village: Village
) -> None:
    page = my(site, client, "A1001")
    row = village.office.landlord("C1001")[0]
    assert f"A1003 · P1003 This month {EN.kwh(row.month_kwh)} kWh" in page.text
    assert "陈静" not in page.text
    assert "My tenants" not in my(site, client, "A1003").text


def test_a_customer_sees_no_other_account_whatever_is_asked(site: Site, client: httpx.Client) -> None:
    sign_in(client, site.customers["A1001"])
    assert "A1002" not in read(client.get("/my", params={"account": "A1002"})).text
    for path in ("/counter?q=A1002", "/counter/accounts/A1002", "/counter/accounts/A1002/statement.pdf?month=2026-02"):
        assert client.get(path).status_code == 403


@pytest.mark.parametrize(("account", "tag"), [("A1001", "zh-CN"), ("A1002", "en")])
def test_the_page_speaks_the_customers_language(site: Site, client: httpx.Client, account: str, tag: str) -> None:
    client.cookies.clear()
    form = read(client.get("/sign-in")).fields
    client.post("/sign-in", data={**form, "token": site.customers[account]})
    assert read(client.get("/my")).all("html") == [{"lang": tag}]


def test_another_language_is_one_link_away_and_stays(site: Site, client: httpx.Client) -> None:
    form = read(client.get("/sign-in")).fields
    client.post("/sign-in", data={**form, "token": site.customers["A1001"]})
    link = next(own["href"] for own in read(client.get("/my")).all("a") if own.get("hreflang"))
    assert read(client.get(link)).all("html") == [{"lang": "en"}]
    assert "Your electricity" in read(client.get("/my")).text


def test_an_account_without_days_shows_no_figures_that_nobody_knows(site: Site, client: httpx.Client) -> None:
    page = my(site, client, "A1006")
    for text in (
        "No day of the last 31 has been charged yet",
        "No payments yet",
        "The first one comes after the first month",
    ):
        assert text in page.text


def test_what_people_are_called_cannot_become_part_of_the_page(site: Site, client: httpx.Client) -> None:
    sign_in(client, site.customers["A1006"])
    answer = client.get("/my")
    assert "<b>Ann" not in answer.text
    assert "&lt;b&gt;Ann &amp; Bob&lt;/b&gt;" in answer.text


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_page_can_be_read_by_its_structure(site: Site, client: httpx.Client, lang: str) -> None:
    page = my(site, client, "A1001", lang)
    assert len(page.all("h1")) == 1
    for landmark in ("header", "nav", "main", "footer"):
        assert page.all(landmark), landmark
    assert page.all("a")[0]["href"] == "#content"
    identities = [own["id"] for _, own in page.tags if "id" in own]
    assert len(identities) == len(set(identities))
    named = [own["aria-labelledby"] for own in page.all("section") if "aria-labelledby" in own]
    assert set(named) <= set(identities)
    assert all("aria-label" in own or "aria-labelledby" in own for own in page.all("section"))
    assert all("scope" in own for own in page.all("th"))


def test_use_of_today_is_told_as_what_it_is(tmp_path: Path) -> None:
    village = village_of(tmp_path)
    quarter = timedelta(minutes=15)
    for number in range(40):
        start = at(TODAY, 0) + number * quarter
        village.feed.tell(interval("M1002", TODAY, "0.05", start=start, length=quarter))
        village.feed.tell(interval("M1003", TODAY, "0.03", start=start, length=quarter))
    village.turn()
    try:
        with serving(tmp_path, village) as site, httpx.Client(base_url=site.url, timeout=20) as client:
            assert "Today until 10:00: 2.00 kWh, not settled yet" in my(site, client, "A1002").text
            assert "Today until 10:00: 1.20 kWh, not settled yet" in my(site, client, "A1001").text  # of the tenant
    finally:
        village.aclose()


def test_an_account_that_the_office_does_not_know_and_an_office_that_fails_are_pages_without_secrets(
    site: Site, client: httpx.Client, village: Village, tmp_path: Path
) -> None:
    sign_in(client, site.tokens.create_token("gone", ["customer"], account="A7777"))
    assert "no such account" in read(client.get("/my"), 404).text
    with serving(tmp_path, _Broken(village)) as broken, httpx.Client(base_url=broken.url, timeout=20) as other:
        sign_in(other, broken.customers["A1001"])
        answer = other.get("/my")
        assert "Something went wrong, and was noted" in read(answer, 500).text
        assert "secret" not in answer.text


class _Broken:
    """Prepaid supply that makes a mistake whenever it is asked."""

    def __init__(self, village: Village) -> None:
        self.office, self.zone, self.clock = village.office, village.zone, village.clock

    async def ask(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        raise RuntimeError("secret inner state")

    async def pay(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        raise RuntimeError("secret inner state")
