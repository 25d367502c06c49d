"""Alembic's entry: runs the revisions on the connection that `open_database` made, in its one transaction."""

from alembic import context

from headend.prepayment.storage import supply_tables
from headend.prepayment.storage.tables import metadata

__all__ = ["supply_tables"]  # tables of their own module, in the same metadata

VERSIONS = "prepayment_version"  # of its own, so that one PostgreSQL database may hold the head-end's tables, too

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSIONS)
with context.begin_transaction():
    context.run_migrations()
