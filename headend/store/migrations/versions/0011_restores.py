"""What was restored, and which numbers became void by it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "feed_restores",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("restored_at", _Big, nullable=False),
        sa.Column("backup_at", _Big, nullable=False),
        sa.Column("void_first", _Big, nullable=False),
        sa.Column("void_last", _Big, nullable=False),
        sa.Column("slots_through", _Big, nullable=False),
    )
