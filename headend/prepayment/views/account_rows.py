"""Accounts in a list: what is looked up for all of them at once. Works inside its caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from msgspec import Struct
from sqlalchemy import Connection, select

from headend.prepayment.accounts.accounts import account_of_row, contact_of_row
from headend.prepayment.books.books import balances_of
from headend.prepayment.days import from_epoch_ms
from headend.prepayment.model import Account, Contact, Customer, Premises
from headend.prepayment.storage.supply_tables import episodes
from headend.prepayment.storage.tables import account_meters, accounts, contacts, customers, flags, premises
from headend.prepayment.supply.facts import Outlook
from headend.prepayment.supply.facts import Standing as Settled
from headend.prepayment.views.account_card import SupplyLook, find_accounts, supply_of_row

__all__ = ["AccountRow", "RowStanding", "find_rows"]


class RowStanding(Struct, frozen=True, kw_only=True):
    """Of `standing.Standing` what a list shows. days_left: whole days, at the average of what was charged in 30 days; None while
    nothing is used."""

    today: date
    available_minor: int
    owed_minor: int
    days_left: int | None


class AccountRow(Struct, frozen=True, kw_only=True):
    """What a list shows of an account; the same words as on its card. meters: that measure it now. supply: without its orders."""

    account: Account
    holder: Customer
    premises: Premises
    meters: tuple[str, ...]
    contact: Contact
    flags: Mapping[str, str]
    supply: SupplyLook
    standing: RowStanding


def find_rows(
    connection: Connection, text: str, *, after: str, limit: int, outlook: Outlook, now: datetime, today: date
) -> list[AccountRow]:
    """As `find_accounts` finds them. Raises BadInput."""
    ids = find_accounts(connection, text, after=after, limit=limit)
    if not ids:
        return []
    own = (
        select(accounts, customers.c.name, customers.c.identity_tail, premises.c.address, premises.c.is_submetered)
        .join(customers, customers.c.id == accounts.c.customer)
        .join(premises, premises.c.id == accounts.c.premises)
        .where(accounts.c.id.in_(ids))
        .order_by(accounts.c.id)
    )
    rows = connection.execute(own).all()
    found = [account_of_row(row._mapping) for row in rows]
    balances = balances_of(connection, ids)
    settled = outlook(connection, found, balances, now)
    meters = _meters(connection, ids)
    newest, since = _contacts(connection, ids)
    raised = _flags(connection, ids)
    known = {row.account: row for row in connection.execute(select(episodes).where(episodes.c.account.in_(ids)))}
    return [
        AccountRow(
            account=one,
            holder=Customer(id=one.customer, name=row.name, identity_tail=row.identity_tail),
            premises=Premises(id=one.premises, address=row.address, is_submetered=bool(row.is_submetered)),
            meters=tuple(meters.get(one.id, ())),
            contact=newest[one.id],
            flags=raised.get(one.id, {}),
            supply=supply_of_row(known.get(one.id), one.id, since[one.id], now),
            standing=_standing(balances.get(one.id, 0), settled.get(one.id, Settled()), today),
        )
        for one, row in zip(found, rows, strict=True)
    ]


def _standing(balance_minor: int, settled: Settled, today: date) -> RowStanding:
    available = balance_minor - settled.counted_minor
    days_left = 0 if available <= 0 else None if settled.days_left is None else int(settled.days_left)
    return RowStanding(today=today, available_minor=available, owed_minor=max(0, -available), days_left=days_left)


def _meters(connection: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    own = account_meters.c
    statement = select(own.account, own.meter).where(own.account.in_(ids), own.until.is_(None))
    found: dict[str, list[str]] = {}
    for account, meter in connection.execute(statement.order_by(own.account, own.since, own.meter)):
        found.setdefault(account, []).append(meter)
    return found


def _contacts(connection: Connection, ids: Sequence[str]) -> tuple[dict[str, Contact], dict[str, datetime]]:
    """The newest, and since when there is one."""
    newest: dict[str, Contact] = {}
    since: dict[str, datetime] = {}
    own = contacts.c
    for row in connection.execute(select(contacts).where(own.account.in_(ids)).order_by(own.account, own.since)):
        newest[row.account] = contact_of_row(row)
        since.setdefault(row.account, from_epoch_ms(row.since))
    return newest, since


def _flags(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(flags).where(flags.c.account.in_(ids)).order_by(flags.c.kind)):
        found.setdefault(row.account, {})[row.kind] = row.text
    return found
