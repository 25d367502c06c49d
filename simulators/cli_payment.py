"""`meter-sim bank`, and `meter-sim payment-desk`: where customers' money comes from.

With `--json` one object is printed as soon as the bank can be reached, or for each payment as it was answered. Exit codes of the desk:
0 everything was answered, 1 something was refused or never answered, 2 for arguments that cannot be met.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer
from msgspec import Struct

from simulators.bank import BadBankFile, Bank, BankFaults, read_bank_file
from simulators.cli_support import cannot, line_url, listening, on_signals, place, run, tell, zone
from simulators.http_server import serve_http
from simulators.payment_desk import PaidIn, PaymentDesk, Told, minor_of, write_reconciliation
from simulators.payment_traffic import CHANNELS, Habits, plan_traffic, play

__all__ = ["register"]

ANSWER_S = 30.0
COUNT_MAX = 100_000

Url = Annotated[str, typer.Option(envvar="HEADEND_URL", help="Where the head-end's HTTP interface is.")]
Token = Annotated[str, typer.Option(envvar="HEADEND_TOKEN", help="With the role cashier.")]
Currency = Annotated[str, typer.Option(help="ISO 4217.")]
Timezone = Annotated[str, typer.Option(help="Whose days the reconciliation files are of.")]
Reconcile = Annotated[Path | None, typer.Option(help="Folder for what was taken: CHANNEL-DAY.csv.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]


class _Desk(Struct, frozen=True, kw_only=True):
    """Of what the commands of a desk share."""

    url: str
    token: str
    reconcile: Path | None
    timezone: str
    as_json: bool


def register(app: typer.Typer) -> None:
    """Add the commands `bank` and `payment-desk`."""
    app.command()(bank)
    desk = typer.Typer(help="Payment channels that tell a head-end what was paid.", no_args_is_help=True)
    desk.command()(pay)
    desk.command()(traffic)
    app.add_typer(desk, name="payment-desk")


# ------------------------------------------------------------------------------------------------ bank


def bank(
    listen: Annotated[str, typer.Option(help="tcp://HOST:PORT; port 0 takes a free one.")] = "tcp://127.0.0.1:0",
    agreement: Annotated[
        list[str] | None, typer.Option(help="NAME=BALANCE, such as 6222-1=500.00; may be repeated.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="TOML file of [agreements] (minor units) and [faults].")] = None,
    currency: Currency = "CNY",
    fault: Annotated[
        list[str] | None,
        typer.Option(help="unanswered, late, lost or refused=PER MILLE, or late_s=SECONDS; may be repeated."),
    ] = None,
    token: Annotated[str, typer.Option(help="That requests must bear.")] = "",
    seed: Annotated[int, typer.Option(help="Decides what goes wrong.")] = 1,
    as_json: AsJson = False,
) -> None:
    """A bank that draws by agreement: POST /debits {"agreement", "amount_minor", "currency", "key"}."""
    host, port = place(listen, pty=False)
    assert host is not None
    balances: dict[str, int] = {}
    faults = BankFaults()
    if file is not None:
        try:
            balances, currency, faults = read_bank_file(file)
        except BadBankFile as error:
            raise typer.BadParameter(str(error), param_hint="--file") from error
    balances |= dict(_agreement(one, currency) for one in agreement or [])
    made = Bank(balances, currency=currency, faults=_faults(fault or [], faults), seed=seed, token=token)
    run(_serve_bank(made, host, port, as_json=as_json))


async def _serve_bank(bank: Bank, host: str, port: int, *, as_json: bool) -> None:
    stop = asyncio.Event()
    on_signals(stop)
    async with listening(host, port):
        server = await serve_http(bank.answer, host, port)
    url = line_url(server, host).replace("tcp://", "http://", 1)
    if as_json:
        typer.echo(json.dumps({"url": url, "protocol": "bank", "agreements": sorted(bank.balances)}))
    else:
        tell(f"a bank with {len(bank.balances)} agreements at {url}/debits; Ctrl-C stops")
    await stop.wait()
    server.close()
    drawn = [one for one in bank.bookings.values() if one.outcome == "accepted"]
    tell(
        f"{len(drawn)} of {len(bank.bookings)} debits drawn, {sum(one.order.amount_minor for one in drawn)} minor units"
    )


def _agreement(text: str, currency: str) -> tuple[str, int]:
    name, _, balance = text.rpartition("=")
    try:
        if not name:
            raise ValueError("no name")
        return name, minor_of(balance, currency)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: {error}; expected NAME=BALANCE, such as 6222-1=500.00", param_hint="--agreement"
        ) from error


def _faults(given: list[str], before: BankFaults) -> BankFaults:
    found: dict[str, Any] = {name: getattr(before, name) for name in BankFaults.__struct_fields__}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name] = (float if name == "late_s" else int)(value) if name in found else None
        except ValueError:
            found[name] = None
        limit = 600 if name == "late_s" else 1000
        if found[name] is None or not 0 <= found[name] <= limit:
            expected = ", ".join(BankFaults.__struct_fields__)
            raise typer.BadParameter(
                f"{text!r}; expected one of {expected} with 0 to {limit}, such as lost=100", param_hint="--fault"
            )
    return BankFaults(**found)


# ------------------------------------------------------------------------------------------------ payment desk


def pay(
    account: Annotated[str, typer.Argument(help="Customer number.")],
    amount: Annotated[str, typer.Argument(help="Such as 50 or 49.90.")],
    url: Url,
    token: Token,
    channel: Annotated[str, typer.Option(help=f"One of {', '.join(CHANNELS)}.")] = "counter",
    receipt: Annotated[str, typer.Option(help="The channel's own number; a new one without it.")] = "",
    currency: Currency = "CNY",
    times: Annotated[int, typer.Option(help="Tell it so often, as a channel that heard no answer does.")] = 1,
    reconcile: Reconcile = None,
    timezone: Timezone = "Asia/Shanghai",
    as_json: AsJson = False,
) -> None:
    """Take a payment and tell the head-end, until it has answered."""
    try:
        minor = minor_of(amount, currency)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="AMOUNT") from error
    if not 1 <= times <= 1000:
        raise typer.BadParameter(f"{times}, expected 1 to 1000", param_hint="--times")
    now = datetime.now(UTC)
    paid = PaidIn(
        channel=channel,
        receipt=receipt or f"D{now:%Y%m%d%H%M%S%f}",
        account=account,
        amount_minor=minor,
        currency=currency,
        paid_at=now.replace(microsecond=0),  # as channels date
    )
    desk = _Desk(url=_checked(url), token=token, reconcile=reconcile, timezone=timezone, as_json=as_json)
    run(_pay(desk, paid, times))


def traffic(
    account: Annotated[list[str], typer.Option(help="Customer number; may be repeated.")],
    url: Url,
    token: Token,
    count: Annotated[int, typer.Option(help="How many payments.")] = 100,
    span_s: Annotated[float, typer.Option(help="Spread over so long.")] = 10.0,
    repeats: Annotated[int, typer.Option(help="Each is told so many times at most.")] = 3,
    late_s: Annotated[float, typer.Option(help="A telling may come so much later, and be overtaken.")] = 2.0,
    reversals: Annotated[int, typer.Option(help="Of a thousand, so many are taken back.")] = 20,
    mistyped: Annotated[int, typer.Option(help="Of a thousand, so many have a wrong account.")] = 10,
    currency: Currency = "CNY",
    seed: Annotated[int, typer.Option(help="Decides who pays what, where and when, and how it is told.")] = 1,
    reconcile: Reconcile = None,
    timezone: Timezone = "Asia/Shanghai",
    as_json: AsJson = False,
) -> None:
    """A day of many customers on all channels, told as channels do: again, out of order, on two connections."""
    if not 1 <= count <= COUNT_MAX:
        raise typer.BadParameter(f"{count}, expected 1 to {COUNT_MAX}", param_hint="--count")
    if not 1 <= repeats <= 20 or span_s < 0 or late_s < 0:
        raise typer.BadParameter("expected 1 to 20 --repeats, and no negative time", param_hint="--repeats")
    habits = Habits(repeats_max=repeats, late_max_s=late_s, reversed_=reversals, mistyped=mistyped)
    now = datetime.now(UTC).replace(microsecond=0)
    planned = plan_traffic(
        account, count, seed=seed, start=now, span_s=span_s, habits=habits, currency=currency, run=f"{now:%m%d%H%M%S}"
    )
    desk = _Desk(url=_checked(url), token=token, reconcile=reconcile, timezone=timezone, as_json=as_json)

    async def work() -> None:
        told: dict[tuple[str, str], Told] = {}
        async with _client(desk) as first, _client(desk) as second:
            await play(planned, [PaymentDesk(one, seed=seed, told=told) for one in (first, second)])
        _tell_outcome(desk, list(told.values()))

    run(work())


async def _pay(desk: _Desk, paid: PaidIn, times: int) -> None:
    async with _client(desk) as client:
        counter = PaymentDesk(client)
        for _ in range(times):
            told = await counter.pay(paid)
    _tell_outcome(desk, [told])


@asynccontextmanager
async def _client(desk: _Desk) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {desk.token}"}
    async with httpx.AsyncClient(base_url=desk.url, headers=headers, timeout=ANSWER_S) as client:
        yield client


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"{url!r}, expected such as http://127.0.0.1:8645", param_hint="--url")
    return url


def _tell_outcome(desk: _Desk, told: list[Told]) -> None:
    """Prints it, writes the files of the day, and ends with 1 where something was not taken."""
    if desk.reconcile is not None:
        try:
            written = write_reconciliation(desk.reconcile, told, zone(desk.timezone))
        except OSError as error:
            raise cannot(f"{desk.reconcile} cannot be written: {error.strerror}") from error
        tell(f"reconciliation: {', '.join(str(path) for path in written)}")
    for one in told:
        if desk.as_json:
            shown = one.paid.body() | {"state": one.state, "told": one.tries, "problem": one.problem}
            typer.echo(json.dumps(shown | {"payment": one.answer}, ensure_ascii=False))
        elif len(told) == 1:
            what = f"{one.paid.channel} receipt {one.paid.receipt} for account {one.paid.account}"
            tell(f"{what}: {one.state}, told {one.tries} times. {one.problem}".rstrip())
    counts = Counter(one.state for one in told)
    if len(told) > 1:
        tell(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if counts["refused"] or counts["unanswered"]:
        raise typer.Exit(1)
