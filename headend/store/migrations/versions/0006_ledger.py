"""What was owed when, and the manifests that were issued."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ledger_duties",
        sa.Column("meter", sa.Text, primary_key=True),
        sa.Column("since", _Big, primary_key=True, autoincrement=False),
        sa.Column("until", _Big),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("period_s", sa.Integer, nullable=False),
        sa.Column("back_fill_s", sa.Integer, nullable=False),
        sa.Column("quantities", sa.Text, nullable=False),
    )
    op.create_table(
        "ledger_manifests",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", _Big, nullable=False, unique=True),
        sa.Column("through", _Big, nullable=False),
        sa.Column("is_final", sa.SmallInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_mark",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("begins_after", _Big, nullable=False),
        sa.Column("looked_through", _Big, nullable=False),
        sa.Column("reopened_through", _Big, nullable=False),
    )
