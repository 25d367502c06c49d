"""The audit log and its checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit_records",
        sa.Column("number", _Big, primary_key=True, autoincrement=False),
        sa.Column("meter", sa.Text),
        sa.Column("meter_number", _Big),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("meter", "meter_number"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("number", _Big, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("told", sa.SmallInteger, nullable=False),
    )
    op.create_table(
        "audit_breaks",
        sa.Column("number", _Big, primary_key=True, autoincrement=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("acknowledged", _Big),
    )
