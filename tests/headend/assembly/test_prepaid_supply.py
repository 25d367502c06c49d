"""Prepaid supply inside the service: its calls into its own process, its feed, its outbox, and how it ends."""

import asyncio
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry, generate_latest

from headend.api import ApiDeps, create_app
from headend.api.account_event_routes import account_event_routes
from headend.app import HeadEnd
from headend.assembly.prepaid_settings import PERSON
from headend.assembly.prepaid_supply import PAYING_MAX, InsideCaller, PrepaidSupply
from headend.config import load_config
from headend.drivers.errors import LineDown
from headend.drivers.transport import LineUrl
from headend.feed import account_event
from headend.feed.schemas import EVENT_TYPES, schema_of
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.accounts.events import ACCOUNT_TYPE
from headend.prepayment.errors import FeedBroken, FeedUnavailable, OutboxUnavailable
from headend.prepayment.model import PaymentState, Premises
from headend.prepayment.outside.calling import Asked, CallOverLoop, NoAnswer
from headend.prepayment.outside.feed_http import HttpFeed
from headend.prepayment.outside.outbox_http import HttpOutbox
from headend.prepayment.outside.switchboard_http import HttpSwitchboard
from headend.prepayment.ports import OpenProof, OrderState, ProvenNotice
from headend.prepayment.supply import engine
from headend.store.store import Store, open_store
from headend.store.tokens import Role, Tokens
from headend.store.writer import inline
from tests.headend.api.relay_site import site_of
from tests.headend.support import StillClock, a_read, with_tables

CONFIG = """\
[headend]
name = "x"
timezone = "Asia/Shanghai"
[[lines]]
name = "l"
url = "tcp://127.0.0.1:1"
[[plans]]
name = "p"
period = "1h"
quantities = ["1-0:1.8.0"]
[[meters]]
id = "M000001"
line = "l"
address = "000000000001"
plan = "p"
[prepayment]
enabled = true
identity_salt = "file:salt"
tariffs = ["residential-step"]
[[prepayment.channels]]
name = "sms"
kind = "file"
path = "messages.ndjson"
"""
AT = datetime(2026, 1, 31, 16, 0, tzinfo=UTC)


class Nobody:
    """The far end of every line."""

    async def __call__(self, url: LineUrl, *_: Any, **__: Any) -> Any:
        raise LineDown(str(url), "nobody is there")


class Here:
    """A head-end with prepaid supply in this process, without a socket."""

    def __init__(self, folder: Path) -> None:
        (folder / "salt").write_text("a salt of thirty-two characters.")
        path = folder / "headend.toml"
        path.write_text(CONFIG)
        self.config = load_config(path)
        self.clock = StillClock()
        self.store: Store = open_store(with_tables(self.config.store), self.config.name)
        self.tokens = Tokens(self.store, self.clock)
        self.supply = PrepaidSupply(self.config, self.store, self.tokens, clock=self.clock)
        self.head_end = HeadEnd(
            self.config, self.store, clock=self.clock, connect=Nobody(), execute=inline, prepaid=self.supply
        )
        self.registry = CollectorRegistry()
        for collector in self.supply.collectors():
            self.registry.register(collector)
        deps = ApiDeps(
            name="x",
            store=self.store,
            tokens=self.tokens,
            signal=self.head_end.signal,
            status=self.head_end,
            writer_health=self.head_end.writer.health,
            registry=self.registry,
            clock=self.clock,
        )
        routes = (
            *account_event_routes(self.head_end.writer, self.clock),
            *self.head_end.switchgear.routes(),
            *self.supply.routes(),
        )
        self.app = create_app(deps, routes=routes)
        self.supply.attach(self.app)
        asgi: Any = self.app
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=asgi), base_url="http://here")

    def bearer(self, *roles: str, account: str = "") -> dict[str, str]:
        name = f"token {len(self.tokens.list_tokens())}"
        return {"Authorization": f"Bearer {self.tokens.create_token(name, roles, account=account)}"}

    def caller(self) -> InsideCaller:
        """With a token of its own, as prepaid supply has one."""
        caller = InsideCaller(self.tokens.issue_inside("test", [Role.READ, Role.ACCOUNT_EVENTS]))
        caller.attach(self.app)
        return caller

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.store.events_after(0, 1000)]


