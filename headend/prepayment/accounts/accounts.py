"""Who has an account: contacts, holders, meters, tenancies, amounts. Every function works inside its caller's transaction.

Nothing that was true once is overwritten: contacts, holders, meters and tenancies have a since, and the newest counts.
"""

import re
from collections.abc import Collection, Iterator
from datetime import date, datetime, timedelta
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Select, delete, insert, or_, select, update

from headend.prepayment.accounts.agenda import touch_account
from headend.prepayment.days import day_number, day_of, epoch_ms, from_epoch_ms
from headend.prepayment.errors import AccountClosed, BadContact, NotEligible, UnknownAccount
from headend.prepayment.model import (
    Account,
    AccountState,
    Contact,
    Customer,
    Holder,
    MeterOfAccount,
    Premises,
    Tenancy,
)
from headend.prepayment.storage.database import put_rows
from headend.prepayment.storage.tables import (
    account_meters,
    account_tariffs,
    accounts,
    contacts,
    customers,
    holders,
    positions,
    premises,
    tenancies,
)

__all__ = [
    "account_of",
    "account_of_row",
    "add_contact",
    "all_accounts",
    "amounts",
    "change_contact",
    "change_holder",
    "change_tariff",
    "check_amounts",
    "check_meter",
    "check_tariff",
    "close",
    "contact_of",
    "contact_of_row",
    "contacts_of",
    "customer_of",
    "exchange_meter",
    "holders_of",
    "meters_of",
    "not_closed",
    "of_landlord",
    "of_meter",
    "phone_number",
    "premises_of",
    "set_reachable",
    "tenancies_of",
]

COUNTRY = "+86"
_MOBILE = re.compile(r"1[3-9]\d{9}")
_INTERNATIONAL = re.compile(r"\+[1-9]\d{6,14}")
_DAY = timedelta(days=1)


def phone_number(text: str) -> str:
    """As E.164. Raises BadContact."""
    bare = re.sub(r"[ ()-]", "", text)
    if _MOBILE.fullmatch(bare):
        return COUNTRY + bare
    if _INTERNATIONAL.fullmatch(bare):
        return bare
    raise BadContact(text)


# ------------------------------------------------------------------------------------------------ what changes


def change_contact(
    connection: Connection, account: str, phone: str, now: datetime, *, language: str | None = None, by: str
) -> Contact:
    """A new number is taken to be reachable until a notice shows otherwise. Raises UnknownAccount, BadContact."""
    before = contact_of(connection, account)
    contact = Contact(
        account=account,
        since=_after(before.since, now),
        phone=phone_number(phone),
        language=before.language if language is None else language,
        by=by,
    )
    add_contact(connection, contact)
    return contact


def set_reachable(connection: Connection, account: str, is_reachable: bool, now: datetime, *, by: str) -> Contact:
    """What a notice has shown. Raises UnknownAccount."""
    before = contact_of(connection, account)
    if before.is_reachable is is_reachable:
        return before
    contact = replace(before, since=_after(before.since, now), is_reachable=is_reachable, by=by)
    add_contact(connection, contact)
    return contact


def change_holder(connection: Connection, account: str, customer: str, now: datetime, *, by: str) -> Holder:
    """Another head of household, who is known as a customer. Raises UnknownAccount, NotEligible."""
    found = account_of(connection, account)
    if customer_of(connection, customer) is None:
        raise NotEligible(f"customer {customer!r} is not known; expected one with name and document")
    before = holders_of(connection, account)[-1]
    holder = Holder(account=found.id, since=_after(before.since, now), customer=customer, by=by)
    connection.execute(
        insert(holders), [{"account": account, "since": epoch_ms(holder.since), "customer": customer, "by": by}]
    )
    _set(connection, account, customer=customer)
    return holder


def check_amounts(reminder_minor: int, topup_minor: int, bank: str) -> None:
    if reminder_minor <= 0:
        raise NotEligible(f"reminder_minor {reminder_minor}; expected more than 0: below it the first notice goes out")
    if bool(topup_minor) is not bool(bank) or topup_minor < 0:
        raise NotEligible(
            f"topup_minor {topup_minor} with bank {bank!r}; expected both for automatic top-up, or neither (0 and empty)"
        )


def check_tariff(tariff: str, tariffs: Collection[str]) -> None:
    """Raises NotEligible."""
    if tariff not in tariffs:
        raise NotEligible(f"tariff {tariff!r}; expected one of {', '.join(sorted(tariffs))}")


