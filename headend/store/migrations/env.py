"""Alembic's entry: runs the revisions on the connection that `migrate` opened, in its one transaction."""

from alembic import context

from headend.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
