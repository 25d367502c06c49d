"""Alembic's entry: runs the revisions on the connection that `migrate` opened, in its one transaction."""

from alembic import context

from headend.database.postgresql import sort_by_bytes
from headend.store import (
    audit_tables,
    commands_tables,
    cursors_tables,
    governor_tables,
    intervals_tables,
    ledger_tables,
    restores_tables,
    truth_tables,
)
from headend.store.tables import metadata

__all__ = [
    "audit_tables",
    "commands_tables",
    "cursors_tables",
    "governor_tables",
    "intervals_tables",
    "ledger_tables",
    "restores_tables",
    "truth_tables",
]  # tables of their own modules, in the same metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
    sort_by_bytes(connection, metadata)