def check_meter(connection: Connection, meter: str, our_meters: Collection[str]) -> None:
    """That it may measure another account from now on. Raises NotEligible."""
    if meter not in our_meters:
        raise NotEligible(f"meter {meter!r} is none of ours; expected the asset number of a meter that we read")
    if (other := of_meter(connection, meter)) is not None:
        raise NotEligible(
            f"meter {meter!r} belongs to account {other!r}, which is open; expected it to be closed first"
        )


def amounts(connection: Connection, account: str, *, reminder_minor: int, topup_minor: int, bank: str) -> Account:
    """As the customer confirmed them. Raises UnknownAccount, NotEligible."""
    found = account_of(connection, account)
    check_amounts(reminder_minor, topup_minor, bank)
    _set(connection, account, reminder_minor=reminder_minor, topup_minor=topup_minor, bank=bank)
    return replace(found, reminder_minor=reminder_minor, topup_minor=topup_minor, bank=bank)


def change_tariff(connection: Connection, account: str, tariff: str, *, tariffs: Collection[str]) -> Account:
    """From the first day that is not settled yet. Raises UnknownAccount, NotEligible."""
    found = account_of(connection, account)
    check_tariff(tariff, tariffs)
    own = (
        select(accounts.c.number, accounts.c.opened_on, positions.c.day)
        .join(positions, positions.c.account == accounts.c.number, isouter=True)
        .where(accounts.c.id == account)
    )
    number, opened, last = connection.execute(own).one()
    # Days that were charged keep the tariff they were charged by, when they are reckoned again.
    if last is not None:
        history = connection.execute(select(account_tariffs).where(account_tariffs.c.account == number)).all()
        rows = [] if history else [(number, opened, found.tariff)]
        put_rows(connection, account_tariffs, [*rows, (number, last + 1, tariff)])
        touch_account(connection, account, day_of(last + 1))
    else:
        connection.execute(delete(account_tariffs).where(account_tariffs.c.account == number))
        touch_account(connection, account, day_of(opened))
    _set(connection, account, tariff=tariff)
    return replace(found, tariff=tariff)


def exchange_meter(
    connection: Connection, account: str, old: str, new: str, day: date, *, our_meters: Collection[str]
) -> None:
    """Another asset number measures from local day `day` on. Where the number stays, the head-end's own exchange is enough.

    Raises UnknownAccount, NotEligible.
    """
    account_of(connection, account)
    check_meter(connection, new, our_meters)
    held = [one for one in meters_of(connection, account) if one.meter == old and one.until is None]
    if not held or held[0].since >= day:
        raise NotEligible(f"meter {old!r} does not measure account {account!r} before {day}; expected one that does")
    _end_meter(connection, account, old, day - _DAY)
    row = {"account": account, "meter": new, "since": day_number(day), "until": None}
    connection.execute(insert(account_meters), [row])
    touch_account(connection, account, day)


def close(connection: Connection, account: str, last_day: date) -> Account:
    """Nothing is charged after that local day. Whoever closes has settled it and moved what remained.

    Raises UnknownAccount, AccountClosed.
    """
    found = not_closed(connection, account)
    for one in meters_of(connection, account):
        if one.until is None:
            _end_meter(connection, account, one.meter, last_day)
    connection.execute(
        update(tenancies)
        .where(tenancies.c.account == account, tenancies.c.until.is_(None))
        .values(until=day_number(last_day))
    )
    _set(connection, account, state=AccountState.CLOSED.value, closed_on=day_number(last_day))
    return replace(found, state=AccountState.CLOSED, closed_on=last_day)


def _end_meter(connection: Connection, account: str, meter: str, last_day: date) -> None:
    own = account_meters.c
    connection.execute(
        update(account_meters)
        .where(own.account == account, own.meter == meter, own.until.is_(None))
        .values(until=day_number(last_day))
    )


def _set(connection: Connection, account: str, **values: Any) -> None:
    connection.execute(update(accounts).where(accounts.c.id == account).values(values))


def add_contact(connection: Connection, contact: Contact) -> None:
    row = {
        "account": contact.account,
        "since": epoch_ms(contact.since),
        "phone": contact.phone,
        "language": contact.language,
        "is_reachable": int(contact.is_reachable),
        "by": contact.by,
    }
    connection.execute(insert(contacts), [row])


def _after(before: datetime, now: datetime) -> datetime:
    """A clock that was set back does not put the newest before the one it replaces."""
    return max(now, before + timedelta(milliseconds=1))


# ------------------------------------------------------------------------------------------------ looking


def account_of(connection: Connection, account: str) -> Account:
    """Raises UnknownAccount."""
    row = connection.execute(select(accounts).where(accounts.c.id == account)).first()
    if row is None:
        raise UnknownAccount(account)
    return account_of_row(row._mapping)


