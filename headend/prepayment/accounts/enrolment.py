"""Who gets an account: what a customer asks for and proves, what is checked, and the agreement that begins it.

Every function works inside its caller's transaction.
"""

import hashlib
import re
from collections.abc import Collection
from datetime import date, datetime, timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, func, insert, select, update

from headend.prepayment.accounts.accounts import (
    account_of,
    add_contact,
    check_amounts,
    check_meter,
    check_tariff,
    contact_of,
    customer_of,
    meters_of,
    phone_number,
    premises_of,
)
from headend.prepayment.accounts.agenda import touch_account
from headend.prepayment.days import day_number, day_of, epoch_ms
from headend.prepayment.errors import NotEligible
from headend.prepayment.model import Account, AccountState, Contact, Premises
from headend.prepayment.money import MINOR_DIGITS
from headend.prepayment.storage.tables import account_meters, accounts, customers, holders, premises, tenancies

__all__ = ["Enrolment", "confirm", "enrol", "note_customer"]

_ID = re.compile(r"[\w.:-]{1,64}")
_DAY = timedelta(days=1)


class Enrolment(Struct, frozen=True, kw_only=True):
    """What a customer asks for and proves. identity: number of a document; only a digest of it and its last digits are kept.

    reminder_minor, topup_minor: as the customer confirmed them; topup_minor is 0 without a bank agreement. landlord: a customer that is
    known, "" for none.
    """

    account: str
    customer: str
    name: str
    identity: str
    premises: Premises
    meters: tuple[str, ...]
    phone: str
    currency: str
    tariff: str
    reminder_minor: int
    topup_minor: int = 0
    bank: str = ""
    language: str = "zh"
    is_large_household: bool = False
    landlord: str = ""


def enrol(
    connection: Connection,
    wanted: Enrolment,
    now: datetime,
    opens_on: date,
    *,
    our_meters: Collection[str],
    tariffs: Collection[str],
    salt: bytes,
    by: str,
) -> Account:
    """An account that waits for its agreement. our_meters: those that the utility reads. Raises NotEligible, BadContact."""
    _check(connection, wanted, our_meters=our_meters, tariffs=tariffs)
    phone = phone_number(wanted.phone)
    note_customer(connection, wanted.customer, wanted.name, wanted.identity, salt)
    if premises_of(connection, wanted.premises.id) is None:
        connection.execute(
            insert(premises), [{"id": wanted.premises.id, "address": wanted.premises.address, "is_submetered": 0}]
        )
    account = Account(
        id=wanted.account,
        customer=wanted.customer,
        premises=wanted.premises.id,
        currency=wanted.currency,
        tariff=wanted.tariff,
        state=AccountState.ENROLLED,
        opened_on=opens_on,
        reminder_minor=wanted.reminder_minor,
        topup_minor=wanted.topup_minor,
        bank=wanted.bank,
        is_large_household=wanted.is_large_household,
    )
    number = (connection.execute(select(func.max(accounts.c.number))).scalar() or 0) + 1
    connection.execute(insert(accounts), [_account_row(account) | {"number": number}])
    rows = [
        {"account": account.id, "meter": meter, "since": day_number(opens_on), "until": None} for meter in wanted.meters
    ]
    connection.execute(insert(account_meters), rows)
    add_contact(connection, Contact(account=account.id, since=now, phone=phone, language=wanted.language, by=by))
    connection.execute(
        insert(holders), [{"account": account.id, "since": epoch_ms(now), "customer": wanted.customer, "by": by}]
    )
    if wanted.landlord:
        row = {"account": account.id, "since": day_number(opens_on), "landlord": wanted.landlord, "until": None}
        connection.execute(insert(tenancies), [row])
    return account


