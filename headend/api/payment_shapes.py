"""What is said over HTTP about payments: told by channels, kept where nobody is known, taken back, reconciled by day."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from headend.api.account_shapes import PRINTABLE, Id, Text
from headend.api.shaping import shaped
from headend.feed.envelope import iso_utc
from headend.prepayment.books.autopay import CHANNEL, OWN_RECEIPT
from headend.prepayment.books.fences import FencedPayment
from headend.prepayment.books.payments import receipt_of
from headend.prepayment.books.points import Award
from headend.prepayment.books.reconciliation import Reconciliation
from headend.prepayment.errors import BadPayment
from headend.prepayment.model import AMOUNT_MAX, CHANNELS, Payment

__all__ = [
    "AccountPaymentShape",
    "Assignment",
    "PaymentAnswer",
    "PaymentTold",
    "Payments",
    "ReceiptAnswer",
    "ReceiptTold",
    "ReconciliationShape",
    "Reversal",
    "ToldShape",
    "Unmatched",
    "UseAnswer",
    "UseTold",
    "payment_answer",
    "payment_of",
    "payments_shape",
    "reconciliation_csv",
    "reconciliation_shape",
    "unmatched_shape",
]

KEPT = (
    "The money is kept: POST /v1/payments/{channel}/{receipt}/assignment gives it to the account that it was meant for."
)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
TYPED = ("receipt", "account", "booked_for", "problem")
# The latter four are wide ones, of Chinese keyboards.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
COLUMNS = (
    "channel",
    "receipt",
    "account",
    "booked_for",
    "state",
    "amount_minor",
    "currency",
    "paid_at",
    "received_at",
    "problem",
)
Decimals = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$", description="decimal text")]

# A pattern, and not a Literal: what is wrong is answered with what was expected.
Channel = Annotated[
    str, Meta(pattern=f"^({'|'.join(CHANNELS)})$", extra_json_schema={"enum": list(CHANNELS)}, examples=["app"])
]


class PaymentTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money that a channel took. channel and receipt together are unique, and stand for this payment for ever.

    account: as the customer told it. paid_at: the channel's own time stamp, from which the customer's 24 hours run.
    """

    channel: Channel
    receipt: Annotated[str, Meta(min_length=1, max_length=128, pattern=PRINTABLE)]
    account: Annotated[str, Meta(min_length=1, max_length=128, pattern=PRINTABLE)]
    amount_minor: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    paid_at: Annotated[datetime, Meta(tz=True)]


class EarnedShape(Struct, frozen=True, kw_only=True):
    """What a top-up earned. bonus_minor: to the customer's credit, in the payment's currency. is_taken_back: with its payment."""

    points: int
    bonus_minor: int
    rule: str
    is_taken_back: bool


class AccountPaymentShape(Struct, frozen=True, kw_only=True):
    """state: booked, unmatched, reversed. booked_for: whose credit it is, "" of nobody's. problem: why unmatched or reversed.

    earned: told with an account's payments only; absent where it earned nothing.
    """

    channel: str
    receipt: str
    account: str
    amount_minor: int
    currency: str
    paid_at: datetime
    received_at: datetime
    state: str
    booked_for: str
    entry: int | None
    problem: str
    earned: EarnedShape | UnsetType = UNSET


class PaymentAnswer(Struct, frozen=True, kw_only=True):
    """What became of it. is_repeat: it was known, nothing happened again. next_step: "" where nothing is to be done."""

    payment: AccountPaymentShape
    is_repeat: bool = False
    next_step: str = ""


class Payments(Struct, frozen=True):
    """The newest last."""

    payments: list[AccountPaymentShape]


class ToldShape(Struct, frozen=True, kw_only=True):
    """A payment that the switch was told of, and that is not booked: nobody has told it again since a crash."""

    channel: str
    receipt: str
    account: str
    since: datetime


class Unmatched(Struct, frozen=True, kw_only=True):
    """payments: money that is nobody's yet. told: what channels should tell again. The oldest first."""

    payments: list[AccountPaymentShape]
    told: list[ToldShape]


class SumShape(Struct, frozen=True, kw_only=True):
    """state: booked, unmatched, reversed."""

    state: str
    currency: str
    count: int
    amount_minor: int


class ReconciliationShape(Struct, frozen=True, kw_only=True):
    """payments: that the channel dates on that local day, by its own times. told: of the channel, whenever it began to tell them."""

    channel: str
    day: date
    payments: list[AccountPaymentShape]
    sums: list[SumShape]
    told: list[ToldShape]


class Reversal(Struct, frozen=True, forbid_unknown_fields=True):
    """reason: the channel's own, such as a bounced debit."""

    reason: Text


