"""Interval values: how far they are told, their corrections, and the facts they rest on."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "interval_mark",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", _Big, nullable=False),
    )
    op.create_table(
        "interval_eras",
        sa.Column("channel", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("since", _Big, primary_key=True, autoincrement=False),
        sa.Column("period_s", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "interval_revisions",
        sa.Column("channel", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("slot", _Big, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "interval_facts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("meter", sa.Text, nullable=False),
        sa.Column("at", _Big, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("recorded_at", _Big, nullable=False),
        sa.Column("is_applied", sa.SmallInteger, nullable=False),
        sa.Column("done_channel", sa.Integer, nullable=False),
        sa.Column("done_slot", _Big, nullable=False),
    )
