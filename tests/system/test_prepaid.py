"""One process with `[prepayment]` and `[control]`: a customer is enrolled, runs low, is told, pays, and the feed says so."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.processes import BIN, HeadEndProcess, config_text, create_token, eventually, pull, simulated_lines

PLAN = Path(__file__).parents[2] / "headend" / "prepayment" / "notices" / "plans" / "cn-residential.toml"
PREPAYMENT = """
[prepayment]
enabled = true
identity_salt = "file:salt"
tariffs = ["residential-step"]
plan = "plan.toml"
[[prepayment.channels]]
name = "sms"
kind = "file"
path = "messages.ndjson"
[control]
enabled = true
"""


def write_config(folder: Path, lines: list[dict[str, Any]]) -> Path:
    # At any hour of the day, so that the test needs no clock of its own.
    plan = PLAN.read_text("utf-8").replace("quiet = { start", "quiet = { days = [], start")
    (folder / "plan.toml").write_text(plan, "utf-8")
    (folder / "salt").write_text("a salt of thirty-two characters.")
    path = folder / "headend.toml"
    path.write_text(config_text(folder, lines, period="1h", quantities=["1-0:1.8.0"]) + PREPAYMENT)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    with simulated_lines("--listen", "tcp://127.0.0.1:0", "--meters", "2", "--seed", "1") as lines:
        yield write_config(tmp_path, lines)


def enrolment(**changes: Any) -> dict[str, Any]:
    return {
        "account": "A1",
        "customer": "C1",
        "name": "Li Wei",
        "identity": "410300199001011234",
        "premises": "P1",
        "address": "Zhongzhou Road 1",
        "meters": ["M000001"],
        "phone": "13812345678",
        "currency": "CNY",
        "tariff": "residential-step",
        "reminder_minor": 5000,
    } | changes


def payment(receipt: str, **changes: Any) -> dict[str, Any]:
    return {
        "channel": "counter",
        "receipt": receipt,
        "account": "A1",
        "amount_minor": 20000,
        "currency": "CNY",
        "paid_at": datetime.now(UTC).isoformat(),
    } | changes


def told(client: httpx.Client) -> list[dict[str, Any]]:
    return [event for event in pull(client, 0) if event["type"] == "headend.account.v1"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def customer_token(config: Path) -> str:
    made = headend("token", "create", config, "--account", "A1")
    assert (made["roles"], made["account"]) == (["customer"], "A1")
    return str(made["token"])


def headend(*arguments: object) -> dict[str, Any]:
    words = [str(BIN / "headend"), *map(str, arguments), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_check_says_on_a_line_of_its_own_what_would_keep_everybody_from_being_disconnected(tmp_path: Path) -> None:
    config = write_config(tmp_path, [{"url": "tcp://127.0.0.1:9", "meters": ["000000000001"]}])
    done = subprocess.run([BIN / "headend", "check", config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    told = [line for line in done.stdout.splitlines() if "[prepayment]" in line]
    assert told
    assert "has no code for" in done.stdout


def test_a_customer_is_enrolled_told_and_pays_and_the_feed_says_so_once(config: Path) -> None:
    head_end = HeadEndProcess(config, create_token(config, "admin"))
    client = head_end.wait_ready()
    enrolled = client.post("/v1/accounts", json=enrolment())
    assert enrolled.status_code in (200, 201), enrolled.text
    own = httpx.Client(base_url=client.base_url, headers=bearer(customer_token(config)), timeout=30)
    assert own.get("/v1/accounts/A1").json()
    assert [own.get(path).status_code for path in ("/v1/accounts/A2", "/v1/accounts", "/v1/feed")] == [404, 403, 403]
    own.close()
    assert client.post("/v1/accounts", json=enrolment(account="A2", meters=["M999999"])).status_code == 422
    assert client.post("/v1/accounts/A1/confirm", json={}).is_success

    messages = config.parent / "messages.ndjson"
    eventually(lambda: [event["data"]["state"] for event in told(client)] == ["low"], 40)
    eventually(lambda: messages.exists() and len(messages.read_text().splitlines()) >= 2, 40)
    sent = [json.loads(line)["message"] for line in messages.read_text("utf-8").splitlines()]
    assert {"agreement", "low"} <= {message["kind"] for message in sent}
    assert {message["to"] for message in sent} == {"+8613812345678"}

    paid = payment("R1")
    answers = [client.post("/v1/payments", json=paid) for _ in range(3)]
    assert [answer.is_success for answer in answers] == [True] * 3, answers[0].text
    assert client.get("/v1/accounts/A1").json()
    eventually(lambda: [event["data"]["state"] for event in told(client)] == ["low", "well"], 40)
    first, last = told(client)
    assert first["subject"] == last["subject"] == "A1"
    assert first["id"] != last["id"]
    assert last["data"]["balance_minor"] == 20000  # told three times, booked once

    assert head_end.stop() == 0
    assert "Traceback" not in head_end.log.read_text()
    again = HeadEndProcess(config, create_token(config, "admin"))
    client = again.wait_ready()
    assert client.post("/v1/payments", json=paid).is_success
    assert len(told(client)) == 2
    eventually(lambda: 'headend_prepayment_accounts{state="active"} 1.0' in client.get("/metrics").text)
    figures = client.get("/metrics").text
    assert 'headend_prepayment_payments{channel="counter",state="booked"} 1.0' in figures
    assert "headend_prepayment_events_waiting 0.0" in figures
    assert "A1" not in figures
    assert client.get("/healthz").status_code == 200, client.get("/healthz").text
    copies = config.parent / "copies"
    copies.mkdir()
    taken = headend("backup", config, copies)
    assert Path(taken["accounts"]["path"]).name.startswith("prepayment-")
    assert again.stop() == 0
    (config.parent / "prepayment.db").unlink()
    restored = headend("restore", "--accounts", config, taken["accounts"]["path"])
    assert restored["last_sequence"] >= 1
    with sqlite3.connect(config.parent / "prepayment.db") as connection:
        assert connection.execute("SELECT count(*) FROM payments").fetchone() == (1,)