@asynccontextmanager
async def here(folder: Path) -> AsyncIterator[Here]:
    made = Here(folder)
    async with made.head_end.writer:
        try:
            yield made
        finally:
            await made.client.aclose()
            await made.supply.aclose()
    made.store.close()


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


def an_enrolment(account: str = "A1") -> Enrolment:
    return Enrolment(
        account=account,
        customer="C1",
        name="Li Wei",
        identity="410300199001011234",
        premises=Premises(id="P1", address="Zhongzhou Road 1"),
        meters=("M000001",),
        phone="13812345678",
        currency="CNY",
        tariff="residential-step",
        reminder_minor=5000,
    )


# ------------------------------------------------------------------------------------------------ the feed


async def test_the_feed_comes_event_by_event_as_it_is_stored(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        one.store.commit([a_read(slot=slot) for slot in range(7)])
        feed = HttpFeed(one.caller())
        found = await in_thread(lambda: feed.events_after(0, 5))
        assert [json.loads(event) for event in found] == one.events()[:5]
        assert len(await in_thread(lambda: feed.events_after(5, 5))) == 2
        assert await in_thread(lambda: feed.events_after(7, 5)) == []


async def test_a_feed_that_ends_before_the_cursor_says_what_to_do(tmp_path: Path) -> None:
    """The head-end's store was replaced behind our back."""
    async with here(tmp_path) as one:
        feed = HttpFeed(one.caller())
        with pytest.raises(FeedBroken, match=r"up to event 9 .* docs/operation\.md"):
            await in_thread(lambda: feed.events_after(9, 5))


async def test_nothing_is_pruned_that_accounts_have_not_taken_in(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        one.store.commit([a_read(slot=slot) for slot in range(7)])
        assert one.supply.needed() == 1
        duties = {duty.name: duty for duty in (*one.supply.office.duties(), one.supply.look)}
        for name in ("intake", "figures"):
            await in_thread(lambda name=name: duties[name].tick(AT))  # type: ignore[misc]
        assert one.supply.needed() == 1  # the switch's part of the feed is followed by another duty
        for name in ("supply-switches", "figures"):
            await in_thread(lambda name=name: duties[name].tick(AT))  # type: ignore[misc]
        assert one.supply.needed() == 8


async def test_nobody_answers_before_the_start_and_after_the_end(tmp_path: Path) -> None:
    early = InsideCaller("hdt_x")
    with pytest.raises(FeedUnavailable, match="starting or stopping"):
        HttpFeed(early).events_after(0, 5)
    async with here(tmp_path) as one:
        caller = one.caller()
        await caller.aclose()
        with pytest.raises(NoAnswer, match="starting or stopping"):
            await in_thread(lambda: caller("GET", "/v1/feed"))
        wrong = InsideCaller("hdt_wrong")
        wrong.attach(one.app)
        with pytest.raises(FeedUnavailable, match="answered 401"):
            await in_thread(lambda: HttpFeed(wrong).events_after(0, 5))
        await wrong.aclose()


# ------------------------------------------------------------------------------------------------ our events


def offered(outbox: HttpOutbox, number: int, state: str = "low") -> None:
    data = {
        "about": "supply-episode",
        "account": "A1",
        "at": "2026-01-31T16:00:00Z",
        "state": state,
        "because": "ran-low",
    }
    outbox.offer(number, ACCOUNT_TYPE, "A1", AT, json.dumps(data).encode())


async def test_an_event_that_is_told_again_is_in_the_feed_once(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        outbox = HttpOutbox(one.caller())
        for _ in range(3):
            await in_thread(lambda: offered(outbox, 1))
        await in_thread(lambda: offered(outbox, 2))
        events = one.events()
        assert [event["type"] for event in events] == [ACCOUNT_TYPE] * 2
        assert events[0]["id"].startswith("account:A1:1:")
        assert events[0]["time"] == "2026-01-31T16:00:00Z"
        schema = next(schema_of(kind) for kind in EVENT_TYPES if kind.name == ACCOUNT_TYPE)
        for event in events:
            assert list(Draft202012Validator(schema).iter_errors(event)) == []


async def test_a_number_that_a_restored_database_gives_again_is_another_event(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        outbox = HttpOutbox(one.caller())
        await in_thread(lambda: offered(outbox, 1))
        await in_thread(lambda: offered(outbox, 1, "used-up"))
        first, second = one.events()
        assert first["id"] != second["id"]
        assert second["data"]["state"] == "used-up"


async def test_nobody_else_tells_events_of_accounts(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        body = {"number": 1, "type": ACCOUNT_TYPE, "subject": "A1", "at": "2026-01-31T16:00:00Z", "data": {}}
        for roles in (["admin"], ["read", "operate", "disconnect", "approve", "cashier"]):
            answer = await one.client.post("/v1/account-events", json=body, headers=one.bearer(*roles))
            assert answer.status_code == 403, answer.text
        assert one.events() == []
        caller = one.caller()
        for wrong in ({"type": "headend.read.v1"}, {"at": "2026-01-31T16:00:00"}, {"number": 0}):
            answer = await in_thread(partial(caller, "POST", "/v1/account-events", body=body | wrong))
            assert answer.status in (400, 422), answer.body
        with pytest.raises(OutboxUnavailable, match="422"):
            await in_thread(lambda: HttpOutbox(caller).offer(1, "headend.read.v1", "A1", AT, b"{}"))
        assert one.events() == []


def test_the_words_of_the_schema_are_those_of_the_engine() -> None:
    assert account_event.ACCOUNT_TYPE == ACCOUNT_TYPE
    assert tuple(state.value for state in engine.State) == account_event.STATES
    assert set(account_event.CAUSES) == {event.value for event in engine.Event}


# ------------------------------------------------------------------------------------------------ customers


async def test_a_customer_sees_the_own_account_and_nothing_else(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        office = one.supply.office
        await one.supply.ask(office.enrol, an_enrolment(), by="test")
        customer = one.bearer("customer", account="A1")
        assert (await one.client.get("/v1/accounts/A1", headers=customer)).status_code == 200
        other = await one.client.get("/v1/accounts/A2", headers=customer)
        nobody = await one.client.get("/v1/accounts/A2", headers=one.bearer("customer", account="A3"))
        assert other.status_code == nobody.status_code == 404
        for path in ("/v1/accounts", "/v1/feed", "/v1/lines", "/v1/meters", "/metrics", "/v1/commands", "/schema"):
            answer = await one.client.get(path, headers=customer)
            assert answer.status_code == 403, (path, answer.text)
        assert (await one.client.get("/v1/accounts/A1", headers=one.bearer("read"))).status_code == 200


# ------------------------------------------------------------------------------------------------ threads


async def test_calls_of_http_do_not_wait_for_the_threads_that_they_keep_busy(tmp_path: Path) -> None:
    """A payment waits for an answer of this very process, which needs a thread to look the token up: with many at once, and one
    pool for both, nobody would ever be answered."""
    async with here(tmp_path) as one:
        office = one.supply.office
        await one.supply.ask(office.enrol, an_enrolment(), by="test")
        await one.supply.ask(office.confirm, "A1", by="test")
        cashier = one.bearer("cashier", "operate")

        async def pay(number: int) -> int:
            body = {
                "channel": "counter",
                "receipt": f"R{number}",
                "account": "A1",
                "amount_minor": 100,
                "currency": "CNY",
                "paid_at": one.clock.now().isoformat(),
            }
            return (await one.client.post("/v1/payments", json=body, headers=cashier)).status_code

        async with asyncio.timeout(60):
            codes = await asyncio.gather(*(pay(number) for number in range(60)))
        assert codes == [202] * 60
        booked = await one.supply.ask(office.payments, "A1")
        assert [payment.state for payment in booked] == [PaymentState.BOOKED] * 60


async def test_payments_that_wait_for_the_switch_hold_up_nobody_who_only_looks(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        office, inside, answers = one.supply.office, one.supply._call, threading.Event()
        await one.supply.ask(office.enrol, an_enrolment(), by="test")
        await one.supply.ask(office.confirm, "A1", by="test")
        over_loop = inside._call

        def slow(method: str, path: str, **told: Any) -> Asked:
            if path == "/v1/obligations":
                answers.wait(30)
            assert over_loop is not None
            return over_loop(method, path, **told)

        inside._call = slow  # type: ignore[assignment]
        cashier = one.bearer("cashier")

        async def pay(number: int) -> int:
            body = {
                "channel": "app",
                "receipt": f"R{number}",
                "account": "A1",
                "amount_minor": 100,
                "currency": "CNY",
                "paid_at": one.clock.now().isoformat(),
            }
            return (await one.client.post("/v1/payments", json=body, headers=cashier)).status_code

        paying = [asyncio.create_task(pay(number)) for number in range(PAYING_MAX + 3)]
        async with asyncio.timeout(20):
            refused = [await first for first in itertools.islice(asyncio.as_completed(paying), 3)]
            assert refused == [503] * 3  # at once; the channel tells them again
            for _ in range(8):
                assert (await one.client.get("/v1/accounts/A1", headers=cashier)).status_code == 200
        answers.set()
        async with asyncio.timeout(60):
            codes = await asyncio.gather(*paying)
        assert sorted(codes) == [202] * PAYING_MAX + [503] * 3


async def test_whatever_may_wait_for_the_switch_has_its_turn_at_the_tills(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        office, answers = one.supply.office, threading.Event()
        await one.supply.ask(office.enrol, an_enrolment(), by="test")
        await one.supply.ask(office.confirm, "A1", by="test")
        admin, now = one.bearer("admin"), one.clock.now().isoformat()
        money = {"amount_minor": 100, "currency": "CNY"}
        told = money | {"channel": "app", "receipt": "R1", "account": "A9", "paid_at": now}
        by_hand = {"amount_minor": 100, "key": "K1", "note": "a fee"}
        assert (await one.client.post("/v1/payments", json=told, headers=admin)).json()["payment"][
            "state"
        ] == "unmatched"
        waiting = [asyncio.create_task(one.supply.pay(answers.wait, 30)) for _ in range(PAYING_MAX)]
        await asyncio.sleep(0)  # each is counted now
        async with asyncio.timeout(20):
            for path, body in (
                ("/v1/payments", told),
                ("/v1/payments/app/R1/assignment", {"account": "A1"}),
                ("/v1/accounts/A1/adjustments", by_hand),
            ):
                refused = await one.client.post(path, json=body, headers=admin)
                assert (refused.status_code, "switchboard-unavailable" in refused.text) == (503, True), path
            assert (await one.client.get("/v1/accounts/A1", headers=admin)).status_code == 200
            answers.set()
            assert all(await asyncio.gather(*waiting))
            done = await one.client.post("/v1/accounts/A1/adjustments", json=by_hand, headers=admin)
            refund = await one.client.post("/v1/accounts/A1/refunds", json=by_hand | {"key": "K2"}, headers=admin)
        assert (done.status_code, refund.status_code) == (201, 201)


async def test_asking_gives_what_the_work_gives_and_raises_what_it_raises(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        names = {await one.supply.ask(threading.current_thread) for _ in range(8)}
        assert all(thread.name.startswith("prepaid-desk") for thread in names)
        tills = {await one.supply.pay(threading.current_thread) for _ in range(8)}
        assert all(thread.name.startswith("prepaid-till") for thread in tills)
        with pytest.raises(ZeroDivisionError):
            await one.supply.ask(lambda: 1 // 0)


# ------------------------------------------------------------------------------------------------ running and ending


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def taken_in(folder: Path) -> int:
    """How far the feed was taken in."""
    with sqlite3.connect(folder / "prepayment.db") as connection:
        found = connection.execute("SELECT sequence FROM feed_cursor").fetchone()
    connection.close()
    return 0 if found is None else int(found[0])


async def kept(name: str, work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def test_duties_run_on_a_thread_of_their_own_until_they_are_stopped(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        one.store.commit([a_read(slot=slot) for slot in range(3)])
        running = asyncio.create_task(one.supply.run(kept))
        async with asyncio.timeout(20):
            await asyncio.to_thread(until, lambda: taken_in(tmp_path) == 3)
            await asyncio.to_thread(until, lambda: one.supply._service.states["figures"].next_at > 0)
            one.supply.stop()
            await running
        assert b'headend_prepayment_accounts{state="active"} 0.0' in generate_latest(one.registry)
        assert not any(state.failures for state in one.supply._service.states.values())
        assert one.supply.problems() == ()


async def test_a_duty_that_fails_is_a_problem_without_a_customer_in_it(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        await one.supply._call.aclose()  # nobody answers
        await one.supply._service.round()
        told = one.supply.problems()
        assert told
        assert any("fails and is tried again" in problem for problem in told)
        health = one.head_end.health().problems
        assert set(told) <= set(health)
        assert all("A1" not in problem for problem in health)


async def test_ending_waits_for_work_at_a_desk_and_lets_nobody_hang(tmp_path: Path) -> None:
    made = Here(tmp_path)
    began = threading.Event()

    def slow() -> str:
        began.set()
        time.sleep(0.2)
        try:
            made.supply._call("GET", "/v1/feed")
        except NoAnswer:
            return "told"
        return "answered"

    async with made.head_end.writer, asyncio.timeout(20):
        asked = asyncio.create_task(made.supply.ask(slow))
        await asyncio.to_thread(began.wait)
        await made.supply.aclose()
        assert await asked == "told"
        await made.client.aclose()
    made.store.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepaid-")]


# ------------------------------------------------------------------------------------------------ who orders

PREPAYMENT = """
[prepayment]
enabled = true
identity_salt = "file:salt"
"""


@pytest.mark.parametrize("code", ["00000018", ""], ids=["with a code", "without a code"])
async def test_it_orders_as_a_person_of_its_own_with_that_person_s_code(tmp_path: Path, code: str) -> None:
    (tmp_path / "prepaid.txt").write_text(code)
    (tmp_path / "salt").write_text("a salt of thirty-two characters.")
    operator = f'{PERSON} = "file:prepaid.txt"\n' if code else ""
    more = operator + PREPAYMENT
    async with site_of(tmp_path, more=more) as (site, client):
        await site.make_ready(client)
        store = site.head_end._store
        supply = PrepaidSupply(site.head_end._config, store, site.tokens, clock=site.clock)
        now = site.clock.now()
        told = [
            ProvenNotice(step=step, sent_at=now - ago, delivered_at=now - ago, channel="sms", reference=step)
            for step, ago in (
                ("first", timedelta(days=9)),
                ("second", timedelta(days=8)),
                ("final", timedelta(hours=3)),
            )
        ]
        proof = OpenProof(account="A1", balance_minor=-12000, currency="CNY", as_of=now, fence=0)

        def order(call: CallOverLoop) -> OrderState:
            switch = HttpSwitchboard(call)
            expires_at = now + timedelta(minutes=8)
            return switch.order_open(
                "M000001", key="k", reason="used up", proof=proof, notices=told, expires_at=expires_at
            )

        async with httpx.AsyncClient(base_url=site.url, headers=supply._call._headers) as inside:
            state = await asyncio.to_thread(order, CallOverLoop(inside, asyncio.get_running_loop()))
            approving = await inside.post("/v1/approvals/x/approve", json={"digest": "d"})
        await supply.aclose()
        if not code:
            assert (state.state, state.problem.partition(":")[0]) == ("refused", "operator")
            return
        assert state.state not in ("refused", "")
        found = (await client.get(f"/v1/commands/{state.command}", headers=site.token("read"))).json()["command"]
        assert found["requester"] == PERSON
        assert approving.status_code == 403
