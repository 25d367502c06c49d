"""`/v1/callers` over a real server and real listeners: who is listed, who may adopt, and what an adoption survives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headend.api import create_app
from headend.api.caller_routes import caller_routes
from headend.clock import SystemClock
from headend.drivers.listener_connect import DialInConnect
from headend.drivers.listener_settings import ListenerSettings
from headend.drivers.transport import LineUrl
from tests.headend.api.test_api import Site, assert_problem
from tests.headend.drivers.listener_support import A, B, C, Owner, until
from tests.system.processes import free_port

CLOCK = SystemClock()


class Reception:
    """Ports that lines wait at, and the HTTP interface beside them."""

    def __init__(self, folder: Path, lines: Mapping[str, str]) -> None:
        self.folder = folder
        self.site = Site(folder)
        self.port = free_port()
        self.urls = {
            name: LineUrl.parse(f"listen://127.0.0.1:{self.port}" + (f"?dtu={dtu}" if dtu else ""))
            for name, dtu in lines.items()
        }
        self.void: dict[str, str] = {}

    @asynccontextmanager
    async def open(self, settings: ListenerSettings | None = None) -> AsyncIterator["Life"]:
        """One life of the service: what was adopted in an earlier one is known."""
        self.site = Site(self.folder)
        places = {} if settings is None else {("127.0.0.1", self.port): settings}
        dial_in = DialInConnect(places, clock=CLOCK)
        self.void = dial_in.expect_all(self.urls, self.site.store.adoptions())
        self.site.app = create_app(self.site.deps, routes=caller_routes(dial_in, self.site.store))
        owners = {name: Owner() for name in self.urls}
        waits = [asyncio.create_task(dial_in(url, owners[name])) for name, url in self.urls.items()]
        async with self.site.running() as client:
            client.headers.update(self.site.token("admin"))
            for listener in dial_in.listeners:
                await listener.start()
            try:
                yield Life(self, dial_in, client, owners)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
                await dial_in.aclose()


class Life:
    def __init__(
        self, reception: Reception, dial_in: DialInConnect, client: httpx.AsyncClient, owners: dict[str, Owner]
    ) -> None:
        self.dial_in = dial_in
        self.client = client
        self.owners = owners
        self._port = reception.port

    @asynccontextmanager
    async def caller(self, registration: str) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(registration.encode())
        try:
            yield reader
        finally:
            writer.transport.abort()

    async def callers(self, **parameters: Any) -> dict[str, Any]:
        answer = await self.client.get("/v1/callers", params=parameters)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def unknown(self) -> list[str]:
        return [caller["dtu"] for caller in (await self.callers())["unknown"]]

    async def until_unknown(self, *dtus: str) -> None:
        await until(lambda: sorted(one.dtu for at in self.dial_in.listeners for one in at.unknown()) == sorted(dtus))
        assert sorted(await self.unknown()) == sorted(dtus)

    async def adopt(self, dtu: str, line: str) -> httpx.Response:
        return await self.client.post("/v1/callers/adopt", json={"dtu": dtu, "line": line})


async def is_owned_soon(owner: Owner) -> None:
    await until(lambda: owner.events == ["made"])


async def test_an_unknown_caller_is_listed_and_adopted_for_a_line_at_once(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {"street-1": A})
    async with reception.open() as life, life.caller(B):
        await life.until_unknown(B)
        told = await life.callers()
        [listener], [caller] = told["listeners"], told["unknown"]
        assert listener["listen"] == f"127.0.0.1:{reception.port}"
        assert (listener["connected"], listener["unowned"], listener["unknown"]) == (0, 1, 1)
        assert listener["counters"]["registered"] == 1
        assert (caller["connects"], caller["bytes"], caller["heard"], caller["is_connected"]) == (1, len(B), B, True)
        assert caller["address"].startswith("127.0.0.1:")
        answer = await life.adopt(B, "street-1")
        assert (answer.status_code, answer.json()) == (200, {"dtu": B, "line": "street-1", "connected": True})
        await is_owned_soon(life.owners["street-1"])
        told = await life.callers()
        assert (told["unknown"], told["listeners"][0]["connected"], told["listeners"][0]["unowned"]) == ([], 1, 0)


async def test_an_id_with_anything_in_it_can_be_adopted_before_it_has_ever_called(tmp_path: Path) -> None:
    """Ids are what makers print: slashes, dots and percent signs are among it."""
    reception = Reception(tmp_path, {"street-1": A})
    for dtu in ("AB/CD/0001", "../../../etc", "50%25?x=1#y", "[bold]12345[/]"):
        async with reception.open() as life:
            answer = await life.adopt(dtu, "street-1")
            assert (answer.status_code, answer.json()["connected"]) == (200, False), answer.text
            async with life.caller(dtu):
                await is_owned_soon(life.owners["street-1"])
    assert reception.site.store.adoptions() == {"street-1": "[bold]12345[/]"}


async def test_adoptions_outlive_the_service_in_whatever_order_they_were_made(tmp_path: Path) -> None:
    """Two DTUs have changed places: each line's URL names what the other line has adopted."""
    reception = Reception(tmp_path, {"a": A, "b": B})
    async with reception.open() as life:
        for dtu, line in ((C, "a"), (A, "b"), (B, "a")):
            assert (await life.adopt(dtu, line)).status_code == 200
    async with reception.open() as life, life.caller(A), life.caller(C):
        await is_owned_soon(life.owners["b"])
        await life.until_unknown(C)
        assert life.owners["a"].events == []
        async with life.caller(B):
            await is_owned_soon(life.owners["a"])
    assert reception.void == {}


