"""What is kept of intervals beside the feed: how far it is followed, periods, corrections, facts. Times are epoch milliseconds, UTC.

There is no row for an interval that was told once: it is reckoned again from the reads it was reckoned from.
"""

from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Table, Text

from headend.store.tables import metadata

__all__ = ["interval_eras", "interval_facts", "interval_mark", "interval_revisions"]

_Big = BigInteger().with_variant(Integer, "sqlite")

interval_mark = Table(
    "interval_mark",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1, the only row
    Column("sequence", _Big, nullable=False),  # intervals of reads up to this event are told
)

interval_eras = Table(
    "interval_eras",
    metadata,
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("since", _Big, primary_key=True, autoincrement=False),  # intervals that end later, up to the next era
    Column("period_s", Integer, nullable=False),
    sqlite_with_rowid=False,
)

interval_revisions = Table(
    "interval_revisions",
    metadata,
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("slot", _Big, primary_key=True, autoincrement=False),  # end of an interval that was told more than once
    Column("revision", Integer, nullable=False),
    sqlite_with_rowid=False,
)

interval_facts = Table(
    "interval_facts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("at", _Big, nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("recorded_at", _Big, nullable=False),
    Column("is_applied", SmallInteger, nullable=False),  # all intervals it touches are told with it
    Column("done_channel", Integer, nullable=False),  # until then, those up to here are
    Column("done_slot", _Big, nullable=False),
)
