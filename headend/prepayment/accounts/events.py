"""Events about accounts, `headend.account.v1`: numbered, written down in the transaction of what they tell, handed over afterwards."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, delete, func, insert, select

from headend.feed.envelope import iso_utc
from headend.prepayment.days import epoch_ms, from_epoch_ms
from headend.prepayment.ports import Outbox
from headend.prepayment.storage.database import Database, put_rows
from headend.prepayment.storage.supply_tables import HANDED, cursor_of, supply_cursors
from headend.prepayment.storage.tables import outbox

__all__ = ["ACCOUNT_TYPE", "hand_over", "tell"]

ACCOUNT_TYPE = "headend.account.v1"
_AT_ONCE = 200


def tell(connection: Connection, about: str, account: str, now: datetime, data: Mapping[str, object]) -> int:
    """Gives the event's number. data: what JSON can hold."""
    number = (connection.execute(select(func.max(outbox.c.number))).scalar() or 0) + 1
    body = {"about": about, "account": account, "at": iso_utc(now), **data}
    row = {
        "number": number,
        "type": ACCOUNT_TYPE,
        "subject": account,
        "at": epoch_ms(now),
        "data": msgspec.json.encode(body),
    }
    connection.execute(insert(outbox), [row])
    return number


def hand_over(database: Database, port: Outbox) -> int:
    """Offers what waits, oldest first; forgets what was taken, all but the newest, which keeps the count. Raises OutboxUnavailable."""
    with database.reading("looking for events") as connection:
        handed = cursor_of(connection, HANDED) or 0
        waiting = select(outbox).where(outbox.c.number > handed).order_by(outbox.c.number).limit(_AT_ONCE)
        rows = connection.execute(waiting).all()
    for row in rows:
        port.offer(row.number, row.type, row.subject, from_epoch_ms(row.at), bytes(row.data))
    if rows:
        last = rows[-1].number
        with database.writing("noting events as handed over") as connection:
            connection.execute(delete(outbox).where(outbox.c.number < last))
            put_rows(connection, supply_cursors, [(HANDED, last)])
    return len(rows)
