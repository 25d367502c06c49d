"""Tokens of customers, and which events about accounts were taken."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("tokens", sa.Column("account", sa.Text))
    op.create_table(
        "account_events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", _Big, nullable=False),
    )
    op.create_index("account_events_by_time", "account_events", ["at"])
