"""Vectors in tables of the same database as the documents."""

from embed_pipeline.stores.pgvector.store import PgvectorStore as PgvectorStore
