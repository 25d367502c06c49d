"""Tables of notices and of supply, beside those in `tables`. Times are epoch milliseconds, UTC."""

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, SmallInteger, Table, Text, select

from headend.prepayment.storage.tables import metadata

__all__ = ["HANDED", "HEARD", "cursor_of", "episodes", "messages", "supply_cursors"]

_Big = BigInteger().with_variant(Integer, "sqlite")

episodes = Table(
    "episodes",  # an account without a row is well, in its first episode
    metadata,
    Column("account", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", _Big, nullable=False),  # of the state
    Column("look_at", _Big),  # None: when something happens
    Column("retry_at", _Big),  # no warning and no order before
    Column("orders", Integer, nullable=False),  # asked in this episode
    Column("carries", Integer, nullable=False),  # episode whose notices count for this one, too; 0 for none
    Column("off_at", _Big),
    Column("telling", Text, nullable=False),  # JSON: what the command interface is told of the credit; "" for nothing
    Column("told", SmallInteger, nullable=False),
    Index("episodes_to_look_at", "look_at"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("episode", Integer, nullable=False),  # 0: of no episode
    Column("kind", Text, nullable=False),
    Column("step", Text, nullable=False),  # as the switch's policy names it; "" of what proves nothing
    Column("attempt", Integer, nullable=False),
    Column("language", Text, nullable=False),
    Column("phone", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", _Big, nullable=False),
    Column("deadline", _Big),  # that the text tells the customer
    Column("next_try_at", _Big),  # None when it is over, or waits for a receipt
    Column("give_up_at", _Big, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("channel", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("sent_at", _Big),
    Column("delivered_at", _Big),
    Column("problem", Text, nullable=False),
    Column("can_wait", SmallInteger, nullable=False),  # 1: goes out when nothing else is to be sent
    Index("messages_of_account", "account", "created_at"),
    Index("messages_to_send", "can_wait", "next_try_at"),
    Index("messages_by_reference", "reference"),
)

supply_cursors = Table(
    "supply_cursors",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", _Big, nullable=False),
)
HANDED = 1  # our newest event that the feed has
HEARD = 2  # how far the feed was looked through for relay events


def cursor_of(connection: Connection, cursor: int) -> int | None:
    """cursor: HANDED or HEARD. None before the first."""
    return connection.execute(select(supply_cursors.c.number).where(supply_cursors.c.id == cursor)).scalar()
