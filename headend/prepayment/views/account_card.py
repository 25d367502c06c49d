"""Everything about an account in one look; and how one is found. Every function works inside its caller's transaction."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, or_, select

from headend.prepayment.accounts.accounts import (
    account_of,
    contacts_of,
    customer_of,
    meters_of,
    premises_of,
    tenancies_of,
)
from headend.prepayment.accounts.changes import Change, changes_of
from headend.prepayment.errors import BadInput
from headend.prepayment.model import Account, Contact, Customer, MeterOfAccount, Premises, Tenancy
from headend.prepayment.settlement import move_out
from headend.prepayment.settlement.move_out import MoveOut
from headend.prepayment.storage.tables import account_meters, accounts, contacts, customers, premises
from headend.prepayment.supply.engine import State
from headend.prepayment.supply.store import OrderLook, Row, load, newest_orders, row_of
from headend.prepayment.trouble.flags import flags_of
from headend.prepayment.views.standing import Standing

__all__ = ["FOUND_MAX", "AccountCard", "SupplyLook", "card_of", "find_accounts", "supply_of_row"]

TEXT_MAX = 100  # characters of what is searched for
FOUND_MAX = 200
CHANGES_SHOWN = 20


class SupplyLook(Struct, frozen=True, kw_only=True):
    """state: of the episode ("well", "low", "used-up", "warned", "ordered", "disconnected", "paid"), since when.

    is_off: it went off by our order and is not known to be back. orders: the newest first.
    """

    state: str
    since: datetime
    is_off: bool
    off_since: datetime | None
    orders: tuple[OrderLook, ...]


class AccountCard(Struct, frozen=True, kw_only=True):
    """holder: who answers for the account now. contacts: all there have been, oldest first; contact is the last of them.

    tenancy: the newest one, None of none. flags: what an operator should look at, text by kind. changes: the newest 20, newest first.
    """

    account: Account
    holder: Customer
    premises: Premises
    meters: tuple[MeterOfAccount, ...]
    contact: Contact
    contacts: tuple[Contact, ...]
    tenancy: Tenancy | None
    flags: Mapping[str, str]
    supply: SupplyLook
    standing: Standing
    move_out: MoveOut | None
    changes: tuple[Change, ...]


def card_of(connection: Connection, account: str, standing: Standing, now: datetime) -> AccountCard:
    """Raises UnknownAccount."""
    found = account_of(connection, account)
    holder, place = customer_of(connection, found.customer), premises_of(connection, found.premises)
    assert holder is not None  # the tables hold them together
    assert place is not None
    history = tuple(contacts_of(connection, account))
    tenancies = tenancies_of(connection, account)
    return AccountCard(
        account=found,
        holder=holder,
        premises=place,
        meters=tuple(meters_of(connection, account)),
        contact=history[-1],
        contacts=history,
        tenancy=tenancies[-1] if tenancies else None,
        flags=flags_of(connection, account),
        supply=_supply(connection, account, history[0].since, now),
        standing=standing,
        move_out=move_out.asked(connection, account),
        changes=tuple(changes_of(connection, account, limit=CHANGES_SHOWN)),
    )


def find_accounts(connection: Connection, text: str, *, after: str, limit: int) -> list[str]:
    """Ids in order, behind `after`: where the text is part of account, meter, customer, name, phone or premises. Raises BadInput."""
    if not 1 <= limit <= FOUND_MAX:
        raise BadInput(f"limit {limit}; expected 1 to {FOUND_MAX}")
    text = text.strip()
    if len(text) > TEXT_MAX or not text.isprintable():
        raise BadInput(f"a text of {len(text)} characters is searched for; expected {TEXT_MAX} printable ones at most")
    statement = select(accounts.c.id).where(accounts.c.id > after).order_by(accounts.c.id).limit(limit)
    if text:
        statement = statement.where(
            or_(
                accounts.c.id.icontains(text, autoescape=True),
                accounts.c.id.in_(
                    select(account_meters.c.account).where(account_meters.c.meter.icontains(text, autoescape=True))
                ),
                accounts.c.id.in_(
                    select(contacts.c.account).where(
                        contacts.c.phone.icontains(text.replace(" ", "").replace("-", ""), autoescape=True)
                    )
                ),
                accounts.c.customer.in_(
                    select(customers.c.id).where(
                        or_(
                            customers.c.id.icontains(text, autoescape=True),
                            customers.c.name.icontains(text, autoescape=True),
                        )
                    )
                ),
                accounts.c.premises.in_(
                    select(premises.c.id).where(
                        or_(
                            premises.c.id.icontains(text, autoescape=True),
                            premises.c.address.icontains(text, autoescape=True),
                        )
                    )
                ),
            )
        )
    return list(connection.execute(statement).scalars())


def _supply(connection: Connection, account: str, known_since: datetime, now: datetime) -> SupplyLook:
    return _look(load(connection, account, now), known_since, tuple(newest_orders(connection, account)))


def supply_of_row(row: Any, account: str, known_since: datetime, now: datetime) -> SupplyLook:
    """row: of the episodes, None of an account that has none. Without orders."""
    return _look(row_of(row, account, now), known_since, ())


def _look(row: Row, known_since: datetime, orders: tuple[OrderLook, ...]) -> SupplyLook:
    episode = row.episode
    is_off = episode.state is State.DISCONNECTED or (episode.state is State.PAID and episode.off_at is not None)
    return SupplyLook(
        state=episode.state.value,
        since=known_since if row.is_new else episode.since,
        is_off=is_off,
        off_since=episode.off_at if is_off else None,
        orders=orders,
    )
