"""Who changed what of an account; and which messages let others go first."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def _big() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "account_changes",
        sa.Column("number", _big(), autoincrement=False, nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("at", _big(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("account_changes_of_account", "account_changes", ["account", "number"])
    op.add_column("messages", sa.Column("can_wait", sa.SmallInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE messages SET can_wait = 1 WHERE kind IN ('statement', 'finding')")
    op.drop_index("messages_to_send", table_name="messages")
    op.create_index("messages_to_send", "messages", ["can_wait", "next_try_at"])
