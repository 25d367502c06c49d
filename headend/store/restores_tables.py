"""That the store was restored from a backup, and which feed numbers became void by it. Times are epoch milliseconds, UTC."""

from sqlalchemy import BigInteger, Column, Integer, Table

from headend.store.tables import metadata

__all__ = ["feed_restores"]

_Big = BigInteger().with_variant(Integer, "sqlite")

feed_restores = Table(
    "feed_restores",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1 is the first
    Column("restored_at", _Big, nullable=False),
    Column("backup_at", _Big, nullable=False),
    Column("void_first", _Big, nullable=False),  # sequences that may have been given out, and are not here
    Column("void_last", _Big, nullable=False),
    Column("slots_through", _Big, nullable=False),  # interval ends up to here may have been given out
)