async def test_an_adoption_ends_with_its_line_or_when_the_file_gives_the_dtu_to_another(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {"a": A, "b": B, "c": C})
    async with reception.open() as life:
        assert (await life.adopt("D2345678", "a")).status_code == 200
        assert (await life.adopt(A, "b")).status_code == 200
        assert (await life.adopt("E2345678", "c")).status_code == 200
    again = Reception(tmp_path, {"a": A, "b": B, "new": "D2345678"})
    async with again.open() as life, life.caller(A), life.caller("E2345678"):
        assert again.void == {"a": "D2345678", "b": A, "c": "E2345678"}  # a has A back, so b cannot keep it
        await is_owned_soon(life.owners["a"])
        await life.until_unknown("E2345678")
        assert life.owners["b"].events == []


async def test_an_adoption_that_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {"street-1": A, "street-2": B})
    async with reception.open() as life:
        assert_problem(await life.adopt(C, "nowhere"), 409, "no line 'nowhere'", "listen://")
        assert_problem(await life.adopt(A, "street-2"), 409, "is that of line 'street-1'")
        for dtu in ("", "x" * 513, "tab\there"):
            assert_problem(await life.adopt(dtu, "street-1"), 400, "1 to 512 printable characters")
        bodies: list[Any] = [{}, {"dtu": C}, {"dtu": C, "line": 5}, {"dtu": C, "line": "street-1", "now": True}, []]
        for body in bodies:
            answer = await life.client.post("/v1/callers/adopt", json=body)
            assert_problem(answer, 400)
        assert_problem(await life.client.get("/v1/callers", params={"limit": 0}), 400, "1 to 1000")
        assert_problem(await life.client.get("/v1/callers", params={"page": 2}), 400, "page")
        assert (await life.adopt(A, "street-1")).json() == {"dtu": A, "line": "street-1", "connected": False}
    assert reception.site.store.adoptions() == {"street-1": A}


async def test_only_an_admin_adopts_and_nobody_without_a_token_sees_anything(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {"street-1": A})
    async with reception.open() as life:
        life.client.headers.update(reception.site.token("read", "operate"))
        assert (await life.callers())["unknown"] == []
        assert_problem(await life.adopt(C, "street-1"), 403, "admin")
        del life.client.headers["Authorization"]
        assert (await life.client.get("/v1/callers")).status_code == 401
        assert (await life.adopt(C, "street-1")).status_code == 401
    assert reception.site.store.adoptions() == {}


async def test_callers_that_say_no_id_are_listed_with_what_they_said(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {"street-1": A})
    async with reception.open(ListenerSettings(register_within_s=0.2)) as life, life.caller("GET / HTTP/1.1") as reader:
        await life.until_unknown("")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""  # hung up on, and nothing was ever said to it
        [caller] = (await life.callers())["unknown"]
        assert (caller["heard"], caller["is_connected"]) == ("GET / HTTP/1.1", False)


async def test_a_head_end_without_such_lines_says_so_with_an_empty_list(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {})
    async with reception.open() as life:
        assert await life.callers() == {"listeners": [], "unknown": []}
        assert_problem(await life.adopt(A, "street-1"), 409, "no line 'street-1'")


async def test_the_list_is_cut_to_its_limit_the_newest_first(tmp_path: Path) -> None:
    reception = Reception(tmp_path, {"street-1": A})
    async with reception.open() as life:
        for number in range(3):
            async with life.caller(f"X000000{number}"):
                await life.until_unknown(*(f"X000000{each}" for each in range(number + 1)))
        assert await life.unknown() == ["X0000002", "X0000001", "X0000000"]
        assert [caller["dtu"] for caller in (await life.callers(limit=1))["unknown"]] == ["X0000002"]


@pytest.mark.parametrize("given", [{"street-1": A}, {}])
async def test_expecting_all_lines_leaves_others_alone(given: dict[str, str]) -> None:
    dial_in = DialInConnect(clock=CLOCK)
    tcp = LineUrl.parse("tcp://127.0.0.1:9")
    assert dial_in.expect_all({"wired": tcp}, given) == given
    assert dial_in.listeners == []
