"""What is wrong with prepaid supply as a whole, for whoever watches over the service; no customer is named."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from headend.errors import StoreError
from headend.prepayment.books.reconciliation import FLAG_AFTER
from headend.prepayment.days import epoch_ms
from headend.prepayment.storage.database import Database
from headend.prepayment.storage.tables import fenced_payments, flags
from headend.prepayment.trouble.kinds import NOT_BACK

__all__ = ["problems_of"]


def problems_of(database: Database, now: datetime) -> list[str]:
    """One sentence each; empty when all is well."""
    try:
        with database.reading("looking for problems") as connection:
            return _problems(connection, now)
    except StoreError as error:
        return [f"the accounts' database cannot be read: {error}"]


def _problems(connection: Connection, now: datetime) -> list[str]:
    found = []
    dark = connection.execute(select(func.count()).select_from(flags).where(flags.c.kind == NOT_BACK)).scalar() or 0
    if dark:
        found.append(f"accounts that have paid and whose supply is not back in time: {dark}")
    late = fenced_payments.c.since <= epoch_ms(now - FLAG_AFTER)
    told = connection.execute(select(func.count()).select_from(fenced_payments).where(late)).scalar() or 0
    if told:
        found.append(f"payments that were told and not booked for more than {FLAG_AFTER}: {told}")
    return found
