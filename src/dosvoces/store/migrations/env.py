"""Runs the migrations on the connection that `store.schema.migrate` hands over; there is no other way in."""

from alembic import context

from dosvoces.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # The caller's transaction holds all of it.
    render_as_batch=True,  # SQLite changes a table by copying it.
)
with context.begin_transaction():
    context.run_migrations()
