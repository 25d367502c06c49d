"""What the ledger keeps: what was owed when, and the manifests it has issued. Times are epoch milliseconds, UTC."""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, SmallInteger, Table, Text

from headend.store.tables import metadata

__all__ = ["ledger_duties", "ledger_manifests", "ledger_mark"]

_Big = BigInteger().with_variant(Integer, "sqlite")

ledger_duties = Table(
    "ledger_duties",
    metadata,
    Column("meter", Text, primary_key=True),
    Column("since", _Big, primary_key=True, autoincrement=False),
    Column("until", _Big),  # NULL: until further notice
    Column("route", Text, nullable=False),
    Column("line", Text, nullable=False),
    Column("period_s", Integer, nullable=False),
    Column("back_fill_s", Integer, nullable=False),
    Column("quantities", Text, nullable=False),  # joined by newlines
)

ledger_manifests = Table(
    "ledger_manifests",
    metadata,
    Column("day", Text, primary_key=True),  # 2026-11-21, of the site
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("sequence", _Big, nullable=False, unique=True),  # of its event in the feed
    Column("through", _Big, nullable=False),
    Column("is_final", SmallInteger, nullable=False),
    Column("sha256", Text, nullable=False),  # digest of its data
    Column("body", LargeBinary, nullable=False),  # zlib of its event and those of its parts, joined by newlines
)

ledger_mark = Table(
    "ledger_mark",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1, the only row
    Column("begins_after", _Big, nullable=False),  # last event before the ledger was first kept
    Column("looked_through", _Big, nullable=False),  # manifests up to this event are in the table above
    Column("reopened_through", _Big, nullable=False),  # days that events up to this one have changed are closed anew
)
