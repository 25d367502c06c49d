"""What is said over HTTP about prepaid accounts. Money is integer minor units of `currency`.

What a customer is not told of the own account is left out here: `is_customer`.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Annotated

from msgspec import Meta, Struct

from headend.api.shaping import shaped
from headend.api.usage_shapes import UnsettledShape, unsettled_shapes
from headend.feed.envelope import plain
from headend.prepayment.accounts.changes import Change
from headend.prepayment.accounts.enrolment import Enrolment
from headend.prepayment.model import AMOUNT_MAX, Contact, Premises
from headend.prepayment.settlement.move_out import MoveOut
from headend.prepayment.views.account_card import AccountCard, SupplyLook
from headend.prepayment.views.account_rows import AccountRow as FoundAccount
from headend.prepayment.views.standing import Standing

__all__ = [
    "PRINTABLE",
    "AccountPage",
    "AccountRow",
    "AccountShape",
    "Adjustment",
    "AmountsTold",
    "Booked",
    "ChangeShape",
    "Changes",
    "Confirmed",
    "ContactTold",
    "Enrolled",
    "ExchangeTold",
    "HoldTold",
    "HolderTold",
    "MoveOutShape",
    "MoveOutTold",
    "NewToken",
    "Obstacles",
    "Refund",
    "TariffTold",
    "account_row",
    "account_shape",
    "change_shapes",
    "enrolment",
    "move_out_shape",
]

PRINTABLE = r"^(?![\s\S]*[\x00-\x1f\x7f-\x9f\u2028\u2029])"  # in words that JSON Schema has, too
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
Text = Annotated[str, Meta(min_length=1, max_length=500, pattern=PRINTABLE)]
Language = Annotated[str, Meta(pattern="^[a-z]{2}$", description="ISO 639-1, such as zh")]
Minor = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Key = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=PRINTABLE, description="yours; the same key books the same money once"),
]


# ------------------------------------------------------------------------------------------------ what is told to us


class Enrolled(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a customer asks for and proves. identity: number of a document; only a digest of it and its last digits are kept.

    meters: asset numbers. topup_minor, bank: both for automatic top-up, or neither. landlord: a customer that is known, "" for none.
    """

    account: Id
    customer: Id
    name: Text
    identity: Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
    premises: Id
    address: Text
    meters: Annotated[list[Id], Meta(min_length=1, max_length=100)]
    phone: Annotated[str, Meta(min_length=1, max_length=32, pattern=PRINTABLE)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    tariff: Id
    reminder_minor: Minor
    topup_minor: Minor = 0
    bank: Annotated[str, Meta(max_length=128, pattern=PRINTABLE)] = ""
    language: Language = "zh"
    is_large_household: bool = False
    landlord: Annotated[str, Meta(max_length=64, pattern=PRINTABLE)] = ""
    is_submetered: Annotated[bool, Meta(description="the meter is the landlord's own: cannot be enrolled")] = False


class Confirmed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """opens_on: the first local day that is charged, at most three months ahead; null is today."""

    opens_on: date | None = None


class ContactTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """language: null leaves it as it is."""

    phone: Annotated[str, Meta(min_length=1, max_length=32, pattern=PRINTABLE)]
    language: Language | None = None


class HolderTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another head of household. name, identity: of somebody who is no customer yet, both; of one who is known, neither."""

    customer: Id
    name: Annotated[str, Meta(max_length=500, pattern=PRINTABLE)] = ""
    identity: Annotated[str, Meta(max_length=64, pattern=PRINTABLE)] = ""


class AmountsTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As the customer confirmed them. reminder_minor: below it the first notice goes out. topup_minor: what the bank draws then."""

    reminder_minor: Minor
    topup_minor: Minor = 0
    bank: Annotated[str, Meta(max_length=128, pattern=PRINTABLE)] = ""


class TariffTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tariff: Id


class ExchangeTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """old, new: asset numbers. day: the local day from which the new one measures."""

    old: Id
    new: Id
    day: date


class MoveOutTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """last_day: the last local day that is charged."""

    last_day: date


class HoldTold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """reason: why the supply stays on, whatever is owed."""

    reason: Text


class Adjustment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's correction of the books. amount_minor: below 0 it takes from the customer's credit; not 0. note: why."""

    amount_minor: Annotated[int, Meta(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]
    key: Key
    note: Text


class Refund(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money that was given back to the customer. note: how."""

    amount_minor: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
    key: Key
    note: Text


# ------------------------------------------------------------------------------------------------ what is shown


class HolderShape(Struct, frozen=True, kw_only=True):
    customer: str
    name: str
    identity_tail: str


class PremisesShape(Struct, frozen=True, kw_only=True):
    id: str
    address: str


class MeterShape(Struct, frozen=True, kw_only=True):
    """since, until: local days, both belong to it; null while it counts."""

    meter: str
    since: date
    until: date | None


class ContactShape(Struct, frozen=True, kw_only=True):
    """is_reachable: false once a notice could not be delivered, until one is or the number changes. by: "" to customers."""

    phone: str
    language: str
    is_reachable: bool
    since: datetime
    by: str


class TenancyShape(Struct, frozen=True, kw_only=True):
    landlord: str
    since: date
    until: date | None


class SupplyOrderShape(Struct, frozen=True, kw_only=True):
    """command: of GET /v1/commands/{id}; "" while the switch is not known to have it."""

    meter: str
    command: str
    state: str
    is_final: bool
    asked_at: datetime
    changed_at: datetime
    expires_at: datetime
    problem: str


class SupplyShape(Struct, frozen=True, kw_only=True):
    """state: well, low, used-up, warned, ordered, disconnected, paid (docs/prepayment-notices.md). orders: the newest first."""

    state: str
    since: datetime
    is_off: bool
    off_since: datetime | None
    orders: list[SupplyOrderShape]


class StandingShape(Struct, frozen=True, kw_only=True):
    """available = month_opening + paid + other - charged - counted. owed_minor: what available lacks, or 0.

    today_kwh, today_minor: of today until then, not settled yet; null where nothing was heard. counted_minor: what available has less
    for all that was heard and is not settled; 0 where only whole days count. average_minor: exact, of a day. days_left: null while
    nothing is used.
    """

    today: date
    currency: str
    available_minor: int
    owed_minor: int
    month_opening_minor: int
    charged_minor: int
    paid_minor: int
    other_minor: int
    counted_minor: int
    month_kwh: str
    settled_through: date | None
    unsettled: list[UnsettledShape]
    today_kwh: str | None
    today_until: datetime | None
    today_minor: int | None
    average_minor: str | None
    days_left: int | None
    runs_out_on: date | None


class MoveOutShape(Struct, frozen=True, kw_only=True):
    """done_at: null while it waits. remainder_minor: given back; below 0, owed."""

    last_day: date
    asked_at: datetime
    by: str
    done_at: datetime | None
    remainder_minor: int | None


class ChangeShape(Struct, frozen=True, kw_only=True):
    """what: enrolled, confirmed, contact, holder, amounts, tariff, meter, use, hold, flag, move-out, payment.

    before, after: in words.
    """

    at: datetime
    by: str
    what: str
    before: str
    after: str


class AccountShape(Struct, frozen=True, kw_only=True):
    """An account in one look. contacts: all there have been, the newest last. flags: what an operator should look at, by kind.
    changes: who changed what, the newest 20, newest first.

    To a customer: the newest contact only, no flags, no changes, no names of those who work here, no orders.
    """

    id: str
    state: str
    currency: str
    tariff: str
    opened_on: date
    closed_on: date | None
    reminder_minor: int
    topup_minor: int
    bank: str
    is_large_household: bool
    holder: HolderShape
    premises: PremisesShape
    meters: list[MeterShape]
    contact: ContactShape
    contacts: list[ContactShape]
    tenancy: TenancyShape | None
    flags: dict[str, str]
    supply: SupplyShape
    standing: StandingShape
    move_out: MoveOutShape | None
    changes: list[ChangeShape]


class AccountRow(Struct, frozen=True, kw_only=True):
    """An account in a list. days_left: at the average of 30 days, null while nothing is used. flags: kinds."""

    id: str
    state: str
    customer: str
    name: str
    address: str
    phone: str
    meters: list[str]
    currency: str
    available_minor: int
    days_left: int | None
    supply: str
    is_off: bool
    flags: list[str]


class AccountPage(Struct, frozen=True):
    """By id. next: the `after` of the following page; "" when this is the last."""

    accounts: list[AccountRow]
    next: str


class Changes(Struct, frozen=True):
    """The newest first. What moved money stands in the account's entries."""

    changes: list[ChangeShape]


class Obstacles(Struct, frozen=True):
    """What stands against a disconnection now; empty: nothing that we know, and the switch has the last word."""

    obstacles: list[str]


class Booked(Struct, frozen=True):
    """number: of the entry in the books. is_repeat: it was there already."""

    number: int
    is_repeat: bool


class NewToken(Struct, frozen=True, kw_only=True):
    """token: shown this once, and kept only as a hash. revoked: names of the customer's tokens that it replaces."""

    account: str
    name: str
    token: str
    revoked: list[str]


# ------------------------------------------------------------------------------------------------ from one to the other


def enrolment(told: Enrolled) -> Enrolment:
    premises = Premises(id=told.premises, address=told.address, is_submetered=told.is_submetered)
    return shaped(Enrolment, told, premises=premises, meters=tuple(told.meters))


def account_row(found: FoundAccount) -> AccountRow:
    return shaped(
        AccountRow,
        found.account,
        customer=found.holder.id,
        name=found.holder.name,
        address=found.premises.address,
        phone=found.contact.phone,
        meters=list(found.meters),
        available_minor=found.standing.available_minor,
        days_left=found.standing.days_left,
        supply=found.supply.state,
        is_off=found.supply.is_off,
        flags=sorted(found.flags),
    )


def change_shapes(found: Iterable[Change]) -> list[ChangeShape]:
    return [shaped(ChangeShape, one) for one in found]


def account_shape(card: AccountCard, *, is_customer: bool = False) -> AccountShape:
    contacts = [card.contact] if is_customer else card.contacts
    return shaped(
        AccountShape,
        card.account,
        holder=shaped(HolderShape, card.holder, customer=card.holder.id),
        premises=shaped(PremisesShape, card.premises),
        meters=[shaped(MeterShape, one) for one in card.meters],
        contact=_contact(card.contact, is_customer),
        contacts=[_contact(one, is_customer) for one in contacts],
        tenancy=None if card.tenancy is None else shaped(TenancyShape, card.tenancy),
        flags={} if is_customer else dict(card.flags),
        supply=_supply(card.supply, is_customer),
        standing=_standing(card.standing),
        move_out=None if card.move_out is None else move_out_shape(card.move_out, is_customer=is_customer),
        changes=[] if is_customer else change_shapes(card.changes),
    )


def move_out_shape(found: MoveOut, *, is_customer: bool = False) -> MoveOutShape:
    return shaped(MoveOutShape, found, by="" if is_customer else found.by)


def _contact(found: Contact, is_customer: bool) -> ContactShape:
    return shaped(ContactShape, found, by="" if is_customer else found.by)


def _supply(found: SupplyLook, is_customer: bool) -> SupplyShape:
    orders = () if is_customer else found.orders
    return shaped(SupplyShape, found, orders=[shaped(SupplyOrderShape, one) for one in orders])


def _standing(found: Standing) -> StandingShape:
    ahead = found.forecast
    return shaped(
        StandingShape,
        found,
        unsettled=unsettled_shapes(found.unsettled),
        average_minor=None if ahead.average_minor is None else plain(ahead.average_minor),
        days_left=ahead.days_left,
        runs_out_on=ahead.runs_out_on,
    )
