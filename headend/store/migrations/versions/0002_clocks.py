"""What is known of the meters' clocks, and when a line's were last set."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "meter_clocks",
        sa.Column("meter", sa.Text, primary_key=True),
        sa.Column("measured_at", _Big, nullable=False),
        sa.Column("offset_ms", _Big, nullable=False),
        sa.Column("uncertainty_ms", _Big, nullable=False),
        sa.Column("drift_ppb", _Big),
        sa.Column("corrected_at", _Big),
        sa.Column("offset_before_ms", _Big, nullable=False),
        sa.Column("written_at", _Big),
    )
    op.create_table(
        "line_clocks",
        sa.Column("line", sa.Text, primary_key=True),
        sa.Column("broadcast_at", _Big, nullable=False),
    )
