"""The books: double entry, append-only, in integer minor units. Every function works inside its caller's transaction."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from headend.database.engine import insert_rows
from headend.prepayment.days import day_number, day_of, epoch_ms, from_epoch_ms
from headend.prepayment.errors import KeyReused
from headend.prepayment.model import Cause, Entry, Posted, customer_book
from headend.prepayment.storage.database import AT_ONCE
from headend.prepayment.storage.tables import books, entries

__all__ = ["balance_of", "balances_of", "check_books", "entries_of", "held", "post"]

_MOVE = (
    update(books)
    .where(books.c.id == bindparam("book"))
    .values(balance_minor=books.c.balance_minor + bindparam("moved"))
)


def post(connection: Connection, wanted: Sequence[Entry]) -> list[Posted]:
    """Book them all, each key once for ever; gives each one's number. Raises KeyReused, ValueError."""
    for entry in wanted:
        if entry.amount_minor <= 0 or entry.from_book == entry.to_book:
            raise ValueError(f"entry {entry.key}: expected more than 0 from one book to another, found {entry}")
    known = _known(connection, [entry.key for entry in wanted])
    ids = _book_ids(connection, wanted)
    number: int = connection.execute(select(func.max(entries.c.number))).scalar() or 0
    results, rows, changes = [], [], dict.fromkeys(ids.values(), 0)
    for entry in wanted:
        row = _row(entry, ids)
        if (before := known.get(entry.key)) is not None:
            _refuse_other(entry.key, before, row)
            results.append(Posted(before["number"], False))
            continue
        number += 1
        row["number"] = number
        known[entry.key] = row
        rows.append(row)
        changes[row["from_book"]] -= entry.amount_minor
        changes[row["to_book"]] += entry.amount_minor
        results.append(Posted(number, True))
    if rows:
        names = entries.columns.keys()
        insert_rows(connection, entries, [row[name] for row in rows for name in names])
        _move(connection, changes)
    return results


def balance_of(connection: Connection, account: str, currency: str) -> int:
    """What the customer has to his credit, minor units; negative is owed."""
    return held(connection, customer_book(account), currency)


def held(connection: Connection, book: str, currency: str) -> int:
    """What a book holds, minor units; 0 of one that never had an entry."""
    statement = select(books.c.balance_minor).where(books.c.name == book, books.c.currency == currency)
    return connection.execute(statement).scalar() or 0


def balances_of(connection: Connection, accounts: Sequence[str]) -> dict[str, int]:
    """By account; those that never had an entry are absent."""
    found: dict[str, int] = {}
    for start in range(0, len(accounts), AT_ONCE):
        names = {customer_book(account): account for account in accounts[start : start + AT_ONCE]}
        statement = select(books.c.name, books.c.balance_minor).where(books.c.name.in_(names))
        found.update((names[name], balance) for name, balance in connection.execute(statement))
    return found


def entries_of(
    connection: Connection,
    account: str,
    *,
    since: date | None = None,
    until: date | None = None,
    booked_after: int | None = None,
    newest: int | None = None,
) -> list[tuple[int, Entry, int]]:
    """Number, entry, and what it did to the customer's credit; of days in [since, until), by number.

    booked_after: of days before `since` too, what was booked behind that entry. newest: not more than so many.
    """
    own, other = books.alias("own"), books.alias("other")
    identity = select(own.c.id).where(own.c.name == customer_book(account)).scalar_subquery()
    statement = (
        select(entries, books.c.name, other.c.name, books.c.currency, books.c.id == identity)
        .join(books, entries.c.from_book == books.c.id)
        .join(other, entries.c.to_book == other.c.id)
        .where(or_(entries.c.from_book == identity, entries.c.to_book == identity))
        .order_by(entries.c.number if newest is None else entries.c.number.desc())
        .limit(newest)
    )
    if since is not None:
        is_wanted = entries.c.day >= day_number(since)
        if booked_after is not None:
            is_wanted = or_(is_wanted, entries.c.number > booked_after)
        statement = statement.where(is_wanted)
    if until is not None:
        statement = statement.where(entries.c.day < day_number(until))
    found = []
    for row in connection.execute(statement):
        entry = Entry(
            from_book=row[-4],
            to_book=row[-3],
            amount_minor=row.amount_minor,
            currency=row[-2],
            cause=Cause(row.cause),
            key=row.key,
            day=day_of(row.day),
            at=from_epoch_ms(row.at),
            reference=row.reference,
            note=row.note,
            reverses=row.reverses,
        )
        found.append((row.number, entry, -entry.amount_minor if row[-1] else entry.amount_minor))
    return found if newest is None else found[::-1]


