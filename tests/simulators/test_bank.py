"""The simulated bank: what it draws, once a key, and how it misbehaves. The head-end's own client asks it over a real socket."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from headend.prepayment.outside.bank_http import HttpBank
from headend.prepayment.ports import Debited, DebitOutcome
from simulators.bank import BadBankFile, Bank, BankFaults, DebitOrder, read_bank_file
from simulators.cli import app
from simulators.http_server import serve_http

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def a_bank(*, faults: BankFaults | None = None, seed: int = 1, token: str = "") -> Bank:
    return Bank({"6222-1": 20_000}, faults=faults, seed=seed, token=token, now=lambda: NOW)


@asynccontextmanager
async def serving(bank: Bank) -> AsyncIterator[str]:
    server = await serve_http(bank.answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def debit(url: str, key: str, *, amount_minor: int = 5000, timeout_s: float = 5.0) -> Debited:
    """As the head-end asks it."""

    def ask() -> Debited:
        with httpx.Client(timeout=timeout_s) as client:
            return HttpBank(client, f"{url}/debits").debit("6222-1", amount_minor, "CNY", key)

    return await asyncio.to_thread(ask)


async def test_the_same_key_draws_once_however_often_it_is_asked() -> None:
    bank = a_bank()
    async with serving(bank) as url:
        answers = await asyncio.gather(*(debit(url, "debit:A1:2026-03-02:1") for _ in range(8)))
    assert {answer.outcome for answer in answers} == {DebitOutcome.ACCEPTED}
    assert bank.balances["6222-1"] == 15_000
    assert len(bank.bookings) == 1


async def test_what_is_not_there_is_refused_with_the_reason_and_stays_refused_under_its_key() -> None:
    bank = a_bank()
    async with serving(bank) as url:
        assert await debit(url, "k1", amount_minor=20_001) == Debited(DebitOutcome.REFUSED, "insufficient funds")
        async with httpx.AsyncClient(base_url=url) as client:
            await client.put("/agreements/6222-1", json={"balance_minor": 90_000})
            shown = (await client.get("/agreements/6222-1")).json()
        assert shown == {"agreement": "6222-1", "balance_minor": 90_000, "currency": "CNY"}
        assert (await debit(url, "k1", amount_minor=20_001)).outcome is DebitOutcome.REFUSED
        assert (await debit(url, "k2", amount_minor=20_001)).outcome is DebitOutcome.ACCEPTED
    assert bank.balances["6222-1"] == 69_999


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (DebitOrder(agreement="nobody", amount_minor=1, currency="CNY", key="k"), "no such agreement"),
        (DebitOrder(agreement="6222-1", amount_minor=1, currency="USD", key="k"), "this account is kept in CNY"),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_its_reason(order: DebitOrder, reason: str) -> None:
    booking = a_bank().debit(order)
    assert (booking.outcome, booking.reason) == ("refused", reason)


async def test_an_answer_lost_after_the_drawing_leaves_the_money_drawn_once() -> None:
    bank = a_bank(faults=BankFaults(lost=1000))
    async with serving(bank) as url:
        assert (await debit(url, "k1")).outcome is DebitOutcome.UNKNOWN
        bank.faults = BankFaults()
        assert (await debit(url, "k1")).outcome is DebitOutcome.ACCEPTED
    assert bank.balances["6222-1"] == 15_000


async def test_without_an_answer_nothing_is_drawn() -> None:
    bank = a_bank(faults=BankFaults(unanswered=1000))
    async with serving(bank) as url:
        assert (await debit(url, "k1")).outcome is DebitOutcome.UNKNOWN
    assert bank.balances["6222-1"] == 20_000
    assert bank.bookings == {}


async def test_a_late_answer_is_none_for_who_does_not_wait_and_the_money_is_drawn() -> None:
    bank = a_bank(faults=BankFaults(late=1000, late_s=0.5))
    async with serving(bank) as url:
        assert (await debit(url, "k1", timeout_s=0.1)).outcome is DebitOutcome.UNKNOWN
        assert (await debit(url, "k1")).outcome is DebitOutcome.ACCEPTED
    assert bank.balances["6222-1"] == 15_000


async def test_faults_come_from_seed_key_and_attempt_and_not_from_the_order_of_requests() -> None:
    async def outcomes(keys: list[str], seed: int) -> dict[str, str]:
        bank = Bank({"6222-1": 10**9}, faults=BankFaults(unanswered=300, lost=300, refused=300), seed=seed)
        async with serving(bank) as url:

            def ask() -> dict[str, str]:
                with httpx.Client(timeout=5) as client:
                    asked = HttpBank(client, f"{url}/debits")
                    return {key: asked.debit("6222-1", 5000, "CNY", key).outcome.value for key in keys}

            return await asyncio.to_thread(ask)

    keys = [f"k{number}" for number in range(40)]
    found = await outcomes(keys, 7)
    assert await outcomes(keys[::-1], 7) == found
    assert await outcomes(keys, 8) != found
    assert set(Counter(found.values())) == {"accepted", "refused", "unknown"}


async def test_the_interface_says_what_it_expected() -> None:
    async with serving(a_bank(token="secret")) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/debits", json={})).status_code == 401
        client.headers["Authorization"] = "Bearer secret"
        asked = {"agreement": "6222-1", "amount_minor": 5000, "currency": "CNY", "key": "k1"}
        wrong = [{}, asked | {"amount_minor": 0}, asked | {"amount_minor": "5000"}, asked | {"currency": "yuan"}]
        for body in wrong:
            answer = await client.post("/debits", json=body)
            assert answer.status_code == 400, body
            assert "expected agreement, amount_minor, currency and key" in answer.json()["problem"]
        assert (await client.post("/debits", json=asked)).json() == {"outcome": "accepted", "reason": ""}
        other = await client.post("/debits", json=asked | {"amount_minor": 1})
        assert (other.status_code, other.json()["problem"]) == (409, "key 'k1' stands for 5000 of 6222-1")
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.put("/agreements/6222-1", json={"balance": 1})).status_code == 400
        [booked] = (await client.get("/debits")).json()["debits"]
        assert booked == asked | {"outcome": "accepted", "reason": "", "at": "2026-03-02T08:00:00+00:00"}


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01hello\r\n\r\n", b"GET /" + b"a" * 20_000, b"POST /debits HTTP/1.1\r\n"]
)
async def test_what_is_not_http_is_hung_up_on_and_the_next_is_served(noise: bytes) -> None:
    async with serving(a_bank()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(noise)
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert (await debit(url, "k1")).outcome is DebitOutcome.ACCEPTED


def test_a_file_of_agreements_is_read_and_a_wrong_one_says_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "bank.toml"
    path.write_text('currency = "EUR"\n[agreements]\n"6222-1" = 50000\n[faults]\nlost = 10\n', encoding="utf-8")
    assert read_bank_file(path) == ({"6222-1": 50_000}, "EUR", BankFaults(lost=10))
    for text in ("", '[agreements]\nx = "5"\n', "[agreements]\nx = 5\n[faults]\nlost = 1001\n", "nonsense"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BadBankFile, match=r"expected a table \[agreements\]"):
            read_bank_file(path)
    with pytest.raises(BadBankFile):
        read_bank_file(tmp_path / "absent.toml")


def test_the_command_announces_itself_draws_and_tells_at_the_end() -> None:
    command = [
        sys.executable,
        "-c",
        "from simulators.cli import main; main()",
        "bank",
        "--json",
        "--agreement",
        "a=1.50",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        assert found["agreements"] == ["a"]
        asked = {"agreement": "a", "amount_minor": 150, "currency": "CNY", "key": "k1"}
        assert httpx.post(f"{found['url']}/debits", json=asked).json()["outcome"] == "accepted"
        process.terminate()
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "1 of 1 debits drawn, 150 minor units" in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--agreement", "a"), "expected NAME=BALANCE"),
        (("--agreement", "a=1.234"), "expected an amount such as 50 or 49.90"),
        (("--fault", "lost=1001"), "0 to 1000"),
        (("--fault", "asleep=1"), "expected one of unanswered"),
        (("--file", "absent.toml"), "expected a table [agreements]"),
        (("--listen", "127.0.0.1:0"), "expected tcp://HOST:PORT"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused_with_what_was_expected(
    arguments: tuple[str, ...], expected: str
) -> None:
    done = CliRunner().invoke(app, ["bank", *arguments])
    assert done.exit_code == 2, done.output
    assert expected in " ".join(done.stderr.replace("│", " ").split())
