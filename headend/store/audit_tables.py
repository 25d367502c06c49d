"""The audit log and its checkpoints. What stands in `body` is what is hashed and signed; the other columns only find it."""

from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Table, Text, UniqueConstraint

from headend.store.tables import metadata

__all__ = ["audit_breaks", "audit_checkpoints", "audit_records"]

_Big = BigInteger().with_variant(Integer, "sqlite")

audit_records = Table(
    "audit_records",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),
    Column("meter", Text),  # NULL: about no single meter
    Column("meter_number", _Big),  # counts the meter's own records
    Column("hash", Text, nullable=False),  # hex
    Column("body", Text, nullable=False),  # canonical JSON
    UniqueConstraint("meter", "meter_number"),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),  # of the last record it covers
    Column("body", Text, nullable=False),  # canonical JSON, with the signature
    Column("told", SmallInteger, nullable=False),  # 1: its event is in the feed
)

audit_breaks = Table(
    "audit_breaks",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),  # of its record `chain-broken`
    Column("problem", Text, nullable=False),
    Column("acknowledged", _Big),  # number of the record that says who; NULL: the alarm stays
)