def not_closed(connection: Connection, account: str) -> Account:
    """Raises UnknownAccount, AccountClosed."""
    found = account_of(connection, account)
    if found.state is AccountState.CLOSED:
        assert found.closed_on is not None
        raise AccountClosed(account, found.closed_on.isoformat())
    return found


def all_accounts(connection: Connection, *, after: str = "", limit: int | None = None) -> Iterator[Account]:
    """By id; the next page begins after the last id of this one."""
    statement: Select[Any] = select(accounts).where(accounts.c.id > after).order_by(accounts.c.id).limit(limit)
    for row in connection.execute(statement):
        yield account_of_row(row._mapping)


def of_meter(connection: Connection, meter: str, *, on: date | None = None) -> str | None:
    """The open account that the meter measures now; or the account that it measured on a day."""
    own = account_meters.c
    statement = select(own.account).where(own.meter == meter)
    if on is None:
        statement = statement.where(own.until.is_(None))
    else:
        day = day_number(on)
        statement = statement.where(own.since <= day, or_(own.until.is_(None), own.until >= day))
    return connection.execute(statement.order_by(own.since.desc()).limit(1)).scalar()


def meters_of(connection: Connection, account: str) -> list[MeterOfAccount]:
    """All there have been, oldest first."""
    own = account_meters.c
    rows = connection.execute(select(account_meters).where(own.account == account).order_by(own.since, own.meter))
    return [
        MeterOfAccount(
            account=row.account,
            meter=row.meter,
            since=day_of(row.since),
            until=None if row.until is None else day_of(row.until),
        )
        for row in rows
    ]


def contacts_of(connection: Connection, account: str) -> list[Contact]:
    """All there have been, oldest first."""
    rows = connection.execute(select(contacts).where(contacts.c.account == account).order_by(contacts.c.since))
    return [contact_of_row(row) for row in rows]


def contact_of(connection: Connection, account: str) -> Contact:
    """The newest. Raises UnknownAccount."""
    own = contacts.c
    row = connection.execute(select(contacts).where(own.account == account).order_by(own.since.desc()).limit(1)).first()
    if row is None:
        raise UnknownAccount(account)
    return contact_of_row(row)


def contact_of_row(row: Any) -> Contact:
    return Contact(
        account=row.account,
        since=from_epoch_ms(row.since),
        phone=row.phone,
        language=row.language,
        is_reachable=bool(row.is_reachable),
        by=row.by,
    )


def holders_of(connection: Connection, account: str) -> list[Holder]:
    """All there have been, oldest first."""
    rows = connection.execute(select(holders).where(holders.c.account == account).order_by(holders.c.since))
    return [
        Holder(account=row.account, since=from_epoch_ms(row.since), customer=row.customer, by=row.by) for row in rows
    ]


def tenancies_of(connection: Connection, account: str) -> list[Tenancy]:
    """All there have been, oldest first."""
    return _tenancies(connection, select(tenancies).where(tenancies.c.account == account))


def of_landlord(connection: Connection, landlord: str) -> list[Tenancy]:
    """Of all accounts that this customer lets to."""
    return _tenancies(connection, select(tenancies).where(tenancies.c.landlord == landlord))


def customer_of(connection: Connection, customer: str) -> Customer | None:
    row = connection.execute(select(customers).where(customers.c.id == customer)).first()
    return None if row is None else Customer(id=row.id, name=row.name, identity_tail=row.identity_tail)


def premises_of(connection: Connection, identity: str) -> Premises | None:
    row = connection.execute(select(premises).where(premises.c.id == identity)).first()
    return None if row is None else Premises(id=row.id, address=row.address, is_submetered=bool(row.is_submetered))


def _tenancies(connection: Connection, statement: Select[Any]) -> list[Tenancy]:
    return [
        Tenancy(
            account=row.account,
            landlord=row.landlord,
            since=day_of(row.since),
            until=None if row.until is None else day_of(row.until),
        )
        for row in connection.execute(statement.order_by(tenancies.c.since, tenancies.c.account))
    ]


def account_of_row(row: Any) -> Account:
    return Account(
        id=row["id"],
        customer=row["customer"],
        premises=row["premises"],
        currency=row["currency"],
        tariff=row["tariff"],
        state=AccountState(row["state"]),
        opened_on=day_of(row["opened_on"]),
        closed_on=None if row["closed_on"] is None else day_of(row["closed_on"]),
        reminder_minor=row["reminder_minor"],
        topup_minor=row["topup_minor"],
        bank=row["bank"],
        is_large_household=bool(row["is_large_household"]),
    )
