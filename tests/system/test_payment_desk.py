"""Payment desks against a real head-end: channels that repeat themselves, come late and take back, and two ledgers that agree."""

import csv
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulators.demo_home import METER, TARIFF
from tests.system.prepaid_site import site
from tests.system.processes import BIN, make_tokens

ACCOUNT = "A100"
COUNT = 80
WITHIN_S = 120.0  # what the two desks may take; a quiet machine needs four seconds
KNOWN = ("receipt", "account", "amount_minor", "currency", "paid_at")


def enrol(api: str, cashier: str) -> None:
    with httpx.Client(base_url=api, headers={"Authorization": f"Bearer {cashier}"}, timeout=30) as client:
        wanted = {
            "account": ACCOUNT,
            "customer": "C100",
            "name": "Li Na",
            "identity": "TEST-100",
            "premises": "P100",
            "address": "Lane 4, house 10, flat 2",
            "meters": [METER],
            "phone": "+8613800000100",
            "currency": "CNY",
            "tariff": TARIFF,
            "reminder_minor": 100,
        }
        client.post("/v1/accounts", json=wanted).raise_for_status()
        client.post(f"/v1/accounts/{ACCOUNT}/confirm").raise_for_status()


def rows_of(text: str) -> dict[str, dict[str, str]]:
    return {row["receipt"]: row for row in csv.DictReader(text.splitlines())}


@pytest.mark.both_databases
def test_what_channels_wrote_down_is_what_the_head_end_booked_each_payment_once(tmp_path: Path) -> None:
    days = tmp_path / "days"
    with site(tmp_path) as (head_end, tokens):
        client = head_end.client
        assert client is not None
        api = str(client.base_url).rstrip("/")
        enrol(api, tokens["cashier"])
        token = make_tokens(tmp_path / "headend.toml", {"channels": (("cashier", "admin"), "")})["channels"]
        desk: list[str | Path] = [
            BIN / "meter-sim", "payment-desk", "traffic", "--url", api, "--token", token, "--account", ACCOUNT, "--count", str(COUNT),
            "--repeats", "6", "--span-s", "1", "--late-s", "1", "--reversals", "150", "--mistyped", "100", "--seed", "9",
            "--reconcile", str(days),
        ]  # fmt: skip
        done = subprocess.run(desk, capture_output=True, text=True, timeout=WITHIN_S, check=False)
        assert done.returncode == 0, done.stderr
        files = sorted(days.iterdir())
        told: dict[str, dict[str, str]] = {}
        kept: dict[str, dict[str, str]] = {}
        for path in files:
            channel, day = path.stem[:-11], path.stem[-10:]
            told |= rows_of(path.read_text(encoding="utf-8"))
            asked = {
                "params": {"channel": channel, "day": day},
                "headers": {"Accept": "text/csv", "Authorization": f"Bearer {token}"},
            }
            kept |= rows_of(client.get("/v1/payments/reconciliation", **asked).raise_for_status().text)  # type: ignore[arg-type]
        account: dict[str, Any] = client.get(f"/v1/accounts/{ACCOUNT}").raise_for_status().json()
        assert head_end.stop() == 0
    assert len(told) == COUNT
    assert {receipt: [row[name] for name in KNOWN] for receipt, row in told.items()} == {
        receipt: [row[name] for name in KNOWN] for receipt, row in kept.items()
    }
    assert sum(int(row["told"]) for row in told.values()) > 2 * COUNT  # again and again
    for receipt, row in told.items():
        expected = "reversed" if row["state"] == "reversed" else "booked" if row["account"] == ACCOUNT else "unmatched"
        assert kept[receipt]["state"] == expected, (row, kept[receipt])
    assert {row["state"] for row in kept.values()} == {"booked", "unmatched", "reversed"}
    paid = sum(int(row["amount_minor"]) for row in kept.values() if row["state"] == "booked")
    standing = account["standing"]
    assert standing["available_minor"] + standing["counted_minor"] == paid
