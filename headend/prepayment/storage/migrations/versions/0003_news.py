"""Accounts whose use is to be looked at after they were charged."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "news",
        sa.Column("account", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.number"]),
        sa.PrimaryKeyConstraint("account"),
    )
