"""What is kept per destination beside its cursor: stretches delivered ahead of it, and events it will not take."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Table, Text

from headend.store.tables import metadata

__all__ = ["delivered_ranges", "parked_events"]

_Big = BigInteger().with_variant(Integer, "sqlite")

delivered_ranges = Table(
    "delivered_ranges",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("first", _Big, primary_key=True, autoincrement=False),
    Column("last", _Big, nullable=False),
)

parked_events = Table(
    "parked_events",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("sequence", _Big, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("since", _Big, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("released", Boolean, nullable=False),  # to be tried once more
    Column("body", LargeBinary, nullable=False),  # the event itself: the feed behind the cursor may be pruned
)
