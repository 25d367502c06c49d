"""The audit log and its checkpoints."""

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    pass