def confirm(connection: Connection, account: str, opens_on: date) -> Account:
    """The customer has agreed: from this local day on, days are charged. Raises UnknownAccount, NotEligible."""
    found = account_of(connection, account)
    if found.state is not AccountState.ENROLLED:
        raise NotEligible(f"account {account!r} is {found.state.value}; expected one that waits for its agreement")
    contact = contact_of(connection, account)
    if not contact.is_reachable:
        raise NotEligible(
            f"the agreement did not reach {contact.phone}; expected a number that is reached: change it first"
        )
    for one in meters_of(connection, account):
        if (until := _last_day_of_another(connection, one.meter, account, opens_on)) is not None:
            raise NotEligible(
                f"meter {one.meter!r} measures another account until {until}; expected opens_on from {until + _DAY} on: no day is "
                f"charged twice"
            )
    since = day_number(opens_on)
    connection.execute(
        update(accounts).where(accounts.c.id == account).values(state=AccountState.ACTIVE.value, opened_on=since)
    )
    connection.execute(update(account_meters).where(account_meters.c.account == account).values(since=since))
    touch_account(connection, account, opens_on)
    return replace(found, state=AccountState.ACTIVE, opened_on=opens_on)


def _last_day_of_another(connection: Connection, meter: str, account: str, opens_on: date) -> date | None:
    """The last local day, from that one on, for which another account's use is measured by the meter; None where there is none."""
    own = account_meters.c
    until = connection.execute(
        select(func.max(own.until)).where(own.meter == meter, own.account != account, own.until >= day_number(opens_on))
    ).scalar()
    return None if until is None else day_of(until)


def _check(connection: Connection, wanted: Enrolment, *, our_meters: Collection[str], tariffs: Collection[str]) -> None:
    _check_id("account", wanted.account)
    if connection.execute(select(accounts.c.id).where(accounts.c.id == wanted.account)).first():
        raise NotEligible(f"account {wanted.account!r} exists already; expected a new customer number")
    known = premises_of(connection, wanted.premises.id)
    if wanted.premises.is_submetered or (known is not None and known.is_submetered):
        raise NotEligible(
            f"premises {wanted.premises.id!r} are metered by their landlord and not by us: whoever owns the meter settles it"
        )
    if not wanted.meters:
        raise NotEligible("no meter; expected the asset number of at least one")
    if len(set(wanted.meters)) < len(wanted.meters):
        raise NotEligible(f"meters {', '.join(wanted.meters)}; expected each of them once")
    for meter in wanted.meters:
        check_meter(connection, meter, our_meters)
    if wanted.currency not in MINOR_DIGITS:
        raise NotEligible(f"currency {wanted.currency!r}; expected one of {', '.join(MINOR_DIGITS)}")
    check_tariff(wanted.tariff, tariffs)
    check_amounts(wanted.reminder_minor, wanted.topup_minor, wanted.bank)
    if wanted.landlord and customer_of(connection, wanted.landlord) is None:
        raise NotEligible(f"landlord {wanted.landlord!r} is no customer that is known")


def note_customer(connection: Connection, customer: str, name: str, identity: str, salt: bytes) -> None:
    """Known from now on, if it was not. Raises NotEligible when the number is somebody else's, or name or identity is missing."""
    _check_id("customer", customer)
    if not name.strip() or not identity.strip():
        raise NotEligible("name and identity are empty; expected those of the document that was shown")
    identity = identity.strip().upper()
    digest = hashlib.blake2b(identity.encode(), key=salt[:64], digest_size=16).hexdigest()
    known = connection.execute(select(customers).where(customers.c.id == customer)).first()
    if known is None:
        row = {
            "id": customer,
            "name": name.strip(),
            "identity_digest": digest,
            "identity_tail": identity[-4:],
        }
        connection.execute(insert(customers), [row])
    elif known.identity_digest != digest:
        raise NotEligible(
            f"customer {customer!r} is known with another document, which ends in {known.identity_tail}; expected the same one"
        )


def _check_id(name: str, text: str) -> None:
    if not _ID.fullmatch(text):
        raise NotEligible(f"{name} {text!r}; expected 1 to 64 letters, digits, and . : _ -")


def _account_row(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "customer": account.customer,
        "premises": account.premises,
        "currency": account.currency,
        "tariff": account.tariff,
        "state": account.state.value,
        "opened_on": day_number(account.opened_on),
        "closed_on": None,
        "reminder_minor": account.reminder_minor,
        "topup_minor": account.topup_minor,
        "bank": account.bank,
        "is_large_household": int(account.is_large_household),
    }
