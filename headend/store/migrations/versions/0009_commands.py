"""Commands, their journal, obligations, policies and limits."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _commands()
    _governor()


def _commands() -> None:
    op.create_table(
        "commands",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("meter", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("place", sa.SmallInteger),
        sa.Column("requester", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("batch", sa.Text, nullable=False),
        sa.Column("obligation", sa.Text, nullable=False),
        sa.Column("created_at", _Big, nullable=False),
        sa.Column("due_at", _Big, nullable=False),
        sa.Column("is_waiting", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("requester", "idempotency_key"),
        sa.UniqueConstraint("meter", "place"),
    )
    op.create_index("commands_by_state", "commands", ["state", "due_at"])
    op.create_index("commands_by_meter", "commands", ["meter", "created_at"])
    op.create_index("commands_by_batch", "commands", ["batch", "created_at"])
    op.create_table(
        "command_journal",
        sa.Column("command", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", _Big, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("detail", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "command_meters",
        sa.Column("meter", sa.Text, primary_key=True),
        sa.Column("fence", _Big, nullable=False),
        sa.Column("supply", sa.Text, nullable=False),
        sa.Column("supply_at", _Big),
        sa.Column("supply_by", sa.Text, nullable=False),
        sa.Column("paid_at", _Big),
    )
    op.create_table(
        "command_payments",
        sa.Column("reference", sa.Text, primary_key=True),
        sa.Column("meter", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("paid_at", _Big, nullable=False),
        sa.Column("received_at", _Big, nullable=False),
        sa.Column("amount_minor", _Big, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("fence", _Big, nullable=False),
        sa.Column("obligation", sa.Text, nullable=False),
    )
    op.create_table(
        "obligations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("meter", sa.Text, nullable=False),
        sa.Column("is_open", sa.SmallInteger),
        sa.Column("since", _Big, nullable=False),
        sa.Column("due_at", _Big, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("meter", "is_open"),
    )
    op.create_index("obligations_by_due", "obligations", ["is_open", "due_at"])
    op.create_table(
        "command_switches",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("is_on", sa.SmallInteger, nullable=False),
        sa.Column("at", _Big, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )


def _governor() -> None:
    op.create_table(
        "governor_clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position_ms", _Big, nullable=False),
    )
    op.create_table(
        "governor_entries",
        sa.Column("claim", sa.Text, primary_key=True),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("position_ms", _Big, nullable=False),
        sa.Column("requester", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("meter", sa.Text, nullable=False),
        sa.Column("feeder", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("watts", _Big, nullable=False),
    )
    op.create_index("governor_entries_by_position", "governor_entries", ["state", "position_ms"])
    op.create_table(
        "governor_over",
        sa.Column("claim", sa.Text, primary_key=True),
        sa.Column("position_ms", _Big, nullable=False),
        sa.Column("requester", sa.Text, nullable=False),
        sa.Column("meter", sa.Text, nullable=False),
        sa.Column("limit_name", sa.Text, nullable=False),
        sa.Column("used", sa.Text, nullable=False),
        sa.Column("allowed", sa.Text, nullable=False),
        sa.Column("is_told", sa.SmallInteger, nullable=False),
        sa.Column("is_released", sa.SmallInteger, nullable=False),
    )
    op.create_index("governor_over_by_told", "governor_over", ["is_told", "position_ms"])
    op.create_table(
        "governor_limits",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("effective_ms", _Big),
        sa.Column("is_void", sa.SmallInteger, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
        sa.Column("at", _Big, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "governor_approvals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False, unique=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("governor_approvals_by_subject", "governor_approvals", ["purpose", "subject"])
    op.create_table(
        "governor_protections",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", _Big, nullable=False),
        sa.Column("until", _Big),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("removed_at", _Big),
        sa.Column("removed_by", sa.Text, nullable=False),
    )
    op.create_index("governor_protections_by_target", "governor_protections", ["scope", "target"])
    op.create_table(
        "governor_people",
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("person", sa.Text, nullable=False),
    )
