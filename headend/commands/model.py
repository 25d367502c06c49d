"""The words of the command room: what a caller orders, what becomes of it, and why something is refused."""

import enum
import hashlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import Struct

__all__ = [
    "ACTIVE",
    "CLOSES",
    "FINAL",
    "IN_FLIGHT",
    "SWITCHES",
    "TWO_PEOPLE",
    "UNSENT",
    "BalanceProof",
    "CapturedRegister",
    "Command",
    "Kind",
    "NoticeProof",
    "Order",
    "Refusal",
    "State",
    "order_digest",
]


class Kind(enum.Enum):
    """What an order asks of a meter.

    PERMIT_CLOSE lets the customer close at the meter's button; CLOSE closes now. PROTECT keeps the supply on whatever anybody
    orders (保电) until UNPROTECT. STATUS asks only.
    """

    OPEN = "open"
    PERMIT_CLOSE = "permit-close"
    CLOSE = "close"
    PROTECT = "protect"
    UNPROTECT = "unprotect"
    STATUS = "status"


class State(enum.Enum):
    """Where a command stands; `machine` says what may follow what.

    REFUSED: by policy, a person, or the meter. QUARANTINED: over a limit, waits for two people. FAILED: nothing left, or the
    meter's reply proves that nothing was done. UNCONFIRMED: bytes have left, and nobody knows what they did. CONTRADICTED: what
    was read back proves the contrary of the order.
    """

    REQUESTED = "requested"
    CHECKED = "checked"
    APPROVED = "approved"
    SCHEDULED = "scheduled"
    DUE = "due"
    SENDING = "sending"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    VERIFIED = "verified"
    REFUSED = "refused"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"
    UNCONFIRMED = "unconfirmed"
    CONTRADICTED = "contradicted"


CLOSES = frozenset({Kind.CLOSE, Kind.PERMIT_CLOSE})
SWITCHES = CLOSES | {Kind.OPEN}  # what moves a contact, or lets it be moved
TWO_PEOPLE = frozenset({Kind.OPEN, Kind.UNPROTECT})  # of a list that needs approval, these wait for another person
# No byte of it has left: it can be taken back.
UNSENT = frozenset({State.REQUESTED, State.CHECKED, State.APPROVED, State.SCHEDULED, State.DUE, State.QUARANTINED})
# Bytes may have left, and what they did is to be read back.
IN_FLIGHT = frozenset({State.SENDING, State.SENT, State.ACKNOWLEDGED})
ACTIVE = UNSENT | IN_FLIGHT
FINAL = frozenset({State.VERIFIED, State.REFUSED, State.CANCELLED, State.EXPIRED, State.FAILED, State.CONTRADICTED})


class BalanceProof(Struct, frozen=True, kw_only=True):
    """Why billing says that the customer owes. balance_minor: in minor units of `currency`; negative is debt.

    fence: billing's token of the meter as of `as_of`; each payment raises it, and an open with an older one is void.
    """

    account: str
    balance_minor: int
    currency: str
    as_of: datetime
    fence: int


class NoticeProof(Struct, frozen=True, kw_only=True):
    """One notice that the customer was given. reference: where the sender can be asked about it."""

    step: str
    sent_at: datetime
    delivered_at: datetime
    channel: str
    reference: str


class Order(Struct, frozen=True, kw_only=True):
    """What a caller asks. meter: asset number, one; wildcards cannot be expressed.

    idempotency_key: the caller's own; the same key and content is the same command, for months.
    not_before: None: at once. expires_at: no byte leaves at or after it. proof: needed to open.
    batch: name of the list it came with; "" when it came alone.
    """

    kind: Kind
    meter: str
    reason: str
    requester: str
    idempotency_key: str
    expires_at: datetime
    not_before: datetime | None = None
    proof: BalanceProof | None = None
    notices: tuple[NoticeProof, ...] = ()
    batch: str = ""


class CapturedRegister(Struct, frozen=True, kw_only=True):
    """The energy register as it stood when the supply was switched. amount: in `unit`."""

    obis: str
    amount: Decimal
    unit: str
    read_at: datetime


class Command(Struct, frozen=True, kw_only=True):
    """An order and what has become of it.

    changed_at: wall time of the last step. steps: how many the journal has.
    due_at: not before this, wall time: the caller's `not_before`, a window, a turn in a ramp, or the pause before another try.
    expires_at: of the command; an obligation's close never expires before its debt is paid, so it is renewed, not the order's.
    policy_version: that let it pass; "" before. approver: "" while nobody has, or nobody needs to.
    attempts: how often bytes of it may have left.
    waiting_for_customer: verified as permitted, and no power seen yet.
    list_head: id of the first command of the list that it came with, which tells lists of one name apart; "" when it came alone.
    detail: evidence so far, words and numbers for people.
    """

    id: str
    order: Order
    state: State
    created_at: datetime
    changed_at: datetime
    due_at: datetime
    steps: int = 1
    policy_version: str = ""
    approver: str = ""
    attempts: int = 0
    waiting_for_customer: bool = False
    obligation: str = ""
    list_head: str = ""
    detail: Mapping[str, str] = {}
    register: CapturedRegister | None = None

    @property
    def kind(self) -> Kind:
        return self.order.kind

    @property
    def meter(self) -> str:
        return self.order.meter

    @property
    def expires_at(self) -> datetime:
        return self.order.expires_at

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


class Refusal(Struct, frozen=True, kw_only=True):
    """Why something is not done: which rule, of which version, in words, and what would be needed instead."""

    rule: str
    version: str
    text: str
    needed: str


def order_digest(order: Order) -> str:
    """SHA-256 of the order in one spelling: two orders are the same content exactly when it is equal."""
    return hashlib.sha256(msgspec.json.encode(order, order="deterministic")).hexdigest()
