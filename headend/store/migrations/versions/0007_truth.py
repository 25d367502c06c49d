"""What is remembered of each channel so that its next read can be judged, and what was found."""

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    pass
