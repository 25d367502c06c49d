"""A database of prepaid supply in a test's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from sqlalchemy import Engine

from headend.database.engine import connect
from headend.prepayment.model import Cause, Entry, customer_book
from headend.prepayment.storage.tables import metadata
from tests.databases import database_url

__all__ = ["DAY", "NOON", "an_entry", "database"]

NOON = datetime(2026, 3, 2, 4, tzinfo=UTC)
DAY = date(2026, 3, 2)


@contextmanager
def database(folder: Path) -> Iterator[Engine]:
    engine = connect(database_url(folder, "prepayment"))
    metadata.create_all(engine)
    try:
        yield engine
    finally:
        engine.dispose()


def an_entry(key: str, amount_minor: int = 100, *, account: str = "A1", cause: Cause = Cause.PAYMENT) -> Entry:
    """Money of a channel for the account; of a charge, from it."""
    books = ("channel:app", customer_book(account))
    if cause is Cause.DAILY_CHARGE:
        books = (customer_book(account), "revenue:energy")
    return Entry(
        from_book=books[0],
        to_book=books[1],
        amount_minor=amount_minor,
        currency="CNY",
        cause=cause,
        key=key,
        day=DAY,
        at=NOON,
    )
