"""Qdrant as a store: one point for each document, guarded by compare-and-set. PostgreSQL stays the ledger."""
