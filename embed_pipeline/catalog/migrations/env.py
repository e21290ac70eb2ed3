"""Alembic's entry: migrates on the connection that `catalog.schema.upgrade` hands in."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="schema_version", version_table_schema="embed_pipeline")
with context.begin_transaction():
    context.run_migrations()