def check_books(connection: Connection) -> list[str]:
    """What is wrong with the books, one sentence each; empty when they balance, every book with its entries and all together."""
    problems = []
    moved: dict[int, int] = {}
    for side, sign in ((entries.c.from_book, -1), (entries.c.to_book, 1)):
        for book, amount in connection.execute(select(side, func.sum(entries.c.amount_minor)).group_by(side)):
            moved[book] = moved.get(book, 0) + sign * int(amount)
    totals: dict[str, int] = {}
    for identity, name, currency, balance in connection.execute(select(books)):
        totals[currency] = totals.get(currency, 0) + balance
        if balance != moved.get(identity, 0):
            problems.append(f"book {name}: holds {balance}, its entries sum to {moved.get(identity, 0)} {currency}")
    problems += [f"the books of {currency} sum to {total}, not 0" for currency, total in totals.items() if total]
    count, last = connection.execute(select(func.count(), func.max(entries.c.number))).one()
    if count != (last or 0):
        problems.append(f"{count} entries, but the last one has number {last}: one was removed")
    return problems


# ------------------------------------------------------------------------------------------------ inside


def _known(connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(keys), AT_ONCE):
        statement = select(entries).where(entries.c.key.in_(keys[start : start + AT_ONCE]))
        found.update((row.key, dict(row._mapping)) for row in connection.execute(statement))
    return found


def _book_ids(connection: Connection, wanted: Iterable[Entry]) -> dict[tuple[str, str], int]:
    """Makes those that are not there."""
    needed = {(book, entry.currency) for entry in wanted for book in (entry.from_book, entry.to_book)}
    names = sorted({name for name, _ in needed})
    ids: dict[tuple[str, str], int] = {}
    for start in range(0, len(names), AT_ONCE):
        statement = select(books.c.name, books.c.currency, books.c.id).where(
            books.c.name.in_(names[start : start + AT_ONCE])
        )
        ids.update(((name, currency), identity) for name, currency, identity in connection.execute(statement))
    if missing := sorted(needed - ids.keys()):
        first = (connection.execute(select(func.max(books.c.id))).scalar() or 0) + 1
        rows = [
            {"id": first + place, "name": name, "currency": currency, "balance_minor": 0}
            for place, (name, currency) in enumerate(missing)
        ]
        connection.execute(insert(books), rows)
        ids.update(((name, currency), first + place) for place, (name, currency) in enumerate(missing))
    return {book: ids[book] for book in needed}


def _row(entry: Entry, ids: dict[tuple[str, str], int]) -> dict[str, Any]:
    return {
        "from_book": ids[entry.from_book, entry.currency],
        "to_book": ids[entry.to_book, entry.currency],
        "amount_minor": entry.amount_minor,
        "cause": entry.cause.value,
        "key": entry.key,
        "day": day_number(entry.day),
        "at": epoch_ms(entry.at),
        "reference": entry.reference,
        "note": entry.note,
        "reverses": entry.reverses,
    }


def _refuse_other(key: str, before: dict[str, Any], row: dict[str, Any]) -> None:
    """When it was booked, and what was noted, may differ: a repeat comes later."""
    for name in ("from_book", "to_book", "amount_minor", "cause"):
        if before[name] != row[name]:
            raise KeyReused(key, f"{name} {before[name]}, now {row[name]}")


def _move(connection: Connection, changes: dict[int, int]) -> None:
    moved = [{"book": book, "moved": amount} for book, amount in changes.items() if amount]
    if moved:
        connection.execute(_MOVE, moved)
