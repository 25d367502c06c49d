"""Alembic's entry: runs the revisions on the connection that `open_database` made, in its one transaction."""

from alembic import context

from headend.database.postgresql import sort_by_bytes
from headend.prepayment.storage import supply_tables
from headend.prepayment.storage.tables import metadata

__all__ = ["supply_tables"]  # tables of their own module, in the same metadata

VERSIONS = "prepayment_version"  # of its own: a head-end's store is not taken for accounts, or the other way round

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSIONS)
with context.begin_transaction():
    context.run_migrations()
    sort_by_bytes(connection, metadata)
