"""The switchboard's adapter against a running head-end with supply switches, over real HTTP; its line never answers."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import pytest

from headend.prepayment.errors import FeedUnavailable, OutboxUnavailable, SwitchboardUnavailable, SwitchedOff
from headend.prepayment.outside.calling import Asked, CallOverLoop, NoAnswer
from headend.prepayment.outside.feed_http import HttpFeed
from headend.prepayment.outside.outbox_http import HttpOutbox
from headend.prepayment.outside.switchboard_http import HttpSwitchboard
from headend.prepayment.ports import OpenProof, ProvenNotice
from tests.headend.api.relay_site import RelaySite, site_of

T = TypeVar("T")
METER = "M000001"


def proof_of(site: RelaySite, *, fence: int = 0) -> OpenProof:
    return OpenProof(account="A1", balance_minor=-12000, currency="CNY", as_of=site.clock.now(), fence=fence)


def notices_of(site: RelaySite) -> list[ProvenNotice]:
    now = site.clock.now()
    ago = {"first": timedelta(days=9), "second": timedelta(days=8), "final": timedelta(hours=3)}
    return [
        ProvenNotice(step=step, sent_at=now - one, delivered_at=now - one, channel="sms", reference=f"sms-{step}")
        for step, one in ago.items()
    ]


async def test_an_order_is_placed_once_and_a_payment_takes_it_back(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, client):
        await site.make_ready(client)
        headers = site.token("disconnect", "cashier", "read", person="Ann")
        proof, notices = proof_of(site), notices_of(site)
        expires_at, paid_at = site.clock.now() + timedelta(minutes=8), site.clock.now()
        key = "prepaid:" + "A" * 64 + ":1:1:" + "M" * 64  # longer than the interface takes

        def story(switch: HttpSwitchboard) -> None:
            assert switch.supply(METER) == "on"

            def order(which: str = key, fenced: OpenProof = proof) -> tuple[str, str, str]:
                told = switch.order_open(
                    METER, key=which, reason="used up", proof=fenced, notices=notices, expires_at=expires_at
                )
                return told.command, told.state, told.problem

            first = order()
            assert first[0]
            assert first[1] not in ("refused", "")
            assert order()[0] == first[0]
            assert not switch.state(first[0]).is_final
            for _ in range(2):
                switch.payment(METER, reference="app:R1", paid_at=paid_at, amount_minor=15000, currency="CNY", fence=7)
            after = switch.state(first[0])
            assert (after.state, after.is_final) == ("cancelled", True)
            # Told again after a crash with a new fence, which is another payment to the interface.
            switch.payment(METER, reference="app:R1", paid_at=paid_at, amount_minor=15000, currency="CNY", fence=8)
            command, state, problem = order("another", proof_of(site, fence=7))
            assert (state, problem.partition(":")[0]) == ("refused", "fence")
            assert switch.state(command).problem.startswith("fence: ")
            with pytest.raises(SwitchboardUnavailable, match="404"):
                switch.state("no-such-command")
            switch.payment(
                "M999999", reference="app:R2", paid_at=paid_at, amount_minor=1, currency="CNY", fence=1
            )  # nothing is served there, so nothing is to be stopped

        async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=20) as own:
            await asyncio.to_thread(story, HttpSwitchboard(CallOverLoop(own, asyncio.get_running_loop())))
        client.headers.update(headers)
        in_process = HttpSwitchboard(CallOverLoop(client, asyncio.get_running_loop()))
        assert await asyncio.to_thread(in_process.supply, METER) == "on"


async def test_a_head_end_that_does_not_answer_or_know_us_is_told_as_unavailable(tmp_path: Path) -> None:
    async with site_of(tmp_path) as (site, _):
        for url, told in ((site.url, "answered 401"), ("http://127.0.0.1:9", "GET /v1/commands")):
            async with httpx.AsyncClient(base_url=url, timeout=5) as own:
                switch = HttpSwitchboard(CallOverLoop(own, asyncio.get_running_loop()))
                with pytest.raises(SwitchboardUnavailable, match=told):
                    await asyncio.to_thread(switch.supply, METER)


async def test_a_switch_that_is_turned_off_in_the_configuration_is_told_apart_from_one_that_has_nothing_to_do(
    tmp_path: Path,
) -> None:
    """A payment goes on; a credit that is to bring a supply back is told again when it switches."""
    async with site_of(tmp_path, enabled=False) as (site, _):
        headers = site.token("operate", "read")

        async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=20) as own:
            switch = HttpSwitchboard(CallOverLoop(own, asyncio.get_running_loop()))

            def tell(meter: str) -> None:
                switch.payment(
                    meter, reference="app:R1", paid_at=site.clock.now(), amount_minor=1, currency="CNY", fence=1
                )

            with pytest.raises(SwitchedOff, match="switches nothing"):
                await asyncio.to_thread(tell, METER)


class Listed:
    """The other end of the list of commands: this many that asked for the state of the supply, after one that opened it."""

    def __init__(self, asked: int) -> None:
        at = "2026-03-02T00:00:00Z"
        kinds = ["status"] * asked + ["open"]
        self.commands = [
            {"id": f"c{number}", "state": "verified", "kind": kind, "changed_at": at, "is_final": True}
            for number, kind in enumerate(kinds)
        ]

    def __call__(self, method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> Asked:
        assert query is not None
        if path == "/v1/obligations":
            return Asked(200, b'{"obligations": []}')
        start = int(query["after"][1:]) + 1 if "after" in query else 0
        page = self.commands[start : start + int(query["limit"])]
        return Asked(200, msgspec.json.encode({"commands": page}))


@pytest.mark.parametrize("asked", [0, 9, 10, 99, 100, 250])
def test_a_supply_is_off_however_often_somebody_has_only_looked_since(asked: int) -> None:
    assert HttpSwitchboard(Listed(asked)).supply(METER) == "off"


def test_a_meter_of_which_thousands_of_looks_are_known_and_no_switching_is_not_taken_to_be_on() -> None:
    with pytest.raises(SwitchboardUnavailable, match="5000"):
        HttpSwitchboard(Listed(5000)).supply(METER)


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ({"refusal_1_rule": "eve", "refusal_1_text": "a holiday follows", "rule": "x"}, "eve: a holiday follows"),
        ({"rule": "fence", "problem": "a payment came first", "needed": "a new order"}, "fence: a payment came first"),
        ({"rule": "limit", "limit": "1 of 1 opens today", "needed": "two"}, "limit: 1 of 1 opens today"),
        ({"problem": "no answer"}, "no answer"),
        ({}, ""),
    ],
)
def test_what_stands_against_an_order_is_told_with_its_words(detail: dict[str, str], told: str) -> None:
    command = {"id": "c1", "state": "x", "kind": "open", "changed_at": "2026-03-02T00:00:00Z", "is_final": False}

    def call(method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> Asked:
        return Asked(200, msgspec.json.encode({"command": command | {"detail": detail}}))

    assert HttpSwitchboard(call).state("c1").problem == told


async def test_a_call_to_a_head_end_that_has_just_ended_is_told_as_unavailable() -> None:
    client = httpx.AsyncClient(base_url="http://inside")
    await client.aclose()
    ending = HttpSwitchboard(CallOverLoop(client, asyncio.get_running_loop()))
    with pytest.raises(SwitchboardUnavailable, match="stopping"):
        await asyncio.to_thread(ending.supply, METER)
    loop = asyncio.new_event_loop()
    loop.close()
    ended = HttpSwitchboard(CallOverLoop(client, loop))
    with pytest.raises(SwitchboardUnavailable, match="stopped"):
        await asyncio.to_thread(ended.supply, METER)


def test_no_answer_is_told_in_the_words_of_whoever_asked() -> None:
    def away(method: str, path: str, *, query: dict[str, str] | None = None, body: object = None) -> Asked:
        raise NoAnswer(f"{method} {path}: nobody is there")

    with pytest.raises(SwitchboardUnavailable, match=r"GET /v1/commands: nobody is there"):
        HttpSwitchboard(away).supply(METER)
    with pytest.raises(FeedUnavailable, match=r"cannot be read: GET /v1/feed: nobody"):
        HttpFeed(away).events_after(0, 1)
    at = datetime(2026, 3, 2, tzinfo=UTC)
    with pytest.raises(OutboxUnavailable, match=r"event 7 cannot be handed over: POST /v1/account-events: nobody"):
        HttpOutbox(away).offer(7, "headend.account.v1", "A1", at, b"{}")
