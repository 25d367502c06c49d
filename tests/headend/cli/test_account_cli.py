"""`headend account` against a running head-end: what it prints, for people and for programs, and with which exit code it ends."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headend.cli.account import _minor
from headend.cli.main import app
from headend.prepayment.tariffs.tariff_file import TARIFFS
from tests.headend.api.account_site import SPRING, TODAY, AccountSite, site_of
from tests.headend.prepayment.fleet import interval

DAY = timedelta(days=1)
ENROL = (
    *("enrol", "A1", "--customer", "C1", "--name", "Wang [Fang]", "--premises", "P1", "--address", "1 Jian She Lu"),
    *("--meter", "M1", "--meter", "M2", "--phone", "13812345678", "--tariff", "flat", "--reminder", "20"),
)


class Terminal:
    """A person at the command line, with the token of these roles."""

    def __init__(self, site: AccountSite, url: str, *roles: str) -> None:
        self._url = url
        self._token = site.token(*roles)["Authorization"].removeprefix("Bearer ")

    async def __call__(self, *arguments: str, typed: str | None = None, expect: int = 0) -> Result:
        full = ["account", *arguments, "--url", self._url, "--token", self._token]
        done = await asyncio.to_thread(lambda: CliRunner().invoke(app, full, input=typed, env={"COLUMNS": "300"}))
        assert done.exit_code == expect, (arguments, done.output, done.exception)
        assert "Traceback" not in done.output
        return done

    async def json(self, *arguments: str, typed: str | None = None) -> dict[str, Any]:
        """What a program reads: one JSON object and nothing else."""
        done = await self(*arguments, "--json", typed=typed)
        (line,) = done.stdout.splitlines()
        found = json.loads(line)
        assert isinstance(found, dict)
        return found


async def test_an_account_is_kept_from_the_command_line_alone(tmp_path: Path) -> None:
    async with site_of(tmp_path, listens=True) as (site, client):
        url = str(client.base_url)
        cashier, admin = Terminal(site, url, "cashier"), Terminal(site, url, "admin")
        made = await cashier(*ENROL, typed="41030319800101123X\n")
        assert [word in made.stdout for word in ("A1, enrolled", "Wang [Fang]", "…123X", "below 20.00 CNY")] == [
            True
        ] * 4
        assert (await cashier.json("confirm", "A1"))["state"] == "active"
        await cashier("contact", "A1", "139 0000 0000", "--language", "en")
        await admin("amounts", "A1", "--reminder", "30.50", "--topup", "100", "--bank", "B-1")
        card = (await client.get("/v1/accounts/A1", headers=site.token("read"))).json()
        assert (card["reminder_minor"], card["topup_minor"], card["contact"]["phone"]) == (
            3050,
            10000,
            "+8613900000000",
        )
        assert [one["meter"] for one in card["meters"]] == ["M1", "M2"]
        paid = await cashier(
            "pay", "A1", "--amount", "12.34", "--receipt", "R/1", "--paid-at", "2026-03-02T08:00:00+08:00"
        )
        assert "booked 12.34 CNY for A1" in paid.stdout
        again = await cashier(
            "pay", "A1", "--amount", "12.34", "--receipt", "R/1", "--paid-at", "2026-03-02T08:00:00+08:00"
        )
        assert "known already" in again.stdout
        back = await admin.json("reverse", "counter", "R/1", "--reason", "it bounced")
        assert (back["payment"]["state"], back["payment"]["amount_minor"]) == ("reversed", 1234)
        held = await admin("hold", "A1", "--reason", "a court looks [at] it")
        assert "hold: a court looks [at] it" in held.stdout
        assert "a person has to look first" in (await admin("why", "A1")).stdout
        assert "hold" not in (await admin.json("release", "A1"))["flags"]
        await admin("tariff", "A1", "year")
        await admin("holder", "A1", "C9", "--name", "Li Hua", "--identity", "11010519491231002X")
        listed = await cashier("list", "li hua")
        assert [word in listed.stdout for word in ("A1", "Li Hua", "M1, M2")] == [True] * 3
        assert "there is none" in (await cashier("list", "nobody")).stdout
        adjusted = await admin("adjust", "A1", "--amount", "-5.67", "--note", "a fee", "--key", "K1")
        assert adjusted.stdout.startswith("entry ")
        assert (
            "known already"
            in (await admin("adjust", "A1", "--amount", "-5.67", "--note", "a fee", "--key", "K1")).stdout
        )
        entries = await cashier("entries", "A1")
        assert "-5.67" in entries.stdout
        shown = (await cashier("show", "A1")).stdout
        assert "-5.67 CNY" in shown
        assert "token 1: tariff flat → year" in shown
        assert "token 0: contact +8613812345678, zh → +8613900000000, en" in shown
        told = await cashier("notices", "A1")
        assert "agreement" in told.stdout
        token = await cashier("token", "A1")
        assert token.stdout.startswith("hdt_")
        assert "sees account A1 only" in token.stderr


async def test_days_months_and_money_that_is_nobodys_are_shown_to_people(tmp_path: Path) -> None:
    async with site_of(tmp_path, listens=True) as (site, client):
        url = str(client.base_url)
        cashier, admin = Terminal(site, url, "cashier"), Terminal(site, url, "admin")
        await site.enrol(client, landlord="")
        await site.enrol(client, "A2", "M2", landlord="C-A1")
        for number in range(30):
            site.pass_time(DAY, step=DAY)
            site.use("M1", TODAY + number * DAY, "4")
        site.pass_time(DAY, step=timedelta(hours=6))
        statement = await cashier("statement", "A1")
        assert [word in statement.stdout for word in ("account A1, 2026-03", "-63.40", "120 kWh")] == [True] * 3
        daily = await cashier("daily", "A1", "--from", "2026-03-01")
        assert [word in daily.stdout for word in ("2026-03-31", "2.11", "this month: 0 kWh")] == [True] * 3
        used = await admin("use", "M2", "2026-03-02", "1-0:1.8.0=12.5", "--note", "read by the fitter")
        assert "M2 on 2026-03-02: 1-0:1.8.0 12.5 kWh" in used.stdout
        site.feed.tell(interval("M2", TODAY, "0.75", start=site.town.now, length=timedelta(minutes=15)))
        site.pass_time(timedelta(minutes=15), step=timedelta(minutes=15))
        tenants = await cashier("landlord", "C-A1")
        assert [word in tenants.stdout for word in ("A2", "today", "0.75")] == [True] * 3
        assert "asked for nothing" in (await cashier("debits", "A1")).stdout
        now = site.town.now.isoformat()
        unknown = await cashier("pay", "A7", "--amount", "5", "--receipt", "R1", "--currency", "CNY", "--paid-at", now)
        assert "unmatched 5.00 CNY for nobody" in unknown.stdout
        assert "headend account assign counter R1 ACCOUNT" in unknown.stderr
        assert "A7" in (await cashier("unmatched")).stdout
        assigned = await admin("assign", "counter", "R1", "A2")
        assert "booked 5.00 CNY for A2" in assigned.stdout
        assert "nothing was paid" in (await cashier("payments", "A1")).stdout
        assert "R1" in (await cashier("payments", "A2")).stdout
        day = (await cashier.json("payments", "A2"))["payments"][0]["paid_at"][:10]
        reconciled = await cashier("reconcile", "counter", day)
        assert "R1" in reconciled.stdout
        moved = await admin("exchange", "A2", "M2", "M3", "2026-04-02")
        assert "M3 since 2026-04-02" in moved.stdout
        gone = await admin("move-out", "A2", "2026-04-02")
        assert "the last day is 2026-04-02; waits" in gone.stdout
        flat = await cashier("tariffs", "show", "flat")
        assert "0.5283" in flat.stdout
        assert (await cashier("tariffs", "list")).stdout.split() == ["flat", "year"]


async def test_what_cannot_be_done_ends_with_its_exit_code_and_says_what_next(tmp_path: Path) -> None:
    async with site_of(tmp_path, listens=True) as (site, client):
        url = str(client.base_url)
        cashier, admin = Terminal(site, url, "cashier"), Terminal(site, url, "admin")
        await site.enrol(client)
        pay = ("pay", "A1", "--paid-at", "2026-03-02T00:00:00Z", "--receipt", "R1", "--amount")
        for text in ("12,34", "1e3", "12.345", "0x10", "", "+5", "NaN", "１２"):
            refused = await cashier(*pay, text, expect=2)
            assert "expected an amount of CNY such as 12.34" in refused.output
        assert "amount_minor" in (await cashier(*pay, "0", expect=2)).output
        assert "amount_minor" in (await cashier(*pay, "-5", expect=2)).output
        assert "no account" in (await cashier("pay", "A9", "--receipt", "R1", "--amount", "5", expect=2)).output
        assert "has no zone" in (await cashier(*pay, "5", "--paid-at", "2026-03-02T08:00:00", expect=2)).output
        assert "--currency is 'XYZ'" in (await cashier(*pay, "5", "--currency", "XYZ", expect=2)).output
        assert "has not come yet" in (await cashier("pay", "A1", "--receipt", "R1", "--amount", "5", expect=2)).output
        assert "role admin" in (await cashier("reverse", "app", "R1", "--reason", "no", expect=2)).output
        assert "no payment" in (await admin("reverse", "app", "R1", "--reason", "no", expect=2)).output
        assert "expected a month" in (await cashier("statement", "A1", "March", expect=2)).output
        assert "expected a local day" in (await cashier("daily", "A1", "--from", "yesterday", expect=2)).output
        assert "OBIS=KWH" in (await admin("use", "M1", "2026-03-01", "12.5", "--note", "x", expect=2)).output
        assert "no identity" in (await cashier(*ENROL, typed="", expect=2)).output
        site.switch.away = 1.0
        away = await cashier(*pay, "5", expect=3)
        assert "same receipt" in away.output
        assert "told, not booked: counter receipt R1 for A1" in (await cashier("unmatched")).stdout
        assert "may be on its way" in (await admin("drop", "counter", "R1", expect=2)).output
        site.town.now += timedelta(hours=1)
        assert "holds up nothing" in (await admin("drop", "counter", "R1")).stdout
        nobody = ["account", "show", "A1", "--url", "http://127.0.0.1:9", "--token", "hdt_x"]
        assert (await asyncio.to_thread(lambda: CliRunner().invoke(app, nobody))).exit_code == 3


async def test_a_payment_that_is_typed_again_without_its_time_is_the_same_one(tmp_path: Path) -> None:
    async with site_of(tmp_path, listens=True) as (site, client):
        cashier = Terminal(site, str(client.base_url), "cashier")
        await site.enrol(client)
        at = site.town.now - timedelta(hours=1)
        for account, words in (("A1", "booked 5.00 CNY for A1"), ("A9", "unmatched 5.00 CNY for nobody")):
            pay = ("pay", account, "--receipt", f"R-{account}", "--amount", "5.00", "--currency", "CNY")
            assert words in (await cashier(*pay, "--paid-at", at.isoformat())).stdout
            again = await cashier(*pay)  # its time would be that of this machine, which is another
            assert f"{words}, known already" in again.stdout
            await cashier(*pay[:5], "6.00", "--currency", "CNY", expect=2)
            late = await cashier(*pay, "--paid-at", (at + timedelta(minutes=1)).isoformat(), expect=2)
            assert "used before with other content" in late.output
        assert (await cashier.json("show", "A1"))["standing"]["available_minor"] == 500


async def test_what_a_top_up_earned_is_listed_with_it(tmp_path: Path) -> None:
    async with site_of(tmp_path, listens=True, rule=SPRING) as (site, client):
        cashier, admin = Terminal(site, str(client.base_url), "cashier"), Terminal(site, str(client.base_url), "admin")
        await site.enrol(client)
        await cashier("pay", "A1", "--receipt", "R0", "--amount", "5", "--paid-at", site.town.now.isoformat())
        assert "earned" not in (await cashier("payments", "A1")).stdout
        await cashier("pay", "A1", "--receipt", "R1", "--amount", "100", "--paid-at", site.town.now.isoformat())
        listed = (await cashier("payments", "A1")).stdout
        assert "earned" in listed
        assert listed.count("20 points, 0.50 CNY bonus") == 1
        await admin("reverse", "counter", "R1", "--reason", "it bounced")
        assert "taken back: 20 points, 0.50 CNY bonus" in (await cashier("payments", "A1")).stdout


def test_a_tariff_file_is_checked_without_a_head_end(tmp_path: Path) -> None:
    file = TARIFFS / "residential-step.toml"
    good = CliRunner().invoke(app, ["account", "tariffs", "check", str(file)])
    assert (good.exit_code, "residential-step" in good.stdout) == (0, True)
    chinese = CliRunner().invoke(app, ["account", "tariffs", "check", str(file), "--language", "zh", "--json"])
    assert json.loads(chinese.stdout)["problems"] == []
    wrong = tmp_path / "wrong[a].toml"
    wrong.write_text(file.read_text("utf-8").replace('currency = "CNY"', 'currency = "XXX"'), "utf-8")
    told = CliRunner().invoke(app, ["account", "tariffs", "check", str(wrong)])
    assert (told.exit_code, told.stdout) == (2, "")
    assert "wrong[a].toml:" in told.stderr
    absent = CliRunner().invoke(app, ["account", "tariffs", "check", str(tmp_path / "absent.toml")])
    assert absent.exit_code == 2


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("12.34", "CNY", 1234),
        ("12", "CNY", 1200),
        ("0.1", "CNY", 10),
        ("12.340", "CNY", 1234),
        ("7", "JPY", 7),
        ("-1.005", "KWD", -1005),
    ],
)
def test_an_amount_is_typed_in_the_main_unit_and_never_rounded(text: str, currency: str, minor: int) -> None:
    assert _minor("amount", text, currency) == minor
