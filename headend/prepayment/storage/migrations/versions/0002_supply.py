"""Episodes, messages, and how far our events were handed over and the feed's were heard."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _big() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "episodes",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", _big(), nullable=False),
        sa.Column("look_at", _big()),
        sa.Column("retry_at", _big()),
        sa.Column("orders", sa.Integer(), nullable=False),
        sa.Column("carries", sa.Integer(), nullable=False),
        sa.Column("off_at", _big()),
        sa.Column("telling", sa.Text(), nullable=False),
        sa.Column("told", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account"),
    )
    op.create_index("episodes_to_look_at", "episodes", ["look_at"])
    op.create_table(
        "messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("episode", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", _big(), nullable=False),
        sa.Column("deadline", _big()),
        sa.Column("next_try_at", _big()),
        sa.Column("give_up_at", _big(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("sent_at", _big()),
        sa.Column("delivered_at", _big()),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("messages_of_account", "messages", ["account", "created_at"])
    op.create_index("messages_to_send", "messages", ["next_try_at"])
    op.create_index("messages_by_reference", "messages", ["reference"])
    op.create_table(
        "supply_cursors",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", _big(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
