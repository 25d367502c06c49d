"""A bank that draws from its customers' accounts by agreement: POST /debits, once for each key.

    > {"agreement": "6222-1", "amount_minor": 5000, "currency": "CNY", "key": "debit:A1:2026-11-22:1"}
    < {"outcome": "accepted", "reason": ""}

It misbehaves as banks do: no answer, a late one, one that is lost after the money was drawn. What goes wrong is decided by
(seed, key, how often the key was asked), so the order of requests changes nothing.
"""

import asyncio
import json
import random
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct

from simulators.http_server import Answer, Request, answer_of

__all__ = ["BadBankFile", "Bank", "BankFaults", "Booking", "DebitOrder", "read_bank_file"]

KEPT_MAX = 200_000  # keys that are known; then new ones are put off, because a forgotten key could draw twice
AMOUNT_MAX = 10**12

PerMille = Annotated[int, Meta(ge=0, le=1000)]


class BadBankFile(Exception):
    """The file of agreements cannot be used; the message says what was expected."""


class DebitOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """agreement: between customer, bank and utility. key: the same key is the same order, for ever."""

    agreement: Annotated[str, Meta(min_length=1, max_length=64)]
    amount_minor: Annotated[int, Meta(gt=0, le=AMOUNT_MAX)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    key: Annotated[str, Meta(min_length=1, max_length=200)]


class Booking(Struct, frozen=True, kw_only=True):
    """What became of an order. at: when. outcome: "accepted" or "refused"."""

    order: DebitOrder
    outcome: str
    reason: str
    at: datetime


class BankFaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a thousand requests: unanswered: nothing is drawn, and the line goes dead. late: the answer takes late_s.

    lost: drawn, and the line goes dead before the answer. refused: as if there were no money.
    """

    unanswered: PerMille = 0
    late: PerMille = 0
    lost: PerMille = 0
    refused: PerMille = 0
    late_s: Annotated[float, Meta(ge=0, le=600)] = 3.0


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As written. agreements: balance of each in minor units."""

    agreements: dict[str, int]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "CNY"
    faults: BankFaults = BankFaults()


class Bank:
    """balances: minor units by agreement. token: that requests must bear, "" for none. sleep: of late answers."""

    def __init__(
        self,
        balances: dict[str, int],
        *,
        currency: str = "CNY",
        faults: BankFaults | None = None,
        seed: int = 1,
        token: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.balances = dict(balances)
        self.bookings: dict[str, Booking] = {}
        self.currency = currency
        self.faults = BankFaults() if faults is None else faults
        self._seed = seed
        self._token = token
        self._now = now
        self._asked: dict[str, int] = {}

    def debit(self, order: DebitOrder, *, has_money: bool = True) -> Booking:
        """Once for each key: asked again, it is what it was. Raises ValueError when the key stands for another order."""
        known = self.bookings.get(order.key)
        if known is not None:
            if known.order != order:
                raise ValueError(f"key {order.key!r} stands for {known.order.amount_minor} of {known.order.agreement}")
            return known
        reason = self._reason(order) if has_money else "insufficient funds"
        if not reason:
            self.balances[order.agreement] -= order.amount_minor
        booking = Booking(order=order, outcome="refused" if reason else "accepted", reason=reason, at=self._now())
        self.bookings[order.key] = booking
        return booking

    async def answer(self, request: Request) -> Answer | None:
        """Of the HTTP interface; None: no answer."""
        if self._token and request.headers.get("authorization") != f"Bearer {self._token}":
            return answer_of(401, {"problem": "expected the token of this bank's customer as Bearer"})
        match request.method, [unquote(part) for part in request.path.strip("/").split("/")]:
            case "POST", ["debits"]:
                return await self._answer_debit(request.body)
            case "GET", ["debits"]:
                return answer_of(200, {"debits": [_shown(one) for one in self.bookings.values()]})
            case "GET", ["agreements", agreement] if agreement in self.balances:
                shown = {"agreement": agreement, "balance_minor": self.balances[agreement], "currency": self.currency}
                return answer_of(200, shown)
            case "PUT", ["agreements", agreement]:
                return self._set_balance(agreement, request.body)
        return answer_of(404, {"problem": "expected POST or GET /debits, GET or PUT /agreements/AGREEMENT"})

    async def _answer_debit(self, body: bytes) -> Answer | None:
        try:
            order = msgspec.json.decode(body, type=DebitOrder)
        except msgspec.DecodeError as error:
            return answer_of(400, {"problem": f"{error}; expected agreement, amount_minor, currency and key"})
        if order.key not in self._asked and len(self._asked) >= KEPT_MAX:
            return answer_of(503, {"problem": f"this bank remembers {KEPT_MAX} keys; start it anew"})
        self._asked[order.key] = self._asked.get(order.key, 0) + 1
        draw = random.Random(f"{self._seed}/{order.key}/{self._asked[order.key]}")
        unanswered, late, lost, refused = (
            draw.randrange(1000) < share
            for share in (self.faults.unanswered, self.faults.late, self.faults.lost, self.faults.refused)
        )
        if unanswered:
            return None
        try:
            booking = self.debit(order, has_money=not refused)
        except ValueError as error:
            return answer_of(409, {"problem": str(error)})
        if late:
            await asyncio.sleep(self.faults.late_s)
        return None if lost else answer_of(200, {"outcome": booking.outcome, "reason": booking.reason})

    def _set_balance(self, agreement: str, body: bytes) -> Answer:
        """Wages have come, or a new agreement was made."""
        try:
            balance = msgspec.json.decode(body, type=dict[str, int])["balance_minor"]
        except (msgspec.DecodeError, KeyError) as error:
            return answer_of(400, {"problem": f"{error}; expected balance_minor, a whole number"})
        if agreement not in self.balances and len(self.balances) >= KEPT_MAX:
            return answer_of(503, {"problem": f"this bank has {KEPT_MAX} agreements already"})
        self.balances[agreement] = balance
        return answer_of(200, {"agreement": agreement, "balance_minor": balance, "currency": self.currency})

    def _reason(self, order: DebitOrder) -> str:
        """Why it is refused, "" when it is not."""
        balance = self.balances.get(order.agreement)
        if balance is None:
            return "no such agreement"
        if order.currency != self.currency:
            return f"this account is kept in {self.currency}"
        return "" if balance >= order.amount_minor else "insufficient funds"


def read_bank_file(path: Path) -> tuple[dict[str, int], str, BankFaults]:
    """Balances, currency and faults of a TOML file. Raises BadBankFile."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadBankFile(
            f'{path}: {error}; expected a table [agreements] with lines such as "6222-1" = 50000 (minor units), '
            f"and perhaps currency and [faults]"
        ) from error
    return dict(found.agreements), found.currency, found.faults


def _shown(booking: Booking) -> dict[str, object]:
    shown: dict[str, object] = json.loads(msgspec.json.encode(booking.order))
    return shown | {"outcome": booking.outcome, "reason": booking.reason, "at": booking.at.isoformat()}
