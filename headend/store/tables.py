"""Tables of the store, as the newest migration leaves them (a test compares).

`reads` is what one asks for by meter and time; `feed_batches` is what upstream gets: the outbox is the feed itself.
Space decides the shapes, since fleets make millions of reads a day: a read is about 45 bytes in its table, keyed by
small integers and without a row id or a second index; its event lies compressed with all events of the same commit.

Amounts are text: the decimal as the meter gave it, exponent and trailing zeros included. Integers with a scale would
save some three bytes and lose the amounts that do not fit 64 bits.

Times are epoch milliseconds, UTC; `slot` is the interval end.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "account_events",
    "channels",
    "cursors",
    "dtu_adoptions",
    "feed_batches",
    "line_clocks",
    "metadata",
    "meter_clocks",
    "meters",
    "reads",
    "sources",
    "tokens",
]

metadata = MetaData()

# SQLite keeps rows in the order of a key that is spelled INTEGER, and needs no index for it.
_Big = BigInteger().with_variant(Integer, "sqlite")

channels = Table(
    "channels",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("meter", Text, nullable=False),
    Column("obis", Text, nullable=False),
    Column("unit", Text, nullable=False),  # of the channel's first read
    UniqueConstraint("meter", "obis"),
)

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)

reads = Table(
    "reads",
    metadata,
    Column("channel", Integer, ForeignKey("channels.id"), primary_key=True, autoincrement=False),
    Column("slot", _Big, primary_key=True, autoincrement=False),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("amount", Text),  # NULL: missing
    Column("unit", Text),  # NULL: the channel's. Written only after a contract changed a quantity's unit
    Column("read_at", _Big),
    Column("received_at", _Big, nullable=False),
    Column("quality", SmallInteger, nullable=False),  # bits, see rows.py
    Column("reason", Text),
    Column("source", Integer, ForeignKey("sources.id"), nullable=False),
    Column("sequence", _Big, nullable=False),  # of its event in the feed
    Column("occurred_at", _Big),
    Column("ratio", Text),  # of transformers that held at the interval end; "/80" where the meter multiplies by itself
    Column("findings", Text),  # JSON, as in the event; NULL: none
    sqlite_with_rowid=False,
)

feed_batches = Table(
    "feed_batches",
    metadata,
    Column("first", _Big, primary_key=True, autoincrement=False),  # sequence of the first event; the others count up
    Column("count", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),  # zlib of JSON objects joined by newlines
)

meters = Table(
    "meters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("line", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("contract", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("protocol", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),  # SHA-256 of the whole token, hex
    Column("roles", Text, nullable=False),  # joined by commas
    Column("created_at", _Big, nullable=False),
    Column("revoked_at", _Big),
    Column("account", Text),  # of a customer: whose account it is; NULL for everybody else
)

cursors = Table(
    "cursors",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("sequence", _Big, nullable=False),  # last acknowledged
)

meter_clocks = Table(
    "meter_clocks",
    metadata,
    Column("meter", Text, primary_key=True),
    Column("measured_at", _Big, nullable=False),
    Column("offset_ms", _Big, nullable=False),  # the meter minus us
    Column("uncertainty_ms", _Big, nullable=False),
    Column("drift_ppb", _Big),
    Column("corrected_at", _Big),
    Column("offset_before_ms", _Big, nullable=False),  # what records from before corrected_at are off by
    Column("written_at", _Big),  # last try to write this meter's clock
)

dtu_adoptions = Table(
    "dtu_adoptions",
    metadata,
    Column("line", Text, primary_key=True),
    Column("dtu", Text, nullable=False, unique=True),  # instead of the one that the line's URL names
)

line_clocks = Table(
    "line_clocks",
    metadata,
    Column("line", Text, primary_key=True),
    Column("broadcast_at", _Big, nullable=False),
)

account_events = Table(
    "account_events",  # those of prepaid supply that are in the feed, the newest of them: so that none comes in twice
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", _Big, nullable=False),  # when it was taken
)
Index("account_events_by_time", account_events.c.at)
