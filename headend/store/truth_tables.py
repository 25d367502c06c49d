"""What the truth checks remember of each channel: one small row, replaced in the commit of each of its reads."""

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, Table

from headend.store.tables import metadata

__all__ = ["truth_histories"]

truth_histories = Table(
    "truth_histories",
    metadata,
    Column("channel", Integer, ForeignKey("channels.id"), primary_key=True, autoincrement=False),
    Column("generation", Integer, nullable=False),  # a row never gives way to one of a lower generation
    Column("body", LargeBinary, nullable=False),  # see headend.intervals.guard
)
