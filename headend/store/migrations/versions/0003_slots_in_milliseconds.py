"""Interval ends to the millisecond: what concentrators push is not taken at whole seconds.

The rows are copied in the order of their key, which fills the new table's pages one after the other; changing the key in place
would move every row twice, and leave the pages half full.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OTHERS = "revision, amount, unit, read_at, received_at, quality, reason, source, sequence, occurred_at"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.execute("UPDATE reads SET slot = slot * 1000")
        return
    op.rename_table("reads", "reads_before")
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
    op.execute(
        f"INSERT INTO reads (channel, slot, {_OTHERS}) "
        f"SELECT channel, slot * 1000, {_OTHERS} FROM reads_before ORDER BY channel, slot, revision"
    )
    op.drop_table("reads_before")
