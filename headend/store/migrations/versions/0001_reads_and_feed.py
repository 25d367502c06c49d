"""Reads, the numbered feed, meters, tokens, cursors."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "channels",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("meter", sa.Text, nullable=False),
        sa.Column("obis", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.UniqueConstraint("meter", "obis"),
    )
    op.create_table(
        "sources",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "reads",
        sa.Column("channel", sa.Integer, sa.ForeignKey("channels.id"), primary_key=True, autoincrement=False),
        sa.Column("slot", _Big, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("amount", sa.Text),
        sa.Column("unit", sa.Text),
        sa.Column("read_at", _Big),
        sa.Column("received_at", _Big, nullable=False),
        sa.Column("quality", sa.SmallInteger, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("source", sa.Integer, sa.ForeignKey("sources.id"), nullable=False),
        sa.Column("sequence", _Big, nullable=False),
        sa.Column("occurred_at", _Big),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "feed_batches",
        sa.Column("first", _Big, primary_key=True, autoincrement=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "meters",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("contract", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("created_at", _Big, nullable=False),
        sa.Column("revoked_at", _Big),
    )
    op.create_table(
        "cursors",
        sa.Column("destination", sa.Text, primary_key=True),
        sa.Column("sequence", _Big, nullable=False),
    )
