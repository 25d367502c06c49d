"""Which accounts settlement must look at, and from which local day on. Every function works inside its caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import date

from sqlalchemy import Connection, delete, or_, select

from headend.prepayment.days import day_number
from headend.prepayment.storage.database import AT_ONCE, put_rows
from headend.prepayment.storage.tables import account_meters, accounts, touched

__all__ = ["done", "due_after", "due_among", "has_due", "touch", "touch_account", "touch_meters"]


def touch_account(connection: Connection, account: str, since: date) -> None:
    """Something that is not in the feed changed what that day and later ones cost, such as whose meter it was."""
    number = connection.execute(select(accounts.c.number).where(accounts.c.id == account)).scalar()
    if number is not None:
        touch(connection, {number: day_number(since)})


def touch(connection: Connection, since: Mapping[int, int]) -> None:
    """Accounts to be settled anew from that day on, by number."""
    numbers = sorted(since)
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        statement = select(touched.c.account, touched.c.day).where(touched.c.account.in_(some))
        held = {number: day for number, day in connection.execute(statement)}
        # Today's reads touch the same accounts again and again.
        rows = [(number, since[number]) for number in some if number not in held or since[number] < held[number]]
        put_rows(connection, touched, rows)


def touch_meters(connection: Connection, since: Mapping[str, int]) -> list[str]:
    """All accounts that the meters measure or measured then, by asset number; gives the accounts' ids."""
    meters = sorted(since)
    found: dict[int, int] = {}
    ids: set[str] = set()
    own = account_meters.c
    for start in range(0, len(meters), AT_ONCE):
        some = meters[start : start + AT_ONCE]
        statement = (
            select(accounts.c.number, accounts.c.id, own.meter)
            .join(accounts, accounts.c.id == own.account)
            # A meter that was taken away counts until the day after its last whole one.
            .where(own.meter.in_(some), or_(own.until.is_(None), own.until >= min(since[one] for one in some) - 1))
        )
        for number, identity, meter in connection.execute(statement):
            ids.add(identity)
            found[number] = min(found.get(number, since[meter]), since[meter])
    touch(connection, found)
    return sorted(ids)


def has_due(connection: Connection, before: date | None = None, *, without: Sequence[int] = ()) -> bool:
    """Whether there is anything, answered at once also where all accounts have news of today. before: as in `due_after`.

    without: numbers of accounts that do not count.
    """
    statement = select(touched.c.account).where(touched.c.account.not_in(without[:AT_ONCE])).limit(1)
    if before is not None:
        statement = statement.where(touched.c.day < day_number(before))
    return connection.execute(statement).first() is not None


def due_after(connection: Connection, after: int, limit: int, *, before: date | None = None) -> list[tuple[int, int]]:
    """By number, above that one: with the day from which on. before: those alone that have news of a day before that one."""
    statement = (
        select(touched.c.account, touched.c.day)
        .where(touched.c.account > after)
        .order_by(touched.c.account)
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(touched.c.day < day_number(before))
    return [(number, day) for number, day in connection.execute(statement)]


def due_among(connection: Connection, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Of these, at most `AT_ONCE`, what `due_after` gives."""
    statement = select(touched.c.account, touched.c.day).where(touched.c.account.in_(numbers))
    return [(number, day) for number, day in connection.execute(statement.order_by(touched.c.account))]


def done(connection: Connection, numbers: Sequence[int]) -> None:
    for at in range(0, len(numbers), AT_ONCE):
        connection.execute(delete(touched).where(touched.c.account.in_(numbers[at : at + AT_ONCE])))
