"""The words of prepaid supply: accounts and who is behind them, entries of the books, payments, settled days."""

import enum
from datetime import date, datetime

from msgspec import Struct

__all__ = [
    "AMOUNT_MAX",
    "CHANNELS",
    "Account",
    "AccountState",
    "Cause",
    "Contact",
    "Customer",
    "Entry",
    "Holder",
    "MeterOfAccount",
    "Payment",
    "PaymentState",
    "Posted",
    "Premises",
    "Tenancy",
    "customer_book",
]

CHANNELS = ("app", "bank", "counter", "collection-point", "agent", "bank-debit")
AMOUNT_MAX = 10**12  # minor units; a slip of the keyboard is not booked


class Cause(enum.Enum):
    """Why money moved. Published: a word is never given another meaning.

    CORRECTION: a settled day says something else now. REVERSAL: a payment that the channel took back. SETTLEMENT: what is left when
    an account ends.
    """

    PAYMENT = "payment"
    DAILY_CHARGE = "daily-charge"
    MINIMUM = "minimum-charge"
    CORRECTION = "correction"
    ADJUSTMENT = "adjustment"
    REFUND = "refund"
    REVERSAL = "reversal"
    POINTS = "points"
    SETTLEMENT = "settlement"


class AccountState(enum.Enum):
    """ENROLLED: the agreement is not confirmed yet, nothing is charged. CLOSED: final; what remained was settled."""

    ENROLLED = "enrolled"
    ACTIVE = "active"
    CLOSED = "closed"


class PaymentState(enum.Enum):
    """UNMATCHED: money that came for nobody we know, or for a closed account; kept until a person says whose it is."""

    BOOKED = "booked"
    UNMATCHED = "unmatched"
    REVERSED = "reversed"


class Customer(Struct, frozen=True, kw_only=True):
    """identity_tail: the last digits of an identity document, all that is ever shown of it."""

    id: str
    name: str
    identity_tail: str = ""


class Premises(Struct, frozen=True, kw_only=True):
    """is_submetered: the meter is the landlord's own and not the utility's; such premises cannot be enrolled."""

    id: str
    address: str
    is_submetered: bool = False


class Account(Struct, frozen=True, kw_only=True):
    """id: the customer number (户号). reminder_minor: below it the first notice goes out. topup_minor: what a bank debit draws.

    bank: reference of the debit agreement at the bank, "" for none. opened_on, closed_on: local days, the first and the last that are
    charged.
    """

    id: str
    customer: str
    premises: str
    currency: str
    tariff: str
    state: AccountState
    opened_on: date
    closed_on: date | None = None
    reminder_minor: int = 0
    topup_minor: int = 0
    bank: str = ""
    is_large_household: bool = False


class MeterOfAccount(Struct, frozen=True, kw_only=True):
    """meter: asset number. since, until: local days; `until` is the last one, None while it counts."""

    account: str
    meter: str
    since: date
    until: date | None = None


class Contact(Struct, frozen=True, kw_only=True):
    """phone: E.164. is_reachable: False once a notice could not be delivered, until one is or the number changes."""

    account: str
    since: datetime
    phone: str
    language: str = "zh"
    is_reachable: bool = True
    by: str = ""


class Holder(Struct, frozen=True, kw_only=True):
    """Who answers for the account (户主), and since when."""

    account: str
    since: datetime
    customer: str
    by: str


class Tenancy(Struct, frozen=True, kw_only=True):
    """landlord: a customer, who sees the account's totals. until: last local day; None while it lasts."""

    account: str
    landlord: str
    since: date
    until: date | None = None


class Entry(Struct, frozen=True, kw_only=True):
    """Money that moves from one book to another; so the books always sum to nothing.

    amount_minor: more than 0. key: the same key is the same entry, for ever. day: local day that it is for. reference: receipt,
    meter read, or whatever proves it. reverses: number of the entry that this one takes back.
    """

    from_book: str
    to_book: str
    amount_minor: int
    currency: str
    cause: Cause
    key: str
    day: date
    at: datetime
    reference: str = ""
    note: str = ""
    reverses: int | None = None


class Posted(Struct, frozen=True):
    """number: counts up without gaps. is_new: False when the entry was there already."""

    number: int
    is_new: bool


class Payment(Struct, frozen=True, kw_only=True):
    """channel and receipt together are unique. paid_at: the channel's own time stamp, from which the customer's 24 hours run.

    account: as the channel told it. booked_for: whose credit it is now, "" of nobody's. entry: that booked it last.
    problem: why it is unmatched or reversed.
    """

    channel: str
    receipt: str
    account: str
    amount_minor: int
    currency: str
    paid_at: datetime
    received_at: datetime
    state: PaymentState = PaymentState.BOOKED
    booked_for: str = ""
    entry: int | None = None
    problem: str = ""


def customer_book(account: str) -> str:
    """What the utility owes the customer: positive is credit."""
    return f"customer:{account}"
