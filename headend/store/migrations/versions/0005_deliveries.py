"""Beside a destination's cursor: what was delivered ahead of it, and what it would not take."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "delivered_ranges",
        sa.Column("destination", sa.Text, primary_key=True),
        sa.Column("first", _Big, primary_key=True, autoincrement=False),
        sa.Column("last", _Big, nullable=False),
    )
    op.create_table(
        "parked_events",
        sa.Column("destination", sa.Text, primary_key=True),
        sa.Column("sequence", _Big, primary_key=True, autoincrement=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", _Big, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("released", sa.Boolean, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