class Assignment(Struct, frozen=True, forbid_unknown_fields=True):
    account: Id


class UseTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a meter counted on a local day for which there is no read. used: kWh by OBIS code. note: how it is known."""

    meter: Id
    day: date
    used: Annotated[dict[str, Decimals], Meta(min_length=1, max_length=5)]
    note: Text


class UseAnswer(Struct, frozen=True, kw_only=True):
    """It is charged with the next settlement; a later read goes before it."""

    meter: str
    day: date
    used: dict[str, str]


class ReceiptTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a messenger tells later of a message it took. reference: its own. problem: why it was not delivered."""

    reference: Annotated[str, Meta(min_length=1, max_length=256, pattern=PRINTABLE)]
    delivered: bool
    problem: Annotated[str, Meta(max_length=500, pattern=PRINTABLE)] = ""


class ReceiptAnswer(Struct, frozen=True):
    reference: str


def payment_of(told: PaymentTold, received_at: datetime) -> Payment:
    """Its time as the books keep it, in milliseconds, and its receipt as `receipt_of` spells it, so that telling it again is telling
    the same. Raises BadPayment."""
    try:
        paid_at = told.paid_at.astimezone(UTC)
    except OverflowError:
        paid_at = datetime.min.replace(tzinfo=UTC)
    if told.channel == CHANNEL and told.receipt.lstrip().startswith(OWN_RECEIPT):
        # Told first by somebody else, what the bank then draws would never be booked.
        raise BadPayment(
            f"receipt {told.receipt[:40]!r} of {CHANNEL}; receipts that begin with {OWN_RECEIPT!r} are those of our own debits"
        )
    if paid_at < EARLIEST:
        raise BadPayment(f"paid_at {told.paid_at.isoformat()}; expected a time since {EARLIEST:%Y-%m-%d}")
    return Payment(
        channel=told.channel,
        receipt=receipt_of(told.receipt),
        account=told.account.strip(),
        amount_minor=told.amount_minor,
        currency=told.currency,
        paid_at=paid_at.replace(microsecond=paid_at.microsecond // 1000 * 1000),
        received_at=received_at,
    )


def payments_shape(payments: Sequence[Payment], awards: Sequence[Award], *, is_customer: bool = False) -> Payments:
    """awards: of the same account."""
    earned = {(one.channel, one.receipt): shaped(EarnedShape, one) for one in awards}
    return Payments(
        [
            _payment_shape(one, earned.get((one.channel, one.receipt), UNSET), is_customer=is_customer)
            for one in payments
        ]
    )


def _payment_shape(
    payment: Payment, earned: EarnedShape | UnsetType = UNSET, *, is_customer: bool = False
) -> AccountPaymentShape:
    """To a customer without what was told first: it may have been somebody else's account."""
    account = payment.booked_for if is_customer and payment.booked_for else payment.account
    return shaped(AccountPaymentShape, payment, account=account, earned=earned)


def payment_answer(payment: Payment, *, is_repeat: bool = False) -> PaymentAnswer:
    shown = _payment_shape(payment)
    return PaymentAnswer(payment=shown, is_repeat=is_repeat, next_step=KEPT if shown.state == "unmatched" else "")


def unmatched_shape(payments: Sequence[Payment], told: Sequence[FencedPayment]) -> Unmatched:
    return Unmatched(payments=[_payment_shape(one) for one in payments], told=[shaped(ToldShape, one) for one in told])


def reconciliation_shape(found: Reconciliation) -> ReconciliationShape:
    return shaped(
        ReconciliationShape,
        found,
        payments=[_payment_shape(one) for one in found.payments],
        sums=[shaped(SumShape, one) for one in found.sums],
        told=[shaped(ToldShape, one) for one in found.not_booked],
    )


def reconciliation_csv(found: Reconciliation) -> str:
    """A line for each payment of the day, and one with the state "told" for each that was told and not booked.

    A text that a spreadsheet would take for a formula has an apostrophe before it: some of them customers have typed.
    """
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for payment in found.payments:
        shown = _payment_shape(payment)
        row = {name: getattr(shown, name) for name in COLUMNS}
        writer.writerow(row | {name: _harmless(row[name]) for name in TYPED} | _times(row))
    for told in found.not_booked:
        row = {"channel": told.channel, "state": "told", "received_at": iso_utc(told.since)}
        writer.writerow(row | {"receipt": _harmless(told.receipt), "account": _harmless(told.account)})
    return lines.getvalue()


def _times(row: Mapping[str, datetime]) -> dict[str, str]:
    return {name: iso_utc(row[name]) for name in ("paid_at", "received_at")}


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
