"""Transformer ratios stand with the reads they held for; adopted DTUs are remembered."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("reads", sa.Column("ratio", sa.Text))
    op.create_table(
        "dtu_adoptions",
        sa.Column("line", sa.Text, primary_key=True),
        sa.Column("dtu", sa.Text, nullable=False, unique=True),
    )
