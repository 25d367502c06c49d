"""Events that prepaid supply tells: each comes into the feed once, however often it is told."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from headend.model import Event
from headend.store.rows import epoch_ms
from headend.store.tables import account_events

__all__ = ["take_account_event"]

KEPT = timedelta(
    days=100
)  # who tells again does so after a crash, or after a backup was restored; consumers know the id for ever


def take_account_event(event: Event, now: datetime) -> Callable[[Connection], tuple[bool, Sequence[Event]]]:
    """Work for `Writer.transact`: gives whether the event is new. event: with an id of its own, which is the same of a repeat."""

    def work(connection: Connection) -> tuple[bool, Sequence[Event]]:
        row = account_events.c
        if connection.execute(select(row.id).where(row.id == event.id)).first() is not None:
            return False, ()
        connection.execute(delete(account_events).where(row.at < epoch_ms(now - KEPT)))
        connection.execute(insert(account_events).values(id=event.id, at=epoch_ms(now)))
        return True, (event,)

    return work
