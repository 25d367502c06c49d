"""The story of the demo with real processes: a tenant's balance runs out, three messages, dark, a payment told twice, light again.

The narrator of the demo leads through it. What it says is not believed here, but looked up: in the feed, the books, the messages, the
audit log, and in the meter.
"""

import asyncio
import io
import json
import re
import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from headend.audit.entries import entries_in_store
from headend.audit.verify import verify_log
from headend.config import load_config
from headend.database.engine import reading
from headend.keys import PublicKey
from headend.store.store import open_store
from simulators.demo_home import MESSAGES, METER
from simulators.demo_story import ACCOUNT, PHONE, Narrator, Story
from tests.system.prepaid_site import PACE, site
from tests.system.processes import pull

# In the meter: how often its relay was opened and closed, and whose code stands in the last record of each.
RECORDED = {"di:1D000001": "1", "di:1D000201": "00000041", "di:1E000001": "1", "di:1E000201": "00000040"}
WARNINGS = ["first", "second", "final"]


def told(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.both_databases
@pytest.mark.timeout(240)
def test_the_story_of_a_balance_that_runs_out_is_true(tmp_path: Path) -> None:
    began = time.monotonic()
    with site(tmp_path) as (head_end, tokens):
        client = head_end.client
        assert client is not None
        page = io.StringIO()
        console = Console(file=page, width=10_000)
        api = str(client.base_url).rstrip("/")
        asyncio.run(Story(Narrator(console), api, tmp_path, tokens, PACE).tell())
        took_s = time.monotonic() - began
        events = list(pull(client, 0))
        notices = told(client, f"/v1/accounts/{ACCOUNT}/notices")["notices"]
        payments = told(client, f"/v1/accounts/{ACCOUNT}/payments")["payments"]
        entries = told(client, f"/v1/accounts/{ACCOUNT}/entries")["entries"]
        commands = told(client, f"/v1/commands?meter={METER}")["commands"]
        debts = told(client, f"/v1/obligations?meter={METER}&ended=true")["obligations"]
        account = told(client, f"/v1/accounts/{ACCOUNT}")
        in_meter = client.post(f"/v1/meters/{METER}/reads", json={"quantities": ["1-0:16.7.0", *RECORDED]}).json()[
            "reads"
        ]
        shown = the_page(api, page.getvalue())
        assert head_end.stop() == 0
    lines = page.getvalue().splitlines()
    try:
        check_warnings(notices, commands, tmp_path)
        check_supply(commands, debts, in_meter, lines)
        check_money(payments, entries, account)
        check_feed(events)
        check_audit(tmp_path)
        check_page(shown, account)
    except AssertionError:
        print(page.getvalue(), head_end.log.read_text()[-3000:], sep="\n")
        raise
    print(f"the story took {took_s:.0f} s")


def the_page(api: str, narrated: str) -> str:
    """What the tenant sees who signs in as the narrator said."""
    said = re.search(r"Her page: (\S+)   sign in with (\S+)", narrated)
    assert said is not None
    with httpx.Client(base_url=api, follow_redirects=True) as browser:
        form = browser.get("/sign-in").raise_for_status().text
        csrf = re.search(r'name="csrf" value="([^"]+)"', form)
        assert csrf is not None, form
        browser.post("/sign-in", data={"csrf": csrf[1], "next": "", "token": said[2]}).raise_for_status()
        return browser.get(said[1]).raise_for_status().text


def check_page(shown: str, account: dict[str, Any]) -> None:
    """Her own account, and what she was told last."""
    assert ACCOUNT in shown
    assert account["holder"]["name"] in shown
    assert "Electricity: supply is back" in shown
    assert "Electricity: last warning before disconnection" in shown


def check_warnings(notices: list[dict[str, Any]], commands: list[dict[str, Any]], folder: Path) -> None:
    """Three, each delivered and proven before the next and before the order; then what became of it."""
    by_age = notices[::-1]
    kinds = [one["kind"] for one in by_age]
    assert kinds == ["agreement", "low", "used-up", "last-warning", "disconnected", "paid", "restored"]
    warnings = by_age[1:4]
    assert [one["step"] for one in warnings] == WARNINGS
    for one in by_age:
        assert one["state"] == "delivered", one
        assert one["reference"].startswith("file:")
        assert one["channel"] == "sms"
    delivered = [moment(one["delivered_at"]) for one in warnings]
    for before, after in pairwise(delivered):
        assert (after - before).total_seconds() >= PACE.apart_s
    [opened] = [one for one in commands if one["kind"] == "open"]
    assert all(at < moment(opened["created_at"]) for at in delivered)
    # What was sent is what is on record.
    sent = [json.loads(line) for line in (folder / MESSAGES).read_text(encoding="utf-8").splitlines()]
    assert [(one["reference"], one["message"]["text"]) for one in sent] == [
        (one["reference"], one["text"]) for one in by_age
    ]
    assert {one["message"]["to"] for one in sent} == {PHONE}


def check_supply(
    commands: list[dict[str, Any]], debts: list[dict[str, Any]], in_meter: list[dict[str, Any]], lines: list[str]
) -> None:
    """One open and one close, each verified; and the meter has recorded the same, under the codes of who ordered.

    The first payment came when nobody knew yet whether the supply was on: it was looked at, and is.
    """
    by_kind = {one["kind"]: one for one in commands}
    assert Counter(one["kind"] for one in commands) == {"status": 1, "open": 1, "close": 1}
    assert {one["state"] for one in commands} == {"verified"}
    assert by_kind["open"]["requester"] == "prepaid-supply"
    assert by_kind["open"]["detail"]["contact"] == "open"
    assert by_kind["open"]["register"]["obis"] == "1-0:1.8.0"
    assert [(one["ended"], one["cause"]) for one in debts[::-1]] == [("already-on", "payment"), ("verified", "payment")]
    power, *recorded = in_meter
    assert float(power["value"]) > 3
    assert {one["quantity"]: one["value"] for one in recorded} == RECORDED
    # While it was dark the narrator asked the meter.
    assert any("The flat is dark: the meter shows 0.0000 kW and 0.000 A." in line for line in lines)
    assert any(line.partition("  ")[2].startswith("Back ") for line in lines)


def check_money(payments: list[dict[str, Any]], entries: list[dict[str, Any]], account: dict[str, Any]) -> None:
    """The second payment was told twice and is in the books once; nothing else has moved."""
    assert [(one["amount_minor"], one["state"], one["channel"]) for one in payments] == [
        (100, "booked", "counter"),
        (5000, "booked", "counter"),
    ]
    assert Counter(one["cause"] for one in entries) == {"payment": 2}
    standing = account["standing"]
    assert standing["paid_minor"] == 5100
    assert standing["available_minor"] == 5100 - standing["counted_minor"]
    assert 0 < standing["counted_minor"] < 2000
    assert not account["supply"]["is_off"]


def check_feed(events: list[dict[str, Any]]) -> None:
    """Whoever has billing of their own sees the same story."""
    of_account = [one["data"] for one in events if one["type"] == "headend.account.v1"]
    steps = [(one["state"], one["because"]) for one in of_account if one["about"] == "supply-episode"]
    assert steps == [
        ("low", "ran-low"),
        ("used-up", "ran-out"),
        ("warned", "warned"),
        ("ordered", "ordered"),
        ("disconnected", "went-off"),
        ("paid", "put-right"),
        ("well", "came-back"),
    ]
    assert all(one["account"] == ACCOUNT for one in of_account)
    assert 0 <= of_account[-1]["back_after_s"] <= of_account[-1]["off_s"] + 60
    switched = [
        one["data"] for one in events if one["type"] == "headend.relay.v1" and one["data"].get("kind") == "open"
    ]
    assert [one["state"] for one in switched][-1] == "verified"
    assert [one for one, count in Counter(event["id"] for event in events).items() if count > 1] == []
    assert not any("suspect" in one["data"]["quality"] for one in events if one["type"] == "headend.read.v1")


def check_audit(folder: Path) -> None:
    """Every step of it is in the log, and nobody has changed the log."""
    loaded = load_config(folder / "headend.toml")
    store = open_store(loaded.store, loaded.name)
    public = PublicKey.from_pem((folder / "audit-key.pub.pem").read_text(encoding="ascii"))
    with reading(store.engine, "verifying") as connection:
        records = list(entries_in_store(connection))
    store.close()
    verdict = verify_log(iter(records), [public], [])
    assert verdict.is_good, verdict.findings
    assert verdict.through == verdict.records > 20
