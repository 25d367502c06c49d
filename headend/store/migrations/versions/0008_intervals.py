"""Interval values: how far they are told, their corrections, and the facts they rest on."""

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    pass
