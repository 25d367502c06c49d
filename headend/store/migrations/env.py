"""Alembic's entry: runs the revisions on the connection that `migrate` opened, in its one transaction."""

from alembic import context

from headend.store import cursors_tables, ledger_tables
from headend.store.tables import metadata

__all__ = ["cursors_tables", "ledger_tables"]  # tables of their own modules, in the same metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
