"""What is remembered of each channel so that its next read can be judged, and what was found."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("reads", sa.Column("findings", sa.Text))
    op.create_table(
        "truth_histories",
        sa.Column("channel", sa.Integer, sa.ForeignKey("channels.id"), primary_key=True, autoincrement=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
