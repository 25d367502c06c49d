"""Signing in with a token, what the cookies are, and what other people and other sites cannot do."""

from datetime import timedelta

import httpx
import pytest

from headend.pages.sessions import TRIES, TRY_S
from tests.headend.pages.paper_browser import read, sign_in
from tests.headend.pages.village import Site, Village

_SECOND = timedelta(seconds=1)
FORM = "application/x-www-form-urlencoded"
PROTECTED = (
    "/my",
    "/my/statement.html?month=2026-02",
    "/my/statement.pdf?month=2026-02",
    "/counter",
    "/counter/accounts/A1001",
)


def test_a_customer_comes_to_the_own_page_and_a_cashier_to_the_counter(site: Site, client: httpx.Client) -> None:
    answer = sign_in(client, site.customers["A1001"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/my")
    assert "A1001" in read(client.get("/my")).text
    answer = sign_in(client, site.cashier)
    assert (answer.status_code, answer.headers["location"]) == (303, "/counter")
    assert client.get("/my").status_code == 403


def test_the_cookie_carries_no_token_and_no_script_can_read_it(site: Site, client: httpx.Client) -> None:
    answer = sign_in(client, site.cashier)
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("headend_session="))
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "secure" not in cookie.lower()
    assert site.cashier not in str(answer.headers.multi_items())
    behind_tls = {"X-Forwarded-Proto": "https"}
    form = read(client.get("/sign-in", headers=behind_tls)).fields
    held = client.cookies.get("headend_form") or form["csrf"]
    answer = client.post(
        "/sign-in", data={**form, "token": site.cashier}, headers={**behind_tls, "Cookie": f"headend_form={held}"}
    )
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("headend_session="))
    assert "secure" in cookie.lower()


@pytest.mark.parametrize("path", PROTECTED)
def test_nobody_sees_a_page_without_signing_in(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?next=")
    assert answer.text == ""


def test_after_signing_in_one_is_where_one_wanted_to_be(site: Site, client: httpx.Client) -> None:
    wanted = "/counter/accounts/A1002?amount=50"
    there = client.get(client.get(wanted).headers["location"])
    form = read(there).fields
    assert client.post("/sign-in", data={**form, "token": site.cashier}).headers["location"] == wanted


@pytest.mark.parametrize(
    "place",
    [
        "//evil.example/",
        "https://evil.example/my",
        "/my@evil",
        "/\\evil",
        "/sign-in",
        "/v1/x",
        "/counter/../v1",
        "/my?洛",
    ],
)
def test_signing_in_never_leads_elsewhere(site: Site, client: httpx.Client, place: str) -> None:
    answer = sign_in(client, site.cashier, next_=place)
    assert answer.headers["location"] == "/counter"


def test_a_customer_is_not_led_to_the_counter(site: Site, client: httpx.Client) -> None:
    assert sign_in(client, site.customers["A1001"], next_="/counter").headers["location"] == "/my"
    assert client.get("/counter").status_code == 403
    assert client.get("/counter/accounts/A1001").status_code == 403


def test_a_wrong_token_is_told_beside_its_field_and_counts(site: Site, client: httpx.Client, village: Village) -> None:
    page = read(sign_in(client, "hdt_wrong"), 422)
    assert "not valid, or was revoked" in page.text
    assert page.fields["token"] == ""
    for _ in range(TRIES):
        last = sign_in(client, "hdt_wrong")
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) > 0
    assert sign_in(client, site.cashier).status_code == 429
    village.town.now += TRY_S * TRIES * _SECOND
    assert sign_in(client, site.cashier).status_code == 303


def test_a_token_that_opens_no_page_says_so(site: Site, client: httpx.Client) -> None:
    assert "no page for this token" in read(sign_in(client, site.reader), 403).text
    assert "headend_session" not in client.cookies


def test_a_form_of_another_site_signs_nobody_in(site: Site, client: httpx.Client) -> None:
    assert client.post("/sign-in", data={"token": site.cashier, "csrf": "x"}).status_code == 403
    read(client.get("/sign-in"))
    assert client.post("/sign-in", data={"token": site.cashier, "csrf": "x"}).status_code == 403
    assert "headend_session" not in client.cookies


def test_signing_out_ends_the_session_and_needs_the_sessions_own_form(site: Site, client: httpx.Client) -> None:
    sign_in(client, site.cashier)
    key = client.cookies["headend_session"]
    assert client.post("/sign-out", data={"csrf": "x"}).status_code == 400
    form = read(client.get("/counter")).fields
    assert client.post("/sign-out", data={"csrf": form["csrf"]}).headers["location"] == "/sign-in?note=signed_out"
    answer = client.get("/counter", headers={"Cookie": f"headend_session={key}"})
    assert answer.status_code == 303


def test_a_form_that_is_too_large_or_no_form_does_nothing(site: Site, client: httpx.Client) -> None:
    assert client.post("/sign-in", data={"token": "x" * 20_000}).status_code == 413
    assert client.post("/sign-in", json={"token": site.cashier}).status_code == 415
    assert client.post("/sign-in", content=b"\xff=1", headers={"Content-Type": FORM}).status_code in (400, 403)


def test_every_page_forbids_frames_foreign_scripts_and_keeping(site: Site, client: httpx.Client) -> None:
    sign_in(client, site.customers["A1001"])
    for path in (
        "/sign-in",
        "/my",
        "/my/statement.html?month=2026-02",
        "/my/statement.pdf?month=2026-02",
        "/my/nothing",
    ):
        headers = client.get(path).headers
        if path == "/my/nothing":
            assert headers["content-type"] == "application/problem+json"  # no page of ours
            continue
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_no_page_has_an_inline_script_or_style_attribute(site: Site, client: httpx.Client) -> None:
    sign_in(client, site.customers["A1001"])
    for path in ("/sign-in", "/my"):
        page = read(client.get(path))
        assert all("src" in own for own in page.all("script"))
        assert not [own for _, own in page.tags if "style" in own or any(name.startswith("on") for name in own)]
        assert page.all("style") == []


def test_static_files_are_a_table_and_may_be_kept(client: httpx.Client) -> None:
    page = read(client.get("/sign-in"))
    sheet = next(own["href"] for own in page.all("link") if own["rel"] == "stylesheet")
    assert "immutable" in client.get(sheet).headers["cache-control"]
    assert "MIT" in client.get("/pages/static/uplot-LICENSE.txt").text
    for name in ("nothing.css", "..%2Fsessions.py", "%2e%2e/paper.py", "__init__.py"):
        assert client.get(f"/pages/static/{name}").status_code in (401, 404)
