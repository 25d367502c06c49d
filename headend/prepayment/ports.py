"""What prepaid supply needs from outside.

It reads the public feed and orders by the public command interface, so that it can be replaced.
"""

import enum
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

__all__ = [
    "Bank",
    "DebitOutcome",
    "Debited",
    "Delivery",
    "Feed",
    "Message",
    "Messenger",
    "OpenProof",
    "OrderState",
    "Outbox",
    "ProvenNotice",
    "Supply",
    "Switchboard",
]

Supply = Literal["on", "off", "unknown"]


class Feed(Protocol):
    """The head-end's numbered stream, as GET /v1/feed gives it."""

    def events_after(self, sequence: int, limit: int) -> Sequence[bytes]:
        """JSON objects, oldest first, at most `limit`; none when there is nothing newer.

        Raises FeedUnavailable; FeedPruned where what comes next is not kept any more.
        """
        ...


class OpenProof(Struct, frozen=True, kw_only=True):
    """The balance that an open rests on. fence: of the account at that moment (`fences.fence_of`); a later payment makes it void."""

    account: str
    balance_minor: int
    currency: str
    as_of: datetime
    fence: int


class ProvenNotice(Struct, frozen=True, kw_only=True):
    """A notice that was delivered. sent_at: when the channel took it. reference: what the messenger gave as its proof."""

    step: str
    sent_at: datetime
    delivered_at: datetime
    channel: str
    reference: str


class OrderState(Struct, frozen=True, kw_only=True):
    """command: id that the command interface gave. state: its own word, such as "sent" or "verified". is_final: nothing will change it.

    problem: of a refusal, "" of none.
    """

    command: str
    state: str
    is_final: bool
    problem: str = ""


class Switchboard(Protocol):
    """The command interface. Every method raises SwitchboardUnavailable: then nothing is known to have happened."""

    def order_open(
        self,
        meter: str,
        *,
        key: str,
        reason: str,
        proof: OpenProof,
        notices: Sequence[ProvenNotice],
        expires_at: datetime,
    ) -> OrderState:
        """The same key is the same order."""
        ...

    def state(self, command: str) -> OrderState: ...

    def payment(
        self, meter: str, *, reference: str, paid_at: datetime, amount_minor: int, currency: str, fence: int
    ) -> None:
        """Raises the meter's fence, and makes the obligation to reconnect when its supply is off; the same reference does so once.

        Always called before the payment is booked: a fence raised for nothing is harmless, a payment without its fence is not.

        Raises SwitchedOff where nothing is switched at all. Then there is no order to overtake, so a payment may be booked; but no
        obligation was made either: whoever is owed a supply tells it again until it is heard.
        """
        ...

    def supply(self, meter: str) -> Supply: ...


class Message(Struct, frozen=True, kw_only=True):
    """kind: which template. key: the same key is the same message, for ever. to: E.164."""

    key: str
    kind: str
    account: str
    to: str
    language: str
    title: str
    text: str


class Delivery(Struct, frozen=True, kw_only=True):
    """reference: the proof, "" where it was not delivered. problem: why not. is_down: the channel takes nobody's messages now, so that
    this says nothing about the customer."""

    reference: str
    delivered: bool
    problem: str = ""
    is_down: bool = False


class Messenger(Protocol):
    def send(self, message: Message) -> Delivery: ...


class DebitOutcome(enum.Enum):
    """UNKNOWN: no answer, or none that says; the same key is asked again, and draws nothing a second time."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Debited(Struct, frozen=True):
    """reason: the bank's own, of a refusal."""

    outcome: DebitOutcome
    reason: str = ""


class Bank(Protocol):
    def debit(self, agreement: str, amount_minor: int, currency: str, key: str) -> Debited:
        """agreement: the account's `bank`. The same key draws at most once. No answer is UNKNOWN, not an error."""
        ...


class Outbox(Protocol):
    """Where our events go: the head-end's feed as `headend.account.v1`. Taking the same number twice is the same event."""

    def offer(self, number: int, type_: str, subject: str, at: datetime, data: bytes) -> None:
        """data: a JSON object. Raises OutboxUnavailable."""
        ...
