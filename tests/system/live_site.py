"""A head-end that may switch supplies, as a process: its configuration, a policy that allows, people with tokens, keys and codes."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from headend.keys import make_key_files
from tests.databases import database_url
from tests.system.processes import BIN, HeadEndProcess, eventually, make_tokens

__all__ = ["LiveSite"]

POLICY = """
protected = []
[policy]
id = "always"
version = "1"
title = "Opens at every hour, for tests"
timezone = "Asia/Shanghai"
calendars = ["days.toml"]
sources = ["made for a test"]
allow_unknown_class = true
[opens]
windows = [{ days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], start = "00:00", end = "24:00" }]
no_opens_on = []
rest_days = []
on_holidays = true
eves_of_holidays = 0
[debt]
currency = "CNY"
minimum_minor = 1000
grace_minor = 0
proof_age_max = "10m"
[notices]
steps = [{ step = "final", before = "30m", age_max = "24h" }]
[reconnect]
close = "directly"
"""
LIMITS = {"per_hour": 20, "of_fleet_per_day": "1", "of_feeder_per_day": "1", "raise_delay_s": 0}
ROLES = {"Ann": ("disconnect",), "Bob": ("approve",), "Carl": ("operate", "read"), "desk": ("cashier",)}


class LiveSite:
    """things: lines, brokers, concentrators and meters of the configuration. Tokens are by the name of who holds them."""

    def __init__(self, folder: Path, things: str) -> None:
        self.folder = folder
        self._things = things
        self.config = folder / "headend.toml"
        self.log = folder / "headend.log"
        make_key_files(folder, "audit-key")
        for name, text in (("password", "02000000"), ("operator", "00000099"), ("ann", "00000017")):
            (folder / name).write_text(text)
        (folder / "policy.toml").write_text(POLICY)
        this_year = datetime.now(UTC).year
        years = "".join(
            f'[[years]]\nyear = {year}\nsource = "made for a test"\nholidays = []\n'
            for year in range(this_year - 1, this_year + 3)
        )
        (folder / "days.toml").write_text(f'name = "days"\ntitle = "No holidays"\n{years}')
        self._write_config()
        self.tokens = make_tokens(self.config, {name: (roles, name) for name, roles in ROLES.items()})
        self.head_end: HeadEndProcess | None = None
        self.client = httpx.Client()

    def _write_config(self) -> None:
        self.config.write_text(
            f'[headend]\nname = "live"\ntimezone = "Asia/Shanghai"\nstore = "{database_url(self.folder, "store")}"\n'
            '[api]\nlisten = "127.0.0.1:0"\n'
            '[secrets]\npassword = "file:password"\noperator = "file:operator"\n'
            '[audit]\nsigning_key = "file:audit-key.pem"\n'
            '[control]\nenabled = true\npolicy = "policy.toml"\nclock = "vouched"\n'
            '[control.operators]\nAnn = "file:ann"\n'
            '[[plans]]\nname = "plan"\nperiod = "1m"\nquantities = ["1-0:1.8.0"]\n' + self._things
        )

    # -------------------------------------------------------------------------------------------- the process

    def start(self) -> None:
        """Until orders are taken."""
        self.head_end = HeadEndProcess(self.config, self.tokens["Carl"])
        self.client = self.head_end.wait_ready()
        eventually(lambda: self.client.get("/v1/stop-switch").status_code == 200, 120)

    def kill(self) -> None:
        assert self.head_end is not None
        self.head_end.kill()

    def stop(self) -> None:
        assert self.head_end is not None
        code = self.head_end.stop()
        said = self.log.read_text(encoding="utf-8", errors="replace")
        assert code == 0, said[-3000:]
        assert "Traceback" not in said, said[-3000:]

    def cli(self, *words: str, who: str) -> "subprocess.CompletedProcess[str]":
        """`headend WORDS` as somebody types it."""
        return subprocess.run(
            [BIN / "headend", *words, "--url", str(self.client.base_url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"HEADEND_TOKEN": self.tokens[who], "COLUMNS": "200"},
        )

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, who: str) -> httpx.Response:
        return self.client.request(method, path, json=body, headers={"Authorization": f"Bearer {self.tokens[who]}"})

    # -------------------------------------------------------------------------------------------- orders

    def ask_limits(self) -> dict[str, Any]:
        """What a second person is to approve."""
        asked: dict[str, Any] = self.ask("PUT", "/v1/limits", LIMITS, who="Ann").raise_for_status().json()["approval"]
        return asked

    def proof(self, meter: str) -> dict[str, Any]:
        """All that the policy asks for, as JSON."""
        now = datetime.now(UTC)
        told = (now - timedelta(hours=1)).isoformat()
        notice = {
            "step": "final",
            "sent_at": told,
            "delivered_at": told,
            "channel": "sms",
            "reference": f"sms-{meter}",
        }
        debt = {
            "account": f"A-{meter}",
            "balance_minor": -120_00,
            "currency": "CNY",
            "as_of": now.isoformat(),
            "fence": 0,
        }
        return {"proof": debt, "notices": [notice]}

    def order(self, kind: str, meter: str, *, who: str) -> str:
        """The id of the command, which was taken."""
        more = self.proof(meter) if kind == "open" else {}
        order = {
            "kind": kind,
            "meter": meter,
            "reason": "arrears" if kind == "open" else "paid",
            "idempotency_key": f"{kind}-{meter}",
            "expires_at": (datetime.now(UTC) + timedelta(minutes=10)).isoformat(),
        }
        answer = self.ask("POST", "/v1/commands", order | more, who=who)
        assert answer.status_code == 202, answer.text
        identity: str = answer.json()["command"]["id"]
        return identity

    def payment(self, meter: str) -> dict[str, Any]:
        paid = {"amount_minor": 150_00, "currency": "CNY", "paid_at": datetime.now(UTC).isoformat(), "fence": 1}
        return paid | {"cause": "payment", "meters": [meter], "reference": f"P-{meter}"}

    def ended(self, identity: str) -> dict[str, Any]:
        """The command when it has ended."""
        seen: list[dict[str, Any]] = []

        def is_final() -> bool:
            seen.append(self.client.get(f"/v1/commands/{identity}").raise_for_status().json()["command"])
            return bool(seen[-1]["is_final"]) or seen[-1]["state"] == "unconfirmed"

        eventually(is_final, 120)
        return seen[-1]
