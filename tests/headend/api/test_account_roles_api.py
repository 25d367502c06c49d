"""Who may do what with accounts: the documented table, held against every route and any roles; and customers among themselves."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headend.api.account_shapes import PRINTABLE
from headend.store.tokens import Role
from tests.headend.api.account_site import AccountSite, site_of

PAGE = Path(__file__).parents[3] / "docs" / "accounts.md"
COLUMNS = (Role.READ, Role.CASHIER, Role.ADMIN, Role.CUSTOMER)
STAFF = (Role.READ, Role.OPERATE, Role.DISCONNECT, Role.APPROVE, Role.CASHIER, Role.ADMIN)
OWN_PATHS = ("", "/statement", "/daily", "/notices", "/payments", "/debits")
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def matrix() -> dict[tuple[str, str], set[Role]]:
    """Roles by method and path, as documented."""
    found = {}
    for line in PAGE.read_text("utf-8").splitlines():
        match = re.match(r"\| `(GET|POST|PUT|DELETE) (/v1/[^`]+)` \|", line)
        if match is None:
            continue
        cells = [cell.strip() for cell in line.split("|")[3:7]]
        assert set(cells) <= {"yes", "–", "own"}, line
        found[match[1], match[2]] = {role for role, cell in zip(COLUMNS, cells, strict=True) if cell != "–"}
    found["POST", "/v1/notice-receipts"].add(Role.DISCONNECT)  # told in the words below the table
    return found


MATRIX = matrix()


def concrete(path: str) -> str:
    """Of things that are not there: what is asked of them changes nothing."""
    for name, value in (
        ("account", "A9"),
        ("kind", "hold"),
        ("customer", "C9"),
        ("channel", "app"),
        ("receipt", "R9"),
        ("name", "gold"),
    ):
        path = path.replace(f"{{{name}}}", value)
    return path


def routes_of(site: AccountSite) -> set[tuple[str, str]]:
    words = ("/v1/accounts", "/v1/landlords", "/v1/payments", "/v1/meter-use", "/v1/notice-receipts", "/v1/tariffs")
    return {
        (method, re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path))
        for route in site.app.routes
        if route.path.startswith(words)
        for method in route.methods - {"OPTIONS", "HEAD"}
    }


def asking(client: httpx.AsyncClient) -> Callable[..., httpx.Response]:
    """Requests from the thread of a test that generates them."""
    loop = asyncio.get_running_loop()

    def ask(method: str, path: str, headers: dict[str, str], body: Any = None) -> httpx.Response:
        asked = client.request(method, path, headers=headers, json=body)
        return asyncio.run_coroutine_threadsafe(asked, loop).result(20)

    return ask


async def test_every_route_is_in_the_documented_table_and_obeys_it_for_any_roles(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        assert routes_of(site) == MATRIX.keys()
        await site.enrol(client)
        ask = asking(client)

        @SETTINGS
        @given(route=st.sampled_from(sorted(MATRIX)), roles=st.sets(st.sampled_from(STAFF), min_size=1))
        def obeys(route: tuple[str, str], roles: set[Role]) -> None:
            method, path = route
            names = sorted(role.value for role in roles)
            answer = ask(method, concrete(path), site.token(*names), None if method in ("GET", "DELETE") else {})
            allowed = bool(roles & MATRIX[route]) or Role.ADMIN in roles
            assert (answer.status_code == 403) is not allowed, (answer.text, names)
            assert answer.status_code < 500, answer.text

        await asyncio.to_thread(obeys)
        for method, path in sorted(MATRIX):
            answer = await client.request(method, concrete(path))
            assert answer.status_code == 401, (method, path)


async def test_a_customer_may_only_what_the_table_says(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.enrol(client)
        own = site.token("customer", account="A1")
        for (method, path), roles in MATRIX.items():
            asked = concrete(path.replace("{account}", "A1"))
            answer = await client.request(method, asked, headers=own, json={} if method in ("POST", "PUT") else None)
            if Role.CUSTOMER in roles:
                assert answer.status_code in (200, 404), (path, answer.text)
            else:
                assert answer.status_code == 403, (path, answer.text)
        for path in ("/v1/meters", "/v1/feed", "/v1/lines", "/metrics", "/v1/commands", "/schema/openapi.json"):
            answer = await client.get(path, headers=own)
            assert answer.status_code in (403, 404), (path, answer.text)


IDS = st.sampled_from(
    ("A2", "A3", "a1", "A1 ", " A1", "A1%00", "A1\u0301", "Ａ1", "A", "A11", "*", "%", "'A1'")
) | st.text(min_size=1, max_size=12)


async def test_another_customers_account_is_as_none(tmp_path: Path) -> None:
    """The answer for an account that is there is, but for the number that was asked, the one for an account that never was."""
    async with site_of(tmp_path) as (site, client):
        for number in (1, 2, 3):
            await site.enrol(client, f"A{number}", f"M{number}", name=f"Secret {number}", phone=f"1381234567{number}")
        own = site.token("customer", account="A1")
        ask = asking(client)

        def answer_for(account: str, path: str) -> tuple[int, dict[str, Any], dict[str, str]]:
            quoted = "".join(f"%{byte:02X}" for byte in account.encode())
            answer = ask("GET", f"/v1/accounts/{quoted}{path}", own)
            assert not any(word in answer.text for word in ("Secret", "+8613812345672", "M2", "M3"))
            body = answer.json()
            headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
            return answer.status_code, body | {"detail": body["detail"].replace(repr(account), "ID")}, headers

        @SETTINGS
        @given(account=IDS.filter(lambda one: one != "A1" and "/" not in one), path=st.sampled_from(OWN_PATHS))
        def as_none(account: str, path: str) -> None:
            found = answer_for(account, path)
            if re.match(PRINTABLE, account):
                assert found[0] == 404
                assert found == answer_for("A2", path)
            else:
                assert found[0] == 400

        await asyncio.to_thread(as_none)
        card = await client.get("/v1/accounts/A1", headers=own)
        assert (card.status_code, card.json()["holder"]["name"]) == (200, "Secret 1")
