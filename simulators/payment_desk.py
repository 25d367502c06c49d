"""A payment channel: it takes money from customers and tells a head-end so, until that has answered.

A channel does not know whether a payment arrived when no answer came, so it tells it again: the same channel and receipt, up to
TRIES_MAX times. At the end of the day it writes down what it took, to be compared with what the head-end booked.
"""

import asyncio
import csv
import random
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
from msgspec import Struct

__all__ = ["COLUMNS", "TRIES_MAX", "PaidIn", "PaymentDesk", "Told", "minor_of", "write_reconciliation"]

TRIES_MAX = 20
PAUSE_S = (0.2, 5.0)  # doubled from the first to the second
_DIGITS = {
    "JPY": 0,
    "KRW": 0,
    "VND": 0,
    "BHD": 3,
    "JOD": 3,
    "KWD": 3,
    "OMR": 3,
    "TND": 3,
}  # ISO 4217; all others have 2
COLUMNS = ("channel", "receipt", "account", "amount_minor", "currency", "paid_at", "state", "told", "problem")


class PaidIn(Struct, frozen=True, kw_only=True):
    """Money that a customer has paid. channel and receipt together are its name. paid_at: by the channel's clock."""

    channel: str
    receipt: str
    account: str
    amount_minor: int
    currency: str
    paid_at: datetime

    def body(self) -> dict[str, Any]:
        """As POST /v1/payments takes it."""
        return {
            "channel": self.channel,
            "receipt": self.receipt,
            "account": self.account,
            "amount_minor": self.amount_minor,
            "currency": self.currency,
            "paid_at": self.paid_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }


class Told(Struct):
    """What became of a payment at the head-end, as far as its channel knows.

    state: "taken" (2xx; `answer` says whether it is booked), "refused" (it said no, `problem` says why), "unanswered" or "reversed".
    tries: requests, answered or not.
    """

    paid: PaidIn
    state: str = "unanswered"
    tries: int = 0
    problem: str = ""
    answer: dict[str, Any] = {}


class PaymentDesk:
    """client: with base_url and the token in its headers. told: by channel and receipt, everything that was ever taken; desks may
    share it, and then tell the same payments on two connections."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        seed: int = 1,
        tries_max: int = TRIES_MAX,
        pause_s: tuple[float, float] = PAUSE_S,
        told: dict[tuple[str, str], Told] | None = None,
    ) -> None:
        self.told = {} if told is None else told
        self._client = client
        self._seed = seed
        self._tries_max = tries_max
        self._pause_s = pause_s

    async def pay(self, paid: PaidIn) -> Told:
        """Tell it until it is answered. Telling the same again is allowed, and what channels do."""
        found = self.told.setdefault((paid.channel, paid.receipt), Told(paid))
        answer = await self._until_answered(found, "/v1/payments", paid.body())
        if answer is None:
            return found
        if answer.is_success:
            found.answer = answer.json().get("payment", {})
        if found.state != "reversed":
            found.state, found.problem = ("taken", "") if answer.is_success else ("refused", _said(answer))
        return found

    async def reverse(self, channel: str, receipt: str, reason: str) -> Told:
        """Take it back, as after a mistake or a bank's return. Raises KeyError for a receipt that this desk has not given."""
        found = self.told[channel, receipt]
        path = f"/v1/payments/{quote(channel, safe='')}/{quote(quote(receipt, safe=''), safe='')}/reversal"
        answer = await self._until_answered(found, path, {"reason": reason})
        if answer is None:
            return found
        if answer.is_success:
            found.state, found.problem, found.answer = "reversed", reason, answer.json().get("payment", {})
        else:
            found.problem = _said(answer)
        return found

    async def _until_answered(self, found: Told, path: str, body: dict[str, Any]) -> httpx.Response | None:
        """None when nobody has answered that often. 408, 429 and 5xx are no answers: they promise nothing."""
        paid, pause_s = found.paid, self._pause_s[0]
        jitter = random.Random(f"{self._seed}/{paid.channel}/{paid.receipt}/{found.tries}")
        for attempt in range(self._tries_max):
            if attempt:
                await asyncio.sleep(pause_s * jitter.uniform(0.8, 1.2))
                pause_s = min(2 * pause_s, self._pause_s[1])
            found.tries += 1
            try:
                answer = await self._client.post(path, json=body)
            except httpx.HTTPError as error:
                found.problem = f"no answer: {error or type(error).__name__}"
                continue
            if answer.status_code in (408, 429) or answer.is_server_error:
                found.problem = _said(answer)
                continue
            return answer
        return None


def write_reconciliation(folder: Path, told: Iterable[Told], zone: ZoneInfo) -> list[Path]:
    """CHANNEL-DAY.csv for each channel and local day of payment, ordered by receipt; what was there is replaced. Raises OSError."""
    days: dict[tuple[str, date], list[Told]] = {}
    for one in told:
        days.setdefault((one.paid.channel, one.paid.paid_at.astimezone(zone).date()), []).append(one)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for (channel, day), rows in sorted(days.items()):
        path = folder / f"{channel}-{day}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for one in sorted(rows, key=lambda one: one.paid.receipt):
                writer.writerow([*one.paid.body().values(), one.state, one.tries, one.problem])
        written.append(path)
    return written


def minor_of(amount: str, currency: str) -> int:
    """Minor units of an amount such as "50" or "49.90". Raises ValueError."""
    digits = _DIGITS.get(currency, 2)
    whole, dot, rest = amount.partition(".")
    if not whole.isdecimal() or (dot and not (rest.isdecimal() and len(rest) <= digits)):
        example = f"50 or {Decimal(4990).scaleb(-digits)}" if digits else "50"
        raise ValueError(f"{amount!r}; expected an amount such as {example} of {currency}")
    return int(whole + rest.ljust(digits, "0"))


def _said(answer: httpx.Response) -> str:
    """The reason of a problem document, or the beginning of whatever came."""
    try:
        detail = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        detail = ""
    return f"{answer.status_code}: {detail or ' '.join(answer.text.split())[:200]}"
